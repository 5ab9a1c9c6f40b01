package drift

import (
	"encoding/json"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// rules are the ignores of a Fleet that are about one kind.
type rules []v1alpha1.DriftIgnore

// rulesFor picks the ignores that are about a kind.
func rulesFor(gk schema.GroupKind, all []v1alpha1.DriftIgnore) rules {
	var some rules
	for _, r := range all {
		if len(r.Kinds) == 0 || slices.Contains(r.Kinds, gk.Kind) || slices.Contains(r.Kinds, gk.Kind+"."+gk.Group) {
			some = append(some, r)
		}
	}
	return some
}

// ignore tells whether a field is left to a manager.
func (r rules) ignore(pointer, manager string) bool {
	return pointer != "" && slices.ContainsFunc(r, func(i v1alpha1.DriftIgnore) bool {
		return (len(i.Managers) == 0 || slices.Contains(i.Managers, manager)) &&
			slices.ContainsFunc(i.Paths, func(path string) bool { return capi.Covers(path, pointer) })
	})
}

// ignoreFinding tells whether a finding is left to whom it names: its field is, or all
// that is in it, as far as the finding shows it.
func (r rules) ignoreFinding(f v1alpha1.Finding) bool {
	if len(r) == 0 {
		return false
	}
	if r.ignore(f.Field, f.Writer.Manager) {
		return true
	}
	var inner map[string]any
	return json.Unmarshal([]byte(f.To), &inner) == nil && r.ignoreAll(f.Field, inner, f.Writer.Manager)
}

func (r rules) ignoreAll(pointer string, inner map[string]any, manager string) bool {
	for name, value := range inner {
		sub := pointer + "/" + escape(name)
		if r.ignore(sub, manager) {
			continue
		}
		if m, ok := value.(map[string]any); !ok || !r.ignoreAll(sub, m, manager) {
			return false
		}
	}
	return len(inner) > 0
}
