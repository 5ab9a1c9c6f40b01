package agent

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// lateQueue reaches a controller's queue once that has started. What is added before
// is dropped, and not lost: what it is about was noted first, and a controller looks
// at everything when it starts.
type lateQueue[T comparable] struct {
	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[T]
}

// Start implements a controller's source.
func (q *lateQueue[T]) Start(_ context.Context, queue workqueue.TypedRateLimitingInterface[T]) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = queue
	return nil
}

func (q *lateQueue[T]) add(item T) { q.addAfter(item, 0) }

func (q *lateQueue[T]) addAfter(item T, delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue != nil {
		q.queue.AddAfter(item, delay)
	}
}

// objectQueue takes Fleets or overlays by name.
type objectQueue struct {
	lateQueue[reconcile.Request]
}

func (q *objectQueue) add(name types.NamespacedName) { q.addAfter(name, 0) }

func (q *objectQueue) addAfter(name types.NamespacedName, delay time.Duration) {
	q.lateQueue.addAfter(reconcile.Request{NamespacedName: name}, delay)
}
