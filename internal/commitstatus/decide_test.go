package commitstatus_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
)

var (
	now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	one = strings.Repeat("1", 40)
	two = strings.Repeat("2", 40)
)

func fleet(status *v1alpha1.ForgeStatus) *v1alpha1.Fleet {
	return &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod"},
		Spec:       v1alpha1.FleetSpec{Forge: &v1alpha1.ForgeSpec{MaxContexts: ptr.To[int32](3)}},
		Status:     v1alpha1.FleetStatus{Forge: status},
	}
}

// overlay is one that a commit changed last. Changes say what has become of it.
func overlay(name, commit string, changes ...func(*v1alpha1.ClusterOverlay)) v1alpha1.ClusterOverlay {
	o := v1alpha1.ClusterOverlay{
		ObjectMeta: metav1.ObjectMeta{Name: "prod-" + name},
		Spec:       v1alpha1.ClusterOverlaySpec{Path: "clusters/" + name},
		Status:     v1alpha1.ClusterOverlayStatus{DesiredRevision: "main@sha1:" + commit},
	}
	ready(metav1.ConditionUnknown, v1alpha1.ApplyingReason, "being applied")(&o)
	for _, change := range changes {
		change(&o)
	}
	return o
}

func condition(kind string, status metav1.ConditionStatus, reason, message string) func(*v1alpha1.ClusterOverlay) {
	return func(o *v1alpha1.ClusterOverlay) {
		o.Status.Conditions = append([]metav1.Condition{{Type: kind, Status: status, Reason: reason, Message: message}}, o.Status.Conditions...)
	}
}

func ready(status metav1.ConditionStatus, reason, message string) func(*v1alpha1.ClusterOverlay) {
	return condition(v1alpha1.ReadyCondition, status, reason, message)
}

// applied is one whose machines are on their way.
func applied(o *v1alpha1.ClusterOverlay) {
	o.Status.AppliedRevision = o.Status.DesiredRevision
	o.Status.History = append([]v1alpha1.HistoryEntry{{Revision: o.Status.DesiredRevision, Outcome: v1alpha1.OutcomeApplied}}, o.Status.History...)
	phase(metav1.ConditionFalse, v1alpha1.ProgressingReason, "machine w-1 boots")(o)
}

// phase is what is known of the machines.
func phase(status metav1.ConditionStatus, reason, message string) func(*v1alpha1.ClusterOverlay) {
	return func(o *v1alpha1.ClusterOverlay) {
		condition(v1alpha1.ConvergedCondition, status, reason, message)(o)
		if reason == v1alpha1.ProgressingReason || reason == v1alpha1.WaitingReason {
			status = metav1.ConditionUnknown
		}
		ready(status, reason, message)(o)
	}
}

func converged(o *v1alpha1.ClusterOverlay) {
	if o.Status.AppliedRevision != o.Status.DesiredRevision {
		applied(o)
	}
	o.Status.ConvergedRevision = o.Status.DesiredRevision
	o.Status.History[0].Outcome = v1alpha1.OutcomeConverged
	phase(metav1.ConditionTrue, v1alpha1.ConvergedReason, "")(o)
}

// machines are those that are done, of those desired.
func machines(controlPlane, ofControlPlane, workers, ofWorkers int32) func(*v1alpha1.ClusterOverlay) {
	return func(o *v1alpha1.ClusterOverlay) {
		o.Status.Progress = &v1alpha1.Progress{
			Phase:        v1alpha1.PhaseProgressing,
			ControlPlane: v1alpha1.MachineCounts{Desired: ofControlPlane, Done: controlPlane},
			Workers:      v1alpha1.MachineCounts{Desired: ofWorkers, Done: workers},
		}
	}
}

// before adds what became of an earlier commit.
func before(commit string, outcome v1alpha1.Outcome) func(*v1alpha1.ClusterOverlay) {
	return func(o *v1alpha1.ClusterOverlay) {
		o.Status.History = append(o.Status.History, v1alpha1.HistoryEntry{Revision: "main@sha1:" + commit, Outcome: outcome})
	}
}

// again is with other values of variables, at the same commit.
func again(o *v1alpha1.ClusterOverlay) {
	o.Status.ConvergedRevision = ""
	o.Status.History = append([]v1alpha1.HistoryEntry{{Revision: o.Status.DesiredRevision, Outcome: v1alpha1.OutcomeApplied}}, o.Status.History...)
	phase(metav1.ConditionFalse, v1alpha1.ProgressingReason, "values of variables have changed")(o)
}

func failed(reason, message string) func(*v1alpha1.ClusterOverlay) {
	return ready(metav1.ConditionFalse, reason, message)
}

func pendingDeletion(reason string, approved bool) func(*v1alpha1.ClusterOverlay) {
	return func(o *v1alpha1.ClusterOverlay) {
		o.Status.PendingDeletion = &v1alpha1.PendingDeletion{Reason: reason, Approved: approved, Objects: make([]v1alpha1.ObjectReference, 2)}
	}
}

func recorded(context, overlay, state string) v1alpha1.ReportedStatus {
	return v1alpha1.ReportedStatus{Context: context, Overlay: overlay, State: state, Digest: "x", Time: metav1.Time{Time: now.Add(-time.Hour)}}
}

const success = "converged"

func TestDecide(t *testing.T) {
	for name, test := range map[string]struct {
		in   commitstatus.Input
		had  *v1alpha1.ForgeStatus
		want []string
	}{
		"nothing is known after a start": {
			in: commitstatus.Input{Overlays: []v1alpha1.ClusterOverlay{overlay("a", one, converged)}},
		},
		"a tip that is not looked at yet": {
			in:   commitstatus.Input{Tip: one, Total: 2, Overlays: []v1alpha1.ClusterOverlay{overlay("a", one, converged)}},
			want: []string{"1111111 capstan/prod pending: looking at 2 overlays"},
		},
		"a tip that can't be looked at": {
			in:   commitstatus.Input{Tip: one, Problem: "Secret ns/vars does not exist"},
			want: []string{"1111111 capstan/prod error: Secret ns/vars does not exist"},
		},
		"no overlay reads the tip": {
			in:   commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{overlay("a", one, converged)}},
			want: []string{"2222222 capstan/prod success: no cluster affected"},
		},
		"overlays that the tip doesn't touch get no status": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, converged), overlay("b", two, converged),
			}},
			want: []string{"2222222 capstan/prod/clusters/b success: " + success, "2222222 capstan/prod success: " + success},
		},
		"the aggregate comes first while it waits": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("b", one), overlay("a", one, converged),
			}},
			want: []string{
				"1111111 capstan/prod pending: 1 of 2 overlays converged; clusters/b: being applied",
				"1111111 capstan/prod/clusters/a success: " + success,
				"1111111 capstan/prod/clusters/b pending: being applied",
			},
		},
		"what the render found is ahead of what is recorded": {
			in: commitstatus.Input{Tip: two, Settled: true, Desired: map[string]string{"prod-a": two}, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, converged),
			}},
			want: []string{"2222222 capstan/prod pending: clusters/a: being applied", "2222222 capstan/prod/clusters/a pending: being applied"},
		},
		"the commit's faults come before the agent's, with the first useful line": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, failed(v1alpha1.TransientReason, "the API server is away")),
				overlay("b", one, failed(v1alpha1.InvalidReason, "2 objects failed:\nCluster ns/b: spec.x: unknown field\nother")),
				overlay("c", one, converged),
			}},
			want: []string{
				"1111111 capstan/prod/clusters/a error: the API server is away",
				"1111111 capstan/prod/clusters/b failure: 2 objects failed: Cluster ns/b: spec.x: unknown field",
				"1111111 capstan/prod/clusters/c success: " + success,
				"1111111 capstan/prod failure: 2 of 3 overlays failed: clusters/b: 2 objects failed: Cluster ns/b: spec.x: unknown field",
			},
		},
		"a fault of the agent's alone": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, failed(v1alpha1.ForbiddenReason, "may not patch Clusters")),
			}},
			want: []string{"1111111 capstan/prod/clusters/a error: may not patch Clusters", "1111111 capstan/prod error: clusters/a: may not patch Clusters"},
		},
		"over the cap there is the aggregate only": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, converged), overlay("b", one, converged), overlay("c", one, converged), overlay("d", one, converged),
			}},
			want: []string{"1111111 capstan/prod success: 4 overlays " + success},
		},
		"what waits for a person says what to do": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, pendingDeletion(v1alpha1.PathRemovedReason, false)),
				overlay("b", one, pendingDeletion(v1alpha1.PathRemovedReason, true)),
				overlay("c", one, func(o *v1alpha1.ClusterOverlay) { o.Spec.Suspend = true }),
			}},
			want: []string{
				"1111111 capstan/prod pending: 0 of 3 overlays converged; clusters/a: the deletion of all of it waits: capstan approve prod-a",
				"1111111 capstan/prod/clusters/a pending: the deletion of all of it waits: capstan approve prod-a",
				"1111111 capstan/prod/clusters/b pending: deleting all of it, as approved",
				"1111111 capstan/prod/clusters/c pending: suspended: nothing is applied until it is resumed",
			},
		},
		"a part that is to be deleted": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, applied, pendingDeletion(v1alpha1.ObjectsRemovedReason, false)),
				overlay("b", one, applied, pendingDeletion(v1alpha1.ObjectsRemovedReason, true)),
			}},
			want: []string{
				"1111111 capstan/prod pending: 0 of 2 overlays converged; clusters/a: the deletion of 2 objects waits: capstan approve prod-a",
				"1111111 capstan/prod/clusters/a pending: the deletion of 2 objects waits: capstan approve prod-a",
				"1111111 capstan/prod/clusters/b pending: deleting 2 objects, as approved",
			},
		},
		"a paused cluster is waited for": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, failed(v1alpha1.ClusterPausedReason, "Cluster ns/a is paused")),
			}},
			want: []string{"1111111 capstan/prod pending: clusters/a: Cluster ns/a is paused", "1111111 capstan/prod/clusters/a pending: Cluster ns/a is paused"},
		},
		"an overlay that is deleted with approval is done": {
			in: commitstatus.Input{Tip: one, Settled: true},
			had: &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{{Commit: one, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{
				recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"),
			}}}},
			want: []string{"1111111 capstan/prod/clusters/a success: gone: deleted with approval, or let go", "1111111 capstan/prod success: 1 overlay done"},
		},
		"a later commit supersedes only what it changes": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", two, converged), overlay("b", one),
			}},
			had: &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{{Commit: one, Overlays: ptr.To[int32](2), Statuses: []v1alpha1.ReportedStatus{
				recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"), recorded("capstan/prod/clusters/b", "prod-b", "pending"),
			}}}},
			want: []string{
				"2222222 capstan/prod/clusters/a success: " + success,
				"2222222 capstan/prod success: " + success,
				"1111111 capstan/prod pending: 0 of 2 overlays converged; clusters/b: being applied",
				"1111111 capstan/prod/clusters/b pending: being applied",
				"1111111 capstan/prod/clusters/a failure: superseded by 2222222 before it had converged",
			},
		},
		"superseded as a whole": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{overlay("a", two, converged)}},
			had: &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{{Commit: one, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{
				recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"),
			}}}},
			want: []string{
				"2222222 capstan/prod/clusters/a success: " + success,
				"2222222 capstan/prod success: " + success,
				"1111111 capstan/prod/clusters/a failure: superseded by 2222222 before it had converged",
				"1111111 capstan/prod failure: superseded by later commits: 1 of 1 overlay not converged",
			},
		},
		"converged in between is no failure": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{overlay("a", two, converged, before(one, v1alpha1.OutcomeConverged))}},
			had: &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{{Commit: one, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{
				recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"),
			}}}},
			want: []string{
				"2222222 capstan/prod/clusters/a success: " + success,
				"2222222 capstan/prod success: " + success,
				"1111111 capstan/prod/clusters/a success: converged",
				"1111111 capstan/prod success: 1 overlay done",
			},
		},
		"overtaken before it was looked at": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{overlay("a", two, converged)}},
			had: &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{{Commit: one, Statuses: []v1alpha1.ReportedStatus{
				recorded("capstan/prod", "", "pending"),
			}}}},
			want: []string{
				"2222222 capstan/prod/clusters/a success: " + success,
				"2222222 capstan/prod success: " + success,
				"1111111 capstan/prod failure: superseded by 2222222 before all overlays were looked at",
			},
		},
		"over the cap, who is missing is taken for superseded": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{overlay("a", two, converged), overlay("b", two, converged, before(one, v1alpha1.OutcomeConverged))}},
			had: &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{{Commit: one, Overlays: ptr.To[int32](4), Statuses: []v1alpha1.ReportedStatus{
				recorded("capstan/prod", "", "pending"),
			}}}},
			want: []string{
				"2222222 capstan/prod/clusters/a success: " + success,
				"2222222 capstan/prod/clusters/b success: " + success,
				"2222222 capstan/prod success: 2 overlays " + success,
				"1111111 capstan/prod failure: superseded by later commits: 3 of 4 overlays not converged",
			},
		},
		"a newer commit is looked at before it is known as the tip": {
			in: commitstatus.Input{Tip: one, Total: 1, Overlays: []v1alpha1.ClusterOverlay{overlay("a", one)}, Desired: map[string]string{"prod-a": two}},
			had: &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{{Commit: one, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{
				recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"),
			}}}},
			want: []string{"1111111 capstan/prod/clusters/a failure: superseded by 2222222 before it had converged"},
		},
		"an overlay that a later commit deleted had not converged": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{overlay("b", one)}},
			had: &v1alpha1.ForgeStatus{Tip: two, Commits: []v1alpha1.ReportedCommit{
				{Commit: two, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{
					recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"),
				}},
				{Commit: one, Overlays: ptr.To[int32](2), Statuses: []v1alpha1.ReportedStatus{
					recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"), recorded("capstan/prod/clusters/b", "prod-b", "pending"),
				}},
			}},
			want: []string{
				"2222222 capstan/prod/clusters/a success: gone: deleted with approval, or let go",
				"2222222 capstan/prod success: 1 overlay done",
				"1111111 capstan/prod pending: 0 of 2 overlays converged; clusters/b: being applied",
				"1111111 capstan/prod/clusters/b pending: being applied",
				"1111111 capstan/prod/clusters/a failure: superseded by a later commit before it had converged",
			},
		},
		"an overlay that a person deletes is not gone, it comes back": {
			in: commitstatus.Input{Tip: two, Total: 1},
			had: &v1alpha1.ForgeStatus{Tip: two, Commits: []v1alpha1.ReportedCommit{
				{Commit: two, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{
					recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/b", "prod-b", "pending"),
				}},
				{Commit: one, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{
					recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"),
				}},
			}},
		},
		"being applied with other values at the same commit": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, applied, phase(metav1.ConditionFalse, v1alpha1.StalledReason, "quota"), ready(metav1.ConditionUnknown, v1alpha1.ApplyingReason, "being applied")),
			}},
			want: []string{"1111111 capstan/prod pending: clusters/a: being applied", "1111111 capstan/prod/clusters/a pending: being applied"},
		},
		"converged, and again with other values at the same commit": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, converged, again),
			}},
			want: []string{"1111111 capstan/prod pending: clusters/a: values of variables have changed", "1111111 capstan/prod/clusters/a pending: values of variables have changed"},
		},
		"pending with counts until the machines are there": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, applied, machines(3, 3, 1, 3)),
				overlay("b", one, applied, machines(1, 3, 0, 0)),
				overlay("c", one, converged, machines(3, 3, 3, 3)),
			}},
			want: []string{
				"1111111 capstan/prod pending: 1 of 3 overlays converged; clusters/a: 4 of 6 machines; workers 1 of 3: machine w-1 boots",
				"1111111 capstan/prod/clusters/a pending: 4 of 6 machines; workers 1 of 3: machine w-1 boots",
				"1111111 capstan/prod/clusters/b pending: 1 of 3 machines: machine w-1 boots",
				"1111111 capstan/prod/clusters/c success: converged",
			},
		},
		"what nobody works on is waited for, with the reason": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, applied, machines(1, 3, 1, 3), phase(metav1.ConditionFalse, v1alpha1.WaitingReason, "Cluster ns/a is paused")),
				overlay("b", one, applied, machines(1, 3, 1, 3), phase(metav1.ConditionUnknown, v1alpha1.NotWatchedReason, "no rights to watch Machines")),
				overlay("c", one, applied),
			}},
			want: []string{
				"1111111 capstan/prod pending: 0 of 3 overlays converged; clusters/a: 2 of 6 machines; control plane 1 of 3, workers 1 of 3: Cluster ns/a is paused",
				"1111111 capstan/prod/clusters/a pending: 2 of 6 machines; control plane 1 of 3, workers 1 of 3: Cluster ns/a is paused",
				"1111111 capstan/prod/clusters/b pending: can't be watched: no rights to watch Machines",
				"1111111 capstan/prod/clusters/c pending: machine w-1 boots",
			},
		},
		"a stall is a failure that says what blocks": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, applied, machines(3, 3, 1, 3)),
				overlay("b", one, applied, machines(3, 3, 1, 3), phase(metav1.ConditionFalse, v1alpha1.StalledReason, "PodDisruptionBudget ns/db blocks the drain of w-1")),
			}},
			want: []string{
				"1111111 capstan/prod/clusters/a pending: 4 of 6 machines; workers 1 of 3: machine w-1 boots",
				"1111111 capstan/prod/clusters/b failure: stalled at 4 of 6 machines; workers 1 of 3: PodDisruptionBudget ns/db blocks the drain of w-1",
				"1111111 capstan/prod failure: 1 of 2 overlays failed: clusters/b: stalled at 4 of 6 machines; workers 1 of 3: PodDisruptionBudget ns/db blocks the drain of w-1",
			},
		},
		"a stall of the revision before is not one of this": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", two, phase(metav1.ConditionFalse, v1alpha1.StalledReason, "quota")),
			}},
			want: []string{"2222222 capstan/prod pending: clusters/a: being applied", "2222222 capstan/prod/clusters/a pending: being applied"},
		},
		"nor is its convergence": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", two, applied, phase(metav1.ConditionTrue, v1alpha1.ConvergedReason, ""), func(o *v1alpha1.ClusterOverlay) { o.Status.ConvergedRevision = "main@sha1:" + one }),
			}},
			want: []string{
				"2222222 capstan/prod pending: clusters/a: applied; its machines are being looked at",
				"2222222 capstan/prod/clusters/a pending: applied; its machines are being looked at",
			},
		},
		"what has converged stays a success": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, converged, machines(3, 3, 2, 3), phase(metav1.ConditionFalse, v1alpha1.DegradedReason, "machine w-1 is not ready")),
				overlay("b", one, converged, func(o *v1alpha1.ClusterOverlay) { o.Spec.Suspend = true }),
				overlay("c", one, converged, failed(v1alpha1.TransientReason, "the API server is away")),
			}},
			want: []string{
				"1111111 capstan/prod/clusters/a success: converged",
				"1111111 capstan/prod/clusters/b success: converged",
				"1111111 capstan/prod/clusters/c success: converged",
				"1111111 capstan/prod success: 3 overlays converged",
			},
		},
		"applied in between, but not converged, is superseded": {
			in: commitstatus.Input{Tip: two, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", two, before(one, v1alpha1.OutcomeSuperseded), before(one, v1alpha1.OutcomeConverged), converged),
			}},
			had: &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{{Commit: one, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{
				recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"),
			}}}},
			want: []string{
				"2222222 capstan/prod/clusters/a success: " + success,
				"2222222 capstan/prod success: " + success,
				"1111111 capstan/prod/clusters/a failure: superseded by 2222222 before it had converged",
				"1111111 capstan/prod failure: superseded by later commits: 1 of 1 overlay not converged",
			},
		},
		"the revision before, pushed back, is not there until it is applied": {
			in: commitstatus.Input{Tip: one, Settled: true, Overlays: []v1alpha1.ClusterOverlay{
				overlay("a", one, func(o *v1alpha1.ClusterOverlay) {
					o.Status.AppliedRevision, o.Status.ConvergedRevision = "main@sha1:"+two, "main@sha1:"+one
				}),
			}},
			want: []string{"1111111 capstan/prod pending: clusters/a: being applied", "1111111 capstan/prod/clusters/a pending: being applied"},
		},
		"after a restart the tip is not looked at as if it were new": {
			in: commitstatus.Input{Tip: one, Total: 1, Overlays: []v1alpha1.ClusterOverlay{overlay("a", one)}},
			had: &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{{Commit: one, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{
				recorded("capstan/prod", "", "pending"), recorded("capstan/prod/clusters/a", "prod-a", "pending"),
			}}}},
			want: []string{
				"1111111 capstan/prod pending: clusters/a: being applied",
				"1111111 capstan/prod/clusters/a pending: being applied",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.in.Fleet, test.in.Now = fleet(test.had), now
			var got []string
			d := commitstatus.Decide(test.in)
			for _, p := range d.Posts {
				got = append(got, fmt.Sprintf("%.7s %s %s: %s", p.Commit, p.Context, p.State, p.Description))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// acknowledge has the forge take everything, and returns the Fleet's status then.
func acknowledge(d *commitstatus.Decision, at time.Time) *v1alpha1.ForgeStatus {
	for len(d.Posts) > 0 {
		d.Acknowledge(d.Posts[0], at)
	}
	tip, commits := d.Record()
	return &v1alpha1.ForgeStatus{Tip: tip, Commits: commits}
}

// What the forge has is not posted again; a commit of which all is said is forgotten
// when another takes its place.
func TestNothingTwice(t *testing.T) {
	in := commitstatus.Input{Fleet: fleet(nil), Tip: one, Settled: true, Now: now, Overlays: []v1alpha1.ClusterOverlay{overlay("a", one, converged)}}
	d := commitstatus.Decide(in)
	in.Fleet = fleet(acknowledge(&d, now))
	if again := commitstatus.Decide(in); len(again.Posts) > 0 || again.After != 0 {
		t.Errorf("posts %v again, after %s", again.Posts, again.After)
	}
	in.Tip = two
	d = commitstatus.Decide(in)
	left := acknowledge(&d, now)
	if len(left.Commits) != 1 || left.Commits[0].Commit != two || left.Tip != two {
		t.Errorf("left: %+v", left)
	}
}

// Another forge, repository or prefix knows nothing yet.
func TestAnotherHost(t *testing.T) {
	in := commitstatus.Input{Host: "one", Fleet: fleet(nil), Tip: one, Settled: true, Now: now, Overlays: []v1alpha1.ClusterOverlay{overlay("a", one, converged)}}
	d := commitstatus.Decide(in)
	posts := len(d.Posts)
	status := acknowledge(&d, now)
	status.Host = "one"
	in.Fleet = fleet(status)
	if again := commitstatus.Decide(in); len(again.Posts) > 0 {
		t.Errorf("the same host is told again: %v", again.Posts)
	}
	in.Host = "two"
	if again := commitstatus.Decide(in); len(again.Posts) != posts || posts == 0 {
		t.Errorf("another host is told %v", again.Posts)
	}
}

// A text alone waits, a transition doesn't; after many posts a text is not worth one.
func TestTexts(t *testing.T) {
	a, b := overlay("a", one), overlay("b", one)
	in := commitstatus.Input{Fleet: fleet(nil), Tip: one, Settled: true, Now: now, Overlays: []v1alpha1.ClusterOverlay{a, b}}
	in.Fleet.Spec.Forge.MaxContexts = ptr.To[int32](0)
	spec := in.Fleet.Spec
	d := commitstatus.Decide(in)
	in.Fleet = fleet(acknowledge(&d, now))
	in.Fleet.Spec = spec

	in.Overlays = []v1alpha1.ClusterOverlay{overlay("a", one, converged), b}
	in.Now = now.Add(10 * time.Second)
	if d := commitstatus.Decide(in); len(d.Posts) != 0 || d.After != 20*time.Second {
		t.Errorf("too soon: posts %v, after %s", d.Posts, d.After)
	}
	in.Now = now.Add(31 * time.Second)
	if d := commitstatus.Decide(in); len(d.Posts) != 1 || d.Posts[0].State != commitstatus.Pending {
		t.Errorf("late enough: posts %v", d.Posts)
	}
	in.Fleet.Status.Forge.Commits[0].Posts = 3
	if d := commitstatus.Decide(in); len(d.Posts) != 0 || d.After != 89*time.Second {
		t.Errorf("the fourth text: posts %v, after %s", d.Posts, d.After)
	}
	in.Fleet.Status.Forge.Commits[0].Posts = 50
	if d := commitstatus.Decide(in); len(d.Posts) != 0 || d.After != 0 {
		t.Errorf("enough texts: posts %v, after %s", d.Posts, d.After)
	}
	in.Overlays = []v1alpha1.ClusterOverlay{overlay("a", one, converged), overlay("b", one, converged)}
	if d := commitstatus.Decide(in); len(d.Posts) != 1 || d.Posts[0].State != commitstatus.Success {
		t.Errorf("a transition: posts %v", d.Posts)
	}
}

// A description fits in a commit status, whatever an overlay says.
func TestDescriptionsFit(t *testing.T) {
	long := failed(v1alpha1.RenderFailedReason, strings.Repeat("straße 道 ", 200))
	d := commitstatus.Decide(commitstatus.Input{Fleet: fleet(nil), Tip: one, Settled: true, Now: now, Overlays: []v1alpha1.ClusterOverlay{overlay("a", one, long)}})
	if len(d.Posts) == 0 {
		t.Fatal("no posts")
	}
	for _, p := range d.Posts {
		if n := len([]rune(p.Description)); n != 140 {
			t.Errorf("%s: %d characters", p.Context, n)
		}
	}
}

// An overlay's status is never taken for the plan's, and names are not too long.
func TestContexts(t *testing.T) {
	deep := overlay("a", one, converged)
	deep.Spec.Path = strings.Repeat("deep/", 100) + "a"
	odd := overlay("plan", one, converged)
	odd.Spec.Path = "plan"
	d := commitstatus.Decide(commitstatus.Input{Fleet: fleet(nil), Tip: one, Settled: true, Now: now, Overlays: []v1alpha1.ClusterOverlay{deep, odd}})
	var got []string
	for _, p := range d.Posts {
		got = append(got, p.Context)
	}
	if diff := cmp.Diff([]string{"capstan/prod/prod-a", "capstan/prod/prod-plan", "capstan/prod"}, got); diff != "" {
		t.Error(diff)
	}
}

// Too many open commits are not followed for ever, and the oldest is not left
// pending.
func TestTooMany(t *testing.T) {
	status := &v1alpha1.ForgeStatus{}
	var overlays []v1alpha1.ClusterOverlay
	closed := 0
	for i := range 30 {
		hash := fmt.Sprintf("%040d", i)
		overlays = append(overlays, overlay(fmt.Sprint(i), hash))
		d := commitstatus.Decide(commitstatus.Input{Fleet: fleet(status), Tip: hash, Settled: true, Now: now, Overlays: overlays})
		for _, p := range d.Posts {
			if p.State == commitstatus.Error {
				closed++
			}
		}
		status = acknowledge(&d, now)
		if len(status.Commits) > 20 {
			t.Fatalf("%d commits are followed", len(status.Commits))
		}
	}
	if want := 2 * 10; closed != want {
		t.Errorf("%d statuses closed, want %d", closed, want)
	}
}

// Commits that come while the forge is away don't push out the one that it shows as
// pending.
func TestManyWhileAway(t *testing.T) {
	shown := &v1alpha1.ReportedCommit{Commit: one, Overlays: ptr.To[int32](1), Statuses: []v1alpha1.ReportedStatus{recorded("capstan/prod", "", "pending")}}
	status := &v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{*shown}}
	for i := range 30 {
		hash := fmt.Sprintf("%040d", i)
		d := commitstatus.Decide(commitstatus.Input{Fleet: fleet(status), Tip: hash, Now: now})
		d.Intend()
		tip, commits := d.Record()
		status = &v1alpha1.ForgeStatus{Tip: tip, Commits: commits}
	}
	if n := len(status.Commits); n != 20 || status.Commits[n-1].Commit != one {
		t.Errorf("%d commits, the last is %s", n, status.Commits[n-1].Commit)
	}
}

// A commit with more contexts than the record holds, as after the prefix was changed,
// is not written down with all of them: that would be refused for ever.
func TestRecordFits(t *testing.T) {
	entry := v1alpha1.ReportedCommit{Commit: one, Overlays: ptr.To[int32](60)}
	in := commitstatus.Input{Tip: one, Settled: true, Now: now}
	for i := range 60 {
		name := fmt.Sprint(i)
		entry.Statuses = append(entry.Statuses, recorded("old/prod/clusters/"+name, "prod-"+name, "success"))
		in.Overlays = append(in.Overlays, overlay(name, one, converged))
	}
	in.Fleet = fleet(&v1alpha1.ForgeStatus{Tip: one, Commits: []v1alpha1.ReportedCommit{entry}})
	in.Fleet.Spec.Forge.MaxContexts = ptr.To[int32](100)
	d := commitstatus.Decide(in)
	d.Intend()
	if _, commits := d.Record(); len(commits[0].Statuses) != 101 {
		t.Errorf("%d statuses are recorded", len(commits[0].Statuses))
	}
}
