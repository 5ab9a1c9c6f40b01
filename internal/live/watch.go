package live

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	watchapi "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// byCluster is the index of what controllers made, by namespace/name of the Cluster.
const byCluster = "cluster"

// watch is one list and watch, with what it has delivered.
type watch struct {
	of     source
	owner  *Objects
	cancel context.CancelFunc

	mu       sync.Mutex
	informer cache.SharedIndexInformer // nil until the kind is known to be served
	// failure is the latest one since something was heard last, and since is when that
	// began.
	failure error
	since   time.Time
}

func newWatch(owner *Objects, of source) *watch { return &watch{of: of, owner: owner} }

func (w *watch) start(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	go w.run(ctx)
}

func (w *watch) stop() {
	if w.cancel != nil {
		w.cancel()
	}
}

// run waits until the kind is served, then watches it.
func (w *watch) run(ctx context.Context) {
	resource, err := w.owner.resource(w.of.kind)
	for ; err != nil; resource, err = w.owner.resource(w.of.kind) {
		w.heard(ctx, err)
		select {
		case <-ctx.Done():
			return
		case <-w.owner.Clock.After(w.owner.Retry):
		}
	}
	informer, err := w.inform(resource)
	if err != nil { // a mistake of ours
		w.heard(ctx, err)
		return
	}
	w.mu.Lock()
	w.informer = informer
	w.mu.Unlock()
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			w.owner.turned(w.of)
		}
	}()
	informer.RunWithContext(ctx)
}

func (w *watch) inform(resource schema.GroupVersionResource) (cache.SharedIndexInformer, error) {
	client := w.owner.client.Resource(resource)
	selector := v1alpha1.OverlayLabel
	if w.of.made {
		selector = capi.ClusterLabel
	}
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			list, err := client.List(ctx, o)
			if err != nil { // else the watch that follows says whether all is well
				w.heard(ctx, err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watchapi.Interface, error) {
			o.LabelSelector = selector
			events, err := client.Watch(ctx, o)
			w.heard(ctx, err)
			return events, err
		},
	}, &unstructured.Unstructured{}, 0, cache.Indexers{byCluster: indexByCluster})
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { w.changed(o) },
		UpdateFunc: func(was, o any) {
			if a, b := was.(*unstructured.Unstructured), o.(*unstructured.Unstructured); a.GetResourceVersion() != b.GetResourceVersion() { //nolint:forcetypeassert // it holds nothing else
				w.changed(o)
			}
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			w.changed(o)
		},
	}
	_, err := informer.AddEventHandler(handler)
	return informer, errors.Join(err, informer.SetTransform(trim),
		informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {})) // heard says it once
}

// trim keeps of an object what progress needs.
func trim(o any) (any, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		capi.Trim(u)
	}
	return o, nil
}

func indexByCluster(o any) ([]string, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok || u.GetLabels()[capi.ClusterLabel] == "" {
		return nil, nil
	}
	return []string{u.GetNamespace() + "/" + u.GetLabels()[capi.ClusterLabel]}, nil
}

func (w *watch) changed(o any) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		w.owner.changed(w.of, u)
	}
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

func (w *watch) store() cache.SharedIndexInformer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.informer
}

func (w *watch) synced() bool {
	informer := w.store()
	return informer != nil && informer.HasSynced()
}

func (w *watch) get(id object.ID) *unstructured.Unstructured {
	informer := w.store()
	if informer == nil {
		return nil
	}
	key := id.Name
	if id.Namespace != "" {
		key = id.Namespace + "/" + id.Name
	}
	o, exists, err := informer.GetStore().GetByKey(key)
	if err != nil || !exists { // the store has no errors
		return nil
	}
	return o.(*unstructured.Unstructured) //nolint:forcetypeassert // it holds nothing else
}

func (w *watch) ofCluster(cluster types.NamespacedName) []*unstructured.Unstructured {
	informer := w.store()
	if informer == nil {
		return nil
	}
	found, err := informer.GetIndexer().ByIndex(byCluster, cluster.String())
	if err != nil {
		return nil // there is such an index
	}
	made := make([]*unstructured.Unstructured, 0, len(found))
	for _, o := range found {
		made = append(made, o.(*unstructured.Unstructured)) //nolint:forcetypeassert // it holds nothing else
	}
	return made
}
