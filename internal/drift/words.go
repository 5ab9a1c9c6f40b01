package drift

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
)

// Words says what findings are, in a few words: the first of them, and how many more.
func Words(findings []v1alpha1.Finding) string {
	switch len(findings) {
	case 0:
		return "nothing that Git declares"
	case 1:
		return Describe(findings[0])
	}
	const shown = 3
	words := Describe(findings[0])
	for i := 1; i < len(findings) && i < shown; i++ {
		words += ", " + Describe(findings[i])
	}
	if more := len(findings) - shown; more > 0 {
		words += fmt.Sprintf(" and %d more", more)
	}
	return words
}

// Ignored tells whether a Fleet leaves a field of a kind of objects to a manager.
func Ignored(ignore []v1alpha1.DriftIgnore, gk schema.GroupKind, pointer, manager string) bool {
	return rulesFor(gk, ignore).ignore(pointer, manager)
}
