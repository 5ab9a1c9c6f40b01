package agent

import (
	"errors"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
)

// claimsOf are the objects of an overlay as the board compares them.
func claimsOf(b *planner.Built) map[object.ID]claim {
	claims := make(map[object.ID]claim, len(b.Desired))
	for _, d := range b.Desired {
		id := inventory.IDOf(d.Ref)
		claims[id] = claim{ref: d.Ref, digest: d.Digest, shareable: id.GroupKind() == schema.GroupKind{Kind: "Namespace"}}
	}
	return claims
}

// reasonOf maps an error of [planner.Build] to a condition reason.
func reasonOf(err error) string {
	if errors.Is(err, planner.ErrTooManyObjects) {
		return v1alpha1.TooManyObjectsReason
	}
	return v1alpha1.RenderFailedReason
}
