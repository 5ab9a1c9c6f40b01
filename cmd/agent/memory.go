package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// restPeriod is how long little must have happened for the agent to be at rest, and
// restBytes is what it may allocate in that time.
const (
	restPeriod = time.Minute
	restBytes  = 16 << 20
)

// releaseMemory gives memory back to the system when the agent comes to rest. While it is
// busy the collector lets the heap grow to three times what is kept, and Go holds on to
// that for long after.
func releaseMemory(ctx context.Context) error {
	tick := time.NewTicker(restPeriod)
	defer tick.Stop()
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var r resting
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			metrics.Read(sample)
			if r.comes(sample[0].Value.Uint64()) {
				debug.FreeOSMemory()
			}
		}
	}
}

// resting tells when the agent comes to rest.
type resting struct {
	allocated uint64
	already   bool
}

// comes reports whether a period was the first one of a rest, by what has been allocated
// since the start.
func (r *resting) comes(allocated uint64) bool {
	quiet := allocated-r.allocated < restBytes
	first := quiet && !r.already
	r.allocated, r.already = allocated, quiet
	return first
}
