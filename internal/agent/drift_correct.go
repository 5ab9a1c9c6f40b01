package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/drift"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
)

// approveDriftStep takes the approval off the overlay once it is in the status: it is
// used once. A crash before that finds both, and approves nothing else: the hash stands
// for what is approved already.
func approveDriftStep(ctx context.Context, run *driftRun) error {
	hashes := run.approvals()
	if len(hashes) == 0 {
		return nil
	}
	given := len(hashes)
	for _, d := range run.drifted {
		delete(hashes, d.hash)
	}
	early := run.late || run.view == nil // what it approves may not be seen, or examined, yet
	if early && len(hashes) == given {
		return nil
	}
	if err := run.patchMetadata(ctx, "remove the used approval", func(o *v1alpha1.ClusterOverlay) {
		delete(o.Annotations, v1alpha1.ApproveCorrectionAnnotation)
		if early && len(hashes) > 0 {
			o.Annotations[v1alpha1.ApproveCorrectionAnnotation] = strings.Join(slices.Sorted(maps.Keys(hashes)), ",")
		}
	}); err != nil || early {
		return err
	}
	for hash := range hashes {
		run.events = append(run.events, notice{corev1.EventTypeWarning, v1alpha1.CorrectionHeldReason,
			"the approval " + hash + " is void: no correction of that hash waits; see status.drift"})
	}
	return nil
}

// correctDriftStep applies again what has drifted, and nothing else.
func correctDriftStep(ctx context.Context, run *driftRun) error {
	due := map[*planner.Built][]*drifted{}
	for _, d := range run.drifted {
		if d.decision.Action != v1alpha1.DriftCorrecting {
			continue
		}
		built, why, err := run.renders.of(ctx, d)
		if err != nil {
			return err
		}
		if built == nil {
			d.obstacle = why
			run.decide(d)
			continue
		}
		due[built] = append(due[built], d)
	}
	for _, built := range []*planner.Built{run.renders.tip, run.renders.applied} {
		if some := due[built]; built != nil && len(some) > 0 {
			if err := run.correct(ctx, built, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// correct applies objects of one render again and notes what became of them.
func (run *driftRun) correct(ctx context.Context, built *planner.Built, some []*drifted) error {
	applier, err := run.driftApplier()
	if err != nil {
		return err
	}
	req := run.driftRequest(built, some)
	req.Override = func(manager string) bool {
		return slices.ContainsFunc(some, func(d *drifted) bool { return slices.Contains(d.decision.Override, manager) })
	}
	// Who changes it after it was looked at may do what an approval is needed for to undo.
	looked := map[object.ID]string{}
	req.Seen = map[object.ID]*unstructured.Unstructured{}
	for _, d := range some {
		looked[d.id] = d.of
		req.Seen[d.id] = run.read[d.id]
	}
	req.Same = func(id object.ID, live *unstructured.Unstructured) bool { return run.stateOf(live) == looked[id] }
	report, err := applier.Apply(ctx, req)
	if err != nil {
		return err
	}
	run.metrics.sent(report)
	if report.Halted != nil {
		run.halts(report.Halted, some)
		return nil //nolint:nilerr // it says why nothing is written, and nothing failed
	}
	outcomes := map[object.ID]apply.Outcome{}
	for _, o := range report.Outcomes {
		outcomes[o.ID] = o
	}
	// What was not accepted stays on record as it was applied: then it has still drifted.
	report.Outcomes = slices.DeleteFunc(report.Outcomes, func(o apply.Outcome) bool { return o.Err != nil })
	run.built = built
	run.recordOutcomes(ctx, report)
	for _, d := range some {
		run.corrected(d, outcomes[d.id])
	}
	run.drifted = slices.DeleteFunc(run.drifted, func(d *drifted) bool { return len(d.findings) == 0 })
	return nil
}

// corrected notes what became of one object.
func (run *driftRun) corrected(d *drifted, o apply.Outcome) {
	lost := d.findings
	if e := run.entry(d.id); e != nil {
		d.entry = e
	}
	if o.Err != nil || !attempted(o.Action) {
		err := errNotReached
		if o.Err != nil {
			err = errors.New(object.Scrub(o.Err.Error(), o.Before))
		}
		run.lags = append(run.lags, func() { run.metrics.corrected(lost, err) })
		d.obstacle = err.Error()
		run.examined.drop(run.name, d.id)
		run.decide(d)
		run.tryLater()
		return
	}
	run.overwrote(d.entry, lost)
	d.findings, d.examination.consequences, d.hash, d.approved = nil, nil, "", false
	if o.After != nil {
		d.findings = drift.Foreign(d.id.GroupKind(), drift.See(o.After), run.fleet.Spec.Drift.Ignore)
	}
	run.decide(d)
}

// overwrote notes who lost which change. The count is kept in the entry: in the list others
// take its place.
func (run *driftRun) overwrote(e *v1alpha1.InventoryEntry, lost []v1alpha1.Finding) {
	lost = slices.DeleteFunc(slices.Clone(lost), func(f v1alpha1.Finding) bool { return f.Class == v1alpha1.FindingForeign })
	id := inventory.IDOf(e.ObjectReference)
	run.events = append(run.events, notice{corev1.EventTypeNormal, "Corrected", id.String() + ": applied again; written over: " + run.scrub(drift.Words(lost))})
	run.lags = append(run.lags, func() { run.metrics.corrected(lost, nil) })
	list := drift.Remember(run.status.Corrections, v1alpha1.Correction{ObjectReference: e.ObjectReference, Findings: lost}, run.last(e), run.clock.Now())
	at := list[0].Time
	e.Corrections, e.CorrectedTime = list[0].Count, &at
	run.status.Corrections = list[:min(len(list), maxCorrections)]
}

// last is the last correction of an object; nil if there is none on record. Its findings
// are known as long as the list has room for them.
func (run *driftRun) last(e *v1alpha1.InventoryEntry) *v1alpha1.Correction {
	if e.Corrections == 0 || e.CorrectedTime == nil {
		return nil
	}
	c := v1alpha1.Correction{ObjectReference: e.ObjectReference, Time: *e.CorrectedTime, Count: e.Corrections}
	for _, told := range run.status.Corrections {
		if inventory.IDOf(told.ObjectReference) == inventory.IDOf(e.ObjectReference) {
			c.Findings = told.Findings
		}
	}
	return &c
}

// entry finds the entry of an object in the inventory to be recorded.
func (run *driftRun) entry(id object.ID) *v1alpha1.InventoryEntry {
	for i := range run.status.Inventory {
		if inventory.IDOf(run.status.Inventory[i].ObjectReference) == id {
			return &run.status.Inventory[i]
		}
	}
	return nil
}

// errNotReached is what became of a correction that another one kept from being sent.
var errNotReached = errors.New("it was not reached, because something else could not be written")
