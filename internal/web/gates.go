package web

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
)

// maxGates bounds the memory for names that senders make up.
const maxGates = 4096

// gates let deliveries in: so many a second and so many at a time, for each Fleet's name
// and in all, so that a flood for one leaves room for the others. They don't know which
// Fleets there are: what they answer must not tell either.
type gates struct {
	clock clock.PassiveClock
	total *rate.Limiter
	room  chan struct{}

	perName  rate.Limit
	nameRoom int
	wait     time.Duration

	mu     sync.Mutex
	byName map[string]*gate
	// crowd is for names for which there is no gate any more; swept is when room was made
	// for others last.
	crowd *gate
	swept time.Time
}

// gate is what is left for one name.
type gate struct {
	limiter *rate.Limiter
	room    chan struct{}
}

func newGates(o Options) *gates {
	g := &gates{
		clock: o.Clock, total: newLimiter(o.Total), room: make(chan struct{}, o.Concurrency),
		perName: o.PerFleet, nameRoom: (o.Concurrency + 1) / 2, wait: o.Wait, byName: map[string]*gate{},
	}
	g.crowd = g.newGate()
	return g
}

// newLimiter allows ten seconds' worth at once.
func newLimiter(limit rate.Limit) *rate.Limiter {
	return rate.NewLimiter(limit, int(math.Ceil(float64(limit)*10)))
}

func (g *gates) newGate() *gate {
	return &gate{limiter: newLimiter(g.perName), room: make(chan struct{}, g.nameRoom)}
}

// allow reports whether another delivery may come now. One that is over its name's
// limit doesn't count for the total.
func (g *gates) allow(name string) bool {
	now := g.clock.Now()
	return g.of(name).limiter.AllowN(now, 1) && g.total.AllowN(now, 1)
}

// enter waits for room for a delivery that is allowed. leave is nil if there is none.
func (g *gates) enter(name string, done <-chan struct{}) (leave func()) {
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	rooms := []chan struct{}{g.of(name).room, g.room}
	for i, room := range rooms {
		select {
		case room <- struct{}{}: // without a look at the time, which a stall of this process may have used up
			continue
		default:
		}
		select {
		case room <- struct{}{}:
			continue
		case <-timer.C:
		case <-done:
		}
		if i > 0 {
			<-rooms[0]
		}
		return nil
	}
	return func() {
		for _, room := range rooms {
			<-room
		}
	}
}

// of returns the gate of a name. Gates that nobody has passed for a while are as good
// as new and make room for others.
func (g *gates) of(name string) *gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.byName[name]; known != nil {
		return known
	}
	if now := g.clock.Now(); len(g.byName) >= maxGates && now.Sub(g.swept) >= time.Second {
		g.swept = now
		for n, old := range g.byName {
			if len(old.room) == 0 && old.limiter.TokensAt(now) >= float64(old.limiter.Burst()) {
				delete(g.byName, n)
			}
		}
	}
	if len(g.byName) >= maxGates {
		return g.crowd
	}
	fresh := g.newGate()
	g.byName[name] = fresh
	return fresh
}
