package agent

import (
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/live"
	"capstan.dev/capstan/internal/object"
)

const (
	// steady is how long what controllers say of an object without observedGeneration
	// must stand before it is believed, after the apply and after it has changed: they
	// may not have seen it yet, or what they made of it not be seen.
	steady = time.Second
	// confirmRetry is when to try again to confirm that the machines are there.
	confirmRetry = time.Second
)

// unseen is said of what was applied before the first look at it.
const unseen = "applied; what becomes of it is not known yet"

// assess puts into the status how far the machines are. It returns when to look again
// if nothing happens until then; 0 for never.
func (run *overlayRun) assess(ctx context.Context) time.Duration {
	run.objects.Declare(run.name, refsOf(run.status.Inventory))
	if run.status.AppliedRevision == "" { // there may be a part of it, and nothing to be reached
		run.status.Progress = nil
		return 0
	}
	view := run.objects.Look(run.name)
	switch {
	case view.Failing != "":
		p := run.progress()
		p.Phase, p.Message, p.EstimatedTime = v1alpha1.PhaseUnknown, truncate(view.Failing), nil
		run.status.Progress = p
		return 0
	case !view.Complete:
		return 0 // the watches tell when they have listed everything
	}
	now := run.clock.Now()
	report := run.report(view)
	still := run.still.since(run.name, report.Unversioned, now)
	converged := run.hasConverged()
	recheck := time.Duration(0)
	if report.Phase == v1alpha1.PhaseConverged && !(converged && run.progress().Phase == v1alpha1.PhaseConverged) {
		report, recheck = run.confirm(ctx, view, report, still)
	}
	if report.Phase == v1alpha1.PhaseConverged && !converged && run.strayed(ctx) {
		// The machines are as the live objects say, which is not what Git says.
		report.Phase, report.Message = v1alpha1.PhaseWaiting, "live objects don't say what was applied; see status.drift"
	}
	// What has converged doesn't end by what may be over in a moment.
	stood := converged && run.progress().Phase == v1alpha1.PhaseConverged
	if left := run.doubts.left(run.name, stood && doubtful(report), now); left > 0 {
		report.Phase, report.Message, recheck = v1alpha1.PhaseConverged, "", left
	}
	next, later := capi.Follow(run.status.Progress, report, capi.Course{
		Now: now, StallAfter: max(run.stallAfter(ctx), report.Settles+steady), HadConverged: converged,
	})
	run.status.Progress = &next
	run.outcome(now)
	return sooner(recheck, later)
}

// strayed reports whether a live object doesn't say what was applied, in more than fields
// that Git doesn't declare or whose they are.
func (run *overlayRun) strayed(ctx context.Context) bool {
	digester, err := run.overlayReconciler.key.get(ctx)
	if err != nil {
		return true // not known; asked again with the next change
	}
	harmless := map[object.ID]bool{}
	for _, d := range run.status.Drift {
		harmless[inventory.IDOf(d.ObjectReference)] = !slices.ContainsFunc(d.Findings, func(f v1alpha1.Finding) bool {
			return f.Class != v1alpha1.FindingForeign && f.Class != v1alpha1.FindingOwnershipLost
		})
	}
	seen := run.objects.Seen(run.name)
	return slices.ContainsFunc(run.status.Inventory, func(e v1alpha1.InventoryEntry) bool {
		id := inventory.IDOf(e.ObjectReference)
		s := seen[id]
		return e.State == v1alpha1.EntryApplied && e.StateDigest != "" && s.Known && !older(s.ResourceVersion, e.ResourceVersion) &&
			!harmless[id] && (!s.Present || !s.Sight.Is(e.StateDigest, digester, id.GroupKind(), run.ignored(ctx)))
	})
}

// progress is what is recorded, or what is so when nothing is.
func (run *overlayRun) progress() *v1alpha1.Progress {
	if run.status.Progress != nil {
		return run.status.Progress.DeepCopy()
	}
	now := metav1.Time{Time: run.clock.Now()}.Rfc3339Copy()
	return &v1alpha1.Progress{Phase: v1alpha1.PhaseProgressing, Message: unseen, StartTime: &now, AdvanceTime: &now}
}

func (run *overlayRun) report(view live.View) capi.Report {
	held := inventory.Held(run.status.PendingDeletion)
	declared := make([]capi.Declared, 0, len(run.status.Inventory))
	for _, e := range run.status.Inventory {
		if e.State == v1alpha1.EntryRetained {
			continue // kept on purpose, and not what Git declares
		}
		declared = append(declared, capi.Declared{
			ID: inventory.IDOf(e.ObjectReference), UID: e.UID, Generation: e.Generation,
			Leaving: e.State == v1alpha1.EntryLeaving, Held: held[inventory.IDOf(e.ObjectReference)],
		})
	}
	r := capi.Progress(capi.ProgressInput{Declared: declared, Live: view.Live, Made: view.Made, Now: run.clock.Now()})
	if r.Trails { // what it adds up to is known already
		r.Phase, r.Message = v1alpha1.PhaseConverged, ""
	}
	return r
}

// confirm makes sure that the machines are there before that is said for the first
// time: the watches may lag behind, so the Machines are read anew.
//
// still is when what controllers say of objects without observedGeneration changed last.
func (run *overlayRun) confirm(ctx context.Context, view live.View, report capi.Report, still time.Time) (capi.Report, time.Duration) {
	hold := func(why string, again time.Duration) (capi.Report, time.Duration) {
		report.Phase, report.Message = v1alpha1.PhaseProgressing, why
		return report, again
	}
	stood := run.progress().Phase == v1alpha1.PhaseConverged // nothing was sent since
	applied := run.appliedAt()
	if still.Before(applied) {
		still = applied
	}
	left := report.Settles - run.clock.Since(applied)
	if report.Unversioned != "" {
		left = max(left, steady-run.clock.Since(still))
	}
	if left > 0 && !stood {
		return hold("everything is there; it is watched for a moment whether it stays so", left)
	}
	machines, err := run.objects.Machines(ctx, run.name)
	if err != nil {
		ctrl.LoggerFrom(ctx).Info("machines can't be read anew", "reason", err.Error())
		return hold("everything seems to be there; to make sure: "+err.Error(), confirmRetry)
	}
	made := slices.DeleteFunc(slices.Clone(view.Made), func(u *unstructured.Unstructured) bool {
		return capi.IsMachine(u.GroupVersionKind().GroupKind())
	})
	view.Made = slices.Concat(made, machines)
	if report = run.report(view); report.Phase != v1alpha1.PhaseConverged {
		return report, confirmRetry // the watches will say so too
	}
	return report, 0
}

// appliedAt is when the objects were applied that are declared now: not before it, and of
// what this process has recorded not much later.
func (run *overlayRun) appliedAt() time.Time {
	if len(run.status.History) == 0 {
		return time.Time{}
	}
	entry := run.status.History[0]
	at := entry.Time.Add(time.Second) // it is on record to the second
	if recorded, known := run.written.recorded(run.name, entry); known && recorded.Before(at) {
		return recorded
	}
	return at
}

// hasConverged reports whether the machines have reached what is applied before.
func (run *overlayRun) hasConverged() bool {
	return run.status.ConvergedRevision != "" && run.status.ConvergedRevision == run.status.AppliedRevision
}

// outcome notes what the progress means for the revision that is applied.
func (run *overlayRun) outcome(now time.Time) {
	if !meta.IsStatusConditionTrue(run.status.Conditions, v1alpha1.AppliedCondition) || run.status.AppliedRevision == "" || run.halfway() {
		return // what is live is a mixture
	}
	var last *v1alpha1.HistoryEntry
	if len(run.status.History) > 0 && run.status.History[0].Revision == run.status.AppliedRevision {
		last = &run.status.History[0]
	}
	was := v1alpha1.Phase("")
	if run.overlay.Status.Progress != nil {
		was = run.overlay.Status.Progress.Phase
	}
	p := run.status.Progress
	switch {
	case p.Phase == v1alpha1.PhaseConverged && !run.hasConverged():
		run.status.ConvergedRevision = run.status.AppliedRevision
		if last != nil {
			at := metav1.Time{Time: now}.Rfc3339Copy()
			last.Outcome, last.Converged = v1alpha1.OutcomeConverged, &at
			run.lag(run.metrics.convergenceLag, last.Since, now)
		}
		run.notify(v1alpha1.ConvergedReason, run.status.AppliedRevision+": the machines are there")
	case p.Phase == v1alpha1.PhaseConverged && was == v1alpha1.PhaseDegraded:
		run.notify(v1alpha1.ConvergedReason, run.status.AppliedRevision+": the machines are back")
	case p.Phase == v1alpha1.PhaseStalled && was != v1alpha1.PhaseStalled:
		if last != nil && !run.hasConverged() {
			last.Outcome = v1alpha1.OutcomeStalled
		}
		run.notify(v1alpha1.StalledReason, p.Message)
	case p.Phase == v1alpha1.PhaseDegraded && was != v1alpha1.PhaseDegraded:
		run.notify(v1alpha1.DegradedReason, p.Message)
	case last != nil && last.Outcome == v1alpha1.OutcomeStalled && p.Phase != v1alpha1.PhaseStalled && p.Phase != v1alpha1.PhaseUnknown:
		last.Outcome = v1alpha1.OutcomeApplied
	}
}

// halfway reports whether something else is being applied, as far as that is on record: it
// may have been sent already, in part, by an agent that was killed.
func (run *overlayRun) halfway() bool {
	ready := meta.FindStatusCondition(run.status.Conditions, v1alpha1.ReadyCondition)
	return !run.accepted && ready != nil && ready.Reason == v1alpha1.ApplyingReason
}

// lag has the time since a change came into Git observed once it is recorded.
func (run *overlayRun) lag(observe func(time.Duration), since *metav1.Time, now time.Time) {
	if since != nil {
		run.lags = append(run.lags, func() { observe(max(now.Sub(since.Time), 0)) })
	}
}

// stallAfter is the Fleet's setting.
func (run *overlayRun) stallAfter(ctx context.Context) time.Duration {
	const unset = 15 * time.Minute // as the definition of the kind says
	var fleet v1alpha1.Fleet
	if err := run.client.Get(ctx, run.fleetName, &fleet); err != nil || fleet.Spec.StallAfter.Duration <= 0 {
		return unset
	}
	return fleet.Spec.StallAfter.Duration
}

func refsOf(entries []v1alpha1.InventoryEntry) []v1alpha1.ObjectReference {
	refs := make([]v1alpha1.ObjectReference, 0, len(entries))
	for _, e := range entries {
		refs = append(refs, e.ObjectReference)
	}
	return refs
}
