package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/fluxcd/pkg/ssa"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// preview returns what an adoption makes of an object. The dry-run of the apply
// can't say it, because it can't take over the fields of former owners first. So
// what only they hold is removed from its answer here, and a second dry-run shows
// what the API server and webhooks put in its place: without it the loss of
// spec.replicas would not show as a scale-down to the default.
func (r *run) preview(ctx context.Context, it *item, answer *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	left, err := withoutFormer(it.live, answer)
	if err != nil {
		return nil, err
	}
	ops := rewrite(nil, it.live.Object, left.Object, "/metadata", func(key string) bool { return key == "labels" || key == "annotations" })
	ops = rewrite(ops, it.live.Object, left.Object, "", func(key string) bool {
		return key != "metadata" && key != "status" && key != "apiVersion" && key != "kind"
	})
	if len(ops) == 0 {
		return answer, nil
	}
	return r.patchJSON(ctx, it.kind, it.id, ops, true)
}

// rewrite adds the JSON patch operations that turn the selected parts of one
// state into those of another.
func rewrite(ops []any, from, to map[string]any, at string, selected func(string) bool) []any {
	if at == "/metadata" {
		from, _ = from["metadata"].(map[string]any)
		to, _ = to["metadata"].(map[string]any)
	}
	for _, key := range slices.Sorted(maps.Keys(union(from, to))) {
		path := at + "/" + escape.Replace(key)
		switch {
		case !selected(key) || reflect.DeepEqual(from[key], to[key]):
		case to[key] == nil:
			ops = append(ops, map[string]any{"op": "remove", "path": path})
		default: // "add" replaces too
			ops = append(ops, map[string]any{"op": "add", "path": path, "value": to[key]})
		}
	}
	return ops
}

func union(a, b map[string]any) map[string]any {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// fields is a set of fields as FieldsV1 spells it: a tree whose keys are "f:" and
// a field's name, "k:" and the keys of a list's element, "v:" and an element of a
// set, "i:" and an index, and "." for the node itself.
type fields map[string]fields

// union adds the fields of another set.
func (f fields) union(other fields) {
	for key, below := range other {
		if f[key] == nil {
			f[key] = fields{}
		}
		f[key].union(below)
	}
}

// whole tells whether a node has no parts of its own: the value is owned as one.
func (f fields) whole() bool {
	for key := range f {
		if key != "." {
			return false
		}
	}
	return true
}

// withoutFormer returns an object without the fields that only the former owners
// of its live state hold.
func withoutFormer(live, answer *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	former := takeovers(live)
	goes, stays := fields{}, fields{}
	for _, e := range answer.GetManagedFields() {
		if e.FieldsV1 == nil {
			continue
		}
		var set fields
		if err := json.Unmarshal(e.FieldsV1.GetRawBytes(), &set); err != nil {
			return nil, fmt.Errorf("managed fields of %s: %w", e.Manager, err)
		}
		if isFormer(former, e) {
			goes.union(set)
		} else {
			stays.union(set)
		}
	}
	left := answer.DeepCopy()
	without(left.Object, goes, stays)
	return left, nil
}

func isFormer(former []ssa.FieldManager, e metav1.ManagedFieldsEntry) bool {
	return slices.ContainsFunc(former, func(m ssa.FieldManager) bool {
		return m.Name == e.Manager && m.OperationType == e.Operation && e.Subresource == ""
	})
}

// without removes from a value what is in one set and not in the other.
func without(v any, goes, stays fields) any {
	for _, key := range slices.Sorted(maps.Keys(goes)) {
		keep, kept := stays[key]
		child, found := element(v, key)
		if !found {
			continue
		}
		if !kept && (goes[key].whole() || strings.HasPrefix(key, "k:")) {
			v = drop(v, key)
			continue
		}
		if goes[key].whole() || keep.whole() && kept {
			continue
		}
		if child = without(child, goes[key], keep); !kept && isEmpty(child) {
			v = drop(v, key)
		} else {
			put(v, key, child)
		}
	}
	return v
}

// index finds the element of a list that a key stands for; -1 if there is none. A
// manifest may leave out names that have a default: without an element that has
// them all it is the first one that contradicts none.
func index(list []any, key string) int {
	kind, text, _ := strings.Cut(key, ":")
	if kind == "i" {
		if i, err := strconv.Atoi(text); err == nil && i < len(list) {
			return i
		}
		return -1
	}
	var want any
	if json.Unmarshal([]byte(text), &want) != nil {
		return -1
	}
	if kind == "v" {
		return slices.IndexFunc(list, func(e any) bool { return same(e, want) })
	}
	keys, ok := want.(map[string]any)
	if !ok || kind != "k" {
		return -1
	}
	near := -1
	for i, e := range list {
		values, _ := e.(map[string]any)
		has, contradicts := 0, false
		for name, value := range keys {
			if got, found := values[name]; found {
				has++
				contradicts = contradicts || !same(got, value)
			}
		}
		switch {
		case contradicts || has == 0:
		case has == len(keys):
			return i
		case near < 0:
			near = i
		}
	}
	return near
}

// same compares scalars, whatever type of number they came as.
func same(a, b any) bool {
	return reflect.DeepEqual(a, b) || fmt.Sprint(a) == fmt.Sprint(b)
}

func element(v any, key string) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		child, found := v[strings.TrimPrefix(key, "f:")]
		return child, found && strings.HasPrefix(key, "f:")
	case []any:
		if i := index(v, key); i >= 0 {
			return v[i], true
		}
	}
	return nil, false
}

func put(v any, key string, child any) {
	switch v := v.(type) {
	case map[string]any:
		v[strings.TrimPrefix(key, "f:")] = child
	case []any:
		v[index(v, key)] = child
	}
}

func drop(v any, key string) any {
	switch v := v.(type) {
	case map[string]any:
		delete(v, strings.TrimPrefix(key, "f:"))
		return v
	case []any:
		i := index(v, key)
		return slices.Delete(v, i, i+1)
	}
	return v
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}
