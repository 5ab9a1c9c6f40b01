package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"capstan.dev/capstan/api/v1alpha1"
)

// text prints the tables of Fleets and overlays.
func (v fleetView) text(out io.Writer, s style, now time.Time) error {
	fleets := table{header: []string{"FLEET", "OVERLAYS", "STATES", "OBSERVED", "APPLIED", "CONVERGED", "PROBLEM"}}
	for _, f := range v.Fleets {
		n := f.Overlays
		converged := "-"
		if n.Total > 0 {
			converged = s.bar(n.Converged, n.Total, n.Converged == n.Total) + fmt.Sprintf(" %d/%d", n.Converged, n.Total)
		}
		problem := f.Problem
		if problem == "" && f.Suspended {
			problem = "suspended"
		}
		fleets.rows = append(fleets.rows, []cell{
			{text: f.Namespace + "/" + f.Name}, {text: converged}, {text: countsText(n)}, {text: shortRevision(f.ObservedRevision)},
			{text: shortHash(f.AppliedRevision)}, {text: shortHash(f.ConvergedRevision)}, {problem, red},
		})
	}
	if err := fleets.print(out, s, ""); err != nil {
		return err
	}
	if len(v.Fleets) == 0 {
		fmt.Fprintln(out, "(no Fleet)")
	}
	fmt.Fprintln(out)
	overlays := table{
		header: []string{"", "OVERLAY", "CLUSTER", "STATE", "PROGRESS", "CONTROL PLANE", "WORKERS", "LEFT", "DESIRED", "CONVERGED", "WAITS FOR"},
		spare:  [][]int{{2}, {8, 9}, {5, 6}}, // CLUSTER, the revisions, and the machines by role
	}
	for i := range v.Overlays {
		o := &v.Overlays[i]
		paint := stateColor(o.State)
		controlPlane, workers := "-", "-"
		if o.Progress != nil {
			controlPlane, workers = machinesText(o.Progress.ControlPlane), machinesText(o.Progress.Workers)
		}
		overlays.rows = append(overlays.rows, []cell{
			{mark(paint), paint}, {text: o.Path}, {text: cmp.Or(o.Cluster, "-")}, {string(o.State), paint},
			{s.progressText(o.Progress), paint}, {text: controlPlane}, {text: workers}, {text: cmp.Or(leftText(o.Progress, now), "-")},
			{text: shortHash(o.DesiredRevision)}, {text: shortHash(o.ConvergedRevision)}, {text: o.Message},
		})
	}
	return overlays.print(out, s, "")
}

// countsText lists the states that overlays are in, those that need somebody first.
func countsText(n v1alpha1.OverlayCounts) string {
	var parts []string
	for _, c := range []struct {
		n    int32
		word string
	}{
		{n.Failed, "failed"}, {n.Stalled, "stalled"}, {n.Degraded, "degraded"}, {n.PendingDeletion, "pending deletion"},
		{n.Waiting, "waiting"}, {n.Suspended, "suspended"}, {n.Progressing, "progressing"}, {n.Converged, "converged"},
	} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.word))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), fmt.Sprint(n.Total))
}
