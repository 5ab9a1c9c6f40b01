package agent

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// summaryReconciler keeps a Fleet's counts and its Ready condition. It runs on
// changes of overlays and never talks to Git.
type summaryReconciler struct {
	client client.Client
	reader client.Reader
}

// Reconcile counts the overlays of a Fleet.
func (r *summaryReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var fleet v1alpha1.Fleet
	if err := r.client.Get(ctx, req.NamespacedName, &fleet); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var overlays v1alpha1.ClusterOverlayList
	if err := r.client.List(ctx, &overlays, client.InNamespace(req.Namespace), client.MatchingFields{fleetIndex: req.Name}); err != nil {
		return ctrl.Result{}, err
	}
	counts := Count(overlays.Items)
	err := updateFleetStatus(ctx, r.client, r.reader, &fleet, func(f *v1alpha1.Fleet) {
		f.Status.Overlays = counts
		ready := fleetReadiness(f, counts, progressing(overlays.Items))
		setCondition(&f.Status.Conditions, f.Generation, v1alpha1.ReadyCondition, ready.Status, ready.Reason, ready.Message)
	})
	return ctrl.Result{}, err
}

// Count counts overlays by state.
func Count(overlays []v1alpha1.ClusterOverlay) v1alpha1.OverlayCounts {
	var n v1alpha1.OverlayCounts
	for i := range overlays {
		o := &overlays[i]
		n.Total++
		if o.Status.PendingDeletion != nil {
			n.PendingDeletion++
		}
		switch StateOf(o) {
		case StateApplied:
			n.Applied++
		case StateFailed:
			n.Failed++
		case StateSuspended:
			n.Suspended++
		}
	}
	return n
}

// State sums an overlay up in a word.
type State string

// The states of an overlay.
const (
	StateApplied   State = "Applied"
	StateFailed    State = "Failed"
	StateSuspended State = "Suspended"
	StatePending   State = "PendingDeletion"
	StateDeleting  State = "Deleting"
	StateProgress  State = "Progressing"
)

// StateOf sums an overlay up: what a person has to know first.
func StateOf(o *v1alpha1.ClusterOverlay) State {
	ready := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ReadyCondition)
	switch {
	case o.Spec.Suspend || ready != nil && ready.Reason == v1alpha1.SuspendedReason:
		return StateSuspended
	case ready != nil && ready.Status == metav1.ConditionFalse:
		return StateFailed
	case o.Status.PendingDeletion != nil && o.Status.PendingDeletion.Approved:
		return StateDeleting
	case o.Status.PendingDeletion != nil && o.Status.PendingDeletion.Reason != v1alpha1.ObjectsRemovedReason:
		return StatePending
	case o.Status.AppliedRevision != "" && o.Status.AppliedRevision == o.Status.DesiredRevision:
		return StateApplied
	default:
		return StateProgress
	}
}

// progressing counts the overlays that are under way. The other counts don't tell:
// an applied overlay may have a pending deletion too.
func progressing(overlays []v1alpha1.ClusterOverlay) int {
	n := 0
	for i := range overlays {
		if StateOf(&overlays[i]) == StateProgress {
			n++
		}
	}
	return n
}

// fleetReadiness is the first thing that is wrong with a Fleet.
func fleetReadiness(f *v1alpha1.Fleet, n v1alpha1.OverlayCounts, underWay int) metav1.Condition {
	if f.Spec.Suspend {
		return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.SuspendedReason, Message: "the Fleet is suspended"}
	}
	for _, kind := range []string{v1alpha1.FetchedCondition, v1alpha1.DiscoveredCondition} {
		c := meta.FindStatusCondition(f.Status.Conditions, kind)
		if c == nil {
			return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ProgressingReason, Message: "not " + strings.ToLower(kind) + " yet"}
		}
		if c.Status != metav1.ConditionTrue {
			return *c
		}
	}
	switch {
	case n.Failed > 0:
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: "OverlaysFailed", Message: fmt.Sprintf("%d of %d overlays failed", n.Failed, n.Total)}
	case underWay > 0:
		return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ProgressingReason, Message: "not all overlays are applied yet"}
	default:
		return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.NotTrackedReason, Message: "applied; " + untracked[v1alpha1.ConvergedCondition]}
	}
}
