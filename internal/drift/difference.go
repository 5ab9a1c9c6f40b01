package drift

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// difference is a field in which two states of an object differ; nil is no value.
type difference struct {
	// inBefore and inAfter are JSON pointers: the elements of a list may stand at
	// different places.
	inBefore, inAfter string
	before, after     any
}

// pointer is where people find the field.
func (d difference) pointer() string {
	if d.before == nil {
		return d.inAfter
	}
	return d.inBefore
}

// differences compares two states of an object, without its status and the bookkeeping
// of the API server. Lists whose elements have keys are compared by those, whatever the
// order is.
func differences(before, after *unstructured.Unstructured) []difference {
	known := set{}
	for _, u := range []*unstructured.Unstructured{before, after} {
		for _, e := range entriesOf(u) {
			merge(known, e.fields)
		}
	}
	var c comparer
	c.maps(difference{before: contentOf(before), after: contentOf(after)}, known, []string{})
	return c.found
}

func contentOf(u *unstructured.Unstructured) any {
	if u == nil {
		return nil
	}
	return u.Object
}

// merge adds the keys of another set.
func merge(s, other set) {
	for key, value := range other {
		part, ok := value.(map[string]any)
		if !ok {
			continue
		}
		if _, has := s[key].(map[string]any); !has {
			s[key] = set{}
		}
		merge(below(s, key), part)
	}
}

// comparer collects differences. It takes from the sets of all managers how the elements
// of lists are told apart.
type comparer struct{ found []difference }

func (c *comparer) compare(d difference, known set) {
	if same(d.before, d.after) {
		return
	}
	_, mapBefore := d.before.(map[string]any)
	_, mapAfter := d.after.(map[string]any)
	if mapBefore && mapAfter {
		c.maps(d, known, nil)
		return
	}
	before, listBefore := d.before.([]any)
	after, listAfter := d.after.([]any)
	if listBefore && listAfter && c.lists(d, before, after, known) {
		return
	}
	c.found = append(c.found, d)
}

// maps compares by key. A path that isn't nil is that of bookkeeping.
func (c *comparer) maps(d difference, known set, path []string) {
	before, _ := d.before.(map[string]any)
	after, _ := d.after.(map[string]any)
	all := maps.Clone(before)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, after)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		key := "f:" + name
		if path != nil && bookkeeping(path, key) {
			continue
		}
		step := "/" + escape(name)
		sub := difference{inBefore: d.inBefore + step, inAfter: d.inAfter + step, before: before[name], after: after[name]}
		if path != nil && len(path) == 0 && (key == "f:metadata") {
			c.maps(sub, below(known, key), []string{key})
			continue
		}
		c.compare(sub, below(known, key))
	}
}

// lists compares element by element, if it can tell which belong together.
func (c *comparer) lists(d difference, before, after []any, known set) bool {
	keys := elementKeys(known)
	if keys == nil {
		if len(before) != len(after) {
			return false
		}
		for i := range before {
			step := "/" + strconv.Itoa(i)
			c.compare(difference{inBefore: d.inBefore + step, inAfter: d.inAfter + step, before: before[i], after: after[i]}, nil)
		}
		return true
	}
	b, okBefore := index(before, keys)
	a, okAfter := index(after, keys)
	if !okBefore || !okAfter {
		return false
	}
	all := maps.Clone(b)
	maps.Copy(all, a)
	for _, id := range slices.Sorted(maps.Keys(all)) {
		sub := difference{inBefore: d.inBefore + "/-", inAfter: d.inAfter + "/-"}
		if i, has := b[id]; has {
			sub.inBefore, sub.before = d.inBefore+"/"+strconv.Itoa(i), before[i]
		}
		if i, has := a[id]; has {
			sub.inAfter, sub.after = d.inAfter+"/"+strconv.Itoa(i), after[i]
		}
		c.compare(sub, below(known, id))
	}
	return true
}

// elementKeys returns the fields that tell the elements of a list apart; empty if they
// are told apart by their value, nil if by their place.
func elementKeys(known set) []string {
	for _, key := range slices.Sorted(maps.Keys(known)) {
		switch {
		case strings.HasPrefix(key, "v:"):
			return []string{}
		case strings.HasPrefix(key, "k:"):
			var values map[string]any
			if json.Unmarshal([]byte(key[2:]), &values) == nil && len(values) > 0 {
				return slices.Sorted(maps.Keys(values))
			}
		}
	}
	return nil
}

// index says where the elements of a list are, by what a set calls them. It fails if two
// are the same or one has no keys.
func index(list []any, keys []string) (map[string]int, bool) {
	places := make(map[string]int, len(list))
	for i, element := range list {
		id, value := "v:", element
		if len(keys) > 0 {
			m, ok := element.(map[string]any)
			if !ok {
				return nil, false
			}
			values := map[string]any{}
			for _, key := range keys {
				if m[key] == nil {
					return nil, false
				}
				values[key] = m[key]
			}
			id, value = "k:", values
		}
		id += encode(value)
		if _, twice := places[id]; twice {
			return nil, false
		}
		places[id] = i
	}
	return places, true
}

// encode is a value as JSON, keys sorted; empty if there is none.
func encode(value any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(value) != nil {
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// same compares values; numbers however they were decoded.
func same(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for key, value := range a {
			other, has := b[key]
			if !has || !same(value, other) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, same)
	}
	return sameScalar(a, b)
}
