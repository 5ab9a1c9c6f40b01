package commitstatus

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
)

// maxDescription is what GitHub takes (docs.github.com/rest/commits/statuses).
const maxDescription = 140

// untracked says what a success doesn't say yet.
const untracked = "whether machines follow is not tracked yet"

// sum puts a tally into a state and words.
func (t tally) sum(c *commit) (State, string) {
	switch {
	case len(t.failed) > 0:
		state, text := c.stateOf(t.failed[0])
		for _, o := range t.failed { // the commit's faults come before ours
			if s, words := c.stateOf(o); s == Failure && state != Failure {
				state, text, t.failed[0] = s, words, o
			}
		}
		text = t.failed[0].Spec.Path + ": " + text
		if t.total > 1 {
			text = fmt.Sprintf("%d of %s failed: %s", len(t.failed), overlays(t.total), text)
		}
		return state, text
	case len(t.waiting) > 0:
		_, text := c.stateOf(t.waiting[0])
		text = t.waiting[0].Spec.Path + ": " + text
		if t.total > 1 {
			text = fmt.Sprintf("%d of %s done; %s", t.total-len(t.waiting), overlays(t.total), text)
		}
		return Pending, text
	case t.superseded > 0 && c.entry.Overlays == nil:
		return Failure, "superseded by " + short(c.Tip) + " before all overlays were looked at"
	case t.superseded > 0:
		return Failure, fmt.Sprintf("superseded by later commits: %d of %s not done", t.superseded, overlays(t.total))
	case t.total == 0:
		return Success, "no cluster affected"
	case len(t.done) == 0:
		return Success, overlays(t.total) + " done"
	default:
		_, text := c.stateOf(t.done[0])
		if t.total > 1 {
			text = overlays(t.total) + " " + text
		}
		return Success, text
	}
}

// oursReasons are those of failures that the commit is not to blame for.
var oursReasons = []string{v1alpha1.TransientReason, v1alpha1.ForbiddenReason, v1alpha1.CredentialsReason}

// waitReasons are those of conditions that are False until somebody acts or a
// deletion ends.
var waitReasons = []string{v1alpha1.ClusterPausedReason, v1alpha1.ClusterDeletingReason}

// stateOf is the state of an overlay at its newest change.
func (in Input) stateOf(o *v1alpha1.ClusterOverlay) (State, string) {
	condition := func(kind string) metav1.Condition {
		if c := meta.FindStatusCondition(o.Status.Conditions, kind); c != nil {
			return *c
		}
		return metav1.Condition{}
	}
	ready, pending := condition(v1alpha1.ReadyCondition), o.Status.PendingDeletion
	converged := condition(v1alpha1.ConvergedCondition)
	switch {
	case in.desired(o) != Hash(o.Status.DesiredRevision):
		return Pending, "being applied" // what is recorded speaks of an older commit
	case o.Spec.Suspend || ready.Reason == v1alpha1.SuspendedReason:
		return Pending, "suspended: nothing is applied until it is resumed"
	case ready.Status == metav1.ConditionFalse && slices.Contains(waitReasons, ready.Reason):
		return Pending, first(ready.Message)
	case ready.Status == metav1.ConditionFalse && slices.Contains(oursReasons, ready.Reason):
		return Error, first(ready.Message)
	case ready.Status == metav1.ConditionFalse:
		return Failure, first(ready.Message)
	case pending != nil && pending.Approved:
		return Pending, "deleting, as approved"
	case pending != nil:
		return Pending, fmt.Sprintf("the deletion of %d objects waits: capstan approve %s", len(pending.Objects), o.Name)
	case o.Status.AppliedRevision == "" || o.Status.AppliedRevision != o.Status.DesiredRevision,
		ready.Reason == v1alpha1.ProgressingReason: // the same commit with other values of variables
		return Pending, "being applied"
	case converged.Status == metav1.ConditionTrue && o.Status.ConvergedRevision == o.Status.DesiredRevision:
		return Success, "converged"
	case converged.Reason == v1alpha1.NotTrackedReason:
		return Success, "applied; " + untracked
	default:
		return Pending, "applied; " + first(converged.Message)
	}
}

// first is the first useful part of a message: its first line, and the second if the
// first only announces it.
func first(message string) string {
	lines := strings.Split(strings.TrimSpace(message), "\n")
	text := lines[0]
	if strings.HasSuffix(text, ":") && len(lines) > 1 {
		text += " " + lines[1]
	}
	return strings.Join(strings.Fields(text), " ")
}

// cut shortens a text to a number of characters.
func cut(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return strings.TrimRight(string([]rune(text)[:most-1]), " ") + "…"
}

func overlays(n int) string {
	if n == 1 {
		return "1 overlay"
	}
	return fmt.Sprintf("%d overlays", n)
}

func short(hash string) string { return hash[:min(len(hash), 7)] }
