package capi

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
)

// Course is what [Follow] needs to know beside what is and what was.
type Course struct {
	Now time.Time
	// StallAfter is how long Score may not grow; 0 is for ever.
	StallAfter time.Duration
	// HadConverged says that this revision has converged before.
	HadConverged bool
}

// Follow says what a status shows of a report, given what it showed before, nil if something
// was applied since: what is waited for is something else then. It also says after which
// time to ask again if nothing happens until then, 0 for never. It depends on the passing
// of time only where something stalls, so the same report changes nothing else.
func Follow(was *v1alpha1.Progress, r Report, c Course) (p v1alpha1.Progress, again time.Duration) {
	now := metav1.NewTime(c.Now).Rfc3339Copy()
	p = v1alpha1.Progress{
		Phase: r.Phase, Message: r.Message, ControlPlane: r.ControlPlane, Workers: r.Workers,
		Score: r.Score, StartTime: &now, AdvanceTime: &now,
	}
	started := was == nil || was.StartTime == nil || was.AdvanceTime == nil ||
		was.Phase == v1alpha1.PhaseConverged && resized(was, r) // by an autoscaler: there is something new to reach
	if !started {
		p.StartTime = was.StartTime.DeepCopy()
		// What waited for a person, or could not be seen, was not slow.
		resumed := (was.Phase == v1alpha1.PhaseWaiting || was.Phase == v1alpha1.PhaseUnknown) && r.Phase != was.Phase
		// Fewer machines than before can't reach what those would have.
		if best := was.Score - maxSteps*released(was, r); best >= r.Score {
			p.Score = best
			if !resumed {
				p.AdvanceTime = was.AdvanceTime.DeepCopy()
			}
		}
	}
	if again = until(r, c.Now); p.Phase == v1alpha1.PhaseConverged {
		return p, again
	}
	if !started && c.HadConverged && p.Phase != v1alpha1.PhaseWaiting &&
		was.Phase != v1alpha1.PhaseProgressing && was.Phase != v1alpha1.PhaseStalled {
		p.Phase = v1alpha1.PhaseDegraded
		return p, again
	}
	if p.Phase == v1alpha1.PhaseProgressing && c.StallAfter > 0 {
		left := p.AdvanceTime.Add(c.StallAfter).Sub(c.Now)
		switch {
		case left <= 0:
			p.Phase = v1alpha1.PhaseStalled
		case again == 0 || left < again:
			again = left
		}
	}
	if p.Phase == v1alpha1.PhaseProgressing {
		p.EstimatedTime = estimate(r, p.StartTime.Time)
		if !started && was.Score == p.Score && was.ControlPlane == p.ControlPlane && was.Workers == p.Workers &&
			was.Phase == p.Phase {
			p.EstimatedTime = was.EstimatedTime.DeepCopy()
		}
	}
	return p, again
}

// resized tells whether another number of machines is desired than before.
func resized(was *v1alpha1.Progress, r Report) bool {
	return !r.Partial && (was.ControlPlane.Desired != r.ControlPlane.Desired || was.Workers.Desired != r.Workers.Desired)
}

// released is how many machines fewer are desired than before.
func released(was *v1alpha1.Progress, r Report) int64 {
	if r.Partial {
		return 0
	}
	return int64(max(0, was.ControlPlane.Desired-r.ControlPlane.Desired) + max(0, was.Workers.Desired-r.Workers.Desired))
}

// until is how long it takes till the report changes by itself.
func until(r Report, now time.Time) time.Duration {
	if r.Until.IsZero() {
		return 0
	}
	return max(time.Second, r.Until.Sub(now))
}

// estimate goes on with the pace of the machines that have become available since the
// start; nil as long as there are none, and if none is missing.
func estimate(r Report, start time.Time) *metav1.Time {
	var n, left int64
	last := start
	for _, m := range r.Machines {
		if !m.Done() || !m.Since.After(start) {
			continue
		}
		n++
		if m.Since.After(last) {
			last = m.Since
		}
	}
	for _, c := range []v1alpha1.MachineCounts{r.ControlPlane, r.Workers} {
		left += int64(max(0, c.Desired-c.Done))
	}
	if n == 0 || left == 0 {
		return nil
	}
	at := metav1.NewTime(last.Add(last.Sub(start) / time.Duration(n) * time.Duration(left))).Rfc3339Copy()
	return &at
}
