package agent

import (
	"context"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/live"
	"capstan.dev/capstan/internal/source"
)

func TestPostpone(t *testing.T) {
	for _, c := range []struct{ written, recheck, want time.Duration }{
		{0, 0, wordsPause},
		{0, time.Minute, wordsPause},
		{0, time.Second, time.Second}, // success may be due then
		{wordsPause - time.Millisecond, time.Second, time.Millisecond},
		{wordsPause, time.Second, 0},
		{time.Hour, 0, 0},
	} {
		if got := postpone(c.written, c.recheck); got != c.want {
			t.Errorf("written %s ago, due in %s: again in %s, want %s", c.written, c.recheck, got, c.want)
		}
	}
}

// One at a time works on an overlay, whoever waits gets the turn, and nobody is kept on
// record afterwards.
func TestTurns(t *testing.T) {
	turns := &turns{held: map[types.NamespacedName]*turn{}}
	name := types.NamespacedName{Name: "a"}
	var wait sync.WaitGroup
	inside, most, tried := 0, 0, 0
	for range 50 {
		wait.Go(func() {
			for range 20 {
				end := turns.take(name)
				inside++ // the race detector watches, too
				most = max(most, inside)
				inside--
				end()
				if end := turns.try(name, func() {}); end != nil {
					tried++
					end()
				}
			}
		})
	}
	wait.Wait()
	if most != 1 || len(turns.held) != 0 {
		t.Errorf("%d at once, %d on record", most, len(turns.held))
	}
	end := turns.take(name)
	if turns.try(name, func() {}) != nil {
		t.Error("two have the turn")
	}
	if other := turns.try(types.NamespacedName{Name: "b"}, func() {}); other == nil {
		t.Error("another overlay is kept waiting")
	} else {
		other()
	}
	end()
	if end := turns.try(name, func() {}); end == nil {
		t.Error("nobody has the turn, and it isn't given")
	} else {
		end()
	}
}

// A doubt counts once it has lasted, and begins anew after it was over.
func TestDoubts(t *testing.T) {
	d := &doubts{since: map[types.NamespacedName]time.Time{}}
	name, start := types.NamespacedName{Name: "a"}, time.Now()
	for i, step := range []struct {
		after    time.Duration
		doubtful bool
		want     time.Duration
	}{
		{0, false, 0}, {time.Second, true, doubtFor}, {11 * time.Second, true, doubtFor - 10*time.Second}, {12 * time.Second, false, 0},
		{20 * time.Second, true, doubtFor}, {20*time.Second + doubtFor, true, 0}, {time.Hour, true, 0}, {time.Hour, false, 0},
	} {
		if got := d.left(name, step.doubtful, start.Add(step.after)); got != step.want {
			t.Errorf("step %d: %s left, want %s", i, got, step.want)
		}
	}
	if len(d.since) != 0 {
		t.Errorf("on record: %v", d.since)
	}
}

// Only what is said of no machine is doubted.
func TestDoubtful(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *capi.Report)
		want   bool
	}{
		"a control plane out of reach": {func(*capi.Report) {}, true},
		"converged":                    {func(r *capi.Report) { r.Phase = v1alpha1.PhaseConverged }, false},
		"given up":                     {func(r *capi.Report) { r.Phase = v1alpha1.PhaseStalled }, false},
		"paused":                       {func(r *capi.Report) { r.Phase = v1alpha1.PhaseWaiting }, false},
		"an object is gone":            {func(r *capi.Report) { r.Partial = true }, false},
		"a worker is ill":              {func(r *capi.Report) { r.Workers.Done-- }, false},
		"a control plane's is ill":     {func(r *capi.Report) { r.ControlPlane.Done-- }, false},
		"one too many":                 {func(r *capi.Report) { r.Workers.Existing++ }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := capi.Report{
				Phase:        v1alpha1.PhaseProgressing,
				ControlPlane: v1alpha1.MachineCounts{Desired: 1, Existing: 1, Done: 1}, Workers: v1alpha1.MachineCounts{Desired: 3, Existing: 3, Done: 3},
			}
			c.change(&r)
			if got := doubtful(r); got != c.want {
				t.Errorf("%t, want %t", got, c.want)
			}
		})
	}
}

// What controllers say of objects without a generation stands since it changed last.
func TestStill(t *testing.T) {
	s, name, start := &still{seen: map[types.NamespacedName]sameState{}}, types.NamespacedName{Name: "a"}, time.Now()
	for i, step := range []struct {
		state string
		want  time.Duration
	}{{"x", 0}, {"x", 0}, {"y", 2}, {"y", 2}, {"x", 4}} {
		if got := s.since(name, step.state, start.Add(time.Duration(i))); got != start.Add(step.want) {
			t.Errorf("step %d, %s: since %d, want %d", i, step.state, got.Sub(start), step.want)
		}
	}
	s.since(types.NamespacedName{Name: "b"}, "x", start)
	s.since(name, "", start)
	if len(s.seen) != 1 || s.seen[name].state != "" {
		t.Errorf("on record: %v", s.seen)
	}
}

// noMachines are live objects without Machines.
type noMachines struct{ LiveObjects }

func (noMachines) Machines(context.Context, types.NamespacedName) ([]*unstructured.Unstructured, error) {
	return nil, nil
}

// What has no generation is believed once it stood for a moment, after the apply and after it
// changed last.
func TestConfirmWaits(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 10, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, c := range map[string]struct {
		unversioned    string
		settles        time.Duration
		applied, still time.Time
		want           v1alpha1.Phase
		again          time.Duration
	}{
		"applied just now":          {"x", 0, ago(time.Second), ago(time.Minute), v1alpha1.PhaseProgressing, time.Second},
		"changed just now":          {"x", 0, ago(time.Minute), ago(steady / 4), v1alpha1.PhaseProgressing, steady * 3 / 4},
		"neither":                   {"x", 0, ago(time.Minute), ago(steady), v1alpha1.PhaseConverged, 0},
		"all say which generation":  {"", 0, ago(time.Second), time.Time{}, v1alpha1.PhaseConverged, 0},
		"a change before the apply": {"x", 0, ago(2 * time.Second), ago(time.Hour), v1alpha1.PhaseConverged, 0},
		"a class was applied":       {"x", 9 * time.Second, ago(4 * time.Second), ago(time.Hour), v1alpha1.PhaseProgressing, 6 * time.Second},
		"a class, a while ago":      {"x", 9 * time.Second, ago(10 * time.Second), ago(time.Hour), v1alpha1.PhaseConverged, 0},
	} {
		t.Run(name, func(t *testing.T) {
			run := &overlayRun{overlayReconciler: &overlayReconciler{
				clock: clocktesting.NewFakePassiveClock(now), objects: noMachines{}, written: &written{},
			}}
			run.status.History = []v1alpha1.HistoryEntry{{Time: metav1.NewTime(c.applied)}}
			report, again := run.confirm(t.Context(), live.View{}, capi.Report{Phase: v1alpha1.PhaseConverged, Unversioned: c.unversioned, Settles: c.settles}, c.still)
			if report.Phase != c.want || again != c.again {
				t.Errorf("%s, again after %s; want %s, %s", report.Phase, again, c.want, c.again)
			}
		})
	}
}

// A change came into Git when its commit was made, but between the look that didn't find
// it and the one that did.
func TestSighted(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC) }
	type look struct {
		tip            string
		committed, now int
		want           int
	}
	for name, looks := range map[string][]look{
		"the first look, at an old repository":   {{"1", 0, 30, 10}}, // the Fleet was made at 10
		"the first look, at a commit since then": {{"1", 20, 30, 20}},
		"a push between two looks":               {{"1", 0, 30, 10}, {"2", 33, 35, 33}},
		"an old commit pushed now":               {{"1", 0, 30, 10}, {"2", 5, 35, 30}},
		"a clock that is ahead":                  {{"1", 0, 30, 10}, {"2", 50, 35, 35}},
		"the same again":                         {{"1", 0, 30, 10}, {"2", 33, 35, 33}, {"2", 33, 40, 33}},
		"back again":                             {{"1", 0, 30, 10}, {"2", 33, 35, 33}, {"1", 0, 40, 35}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoard(func(types.NamespacedName) {})
			for i, l := range looks {
				s := &source.Snapshot{Revision: source.Revision{Hash: l.tip}, Time: at(l.committed)}
				if got := b.sight(testFleet, s, at(10), at(l.now), at(l.now)); !got.Equal(at(l.want)) {
					t.Errorf("look %d: %s, want %s", i, got, at(l.want))
				}
			}
		})
	}
}

// Words alone wait; anything else that is new is written at once.
func TestOnlyWords(t *testing.T) {
	was := v1alpha1.ClusterOverlayStatus{
		AppliedRevision: "1", DesiredRevision: "1",
		Progress: &v1alpha1.Progress{Phase: v1alpha1.PhaseProgressing, Message: "boots", Workers: v1alpha1.MachineCounts{Desired: 3, Ready: 1}},
	}
	setCondition(&was.Conditions, 1, v1alpha1.AppliedCondition, metav1.ConditionTrue, v1alpha1.SucceededReason, "")
	summarise(&was, 1, false)
	for name, c := range map[string]struct {
		change func(*v1alpha1.ClusterOverlayStatus)
		want   bool
	}{
		"nothing":      {func(*v1alpha1.ClusterOverlayStatus) {}, false},
		"a message":    {func(s *v1alpha1.ClusterOverlayStatus) { s.Progress.Message = "joins" }, true},
		"a score":      {func(s *v1alpha1.ClusterOverlayStatus) { s.Progress.Score++ }, true},
		"a count":      {func(s *v1alpha1.ClusterOverlayStatus) { s.Progress.Workers.Ready++ }, false},
		"a phase":      {func(s *v1alpha1.ClusterOverlayStatus) { s.Progress.Phase = v1alpha1.PhaseStalled }, false},
		"converged":    {func(s *v1alpha1.ClusterOverlayStatus) { s.ConvergedRevision = "1" }, false},
		"no progress":  {func(s *v1alpha1.ClusterOverlayStatus) { s.Progress = nil }, false},
		"a generation": {func(s *v1alpha1.ClusterOverlayStatus) { s.ObservedGeneration++; s.Progress.Message = "joins" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			is := was.DeepCopy()
			c.change(is)
			summarise(is, 1, false)
			if got := onlyWords(&was, is); got != c.want {
				t.Errorf("%t, want %t", got, c.want)
			}
		})
	}
}

// Converged and Ready follow the progress, and only of what is desired and applied.
func TestConvergence(t *testing.T) {
	type state struct{ converged, ready string }
	say := func(c metav1.Condition) string { return string(c.Status) + " " + c.Reason }
	base := func() v1alpha1.ClusterOverlayStatus {
		s := v1alpha1.ClusterOverlayStatus{DesiredRevision: "2", AppliedRevision: "2", Progress: &v1alpha1.Progress{Phase: v1alpha1.PhaseConverged}}
		setCondition(&s.Conditions, 1, v1alpha1.RenderedCondition, metav1.ConditionTrue, v1alpha1.SucceededReason, "")
		setCondition(&s.Conditions, 1, v1alpha1.AppliedCondition, metav1.ConditionTrue, v1alpha1.SucceededReason, "")
		return s
	}
	in := func(phase v1alpha1.Phase) func(*v1alpha1.ClusterOverlayStatus) {
		return func(s *v1alpha1.ClusterOverlayStatus) { s.Progress.Phase = phase }
	}
	for name, c := range map[string]struct {
		change func(*v1alpha1.ClusterOverlayStatus)
		want   state
	}{
		"converged":     {in(v1alpha1.PhaseConverged), state{"True Converged", "True Converged"}},
		"progressing":   {in(v1alpha1.PhaseProgressing), state{"False Progressing", "Unknown Progressing"}},
		"waiting":       {in(v1alpha1.PhaseWaiting), state{"False Waiting", "Unknown Waiting"}},
		"stalled":       {in(v1alpha1.PhaseStalled), state{"False Stalled", "False Stalled"}},
		"degraded":      {in(v1alpha1.PhaseDegraded), state{"False Degraded", "False Degraded"}},
		"not watched":   {in(v1alpha1.PhaseUnknown), state{"Unknown NotWatched", "Unknown NotWatched"}},
		"not looked at": {func(s *v1alpha1.ClusterOverlayStatus) { s.Progress = nil }, state{"False Progressing", "Unknown Progressing"}},
		"an older one":  {func(s *v1alpha1.ClusterOverlayStatus) { s.DesiredRevision = "3" }, state{"False NotApplied", "Unknown NotApplied"}},
		"a mixture": {func(s *v1alpha1.ClusterOverlayStatus) {
			setCondition(&s.Conditions, 1, v1alpha1.AppliedCondition, metav1.ConditionFalse, v1alpha1.InvalidReason, "no")
		}, state{"False NotApplied", "False Invalid"}},
		"does not render": {func(s *v1alpha1.ClusterOverlayStatus) {
			setCondition(&s.Conditions, 1, v1alpha1.RenderedCondition, metav1.ConditionFalse, v1alpha1.RenderFailedReason, "no")
		}, state{"True Converged", "False RenderFailed"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := base()
			c.change(&s)
			got := convergence(&s)
			setCondition(&s.Conditions, 1, v1alpha1.ConvergedCondition, got.Status, got.Reason, got.Message)
			if is := (state{say(got), say(readiness(s.Conditions))}); is != c.want {
				t.Errorf("%v, want %v", is, c.want)
			}
		})
	}
}

// The same commit applied once more says why the machines are waited for again.
func TestAppliedAgain(t *testing.T) {
	s := v1alpha1.ClusterOverlayStatus{
		DesiredRevision: "2", AppliedRevision: "2", Progress: &v1alpha1.Progress{Phase: v1alpha1.PhaseProgressing, Message: "boots"},
		History: []v1alpha1.HistoryEntry{{Revision: "2", RenderDigest: "b"}, {Revision: "2", RenderDigest: "a"}},
	}
	setCondition(&s.Conditions, 1, v1alpha1.AppliedCondition, metav1.ConditionTrue, v1alpha1.SucceededReason, "")
	if got, want := convergence(&s).Message, "applied again at the same commit, with other values or settings; boots"; got != want {
		t.Errorf("%q", got)
	}
	s.History = s.History[:1]
	if got, want := convergence(&s).Message, "boots"; got != want {
		t.Errorf("%q", got)
	}
}
