// Package wire forwards TCP connections and can be a bad network on demand: slow, or
// down. What flows through, TLS as a rule, it does not look at.
package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// A Forwarder hands every connection to its address on to a target. Its methods may be
// called from anywhere, before, during and after Run.
type Forwarder struct {
	addr *net.TCPAddr

	mu       sync.Mutex
	changed  *sync.Cond // the listener came or went, or the forwarder closed
	listener net.Listener
	closed   bool
	target   string
	relays   map[*relay]struct{}
	delay    time.Duration
}

// Listen takes listenAddr at once; connections wait there until Run. Port 0 picks a free
// port, which is then kept.
func Listen(listenAddr, targetAddr string) (*Forwarder, error) {
	l, err := net.Listen("tcp", listenAddr)
	if err != nil {
		return nil, err
	}
	f := &Forwarder{
		addr:     l.Addr().(*net.TCPAddr),
		listener: l,
		target:   targetAddr,
		relays:   map[*relay]struct{}{},
	}
	f.changed = sync.NewCond(&f.mu)
	return f, nil
}

// Addr is where f listens, or would if it were not down.
func (f *Forwarder) Addr() *net.TCPAddr { return f.addr }

// Run forwards until ctx ends, and then closes everything.
func (f *Forwarder) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, f.Close)()
	defer f.Close()
	var relays sync.WaitGroup
	defer relays.Wait()
	defer f.Close() // before the wait: relays end when they are cut
	for {
		l := f.awaitListener()
		if l == nil {
			return nil
		}
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			continue
		}
		if err != nil { // such as too many open files: better to pause than to spin
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		relays.Go(func() { f.forward(ctx, l, conn.(*net.TCPConn)) })
	}
}

// awaitListener returns the listener as soon as f is up, and nil when f is closed.
func (f *Forwarder) awaitListener() net.Listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.listener == nil && !f.closed {
		f.changed.Wait()
	}
	return f.listener
}

// forward serves one connection that l accepted.
func (f *Forwarder) forward(ctx context.Context, l net.Listener, client *net.TCPConn) {
	defer func() { _ = client.Close() }()
	f.mu.Lock()
	target := f.target
	f.mu.Unlock()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", target)
	if err != nil {
		return // the client sees its connection end, as if the target itself had gone
	}
	server := conn.(*net.TCPConn)
	defer func() { _ = server.Close() }()

	f.mu.Lock()
	if f.listener != l { // it went down meanwhile
		f.mu.Unlock()
		return
	}
	r := newRelay(client, server, f.delay)
	f.relays[r] = struct{}{}
	f.mu.Unlock()

	r.run()

	f.mu.Lock()
	delete(f.relays, r)
	f.mu.Unlock()
}

// SetTarget sends connections from now on elsewhere. Open ones stay.
func (f *Forwarder) SetTarget(addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target = addr
}

// SetDelay makes everything that the target sends from now on, also on open connections,
// arrive that much later; what is held back already keeps to the new delay, too. Order and
// throughput remain.
func (f *Forwarder) SetDelay(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = d
	for r := range f.relays {
		r.setDelay(d)
	}
}

// SetDown refuses new connections and cuts open ones, until it is called with false. That
// fails if someone else took the port in between; f is then still down.
func (f *Forwarder) SetDown(down bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed || down == (f.listener == nil):
		return nil
	case down:
		f.cut()
		return nil
	}
	l, err := net.Listen("tcp", f.addr.String())
	if err != nil {
		return fmt.Errorf("listen again: %w", err)
	}
	f.listener = l
	f.changed.Broadcast()
	return nil
}

// Close ends Run and frees the port for good.
func (f *Forwarder) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.cut()
	f.changed.Broadcast()
}

func (f *Forwarder) cut() {
	if f.listener != nil {
		_ = f.listener.Close()
		f.listener = nil
	}
	for r := range f.relays {
		r.cut()
	}
}
