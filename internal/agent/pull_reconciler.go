package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/source"
)

// pullRequest names a pull request of a Fleet's repository. Number 0 stands for the
// list of those that are open.
type pullRequest struct {
	Fleet  types.NamespacedName
	Number int
}

// Sandbox renders what nobody has approved.
type Sandbox interface {
	Discover(ctx context.Context, in render.DiscoverInput) ([]render.Overlay, []render.Skipped, error)
	Render(ctx context.Context, in render.Input) (*render.Result, error)
	Close() error
}

// pullReconciler says on a pull request what it would do. It applies nothing.
type pullReconciler struct {
	client   client.Client
	reader   client.Reader
	board    *board
	mirrors  *mirrors
	forges   *forges
	key      *digestKey
	applier  func(namespace, serviceAccount string) (planner.Applier, error)
	sandbox  func(ctx context.Context) (Sandbox, error)
	pages    Pages
	recorder record.EventRecorder
	// limit bounds the planning of one pull request.
	limit   time.Duration
	metrics *metrics
	jitter  func(time.Duration) time.Duration
	checked *checkedPulls
	enqueue func(pullRequest)
}

// settlePause is the time between two looks whether all overlays are rendered.
const settlePause = 500 * time.Millisecond

const (
	// applyPause is the time between two looks whether what a pull request concerns is
	// applied as the target says, and applyLooks how often that is waited for: an overlay
	// that never gets there delays the pull request, and not more.
	applyPause = 2 * time.Second
	applyLooks = 30
)

// errLater ends a look that comes too early.
var errLater = errors.New("later")

// pullRun is one look at one pull request, filled in by its steps.
type pullRun struct {
	*pullReconciler

	name   pullRequest
	fleet  *v1alpha1.Fleet
	view   *view
	forge  forge.Forge
	digest object.Digester

	pull     forge.PullRequest
	proposal *source.Proposal
	// halted says, by overlay, what would keep the agent from writing now.
	halted []string
	// verdict is what is to be said, nil as long as that isn't known.
	verdict *verdict
}

type pullStep struct {
	name string
	run  func(context.Context, *pullRun) error
}

// pullSteps is the whole of what happens to a pull request.
var pullSteps = []pullStep{
	{"read", readPullStep},
	{"fetch", fetchPullStep},
	{"plan", planPullStep},
	{"tell", tellPullStep},
}

// Reconcile looks at one pull request, or at the list.
func (r *pullReconciler) Reconcile(ctx context.Context, name pullRequest) (ctrl.Result, error) {
	var fleet v1alpha1.Fleet
	if err := r.client.Get(ctx, name.Fleet, &fleet); err != nil {
		r.checked.forget(name.Fleet)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !plansPulls(&fleet) {
		r.checked.forget(name.Fleet)
		return ctrl.Result{}, r.forgetPulls(ctx, &fleet, func(v1alpha1.ReportedPullRequest) bool { return true })
	}
	view := r.board.view(name.Fleet)
	if view == nil || view.suspended || view.revision.Ref != fleet.Spec.Git.Ref.Branch {
		return ctrl.Result{}, nil // reading Git, resuming, or reading the other branch asks again
	}
	if name.Number != 0 && !r.board.allRendered(name.Fleet, view) {
		// What the target's own overlays read isn't known, so neither is what the pull
		// request touches. All of them would be planned, and what the target itself
		// changes would be taken for the pull request's doing.
		return ctrl.Result{RequeueAfter: settlePause}, nil
	}
	run := &pullRun{pullReconciler: r, name: name, fleet: &fleet, view: view}
	err := run.open(ctx)
	if err == nil && name.Number == 0 {
		var interval time.Duration
		if interval, err = run.list(ctx); err == nil {
			r.checked.listed(name)
			return ctrl.Result{RequeueAfter: interval}, nil
		}
	} else if err == nil {
		err = run.steps(ctx)
	}
	if v := r.board.view(name.Fleet); err == nil && run.verdict != nil && v != nil && v.sequence != view.sequence {
		// It moved on meanwhile, and who had all looked at again didn't know of this one.
		return ctrl.Result{RequeueAfter: settlePause}, nil
	}
	return run.result(ctx, err)
}

// plansPulls reports whether pull requests to a Fleet's branch are planned.
func plansPulls(f *v1alpha1.Fleet) bool {
	spec := f.Spec.Forge
	return f.DeletionTimestamp.IsZero() && !f.Spec.Suspend && f.Spec.Git.Ref.Branch != "" &&
		spec != nil && spec.SecretRef != nil && spec.PullRequests.Mode != v1alpha1.PullRequestsIgnore
}

// open gets what every look needs.
func (run *pullRun) open(ctx context.Context) error {
	var err error
	if run.digest, err = run.key.get(ctx); err != nil {
		return err
	}
	run.forge, err = run.forges.get(ctx, run.fleet)
	return err
}

func (run *pullRun) steps(ctx context.Context) error {
	for _, step := range pullSteps {
		if err := step.run(ctx, run); errors.Is(err, errStop) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s pull request %d: %w", step.name, run.name.Number, err)
		}
	}
	return nil
}

// result says when to try again. The forge may name the time.
func (run *pullRun) result(ctx context.Context, err error) (ctrl.Result, error) {
	switch {
	case err == nil || ctx.Err() != nil:
		return ctrl.Result{}, nil //nolint:nilerr // stopping: it says nothing about the pull request
	case errors.Is(err, errLater):
		return ctrl.Result{RequeueAfter: applyPause}, nil
	}
	if run.checked.news(run.name, err) {
		run.recorder.Event(run.fleet, corev1.EventTypeWarning, "PullRequestNotPlanned", truncate(err.Error()))
	}
	if e, ok := errors.AsType[*forge.Error](err); ok && e.Kind == forge.RateLimited && e.RetryAfter > 0 {
		ctrl.LoggerFrom(ctx).Info("the forge wants fewer requests", "retryAfter", e.RetryAfter.String())
		return ctrl.Result{RequeueAfter: e.RetryAfter}, nil
	}
	return ctrl.Result{}, err
}

// checkedPulls remembers which heads were looked at since the start, so that the list
// leads to work only where there is some. What was said is in the Fleet's status.
type checkedPulls struct {
	mu     sync.Mutex
	heads  map[pullRequest]string
	errors map[pullRequest]string
	// waits counts how often one was put off.
	waits map[pullRequest]int
	// statuses are those that were posted last, as long as the comment lacks.
	statuses map[pullRequest]string
}

func newCheckedPulls() *checkedPulls {
	return &checkedPulls{heads: map[pullRequest]string{}, errors: map[pullRequest]string{}, waits: map[pullRequest]int{}, statuses: map[pullRequest]string{}}
}

// is reports whether a head was looked at.
func (c *checkedPulls) is(pull pullRequest, head string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heads[pull] == head
}

func (c *checkedPulls) done(pull pullRequest, head string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heads[pull] = head
	delete(c.errors, pull)
	delete(c.waits, pull)
	delete(c.statuses, pull)
}

// listed notes that the list could be read.
func (c *checkedPulls) listed(list pullRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.errors, list)
}

// hasStatus reports whether a status is the last that was posted, although the comment
// was not.
func (c *checkedPulls) hasStatus(pull pullRequest, what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statuses[pull] == what
}

func (c *checkedPulls) gotStatus(pull pullRequest, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statuses[pull] = what
}

// patient reports whether one may be put off once more.
func (c *checkedPulls) patient(pull pullRequest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waits[pull]++
	return c.waits[pull] <= applyLooks
}

// drop forgets one that is closed.
func (c *checkedPulls) drop(pull pullRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.heads, pull)
	delete(c.errors, pull)
	delete(c.waits, pull)
	delete(c.statuses, pull)
}

// forget forgets all of a Fleet.
func (c *checkedPulls) forget(fleet types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := func(pull pullRequest) bool { return pull.Fleet == fleet }
	maps.DeleteFunc(c.heads, func(pull pullRequest, _ string) bool { return of(pull) })
	maps.DeleteFunc(c.errors, func(pull pullRequest, _ string) bool { return of(pull) })
	maps.DeleteFunc(c.waits, func(pull pullRequest, _ int) bool { return of(pull) })
	maps.DeleteFunc(c.statuses, func(pull pullRequest, _ string) bool { return of(pull) })
}

// news reports whether an error is another one than the last.
func (c *checkedPulls) news(pull pullRequest, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.errors[pull] == err.Error() {
		return false
	}
	c.errors[pull] = err.Error()
	return true
}
