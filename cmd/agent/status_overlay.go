package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// overlayView is all that status shows of one overlay.
type overlayView struct {
	overlayStatus `json:",inline"`

	Suspended  bool               `json:"suspended,omitempty"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Drift says in a line what has drifted, "" if nothing has.
	Drift string `json:"-"`
	// Tree has the objects as they are now, so it may be ahead of Progress.
	Tree []capi.Node `json:"tree"`
	// Unread says what couldn't be read, and so is not in Tree or not sure.
	Unread []string `json:"unread,omitempty"`
}

// overlayViewOf is what status shows of an overlay, without its tree.
func overlayViewOf(o *v1alpha1.ClusterOverlay) overlayView {
	return overlayView{
		overlayStatus: overlayStatusOf(o), Suspended: o.Spec.Suspend, Conditions: o.Status.Conditions,
		Drift: driftText(o.Status.Drift, o.Status.DriftedObjects),
	}
}

// readOverlay reads the objects of an overlay.
func readOverlay(ctx context.Context, c client.Client, o *v1alpha1.ClusterOverlay) (overlayView, error) {
	v := overlayViewOf(o)
	live, err := readLive(ctx, c, o, time.Now())
	if err != nil {
		return v, err
	}
	v.Tree = capi.Tree(live.input, capi.Progress(live.input), live.unread)
	if v.Tree == nil {
		v.Tree = []capi.Node{}
	}
	v.Unread = live.problems
	return v, nil
}

func (v overlayView) warnings() []string {
	var all []string
	for _, why := range v.Unread {
		all = append(all, "warning: not all is shown: "+why)
	}
	return all
}

// text prints the overlay, its history and its tree.
func (v overlayView) text(out io.Writer, s style, now time.Time) error {
	if err := v.heading(out, s, now); err != nil {
		return err
	}
	if len(v.History) > 0 {
		fmt.Fprintln(out)
		if err := v.history(out, s, now); err != nil {
			return err
		}
	}
	if len(v.Tree) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	return treeTable(v.Tree, s).print(out, s, "")
}

// heading prints what there is to know of the overlay as a whole.
func (v overlayView) heading(out io.Writer, s style, now time.Time) error {
	title := v.Path
	if v.Suspended {
		title += " (suspended)"
	}
	fmt.Fprintln(out, oneLine(title))
	facts := table{header: []string{"", ""}, whole: true}
	paint := stateColor(v.State)
	add := func(name string, c color, texts ...string) {
		var parts []string
		for _, text := range texts {
			if text != "" {
				parts = append(parts, text)
			}
		}
		if len(parts) > 0 {
			facts.rows = append(facts.rows, []cell{{name, faint}, {strings.Join(parts, "  "), c}})
		}
	}
	add("overlay", noColor, v.Name+" of Fleet "+v.Namespace+"/"+v.Fleet)
	add("cluster", noColor, v.Cluster)
	add("state", paint, string(v.State), strings.TrimPrefix(s.progressText(v.Progress), "-"), leftText(v.Progress, now))
	if p := v.Progress; p != nil {
		for _, role := range []struct {
			name   string
			counts v1alpha1.MachineCounts
		}{{"control plane", p.ControlPlane}, {"workers", p.Workers}} {
			if role.counts != (v1alpha1.MachineCounts{}) {
				n := role.counts
				add(role.name, noColor, machinesText(n), fmt.Sprintf("(%d ready, %d up to date)", n.Ready, n.UpToDate))
			}
		}
	}
	if v.Progress != nil {
		add("waits for", paint, v.Progress.Message)
	}
	add("desired", noColor, v.DesiredRevision, agoText(v.DesiredSince, now))
	applied, converged := v.reached()
	add("applied", noColor, v.AppliedRevision, agoText(applied, now))
	add("converged", noColor, v.ConvergedRevision, agoText(converged, now))
	if v.Drift != "" {
		add("drift", yellow, v.Drift+"; see: capstan drift -n "+v.Namespace+" "+v.Name)
	}
	for _, c := range v.Conditions {
		if v.Drift != "" && c.Type == v1alpha1.InSyncCondition && c.Status == metav1.ConditionFalse {
			continue // said
		}
		if worthTelling(c) && (v.Progress == nil || c.Message != v.Progress.Message) {
			add(c.Type, noColor, string(c.Status)+", "+c.Reason+": "+c.Message)
		}
	}
	return facts.print(out, s, "  ")
}

// worthTelling says whether a condition is not as it should be. What isn't tracked never
// is, and Ready only says what others say.
func worthTelling(c metav1.Condition) bool {
	switch {
	case c.Reason == v1alpha1.NotTrackedReason, c.Type == v1alpha1.ReadyCondition:
		return false
	case c.Type == v1alpha1.PendingDeletionCondition:
		return c.Message != ""
	}
	return c.Status != metav1.ConditionTrue
}

// reached finds out when the revisions were applied and reached; nil if that is too long
// ago to be in the history.
func (v overlayView) reached() (applied, converged *metav1.Time) {
	for i := range v.History {
		h := &v.History[i]
		if applied == nil && h.Revision == v.AppliedRevision {
			applied = &h.Applied
		}
		if converged == nil && h.Revision == v.ConvergedRevision {
			converged = h.Converged
		}
	}
	return applied, converged
}

// history prints the latest revisions.
func (v overlayView) history(out io.Writer, s style, now time.Time) error {
	t := table{header: []string{"REVISION", "OUTCOME", "APPLIED", "APPLIED AFTER", "CONVERGED AFTER", "CHANGES"}}
	for _, h := range v.History {
		paint := noColor
		switch h.Outcome {
		case v1alpha1.OutcomeStalled:
			paint = red
		case v1alpha1.OutcomeConverged:
			paint = green
		case v1alpha1.OutcomeSuperseded:
			paint = faint
		case v1alpha1.OutcomeApplied:
		}
		t.rows = append(t.rows, []cell{
			{text: shortRevision(h.Revision)}, {cmp.Or(string(h.Outcome), "-"), paint}, {text: agoText(&h.Applied, now)},
			{text: secondsText(h.AppliedAfterSeconds)}, {text: secondsText(h.ConvergedAfterSeconds)}, {text: h.Message},
		})
	}
	return t.print(out, s, "")
}
