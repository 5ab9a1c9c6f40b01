package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// driftReconciler looks whether an overlay's live objects still say what was applied, and
// applies those again that don't, as far as that is allowed. As long as they do it sends
// nothing.
type driftReconciler struct {
	*overlayReconciler
	examined *examinations
	failures *attempts
}

// driftRun is one look at one overlay, filled in by its steps.
type driftRun struct {
	*overlayRun
	examined *examinations
	failures *attempts

	fleet *v1alpha1.Fleet
	// drifted are the objects that don't say what was applied, or may not.
	drifted []*drifted
	// read are the objects that were read in this run, nil for one that is absent.
	read map[object.ID]*unstructured.Unstructured
	// blind says why some objects can't be judged; late is true if the watches will deliver
	// what is missing.
	blind string
	late  bool
	// renders has what the overlay renders at the tip, and what it rendered when it was
	// applied last.
	renders *renders
	retry   time.Duration
	failed  bool // something is to be tried again
}

type driftStep struct {
	name string
	run  func(context.Context, *driftRun) error
}

// driftSteps is the whole of what happens about drift of an overlay. What was found is
// recorded before anything is written over: a crash in between leaves the record of who
// had changed what, and the next look goes on from there.
var driftSteps = []driftStep{
	{"judge", judgeDriftStep},
	{"examine", examineDriftStep},
	{"decide", decideDriftStep},
	{"record", recordDriftStep},
	{"approve", approveDriftStep},
	{"correct", correctDriftStep},
	{"record", recordDriftStep},
}

// Reconcile runs the steps.
func (r *driftReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	end := r.turns.try(req.NamespacedName, func() { r.look(req.NamespacedName) })
	if end == nil {
		return ctrl.Result{}, nil
	}
	defer end()
	defer r.follow(req.NamespacedName, 0) // success waits for what has strayed to be back
	var overlay v1alpha1.ClusterOverlay
	if err := r.client.Get(ctx, req.NamespacedName, &overlay); err != nil {
		if apierrors.IsNotFound(err) {
			r.examined.forget(req.NamespacedName)
			r.failures.succeeded(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !overlay.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	r.written.newer(&overlay)
	run := &driftRun{
		overlayRun: r.newRun(&overlay), examined: r.examined, failures: r.failures,
		read: map[object.ID]*unstructured.Unstructured{},
	}
	known, err := run.prepare(ctx)
	if err != nil || !known {
		return ctrl.Result{}, err
	}
	for _, step := range driftSteps {
		err := step.run(ctx, run)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return ctrl.Result{}, nil // stopping; the next start looks again
		case errors.Is(err, errStop):
			return ctrl.Result{}, nil
		case apierrors.IsConflict(err):
			r.written.forget(req.NamespacedName)
			return ctrl.Result{RequeueAfter: time.Second}, nil
		}
		return ctrl.Result{}, fmt.Errorf("drift: %s: %w", step.name, err)
	}
	if !run.failed {
		r.failures.succeeded(req.NamespacedName)
	}
	return ctrl.Result{RequeueAfter: run.retry}, nil
}

// prepare gathers what every step needs; known is false if nothing can be said now.
// Whatever changes that asks for another look.
func (run *driftRun) prepare(ctx context.Context) (known bool, err error) {
	var fleet v1alpha1.Fleet
	if err := run.client.Get(ctx, run.fleetName, &fleet); err != nil {
		return false, client.IgnoreNotFound(err) // without a Fleet nobody asks for the objects
	}
	run.fleet, run.ignore = &fleet, &fleet.Spec.Drift.Ignore
	if run.digester, err = run.key.get(ctx); err != nil {
		return false, err
	}
	run.view = run.board.view(run.fleetName)
	run.renders = &renders{run: run}
	if run.view != nil && !run.view.paths[run.overlay.Spec.Path] {
		run.gone = true
		run.drop()
		return false, run.save(ctx)
	}
	run.objects.Declare(run.name, refsOf(run.status.Inventory))
	return len(run.status.Inventory) > 0, nil
}

// drop forgets the drift of an overlay that Git asks nothing of any more.
func (run *driftRun) drop() {
	run.status.Drift, run.status.DriftedObjects = nil, 0
	run.examined.forget(run.name)
	run.condition(v1alpha1.InSyncCondition, metav1.ConditionUnknown, v1alpha1.PathRemovedReason, "the directory is no overlay any more")
}

// suspended is that of the overlay, also before its Fleet was looked at.
func (run *driftRun) suspended() bool { return run.overlayRun.suspended() || run.fleet.Spec.Suspend }

// again asks for another look after a while, unless one comes sooner.
func (run *driftRun) again(after time.Duration) {
	run.retry = sooner(run.retry, after)
}

// tryLater asks for another look after a failure, later each time.
func (run *driftRun) tryLater() {
	if !run.failed {
		run.failed = true
		run.again(run.failures.failed(run.name))
	}
}

// scrub takes values of variables that come from Secrets out of a text.
func (run *driftRun) scrub(text string) string {
	if run.view == nil {
		return text
	}
	return object.Scrub(text, run.view.secrets)
}
