package agent

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/live"
	"capstan.dev/capstan/internal/object"
)

// progressPause is how long to wait for more after a live object has changed: they
// change in bursts.
const progressPause = 100 * time.Millisecond

// wordsPause is the least time between two statuses of an overlay that differ in words
// only: when a thousand clusters roll, the API server has better things to do.
const wordsPause = 2 * time.Second

// LiveObjects are the live objects of overlays.
type LiveObjects interface {
	Declare(overlay types.NamespacedName, refs []v1alpha1.ObjectReference)
	Forget(overlay types.NamespacedName)
	Look(overlay types.NamespacedName) live.View
	Seen(overlay types.NamespacedName) map[object.ID]live.Seen
	Machines(ctx context.Context, overlay types.NamespacedName) ([]*unstructured.Unstructured, error)
}

// progressReconciler looks how far the machines of an overlay are, whenever something
// live of it has changed. It never renders nor applies.
type progressReconciler struct {
	*overlayReconciler
}

// Reconcile records the progress of an overlay, if it says something new.
func (r *progressReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	end := r.turns.try(req.NamespacedName, func() { r.follow(req.NamespacedName, 0) })
	if end == nil {
		return ctrl.Result{}, nil
	}
	defer end()
	var overlay v1alpha1.ClusterOverlay
	if err := r.client.Get(ctx, req.NamespacedName, &overlay); err != nil {
		if apierrors.IsNotFound(err) {
			r.objects.Forget(req.NamespacedName)
			r.doubts.left(req.NamespacedName, false, r.clock.Now())
			r.still.since(req.NamespacedName, "", r.clock.Now())
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !overlay.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	r.written.newer(&overlay)
	run := r.newRun(&overlay)
	recheck := run.assess(ctx)
	if run.view = r.board.view(run.fleetName); run.view != nil {
		run.rendering = r.board.rendering(run.fleetName, overlay.Spec.Path, run.view)
		run.summarise()
	} else if len(run.status.Conditions) > 0 {
		run.summariseOnRecord()
	}
	if onlyWords(&overlay.Status, &run.status) {
		if again := postpone(r.clock.Since(r.written.at(req.NamespacedName)), recheck); again > 0 {
			return ctrl.Result{RequeueAfter: again}, nil
		}
	}
	if err := run.save(ctx); err != nil {
		if apierrors.IsConflict(err) {
			r.written.forget(req.NamespacedName)
			return ctrl.Result{RequeueAfter: time.Second}, nil
		}
		return ctrl.Result{RequeueAfter: time.Second}, client.IgnoreNotFound(err)
	}
	run.announce()
	return ctrl.Result{RequeueAfter: recheck}, nil
}

// summariseOnRecord is summarise when there is no Fleet, or Git has not been read since
// the start. What else is on record stands.
func (run *overlayRun) summariseOnRecord() {
	reason := ""
	if ready := meta.FindStatusCondition(run.status.Conditions, v1alpha1.ReadyCondition); ready != nil {
		reason = ready.Reason
	}
	if reason == v1alpha1.ApplyingReason {
		return // how far that came isn't known
	}
	c := convergence(&run.status)
	run.condition(v1alpha1.ConvergedCondition, c.Status, c.Reason, c.Message)
	if reason != v1alpha1.SuspendedReason && reason != v1alpha1.FleetNotFoundReason {
		c = readiness(run.status.Conditions)
		run.condition(v1alpha1.ReadyCondition, c.Status, c.Reason, c.Message)
	}
}

// onlyWords reports whether two statuses differ, and only in what progress says in
// words.
func onlyWords(was, is *v1alpha1.ClusterOverlayStatus) bool {
	if was.Progress == nil || is.Progress == nil || was.Progress.Phase != is.Progress.Phase ||
		was.Progress.ControlPlane != is.Progress.ControlPlane || was.Progress.Workers != is.Progress.Workers {
		return false
	}
	if equality.Semantic.DeepEqual(was, is) {
		return false
	}
	a, b := was.DeepCopy(), is.DeepCopy()
	for _, s := range []*v1alpha1.ClusterOverlayStatus{a, b} {
		s.Progress = nil
		for i := range s.Conditions {
			if c := &s.Conditions[i]; c.Type == v1alpha1.ConvergedCondition || c.Type == v1alpha1.ReadyCondition {
				c.Message = ""
			}
		}
	}
	return equality.Semantic.DeepEqual(a, b)
}

// postpone returns when to look again at an overlay whose status has only new words to say
// and was written so long ago; 0 to write them now. What is due before that is not missed:
// it may be success.
func postpone(written, recheck time.Duration) time.Duration {
	if wait := wordsPause - written; wait > 0 {
		return sooner(wait, recheck)
	}
	return 0
}

// sooner is the lesser of two times to wait, where 0 is for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// announce sends the events that wait for the status to be recorded.
func (run *overlayRun) announce() {
	for _, e := range run.events {
		run.recorder.Event(run.overlay, e.kind, e.reason, truncate(e.message))
	}
	run.events = nil
	for _, lag := range run.lags {
		lag()
	}
	run.lags = nil
}

// notify adds an event to be sent once the status is recorded.
func (run *overlayRun) notify(reason, message string) {
	kind := corev1.EventTypeNormal
	if reason != v1alpha1.ConvergedReason {
		kind = corev1.EventTypeWarning
	}
	run.events = append(run.events, notice{kind, reason, message})
}
