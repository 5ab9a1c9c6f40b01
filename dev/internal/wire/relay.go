package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A relay is one connection through the forwarder.
type relay struct {
	client, server *net.TCPConn

	cutOnce sync.Once
	gone    chan struct{} // closed by cut

	mu      sync.Mutex
	delay   time.Duration
	changed chan struct{} // closed when delay changes
}

func newRelay(client, server *net.TCPConn, delay time.Duration) *relay {
	return &relay{client: client, server: server, gone: make(chan struct{}), delay: delay, changed: make(chan struct{})}
}

// run copies both ways until both ends have nothing more to say or one of them fails.
func (r *relay) run() {
	defer r.cut()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := io.Copy(r.server, r.client)
		r.finish(r.server, err)
	})
	wg.Go(func() { r.finish(r.client, r.answer()) })
	wg.Wait()
}

// finish tells one end that the other has nothing more to say. A failure ends both directions.
func (r *relay) finish(to *net.TCPConn, err error) {
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		r.cut()
	}
}

func (r *relay) cut() {
	r.cutOnce.Do(func() {
		close(r.gone)
		_ = r.client.Close()
		_ = r.server.Close()
	})
}

func (r *relay) setDelay(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d == r.delay {
		return
	}
	r.delay = d
	close(r.changed)
	r.changed = make(chan struct{})
	// Wakes answer, which may be in the kernel for as long as the server is silent.
	_ = r.server.SetReadDeadline(time.Unix(1, 0))
}

func (r *relay) currentDelay() (time.Duration, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.delay, r.changed
}

// answer copies from the server to the client, changing between two ways of doing so: the
// kernel's while there is no delay, our own otherwise.
func (r *relay) answer() error {
	for {
		// First the deadline, then the delay: a change between the two is seen either way.
		if err := r.server.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		var err error
		if delay, _ := r.currentDelay(); delay == 0 {
			_, err = io.Copy(r.client, r.server)
		} else {
			err = r.answerLate()
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// answerLate reads as fast as the server sends, and writes each chunk when its time has come.
// It returns when everything is written.
func (r *relay) answerLate() error {
	onTheWay := newQueue()
	var writeErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		if writeErr = r.write(onTheWay); writeErr != nil {
			onTheWay.abandon()
			r.cut() // ends the read below
		}
	})
	buffer := make([]byte, 32<<10)
	var readErr error
	for readErr == nil {
		var n int
		if n, readErr = r.server.Read(buffer); n > 0 {
			onTheWay.put(chunk{bytes.Clone(buffer[:n]), time.Now()})
		}
	}
	onTheWay.finish()
	wg.Wait()
	if writeErr != nil {
		return writeErr
	}
	if errors.Is(readErr, io.EOF) {
		return nil
	}
	return readErr
}

func (r *relay) write(onTheWay *queue) error {
	for {
		c, ok := onTheWay.take()
		if !ok {
			return nil
		}
		if err := r.await(c.read); err != nil {
			return err
		}
		if _, err := r.client.Write(c.data); err != nil {
			return err
		}
	}
}

// await returns when what was read at that time may arrive.
func (r *relay) await(read time.Time) error {
	for {
		delay, changed := r.currentDelay()
		timer := time.NewTimer(time.Until(read.Add(delay)))
		select {
		case <-timer.C:
			return nil
		case <-r.gone:
			timer.Stop()
			return net.ErrClosed
		case <-changed:
			timer.Stop()
		}
	}
}
