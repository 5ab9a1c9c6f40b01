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
		if got := fleetReadiness(f, Count(overlays), true); got.Reason != want {
			t.Errorf("%s: %s", got.Reason, got.Message)
		}
	}
}

// What overlays say of the commit before is no success of the one that was just observed; a
// suspended one, which hears of none, keeps nothing from it.
func TestReadinessOfNewCommit(t *testing.T) {
	f := &v1alpha1.Fleet{Status: v1alpha1.FleetStatus{ObservedRevision: "3", ConvergedRevision: "2"}}
	for _, kind := range []string{v1alpha1.FetchedCondition, v1alpha1.DiscoveredCondition} {
		setCondition(&f.Status.Conditions, 1, kind, metav1.ConditionTrue, v1alpha1.SucceededReason, "")
	}
	if got := fleetReadiness(f, v1alpha1.OverlayCounts{Total: 2, Converged: 2}, true); got.Status != metav1.ConditionUnknown || got.Reason != v1alpha1.ProgressingReason {
		t.Errorf("%s %s: %s", got.Status, got.Reason, got.Message)
	}
	for settled, want := range map[bool]metav1.ConditionStatus{false: metav1.ConditionUnknown, true: metav1.ConditionTrue} {
		if got := fleetReadiness(f, v1alpha1.OverlayCounts{Total: 2, Converged: 1, Suspended: 1}, settled); got.Status != want {
			t.Errorf("with a suspended overlay, settled %t: %s %s: %s", settled, got.Status, got.Reason, got.Message)
		}
	}
	f.Status.ConvergedRevision = "3"
	if got := fleetReadiness(f, v1alpha1.OverlayCounts{Total: 2, Converged: 2}, false); got.Status != metav1.ConditionTrue {
		t.Errorf("at the newest commit: %s %s: %s", got.Status, got.Reason, got.Message)
	}
}

// What isn't accepted has not been reached by the Fleet, though it was at the same commit.
func TestReached(t *testing.T) {
	overlay := func(applied metav1.ConditionStatus, ready string) v1alpha1.ClusterOverlay {
		o := v1alpha1.ClusterOverlay{Status: v1alpha1.ClusterOverlayStatus{DesiredRevision: "1", AppliedRevision: "1", ConvergedRevision: "1"}}
		setCondition(&o.Status.Conditions, 1, v1alpha1.AppliedCondition, applied, v1alpha1.SucceededReason, "")
		setCondition(&o.Status.Conditions, 1, v1alpha1.ReadyCondition, metav1.ConditionUnknown, ready, "")
		return o
	}
	for want, o := range map[string]v1alpha1.ClusterOverlay{
		"2": overlay(metav1.ConditionTrue, v1alpha1.ConvergedReason),
		"":  overlay(metav1.ConditionFalse, v1alpha1.InvalidReason),
	} {
		f := v1alpha1.Fleet{Status: v1alpha1.FleetStatus{ObservedRevision: "2"}}
		reached(&f, []v1alpha1.ClusterOverlay{o})
		if f.Status.AppliedRevision != want || f.Status.ConvergedRevision != want {
			t.Errorf("applied %q, converged %q, want %q", f.Status.AppliedRevision, f.Status.ConvergedRevision, want)
		}
	}
	f, o := v1alpha1.Fleet{Status: v1alpha1.FleetStatus{ObservedRevision: "2"}}, overlay(metav1.ConditionTrue, v1alpha1.ApplyingReason)
	if reached(&f, []v1alpha1.ClusterOverlay{o}); f.Status.AppliedRevision != "" {
		t.Error("other values are not applied yet")
	}
}
