package inventory

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// Hash stands for exactly this set of live objects in exactly this overlay: 32
// hex digits of the SHA-256 over the overlay's UID and the sorted group, kind,
// namespace, name and UID of the objects. It is what a person approves.
func Hash(overlay types.UID, objects []v1alpha1.ObjectReference) string {
	h := sha256.New()
	write := func(fields ...string) {
		for _, f := range fields {
			fmt.Fprintf(h, "%d:%s", len(f), f)
		}
		h.Write([]byte{'\n'})
	}
	write(string(overlay))
	for _, ref := range sortedRefs(objects) {
		write(ref.Group, ref.Kind, ref.Namespace, ref.Name, string(ref.UID))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// sortedRefs returns the references in stable order, each once.
func sortedRefs(refs []v1alpha1.ObjectReference) []v1alpha1.ObjectReference {
	sorted := slices.Clone(refs)
	slices.SortStableFunc(sorted, func(a, b v1alpha1.ObjectReference) int {
		return cmp.Or(object.Compare(IDOf(a), IDOf(b)), cmp.Compare(a.UID, b.UID))
	})
	return slices.CompactFunc(sorted, func(a, b v1alpha1.ObjectReference) bool {
		return IDOf(a) == IDOf(b) && a.UID == b.UID
	})
}
