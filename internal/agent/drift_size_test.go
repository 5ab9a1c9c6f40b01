package agent_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/drift"
	"capstan.dev/capstan/internal/planner"
)

// A status is never refused for its size, however many objects have drifted, whatever their
// names are and whatever was written into them.
func TestDriftFits(t *testing.T) {
	w := newWorld(t)
	now := metav1.Now().Rfc3339Copy()
	long := func(n int) string { return strings.Repeat("<", n) } // takes six bytes each
	var findings []v1alpha1.Finding
	for range 10 {
		findings = append(findings, v1alpha1.Finding{
			Class: v1alpha1.FindingOwnershipLost, Field: "/" + long(511), From: long(256), To: long(256),
			Writer: v1alpha1.Writer{Manager: long(128), Class: "former owner", Operation: "Update", Subresource: "scale", Time: &now},
		})
	}
	var status v1alpha1.ClusterOverlayStatus
	var all []v1alpha1.DriftedObject
	for i := range planner.MaxObjects {
		name := fmt.Sprintf("%04d-%s", i, strings.Repeat("x", 200))
		ref := v1alpha1.ObjectReference{
			Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Kind: "ProxmoxMachineTemplate",
			Namespace: strings.Repeat("n", 40), Name: name, UID: types.UID(strings.Repeat("0", 36)),
		}
		status.Inventory = append(status.Inventory, v1alpha1.InventoryEntry{
			ObjectReference: ref, State: v1alpha1.EntryApplied, Digest: strings.Repeat("0", 32), StateDigest: strings.Repeat("0", 65),
			Generation: 99, ResourceVersion: "1234567890", Corrections: 99, CorrectedTime: &now,
		})
		all = append(all, v1alpha1.DriftedObject{
			ObjectReference: ref, Action: v1alpha1.DriftHeld, Message: long(1024), Hash: strings.Repeat("0", 8),
			DetectedTime: now, NextTime: &now, Findings: findings, MoreFindings: 40,
		})
		if i < 20 {
			status.Corrections = append(status.Corrections, v1alpha1.Correction{ObjectReference: ref, Time: now, Count: 99, Findings: findings[:5]})
		}
	}
	for _, objects := range []int{10, 1000, planner.MaxObjects} {
		t.Run(fmt.Sprint(objects), func(t *testing.T) {
			o := &v1alpha1.ClusterOverlay{
				ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: fmt.Sprint("full-", objects)},
				Spec:       v1alpha1.ClusterOverlaySpec{FleetRef: v1alpha1.LocalReference{Name: "none"}, Path: fmt.Sprint("clusters/", objects)},
			}
			w.must(env.Client().Create(w.Context(), o))
			status.DeepCopyInto(&o.Status)
			o.Status.Inventory = o.Status.Inventory[:objects]
			rest := drift.Fit(&o.Status, all[:objects])
			w.must(env.Client().Status().Update(w.Context(), o))
			if n := len(o.Status.Drift); n == 0 && objects < planner.MaxObjects || n+len(rest) != objects || int(o.Status.DriftedObjects) != objects {
				t.Errorf("%d objects are listed and %d are not, of %d: %d", n, len(rest), objects, o.Status.DriftedObjects)
			}
		})
	}
}
