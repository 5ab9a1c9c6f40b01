package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
	"capstan.dev/capstan/internal/forge"
)

// reportReconciler tells a Fleet's forge what became of commits. It keeps nothing of
// its own: what the forge should know follows from the board and the overlays, what
// it knows is in the Fleet's status.
type reportReconciler struct {
	client   client.Client
	reader   client.Reader
	board    *board
	forges   *forges
	recorder record.EventRecorder
	clock    clock.PassiveClock
	metrics  *metrics
	pages    Pages
	pauses   *pauses
}

// Pages makes links to what people see of a Fleet.
type Pages interface {
	// URL of an overlay's page by its name, of the Fleet's for ""; "" if there is none.
	URL(fleet types.NamespacedName, overlay string) string
}

// Reconcile posts the commit statuses that the forge lacks. What is posted for the
// first time is recorded first, so a crash leaves nothing at the forge that is not
// followed. A crash before the outcome is recorded has it posted again, which changes
// nothing there.
func (r *reportReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var fleet v1alpha1.Fleet
	if err := r.client.Get(ctx, req.NamespacedName, &fleet); err != nil {
		r.pauses.forget(req.NamespacedName)
		r.forges.drop(req.NamespacedName)
		r.metrics.owesNothing(req.NamespacedName) // posts that were under way may have come after its end
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !fleet.DeletionTimestamp.IsZero() || fleet.Spec.Forge == nil || fleet.Spec.Forge.SecretRef == nil {
		r.forges.drop(req.NamespacedName)
		r.metrics.owesNothing(req.NamespacedName)
		return ctrl.Result{}, r.silent(ctx, &fleet)
	}
	with := fmt.Sprint(fleet.Generation, " ", r.forges.version(ctx, &fleet))
	if wait := r.pauses.left(req.NamespacedName, with, r.clock.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	decision, err := r.decide(ctx, &fleet)
	if err != nil {
		return ctrl.Result{}, err
	}
	switch {
	case decision.Intend():
		err = r.record(ctx, &fleet, &decision)
	case len(decision.Posts) > 0:
		err = r.current(ctx, &fleet)
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	failure := r.post(ctx, &fleet, &decision)
	r.metrics.owed(req.NamespacedName, len(decision.Posts))
	if ctx.Err() != nil && len(decision.Posts) > 0 { // stopping says nothing about the forge
		return ctrl.Result{}, r.record(context.WithoutCancel(ctx), &fleet, &decision)
	}
	if err := r.record(context.WithoutCancel(ctx), &fleet, &decision, r.outcome(&fleet, failure)); err != nil {
		return ctrl.Result{}, err
	}
	if failure == nil {
		r.pauses.forget(req.NamespacedName)
		return ctrl.Result{RequeueAfter: decision.After}, nil
	}
	wait := r.pauses.failed(req.NamespacedName, with, failure, r.clock.Now())
	ctrl.LoggerFrom(ctx).Info("the forge could not be told", "reason", failure.Error(), "retryAfter", wait.String())
	return ctrl.Result{RequeueAfter: wait}, nil
}

// decide gathers what the decision depends on.
func (r *reportReconciler) decide(ctx context.Context, fleet *v1alpha1.Fleet) (commitstatus.Decision, error) {
	var overlays v1alpha1.ClusterOverlayList
	// Nothing of them is changed, and with what they own they are large.
	if err := r.client.List(ctx, &overlays, client.InNamespace(fleet.Namespace), client.MatchingFields{fleetIndex: fleet.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return commitstatus.Decision{}, err
	}
	name := client.ObjectKeyFromObject(fleet)
	known := r.board.outlook(name)
	return commitstatus.Decide(commitstatus.Input{
		Fleet: fleet, Host: hostOf(fleet), Overlays: overlays.Items,
		Tip: known.tip, Problem: known.problem, Total: len(known.paths),
		Settled: known.settled(fleet.Name, overlays.Items), Desired: known.desired,
		Now: r.clock.Now(),
		URL: func(overlay string) string { return r.pages.URL(name, overlay) },
	}), nil
}

// post posts what is to be posted, until the forge can't be spoken to.
func (r *reportReconciler) post(ctx context.Context, fleet *v1alpha1.Fleet, decision *commitstatus.Decision) error {
	if len(decision.Posts) == 0 {
		return nil
	}
	host, err := r.forges.get(ctx, fleet)
	if err != nil {
		return err
	}
	tip, _ := decision.Record()
	var refused []error
	heard := false // the forge has taken something: it knows us and the repository
	for _, p := range append([]commitstatus.Post(nil), decision.Posts...) {
		err := host.SetStatus(ctx, forge.Status{
			Commit: p.Commit, Context: p.Context, State: forge.State(p.State), Description: p.Description, TargetURL: p.URL,
		})
		switch kind := forge.KindOf(err); {
		case err == nil:
			heard = true
			decision.Acknowledge(p, r.clock.Now())
		case heard && p.Commit != tip && (kind == forge.NotFound || kind == forge.Invalid):
			decision.Abandon(p.Commit) // pushed away by force, and collected since
		case kind == forge.Invalid:
			refused = append(refused, err) // the others may do
		default:
			return err
		}
	}
	return errors.Join(refused...)
}

// outcome is the condition that says whether the forge could be told. An event goes
// with it if it is news that it could not.
func (r *reportReconciler) outcome(known *v1alpha1.Fleet, failure error) metav1.Condition {
	if failure == nil {
		return metav1.Condition{
			Type: v1alpha1.ReportedCondition, Status: metav1.ConditionTrue, Reason: v1alpha1.SucceededReason,
			Message: "the forge is told what becomes of commits",
		}
	}
	reason := reportReason(failure)
	if was := meta.FindStatusCondition(known.Status.Conditions, v1alpha1.ReportedCondition); was == nil || was.Reason != reason {
		r.recorder.Event(known, corev1.EventTypeWarning, reason, truncate(failure.Error()))
	}
	return metav1.Condition{Type: v1alpha1.ReportedCondition, Status: metav1.ConditionFalse, Reason: reason, Message: failure.Error()}
}

// record keeps what the forge has, or is about to get, in the Fleet and in known. The
// record that was decided upon must be the present one: if the cache is behind, or
// another replica has led meanwhile, commits that are on record and open would be lost.
func (r *reportReconciler) record(ctx context.Context, known *v1alpha1.Fleet, decision *commitstatus.Decision, conditions ...metav1.Condition) error {
	tip, commits := decision.Record()
	if tip == "" {
		return nil // nothing is known yet, so there is nothing to say
	}
	before, written, outdated := known.DeepCopy().Status.Forge, known, false
	err := updateFleetStatus(ctx, r.client, r.reader, known, func(f *v1alpha1.Fleet) {
		if outdated = !sameRecord(before, f.Status.Forge); outdated {
			return
		}
		if f.Status.Forge == nil {
			f.Status.Forge = &v1alpha1.ForgeStatus{}
		}
		if host := hostOf(f); f.Status.Forge.Host != host {
			f.Status.Forge.Host, f.Status.Forge.PullRequests = host, nil
		}
		f.Status.Forge.Tip, f.Status.Forge.Commits = tip, commits
		for _, c := range conditions {
			setCondition(&f.Status.Conditions, f.Generation, c.Type, c.Status, c.Reason, c.Message)
		}
		written = f
	})
	if err == nil && outdated {
		err = errOutdated
	}
	if err == nil {
		written.DeepCopyInto(known)
	}
	return err
}

// current makes sure that the record is not behind: what was posted a moment ago would be
// posted again.
func (r *reportReconciler) current(ctx context.Context, known *v1alpha1.Fleet) error {
	var live v1alpha1.Fleet
	if err := r.reader.Get(ctx, client.ObjectKeyFromObject(known), &live); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !sameRecord(known.Status.Forge, live.Status.Forge) {
		return errOutdated
	}
	return nil
}

// errOutdated is for a decision on a record that is not the present one.
var errOutdated = errors.New("the record of what the forge has is newer than what is cached; it is decided anew")

// sameRecord compares what is on record of commits.
func sameRecord(a, b *v1alpha1.ForgeStatus) bool {
	if a == nil {
		a = &v1alpha1.ForgeStatus{}
	}
	if b == nil {
		b = &v1alpha1.ForgeStatus{}
	}
	return a.Tip == b.Tip && equality.Semantic.DeepEqual(a.Commits, b.Commits)
}

// silent takes back what is said of a forge that nothing is posted to any more.
func (r *reportReconciler) silent(ctx context.Context, known *v1alpha1.Fleet) error {
	return updateFleetStatus(ctx, r.client, r.reader, known, func(f *v1alpha1.Fleet) {
		f.Status.Forge = nil
		meta.RemoveStatusCondition(&f.Status.Conditions, v1alpha1.ReportedCondition)
	})
}

// reportReason is the condition reason of an error from the forge.
func reportReason(err error) string {
	if kind := forge.KindOf(err); kind != "" {
		return string(kind)
	}
	return v1alpha1.CredentialsReason
}

// pauses says when a forge that failed may be asked again. Overlays change all the
// time; without it each change would be another request to a forge that is down.
type pauses struct {
	mu   sync.Mutex
	held map[types.NamespacedName]*pause
}

type pause struct {
	attempts int
	until    time.Time
	// with stands for the Fleet's spec and the credentials that failed.
	with string
}

const (
	pauseFirst = time.Second
	// pauseMost is for a forge that is away: its return is noticed within this time.
	pauseMost = time.Minute
	// refusedMost is for one that is there and refuses us.
	refusedMost = 5 * time.Minute
)

// left is how long to wait still. A changed Fleet, or one with other credentials, doesn't
// wait.
func (p *pauses) left(fleet types.NamespacedName, with string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if held := p.held[fleet]; held != nil && held.with == with {
		return held.until.Sub(now)
	}
	return 0
}

// failed notes a failure and returns the time to wait, which doubles.
func (p *pauses) failed(fleet types.NamespacedName, with string, err error, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := p.held[fleet]
	if held == nil || held.with != with {
		held = &pause{}
		p.held[fleet] = held
	}
	most := pauseMost
	if kind := forge.KindOf(err); kind != forge.Unavailable && kind != forge.RateLimited {
		most = refusedMost
	}
	wait := pauseFirst << min(held.attempts, 10)
	held.attempts++
	wait = min(wait, most)
	if e, ok := errors.AsType[*forge.Error](err); ok && e.Kind == forge.RateLimited {
		wait = max(wait, e.RetryAfter)
	}
	held.until, held.with = now.Add(wait), with
	return wait
}

func (p *pauses) forget(fleet types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, fleet)
}
