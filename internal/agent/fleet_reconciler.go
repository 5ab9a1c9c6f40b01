package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/source"
)

// Mirror is a Git repository at one tracked ref.
type Mirror interface {
	// Sync returns the newest commit of the tracked ref, after one look at the
	// remote and at most one fetch. On error the caller keeps what it has.
	Sync(ctx context.Context) (*source.Snapshot, error)
	// At returns the tree of a commit that was fetched before, without asking the remote.
	At(ctx context.Context, hash string) (*source.Snapshot, error)
	// Proposal is what a pull request would make of the tracked ref.
	Proposal(ctx context.Context, ref string, target *source.Snapshot) (*source.Proposal, error)
	Stats() source.Stats
	Close() error
}

// fleetReconciler follows a Fleet's repository and publishes what it finds.
type fleetReconciler struct {
	client client.Client // cached reads
	reader client.Reader // live reads
	open   func(source.Options) (Mirror, error)
	scan   func(ctx context.Context, fleet *v1alpha1.Fleet) (map[string][]v1alpha1.ObjectReference, error)

	mirrors *mirrors
	values  *valueCache
	key     *digestKey
	board   *board
	enqueue func(overlay types.NamespacedName)
	// report asks for the fleet's forge to be told what is new.
	report func(fleet types.NamespacedName)
	// replan has the fleet's pull requests looked at again.
	replan   func(*v1alpha1.Fleet)
	recorder record.EventRecorder
	metrics  *metrics
	clock    clock.PassiveClock
	jitter   func(time.Duration) time.Duration
}

// fleetRun is one reconciliation of one Fleet, filled in by its steps.
type fleetRun struct {
	*fleetReconciler

	name     types.NamespacedName
	fleet    *v1alpha1.Fleet
	status   v1alpha1.FleetStatus
	snapshot *source.Snapshot
	since    time.Time // when it can have come into Git at the earliest
	next     view
	existing map[string]*v1alpha1.ClusterOverlay // the fleet's, by path
	misnamed []*v1alpha1.ClusterOverlay          // those that are not the overlay of their path
	// unscanned says why it is not known what overlays without an inventory own.
	unscanned error
}

// errStop ends a reconciliation in good order; its steps have said why.
var errStop = errors.New("stop")

type fleetStep struct {
	name string
	run  func(context.Context, *fleetRun) error
}

// fleetSteps is the whole of what happens to a Fleet.
var fleetSteps = []fleetStep{
	{"fetch", fetchStep},
	{"substitute", substituteStep},
	{"discover", discoverStep},
	{"adopt", adoptStep},
	{"publish", publishStep},
	{"create", createStep},
}

// Reconcile runs the steps and records what they found.
func (r *fleetReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if err := evictValues(ctx, r.client, r.values, req.Namespace); err != nil {
		return ctrl.Result{}, err
	}
	var fleet v1alpha1.Fleet
	if err := r.client.Get(ctx, req.NamespacedName, &fleet); err != nil {
		if apierrors.IsNotFound(err) {
			// Its overlays stay, and so does everything that they own.
			r.board.forget(req.NamespacedName)
			r.mirrors.drop(req.NamespacedName)
			r.metrics.forgetFleet(req.NamespacedName)
			return ctrl.Result{}, r.tellOrphans(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, err
	}
	run := &fleetRun{fleetReconciler: r, name: req.NamespacedName, fleet: &fleet, status: *fleet.Status.DeepCopy()}
	err := run.steps(ctx)
	if ctx.Err() != nil {
		return ctrl.Result{}, nil //nolint:nilerr // stopping: nothing that failed now means anything
	}
	run.status.LastHandledRequest = fleet.Annotations[v1alpha1.RequestedAtAnnotation]
	run.tell(err)
	if errors.Is(err, errStop) {
		err = nil
	}
	if err := errors.Join(err, run.record(ctx)); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: r.jitter(fleet.Spec.Git.Interval.Duration)}, nil
}

// tell has the forge told of the commit that was read, or why it can't be looked at.
func (run *fleetRun) tell(err error) {
	if run.snapshot == nil {
		return
	}
	problem := ""
	if c := meta.FindStatusCondition(run.status.Conditions, v1alpha1.DiscoveredCondition); errors.Is(err, errStop) && c != nil {
		problem = c.Message
	}
	run.board.observed(run.name, run.snapshot.Revision, problem)
	run.report(run.name)
}

// evictValues forgets the ConfigMaps and Secrets that no Fleet names any more.
func evictValues(ctx context.Context, cached client.Reader, values *valueCache, namespace string) error {
	var fleets v1alpha1.FleetList
	if err := cached.List(ctx, &fleets, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("list Fleets: %w", err)
	}
	values.evict(namespace, func(kind, name string) bool {
		return slices.ContainsFunc(fleets.Items, func(f v1alpha1.Fleet) bool { return names(&f, kind, name) })
	})
	return nil
}

// tellOrphans has the overlays of a Fleet that is no more say so.
func (r *fleetReconciler) tellOrphans(ctx context.Context, fleet types.NamespacedName) error {
	var all v1alpha1.ClusterOverlayList
	if err := r.client.List(ctx, &all, client.InNamespace(fleet.Namespace), client.MatchingFields{fleetIndex: fleet.Name}); err != nil {
		return fmt.Errorf("list the overlays of Fleet %s: %w", fleet, err)
	}
	for i := range all.Items {
		r.enqueue(client.ObjectKeyFromObject(&all.Items[i]))
	}
	return nil
}

func (run *fleetRun) steps(ctx context.Context) error {
	for _, step := range fleetSteps {
		if err := step.run(ctx, run); err != nil {
			if errors.Is(err, errStop) {
				return err
			}
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// record writes what this reconciler owns of the Fleet's status, if it says
// something new. The summary reconciler owns the rest.
func (run *fleetRun) record(ctx context.Context) error {
	return updateFleetStatus(ctx, run.client, run.reader, run.fleet, func(fleet *v1alpha1.Fleet) {
		fleet.Status.ObservedGeneration = run.fleet.Generation
		fleet.Status.ObservedRevision = cmp.Or(run.board.announced(run.name), fleet.Status.ObservedRevision)
		fleet.Status.LastHandledRequest = run.status.LastHandledRequest
		for _, kind := range []string{v1alpha1.FetchedCondition, v1alpha1.DiscoveredCondition} {
			if c := meta.FindStatusCondition(run.status.Conditions, kind); c != nil {
				meta.SetStatusCondition(&fleet.Status.Conditions, *c)
			}
		}
	})
}

// updateFleetStatus changes a Fleet's status if the change makes a difference. Two
// reconcilers write to it, so the patch names the version it is based on and is
// made again on what is live after a conflict.
func updateFleetStatus(ctx context.Context, c client.Client, live client.Reader, known *v1alpha1.Fleet, change func(*v1alpha1.Fleet)) error {
	fleet := known.DeepCopy()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		base := fleet.DeepCopy()
		change(fleet)
		if equality.Semantic.DeepEqual(base.Status, fleet.Status) {
			return nil
		}
		err := c.Status().Patch(ctx, fleet, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
		if apierrors.IsConflict(err) {
			if getErr := live.Get(ctx, client.ObjectKeyFromObject(known), fleet); getErr != nil {
				return getErr
			}
		}
		return err
	})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("record the status of Fleet %s: %w", client.ObjectKeyFromObject(known), err)
	}
	return nil
}
