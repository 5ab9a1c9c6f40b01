package main

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// commit1 and commit2 are commits, and the revisions that stand for them.
var (
	commit1, commit2     = strings.Repeat("1", 40), strings.Repeat("2", 40)
	revision1, revision2 = "main@sha1:" + commit1, "main@sha1:" + commit2
)

// fleetAt is a Fleet that has observed, applied and converged revisions.
func fleetAt(observed, converged string, change ...func(*v1alpha1.Fleet)) *v1alpha1.Fleet {
	f := &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "home", Generation: 3},
		Status: v1alpha1.FleetStatus{ObservedGeneration: 3, ObservedRevision: observed, AppliedRevision: converged, ConvergedRevision: converged,
			Conditions: []metav1.Condition{
				{Type: v1alpha1.FetchedCondition, Status: metav1.ConditionTrue}, {Type: v1alpha1.DiscoveredCondition, Status: metav1.ConditionTrue},
			}},
	}
	for _, c := range change {
		c(f)
	}
	return f
}

// overlayAt is an overlay that has converged at what it wants.
func overlayAt(path, revision string, change ...func(*v1alpha1.ClusterOverlay)) *v1alpha1.ClusterOverlay {
	o := &v1alpha1.ClusterOverlay{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "home-" + strings.TrimPrefix(path, "clusters/"), Generation: 2},
		Spec:       v1alpha1.ClusterOverlaySpec{FleetRef: v1alpha1.LocalReference{Name: "home"}, Path: path},
		Status: v1alpha1.ClusterOverlayStatus{
			ObservedGeneration: 2, DesiredRevision: revision, AppliedRevision: revision, ConvergedRevision: revision,
			Progress: &v1alpha1.Progress{
				Phase: v1alpha1.PhaseConverged, Workers: v1alpha1.MachineCounts{Desired: 3, Existing: 3, Ready: 3, UpToDate: 3, Done: 3},
			},
			Conditions: []metav1.Condition{{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionTrue, Reason: v1alpha1.ConvergedReason}},
		},
	}
	for _, c := range change {
		c(o)
	}
	return o
}

// at puts an overlay into a phase, on the way to a revision.
func at(phase v1alpha1.Phase, status metav1.ConditionStatus, message string) func(*v1alpha1.ClusterOverlay) {
	return func(o *v1alpha1.ClusterOverlay) {
		o.Status.ConvergedRevision = ""
		o.Status.Progress.Phase, o.Status.Progress.Message, o.Status.Progress.Workers.Done = phase, message, 1
		o.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ReadyCondition, Status: status, Reason: string(phase)}}
	}
}

// failing makes a condition False.
func failing(kind, reason string) func(*v1alpha1.ClusterOverlay) {
	return func(o *v1alpha1.ClusterOverlay) {
		o.Status.ConvergedRevision = ""
		o.Status.Conditions = []metav1.Condition{
			{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: "bad"},
			{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionFalse, Reason: reason},
		}
	}
}

func TestJudge(t *testing.T) {
	type change = func(*v1alpha1.ClusterOverlay)
	dev := func(revision string, changes ...change) *v1alpha1.ClusterOverlay {
		return overlayAt("clusters/dev", revision, changes...)
	}
	fleetCondition := func(kind, reason string) func(*v1alpha1.Fleet) {
		return func(f *v1alpha1.Fleet) {
			for i := range f.Status.Conditions {
				if c := &f.Status.Conditions[i]; c.Type == kind {
					c.Status, c.Reason, c.Message = metav1.ConditionFalse, reason, "bad"
				}
			}
		}
	}
	reported := func(overlays *int32) func(*v1alpha1.Fleet) {
		return func(f *v1alpha1.Fleet) {
			f.Status.Forge = &v1alpha1.ForgeStatus{Commits: []v1alpha1.ReportedCommit{{Commit: commit2, Overlays: overlays}}}
		}
	}
	none := int32(0)
	other := overlayAt("clusters/other", revision1)
	for name, c := range map[string]struct {
		wait     waitFor
		fleet    *v1alpha1.Fleet
		overlays []*v1alpha1.ClusterOverlay
		gone     string
		want     outcome // of all
		says     string
	}{
		"all converged": {fleet: fleetAt(revision1, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision1), other}, want: outcomeDone},
		"an overlay hasn't been looked at since a commit came": {
			fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision1)}, want: outcomeWaiting, says: "observed main@22222222, converged main@11111111",
		},
		"one progresses": {
			fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision2, at(v1alpha1.PhaseProgressing, metav1.ConditionUnknown, "a VM is cloned")), other},
			want: outcomeWaiting, says: "clusters/dev: Progressing 1/3: a VM is cloned",
		},
		"named overlay, others don't matter": {
			wait: waitFor{targets: []string{"./clusters/other/"}}, fleet: fleetAt(revision2, revision1),
			overlays: []*v1alpha1.ClusterOverlay{dev(revision2, at(v1alpha1.PhaseStalled, metav1.ConditionFalse, "")), other}, want: outcomeDone,
		},
		"by name":   {wait: waitFor{targets: []string{"home-other"}}, fleet: fleetAt(revision1, revision1), overlays: []*v1alpha1.ClusterOverlay{other}, want: outcomeDone},
		"by Fleet":  {wait: waitFor{targets: []string{"fleet/home"}}, fleet: fleetAt(revision1, revision1), overlays: []*v1alpha1.ClusterOverlay{other}, want: outcomeDone},
		"not there": {wait: waitFor{targets: []string{"clusters/new"}}, fleet: fleetAt(revision1, revision1), want: outcomeFailed, says: "clusters/new: there is no such"},
		"not there yet, maybe": {
			wait: waitFor{targets: []string{"clusters/new"}, revision: commit2}, fleet: fleetAt(revision1, revision1), want: outcomeWaiting, says: "yet",
		},
		"deleted":        {wait: waitFor{targets: []string{"clusters/dev"}}, fleet: fleetAt(revision1, revision1), gone: "clusters/dev", want: outcomeFailed, says: "deleted meanwhile"},
		"no such Fleet":  {wait: waitFor{targets: []string{"fleet/away"}}, fleet: fleetAt(revision1, revision1), want: outcomeFailed, says: "fleet/away: there is no such"},
		"no Fleet":       {want: outcomeFailed, says: "no such"},
		"of no Fleet":    {wait: waitFor{targets: []string{"clusters/dev"}}, overlays: []*v1alpha1.ClusterOverlay{dev(revision1)}, want: outcomeFailed, says: "there is no Fleet"},
		"no overlays":    {fleet: fleetAt(revision1, revision1, fleetCondition(v1alpha1.DiscoveredCondition, v1alpha1.NoOverlaysReason)), want: outcomeFailed, says: "NoOverlays"},
		"fetch fails":    {fleet: fleetAt(revision1, revision1, fleetCondition(v1alpha1.FetchedCondition, "Timeout")), overlays: []*v1alpha1.ClusterOverlay{dev(revision1)}, want: outcomeWaiting, says: "Timeout: bad"},
		"a scan fails":   {fleet: fleetAt(revision1, revision1, fleetCondition(v1alpha1.DiscoveredCondition, v1alpha1.TransientReason)), want: outcomeWaiting},
		"never fetched":  {fleet: fleetAt("", "", func(f *v1alpha1.Fleet) { f.Status.Conditions = nil }), want: outcomeWaiting, says: "not fetched yet"},
		"Fleet edited":   {fleet: fleetAt(revision1, revision1, func(f *v1alpha1.Fleet) { f.Generation++ }), overlays: []*v1alpha1.ClusterOverlay{dev(revision1)}, want: outcomeWaiting},
		"Fleet suspends": {fleet: fleetAt(revision1, revision1, func(f *v1alpha1.Fleet) { f.Spec.Suspend = true }), overlays: []*v1alpha1.ClusterOverlay{dev(revision1)}, want: outcomeFailed, says: "suspended"},
		"suspended":      {fleet: fleetAt(revision1, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision1, func(o *v1alpha1.ClusterOverlay) { o.Spec.Suspend = true; o.Generation++ })}, want: outcomeFailed, says: "Suspended"},
		"overlay edited": {fleet: fleetAt(revision1, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision1, func(o *v1alpha1.ClusterOverlay) { o.Generation++ })}, want: outcomeWaiting},
		"brand new":      {fleet: fleetAt(revision1, ""), overlays: []*v1alpha1.ClusterOverlay{dev(revision1, func(o *v1alpha1.ClusterOverlay) { o.Status = v1alpha1.ClusterOverlayStatus{} })}, want: outcomeWaiting},
		"stalled":        {fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision2, at(v1alpha1.PhaseStalled, metav1.ConditionFalse, "no quota"))}, want: outcomeFailed, says: "Stalled 1/3: no quota"},
		"waiting":        {fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision2, at(v1alpha1.PhaseWaiting, metav1.ConditionUnknown, "paused"))}, want: outcomeFailed, says: "Waiting 1/3: paused"},
		"degraded": {fleet: fleetAt(revision2, revision2), overlays: []*v1alpha1.ClusterOverlay{dev(revision2, at(v1alpha1.PhaseDegraded, metav1.ConditionFalse, "a Node is gone"), func(o *v1alpha1.ClusterOverlay) {
			o.Status.ConvergedRevision = revision2
		})}, want: outcomeWaiting, says: "Degraded 1/3: a Node is gone"},
		"failed":    {fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision2, failing(v1alpha1.RenderedCondition, "RenderFailed"))}, want: outcomeFailed, says: "RenderFailed: bad"},
		"transient": {fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision2, failing(v1alpha1.AppliedCondition, v1alpha1.TransientReason))}, want: outcomeWaiting, says: "Transient: bad"},
		"failed before, early": {
			wait: waitFor{early: true}, fleet: fleetAt(revision2, revision1),
			overlays: []*v1alpha1.ClusterOverlay{dev(revision1, failing(v1alpha1.RenderedCondition, "RenderFailed"))}, want: outcomeWaiting,
		},
		"failed before": {
			fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision1, failing(v1alpha1.RenderedCondition, "RenderFailed"))}, want: outcomeFailed,
		},
		"failed now, early": {
			wait: waitFor{early: true}, fleet: fleetAt(revision2, revision1),
			overlays: []*v1alpha1.ClusterOverlay{dev(revision2, failing(v1alpha1.RenderedCondition, "RenderFailed"))}, want: outcomeFailed,
		},
		"waits for an approval": {fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision2, func(o *v1alpha1.ClusterOverlay) {
			o.Status.PendingDeletion = &v1alpha1.PendingDeletion{Reason: v1alpha1.PathRemovedReason}
			o.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionUnknown, Reason: v1alpha1.PathRemovedReason}}
		})}, want: outcomeFailed, says: "PendingDeletion"},
		"is being deleted": {fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision2, func(o *v1alpha1.ClusterOverlay) {
			o.Status.PendingDeletion = &v1alpha1.PendingDeletion{Reason: v1alpha1.PathRemovedReason, Approved: true}
			o.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionUnknown, Reason: v1alpha1.PathRemovedReason}}
		})}, want: outcomeWaiting, says: "Deleting"},
		"an older agent knows no progress": {fleet: fleetAt(revision1, ""), overlays: []*v1alpha1.ClusterOverlay{dev(revision1, func(o *v1alpha1.ClusterOverlay) {
			o.Status.Progress, o.Status.ConvergedRevision = nil, ""
			o.Status.Conditions[0].Status, o.Status.Conditions[0].Reason = metav1.ConditionUnknown, v1alpha1.NotTrackedReason
		})}, want: outcomeWaiting},

		"commit not seen": {
			wait: waitFor{revision: commit2[:7]}, fleet: fleetAt(revision1, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision1)},
			want: outcomeWaiting, says: "commit 2222222 is not observed yet",
		},
		"commit not seen, and the one before fails": {
			wait: waitFor{revision: commit2}, fleet: fleetAt(revision1, revision1),
			overlays: []*v1alpha1.ClusterOverlay{dev(revision1, failing(v1alpha1.RenderedCondition, "RenderFailed"))}, want: outcomeWaiting,
		},
		"commit observed, overlay not there yet": {
			wait: waitFor{targets: []string{"clusters/dev"}, revision: commit2}, fleet: fleetAt(revision2, revision1),
			overlays: []*v1alpha1.ClusterOverlay{dev(revision1)}, want: outcomeWaiting, says: "has not come to it yet",
		},
		"commit reached":           {wait: waitFor{revision: commit2[:7]}, fleet: fleetAt(revision2, revision2), overlays: []*v1alpha1.ClusterOverlay{dev(revision2), other}, want: outcomeDone},
		"commit doesn't change it": {wait: waitFor{targets: []string{"clusters/dev"}, revision: commit2}, fleet: fleetAt(revision2, revision2), overlays: []*v1alpha1.ClusterOverlay{dev(revision1)}, want: outcomeDone},
		"commit changes it, and another overlay is not ready": {
			wait: waitFor{targets: []string{"clusters/dev"}, revision: commit2}, fleet: fleetAt(revision2, revision1), overlays: []*v1alpha1.ClusterOverlay{dev(revision2)}, want: outcomeDone,
		},
		"commit changes nothing, the forge was told": {
			wait: waitFor{revision: commit2}, fleet: fleetAt(revision1, revision1, reported(&none)), overlays: []*v1alpha1.ClusterOverlay{dev(revision1)}, want: outcomeDone,
		},
		"commit is on its way to the forge": {
			wait: waitFor{revision: commit2}, fleet: fleetAt(revision1, revision1, reported(nil)), overlays: []*v1alpha1.ClusterOverlay{dev(revision1)}, want: outcomeWaiting,
		},
		"commit was overtaken": {
			wait: waitFor{revision: commit1}, fleet: fleetAt(revision2, revision2),
			overlays: []*v1alpha1.ClusterOverlay{dev(revision2, func(o *v1alpha1.ClusterOverlay) {
				o.Status.History = []v1alpha1.HistoryEntry{{Revision: revision2}, {Revision: revision1}}
			})}, want: outcomeDone,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newFleetWorld()
			if c.fleet != nil {
				w.fleets[client.ObjectKeyFromObject(c.fleet)] = c.fleet
			}
			for _, o := range c.overlays {
				w.overlays[client.ObjectKeyFromObject(o)] = o
			}
			w.gone[c.gone] = true
			v := c.wait.judge(w)
			got := outcomeWaiting
			switch {
			case v.failed > 0:
				got = outcomeFailed
			case v.waiting == 0:
				got = outcomeDone
			}
			var lines []string
			for _, line := range v.lines {
				lines = append(lines, line.text)
			}
			text := strings.Join(lines, "\n")
			if got != c.want || !strings.Contains(text, c.says) || text == "" {
				t.Errorf("outcome %d, want %d with %q:\n%s", got, c.want, c.says, text)
			}
		})
	}
}

// TestJudgeNeverSaysDoneTooEarly takes every field that an overlay has to have from one
// that is done: none is enough without the others.
func TestJudgeNeverSaysDoneTooEarly(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.ClusterOverlay){
		"phase":               func(o *v1alpha1.ClusterOverlay) { o.Status.Progress.Phase = v1alpha1.PhaseProgressing },
		"progress":            func(o *v1alpha1.ClusterOverlay) { o.Status.Progress = nil },
		"converged revision":  func(o *v1alpha1.ClusterOverlay) { o.Status.ConvergedRevision = revision2 },
		"applied revision":    func(o *v1alpha1.ClusterOverlay) { o.Status.AppliedRevision = revision2 },
		"desired revision":    func(o *v1alpha1.ClusterOverlay) { o.Status.DesiredRevision = revision2 },
		"nothing desired":     func(o *v1alpha1.ClusterOverlay) { o.Status.DesiredRevision = "" },
		"observed generation": func(o *v1alpha1.ClusterOverlay) { o.Status.ObservedGeneration-- },
		"Ready":               func(o *v1alpha1.ClusterOverlay) { o.Status.Conditions = nil },
		"Ready is unknown":    func(o *v1alpha1.ClusterOverlay) { o.Status.Conditions[0].Status = metav1.ConditionUnknown },
	} {
		w := newFleetWorld()
		f, o := fleetAt(revision1, revision1), overlayAt("clusters/dev", revision1)
		w.fleets[client.ObjectKeyFromObject(f)], w.overlays[client.ObjectKeyFromObject(o)] = f, o
		wait := waitFor{targets: []string{"clusters/dev"}}
		if v := wait.judge(w); v.done != 1 || v.waiting+v.failed != 0 {
			t.Fatalf("the overlay isn't done to begin with: %+v", v)
		}
		change(o)
		if v := wait.judge(w); v.done != 0 {
			t.Errorf("%s: done all the same: %+v", name, v)
		}
	}
}
