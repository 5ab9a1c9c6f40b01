package drift

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// A set is a set of fields as FieldsV1 spells it: a tree whose keys are "f:" and a
// field's name, "k:" and the keys of a list's element, "v:" and an element of a set,
// "i:" and an index, and "." for the node itself. A node without keys is a field
// owned with all that is in it.
type set = map[string]any

// itself is the key that stands for the node that it is in.
const itself = "."

// below returns a part of a set, nil if there is none.
func below(s set, key string) set {
	part, _ := s[key].(map[string]any)
	return part
}

// entry is one of metadata.managedFields, read as far as it makes sense.
type entry struct {
	manager, operation, subresource, version, time string

	fields set
}

// entriesOf returns the entries of an object.
func entriesOf(u *unstructured.Unstructured) []entry {
	if u == nil {
		return nil
	}
	metadata, _ := u.Object["metadata"].(map[string]any)
	list, _ := metadata["managedFields"].([]any)
	entries := make([]entry, 0, len(list))
	for _, element := range list {
		m, ok := element.(map[string]any)
		if !ok {
			continue
		}
		var e entry
		e.manager, _ = m["manager"].(string)
		e.operation, _ = m["operation"].(string)
		e.subresource, _ = m["subresource"].(string)
		e.version, _ = m["apiVersion"].(string)
		e.time, _ = m["time"].(string)
		e.fields, _ = m["fieldsV1"].(map[string]any)
		entries = append(entries, e)
	}
	return entries
}

// ours tells whether the entry stands for what we have applied.
func (e entry) ours() bool {
	return e.manager == v1alpha1.FieldManager && e.operation == string(metav1.ManagedFieldsOperationApply) && e.subresource == ""
}

// class says to whom the manager belongs.
func (e entry) class() capi.ManagerClass { return capi.ClassifyManager(e.manager) }

// writes tells whether the manager may have written fields that matter here: it is
// somebody else, and more than the status was written.
func (e entry) writes() bool {
	return e.manager != v1alpha1.FieldManager && e.subresource != "status"
}

// at is the time of the manager's last write, zero if it isn't told.
func (e entry) at() time.Time {
	at, err := time.Parse(time.RFC3339, e.time)
	if err != nil {
		return time.Time{}
	}
	return at
}

// writer says who it is.
func (e entry) writer() v1alpha1.Writer {
	w := v1alpha1.Writer{
		Manager: cut(e.manager, maxManager), Class: string(e.class()), Operation: e.operation, Subresource: e.subresource,
	}
	if at := e.at(); !at.IsZero() {
		w.Time = &metav1.Time{Time: at}
	}
	return w
}

// oursIn returns what we have applied: the entry at the object's own API version,
// else any; nil if there is none.
func oursIn(entries []entry, version string) *entry {
	var found *entry
	for i := range entries {
		if e := &entries[i]; e.ours() && (found == nil || e.version == version) {
			found = e
		}
	}
	return found
}

// lookup returns the part of a set at a path.
func lookup(s set, path []string) (part set, found bool) {
	part, found = s, s != nil
	for _, key := range path {
		if part, found = part[key].(map[string]any); !found {
			return nil, false
		}
	}
	return part, found
}

// step goes one key of a set down in a value. It returns the part of the value and
// its name in a JSON pointer, not escaped.
func step(value any, key string) (part any, name string, found bool) {
	kind, rest, _ := strings.Cut(key, ":")
	if kind == "f" {
		m, _ := value.(map[string]any)
		part, found = m[rest]
		return part, rest, found
	}
	list, _ := value.([]any)
	index := -1
	switch kind {
	case "i":
		if i, err := strconv.Atoi(rest); err == nil && i < len(list) {
			index = i
		}
	case "v":
		var want any
		if json.Unmarshal([]byte(rest), &want) == nil {
			index = slices.IndexFunc(list, func(element any) bool { return sameScalar(element, want) })
		}
	case "k":
		var want map[string]any
		if json.Unmarshal([]byte(rest), &want) == nil && len(want) > 0 {
			index = slices.IndexFunc(list, func(element any) bool { return hasKeys(element, want) })
		}
	}
	if index < 0 {
		return nil, "-", false // what JSON pointers call an element that isn't there
	}
	return list[index], strconv.Itoa(index), true
}

// hasKeys tells whether an element of a list is the one with these keys.
func hasKeys(element any, want map[string]any) bool {
	m, ok := element.(map[string]any)
	if !ok {
		return false
	}
	for key, value := range want {
		if !sameScalar(m[key], value) {
			return false
		}
	}
	return true
}

// sameScalar compares values that hold no others; numbers however they were decoded.
func sameScalar(a, b any) bool {
	x, numberX := number(a)
	y, numberY := number(b)
	if numberX || numberY {
		return numberX && numberY && x == y
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case string:
		b, ok := b.(string)
		return ok && a == b
	case bool:
		b, ok := b.(bool)
		return ok && a == b
	}
	return false
}

func number(value any) (float64, bool) {
	switch v := value.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	case int:
		return float64(v), true
	}
	return 0, false
}

// owned is a field of a live object that an entry owns.
type owned struct {
	// path is where the set has it, pointer where the object has it.
	path    []string
	pointer string
	value   any
	found   bool
	// whole is set if all that is in the field is owned, too.
	whole bool
}

// resolve lists the fields of a set in an object, in the order of their paths.
func resolve(s set, u *unstructured.Unstructured) []owned {
	var all []owned
	resolveAt(s, u.Object, true, nil, "", &all)
	return all
}

func resolveAt(s set, value any, found bool, path []string, pointer string, all *[]owned) {
	if len(path) > 0 && len(s) == 0 || s[itself] != nil {
		*all = append(*all, owned{path: path, pointer: pointer, value: value, found: found, whole: len(s) == 0})
	}
	for _, key := range slices.Sorted(maps.Keys(s)) {
		part, ok := s[key].(map[string]any)
		if key == itself || !ok {
			continue
		}
		child, name, there := step(value, key)
		resolveAt(part, child, there, append(slices.Clone(path), key), pointer+"/"+escape(name), all)
	}
}

var escaper = strings.NewReplacer("~", "~0", "/", "~1")

// escape spells a name as JSON pointers do.
func escape(name string) string {
	if !strings.ContainsAny(name, "~/") {
		return name
	}
	return escaper.Replace(name)
}

// within tells whether a JSON pointer is another, or points to something in it.
func within(pointer, other string) bool {
	return len(pointer) >= len(other) && pointer[:len(other)] == other && (len(pointer) == len(other) || pointer[len(other)] == '/')
}
