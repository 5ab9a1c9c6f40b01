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
	v1alpha1.ValidCondition:     "validation rules are not evaluated by this version",
	v1alpha1.InSyncCondition:    "drift is not tracked by this version",
	v1alpha1.ConvergedCondition: "convergence is not tracked by this version",
}

// summarise sets the conditions that follow from others: those that are not
// tracked, and Ready.
func summarise(status *v1alpha1.ClusterOverlayStatus, generation int64, suspended bool) {
	for kind, message := range untracked {
		setCondition(&status.Conditions, generation, kind, metav1.ConditionUnknown, v1alpha1.NotTrackedReason, message)
	}
	if status.PendingDeletion == nil && meta.FindStatusCondition(status.Conditions, v1alpha1.PendingDeletionCondition) == nil {
		setCondition(&status.Conditions, generation, v1alpha1.PendingDeletionCondition, metav1.ConditionFalse, v1alpha1.NothingPendingReason, "")
	}
	ready := readiness(status.Conditions)
	if suspended {
		ready = metav1.Condition{
			Status: metav1.ConditionUnknown, Reason: v1alpha1.SuspendedReason,
			Message: "suspended; nothing is written to the overlay's objects",
		}
	}
	setCondition(&status.Conditions, generation, v1alpha1.ReadyCondition, ready.Status, ready.Reason, ready.Message)
}

// readiness is the first of Rendered and Applied that is not True; if both are,
// it is not known whether the machines are there.
func readiness(conditions []metav1.Condition) metav1.Condition {
	for _, kind := range []string{v1alpha1.RenderedCondition, v1alpha1.AppliedCondition} {
		c := meta.FindStatusCondition(conditions, kind)
		if c == nil {
			return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ProgressingReason, Message: "not " + strings.ToLower(kind) + " yet"}
		}
		if c.Status != metav1.ConditionTrue {
			return *c
		}
	}
	return metav1.Condition{
		Status: metav1.ConditionUnknown, Reason: v1alpha1.NotTrackedReason,
		Message: "applied; " + untracked[v1alpha1.ConvergedCondition],
	}
}
