package capi

import (
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/api/v1alpha1"
)

const (
	converged   = v1alpha1.PhaseConverged
	progressing = v1alpha1.PhaseProgressing
	waits       = v1alpha1.PhaseWaiting
	stalled     = v1alpha1.PhaseStalled
	degraded    = v1alpha1.PhaseDegraded
)

var began = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// A moment is what is seen of an overlay so many minutes after the beginning.
type moment struct {
	at           float64
	phase        v1alpha1.Phase
	score        int64
	fresh        bool
	hadConverged bool
	workers      int32 // desired
	partial      bool
	// What is to come of it.
	want    v1alpha1.Phase
	best    int64
	advance float64
	again   time.Duration
}

func TestFollow(t *testing.T) {
	for name, story := range map[string][]moment{
		"straight": {
			{at: 0, phase: progressing, score: 1, want: progressing, best: 1, advance: 0, again: 30 * time.Minute},
			{at: 10, phase: progressing, score: 5, want: progressing, best: 5, advance: 10, again: 30 * time.Minute},
			{at: 20, phase: progressing, score: 5, want: progressing, best: 5, advance: 10, again: 20 * time.Minute},
			{at: 25, phase: converged, score: 9, want: converged, best: 9, advance: 25},
			{at: 99, phase: converged, score: 9, hadConverged: true, want: converged, best: 9, advance: 25},
		},
		"a flapping machine makes no progress": {
			{at: 0, phase: progressing, score: 5, want: progressing, best: 5, again: 30 * time.Minute},
			{at: 10, phase: progressing, score: 2, want: progressing, best: 5, again: 20 * time.Minute},
			{at: 20, phase: progressing, score: 5, want: progressing, best: 5, again: 10 * time.Minute},
			{at: 30, phase: progressing, score: 4, want: stalled, best: 5},
			{at: 31, phase: progressing, score: 5, want: stalled, best: 5},
			{at: 40, phase: progressing, score: 6, want: progressing, best: 6, advance: 40, again: 30 * time.Minute},
		},
		"a controller gives up, and goes on": {
			{at: 0, phase: progressing, score: 5, want: progressing, best: 5, again: 30 * time.Minute},
			{at: 1, phase: stalled, score: 4, want: stalled, best: 5},
			{at: 2, phase: progressing, score: 5, want: progressing, best: 5, again: 28 * time.Minute},
		},
		"degraded, and well again": {
			{at: 0, phase: converged, score: 9, want: converged, best: 9},
			{at: 60, phase: progressing, score: 4, hadConverged: true, want: degraded, best: 9},
			{at: 99, phase: stalled, score: 4, hadConverged: true, want: degraded, best: 9},
			{at: 100, phase: converged, score: 9, hadConverged: true, want: converged, best: 9},
		},
		"something else is applied": {
			{at: 0, phase: converged, score: 9, want: converged, best: 9},
			{at: 60, phase: progressing, score: 4, fresh: true, want: progressing, best: 4, advance: 60, again: 30 * time.Minute},
			// Another revision with the same objects has converged before.
			{at: 61, phase: progressing, score: 5, hadConverged: true, want: progressing, best: 5, advance: 61, again: 30 * time.Minute},
			{at: 91, phase: progressing, score: 5, hadConverged: true, want: stalled, best: 5, advance: 61},
		},
		"a pause is nobody's delay": {
			{at: 0, phase: progressing, score: 5, want: progressing, best: 5, again: 30 * time.Minute},
			{at: 20, phase: waits, score: 5, want: waits, best: 5},
			{at: 500, phase: waits, score: 5, want: waits, best: 5},
			{at: 600, phase: progressing, score: 5, want: progressing, best: 5, advance: 600, again: 30 * time.Minute},
		},
		"paused after it had converged": {
			{at: 0, phase: converged, score: 9, want: converged, best: 9},
			{at: 1, phase: waits, score: 8, hadConverged: true, want: waits, best: 9},
			{at: 2, phase: progressing, score: 8, hadConverged: true, want: degraded, best: 9, advance: 2},
		},
		"an autoscaler wants more": {
			{at: 0, phase: converged, score: 30, workers: 3, want: converged, best: 30},
			{at: 600, phase: progressing, score: 31, workers: 5, hadConverged: true, want: progressing, best: 31, advance: 600, again: 30 * time.Minute},
			{at: 610, phase: progressing, score: 31, workers: 5, hadConverged: true, want: progressing, best: 31, advance: 600, again: 20 * time.Minute},
			{at: 630, phase: progressing, score: 31, workers: 5, hadConverged: true, want: stalled, best: 31, advance: 600},
			{at: 640, phase: converged, score: 50, workers: 5, hadConverged: true, want: converged, best: 50, advance: 640},
			{at: 700, phase: progressing, score: 45, workers: 5, hadConverged: true, want: degraded, best: 50, advance: 640},
		},
		// Five machines can't reach what ten have: each of them counts 10 at most.
		"an autoscaler wants fewer in a rollout": {
			{at: 0, phase: progressing, score: 80, workers: 10, want: progressing, best: 80, again: 30 * time.Minute},
			{at: 5, phase: progressing, score: 20, workers: 5, want: progressing, best: 30, again: 25 * time.Minute},
			{at: 20, phase: progressing, score: 40, workers: 5, want: progressing, best: 40, advance: 20, again: 30 * time.Minute},
		},
		"what is declared is deleted": {
			{at: 0, phase: converged, score: 30, workers: 3, want: converged, best: 30},
			{at: 60, phase: progressing, score: 1, partial: true, hadConverged: true, want: degraded, best: 30},
			{at: 61, phase: progressing, score: 4, workers: 3, hadConverged: true, want: degraded, best: 30},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var was *v1alpha1.Progress
			for _, m := range story {
				now := began.Add(time.Duration(m.at * float64(time.Minute)))
				c := Course{Now: now.Add(999 * time.Millisecond), StallAfter: 30 * time.Minute, HadConverged: m.hadConverged}
				r := Report{
					Phase: m.phase, Score: m.score, Message: "because", Partial: m.partial,
					Workers: v1alpha1.MachineCounts{Desired: m.workers},
				}
				if m.fresh {
					was = nil
				}
				p, again := Follow(was, r, c)
				advance := began.Add(time.Duration(m.advance * float64(time.Minute)))
				// Times in a status are whole seconds.
				early := m.again - again
				if p.Phase != m.want || p.Score != m.best || !p.AdvanceTime.Time.Equal(advance) || early < 0 || early >= time.Second {
					t.Fatalf("at %v: %s, score %d, advanced %s, again in %s; want %+v", m.at, p.Phase, p.Score, p.AdvanceTime.Sub(began), again, m)
				}
				if p.Message != "because" {
					t.Errorf("at %v: the message is lost", m.at)
				}
				// No news, no change: not a moment later, nor with the status as it is read back.
				repeated, _ := Follow(&p, r, c)
				if diff := gocmp.Diff(p, repeated); diff != "" {
					t.Errorf("at %v, once more: %s", m.at, diff)
				}
				was = &p
			}
		})
	}
}

// The estimate goes by the machines' own pace, and moves only with them.
func TestEstimate(t *testing.T) {
	done := func(minutes ...int) []MachineReport {
		var out []MachineReport
		for _, m := range minutes {
			out = append(out, MachineReport{Ready: true, UpToDate: true, Since: began.Add(time.Duration(m) * time.Minute)})
		}
		return out
	}
	at := func(r Report, was *v1alpha1.Progress, minute int) v1alpha1.Progress {
		p, _ := Follow(was, r, Course{Now: began.Add(time.Duration(minute) * time.Minute), StallAfter: time.Hour})
		return p
	}
	counts := func(n int32) v1alpha1.MachineCounts { return v1alpha1.MachineCounts{Desired: 6, Done: n} }

	p := at(Report{Phase: progressing, Workers: counts(0)}, nil, 0)
	if p.EstimatedTime != nil {
		t.Errorf("no machine yet, and an estimate of %s", p.EstimatedTime)
	}
	p = at(Report{Phase: progressing, Score: 10, Workers: counts(2), Machines: done(-60, 4, 8)}, &p, 8)
	if want := began.Add(8*time.Minute + 4*4*time.Minute); p.EstimatedTime == nil || !p.EstimatedTime.Time.Equal(want) {
		t.Fatalf("an estimate of %v, want %s", p.EstimatedTime, want)
	}
	later := at(Report{Phase: progressing, Score: 10, Workers: counts(2), Machines: done(-60, 4, 8)}, &p, 30)
	if diff := gocmp.Diff(p, later); diff != "" {
		t.Errorf("nothing has happened but time: %s", diff)
	}
	p = at(Report{Phase: converged, Score: 60, Workers: counts(6), Machines: done(4, 8, 12, 16, 20, 24)}, &p, 30)
	if p.EstimatedTime != nil {
		t.Errorf("all is there, and an estimate of %s", p.EstimatedTime)
	}
}

// A scheduled rollout is looked at again when its time comes.
func TestFollowUntil(t *testing.T) {
	r := Report{Phase: converged, Until: began.Add(time.Hour)}
	for _, test := range []struct {
		now  time.Time
		want time.Duration
	}{{began, time.Hour}, {began.Add(time.Hour), time.Second}} {
		if _, again := Follow(nil, r, Course{Now: test.now, StallAfter: time.Minute}); again != test.want {
			t.Errorf("at %s again in %s, want %s", test.now, again, test.want)
		}
	}
	if p, again := Follow(nil, Report{Phase: progressing}, Course{Now: began}); p.Phase != progressing || again != 0 {
		t.Errorf("without a limit: %s, again in %s", p.Phase, again)
	}
}
