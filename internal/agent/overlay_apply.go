package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/drift"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
)

const (
	// clusterRetry is how often a Cluster is looked at that stops an overlay: one
	// that is paused by somebody else, or on its way out.
	clusterRetry = 10 * time.Second
	maxHistory   = 10
)

// applyStep sends the objects that differ from what was applied last. The
// inventory is written first, so a crash at any point leaves nothing that the
// agent doesn't know of.
func applyStep(ctx context.Context, run *overlayRun) error {
	if run.gone || run.built == nil {
		return nil
	}
	if run.suspended() {
		return errStop
	}
	if len(run.built.Objects) == 0 {
		run.applied("the overlay renders nothing") // what it owns is the prune step's business
		return nil
	}
	changed := run.toSend()
	if len(changed) == 0 {
		run.status.Inventory, _ = inventory.WriteAhead(run.status.Inventory, run.built.Desired)
		run.applied("nothing to send")
		return nil
	}
	known := uids(run.status.Inventory)
	next, news := inventory.WriteAhead(run.status.Inventory, run.built.Desired)
	if len(next) > planner.MaxObjects {
		run.fail(v1alpha1.AppliedCondition, v1alpha1.TooManyObjectsReason, fmt.Sprintf(
			"%d objects together with those that have left Git and are still there, an overlay may own %d: make the change in two commits", len(next), planner.MaxObjects))
		run.handled()
		return errStop
	}
	run.status.Inventory = next
	if news {
		// A crash after this leaves entries of objects that may not exist; the next
		// round finds out. A crash before it leaves nothing.
		if err := run.save(ctx); err != nil {
			return err
		}
	}
	report, err := run.send(ctx, changed, known)
	if err != nil {
		return err
	}
	run.metrics.sent(report)
	if report.Halted != nil {
		return run.halted(report.Halted)
	}
	run.recordOutcomes(ctx, report)
	if failures := report.Errors(); len(failures) > 0 {
		return run.applyFailed(failures)
	}
	run.applied(counts(report))
	return nil
}

// toSend lists the objects that have to be sent: those that changed, or all when a
// person asked for it.
func (run *overlayRun) toSend() []object.ID {
	if run.requested {
		ids := make([]object.ID, 0, len(run.built.Objects))
		for _, u := range run.built.Objects {
			ids = append(ids, object.IDOf(u))
		}
		return ids
	}
	return inventory.Changed(run.status.Inventory, run.built.Desired)
}

// send applies objects. Those that are live under another overlay of the fleet are
// taken over from it, if it is known to have let go of them.
func (run *overlayRun) send(ctx context.Context, ids []object.ID, known map[object.ID]types.UID) (report apply.Report, err error) {
	applier, err := run.as()
	if err != nil {
		return apply.Report{}, err
	}
	req := run.built.Request(run.owner())
	req.Objects, req.Known, req.ReadAll, req.Left = run.built.Pick(ids), known, run.requested, run.left(ctx)
	req.ClusterMade = made(run.status.Inventory, req.Cluster)
	done := run.metrics.applying()
	defer func() {
		if !errors.Is(err, errStop) { // it is only too early
			done(refused(report, err))
		}
	}()
	report, err = applier.Apply(ctx, req)
	if err != nil || report.Halted != nil {
		return report, err
	}
	if !req.ReadAll && slices.ContainsFunc(report.Outcomes, lacks) {
		if report, err = run.restore(ctx, applier, req, ids); err != nil || report.Halted != nil {
			return report, err
		}
	}
	from, complete := run.takeovers(report)
	if !complete {
		// Their owner may be about to let go of them; then it asks for us.
		if settled, _ := run.board.settle(run.fleetName, run.overlay.Spec.Path); !settled {
			return report, errStop
		}
		if from, _ = run.takeovers(report); len(from) == 0 {
			return report, nil
		}
	}
	if len(from) == 0 {
		return report, nil
	}
	ctrl.LoggerFrom(ctx).Info("taking objects over from other overlays", "objects", len(from))
	req.TakeOverFrom = from
	if report, err = applier.Apply(ctx, req); err == nil {
		run.wakeFormer(from)
	}
	return report, err
}

// restore applies objects that lack something which was applied long ago, such as
// their Namespace, and with them what else is gone. What is there but differs is none
// of the business of a commit that doesn't change it, nor is what takes an approval to
// be built anew: drift sees to both.
func (run *overlayRun) restore(ctx context.Context, applier Applier, req apply.Request, ids []object.ID) (apply.Report, error) {
	req.Objects, req.ReadAll = run.built.Objects, true
	report, err := applier.DryRun(ctx, req)
	if err != nil || report.Halted != nil {
		return report, err
	}
	for _, o := range report.Outcomes {
		// Not checked is what lay in the Namespace that is gone.
		gone := o.Before == nil && (o.Action == apply.ActionCreated || o.Action == apply.ActionNotChecked)
		if gone && !slices.ContainsFunc(run.built.Pick([]object.ID{o.ID}), rebuilds) {
			ids = append(ids, o.ID)
		}
	}
	req.Objects = run.built.Pick(ids)
	return applier.Apply(ctx, req)
}

// rebuilds reports whether making an object anew takes an approval.
func rebuilds(u *unstructured.Unstructured) bool {
	return slices.ContainsFunc(capi.Consequences(nil, u), capi.Consequence.Disruptive)
}

// made reports whether the Cluster of an overlay was applied, and Git has not changed
// that since. If it is gone somebody else deleted it, or moved it elsewhere.
func made(entries []v1alpha1.InventoryEntry, cluster *object.ID) bool {
	return cluster != nil && slices.ContainsFunc(entries, func(e v1alpha1.InventoryEntry) bool {
		return e.State == v1alpha1.EntryApplied && inventory.IDOf(e.ObjectReference) == *cluster
	})
}

// left tells which fields the Fleet leaves to others.
func (run *overlayRun) left(ctx context.Context) func(object.ID, string, string) bool {
	return planner.Left(&v1alpha1.Fleet{Spec: v1alpha1.FleetSpec{Drift: v1alpha1.DriftSpec{Ignore: run.ignored(ctx)}}})
}

// ignored is what the Fleet leaves to others, the same all through a run.
func (run *overlayRun) ignored(ctx context.Context) []v1alpha1.DriftIgnore {
	if run.ignore == nil {
		run.ignore = &[]v1alpha1.DriftIgnore{}
		var fleet v1alpha1.Fleet
		if err := run.client.Get(ctx, run.fleetName, &fleet); err == nil { // from a cache: else it is no more
			run.ignore = &fleet.Spec.Drift.Ignore
		}
	}
	return *run.ignore
}

// refused is what kept a part of an apply from being done.
func refused(report apply.Report, err error) error {
	if failures := report.Errors(); err == nil && report.Halted != nil {
		return report.Halted
	} else if err == nil && len(failures) > 0 {
		return failures[0]
	}
	return err
}

// lacks reports whether something is missing that the overlay renders but had no
// reason to send, such as a Namespace: a transient refusal with no answer of the API
// server behind it.
func lacks(o apply.Outcome) bool { return o.Err != nil && o.Err.Transient && o.Err.Unwrap() == nil }

// as returns the Applier with the rights that the Fleet asks for.
func (run *overlayRun) as() (Applier, error) {
	if run.applier != nil {
		return run.applier, nil
	}
	applier, err := run.overlayReconciler.applier(run.fleetName.Namespace, run.view.serviceAccount)
	if err != nil {
		return nil, fmt.Errorf("act as ServiceAccount %s/%s: %w", run.fleetName.Namespace, run.view.serviceAccount, err)
	}
	run.applier = applier
	return applier, nil
}

// recordOutcomes puts what happened into the inventory.
func (run *overlayRun) recordOutcomes(ctx context.Context, report apply.Report) {
	digests := make(map[object.ID]string, len(run.built.Desired))
	for _, d := range run.built.Desired {
		digests[inventory.IDOf(d.Ref)] = d.Digest
	}
	var outcomes []inventory.Outcome
	for _, o := range report.Outcomes {
		if attempted(o.Action) {
			outcome := inventory.Outcome{Ref: o.Ref, Digest: digests[o.ID], Applied: o.Err == nil}
			if o.After != nil && o.Action != apply.ActionSkipped { // else a dry-run made it up
				outcome.Generation, outcome.ResourceVersion = o.After.GetGeneration(), o.After.GetResourceVersion()
				outcome.StateDigest = drift.See(o.After).Record(run.digester, o.ID.GroupKind(), run.ignored(ctx), len(o.Left) > 0)
			}
			outcomes = append(outcomes, outcome)
		}
	}
	run.status.Inventory = inventory.Record(run.status.Inventory, outcomes)
}

// attempted reports whether an object was written, or may have been. One that was
// left alone on request counts as well: it is not sent again until Git changes it.
func attempted(action apply.Action) bool {
	switch action {
	case apply.ActionCreated, apply.ActionConfigured, apply.ActionUnchanged, apply.ActionSkipped, apply.ActionFailed:
		return true
	default:
		return false
	}
}

// applied records that the API server has accepted everything.
func (run *overlayRun) applied(summary string) {
	run.accepted = true
	run.handled()
	if run.status.AppliedRevision != run.status.DesiredRevision || run.status.RenderDigest != run.built.Digest {
		run.supersede()
		run.events = append(run.events, notice{corev1.EventTypeNormal, "Applied", run.status.DesiredRevision + ": " + summary})
		run.status.History = slices.Insert(run.status.History, 0, v1alpha1.HistoryEntry{
			Revision: run.status.DesiredRevision, RenderDigest: run.built.Digest,
			Outcome: v1alpha1.OutcomeApplied, Since: run.status.DesiredSince,
			Time: metav1.Time{Time: run.clock.Now()}.Rfc3339Copy(), Message: summary,
		})
		run.status.History = run.status.History[:min(len(run.status.History), maxHistory)]
		if run.status.AppliedRevision != run.status.DesiredRevision {
			run.lag(run.metrics.applyLag, run.status.DesiredSince, run.clock.Now())
		}
	}
	run.status.AppliedRevision = run.status.DesiredRevision
	run.status.RenderDigest = run.built.Digest
	run.recovered(v1alpha1.AppliedCondition, run.status.DesiredRevision)
	run.condition(v1alpha1.AppliedCondition, metav1.ConditionTrue, v1alpha1.SucceededReason, fmt.Sprintf("%d objects", len(run.built.Objects)))
}

// supersede closes what is on record of what was applied before: something else is
// applied now.
func (run *overlayRun) supersede() {
	if run.status.RenderDigest != run.built.Digest {
		run.status.Progress = nil // it counts from now
		if run.status.ConvergedRevision == run.status.DesiredRevision {
			// The same commit with other values of variables, or one that was left and that
			// somebody has gone back to: the machines have to reach it again.
			run.status.ConvergedRevision = ""
		}
	}
	if run.status.AppliedRevision == run.status.DesiredRevision {
		now := metav1.Time{Time: run.clock.Now()}.Rfc3339Copy()
		run.status.DesiredSince = &now // when the values changed isn't known, but it was before
	}
	if len(run.status.History) > 0 && run.status.History[0].Outcome != v1alpha1.OutcomeConverged {
		run.status.History[0].Outcome = v1alpha1.OutcomeSuperseded
	}
}

// halted records what keeps the agent from writing to any object of the overlay.
func (run *overlayRun) halted(halt *apply.Error) error {
	run.halt = halt.Error()
	if halt.Reason == v1alpha1.ClusterDeletingReason {
		// The garbage collector takes others along, so nothing else is known to be
		// applied. The Cluster itself is: unless Git changes it, or it was us who deleted
		// it, making it anew takes an approval.
		cluster := run.rendering.cluster()
		for i := range run.status.Inventory {
			e := &run.status.Inventory[i]
			if cluster != nil && inventory.IDOf(e.ObjectReference) == *cluster {
				continue
			}
			if e.State == v1alpha1.EntryApplied || e.State == v1alpha1.EntryShared {
				e.State, e.Digest = v1alpha1.EntryIntent, ""
			}
		}
	}
	run.fail(v1alpha1.AppliedCondition, halt.Reason, halt.Message)
	if halt.Reason != v1alpha1.ClusterDeletingReason {
		run.handled() // else a request is an approval to build the cluster anew once it is gone
	}
	run.again(clusterRetry)
	// Objects that have left Git are still shown, but none of them is deleted.
	return nil
}

// applyFailed records all errors of all objects at once.
func (run *overlayRun) applyFailed(failures []*apply.Error) error {
	manifests := make(map[object.ID]*unstructured.Unstructured, len(run.built.Objects))
	for _, u := range run.built.Objects {
		manifests[object.IDOf(u)] = u
	}
	reason, transient := failures[0].Reason, true
	lines := make([]string, 0, len(failures)+1)
	if len(failures) > 1 {
		lines = append(lines, fmt.Sprintf("%d objects failed:", len(failures)))
	}
	for _, f := range failures {
		lines = append(lines, object.Scrub(f.Error(), manifests[f.ID])) // an API server quotes what it refuses
		if !f.Transient && transient {
			reason, transient = f.Reason, false
		}
	}
	run.fail(v1alpha1.AppliedCondition, reason, strings.Join(lines, "\n"))
	run.handled()
	run.again(0)
	return errStop
}

// counts says what an apply did.
func counts(report apply.Report) string {
	n := map[apply.Action]int{}
	for _, o := range report.Outcomes {
		n[o.Action]++
	}
	var parts []string
	for _, action := range []apply.Action{apply.ActionCreated, apply.ActionConfigured, apply.ActionUnchanged, apply.ActionSkipped} {
		if n[action] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[action], strings.ToLower(string(action))))
		}
	}
	return strings.Join(parts, ", ")
}

// uids lists the objects that the overlay is known to own.
func uids(entries []v1alpha1.InventoryEntry) map[object.ID]types.UID {
	known := make(map[object.ID]types.UID, len(entries))
	for _, e := range entries {
		if e.UID != "" && e.Digest != "" {
			known[inventory.IDOf(e.ObjectReference)] = e.UID
		}
	}
	return known
}
