package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/live"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/sandbox"
	"capstan.dev/capstan/internal/source"
)

// Options configure the agent.
type Options struct {
	// Namespace is the agent's own; it holds the Secret with the digest key.
	// Required.
	Namespace string
	// CacheDir holds the Git mirrors. It is only a cache. Required.
	CacheDir string
	// AllowLocal permits Fleets whose URL is a file path.
	AllowLocal bool
	// FleetWorkers is how many Fleets are fetched at a time. They mostly wait for
	// servers. Default 16.
	FleetWorkers int
	// OverlayWorkers is how many overlays are rendered and applied at a time.
	// Default: 4 for each core.
	OverlayWorkers int
	// Requests is how many requests to managed objects are in flight. Default 8.
	Requests int
	// RetryFirst and RetryMost bound the delay after a failure, which doubles.
	// Default 1 s and 5 min.
	RetryFirst, RetryMost time.Duration
	// Clock for history entries and durations. Default: the real one.
	Clock clock.PassiveClock
	// Registerer gets the agent's metrics. Required.
	Registerer prometheus.Registerer
	// Sandbox is the command line that runs [sandbox.Serve], for pull requests to be
	// rendered in. Default: none, and pull requests are not planned.
	Sandbox []string
	// PullTime is the longest that the planning of one pull request may take. Default
	// 10 min.
	PullTime time.Duration
	// PullWorkers is how many pull requests are planned at a time. Default 1.
	PullWorkers int
	// OpenForge opens the client of a forge. Default: [forge.Open].
	OpenForge func(forge.Options) (forge.Forge, error)
	// Pages makes the links of commit statuses. Default: none.
	Pages Pages
	// Hooks is set up to take webhooks. Default: none, and repositories are only polled.
	Hooks *Hooks
	// MetricsOverlays is the number of overlays with series of their own. Default 2,000.
	MetricsOverlays int
	// Random returns numbers in [0,1) for jitter. Default: math/rand.
	Random func() float64
	// Log gets what doesn't belong to one reconciliation.
	Log logr.Logger
}

func (o *Options) complete() error {
	if o.Namespace == "" || o.CacheDir == "" || o.Registerer == nil {
		return errors.New("agent: Namespace, CacheDir and Registerer are required")
	}
	orDefault(&o.FleetWorkers, 16)
	orDefault(&o.OverlayWorkers, 4*runtime.GOMAXPROCS(0))
	orDefault(&o.Requests, 8)
	orDefault(&o.PullWorkers, 1)
	orDefault(&o.MetricsOverlays, 2000)
	orDefault(&o.PullTime, 10*time.Minute)
	orDefault(&o.RetryFirst, time.Second)
	orDefault(&o.RetryMost, 5*time.Minute)
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.OpenForge == nil {
		o.OpenForge = forge.Open
	}
	if o.Pages == nil {
		o.Pages = noPages{}
	}
	return nil
}

type noPages struct{}

func (noPages) URL(types.NamespacedName, string) string { return "" }

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Setup adds the agent's reconcilers to a manager. Its cache must know the kinds
// of api/v1alpha1.
func Setup(ctx context.Context, mgr manager.Manager, opts Options) error {
	if err := opts.complete(); err != nil {
		return err
	}
	applier, err := apply.New(apply.Options{Config: mgr.GetConfig(), Concurrency: opts.Requests, Log: opts.Log})
	if err != nil {
		return err
	}
	metrics, err := newMetrics(opts.Registerer, opts.Clock)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	err = mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.ClusterOverlay{}, fleetIndex, func(o client.Object) []string {
		return []string{o.(*v1alpha1.ClusterOverlay).Spec.FleetRef.Name} //nolint:forcetypeassert // indexed kind
	})
	if err != nil {
		return fmt.Errorf("index overlays by Fleet: %w", err)
	}
	s := &setup{Options: opts, mgr: mgr, applier: applier, metrics: metrics, queue: &objectQueue{}, syncs: &objectQueue{}, reports: &objectQueue{}, pulls: &lateQueue[pullRequest]{}, checked: newCheckedPulls()}
	s.progress, s.drifts, s.counts = &objectQueue{}, &objectQueue{}, &objectQueue{}
	s.objects, err = live.New(live.Options{
		Config: mgr.GetConfig(), Failed: metrics.unwatched, Log: opts.Log.WithName("live"),
		Changed: func(overlay types.NamespacedName) { s.progress.addAfter(overlay, progressPause) },
		Sighted: s.drifts.add,
	})
	if err != nil {
		return err
	}
	if err := mgr.Add(s.objects); err != nil {
		return err
	}
	err = opts.Registerer.Register(&stateCollector{reader: mgr.GetClient(), leading: mgr.Elected(), clock: opts.Clock, most: opts.MetricsOverlays})
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	s.values = &valueCache{metadata: mgr.GetClient(), live: mgr.GetAPIReader()}
	s.key = &digestKey{reader: mgr.GetAPIReader(), writer: mgr.GetClient(), namespace: opts.Namespace}
	s.mirrors = &mirrors{
		base: source.Options{Dir: s.CacheDir, AllowLocal: s.AllowLocal, Clock: s.Clock, Log: s.Log},
		open: map[types.NamespacedName]*openMirror{},
	}
	s.forges = &forges{
		open: s.OpenForge, base: forge.Options{Clock: s.Clock, Log: s.Log, Observe: s.metrics.asked},
		values: s.values, held: map[types.NamespacedName]*openForge{},
	}
	s.replan = func(*v1alpha1.Fleet) {}
	s.board = newBoard(s.queue.add)
	s.board.settled = s.known
	return errors.Join(s.hooks(), s.fleets(), s.overlays(), s.summaries(), s.tellForges(), s.pullRequests())
}

// setup is what the reconcilers share.
type setup struct {
	Options
	mgr     manager.Manager
	applier *apply.Applier
	metrics *metrics
	key     *digestKey
	board   *board
	values  *valueCache
	mirrors *mirrors
	forges  *forges
	// queue takes overlays, syncs takes fleets whose repository is to be looked at, reports
	// those whose forge is to be told something.
	queue, syncs, reports *objectQueue
	// counts takes fleets whose overlays are to be summed up.
	counts *objectQueue
	// progress takes overlays whose live objects may look different now.
	progress *objectQueue
	// drifts takes overlays whose live objects may no longer say what was applied.
	drifts  *objectQueue
	objects *live.Objects
	pulls   *lateQueue[pullRequest]
	checked *checkedPulls
	// replan has a Fleet's pull requests looked at again.
	replan func(*v1alpha1.Fleet)
}

// fleets sets the fleet reconciler up.
func (s *setup) fleets() error {
	if err := s.mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		<-ctx.Done()
		return s.mirrors.close()
	})); err != nil {
		return err
	}
	r := &fleetReconciler{
		client: s.mgr.GetClient(), reader: s.mgr.GetAPIReader(),
		open:    func(o source.Options) (Mirror, error) { return source.Open(o) },
		scan:    s.scan,
		mirrors: s.mirrors,
		values:  s.values,
		key:     s.key, board: s.board, enqueue: s.queue.add, report: s.known, replan: func(f *v1alpha1.Fleet) { s.replan(f) },
		recorder: s.recorder(), metrics: s.metrics, clock: s.Clock,
		jitter: s.jitter,
	}
	var reconciler reconcile.Reconciler = r
	if s.Hooks != nil {
		reconciler = s.Hooks.during(r)
	}
	requested := predicate.Or(predicate.GenerationChangedPredicate{}, annotationChanged(v1alpha1.RequestedAtAnnotation))
	return ctrl.NewControllerManagedBy(s.mgr).Named("fleet").
		For(&v1alpha1.Fleet{}, builder.WithPredicates(requested)).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(s.usersOf("Secret")), builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		WatchesMetadata(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(s.usersOf("ConfigMap")), builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		Watches(&v1alpha1.ClusterOverlay{}, handler.EnqueueRequestsFromMapFunc(fleetOf), builder.WithPredicates(comesOrGoes)).
		WatchesRawSource(s.syncs).
		WithOptions(controller.Options{MaxConcurrentReconciles: s.FleetWorkers, RateLimiter: s.backoff()}).
		Complete(reconciler)
}

// overlays sets the overlay reconciler up.
func (s *setup) overlays() error {
	r := &overlayReconciler{
		client: s.mgr.GetClient(), live: s.mgr.GetAPIReader(),
		applier: func(namespace, account string) (Applier, error) { return s.as(namespace, account) },
		key:     s.key, board: s.board, clock: s.Clock,
		recorder: s.recorder(), metrics: s.metrics,
		objects: s.objects, follow: s.progress.addAfter, look: s.drifts.add, mirrors: s.mirrors,
		doubts:   &doubts{since: map[types.NamespacedName]time.Time{}},
		turns:    &turns{held: map[types.NamespacedName]*turn{}},
		written:  &written{clock: s.Clock, last: map[types.NamespacedName]*v1alpha1.ClusterOverlay{}, times: map[types.NamespacedName]time.Time{}, entries: map[types.NamespacedName]recorded{}},
		still:    &still{seen: map[types.NamespacedName]sameState{}},
		attempts: &attempts{first: s.RetryFirst, most: s.RetryMost, count: map[types.NamespacedName]int{}},
	}
	progress := &progressReconciler{overlayReconciler: r}
	if err := builder.ControllerManagedBy(s.mgr).Named("progress").
		Watches(&v1alpha1.ClusterOverlay{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(comes)).                                       // all, at the start
		Watches(&v1alpha1.Fleet{}, handler.EnqueueRequestsFromMapFunc(s.overlaysOf), builder.WithPredicates(predicate.GenerationChangedPredicate{})). // spec.stallAfter
		WatchesRawSource(s.progress).
		WithOptions(controller.Options{MaxConcurrentReconciles: s.OverlayWorkers, RateLimiter: s.backoff()}).
		Complete(progress); err != nil {
		return err
	}
	drift := &driftReconciler{
		overlayReconciler: r, examined: newExaminations(),
		failures: &attempts{first: s.RetryFirst, most: s.RetryMost, count: map[types.NamespacedName]int{}},
	}
	told := predicate.Or(comes, annotationChanged(v1alpha1.ApproveCorrectionAnnotation))
	if err := builder.ControllerManagedBy(s.mgr).Named("drift").
		Watches(&v1alpha1.ClusterOverlay{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(told)).
		Watches(&v1alpha1.Fleet{}, handler.EnqueueRequestsFromMapFunc(s.overlaysOf), builder.WithPredicates(predicate.GenerationChangedPredicate{})). // spec.drift
		WatchesRawSource(s.drifts).
		WithOptions(controller.Options{MaxConcurrentReconciles: s.OverlayWorkers, RateLimiter: s.backoff()}).
		Complete(drift); err != nil {
		return err
	}
	wanted := predicate.Or(
		predicate.GenerationChangedPredicate{},
		annotationChanged(v1alpha1.RequestedAtAnnotation),
		annotationChanged(v1alpha1.ApproveDeletionAnnotation),
	)
	return ctrl.NewControllerManagedBy(s.mgr).Named("overlay").
		For(&v1alpha1.ClusterOverlay{}, builder.WithPredicates(wanted)).
		WatchesRawSource(s.queue).
		WithOptions(controller.Options{MaxConcurrentReconciles: s.OverlayWorkers}).
		Complete(r)
}

// known has those look at a Fleet to whom it matters which overlays its newest commit
// touches: that may have become known without any of them changing.
func (s *setup) known(fleet types.NamespacedName) {
	s.reports.add(fleet)
	s.counts.add(fleet)
}

// summaries sets the summary reconciler up.
func (s *setup) summaries() error {
	return ctrl.NewControllerManagedBy(s.mgr).Named("summary").
		For(&v1alpha1.Fleet{}).
		Watches(&v1alpha1.ClusterOverlay{}, soon()).
		WatchesRawSource(s.counts).
		WithOptions(controller.Options{RateLimiter: s.backoff()}).
		Complete(&summaryReconciler{client: s.mgr.GetClient(), reader: s.mgr.GetAPIReader(), board: s.board})
}

// tellForges sets the reconciler up that tells forges what became of commits.
func (s *setup) tellForges() error {
	r := &reportReconciler{
		client: s.mgr.GetClient(), reader: s.mgr.GetAPIReader(), board: s.board, pages: s.Pages,
		forges: s.forges, recorder: s.recorder(), clock: s.Clock, metrics: s.metrics, pauses: &pauses{held: map[types.NamespacedName]*pause{}},
	}
	return ctrl.NewControllerManagedBy(s.mgr).Named("report").
		For(&v1alpha1.Fleet{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.ClusterOverlay{}, soon()).
		WatchesRawSource(s.reports).
		WithOptions(controller.Options{MaxConcurrentReconciles: s.FleetWorkers, RateLimiter: s.backoff()}).
		Complete(r)
}

// pullRequests sets the reconciler up that plans pull requests.
func (s *setup) pullRequests() error {
	r := &pullReconciler{
		client: s.mgr.GetClient(), reader: s.mgr.GetAPIReader(),
		board: s.board, mirrors: s.mirrors, forges: s.forges, key: s.key, pages: s.Pages,
		applier: func(namespace, account string) (planner.Applier, error) { return s.as(namespace, account) },
		sandbox: func(ctx context.Context) (Sandbox, error) {
			return sandbox.Start(ctx, sandbox.Options{Command: s.Sandbox, Log: s.Log})
		},
		recorder: s.recorder(), metrics: s.metrics,
		limit:   s.PullTime,
		jitter:  s.jitter,
		checked: s.checked,
		enqueue: s.pulls.add,
	}
	if len(s.Sandbox) == 0 {
		return nil
	}
	s.replan = r.replan
	lists := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []pullRequest {
		return []pullRequest{{Fleet: client.ObjectKeyFromObject(o)}}
	})
	requested := predicate.Or(predicate.GenerationChangedPredicate{}, annotationChanged(v1alpha1.RequestedAtAnnotation))
	return builder.TypedControllerManagedBy[pullRequest](s.mgr).Named("pullrequest").
		Watches(&v1alpha1.Fleet{}, lists, builder.WithPredicates(requested)).
		WatchesRawSource(s.pulls).
		WithOptions(controller.TypedOptions[pullRequest]{
			MaxConcurrentReconciles: s.PullWorkers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[pullRequest](s.RetryFirst, s.RetryMost),
		}).
		Complete(r)
}

// as returns the Applier that acts under a ServiceAccount; "" is the agent itself.
func (s *setup) as(namespace, account string) (*apply.Applier, error) {
	if account == "" {
		return s.applier, nil
	}
	return s.applier.As("system:serviceaccount:" + namespace + ":" + account)
}

// overlaysOf maps a Fleet to its overlays.
func (s *setup) overlaysOf(ctx context.Context, fleet client.Object) []reconcile.Request {
	var overlays v1alpha1.ClusterOverlayList
	err := s.mgr.GetClient().List(ctx, &overlays, client.InNamespace(fleet.GetNamespace()), client.MatchingFields{fleetIndex: fleet.GetName()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		s.Log.Error(err, "list the overlays of a Fleet", "namespace", fleet.GetNamespace(), "fleet", fleet.GetName())
		return nil // each is looked at when it changes
	}
	requests := make([]reconcile.Request, 0, len(overlays.Items))
	for i := range overlays.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&overlays.Items[i])})
	}
	return requests
}

func (s *setup) jitter(d time.Duration) time.Duration { return source.Jitter(d, 0.1, s.Random) }

// soon asks for the Fleet of an overlay. Overlays change in bursts, so it waits a
// moment and asks once.
func soon() handler.EventHandler {
	const pause = 500 * time.Millisecond
	later := handler.TypedFuncs[client.Object, reconcile.Request]{}
	enqueue := func(o client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		for _, req := range fleetOf(context.Background(), o) {
			q.AddAfter(req, pause)
		}
	}
	later.CreateFunc = func(_ context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		enqueue(e.Object, q)
	}
	later.UpdateFunc = func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		enqueue(e.ObjectNew, q)
	}
	later.DeleteFunc = func(_ context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		enqueue(e.Object, q)
	}
	return later
}

// backoff bounds the pause after errors of a whole Fleet, such as an API server
// that was away, so that the pause is not longer than the trouble was.
func (s *setup) backoff() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](s.RetryFirst, time.Minute)
}

// recorder records events by the old API: the new one folds events of one reason
// into a series that keeps the first note, and ours say something different each
// time (client-go v0.36 tools/events, getKey).
func (s *setup) recorder() record.EventRecorder {
	return s.mgr.GetEventRecorderFor("capstan") //nolint:staticcheck // see above
}

// usersOf maps a ConfigMap or Secret to the Fleets that name it.
func (s *setup) usersOf(kind string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []reconcile.Request {
		var fleets v1alpha1.FleetList
		if err := s.mgr.GetClient().List(ctx, &fleets, client.InNamespace(o.GetNamespace())); err != nil {
			s.Log.Error(err, "list Fleets that may name an object", "kind", kind, "name", o.GetName())
			return nil // the next interval looks anyway
		}
		var requests []reconcile.Request
		for i := range fleets.Items {
			if names(&fleets.Items[i], kind, o.GetName()) {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&fleets.Items[i])})
			}
		}
		return requests
	}
}

// names reports whether a Fleet names a ConfigMap or Secret.
func names(f *v1alpha1.Fleet, kind, name string) bool {
	if kind == "Secret" && slices.Contains(secretsOf(f), name) {
		return true
	}
	if f.Spec.Substitute == nil {
		return false
	}
	for _, from := range f.Spec.Substitute.From {
		if from.Kind == kind && from.Name == name {
			return true
		}
	}
	return false
}

// secretsOf lists the Secrets that a Fleet names as such.
func secretsOf(f *v1alpha1.Fleet) []string {
	refs := []*v1alpha1.LocalReference{f.Spec.Git.SecretRef}
	if f.Spec.Forge != nil {
		refs = append(refs, f.Spec.Forge.SecretRef, f.Spec.Forge.WebhookSecretRef)
	}
	var names []string
	for _, ref := range refs {
		if ref != nil {
			names = append(names, ref.Name)
		}
	}
	return names
}

// scan lists what carries a Fleet's labels, by overlay. It reads metadata only, and
// does so with the agent's own rights: it has to see everything.
func (s *setup) scan(ctx context.Context, fleet *v1alpha1.Fleet) (map[string][]v1alpha1.ObjectReference, error) {
	return s.applier.OwnedByFleet(ctx, fleet.Namespace, fleet.Name)
}

func fleetOf(_ context.Context, o client.Object) []reconcile.Request {
	overlay, ok := o.(*v1alpha1.ClusterOverlay)
	if !ok {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: overlay.Namespace, Name: overlay.Spec.FleetRef.Name}}}
}

// comesOrGoes lets through what concerns the set of overlays: one that a person
// created, and one that is no more.
var comesOrGoes = predicate.Funcs{
	CreateFunc: func(e event.CreateEvent) bool {
		return !e.IsInInitialList && len(e.Object.GetFinalizers()) == 0
	},
	DeleteFunc:  func(event.DeleteEvent) bool { return true },
	UpdateFunc:  func(event.UpdateEvent) bool { return false },
	GenericFunc: func(event.GenericEvent) bool { return false },
}

// comes lets through each overlay once.
var comes = predicate.Funcs{
	DeleteFunc:  func(event.DeleteEvent) bool { return false },
	UpdateFunc:  func(event.UpdateEvent) bool { return false },
	GenericFunc: func(event.GenericEvent) bool { return false },
}

// annotationChanged lets through updates that set an annotation to a new value.
func annotationChanged(key string) predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			value := e.ObjectNew.GetAnnotations()[key]
			return value != "" && value != e.ObjectOld.GetAnnotations()[key]
		},
		CreateFunc:  func(event.CreateEvent) bool { return true },
		DeleteFunc:  func(event.DeleteEvent) bool { return true },
		GenericFunc: func(event.GenericEvent) bool { return true },
	}
}
