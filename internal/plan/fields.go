package plan

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Kind says how a field changes.
type Kind string

// The kinds of a field change.
const (
	Add     Kind = "add"
	Remove  Kind = "remove"
	Replace Kind = "replace"
)

// FieldChange is the change of one field.
type FieldChange struct {
	// Path is the field, with dots; a key that holds a dot or a slash stands in
	// brackets and quotes, an element of a list in brackets, by its name if the
	// elements have one.
	Path string `json:"path"`
	// Kind says whether the field is added, removed or replaced.
	Kind Kind `json:"kind"`
	// From and To are the values, nil if there is none.
	From any `json:"from,omitempty"`
	To   any `json:"to,omitempty"`
}

// Fields compares two states of an object, in the order of paths as they appear
// when keys are sorted. It masks nothing: see [Change.Fields].
func Fields(before, after *unstructured.Unstructured) []FieldChange {
	var b, a any
	if before != nil {
		b = before.Object
	}
	if after != nil {
		a = after.Object
	}
	var changes []FieldChange
	compare("", b, a, &changes)
	return changes
}

func compare(path string, before, after any, changes *[]FieldChange) {
	switch {
	case reflect.DeepEqual(before, after):
		return
	case before == nil:
		*changes = append(*changes, FieldChange{Path: path, Kind: Add, To: after})
		return
	case after == nil:
		*changes = append(*changes, FieldChange{Path: path, Kind: Remove, From: before})
		return
	}
	if b, ok := before.(map[string]any); ok {
		if a, ok := after.(map[string]any); ok {
			compareMaps(path, b, a, changes)
			return
		}
	}
	if b, ok := before.([]any); ok {
		if a, ok := after.([]any); ok {
			compareLists(path, b, a, changes)
			return
		}
	}
	*changes = append(*changes, FieldChange{Path: path, Kind: Replace, From: before, To: after})
}

func compareMaps(path string, before, after map[string]any, changes *[]FieldChange) {
	all := maps.Clone(before)
	maps.Copy(all, after)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		compare(join(path, key), before[key], after[key], changes)
	}
}

// compareLists compares by name where the elements have one, and else by index,
// leaving out what both lists begin and end with.
func compareLists(path string, before, after []any, changes *[]FieldChange) {
	if b, ok := byName(before); ok {
		if a, ok := byName(after); ok {
			compareNamed(path, before, after, b, a, changes)
			return
		}
	}
	start := 0
	for start < len(before) && start < len(after) && reflect.DeepEqual(before[start], after[start]) {
		start++
	}
	end := 0
	for end < len(before)-start && end < len(after)-start &&
		reflect.DeepEqual(before[len(before)-1-end], after[len(after)-1-end]) {
		end++
	}
	for i := start; i < max(len(before), len(after))-end; i++ {
		var b, a any
		if i < len(before)-end {
			b = before[i]
		}
		if i < len(after)-end {
			a = after[i]
		}
		compare(fmt.Sprintf("%s[%d]", path, i), b, a, changes)
	}
}

// compareNamed compares elements of one name, in the order in which they appear,
// new ones last. A new order alone is shown as a replaced list.
func compareNamed(path string, before, after []any, b, a map[string]any, changes *[]FieldChange) {
	count := len(*changes)
	seen := map[string]bool{}
	for _, list := range [][]any{before, after} {
		for _, element := range list {
			name := nameOf(element)
			if !seen[name] {
				seen[name] = true
				compare(path+"["+name+"]", b[name], a[name], changes)
			}
		}
	}
	if len(*changes) == count {
		*changes = append(*changes, FieldChange{Path: path, Kind: Replace, From: names(before), To: names(after)})
	}
}

// byName indexes a list whose elements are maps with unique names.
func byName(list []any) (map[string]any, bool) {
	named := make(map[string]any, len(list))
	for _, element := range list {
		name := nameOf(element)
		if name == "" || named[name] != nil {
			return nil, false
		}
		named[name] = element
	}
	return named, true
}

func nameOf(element any) string {
	m, _ := element.(map[string]any)
	name, _ := m["name"].(string)
	return name
}

func names(list []any) []any {
	var all []any
	for _, element := range list {
		all = append(all, nameOf(element))
	}
	return all
}

func join(path, key string) string {
	if strings.ContainsAny(key, "./[]\" ") || key == "" {
		return fmt.Sprintf("%s[%q]", path, key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
