package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The agent is quiet once it has allocated less than quietBytes in a quietPeriod. Giving
// memory back takes a collection, so it has to be worth at least worthBytes.
const (
	quietPeriod = 10 * time.Second
	quietBytes  = 4 << 20
	worthBytes  = 32 << 20
)

// releaseMemory gives memory back to the system whenever the agent comes to rest. Go holds
// on to what it needed while it was busy: without work there is no collection for minutes,
// and one leaves room for as much garbage again.
func releaseMemory(ctx context.Context) error {
	tick := time.NewTicker(quietPeriod)
	defer tick.Stop()
	var h holding
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if h.release(memoryUse()) {
				debug.FreeOSMemory()
				_, h.kept = memoryUse()
			}
		}
	}
}

// memoryUse returns how many bytes have been allocated since the start, and how many
// are held now, garbage and free memory included.
func memoryUse() (allocated, held uint64) {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[1].Value.Uint64() - s[2].Value.Uint64()
}

// holding tells when it is time to give memory back.
type holding struct {
	// allocated is what had been allocated a period ago.
	allocated uint64
	// kept is what was held after memory was given back last.
	kept uint64
}

// release reports whether the period was quiet and enough is held that wasn't then.
func (h *holding) release(allocated, held uint64) bool {
	quiet := allocated-h.allocated < quietBytes
	h.allocated = allocated
	return quiet && held >= h.kept+worthBytes
}
