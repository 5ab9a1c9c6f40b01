package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
)

// Applier reads and writes managed objects. Its errors that can be told apart are
// *apply.Error.
type Applier interface {
	Apply(ctx context.Context, req apply.Request) (apply.Report, error)
	DryRun(ctx context.Context, req apply.Request) (apply.Report, error)
	Get(ctx context.Context, ref v1alpha1.ObjectReference) (*unstructured.Unstructured, error)
	Delete(ctx context.Context, ref v1alpha1.ObjectReference, owner apply.Owner) (apply.DeleteOutcome, error)
	Halted(ctx context.Context, req apply.Request) *apply.Error
	planner.LiveUsers
}

// overlayReconciler brings one overlay at a time to the management cluster.
type overlayReconciler struct {
	client client.Client // cached reads
	live   client.Reader // live reads
	// applier returns the Applier that acts under a ServiceAccount.
	applier  func(namespace, serviceAccount string) (Applier, error)
	key      *digestKey
	board    *board
	recorder record.EventRecorder
	metrics  *metrics
	clock    clock.PassiveClock
	objects  LiveObjects
	// follow asks for another look at an overlay's progress after a while.
	follow func(overlay types.NamespacedName, after time.Duration)
	// look asks for another look at an overlay's drift.
	look    func(overlay types.NamespacedName)
	mirrors *mirrors

	turns    *turns
	written  *written
	doubts   *doubts
	still    *still
	attempts *attempts
}

// overlayRun is one reconciliation of one overlay, filled in by its steps.
type overlayRun struct {
	*overlayReconciler

	name      types.NamespacedName
	fleetName types.NamespacedName
	overlay   *v1alpha1.ClusterOverlay
	status    v1alpha1.ClusterOverlayStatus // to be recorded at the end

	view      *view
	applier   Applier
	digester  object.Digester
	orphan    bool                    // there is no such Fleet
	gone      bool                    // the directory is no overlay of the commit
	requested bool                    // a person asked for a full comparison
	built     *planner.Built          // what the overlay renders, nil if it was not rendered now
	rendering *rendering              // what is known of the render at this view
	shared    map[object.ID]bool      // Namespaces that other overlays render too
	ignore    *[]v1alpha1.DriftIgnore // see ignored
	accepted  bool                    // the API server has accepted everything in this round
	halt      string                  // why nothing may be written to the overlay's objects now
	events    []notice
	lags      []func() // observations to be made once the status is recorded
	// settled is false while something is left to do that no event will announce:
	// then the overlay is looked at again after retry, unless that is 0, and by
	// backOff, whichever is sooner.
	settled bool
	retry   time.Duration
	backOff bool
}

// notice is an event to be sent once the status is recorded.
type notice struct{ kind, reason, message string }

type overlayStep struct {
	name string
	run  func(context.Context, *overlayRun) error
}

// overlaySteps is the whole of what happens to an overlay.
var overlaySteps = []overlayStep{
	{"release", releaseStep},
	{"observe", observeStep},
	{"render", renderStep},
	{"depart", departStep},
	{"claim", claimStep},
	{"apply", applyStep},
	{"prune", pruneStep},
	{"retire", retireStep},
}

// Reconcile runs the steps, then records the outcome whatever it was.
func (r *overlayReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	// Whatever happens here, progress and drift are looked at afterwards: both speak of what
	// was applied.
	defer r.look(req.NamespacedName)
	defer r.follow(req.NamespacedName, 0)
	defer r.turns.take(req.NamespacedName)()
	var overlay v1alpha1.ClusterOverlay
	if err := r.client.Get(ctx, req.NamespacedName, &overlay); err != nil {
		if apierrors.IsNotFound(err) {
			r.written.forget(req.NamespacedName)
			r.attempts.succeeded(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	r.written.newer(&overlay)
	run := r.newRun(&overlay)
	err := run.steps(ctx)
	if ctx.Err() != nil {
		// Stopping. What was written ahead is on record; the next start goes on from it.
		return ctrl.Result{}, nil
	}
	if err == nil || errors.Is(err, errStop) {
		if err = run.record(ctx); apierrors.IsConflict(err) {
			err = run.recordAgain(ctx, err)
		}
	} else {
		err = errors.Join(err, run.record(ctx))
	}
	if apierrors.IsConflict(err) {
		// Somebody changed the overlay meanwhile: look again. What we remember may
		// even be from before a restore of the cluster; a patch based on too old a
		// read would be refused like this one.
		r.written.forget(req.NamespacedName)
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	return run.result(ctx, err)
}

func (r *overlayReconciler) newRun(overlay *v1alpha1.ClusterOverlay) *overlayRun {
	return &overlayRun{
		overlayReconciler: r, name: client.ObjectKeyFromObject(overlay), overlay: overlay,
		fleetName: types.NamespacedName{Namespace: overlay.Namespace, Name: overlay.Spec.FleetRef.Name},
		status:    *overlay.Status.DeepCopy(), settled: true,
	}
}

func (run *overlayRun) steps(ctx context.Context) error {
	for _, step := range overlaySteps {
		if err := step.run(ctx, run); err != nil {
			if errors.Is(err, errStop) {
				return err
			}
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// result decides when to look again. Errors are logged here, once, and retried
// with a back-off of our own: the queue's would start at milliseconds.
func (run *overlayRun) result(ctx context.Context, err error) (ctrl.Result, error) {
	switch {
	case err != nil:
		delay := run.attempts.failed(run.name)
		ctrl.LoggerFrom(ctx).Error(err, "reconcile failed", "retryAfter", delay.String())
		return ctrl.Result{RequeueAfter: delay}, nil
	case run.settled:
		run.attempts.succeeded(run.name)
		return ctrl.Result{}, nil
	}
	delay := run.retry
	if run.backOff {
		if d := run.attempts.failed(run.name); delay == 0 || d < delay {
			delay = d
		}
	}
	return ctrl.Result{RequeueAfter: delay}, nil
}

// again asks for another look, after a delay or, if that is 0, by back-off.
func (run *overlayRun) again(delay time.Duration) {
	run.settled = false
	if delay == 0 {
		run.backOff = true
	} else if run.retry == 0 || delay < run.retry {
		run.retry = delay
	}
}

// condition sets a condition in the status to be recorded.
func (run *overlayRun) condition(kind string, status metav1.ConditionStatus, reason, message string) {
	setCondition(&run.status.Conditions, run.overlay.Generation, kind, status, reason, message)
}

// fail sets a condition to False. An event goes with it if that is news.
func (run *overlayRun) fail(kind, reason, message string) {
	message = object.Scrub(message, run.view.secrets)
	was := meta.FindStatusCondition(run.overlay.Status.Conditions, kind)
	if was == nil || was.Status != metav1.ConditionFalse || was.Reason != reason || was.Message != truncate(message) {
		run.events = append(run.events, notice{corev1.EventTypeWarning, reason, message})
	}
	run.condition(kind, metav1.ConditionFalse, reason, message)
}

// record writes the status, if it says something new, and then the events.
func (run *overlayRun) record(ctx context.Context) error {
	if !run.overlay.DeletionTimestamp.IsZero() {
		return nil // nobody needs to know any more
	}
	if run.view != nil || run.orphan {
		run.conclude(ctx)
		if err := run.save(ctx); err != nil {
			return err
		}
	}
	run.announce()
	return nil
}

// recordAgain records what has been done on an overlay that somebody has changed
// meanwhile: that is true all the same, and would else be forgotten. It is for what
// has been done only; what is to be done must be decided anew.
func (run *overlayRun) recordAgain(ctx context.Context, conflict error) error {
	var live v1alpha1.ClusterOverlay
	if err := run.live.Get(ctx, run.name, &live); err != nil {
		return client.IgnoreNotFound(err)
	}
	if live.UID != run.overlay.UID || !equality.Semantic.DeepEqual(live.Status, run.overlay.Status) {
		return conflict
	}
	run.overlay = &live
	return run.record(ctx)
}

// conclude sets what follows from everything else.
func (run *overlayRun) conclude(ctx context.Context) {
	run.status.ObservedGeneration = run.overlay.Generation
	if recheck := run.assess(ctx); recheck > 0 {
		run.follow(run.name, recheck)
	}
	if run.orphan {
		run.condition(v1alpha1.ReadyCondition, metav1.ConditionUnknown, v1alpha1.FleetNotFoundReason,
			"there is no Fleet "+run.fleetName.String()+"; nothing is done to the overlay's objects")
		return
	}
	run.summarise()
}

// summarise sets the conditions that follow from others.
func (run *overlayRun) summarise() {
	summarise(&run.status, run.overlay.Generation, run.suspended())
	applied := meta.IsStatusConditionTrue(run.status.Conditions, v1alpha1.AppliedCondition)
	if applied && !run.suspended() && run.rendering != nil && run.rendering.err == nil && run.outdated() {
		run.applying() // Applied speaks of what was rendered before
	}
}

// save writes the status as it stands. The patch names the version of the overlay
// that the decision was based on: a stale reader can't overwrite an inventory.
func (run *overlayRun) save(ctx context.Context) error {
	run.status.Objects = int32(len(run.status.Inventory)) //nolint:gosec // at most 2,000
	if equality.Semantic.DeepEqual(run.overlay.Status, run.status) {
		return nil
	}
	base := run.overlay.DeepCopy()
	run.overlay.Status = *run.status.DeepCopy()
	err := run.client.Status().Patch(ctx, run.overlay, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	if err != nil {
		run.overlay.Status = base.Status
		return fmt.Errorf("record the status: %w", err)
	}
	run.written.remember(run.overlay)
	run.own() // from here on it is on record
	return nil
}

// written remembers the overlays as last written, because the cache lags behind
// our own writes, and a decision about deletion must not be made on an old status.
type written struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	last  map[types.NamespacedName]*v1alpha1.ClusterOverlay
	times map[types.NamespacedName]time.Time
	// entries have the newest entries of histories, and when they were recorded first.
	entries map[types.NamespacedName]recorded
}

type recorded struct {
	entry v1alpha1.HistoryEntry
	at    time.Time
}

func (w *written) remember(o *v1alpha1.ClusterOverlay) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := client.ObjectKeyFromObject(o)
	w.last[key] = o.DeepCopy()
	w.times[key] = w.clock.Now()
	if len(o.Status.History) > 0 && !sameEntry(w.entries[key].entry, o.Status.History[0]) {
		w.entries[key] = recorded{*o.Status.History[0].DeepCopy(), w.clock.Now()}
	}
}

// recorded is when an entry of an overlay's history was recorded, if this process did it.
func (w *written) recorded(key types.NamespacedName, entry v1alpha1.HistoryEntry) (at time.Time, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, found := w.entries[key]
	return r.at, found && sameEntry(r.entry, entry)
}

// sameEntry tells whether two entries of a history are of one apply.
func sameEntry(a, b v1alpha1.HistoryEntry) bool {
	return a.Revision == b.Revision && a.RenderDigest == b.RenderDigest && a.Time.Equal(&b.Time)
}

// at is when an overlay was written last; the zero time if it wasn't.
func (w *written) at(key types.NamespacedName) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.times[key]
}

// newer replaces an overlay read from the cache by what was written last, if that
// is newer.
func (w *written) newer(o *v1alpha1.ClusterOverlay) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := client.ObjectKeyFromObject(o)
	last := w.last[key]
	if last == nil {
		return
	}
	if last.UID == o.UID && resourceVersion(last) > resourceVersion(o) {
		last.DeepCopyInto(o)
		return
	}
	delete(w.last, key) // the cache has caught up
}

func (w *written) forget(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.last, key)
	delete(w.times, key)
	delete(w.entries, key)
}

// resourceVersion orders versions of one object. That is allowed since Kubernetes
// 1.35 (KEP-5504), and true of every API server on etcd before.
func resourceVersion(o client.Object) uint64 {
	v, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// attempts counts failures in a row, for the back-off.
type attempts struct {
	first, most time.Duration
	mu          sync.Mutex
	count       map[types.NamespacedName]int
}

// failed returns the delay until the next attempt: doubling from first to most.
func (a *attempts) failed(key types.NamespacedName) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	delay := a.first
	for range a.count[key] {
		if delay *= 2; delay >= a.most {
			return a.most
		}
	}
	a.count[key]++
	return delay
}

func (a *attempts) succeeded(key types.NamespacedName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.count, key)
}
