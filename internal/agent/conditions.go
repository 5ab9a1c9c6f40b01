package agent

import (
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
)

// maxMessage bounds what a status says, in bytes.
const maxMessage = 1024

// truncate cuts a text to what a status may hold, at a character's border.
func truncate(text string) string {
	const ellipsis = " …"
	if len(text) <= maxMessage {
		return text
	}
	cut := maxMessage - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + ellipsis
}

// setCondition sets one condition for a generation of the spec.
func setCondition(conditions *[]metav1.Condition, generation int64, kind string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason,
		Message: truncate(message), ObservedGeneration: generation,
	})
}

// untracked are the conditions that this version does not compute.
var untracked = map[string]string{
	v1alpha1.ValidCondition: "validation rules are not evaluated by this version",
}

// summarise sets the conditions that follow from others: those that are not
// tracked, Converged, and Ready.
func summarise(status *v1alpha1.ClusterOverlayStatus, generation int64, suspended bool) {
	for kind, message := range untracked {
		setCondition(&status.Conditions, generation, kind, metav1.ConditionUnknown, v1alpha1.NotTrackedReason, message)
	}
	if meta.FindStatusCondition(status.Conditions, v1alpha1.InSyncCondition) == nil {
		setCondition(&status.Conditions, generation, v1alpha1.InSyncCondition, metav1.ConditionUnknown, v1alpha1.NotWatchedReason, "not looked at yet")
	}
	// It is True of a deletion that was withdrawn by a commit which can't be applied.
	pending := meta.FindStatusCondition(status.Conditions, v1alpha1.PendingDeletionCondition)
	if status.PendingDeletion == nil && (pending == nil || pending.Status == metav1.ConditionTrue) {
		setCondition(&status.Conditions, generation, v1alpha1.PendingDeletionCondition, metav1.ConditionFalse, v1alpha1.NothingPendingReason, "")
	}
	set := func(kind string, c metav1.Condition) {
		setCondition(&status.Conditions, generation, kind, c.Status, c.Reason, c.Message)
	}
	set(v1alpha1.ConvergedCondition, convergence(status))
	if suspended {
		set(v1alpha1.ReadyCondition, metav1.Condition{
			Status: metav1.ConditionUnknown, Reason: v1alpha1.SuspendedReason,
			Message: "suspended; nothing is written to the overlay's objects",
		})
		return
	}
	set(v1alpha1.ReadyCondition, readiness(status.Conditions))
}

// readiness is the first of Rendered, Applied and Converged that is not True. As long as
// machines are on their way, or somebody is waited for, nothing is wrong.
func readiness(conditions []metav1.Condition) metav1.Condition {
	for _, kind := range []string{v1alpha1.RenderedCondition, v1alpha1.AppliedCondition, v1alpha1.ConvergedCondition} {
		c := meta.FindStatusCondition(conditions, kind)
		switch {
		case c == nil:
			return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ApplyingReason, Message: "not " + strings.ToLower(kind) + " yet"}
		case c.Status == metav1.ConditionTrue:
		case kind == v1alpha1.ConvergedCondition && c.Reason != v1alpha1.StalledReason && c.Reason != v1alpha1.DegradedReason:
			return metav1.Condition{Status: metav1.ConditionUnknown, Reason: c.Reason, Message: c.Message}
		default:
			return *c
		}
	}
	return metav1.Condition{Status: metav1.ConditionTrue, Reason: v1alpha1.ConvergedReason, Message: "the machines are there"}
}

// convergence is the condition Converged. It speaks of the desired revision: before that
// is applied the machines can't be there.
func convergence(status *v1alpha1.ClusterOverlayStatus) metav1.Condition {
	if status.AppliedRevision == "" || status.AppliedRevision != status.DesiredRevision ||
		!meta.IsStatusConditionTrue(status.Conditions, v1alpha1.AppliedCondition) {
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.NotAppliedReason, Message: "not everything is applied"}
	}
	p := status.Progress
	if p == nil {
		p = &v1alpha1.Progress{Phase: v1alpha1.PhaseProgressing, Message: unseen}
	}
	c := metav1.Condition{Status: metav1.ConditionFalse, Reason: string(p.Phase), Message: p.Message}
	switch p.Phase {
	case v1alpha1.PhaseConverged:
		c.Status, c.Message = metav1.ConditionTrue, "the machines are there"
	case v1alpha1.PhaseUnknown:
		c.Status, c.Reason = metav1.ConditionUnknown, v1alpha1.NotWatchedReason
	default:
		if h := status.History; len(h) > 1 && h[0].Revision == h[1].Revision && status.ConvergedRevision != h[0].Revision {
			c.Message = "applied again at the same commit, with other values or settings; " + c.Message
		}
	}
	return c
}
