package agent

import (
	"cmp"
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/drift"
)

// decideDriftStep says of each drifted object what is done about it.
func decideDriftStep(ctx context.Context, run *driftRun) error {
	approvals := run.approvals()
	for _, d := range run.drifted {
		d.recall()
		d.approved = d.hash != "" && (approvals[d.hash] || d.was != nil && d.was.Approved && d.was.Hash == d.hash)
		run.decide(d)
	}
	if err := run.stillHalted(ctx); err != nil {
		return err
	}
	run.waitForCluster()
	return nil
}

// recall has an approval outlast what keeps an object from being examined: a start before Git
// was read, a watch that is late. Nothing is corrected meanwhile; the hash of the next
// examination has to be the same. That of an object that was missing says nothing of one that
// has come and gone since.
func (d *drifted) recall() {
	if d.hash == "" && d.was != nil && cmp.Or(d.obstacle, d.refused) != "" && !d.seen.Deleting &&
		isMissing(d.findings) == isMissing(d.was.Findings) {
		d.hash, d.recalled = d.was.Hash, true
	}
}

// stillHalted looks, if something has been blocked, whether the Cluster is what is in the
// way: else the status would say in turns that it is corrected, and that it isn't.
func (run *driftRun) stillHalted(ctx context.Context) error {
	i := slices.IndexFunc(run.drifted, func(d *drifted) bool {
		return d.decision.Action == v1alpha1.DriftCorrecting && d.was != nil && d.was.Action == v1alpha1.DriftBlocked
	})
	if i < 0 {
		return nil
	}
	built, _, err := run.renders.of(ctx, run.drifted[i])
	if err != nil || built == nil {
		return err
	}
	applier, err := run.driftApplier()
	if err != nil {
		return err
	}
	if halted := applier.Halted(ctx, run.driftRequest(built, run.drifted)); halted != nil {
		run.halts(halted, run.drifted)
	}
	return nil
}

// halts notes that nothing of the overlay may be written now, these objects among it.
func (run *driftRun) halts(why *apply.Error, some []*drifted) {
	run.halt = why.Error()
	run.again(clusterRetry)
	for _, d := range some {
		if d.decision.Action == v1alpha1.DriftCorrecting {
			run.decide(d)
		}
	}
}

func (run *driftRun) decide(d *drifted) {
	mode, problem := drift.ModeOf(run.fleet.Spec.Drift, run.overlay.Spec.Drift, d.seen.Annotations)
	d.decision = drift.Decide(drift.Case{
		Overlay: run.overlay.UID, Ref: d.entry.ObjectReference, Findings: d.findings, Mode: mode, Consequences: d.consequences,
		Hash: d.hash, Approved: d.approved, Last: run.last(d.entry), Obstacle: cmp.Or(d.obstacle, d.refused, run.obstacle()), Now: run.clock.Now(),
	})
	if problem != "" {
		d.decision.Message = strings.Trim(problem+"; "+d.decision.Message, "; ")
	}
	if !d.decision.Next.IsZero() {
		run.again(max(d.decision.Next.Sub(run.clock.Now()), confirmRetry))
	}
}

// obstacle says why nothing of the overlay is written now.
func (run *driftRun) obstacle() string {
	switch {
	case run.suspended():
		return "it is suspended"
	case run.halt != "":
		return run.halt
	}
	return ""
}

// waitForCluster keeps the parts of a cluster from being made before the Cluster is
// there: a person deleted it, or moved it to another management cluster.
func (run *driftRun) waitForCluster() {
	for _, c := range run.drifted {
		gone := slices.ContainsFunc(c.findings, func(f v1alpha1.Finding) bool { return f.Class == v1alpha1.FindingMissing })
		if !capi.IsCluster(c.id.GroupKind()) || !gone || c.decision.Action == v1alpha1.DriftCorrecting {
			continue
		}
		for _, d := range run.drifted {
			if d.decision.Action == v1alpha1.DriftCorrecting {
				d.decision = drift.Decision{Action: v1alpha1.DriftBlocked, Message: "it waits for " + c.id.String() + ", which is missing"}
			}
		}
	}
}

// approvals are the hashes that the overlay's annotation holds.
func (run *driftRun) approvals() map[string]bool {
	approved := map[string]bool{}
	for hash := range strings.SplitSeq(run.overlay.Annotations[v1alpha1.ApproveCorrectionAnnotation], ",") {
		approved[strings.TrimSpace(hash)] = true
	}
	delete(approved, "")
	return approved
}

// What a status has room for: findings of a drifted object, and corrections.
const maxFindings, maxCorrections = 10, 20

// recordDriftStep writes down what is found, and what is about to be done about it.
func recordDriftStep(ctx context.Context, run *driftRun) error {
	var list []v1alpha1.DriftedObject
	for _, d := range run.drifted {
		list = append(list, run.recordOf(d))
	}
	drift.Sort(list)
	rest := drift.Fit(&run.status, list)
	switch {
	case len(list) > 0:
		reason, message := drift.Summary(list, len(list))
		run.condition(v1alpha1.InSyncCondition, metav1.ConditionFalse, reason, message)
	case run.blind != "":
		run.condition(v1alpha1.InSyncCondition, metav1.ConditionUnknown, v1alpha1.NotWatchedReason, run.blind)
	case !run.late:
		run.condition(v1alpha1.InSyncCondition, metav1.ConditionTrue, v1alpha1.SucceededReason, "the live objects say what was applied")
	}
	if err := run.save(ctx); err != nil {
		return err
	}
	run.examined.unlist(run.name, rest)
	run.announce()
	return nil
}

// recordOf is what the status says of an object.
func (run *driftRun) recordOf(d *drifted) v1alpha1.DriftedObject {
	o := v1alpha1.DriftedObject{
		ObjectReference: d.entry.ObjectReference, Action: d.decision.Action, Message: truncate(run.scrub(d.decision.Message)),
		Hash: d.decision.Hash, Approved: d.approved,
		DetectedTime: metav1.Time{Time: run.clock.Now()}.Rfc3339Copy(),
		Findings:     d.findings[:min(len(d.findings), maxFindings)], MoreFindings: int32(max(len(d.findings)-maxFindings, 0)), //nolint:gosec // few
	}
	if o.Approved || d.recalled {
		o.Hash = d.hash
	}
	if next := d.decision.Next; !next.IsZero() {
		at := metav1.Time{Time: next}.Rfc3339Copy()
		o.NextTime = &at
	}
	if d.was != nil {
		o.DetectedTime = d.was.DetectedTime
	}
	run.tell(d, &o)
	d.was = &o
	return o
}

// tell counts what is news of an object, and has it announced.
func (run *driftRun) tell(d *drifted, is *v1alpha1.DriftedObject) {
	if d.was == nil {
		run.events = append(run.events, notice{corev1.EventTypeWarning, v1alpha1.DriftedReason, run.words(d)})
		run.lags = append(run.lags, func() { run.metrics.drifted(d.findings) })
	}
	if is.Action == v1alpha1.DriftFight && (d.was == nil || d.was.Action != v1alpha1.DriftFight) {
		run.events = append(run.events, notice{corev1.EventTypeWarning, v1alpha1.FightReason, d.id.String() + ": " + is.Message})
		run.lags = append(run.lags, func() { run.metrics.fought(d.findings) })
	}
	if is.Action == v1alpha1.DriftHeld && (d.was == nil || d.was.Action != v1alpha1.DriftHeld) {
		run.events = append(run.events, notice{corev1.EventTypeWarning, v1alpha1.CorrectionHeldReason, d.id.String() + ": " + is.Message})
	}
}

// words says who changed what of an object.
func (run *driftRun) words(d *drifted) string {
	return truncate(run.scrub(d.id.String() + ": " + drift.Words(d.findings)))
}
