package commitstatus

import (
	"cmp"
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
			there := t.total - len(t.waiting) - t.superseded - t.unknown
			text = fmt.Sprintf("%d of %s converged; %s", there, overlays(t.total), text)
		}
		return Pending, text
	case t.superseded > 0 && c.entry.Overlays == nil:
		return Failure, "superseded by " + short(c.Tip) + " before all overlays were looked at"
	case t.superseded > 0:
		return Failure, fmt.Sprintf("superseded by later commits: %d of %s not converged", t.superseded, overlays(t.total))
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

// phaseReasons are those of a Ready condition that is False because of the machines.
var phaseReasons = []string{v1alpha1.StalledReason, v1alpha1.DegradedReason, v1alpha1.WaitingReason}

// stateOf is the state of an overlay at its newest change.
func (in Input) stateOf(o *v1alpha1.ClusterOverlay) (State, string) {
	status := &o.Status
	ready, pending := condition(o, v1alpha1.ReadyCondition), status.PendingDeletion
	applied := status.AppliedRevision != "" && status.AppliedRevision == status.DesiredRevision
	refused := ready.Status == metav1.ConditionFalse && !slices.Contains(phaseReasons, ready.Reason)
	switch {
	case in.desired(o) != Hash(status.DesiredRevision):
		return Pending, "being applied" // what is recorded speaks of an older commit
	case applied && status.ConvergedRevision == status.DesiredRevision:
		// It got there, and that stays true of the commit whatever comes later. The
		// text stays the same too: it would be posted again for each machine that fails.
		return Success, converged
	case o.Spec.Suspend || ready.Reason == v1alpha1.SuspendedReason:
		return Pending, "suspended: nothing is applied until it is resumed"
	case refused && slices.Contains(waitReasons, ready.Reason):
		return Pending, first(ready.Message)
	case refused && slices.Contains(oursReasons, ready.Reason):
		return Error, first(ready.Message)
	case refused:
		return Failure, first(ready.Message)
	case pending != nil && pending.Reason != v1alpha1.ObjectsRemovedReason && pending.Approved:
		return Pending, deleting
	case pending != nil && pending.Reason != v1alpha1.ObjectsRemovedReason:
		return Pending, deletionWaits(o.Name)
	case pending != nil && pending.Approved:
		return Pending, fmt.Sprintf("deleting %d objects, as approved", len(pending.Objects))
	case pending != nil:
		return Pending, fmt.Sprintf("the deletion of %d objects waits: capstan approve %s", len(pending.Objects), o.Name)
	case !applied:
		return Pending, "being applied"
	default:
		return machines(o, ready)
	}
}

// machines is the state of an overlay that is applied, and that its machines have not
// reached yet.
func machines(o *v1alpha1.ClusterOverlay, ready metav1.Condition) (State, string) {
	c := condition(o, v1alpha1.ConvergedCondition)
	why, counts := first(c.Message), ""
	if p := o.Status.Progress; p != nil {
		why = cmp.Or(why, first(p.Message))
		counts = counted(p, why)
	}
	switch {
	case ready.Reason == v1alpha1.ApplyingReason:
		return Pending, "being applied" // once more, with other values of variables
	case c.Reason == v1alpha1.StalledReason && counts != "":
		return Failure, "stalled at " + join(": ", counts, why)
	case c.Reason == v1alpha1.StalledReason:
		return Failure, join(": ", "stalled", why)
	case c.Reason == v1alpha1.ProgressingReason, c.Reason == v1alpha1.WaitingReason:
		return Pending, cmp.Or(join(": ", counts, why), "applied; its machines are on their way")
	case c.Reason == v1alpha1.NotWatchedReason, c.Reason == string(v1alpha1.PhaseUnknown):
		const unwatched = "can't be watched"
		if strings.HasPrefix(why, unwatched) {
			return Pending, why
		}
		return Pending, join(": ", unwatched, why)
	default: // that was said of an older revision
		return Pending, "applied; its machines are being looked at"
	}
}

// counted says how many machines are there, and of which role some are missing, unless
// the text that follows says that.
func counted(p *v1alpha1.Progress, why string) string {
	desired := p.ControlPlane.Desired + p.Workers.Desired
	if desired == 0 {
		return ""
	}
	text := fmt.Sprintf("%d of %d machines", p.ControlPlane.Done+p.Workers.Done, desired)
	if p.ControlPlane.Desired == 0 || p.Workers.Desired == 0 {
		return text
	}
	var missing []string
	for _, role := range []struct {
		name string
		v1alpha1.MachineCounts
	}{{"control plane", p.ControlPlane}, {"workers", p.Workers}} {
		text := fmt.Sprintf("%s %d of %d", role.name, role.Done, role.Desired)
		if role.Done < role.Desired && !strings.Contains(why, text) {
			missing = append(missing, text)
		}
	}
	return join("; ", text, strings.Join(missing, ", "))
}

// condition is a condition of an overlay, the zero one if it isn't set.
func condition(o *v1alpha1.ClusterOverlay, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(o.Status.Conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// join joins what is not empty.
func join(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), separator)
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
