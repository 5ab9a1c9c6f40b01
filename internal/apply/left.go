package apply

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/capi"
)

// Some fields that Git declares are left to others once they have taken them: an
// autoscaler's replicas, what Git has empty for a provider to fill in, what the live
// object's capstan.dev/ignore lists, what Request.Left says. They are left out of what
// is sent, so that nothing is taken back and nothing conflicts. An object that was never ours is sent as a whole.
//
// What is left out must not be ours: a field that an apply does not repeat is
// removed if nobody else holds it.

// leaveOut finds, for an object that was read, the fields to leave out: those that
// are left to others, that aren't ours, and that another manager holds or that
// are not there any more.
func (r *run) leaveOut(it *item) {
	it.keepAll()
	view := r.viewOf(it)
	if view == nil || !ownsFields(it.live, r.manager) {
		return
	}
	view.eachField(func(f declared) (below bool) {
		held, here := view.holders(f)
		gone := !f.present
		switch {
		case !r.isLeft(it, view, f, held, gone):
			return true
		case !gone && (view.mine.have(f.path) || len(held) == 0 || view.moved && !here):
			return true // ours, or nobody has taken it, or ours by another name perhaps
		}
		it.leave(f)
		return false
	})
}

// leaveConflicts leaves out the fields in conflict that are left to who holds
// them; false if there are none. That they are held is what makes it safe, so the
// object has to be the one that was looked at.
func (r *run) leaveConflicts(it *item, with []conflictWith) bool {
	view := r.viewOf(it)
	if view == nil {
		return false
	}
	before := len(it.left)
	view.eachField(func(f declared) (below bool) {
		var held []string
		for _, c := range with {
			if c.field == f.text && !view.former[c.manager] {
				held = append(held, c.manager)
			}
		}
		if len(held) == 0 || !r.isLeft(it, view, f, held, false) {
			return true
		}
		it.leave(f)
		return false
	})
	it.pinned = it.pinned || len(it.left) > before
	return len(it.left) > before
}

// mayLeave tells whether any field of an item is one to leave out if somebody has
// taken it; only then it matters what the live object looks like.
func (r *run) mayLeave(it *item, live *unstructured.Unstructured) bool {
	rules := capi.OwnershipOf(live)
	return anyField(it.desired.Object, "", func(pointer string, value any) bool {
		if _, yields := rules.Yielded(pointer); yields || rules.Filled(pointer, value) {
			return true
		}
		return r.req.Left != nil && r.req.Left(it.id, pointer, "")
	})
}

// isLeft tells whether a field is left to those who hold it or, if it is gone, to
// who removed it. A value that is owned as one is left if all that differs in it
// is: it can't be sent in part. For any other the request is asked about its parts,
// which may be different managers'.
func (r *run) isLeft(it *item, view *view, f declared, held []string, gone bool) bool {
	if gone {
		held = []string{""}
	}
	left := func(pointer string) bool {
		if r.req.GitPaused && capi.IsCluster(it.id.GroupKind()) && pointer == "/spec/paused" {
			return false // the pause is Git's too, so that Git can end it
		}
		if _, yields := view.rules.Yielded(pointer); yields {
			return true
		}
		return r.req.Left != nil && len(held) > 0 && f.whole &&
			slices.ContainsFunc(held, func(manager string) bool { return r.req.Left(it.id, pointer, manager) })
	}
	if left(f.pointer) || !gone && view.rules.Filled(f.pointer, f.value) {
		return true
	}
	if !f.whole || gone {
		return false
	}
	changed := differences(nil, f.value, f.live, f.pointer)
	return len(changed) > 0 && !slices.ContainsFunc(changed, func(pointer string) bool { return !left(pointer) })
}

// keepAll forgets what was to be left out.
func (it *item) keepAll() {
	it.left, it.pinned, it.outcome.Left = nil, false, nil
}

// leave leaves a field out of what is sent.
func (it *item) leave(f declared) {
	if slices.Contains(it.outcome.Left, f.pointer) {
		return
	}
	it.left = append(it.left, f.path)
	it.outcome.Left = slices.Sorted(slices.Values(append(slices.Clone(it.outcome.Left), f.pointer)))
}

// sent is the manifest as it is sent: without what is left to others.
func (it *item) sent() *unstructured.Unstructured {
	u := it.desired.DeepCopy()
	for _, path := range it.left {
		dropAt(u.Object, path)
	}
	return u
}

// dropAt removes the field at a path from a value, and what has nothing in it then.
func dropAt(v any, path []string) any {
	child, found := element(v, path[0])
	if !found {
		return v
	}
	if len(path) > 1 {
		if child = dropAt(child, path[1:]); !isEmpty(child) {
			put(v, path[0], child)
			return v
		}
	}
	return drop(v, path[0])
}

// view is who holds what of an item's live object.
type view struct {
	*item
	rules capi.Ownership
	// all are the fields of everybody: they say how the object is made up, which
	// only its schema could say otherwise.
	all fields
	// mine are our fields, and those of former owners that become ours first.
	mine   fields
	former map[string]bool
	others []holder
	// moved is true if our fields are on record at another API version than the
	// manifest's; they may go by other names there.
	moved bool
}

// holder is another manager with its fields.
type holder struct {
	manager string
	fields  fields
	here    bool // they are on record at the manifest's API version
}

// viewOf looks at the managed fields of an item's live object; nil if nothing of
// it could be left to others, or if they can't be read.
func (r *run) viewOf(it *item) *view {
	if it.live == nil {
		return nil
	}
	v := &view{item: it, all: fields{}, mine: fields{}, former: map[string]bool{}}
	former := takeovers(it.live)
	for _, e := range it.live.GetManagedFields() {
		var set fields
		if e.FieldsV1 == nil || e.Subresource == "status" {
			continue
		}
		if err := json.Unmarshal(e.FieldsV1.GetRawBytes(), &set); err != nil {
			r.log.Info("managed fields can't be read; nothing is left to others", "object", it.id.String(), "manager", e.Manager)
			return nil
		}
		v.all.union(set)
		here := e.APIVersion == it.desired.GetAPIVersion()
		switch {
		case e.Manager == r.manager && e.Subresource == "":
			v.mine.union(set)
			v.moved = v.moved || !here
		case it.takeover && isFormer(former, e):
			v.mine.union(set)
			v.former[e.Manager] = true
			v.moved = v.moved || !here
		default:
			v.others = append(v.others, holder{manager: e.Manager, fields: set, here: here})
		}
	}
	after := v.afterwards()
	if !r.mayLeave(it, after) && r.req.Left == nil {
		return nil
	}
	v.rules = capi.OwnershipOf(after)
	return v
}

// afterwards is the live object with the annotations that it will have after the
// apply: what Git says about fields left to others counts at once, and no longer
// than it says so.
func (v *view) afterwards() *unstructured.Unstructured {
	annotations := map[string]any{}
	for key, value := range v.live.GetAnnotations() {
		path := []string{"f:metadata", "f:annotations", "f:" + key}
		kept := slices.ContainsFunc(v.others, func(h holder) bool { return h.fields.have(path) })
		if kept || !v.mine.have(path) {
			annotations[key] = value
		}
	}
	for key, value := range v.desired.GetAnnotations() {
		annotations[key] = value
	}
	u := &unstructured.Unstructured{Object: maps.Clone(v.live.Object)}
	metadata, _ := v.live.Object["metadata"].(map[string]any)
	metadata = maps.Clone(metadata)
	metadata["annotations"] = annotations
	u.Object["metadata"] = metadata
	return u
}

// holders lists the other managers that hold a field or something in it.
// here is true if that of one is on record at the manifest's API version.
func (v *view) holders(f declared) (managers []string, here bool) {
	for _, h := range v.others {
		if h.fields.have(f.path) {
			managers = append(managers, h.manager)
			here = here || h.here
		}
	}
	return managers, here
}

// have tells whether a set has a field, something in it, or the value that it is
// part of.
func (f fields) have(path []string) bool {
	for i, part := range path {
		next, found := f[part]
		if !found {
			return i > 0 && f.whole()
		}
		f = next
	}
	return true
}

// declared is a field of a manifest: a value that can be left out by itself.
type declared struct {
	path    []string // as FieldsV1 spells it
	text    string   // as the API server spells it in conflicts
	pointer string   // JSON pointer; list elements by their place in the live object
	value   any      // in the manifest
	live    any
	present bool // in the live object
	whole   bool // owned as one, as far as is known
}

// eachField calls do for the fields of the manifest from the top down, and for
// those within a field if it returns true. What the object is addressed by is not
// among them, nor our own labels and annotations.
func (v *view) eachField(do func(declared) (below bool)) {
	root := declared{value: v.desired.Object, live: v.live.Object, present: true}
	for _, key := range slices.Sorted(maps.Keys(v.desired.Object)) {
		switch key {
		case "apiVersion", "kind", "status":
		case "metadata":
			for _, part := range []string{"annotations", "labels"} {
				at := root.field("metadata").field(part)
				values, _ := at.value.(map[string]any)
				for _, key := range slices.Sorted(maps.Keys(values)) {
					if !strings.HasPrefix(key, ourPrefix) {
						visit(at.field(key), nil, do)
					}
				}
			}
		default:
			visit(root.field(key), v.all["f:"+key], do)
		}
	}
}

// ourPrefix is that of our own labels and annotations.
const ourPrefix = "capstan.dev/"

// visit calls do for a field and, if wanted, for those within it but the names
// that an element of a list goes by. In the set of all managers' fields a value
// without parts is one that is owned as one, or one that nobody knows the parts of;
// both are taken for the former, unless it is a map that there is nothing of; an
// element that is missing comes back whole.
func visit(f declared, all fields, do func(declared) bool, names ...string) {
	list, _ := f.value.([]any)
	values, _ := f.value.(map[string]any)
	live, _ := f.live.(map[string]any)
	f.whole = all.whole() && (values == nil || len(live) > 0 || len(names) > 0)
	if !do(f) || f.whole {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(names, key) {
			visit(f.field(key), all["f:"+key], do)
		}
	}
	for i := range list {
		if key, names := all.keyOf(list[i]); key != "" {
			visit(f.element(i, key), all[key], do, names...)
		}
	}
}

// field is a field of a map.
func (f declared) field(key string) declared {
	values, _ := f.value.(map[string]any)
	live, _ := f.live.(map[string]any)
	child := declared{
		path: append(slices.Clone(f.path), "f:"+key), text: f.text + "." + key,
		pointer: f.pointer + "/" + escape.Replace(key), value: values[key],
	}
	child.live, child.present = live[key]
	return child
}

// element is an element of a list that is a map by keys, or a set.
func (f declared) element(i int, key string) declared {
	list, _ := f.value.([]any)
	child := declared{path: append(slices.Clone(f.path), key), text: f.text + textOf(key), value: list[i]}
	if live, ok := f.live.([]any); ok {
		if at := index(live, key); at >= 0 {
			i = at
			child.live, child.present = live[at], true
		}
	}
	child.pointer = f.pointer + "/" + strconv.Itoa(i)
	return child
}

// keyOf returns the key that an element of a list has or would have in a set of
// fields, and the names that it consists of; "" if that can't be told. An element
// may lack names that have a default.
func (f fields) keyOf(e any) (key string, names []string) {
	var near []string
	for _, some := range slices.Sorted(maps.Keys(f)) {
		kind, text, _ := strings.Cut(some, ":")
		var keys map[string]any
		if kind == "k" && json.Unmarshal([]byte(text), &keys) == nil {
			names = slices.Sorted(maps.Keys(keys))
		}
		switch {
		case index([]any{e}, some) == 0:
			near = append(near, some)
		case key == "":
			key = newKey(kind, names, e)
		}
	}
	values, _ := e.(map[string]any)
	complete := !slices.ContainsFunc(names, func(name string) bool { _, found := values[name]; return !found })
	switch {
	case len(near) == 1:
		return near[0], names
	case len(near) > 1 || !complete:
		return "", nil
	}
	return key, names
}

// newKey is the key of an element that is not in a set of fields.
func newKey(kind string, names []string, e any) string {
	value := e
	switch kind {
	case "v":
	case "k":
		keys := map[string]any{}
		values, _ := e.(map[string]any)
		for _, name := range names {
			keys[name] = values[name]
		}
		value = keys
	default:
		return ""
	}
	raw, err := json.Marshal(value) // sorted, as in FieldsV1
	if err != nil {
		return ""
	}
	return kind + ":" + string(raw)
}

// textOf writes the key of a list's element as conflicts do (structured-merge-diff
// v6 fieldpath/element.go, PathElement.String).
func textOf(key string) string {
	kind, text, _ := strings.Cut(key, ":")
	if kind == "v" {
		return "[=" + text + "]"
	}
	var keys map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &keys) != nil {
		return ""
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		parts = append(parts, fmt.Sprintf("%s=%s", name, keys[name]))
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// differences adds the JSON pointers to what is not the same in two values. Lists
// of different length differ as a whole.
func differences(all []string, a, b any, pointer string) []string {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			for _, key := range slices.Sorted(maps.Keys(union(x, y))) {
				all = differences(all, x[key], y[key], pointer+"/"+escape.Replace(key))
			}
			return all
		}
	case []any:
		if y, ok := b.([]any); ok && len(x) == len(y) {
			for i := range x {
				all = differences(all, x[i], y[i], pointer+"/"+strconv.Itoa(i))
			}
			return all
		}
	}
	if !same(a, b) {
		all = append(all, pointer)
	}
	return all
}

// anyField tells whether any field of a value, at any depth, is one that is looked
// for.
func anyField(v any, pointer string, wanted func(pointer string, value any) bool) bool {
	switch v := v.(type) {
	case map[string]any:
		for key, child := range v {
			if anyField(child, pointer+"/"+escape.Replace(key), wanted) {
				return true
			}
		}
	case []any:
		for i, child := range v {
			if anyField(child, pointer+"/"+strconv.Itoa(i), wanted) {
				return true
			}
		}
	}
	return pointer != "" && wanted(pointer, v)
}

// escape writes a key as a part of a JSON pointer.
var escape = strings.NewReplacer("~", "~0", "/", "~1")
