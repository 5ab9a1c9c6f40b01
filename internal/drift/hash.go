package drift

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// hashLength is how many hex digits a hash has: to type, and with a key that nobody else
// has none to be found by trying.
const hashLength = 12

// Hash stands for exactly this correction of exactly this object in exactly this
// overlay. Before is the live object, nil if there is none.
func Hash(d object.Digester, overlay types.UID, ref v1alpha1.ObjectReference, before, after *unstructured.Unstructured) string {
	parts := []string{string(overlay), ref.Group, ref.Kind, ref.Namespace, ref.Name, string(ref.UID)}
	if before != nil {
		parts = append(parts, string(before.GetUID()))
	}
	for _, difference := range differences(before, after) {
		parts = append(parts, difference.inBefore, encode(difference.before), difference.inAfter, encode(difference.after))
	}
	return d.Strings(parts...)[:hashLength]
}
