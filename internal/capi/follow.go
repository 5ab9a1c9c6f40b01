package capi

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
)

// Course is what [Follow] needs to know beside what is and what was.
type Course struct {
	Now time.Time
	// StallAfter is how long Score may not grow.
	StallAfter time.Duration
	// HadConverged says that this revision has converged before.
	HadConverged bool
	// Fresh says that something was applied since the Progress that was: what is waited
	// for is something else, and counts from now.
	Fresh bool
}

// Follow says what a status shows of a report, given what it showed before; and when to
// ask again if nothing happens until then, 0 for never. The same report again changes
// nothing but what the passing of time does.
func Follow(was *v1alpha1.Progress, r Report, c Course) (_ v1alpha1.Progress, again time.Duration) {
	now := metav1.NewTime(c.Now).Rfc3339Copy()
	p := v1alpha1.Progress{
		Phase: r.Phase, Message: r.Message, ControlPlane: r.ControlPlane, Workers: r.Workers,
		Score: r.Score, StartTime: &now, AdvanceTime: &now,
	}
	if was != nil && !c.Fresh {
		p.StartTime = was.StartTime
		if was.Score >= r.Score {
			p.Score, p.AdvanceTime = was.Score, was.AdvanceTime
		}
	}
	return p, 0
}
