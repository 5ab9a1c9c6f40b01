package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
)

// fleetView is all that status shows of Fleets.
type fleetView struct {
	Fleets   []fleetStatus   `json:"fleets"`
	Overlays []overlayStatus `json:"overlays"`
}

func (fleetView) warnings() []string { return nil }

// fleetStatus is one Fleet as `status -o json` prints it.
type fleetStatus struct {
	Namespace         string                 `json:"namespace"`
	Name              string                 `json:"name"`
	ObservedRevision  string                 `json:"observedRevision"`
	AppliedRevision   string                 `json:"appliedRevision,omitempty"`
	ConvergedRevision string                 `json:"convergedRevision,omitempty"`
	Overlays          v1alpha1.OverlayCounts `json:"overlays"`
	Suspended         bool                   `json:"suspended,omitempty"`
	Problem           string                 `json:"problem,omitempty"`
}

// overlayStatus is one overlay as `status -o json` prints it.
type overlayStatus struct {
	Namespace         string                    `json:"namespace"`
	Name              string                    `json:"name"`
	Fleet             string                    `json:"fleet"`
	Path              string                    `json:"path"`
	Cluster           string                    `json:"cluster,omitempty"`
	State             agent.State               `json:"state"`
	Objects           int32                     `json:"objects"`
	Progress          *v1alpha1.Progress        `json:"progress,omitempty"`
	ControlPlane      *replicas                 `json:"controlPlane,omitempty"`
	Workers           *replicas                 `json:"workers,omitempty"`
	DesiredRevision   string                    `json:"desiredRevision,omitempty"`
	DesiredSince      *metav1.Time              `json:"desiredSince,omitempty"`
	AppliedRevision   string                    `json:"appliedRevision,omitempty"`
	ConvergedRevision string                    `json:"convergedRevision,omitempty"`
	PendingDeletion   *v1alpha1.PendingDeletion `json:"pendingDeletion,omitempty"`
	DriftedObjects    int32                     `json:"driftedObjects,omitempty"`
	HeldCorrections   int                       `json:"heldCorrections,omitempty"`
	Message           string                    `json:"message,omitempty"`
	History           []revisionStatus          `json:"history,omitempty"`
}

// replicas are counts of progress under the names that Clusters have for them, which is
// how they were printed before there was progress.
type replicas struct {
	Desired  int32 `json:"desiredReplicas"`
	Replicas int32 `json:"replicas"`
	Ready    int32 `json:"readyReplicas"`
	UpToDate int32 `json:"upToDateReplicas"`
}

func replicasOf(n v1alpha1.MachineCounts) *replicas {
	if n == (v1alpha1.MachineCounts{}) {
		return nil
	}
	return &replicas{Desired: n.Desired, Replicas: n.Existing, Ready: n.Ready, UpToDate: n.UpToDate}
}

// revisionStatus is one revision of an overlay's history. Both durations count from when
// the change came into Git.
type revisionStatus struct {
	Revision              string           `json:"revision"`
	Outcome               v1alpha1.Outcome `json:"outcome,omitempty"`
	Since                 *metav1.Time     `json:"since,omitempty"`
	Applied               metav1.Time      `json:"applied"`
	Converged             *metav1.Time     `json:"converged,omitempty"`
	AppliedAfterSeconds   *int64           `json:"appliedAfterSeconds,omitempty"`
	ConvergedAfterSeconds *int64           `json:"convergedAfterSeconds,omitempty"`
	Message               string           `json:"message,omitempty"`
}

// readFleets reads Fleets and their overlays; namespace "" stands for all, name "" for
// all of the namespace.
func readFleets(ctx context.Context, c client.Client, namespace, name string) (fleetView, error) {
	var fleets v1alpha1.FleetList
	if err := c.List(ctx, &fleets, client.InNamespace(namespace)); err != nil {
		return fleetView{}, fmt.Errorf("list Fleets: %w", err)
	}
	var overlays v1alpha1.ClusterOverlayList
	if err := c.List(ctx, &overlays, client.InNamespace(namespace)); err != nil {
		return fleetView{}, fmt.Errorf("list ClusterOverlays: %w", err)
	}
	if name != "" {
		fleets.Items = slices.DeleteFunc(fleets.Items, func(f v1alpha1.Fleet) bool { return f.Name != name })
		overlays.Items = slices.DeleteFunc(overlays.Items, func(o v1alpha1.ClusterOverlay) bool { return o.Spec.FleetRef.Name != name })
	}
	return fleetViewOf(fleets.Items, overlays.Items), nil
}

// fleetViewOf is what status shows of Fleets.
func fleetViewOf(fleets []v1alpha1.Fleet, overlays []v1alpha1.ClusterOverlay) fleetView {
	view := fleetView{Fleets: []fleetStatus{}, Overlays: []overlayStatus{}}
	byFleet := map[client.ObjectKey][]v1alpha1.ClusterOverlay{}
	for i := range overlays {
		o := &overlays[i]
		view.Overlays = append(view.Overlays, overlayStatusOf(o))
		byFleet[fleetOf(o)] = append(byFleet[fleetOf(o)], *o)
	}
	for i := range fleets {
		f := &fleets[i]
		view.Fleets = append(view.Fleets, fleetStatus{
			Namespace: f.Namespace, Name: f.Name, ObservedRevision: f.Status.ObservedRevision,
			AppliedRevision: f.Status.AppliedRevision, ConvergedRevision: f.Status.ConvergedRevision,
			// Counted here, because the Fleet's own counts follow a moment later.
			Overlays:  agent.Count(byFleet[client.ObjectKeyFromObject(f)]),
			Suspended: f.Spec.Suspend, Problem: problemOf(f.Status.Conditions),
		})
	}
	slices.SortFunc(view.Overlays, func(a, b overlayStatus) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Fleet, b.Fleet), cmp.Compare(a.Path, b.Path))
	})
	return view
}

// fleetOf names the Fleet of an overlay.
func fleetOf(o *v1alpha1.ClusterOverlay) client.ObjectKey {
	return client.ObjectKey{Namespace: o.Namespace, Name: o.Spec.FleetRef.Name}
}

func overlayStatusOf(o *v1alpha1.ClusterOverlay) overlayStatus {
	s := overlayStatus{
		Namespace: o.Namespace, Name: o.Name, Fleet: o.Spec.FleetRef.Name, Path: o.Spec.Path,
		Cluster: o.Status.Cluster, State: agent.StateOf(o), Objects: o.Status.Objects, Progress: o.Status.Progress,
		DesiredRevision: o.Status.DesiredRevision, DesiredSince: o.Status.DesiredSince,
		AppliedRevision: o.Status.AppliedRevision, ConvergedRevision: o.Status.ConvergedRevision,
		PendingDeletion: o.Status.PendingDeletion, Message: messageOf(o),
		DriftedObjects: o.Status.DriftedObjects, HeldCorrections: len(heldCorrections(o)),
	}
	if p := o.Status.Progress; p != nil {
		s.ControlPlane, s.Workers = replicasOf(p.ControlPlane), replicasOf(p.Workers)
	}
	for _, h := range o.Status.History {
		r := revisionStatus{
			Revision: h.Revision, Outcome: h.Outcome, Since: h.Since, Applied: h.Time, Converged: h.Converged, Message: h.Message,
		}
		r.AppliedAfterSeconds = secondsBetween(h.Since, &h.Time)
		r.ConvergedAfterSeconds = secondsBetween(h.Since, h.Converged)
		s.History = append(s.History, r)
	}
	return s
}

// secondsBetween is nil if one of the times isn't known. Clocks differ: it isn't
// negative.
func secondsBetween(from, to *metav1.Time) *int64 {
	if from.IsZero() || to.IsZero() {
		return nil
	}
	seconds := max(0, int64(to.Sub(from.Time).Seconds()))
	return &seconds
}

// problemOf returns the message of the first condition that is False. How far the
// machines are, progress says; and drift is no failure.
func problemOf(conditions []metav1.Condition) string {
	for _, c := range conditions {
		switch c.Type {
		case v1alpha1.PendingDeletionCondition, v1alpha1.ReadyCondition, v1alpha1.ConvergedCondition, v1alpha1.InSyncCondition:
		default:
			if c.Status == metav1.ConditionFalse {
				return c.Reason + ": " + c.Message
			}
		}
	}
	return ""
}

// messageOf is what a person has to know first of an overlay: what is wrong, what waits
// for an approval, what the machines wait for, what has drifted, what is kept; "" if all
// is well.
func messageOf(o *v1alpha1.ClusterOverlay) string {
	if problem := problemOf(o.Status.Conditions); problem != "" {
		return problem
	}
	pending, waiting := "", false
	if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.PendingDeletionCondition); c != nil && c.Message != "" {
		pending, waiting = c.Reason+": "+c.Message, c.Status == metav1.ConditionTrue
	}
	drift, held := "", false
	if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.InSyncCondition); c != nil && c.Status == metav1.ConditionFalse {
		drift, held = because(c.Reason, c.Message), c.Reason == v1alpha1.CorrectionHeldReason
	}
	switch {
	case waiting:
		return pending
	case held:
		return drift
	case o.Status.Progress != nil && o.Status.Progress.Message != "":
		return o.Status.Progress.Message
	}
	return cmp.Or(drift, pending)
}
