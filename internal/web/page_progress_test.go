package web

import (
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"capstan.dev/capstan/api/v1alpha1"
)

// at is a time after the epoch of these tests.
func at(minutes int) *metav1.Time {
	t := metav1.NewTime(time.Date(2026, 5, 1, 12, minutes, 0, 0, time.UTC))
	return &t
}

// progressing is an overlay whose workers are on their way.
func progressing() v1alpha1.ClusterOverlay {
	o := v1alpha1.ClusterOverlay{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a-beta-01234567"}, Spec: v1alpha1.ClusterOverlaySpec{Path: "clusters/beta"}}
	o.Status = v1alpha1.ClusterOverlayStatus{
		DesiredRevision: "main@sha1:" + pushed, AppliedRevision: "main@sha1:" + pushed, ConvergedRevision: "main@sha1:" + known,
		Progress: &v1alpha1.Progress{
			Phase: v1alpha1.PhaseProgressing, Message: "machine <b>w-1</b> \u202eboots",
			ControlPlane: v1alpha1.MachineCounts{Desired: 3, Existing: 3, Ready: 3, UpToDate: 3, Done: 3},
			Workers:      v1alpha1.MachineCounts{Desired: 4, Existing: 5, Ready: 2, UpToDate: 3, Done: 1},
			StartTime:    at(0), AdvanceTime: at(4), EstimatedTime: at(20),
		},
		History: []v1alpha1.HistoryEntry{
			{Revision: "main@sha1:" + pushed, Outcome: v1alpha1.OutcomeApplied, Since: at(0), Time: *at(1), Message: "1 configured"},
			{Revision: "main@sha1:" + known, Outcome: v1alpha1.OutcomeConverged, Since: at(-30), Time: *at(-29), Converged: at(-12), Message: "9 created"},
		},
		Conditions: []metav1.Condition{
			{Type: "Rendered", Status: metav1.ConditionTrue, Reason: "Succeeded"},
			{Type: "Converged", Status: metav1.ConditionFalse, Reason: "Progressing", Message: "machine w-1 boots"},
		},
	}
	return o
}

func progressPages(t *testing.T, change func(*v1alpha1.ClusterOverlay)) (fleet, overlay string) {
	t.Helper()
	o := progressing()
	change(&o)
	b := newBed(t, func(options *Options) {
		pages := show()
		pages.overlays = append(pages.overlays, o)
		pages.fleet.Status.AppliedRevision, pages.fleet.Status.ConvergedRevision = "main@sha1:"+pushed, "main@sha1:"+known
		options.Pages, options.Clock = pages, clocktesting.NewFakePassiveClock(at(10).Time)
	})
	for path, page := range map[string]*string{"/fleets/ns/a": &fleet, "/fleets/ns/a/a-beta-01234567": &overlay} {
		code, text, _ := b.get(http.MethodGet, path)
		if code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, code, text)
		}
		*page = text
	}
	return fleet, overlay
}

// contains fails for what a page lacks, and for what it has and should not.
func contains(t *testing.T, page string, want, never []string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(page, w) {
			t.Errorf("lacks %q:\n%s", w, page)
		}
	}
	for _, n := range append(never, "<script", "<b>", "<img", "\u202e", "onclick", "style=") {
		if strings.Contains(page, n) {
			t.Errorf("has %q:\n%s", n, page)
		}
	}
}

func TestProgressPages(t *testing.T) {
	t.Parallel()
	fleet, overlay := progressPages(t, func(*v1alpha1.ClusterOverlay) {})
	contains(t, fleet, []string{
		`<progress max="3" value="0"></progress> 0 of 3 overlays converged`,
		"<td><code>main@abcdefab</code></td><td><code>main@abcdefab</code></td><td><code>main@01234567</code></td>",
		`<progress max="7" value="4"></progress> 4 of 7`,
		"Progressing: machine &lt;b&gt;w-1&lt;/b&gt; ·boots", "12:20 UTC, in about 10m",
	}, nil)
	contains(t, overlay, []string{
		"Progressing: machine &lt;b&gt;w-1&lt;/b&gt; ·boots",
		"applied or changed 2026-05-01 12:00:00 UTC", "came nearer 2026-05-01 12:04:00 UTC", "expected 12:20 UTC, in about 10m",
		`<td>control plane</td><td><progress max="3" value="3"></progress> 3 of 3</td><td>3</td><td>3</td><td>3</td>`,
		`<td>workers</td><td><progress max="4" value="1"></progress> 1 of 4</td><td>5</td><td>2</td><td>3</td>`,
		`<td class="Applied">Applied</td><td>2026-05-01 12:00:00 UTC</td><td>2026-05-01 12:01:00 UTC, after 60s</td><td>-</td>`,
		`<td class="Converged">Converged</td><td>2026-05-01 11:30:00 UTC</td><td>2026-05-01 11:31:00 UTC, after 60s</td><td>2026-05-01 11:48:00 UTC, after 18m</td>`,
	}, nil)
}

// What is over is not expected, what is there waits for nothing, and what is wrong
// before the machines comes first.
func TestProgressPagesOfOthers(t *testing.T) {
	t.Parallel()
	overdue := func(o *v1alpha1.ClusterOverlay) { o.Status.Progress.EstimatedTime = at(9) }
	done := func(o *v1alpha1.ClusterOverlay) {
		o.Status.Progress.Phase, o.Status.Progress.Message = v1alpha1.PhaseConverged, ""
		o.Status.ConvergedRevision = o.Status.DesiredRevision
		o.Status.Conditions[1].Status, o.Status.Conditions[1].Reason, o.Status.Conditions[1].Message = metav1.ConditionTrue, "Converged", "all there"
	}
	without := func(o *v1alpha1.ClusterOverlay) {
		o.Status.Progress.ControlPlane, o.Status.Progress.Workers = v1alpha1.MachineCounts{}, v1alpha1.MachineCounts{}
	}
	unknown := func(o *v1alpha1.ClusterOverlay) { o.Status.Progress = nil }
	broken := func(o *v1alpha1.ClusterOverlay) {
		o.Status.Conditions = append(o.Status.Conditions, metav1.Condition{Type: "Applied", Status: metav1.ConditionFalse, Reason: "Invalid", Message: "refused"})
	}
	there := func(name string) string {
		if name == "there" {
			return `<progress max="3" value="1"></progress> 1 of 3 overlays converged · <span class="Converged">1 Converged</span>`
		}
		return "0 of 3 overlays converged"
	}
	for name, test := range map[string]struct {
		change      func(*v1alpha1.ClusterOverlay)
		want, never []string
	}{
		"overdue":          {overdue, []string{"came nearer"}, []string{"expected"}},
		"there":            {done, []string{`<span class="Converged">Converged</span>`}, []string{"expected", "came nearer", "<h2>Waits for"}},
		"without machines": {without, []string{`<td colspan="5">none</td>`}, []string{"<progress"}},
		"unknown":          {unknown, []string{`<p class="message">Progressing: machine w-1 boots</p>`}, []string{"<h2>Progress"}},
		"broken":           {broken, []string{"<p class=\"message\">Invalid: refused\nProgressing: machine"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fleet, overlay := progressPages(t, test.change)
			contains(t, overlay, test.want, test.never)
			contains(t, fleet, []string{there(name)}, nil)
		})
	}
}

// A text from outside stays a text wherever it is shown, in attributes as well.
func TestPagesEscape(t *testing.T) {
	t.Parallel()
	const evil = `"><b>x</b><p onmouseover=`
	_, overlay := progressPages(t, func(o *v1alpha1.ClusterOverlay) {
		o.Status.Progress.Phase, o.Status.Progress.Message = evil, evil
		o.Status.History[0].Outcome, o.Status.History[0].Message, o.Status.History[0].Revision = evil, evil, evil
		o.Status.Cluster, o.Status.ConvergedRevision = evil, evil
	})
	contains(t, overlay, []string{`<span class="&#34;&gt;&lt;b&gt;x`, "<td class=\"message\">&#34;&gt;&lt;b&gt;x"}, []string{`">` + "<b>", "<p onmouseover"})
}
