package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/web"
)

// Hooks joins webhooks to the agent; see [Options]. It runs on every replica, because
// the forge doesn't know which one leads: there it reads the webhook secrets whenever
// they change, so that a delivery costs no request, and passes hints on. They reach the
// Fleet's queue if this replica leads, and else the Fleet's annotation, which does the
// same as `capstan reconcile`.
type Hooks struct {
	client  client.Client // cached reads
	values  *valueCache
	elected <-chan struct{} // closed once this replica leads
	clock   clock.PassiveClock
	board   *board
	// sync asks for a look at a Fleet's repository, again for one of Reconcile.
	sync, again func(fleet types.NamespacedName, after time.Duration)
	// pull asks for a look at a pull request of a Fleet. It doesn't block.
	pull func(fleet types.NamespacedName, number int)
	// checked are the heads of pull requests for which the present state of the branch has
	// been looked at.
	checked *checkedPulls

	mu     sync.Mutex
	fleets map[types.NamespacedName]*hooked
	// running are the Fleets that are being looked at.
	running map[types.NamespacedName]bool
}

var (
	_ web.Fleets = (*Hooks)(nil)
	_ web.Hints  = (*Hooks)(nil)
)

// hooked is what is known of a Fleet.
type hooked struct {
	hook web.Hook
	// why says why no delivery is accepted, err why that is not known.
	why string
	err error

	ref       v1alpha1.GitRef
	suspended bool
	pace      pace
	// passed is the newest commit of those that were passed over because no overlay reads
	// what they change, counted from the commit passedFrom.
	passedFrom, passed string
	// wanted says that the replica that leads has to be told of a hint.
	wanted bool
}

// hintPause is the least time between two looks at a repository that hints ask for.
const hintPause = time.Second

// pace spaces what hints ask for: the first at once, and all that come within the pause
// after it together at the end of that. due is when the newest of them is to be done.
type pace struct{ due time.Time }

// next returns how long to wait with what is asked for now.
func (p *pace) next(now time.Time) time.Duration {
	if !p.due.After(now) { // the newest has begun, and may have missed the present
		p.due = p.due.Add(hintPause)
		if p.due.Before(now) {
			p.due = now
		}
	}
	return p.due.Sub(now)
}

// hooks sets the reconciler up that makes webhooks possible, on every replica.
func (s *setup) hooks() error {
	if s.Hooks == nil {
		return nil
	}
	queue := &objectQueue{}
	h := s.Hooks
	h.client, h.elected, h.clock, h.board = s.mgr.GetClient(), s.mgr.Elected(), s.Clock, s.board
	h.values = &valueCache{metadata: s.mgr.GetClient(), live: s.mgr.GetAPIReader()}
	h.sync, h.again = s.syncs.addAfter, queue.addAfter
	h.fleets, h.running = map[types.NamespacedName]*hooked{}, map[types.NamespacedName]bool{}
	h.checked = s.checked
	if len(s.Sandbox) > 0 {
		h.pull = func(fleet types.NamespacedName, number int) { s.pulls.add(pullRequest{Fleet: fleet, Number: number}) }
	}
	return ctrl.NewControllerManagedBy(s.mgr).Named("hooks").
		For(&v1alpha1.Fleet{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, requestChanged))).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(s.usersOf("Secret")), builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		WatchesRawSource(queue).
		WithOptions(controller.Options{NeedLeaderElection: ptr.To(false), RateLimiter: s.backoff()}).
		Complete(h)
}

// requestChanged lets through updates that ask for a reconciliation or tell of one.
var requestChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*v1alpha1.Fleet)
		now, also := e.ObjectNew.(*v1alpha1.Fleet)
		return ok && also && (before.Status.LastHandledRequest != now.Status.LastHandledRequest ||
			before.Annotations[v1alpha1.RequestedAtAnnotation] != now.Annotations[v1alpha1.RequestedAtAnnotation])
	},
}

// during wraps the Fleets' reconciler, so that it is known which are being looked at.
func (h *Hooks) during(r reconcile.Reconciler) reconcile.Reconciler {
	set := func(fleet types.NamespacedName, on bool) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if on {
			h.running[fleet] = true
		} else {
			delete(h.running, fleet)
		}
	}
	return reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
		set(req.NamespacedName, true)
		defer set(req.NamespacedName, false)
		return r.Reconcile(ctx, req)
	})
}

// Reconcile reads what a Fleet's deliveries are checked with, and tells the replica
// that leads of a hint.
func (h *Hooks) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if err := evictValues(ctx, h.client, h.values, req.Namespace); err != nil {
		return ctrl.Result{}, err
	}
	var fleet v1alpha1.Fleet
	if err := h.client.Get(ctx, req.NamespacedName, &fleet); err != nil {
		if apierrors.IsNotFound(err) {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.fleets, req.NamespacedName)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, err
	}
	hook, why, err := h.read(ctx, &fleet)
	h.mu.Lock()
	k := h.fleets[req.NamespacedName]
	if k == nil {
		k = &hooked{}
		h.fleets[req.NamespacedName] = k
	}
	k.hook, k.why, k.err = hook, why, err
	k.ref, k.suspended = fleet.Spec.Git.Ref, fleet.Spec.Suspend
	h.mu.Unlock()
	after, relayErr := h.relay(ctx, &fleet)
	return ctrl.Result{RequeueAfter: after}, errors.Join(err, relayErr)
}

// read gathers what a Fleet's deliveries are checked with; why says why there is
// nothing. The Secret is read when it has changed.
func (h *Hooks) read(ctx context.Context, fleet *v1alpha1.Fleet) (_ web.Hook, why string, _ error) {
	spec := fleet.Spec.Forge
	if spec == nil || spec.WebhookSecretRef == nil {
		return web.Hook{}, "the Fleet has no spec.forge.webhookSecretRef", nil
	}
	name := types.NamespacedName{Namespace: fleet.Namespace, Name: spec.WebhookSecretRef.Name}
	secret, err := h.values.get(ctx, corev1.SchemeGroupVersion.WithKind("Secret"), name)
	switch {
	case apierrors.IsNotFound(err):
		return web.Hook{}, fmt.Sprintf("the Secret %s, named by spec.forge.webhookSecretRef, does not exist", name), nil
	case err != nil:
		return web.Hook{}, "", fmt.Errorf("read Secret %s, named by spec.forge.webhookSecretRef: %w", name, err)
	}
	hook := hookOf(fleet)
	for _, key := range []string{"secret", "previousSecret"} {
		// No forge lets a secret end with a line; `kubectl create --from-file` does.
		if value := bytes.TrimRight(secret.data[key], "\r\n"); len(bytes.TrimSpace(value)) > 0 {
			hook.Secrets = append(hook.Secrets, value)
		}
	}
	if len(hook.Secrets) == 0 {
		return web.Hook{}, fmt.Sprintf("the Secret %s, named by spec.forge.webhookSecretRef, has no key \"secret\"", name), nil
	}
	return hook, "", nil
}

// hookOf says which events matter to a Fleet.
func hookOf(fleet *v1alpha1.Fleet) web.Hook {
	spec, ref := fleet.Spec.Forge, fleet.Spec.Git.Ref
	hook := web.Hook{Repository: spec.Repository, Branch: ref.Branch, Ref: ref.Name}
	if hook.Repository == "" {
		// If the URL doesn't tell, whoever knows the secret may speak of any repository.
		if _, owner, name, err := forge.Repository(fleet.Spec.Git.URL); err == nil {
			hook.Repository = owner + "/" + name
		}
	}
	switch {
	case ref.Branch != "":
		hook.Ref = "refs/heads/" + ref.Branch
	case ref.Tag != "":
		hook.Ref = "refs/tags/" + ref.Tag
	}
	mode := cmp.Or(spec.PullRequests.Mode, v1alpha1.PullRequestsPlan)
	hook.PullRequests = mode == v1alpha1.PullRequestsPlan && spec.SecretRef != nil && ref.Branch != ""
	return hook
}

// Hook implements [web.Fleets]. A namespace that isn't watched has no Fleets.
func (h *Hooks) Hook(ctx context.Context, fleet types.NamespacedName) (web.Hook, string, error) {
	h.mu.Lock()
	if k := h.fleets[fleet]; k != nil {
		defer h.mu.Unlock()
		return k.hook, k.why, k.err
	}
	h.mu.Unlock()
	var known v1alpha1.Fleet
	err := h.client.Get(ctx, fleet, &known)
	switch {
	case apierrors.IsNotFound(err):
		return web.Hook{}, "there is no such Fleet", nil
	case err != nil:
		return web.Hook{}, fmt.Sprintf("the Fleet can't be read: %v", err), nil
	default:
		return web.Hook{}, "", fmt.Errorf("the webhook secret of Fleet %s has not been read yet", fleet)
	}
}

// Push implements [web.Hints]: it asks for a look at the repository, unless it is known
// to find nothing.
func (h *Hooks) Push(_ context.Context, fleet types.NamespacedName, e forge.Event) (taken bool, why string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.fleets[fleet]
	switch {
	case k == nil:
		return false, "the Fleet is gone", nil
	case k.suspended:
		return false, "the Fleet is suspended", nil
	case k.ref.SemVer != "" && !strings.HasPrefix(e.Ref, "refs/tags/"):
		return false, "the Fleet tracks a range of versions, to which only tags matter", nil
	case !h.leads():
		h.want(fleet, k)
		return true, "", nil
	}
	if why := h.pointless(fleet, k, e); why != "" {
		return false, why, nil
	}
	h.sync(fleet, k.pace.next(h.clock.Now()))
	return true, "", nil
}

// pointless says why a look at the repository after a push would find nothing, "" if it
// may. What the agent holds is only a measure while no look is under way: one that has
// asked the server before the push may bring something older.
func (h *Hooks) pointless(fleet types.NamespacedName, k *hooked, e forge.Event) string {
	v := h.board.current(fleet)
	if v == nil || h.running[fleet] {
		return ""
	}
	have := v.revision.Hash
	if k.ref.Commit != "" && have == k.ref.Commit {
		return "the Fleet is pinned to a commit, which is known"
	}
	if e.Ref != k.hook.Ref {
		return "" // any ref may matter
	}
	if e.After == have {
		return "the commit is known"
	}
	follows := e.Before == have || k.passedFrom == have && e.Before == k.passed
	if e.PathsComplete && follows && !h.board.concerns(fleet, v, e.Paths) {
		k.passedFrom, k.passed = have, e.After
		return "no overlay reads what was changed; the next poll takes note of the commit"
	}
	return ""
}

// PullRequest implements [web.Hints]: it asks for a look at the pull request, unless
// its commit was looked at already.
func (h *Hooks) PullRequest(_ context.Context, fleet types.NamespacedName, e forge.Event) (taken bool, why string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.fleets[fleet]
	switch {
	case k == nil:
		return false, "the Fleet is gone", nil
	case k.suspended:
		return false, "the Fleet is suspended", nil
	case !h.leads():
		h.want(fleet, k)
	case h.pull == nil:
		return false, "pull requests are not looked at", nil
	case e.Action != "closed" && h.checked.is(pullRequest{Fleet: fleet, Number: e.Number}, e.Head):
		return false, "the commit was looked at", nil
	default:
		h.pull(fleet, e.Number)
	}
	return true, "", nil
}

func (h *Hooks) leads() bool {
	select {
	case <-h.elected:
		return true
	default:
		return false
	}
}

// want has the replica that leads told of a hint.
func (h *Hooks) want(fleet types.NamespacedName, k *hooked) {
	k.wanted = true
	h.again(fleet, k.pace.next(h.clock.Now()))
}

// relay tells the replica that leads of hints, if there were some: one request for all
// of them, and none while another waits to be handled. That one may have been taken up
// before the hint came, so once it is handled the hint's follows. A crash loses the
// hint, as the forge's own would; the next poll finds what it spoke of.
func (h *Hooks) relay(ctx context.Context, fleet *v1alpha1.Fleet) (after time.Duration, err error) {
	name := client.ObjectKeyFromObject(fleet)
	now := h.clock.Now()
	h.mu.Lock()
	k := h.fleets[name]
	request := fleet.Annotations[v1alpha1.RequestedAtAnnotation]
	switch {
	case k == nil || !k.wanted:
		h.mu.Unlock()
		return 0, nil
	case h.leads(): // it does by now
		k.wanted = false
		h.mu.Unlock()
		h.sync(name, 0)
		return 0, nil
	case k.pace.due.After(now):
		after = k.pace.due.Sub(now)
		h.mu.Unlock()
		return after, nil
	case request != "" && request != fleet.Status.LastHandledRequest:
		h.mu.Unlock()
		return 0, nil // its handling is a change of the Fleet
	}
	k.wanted = false // what comes from here on needs another request
	h.mu.Unlock()
	base := fleet.DeepCopy()
	if fleet.Annotations == nil {
		fleet.Annotations = map[string]string{}
	}
	fleet.Annotations[v1alpha1.RequestedAtAnnotation] = now.UTC().Format(time.RFC3339Nano)
	// The lock keeps this from replacing a request that isn't in the cache yet.
	err = h.client.Patch(ctx, fleet, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	if err == nil || apierrors.IsNotFound(err) {
		return 0, nil
	}
	h.mu.Lock()
	k.wanted = true
	h.mu.Unlock()
	if apierrors.IsConflict(err) {
		return hintPause, nil
	}
	return 0, fmt.Errorf("request a reconciliation of Fleet %s: %w", name, err)
}
