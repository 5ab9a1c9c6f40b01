package agent

import (
	"context"
	"fmt"
	"slices"
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
	board  *board
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
	known := r.board.outlook(req.NamespacedName)
	settled, observed := known.current(req.Name, overlays.Items), fleet.Status.ObservedRevision
	err := updateFleetStatus(ctx, r.client, r.reader, &fleet, func(f *v1alpha1.Fleet) {
		f.Status.Overlays = counts
		if settled && observed != "" && f.Status.ObservedRevision == observed {
			reached(f, overlays.Items)
		}
		ready := fleetReadiness(f, counts, settled)
		setCondition(&f.Status.Conditions, f.Generation, v1alpha1.ReadyCondition, ready.Status, ready.Reason, ready.Message)
	})
	return ctrl.Result{}, err
}

// reached notes that all overlays have applied what was observed last, or have converged
// at it. It must be known which overlays that concerns.
func reached(f *v1alpha1.Fleet, overlays []v1alpha1.ClusterOverlay) {
	every := func(has func(*v1alpha1.ClusterOverlay) bool) bool {
		return !slices.ContainsFunc(overlays, func(o v1alpha1.ClusterOverlay) bool { return !has(&o) })
	}
	if every(isAccepted) {
		f.Status.AppliedRevision = f.Status.ObservedRevision
	}
	if every(func(o *v1alpha1.ClusterOverlay) bool {
		return isAccepted(o) && o.Status.ConvergedRevision == o.Status.DesiredRevision
	}) {
		f.Status.ConvergedRevision = f.Status.ObservedRevision
	}
}

// isApplied reports whether the API server has accepted what is desired.
func isApplied(o *v1alpha1.ClusterOverlay) bool {
	return o.Status.AppliedRevision != "" && o.Status.AppliedRevision == o.Status.DesiredRevision
}

// isAccepted is isApplied, unless the same commit is to be applied with other values, and
// isn't yet.
func isAccepted(o *v1alpha1.ClusterOverlay) bool {
	ready := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ReadyCondition)
	return isApplied(o) && meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.AppliedCondition) &&
		(ready == nil || ready.Reason != v1alpha1.ApplyingReason)
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
		state := StateOf(o)
		if isApplied(o) && state != StateFailed && state != StateSuspended {
			n.Applied++
		}
		switch state {
		case StateConverged:
			n.Converged++
		case StateProgressing:
			n.Progressing++
		case StateWaiting:
			n.Waiting++
		case StateStalled:
			n.Stalled++
		case StateDegraded:
			n.Degraded++
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
	// StateConverged: applied, and the machines are there.
	StateConverged State = "Converged"
	// StateProgressing: being applied, or the machines are on their way.
	StateProgressing State = "Progressing"
	// StateWaiting: nothing happens until a person acts on the cluster.
	StateWaiting State = "Waiting"
	// StateStalled: the machines are stuck on their way.
	StateStalled State = "Stalled"
	// StateDegraded: it had converged, and is not as declared any more.
	StateDegraded State = "Degraded"
	// StateFailed: it doesn't render or can't be applied.
	StateFailed State = "Failed"
	// StateSuspended: on a person's request nothing is done.
	StateSuspended State = "Suspended"
	// StatePending: the deletion of all of it waits for an approval.
	StatePending State = "PendingDeletion"
	// StateDeleting: an approved deletion is under way.
	StateDeleting State = "Deleting"
)

// States are all states.
var States = []State{
	StateConverged, StateProgressing, StateWaiting, StateStalled, StateDegraded, StateFailed, StateSuspended, StatePending, StateDeleting,
}

// StateOf sums an overlay up: what a person has to know first.
func StateOf(o *v1alpha1.ClusterOverlay) State {
	ready := metav1.Condition{}
	if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ReadyCondition); c != nil {
		ready = *c
	}
	stuck := map[string]State{v1alpha1.StalledReason: StateStalled, v1alpha1.DegradedReason: StateDegraded}[ready.Reason]
	switch {
	case o.Spec.Suspend || ready.Reason == v1alpha1.SuspendedReason:
		return StateSuspended
	case ready.Status == metav1.ConditionFalse && stuck == "":
		return StateFailed
	case o.Status.PendingDeletion != nil && o.Status.PendingDeletion.Approved:
		return StateDeleting
	case o.Status.PendingDeletion != nil && o.Status.PendingDeletion.Reason != v1alpha1.ObjectsRemovedReason:
		return StatePending
	case !isApplied(o) || ready.Reason == v1alpha1.ApplyingReason:
		return StateProgressing
	case stuck != "":
		return stuck
	case ready.Status == metav1.ConditionTrue:
		return StateConverged
	case ready.Reason == v1alpha1.WaitingReason:
		return StateWaiting
	default:
		return StateProgressing
	}
}

// fleetReadiness is the first thing that is wrong with a Fleet. settled says that every
// overlay has heard of the newest commit.
func fleetReadiness(f *v1alpha1.Fleet, n v1alpha1.OverlayCounts, settled bool) metav1.Condition {
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
	of := func(status metav1.ConditionStatus, reason string, count int32, text string) metav1.Condition {
		return metav1.Condition{Status: status, Reason: reason, Message: fmt.Sprintf("%d of %d overlays %s", count, n.Total, text)}
	}
	switch {
	case n.Failed > 0:
		return of(metav1.ConditionFalse, "OverlaysFailed", n.Failed, "failed")
	case n.Stalled > 0:
		return of(metav1.ConditionFalse, "OverlaysStalled", n.Stalled, "are stalled")
	case n.Degraded > 0:
		return of(metav1.ConditionFalse, "OverlaysDegraded", n.Degraded, "are degraded")
	case n.PendingDeletion > 0:
		return of(metav1.ConditionUnknown, v1alpha1.AwaitingApprovalReason, n.PendingDeletion, "have a deletion that waits for approval or is under way")
	case n.Waiting > 0:
		return of(metav1.ConditionUnknown, v1alpha1.WaitingReason, n.Waiting, "wait for somebody")
	case n.Progressing > 0:
		return of(metav1.ConditionUnknown, v1alpha1.ProgressingReason, n.Progressing, "are under way")
	case f.Status.ConvergedRevision != f.Status.ObservedRevision && (n.Suspended == 0 || !settled):
		// Some of them may not have heard of it, and speak of the commit before.
		return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ProgressingReason, Message: "the newest commit is being looked at"}
	default:
		return of(metav1.ConditionTrue, v1alpha1.ConvergedReason, n.Converged, "have converged")
	}
}
