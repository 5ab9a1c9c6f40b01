package live

import (
	"context"
	"math"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	watchapi "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// page is how many objects are asked for at once, where an API server can't stream a list.
const page = 250

// watch is one list and watch, with what it has delivered.
type watch struct {
	*store
	of     source
	owner  *Objects
	cancel context.CancelFunc

	mu sync.Mutex
	// failure is the latest one since something was heard last, and since is when that
	// began.
	failure error
	since   time.Time
}

func newWatch(owner *Objects, of source) *watch {
	told := func(was, now *kept) { owner.told(of, was, now) }
	return &watch{of: of, owner: owner, store: newStore(told, func() { owner.turned(of) })}
}

func (w *watch) start(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	go w.run(ctx)
}

func (w *watch) stop() {
	if w.cancel != nil {
		w.cancel()
	}
}

// run watches until the context ends. A kind that is not served, or no longer, is looked
// for again and again: it may come, and come back.
func (w *watch) run(ctx context.Context) {
	var reflector *cache.Reflector
	var of schema.GroupVersionResource
	delay := w.owner.backoff().DelayWithReset(w.owner.Clock, delayReset)
	for ctx.Err() == nil {
		resource, err := w.owner.resource(w.of.kind)
		if err != nil {
			w.heard(ctx, err)
		} else {
			if reflector == nil || resource != of {
				reflector, of = w.reflect(resource), resource
			}
			err = reflector.ListAndWatchWithContext(ctx)
		}
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			meta.MaybeResetRESTMapper(w.owner.Mapper) // next time it may be served, or served otherwise
		}
		select {
		case <-ctx.Done():
		case <-w.owner.Clock.After(delay()):
		}
	}
}

// delayReset is after how long without a failure the next one counts as the first.
const delayReset = 2 * time.Minute

// backoff is how long to wait after failures: about a second at first, Retry in the end.
func (o *Objects) backoff() wait.Backoff {
	first := min(o.Retry, 800*time.Millisecond)
	return wait.Backoff{
		Duration: first, Cap: o.Retry, Factor: 2, Jitter: 0.5,
		Steps: int(math.Ceil(float64(o.Retry) / float64(first))),
	}
}

// reflect prepares the list and watch of a resource. Objects become what is kept of them
// as they arrive: an API server that can streams them one by one, others are asked for
// pages, so that there are never many whole ones.
func (w *watch) reflect(resource schema.GroupVersionResource) *cache.Reflector {
	client := w.owner.client.Resource(resource)
	backoff := w.owner.backoff()
	return cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return w.list(ctx, client, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watchapi.Interface, error) {
			return w.watch(ctx, client, o)
		},
	}, nil, w.store, cache.ReflectorOptions{Name: "live", TypeDescription: w.of.kind.String(), Backoff: &backoff})
}

func (w *watch) list(ctx context.Context, client dynamic.ResourceInterface, o metav1.ListOptions) (runtime.Object, error) {
	o.LabelSelector, o.Limit = w.of.selector(), page
	if o.Continue == "" {
		o.ResourceVersion, o.ResourceVersionMatch = "", "" // the newest: of others there are no pages
	}
	list, err := client.List(ctx, o)
	if err != nil {
		w.heard(ctx, err) // else the watch that follows says whether all is well
		return nil, err
	}
	all := &internalversion.List{ListMeta: metav1.ListMeta{ResourceVersion: list.GetResourceVersion(), Continue: list.GetContinue()}}
	for i := range list.Items {
		k, err := w.of.keep(&list.Items[i])
		if err != nil {
			return nil, err
		}
		list.Items[i].Object = nil
		all.Items = append(all.Items, k)
	}
	return all, nil
}

func (w *watch) watch(ctx context.Context, client dynamic.ResourceInterface, o metav1.ListOptions) (watchapi.Interface, error) {
	o.LabelSelector = w.of.selector()
	lists := o.SendInitialEvents != nil && *o.SendInitialEvents
	events, err := client.Watch(ctx, o)
	if lists && apierrors.IsInvalid(err) {
		return nil, err // it can't stream a list, and will be asked for one
	}
	if err != nil {
		w.heard(ctx, err)
		return nil, err
	}
	if !lists {
		w.heard(ctx, nil) // nothing may happen for a long time
	}
	return convert(events, func(e watchapi.Event) (watchapi.Event, error) {
		if e.Type == watchapi.Error {
			if lists {
				w.heard(ctx, apierrors.FromObject(e.Object))
			}
			return e, nil
		}
		u, ok := e.Object.(*unstructured.Unstructured)
		switch {
		case !ok:
		case e.Type != watchapi.Bookmark:
			k, err := w.of.keep(u)
			return watchapi.Event{Type: e.Type, Object: k}, err
		case lists && u.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true":
			// An API server that is behind accepts a list, and may give it up at any time before it is whole.
			w.heard(ctx, nil)
			lists = false
		}
		return e, nil
	}), nil
}

// convert passes events on as something else. An error ends them.
func convert(events watchapi.Interface, to func(watchapi.Event) (watchapi.Event, error)) watchapi.Interface {
	out := make(chan watchapi.Event)
	converted := watchapi.NewProxyWatcher(out)
	go func() {
		defer close(out)
		defer events.Stop()
		for {
			select {
			case <-converted.StopChan():
				return
			case e, ok := <-events.ResultChan():
				if !ok {
					return
				}
				e, err := to(e)
				if err != nil {
					status := apierrors.NewInternalError(err).Status()
					e = watchapi.Event{Type: watchapi.Error, Object: &status}
				}
				select {
				case <-converted.StopChan():
					return
				case out <- e:
				}
			}
		}
	}()
	return converted
}

// heard notes that the API server answered, or why it didn't.
func (w *watch) heard(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		err = nil // it answered, and is listed anew
	}
	w.mu.Lock()
	had := w.failure
	w.failure = err
	if had == nil {
		w.since = w.owner.Clock.Now()
	}
	w.mu.Unlock()
	if err == nil {
		if had != nil {
			w.owner.turned(w.of)
		}
		return
	}
	w.owner.Failed(w.of.kind.GroupKind())
	if had == nil {
		w.owner.Log.Info("live objects can't be watched", "kind", w.of.kind.String(), "reason", err.Error())
		go w.complain(ctx)
	}
}

// complain tells the overlays once a failure has lasted too long.
func (w *watch) complain(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-w.owner.Clock.After(w.owner.Patience):
		if w.failing(w.owner.Clock.Now(), w.owner.Patience) != "" {
			w.owner.turned(w.of)
		}
	}
}

// failing says why the watch has failed for longer than patience; "" if it hasn't.
func (w *watch) failing(now time.Time, patience time.Duration) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == nil || now.Sub(w.since) < patience {
		return ""
	}
	return w.of.kind.GroupKind().String() + " can't be watched: " + w.failure.Error()
}

// selector is the label that objects have to have. A Namespace that overlays share has
// that of their Fleet only.
func (s source) selector() string {
	switch {
	case s.made:
		return capi.ClusterLabel
	case s.kind.GroupKind() == schema.GroupKind{Kind: "Namespace"}:
		return v1alpha1.FleetLabel
	}
	return v1alpha1.OverlayLabel
}
