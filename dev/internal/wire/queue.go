package wire

import (
	"sync"
	"time"
)

// maxOnTheWay bounds what one slow connection keeps in memory. It is also what such a
// connection carries within one delay.
const maxOnTheWay = 8 << 20

// A chunk is what one read got.
type chunk struct {
	data []byte
	read time.Time
}

// A queue holds chunks between the one that reads and the one that writes.
type queue struct {
	mu        sync.Mutex
	changed   *sync.Cond
	chunks    []chunk
	size      int  // bytes in chunks
	complete  bool // nothing comes any more
	abandoned bool // nothing is taken any more
}

func newQueue() *queue {
	q := &queue{}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// put waits for room, unless the queue is abandoned.
func (q *queue) put(c chunk) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.size >= maxOnTheWay && !q.abandoned {
		q.changed.Wait()
	}
	if !q.abandoned {
		q.chunks = append(q.chunks, c)
		q.size += len(c.data)
		q.changed.Broadcast()
	}
}

// take waits for a chunk. It returns false when there is none and none will come.
func (q *queue) take() (chunk, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.chunks) == 0 && !q.complete {
		q.changed.Wait()
	}
	if len(q.chunks) == 0 {
		return chunk{}, false
	}
	c := q.chunks[0]
	q.chunks[0] = chunk{} // let go of the data
	q.chunks = q.chunks[1:]
	q.size -= len(c.data)
	q.changed.Broadcast()
	return c, true
}

// finish says that nothing comes any more, abandon that nothing is taken any more.
func (q *queue) finish()  { q.set(&q.complete) }
func (q *queue) abandon() { q.set(&q.abandoned) }

func (q *queue) set(flag *bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	*flag = true
	q.changed.Broadcast()
}
