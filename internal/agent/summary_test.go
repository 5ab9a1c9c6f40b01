package agent

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
)

// An applied overlay with a pending object doesn't hide one that is under way.
func TestFleetReadiness(t *testing.T) {
	f := &v1alpha1.Fleet{}
	for _, kind := range []string{v1alpha1.FetchedCondition, v1alpha1.DiscoveredCondition} {
		setCondition(&f.Status.Conditions, 1, kind, metav1.ConditionTrue, v1alpha1.SucceededReason, "")
	}
	converged := v1alpha1.ClusterOverlay{Status: v1alpha1.ClusterOverlayStatus{
		DesiredRevision: "2", AppliedRevision: "2",
		Conditions: []metav1.Condition{{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionTrue, Reason: v1alpha1.ConvergedReason}},
	}}
	stuck := v1alpha1.ClusterOverlay{Status: v1alpha1.ClusterOverlayStatus{
		DesiredRevision: "2", AppliedRevision: "2",
		Conditions: []metav1.Condition{{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionFalse, Reason: v1alpha1.StalledReason}},
	}}
	pending := *converged.DeepCopy()
	pending.Status.PendingDeletion = &v1alpha1.PendingDeletion{Reason: v1alpha1.ObjectsRemovedReason}
	underWay := v1alpha1.ClusterOverlay{Status: v1alpha1.ClusterOverlayStatus{DesiredRevision: "2", AppliedRevision: "1"}}
	for want, overlays := range map[string][]v1alpha1.ClusterOverlay{
		v1alpha1.ProgressingReason:      {converged, underWay},
		v1alpha1.AwaitingApprovalReason: {pending, underWay},
		"OverlaysStalled":               {stuck, pending, underWay},
		v1alpha1.ConvergedReason:        {converged, converged},
	} {
		if got := fleetReadiness(f, Count(overlays)); got.Reason != want {
			t.Errorf("%s: %s", got.Reason, got.Message)
		}
	}
}
