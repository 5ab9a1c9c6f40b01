package apply

import (
	"context"
	"errors"
	"slices"
	"time"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// errNoOwner is a mistake of the caller.
var errNoOwner = errors.New("apply: Request.Owner is incomplete")

// DryRun says what Apply would do, for all objects and with all their errors. It
// writes nothing. An error is a mistake in the request; everything else is in the
// report.
//
// With ReadAll and an Override that says yes to all it examines objects: each has
// its Before, nil if it is absent, and an After as Git wants it, also if a
// controller is in the way, if it would be made anew or if the cluster is paused.
// What must not be written has an error and no After, what is left alone neither.
func (a *Applier) DryRun(ctx context.Context, req Request) (Report, error) {
	if req.Owner.Overlay == "" || req.Owner.FleetName == "" {
		return Report{}, errNoOwner
	}
	r := a.newRun(req)
	r.dry = true
	halted := r.halted(ctx)
	r.checkAll(ctx, false)
	report := r.report()
	report.Halted = halted
	return report, nil
}

// Apply applies the objects: a dry-run of all, then, if none failed, the writes,
// stage by stage. A failure in a stage keeps the later ones from being written;
// the report says how far it came. With a single object no dry-run is needed:
// the write itself is the check. Nor is one if all objects were Seen: it has been.
//
// What the report says was written is written whatever happens next; a crash
// within Apply leaves objects that are applied or not, never one half applied,
// and the same request again completes them. An error is a mistake in the
// request; everything else is in the report.
func (a *Applier) Apply(ctx context.Context, req Request) (Report, error) {
	if req.Owner.Overlay == "" || req.Owner.FleetName == "" {
		return Report{}, errNoOwner
	}
	r := a.newRun(req)
	if len(r.items) == 0 {
		return Report{}, nil
	}
	if halted := r.halted(ctx); halted != nil {
		return Report{Halted: halted}, nil //nolint:nilerr // the report carries it
	}
	r.seen = !slices.ContainsFunc(r.items, func(it *item) bool { return req.Seen[it.id] == nil })
	if r.seen || len(r.items) == 1 {
		r.each(ctx, r.items, func(ctx context.Context, it *item) { r.prepare(ctx, it, true) })
	} else {
		r.checkAll(ctx, false)
	}
	if !r.failed() {
		r.writeStages(ctx)
	}
	for _, it := range r.open(func(*item) bool { return true }) {
		if it.waits == waitsForNothing {
			it.outcome.Action = ActionNotReached // what the dry-run said was not done
		}
	}
	return r.report(), nil
}

// checkAll prepares and dry-runs all items. All errors are found, not just the
// first.
func (r *run) checkAll(ctx context.Context, read bool) {
	r.each(ctx, r.items, func(ctx context.Context, it *item) {
		r.prepare(ctx, it, read)
		if it.decided || it.waits != waitsForNothing {
			return
		}
		r.check(ctx, it)
		if err := it.outcome.Err; err != nil && err.Reason == v1alpha1.InvalidReason && r.definitions[it.id.GroupKind()] {
			// Its definition changes in the same request; the new one may allow it.
			it.decided, it.outcome.Err = false, nil
			it.wait(waitsForDefinition, "can be checked when its definition, which changes in this overlay, is applied")
		}
	})
}

// writeStages applies what is open, stage by stage, and stops after a stage in
// which something failed.
func (r *run) writeStages(ctx context.Context) {
	// Managed fields in the way are moved first, so that these objects are checked
	// before anything is written too.
	r.each(ctx, r.open(func(it *item) bool { return it.waits == waitsForFields }), r.checkRewritten)

	stages := []capi.Stage{capi.StageDefinitions} // even if empty: objects may wait for it
	for _, it := range r.items {
		stages = append(stages, it.stage())
	}
	slices.Sort(stages)
	for _, stage := range slices.Compact(stages) {
		if r.failed() {
			return
		}
		r.each(ctx, r.open(func(it *item) bool { return it.stage() == stage && it.waits == waitsForNothing }), r.write)
		if stage == capi.StageDefinitions && !r.failed() {
			r.checkWaiting(ctx)
		}
	}
}

// checkWaiting dry-runs, after Namespaces and definitions were applied, what
// waited for them, whatever its own stage is: so nothing further is written if
// one of them is wrong.
func (r *run) checkWaiting(ctx context.Context) {
	waiting := func(it *item) bool { return it.waits != waitsForNothing }
	if len(r.open(waiting)) == 0 {
		return
	}
	for _, it := range r.items {
		if it.decided && it.outcome.Action == ActionCreated {
			r.made[it.id] = true
		}
	}
	r.forgetNamespaces()
	r.awaitKinds(ctx)
	r.each(ctx, r.open(waiting), func(ctx context.Context, it *item) {
		if it.waits == waitsForDefinition {
			r.checkDefined(ctx, it)
		} else {
			r.checkAgain(ctx, it)
		}
		if it.waits == waitsForFields {
			r.checkRewritten(ctx, it)
		}
	})
	for _, it := range r.open(waiting) {
		it.fail(missing(it.id, it.waits))
	}
}

// missing is the error of an object whose Namespace or definition is part of the
// overlay, was not to be applied now, and is not there.
func missing(id object.ID, what waiting) *Error {
	err := refuse(id, v1alpha1.TransientReason, "its %s is not there, although it is part of this overlay; a reconciliation on request restores it", what)
	err.Transient = true
	return err
}

// checkAgain dry-runs an item that had to wait.
func (r *run) checkAgain(ctx context.Context, it *item) {
	it.decided, it.outcome.Err = false, nil
	r.prepare(ctx, it, false)
	if !it.decided && it.waits == waitsForNothing {
		r.check(ctx, it)
	}
}

// checkRewritten moves managed fields out of the way and dry-runs the item.
func (r *run) checkRewritten(ctx context.Context, it *item) {
	if r.rewriteFields(ctx, it, true) {
		r.check(ctx, it)
	}
}

const (
	// pollInterval is the first pause between two looks at what the API server does
	// in its own time; each is twice the one before, up to pollIntervalMax.
	pollInterval    = 100 * time.Millisecond
	pollIntervalMax = time.Second
	// settleTime is how long an API server may use the old schema after it has
	// accepted a new one.
	settleTime = 5 * time.Second
)

// awaitKinds waits until the kinds that items wait for are served, or for the
// time allowed.
func (r *run) awaitKinds(ctx context.Context) {
	r.poll(ctx, r.definitionTimeout, func() bool {
		r.kinds.forget()
		return len(r.open(func(it *item) bool {
			if it.waits != waitsForDefinition {
				return false
			}
			_, err := r.kinds.find(it.desired.GroupVersionKind())
			return err != nil
		})) == 0
	})
}

// checkDefined dry-runs an object whose definition was just applied. A refusal
// counts only if it lasts.
func (r *run) checkDefined(ctx context.Context, it *item) {
	r.poll(ctx, settleTime, func() bool {
		r.checkAgain(ctx, it)
		err := it.outcome.Err
		return err == nil || err.Reason != v1alpha1.InvalidReason && !errors.As(err, new(*notServedError))
	})
}

// poll calls done until it returns true, the time is over or the context ends.
func (r *run) poll(ctx context.Context, timeout time.Duration, done func() bool) {
	deadline := r.clock.Now().Add(timeout)
	for pause := pollInterval; !done() && r.clock.Now().Before(deadline); pause = min(2*pause, pollIntervalMax) {
		select {
		case <-r.clock.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
