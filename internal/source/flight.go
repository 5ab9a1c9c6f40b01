package source

import (
	"context"
	"sync"
)

// flights runs one piece of work at a time and lets callers share it: who comes
// while it runs waits, together with all others that do, for the next one.
type flights struct {
	work func(context.Context) (*Snapshot, error)

	mu      sync.Mutex
	running *flight
	next    *flight // waits for running to end; nil if nobody asked
	closed  bool
	ended   sync.WaitGroup
}

type flight struct {
	ctx     context.Context
	cancel  context.CancelFunc
	waiting int // callers that still want the result
	done    chan struct{}

	snapshot *Snapshot // valid after done
	err      error
}

// join waits for a flight that starts after the call. The flight's context ends
// with life, or when all its callers have gone.
func (f *flights) join(ctx, life context.Context) (*Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fl := f.board(life)
	if fl == nil {
		return nil, errClosed
	}
	select {
	case <-fl.done:
		f.leave(fl)
		return fl.snapshot, fl.err
	case <-ctx.Done():
		f.leave(fl)
		return nil, ctx.Err()
	}
}

func (f *flights) board(life context.Context) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || life.Err() != nil {
		return nil
	}
	if f.next != nil {
		f.next.waiting++
		return f.next
	}
	fl := &flight{waiting: 1, done: make(chan struct{})}
	fl.ctx, fl.cancel = context.WithCancel(life)
	if f.running != nil {
		f.next = fl
		return fl
	}
	f.start(fl)
	return fl
}

// start must be called with the lock held.
func (f *flights) start(fl *flight) {
	f.running = fl
	f.ended.Go(func() {
		fl.snapshot, fl.err = f.work(fl.ctx)
		fl.cancel()
		f.mu.Lock()
		defer f.mu.Unlock()
		close(fl.done)
		f.running = nil
		if next := f.next; next != nil {
			f.next = nil
			f.start(next)
		}
	})
}

func (f *flights) leave(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiting--; fl.waiting > 0 {
		return
	}
	fl.cancel()
	if f.next == fl {
		f.next = nil // it never starts
	}
}

// enter announces work beside the flights, which wait waits for. Its context ends
// with ctx or with life. It reports false if the intake has ended; else the caller
// must call leave.
func (f *flights) enter(ctx, life context.Context) (_ context.Context, leave func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, nil, false
	}
	f.ended.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(life, cancel)
	return ctx, func() {
		stop()
		cancel()
		f.ended.Done()
	}, true
}

// wait ends the intake and waits until nothing runs. Life must have ended.
func (f *flights) wait() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.ended.Wait()
}
