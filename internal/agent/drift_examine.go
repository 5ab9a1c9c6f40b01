package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/commitstatus"
	"capstan.dev/capstan/internal/drift"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
)

// examineDriftStep reads what is suspect and asks, by a dry-run, what applying it again
// would change. What has changed in nothing that Git declares is recorded as it is.
func examineDriftStep(ctx context.Context, run *driftRun) error {
	found := map[object.ID]remembered{}
	ask := map[*planner.Built][]*drifted{}
	for _, d := range run.drifted {
		if !d.suspect {
			continue
		}
		state := run.state(d)
		// What an interrupted correction has made of it the watch may not have told yet.
		if x, known := run.examined.get(run.name, d.id, state); known && !run.stale(d, x) && !interrupted(d) {
			d.examination, d.suspect = x, false
			found[d.id] = remembered{state, x}
			continue
		}
		built, why, err := run.renders.of(ctx, d)
		if err != nil {
			return err
		}
		if built == nil {
			run.unexamined(d, why)
			continue
		}
		ask[built] = append(ask[built], d)
	}
	for _, built := range []*planner.Built{run.renders.tip, run.renders.applied} {
		if some := ask[built]; built != nil && len(some) > 0 {
			if err := run.examine(ctx, built, some, found); err != nil {
				return err
			}
		}
	}
	run.examined.set(run.name, found)
	run.drifted = slices.DeleteFunc(run.drifted, func(d *drifted) bool { return len(d.findings) == 0 })
	return nil
}

// unexamined is what can be said of an object without knowing what was applied.
func (run *driftRun) unexamined(d *drifted, why string) {
	class := v1alpha1.FindingChanged
	switch {
	case !d.seen.Present:
		class = v1alpha1.FindingMissing
	case d.entry.StateDigest == "" && d.seen.UID == d.entry.UID:
		return // it was never known what it should look like: nothing can be said
	case d.seen.UID != d.entry.UID:
		class = v1alpha1.FindingRecreated
	}
	d.suspect, d.obstacle = false, why
	d.findings = append([]v1alpha1.Finding{{Class: class}}, drift.Foreign(d.id.GroupKind(), d.seen.Sight, run.fleet.Spec.Drift.Ignore)...)
}

// examine reads and dry-runs objects of one render.
func (run *driftRun) examine(ctx context.Context, built *planner.Built, some []*drifted, found map[object.ID]remembered) error {
	applier, err := run.driftApplier()
	if err != nil {
		return err
	}
	req := run.driftRequest(built, some)
	req.Cluster = nil // nothing is written
	req.Override = func(string) bool { return true }
	report, err := applier.DryRun(ctx, req)
	if err != nil {
		return err
	}
	outcomes := map[object.ID]apply.Outcome{}
	for _, o := range report.Outcomes {
		outcomes[o.ID] = o
	}
	for _, d := range some {
		o := outcomes[d.id]
		if o.Err != nil && o.Err.Transient && o.Before == nil && d.seen.Present {
			run.keepSuspect(d, o.Err)
			continue
		}
		d.suspect = false
		if o.Err != nil && o.Err.Reason == v1alpha1.OwnedByOtherReason && d.entry.State == v1alpha1.EntryShared {
			// Another overlay has written it before it knew that it is shared, and will again.
			run.late = true
			run.again(clusterRetry)
			continue
		}
		if o.Before != nil && run.remade(d, drift.See(o.Before)) {
			run.benign(d, o)
			continue
		}
		d.examination = run.judged(d, o)
		d.of, d.version, d.at = run.stateOf(o.Before), d.seen.ResourceVersion, run.clock.Now()
		run.read[d.id] = o.Before
		if d.taken() {
			run.again(takenRetry)
		}
		switch {
		case d.refused != "":
			// What is in the way may end, and nothing of the object tells when.
			run.tryLater()
		case len(d.findings) > 0:
			found[d.id] = remembered{run.state(d), d.examination}
		default:
			run.benign(d, o)
		}
	}
	return nil
}

// stateOf stands for what matters of a live object, nil if there is none.
func (run *driftRun) stateOf(u *unstructured.Unstructured) string {
	if u == nil {
		return "absent"
	}
	sight := drift.See(u)
	return run.digester.Strings(string(u.GetUID()), string(sight.Owned[:]), string(sight.Others[:]))
}

// keepSuspect leaves an object that couldn't be read as it is recorded.
func (run *driftRun) keepSuspect(d *drifted, err error) {
	run.tryLater()
	d.suspect = false
	if d.was == nil {
		run.late = true
		return
	}
	d.findings, d.obstacle = d.was.Findings, run.scrub(err.Error())
}

// judged is what an answer of the API server means.
func (run *driftRun) judged(d *drifted, o apply.Outcome) examination {
	var x examination
	if o.Action == apply.ActionSkipped {
		return x // an annotation asks to leave it alone
	}
	x.findings = drift.Compare(drift.Comparison{Before: o.Before, After: o.After, UID: d.entry.UID, Ignore: run.fleet.Spec.Drift.Ignore})
	if o.Err != nil || o.After == nil {
		x.refused = cmp.Or(o.Note, "it can't be checked now") // its namespace is gone as well
		if o.Err != nil {
			x.refused = object.Scrub(o.Err.Error(), o.Before)
		}
		if len(x.findings) == 0 {
			x.findings = []v1alpha1.Finding{{Class: v1alpha1.FindingChanged}}
			switch {
			case o.Before == nil && !d.seen.Present:
				x.findings[0].Class = v1alpha1.FindingMissing
			case o.Before != nil && o.Before.GetUID() != d.entry.UID:
				x.findings[0].Class = v1alpha1.FindingRecreated
			}
		}
		return x
	}
	for i := range x.findings {
		f := &x.findings[i]
		f.From, f.To = run.scrub(f.From), run.scrub(f.To)
	}
	x.consequences = capi.Consequences(o.Before, o.After)
	x.hash = drift.Hash(run.digester, run.overlay.UID, d.entry.ObjectReference, o.Before, o.After)
	return x
}

// benign records the present state of an object that says what Git says, though not in
// the way it did: a conversion changed its form, or a field is left to others.
func (run *driftRun) benign(d *drifted, o apply.Outcome) {
	if o.Before == nil {
		return
	}
	if interrupted(d) {
		run.overwrote(d.entry, d.was.Findings)
	}
	d.entry.StateDigest = drift.See(o.Before).Record(run.digester, d.id.GroupKind(), run.fleet.Spec.Drift.Ignore, len(o.Left) > 0)
	d.entry.ResourceVersion, d.entry.UID = o.Before.GetResourceVersion(), o.Before.GetUID()
}

// driftRequest asks for some objects of a render, and no others.
func (run *driftRun) driftRequest(built *planner.Built, some []*drifted) apply.Request {
	req := built.Request(run.owner())
	ids := make([]object.ID, 0, len(some))
	known := map[object.ID]types.UID{}
	for _, d := range some {
		ids = append(ids, d.id)
		known[d.id] = d.entry.UID
	}
	req.Objects, req.Known, req.ReadAll, req.Left = built.Pick(ids), known, true, planner.Left(run.fleet)
	// The watch may not have told yet that the Cluster is gone.
	req.ClusterMade = made(run.status.Inventory, req.Cluster)
	return req
}

// driftApplier is as, also before the Fleet's repository was read.
func (run *driftRun) driftApplier() (Applier, error) {
	if run.view != nil {
		return run.as()
	}
	return run.overlayReconciler.applier(run.fleetName.Namespace, run.fleet.Spec.ServiceAccountName)
}

// renders are what an overlay renders at the newest commit, and what it rendered at the
// one that was applied last: each is made when it is needed.
type renders struct {
	run          *driftRun
	tip, applied *planner.Built
	tried        bool
	why          string
}

// of returns the render that holds the manifest of an object as it was applied, or says
// why there is none.
func (r *renders) of(ctx context.Context, d *drifted) (built *planner.Built, why string, err error) {
	if !r.tried {
		r.tried = true
		if err := r.make(ctx); err != nil {
			return nil, "", err
		}
	}
	for _, built := range []*planner.Built{r.tip, r.applied} {
		if built != nil && built.Holds(d.id, d.entry.Digest) {
			return built, "", nil
		}
	}
	return nil, cmp.Or(r.why, "what was applied is not what Git says now; the next successful apply corrects it"), nil
}

func (r *renders) make(ctx context.Context) error {
	run := r.run
	if run.view == nil {
		r.why = "Git has not been read since the start"
		return nil
	}
	in := planner.BuildInput{Tree: run.view.tree, Owner: run.owner(), Substitution: run.view.substitution, Digester: run.digester}
	var err error
	if r.tip, err = planner.Build(ctx, in); err != nil {
		r.tip = nil
		r.why = "what was applied can't be rendered again: " + run.scrub(err.Error())
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if r.tip != nil {
		r.tip.Share(run.sharedOnRecord())
	}
	if r.tip != nil && r.tip.Digest == run.status.RenderDigest {
		return nil
	}
	// The newest commit does not render, or is not applied: that doesn't keep the last good
	// one from being defended.
	mirror := run.mirrors.held(run.fleetName)
	hash := commitstatus.Hash(run.status.AppliedRevision)
	if mirror == nil || hash == "" {
		return nil
	}
	snapshot, err := mirror.At(ctx, hash)
	if err == nil {
		in.Tree = snapshot.Tree
		r.applied, err = planner.Build(ctx, in)
	}
	if err != nil {
		r.applied = nil
		if errors.Is(err, context.Canceled) {
			return err
		}
		ctrl.LoggerFrom(ctx).V(1).Info("the applied revision can't be rendered", "reason", run.scrub(err.Error()))
		r.why = cmp.Or(r.why, "what was applied can't be rendered again")
		return nil
	}
	r.applied.Share(run.sharedOnRecord())
	return nil
}

// sharedOnRecord are the Namespaces that are on record as shared.
func (run *driftRun) sharedOnRecord() map[object.ID]bool {
	shared := map[object.ID]bool{}
	for _, e := range run.status.Inventory {
		if e.State == v1alpha1.EntryShared {
			shared[inventory.IDOf(e.ObjectReference)] = true
		}
	}
	return shared
}
