package drift

import (
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
