package capi

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
)

// Ownership says which fields of one live object are left to others: the map of
// [ownershipRules], and what the object's own annotation says. It looks at the object
// when it is asked, so it is of no use once the object was changed.
type Ownership struct {
	object *unstructured.Unstructured
	// maps are those of the rules' kinds that the object is of.
	maps []fieldMap
	// ignores are the patterns of its annotation.
	ignores []string
}

// OwnershipOf returns what holds for a live object.
func OwnershipOf(u *unstructured.Unstructured) Ownership {
	o := Ownership{object: u}
	gk := u.GroupVersionKind().GroupKind()
	o.maps = make([]fieldMap, 0, 4)
	for i := range ownership {
		if ownership[i].kinds.have(gk) {
			o.maps = append(o.maps, ownership[i].fields)
		}
	}
	if text, found, _ := unstructured.NestedString(u.Object, "metadata", "annotations", v1alpha1.IgnoreAnnotation); found {
		o.ignores, _ = ParsePointers(text)
	}
	return o
}

// Left tells whether a field that Git does not declare is left to others: nothing
// about it is worth a report, whoever set it. The value is the live one; nil if it is
// not known, which is no default then.
func (o Ownership) Left(pointer string, value any) (why string, left bool) {
	if why, yielded := o.Yielded(pointer); yielded {
		return why, true
	}
	if r := o.find(pointer, func(r *ownershipRule) bool { return r.effect == leaves && r.allows(value) }); r != nil {
		return r.why, true
	}
	// A field that was set as a whole is left to others if all is that is in it.
	inner, ok := value.(map[string]any)
	if !ok {
		return "", false
	}
	for key, v := range inner {
		if why, left = o.Left(pointer+"/"+escape(key), v); !left {
			return "", false
		}
	}
	return why, left
}

// Yielded tells whether a field is left to others even where Git declares it: once
// somebody else has taken it, it is neither reported nor taken back.
func (o Ownership) Yielded(pointer string) (why string, yielded bool) {
	for _, pattern := range o.ignores {
		if Covers(pattern, pointer) {
			return "annotation " + v1alpha1.IgnoreAnnotation + ": " + clip(pattern), true
		}
	}
	if r := o.find(pointer, func(r *ownershipRule) bool { return r.effect == yields }); r != nil {
		return r.why, true
	}
	return "", false
}

// Filled tells whether a field that Git declares with nothing in it is left to others: that
// is how some write that somebody else fills it in.
func (o Ownership) Filled(pointer string, declared any) bool {
	return isNothing(declared) && o.find(pointer, func(r *ownershipRule) bool { return r.empty }) != nil
}

// isNothing tells whether there is nothing in a value.
func isNothing(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		for _, inner := range v {
			if !isNothing(inner) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	}
	return value == nil || value == "" || sameValue(int64(0), value)
}

// Said is what the object itself says about the fields that are left to others even where
// Git declares them: its annotation, and what it is that some of the map's rules ask for.
// Empty if it says nothing.
func (o Ownership) Said() string {
	said := strings.Join(o.ignores, " ")
	gk := o.object.GroupVersionKind().GroupKind()
	for i := range yieldedWhen {
		if r := &yieldedWhen[i]; r.kinds.have(gk) && r.when.holds(o.object) {
			said += "\n" + r.when.name
		}
	}
	return said
}

// yieldedWhen are the rules by which a field is left to others only while the object is of
// some kind.
var yieldedWhen = slices.DeleteFunc(slices.Clone(ownershipRules), func(r ownershipRule) bool {
	return r.effect != yields || r.when == nil
})

// Unstable tells whether the value of a field may change though nobody means
// anything by it: conversion between API versions rewrites it, or a controller that
// follows a provider's version. It may lie within what is set as a whole, as references are.
func (o Ownership) Unstable(pointer string) bool {
	return o.find(pointer, func(r *ownershipRule) bool { return r.effect == unstable }) != nil
}

// Stable returns the value of a field that is set as a whole without what is
// [Ownership.Unstable] in it. The value itself is not changed.
func (o Ownership) Stable(pointer string, value any) any {
	inner, ok := value.(map[string]any)
	if !ok {
		return value
	}
	stable := make(map[string]any, len(inner))
	for key, v := range inner {
		if at := pointer + "/" + escape(key); !o.Unstable(at) {
			stable[key] = o.Stable(at, v)
		}
	}
	return stable
}

// find returns the first rule that covers a field, holds for the object and is one
// that is wanted.
func (o Ownership) find(pointer string, wanted func(*ownershipRule) bool) *ownershipRule {
	top, below := heads(pointer)
	for _, m := range o.maps {
		for _, head := range [...]string{top, below} {
			for _, e := range m[head] {
				if wanted(e.rule) && Covers(e.pattern, pointer) && (e.rule.when == nil || e.rule.when.holds(o.object)) {
					return e.rule
				}
			}
			if below == top {
				break
			}
		}
	}
	return nil
}

// allows tells whether a rule holds for a value.
func (r *ownershipRule) allows(value any) bool {
	return r.values == nil || slices.ContainsFunc(r.values, func(v any) bool { return sameValue(v, value) })
}

// sameValue compares what a rule says, whose numbers are int64, with a live value, whose
// numbers depend on who has decoded it.
func sameValue(want, live any) bool {
	switch live := live.(type) {
	case float64:
		n, ok := want.(int64)
		return ok && float64(n) == live
	case map[string]any:
		m, ok := want.(map[string]any)
		return ok && maps.EqualFunc(m, live, sameValue)
	case []any, nil:
		return false
	default:
		return want == live
	}
}

// fieldMap holds rules by the first element, or the first two, of their patterns.
type fieldMap map[string][]fieldEntry

type fieldEntry struct {
	pattern string
	rule    *ownershipRule
}

// The first two elements tell most rules apart; a pattern whose second is open goes by
// its first.

// heads returns a pointer's first element and its first two, with their slashes.
func heads(pointer string) (one, two string) {
	if pointer == "" || pointer[0] != '/' {
		return "", ""
	}
	_, rest := firstElement(pointer)
	one = pointer[:len(pointer)-len(rest)]
	if rest == "" {
		return one, one
	}
	_, rest = firstElement(rest)
	return one, pointer[:len(pointer)-len(rest)]
}

// ownership is the table by kinds, made once: it is asked at every event.
var ownership = indexRules(ownershipRules)

type kindFields struct {
	kinds  *kindSet
	fields fieldMap
}

func indexRules(rules []ownershipRule) []kindFields {
	var all []kindFields
	at := map[*kindSet]int{}
	for i := range rules {
		r := &rules[i]
		j, known := at[r.kinds]
		if !known {
			j = len(all)
			at[r.kinds] = j
			all = append(all, kindFields{kinds: r.kinds, fields: fieldMap{}})
		}
		for _, pattern := range r.fields {
			one, head := heads(pattern)
			if strings.Contains(head, "*") {
				head = one
			}
			all[j].fields[head] = append(all[j].fields[head], fieldEntry{pattern: pattern, rule: r})
		}
	}
	return all
}
