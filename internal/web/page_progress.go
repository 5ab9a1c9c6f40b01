package web

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"capstan.dev/capstan/api/v1alpha1"
)

// bar is a progress bar; there is none if it is of nothing.
type bar struct{ Done, Of int32 }

// progressPage is what the page of an overlay shows of its machines.
type progressPage struct {
	Phase v1alpha1.Phase
	Roles []roleRow
	// Started, Advanced and Expected are times in words, "" if they aren't known.
	Started, Advanced, Expected string
}

type roleRow struct {
	Name string
	Bar  bar
	v1alpha1.MachineCounts
}

// progressOf is nil if nothing is known of the machines.
func progressOf(p *v1alpha1.Progress, now time.Time) *progressPage {
	if p == nil {
		return nil
	}
	page := progressPage{Phase: p.Phase, Started: moment(p.StartTime), Expected: expected(p, now)}
	if p.Phase != v1alpha1.PhaseConverged {
		page.Advanced = moment(p.AdvanceTime)
	}
	for _, role := range []roleRow{{Name: "control plane", MachineCounts: p.ControlPlane}, {Name: "workers", MachineCounts: p.Workers}} {
		if role.Desired > 0 || role.Existing > 0 {
			role.Bar = bar{Done: role.Done, Of: role.Desired}
			page.Roles = append(page.Roles, role)
		}
	}
	return &page
}

// expected is when the machines will be there if they go on at their pace, and "" if
// there is no telling or that time has passed.
func expected(p *v1alpha1.Progress, now time.Time) string {
	if p.Phase != v1alpha1.PhaseProgressing || p.EstimatedTime == nil || !p.EstimatedTime.After(now) {
		return ""
	}
	return p.EstimatedTime.UTC().Format("15:04 MST") + ", in about " + duration.HumanDuration(p.EstimatedTime.Sub(now))
}

// historyRow is a revision that was applied. Waited and Took are counted from the change
// in Git.
type historyRow struct{ Revision, Outcome, Since, Time, Waited, Converged, Took, Message string }

func historyOf(e v1alpha1.HistoryEntry) historyRow {
	row := historyRow{
		Revision: short(e.Revision), Outcome: string(e.Outcome), Since: moment(e.Since),
		Time: moment(&e.Time), Converged: moment(e.Converged), Message: e.Message,
	}
	if e.Since != nil {
		row.Waited = "after " + duration.HumanDuration(max(0, e.Time.Sub(e.Since.Time)))
		if e.Converged != nil {
			row.Took = "after " + duration.HumanDuration(max(0, e.Converged.Sub(e.Since.Time)))
		}
	}
	return row
}

// moment is a time in words, "" for none.
func moment(t *metav1.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 MST")
}
