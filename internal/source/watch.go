package source

import (
	"context"
	"errors"
	"time"
)

// Causes of a context that a watch ended.
var (
	errSilent = errors.New("the server was silent")
	errSlow   = errors.New("the server was slow")
)

type watchKey struct{}

// withWatch returns a context for one remote operation. It ends when nothing was
// received for the timeout, and in any case after hardTimeoutFactor times that.
// The caller must call stop.
func withWatch(ctx context.Context, timeout time.Duration) (_ context.Context, stop func()) {
	ctx, cancelHard := context.WithTimeoutCause(ctx, hardTimeoutFactor*timeout, errSlow)
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(timeout, func() { cancel(errSilent) })
	ctx = context.WithValue(ctx, watchKey{}, func() { timer.Reset(timeout) })
	return ctx, func() {
		timer.Stop()
		cancel(nil)
		cancelHard()
	}
}

// touch tells the context's watch that something was received.
func touch(ctx context.Context) {
	if f, ok := ctx.Value(watchKey{}).(func()); ok {
		f()
	}
}
