package wire_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"capstan.dev/capstan/dev/internal/wire"
)

const aDay = 24 * time.Hour

// echo answers with what it is sent, and ends its side when the client does.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// forward runs a forwarder for the time of the test.
func forward(t *testing.T, target string) *wire.Forwarder {
	t.Helper()
	f, err := wire.Listen("127.0.0.1:0", target)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f
}

func dial(t *testing.T, f *wire.Forwarder) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("got %q and %v, not %q", got, err, want)
	}
}

// untilSilence sends until no answer comes any more: what was being read when the delay
// came is not held back. What is then on its way is one more text.
func untilSilence(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	for range 100 {
		send(t, conn, text)
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadFull(conn, make([]byte, len(text)))
		if err == nil {
			continue
		}
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %d bytes and %v, not silence", n, err)
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("nothing is ever held back")
}

// TestEverythingArrivesInOrder sends more than any buffer holds, while the delay changes.
func TestEverythingArrivesInOrder(t *testing.T) {
	content := make([]byte, 20<<20)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(content); i++ {
		content[i] = byte(r.Uint32())
	}
	tests := map[string]struct {
		delays []time.Duration // one for each of as many equal parts of the answer
	}{
		"no delay":      {delays: []time.Duration{0}},
		"delay":         {delays: []time.Duration{20 * time.Millisecond}},
		"delay comes":   {delays: []time.Duration{0, 20 * time.Millisecond}},
		"delay goes":    {delays: []time.Duration{20 * time.Millisecond, 0}},
		"delay shrinks": {delays: []time.Duration{50 * time.Millisecond, time.Millisecond}},
		"delay back and forth": {delays: []time.Duration{
			0, time.Millisecond, 0, 2 * time.Millisecond, 0, time.Millisecond, 3 * time.Millisecond, 0, time.Millisecond, 0}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := forward(t, echo(t))
			f.SetDelay(test.delays[0])
			conn := dial(t, f)
			sent := make(chan error, 1)
			go func() {
				_, err := conn.Write(content)
				sent <- errors.Join(err, conn.CloseWrite())
			}()
			var got bytes.Buffer
			for i, delay := range test.delays {
				f.SetDelay(delay)
				if i < len(test.delays)-1 {
					if _, err := io.CopyN(&got, conn, int64(len(content)/len(test.delays))); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := io.Copy(&got, conn); err != nil {
				t.Fatal(err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), content) {
				t.Errorf("%d bytes arrived, not the %d sent, or others", got.Len(), len(content))
			}
		})
	}
}

func TestDelayHoldsAnswersBack(t *testing.T) {
	f := forward(t, echo(t))
	before := dial(t, f)
	send(t, before, "one")
	expect(t, before, "one")

	f.SetDelay(aDay)
	after := dial(t, f)
	for _, conn := range []net.Conn{before, after} {
		untilSilence(t, conn, "two")
	}
	f.SetDelay(0) // also for what is on its way
	for _, conn := range []net.Conn{before, after} {
		expect(t, conn, "two")
		send(t, conn, "three")
		expect(t, conn, "three")
	}
}

func TestDown(t *testing.T) {
	f := forward(t, echo(t))
	conn := dial(t, f)
	send(t, conn, "one")
	expect(t, conn, "one")

	for range 3 {
		f.SetDelay(aDay)
		send(t, conn, "hardly arrives")
		if err := f.SetDown(true); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, conn) // ends, as open connections are cut
		if c, err := net.Dial("tcp", f.Addr().String()); err == nil {
			_ = c.Close()
			t.Fatal("a connection was made while down")
		}
		if err := f.SetDown(false); err != nil {
			t.Fatal(err)
		}
		f.SetDelay(0)
		conn = dial(t, f)
		send(t, conn, "two")
		expect(t, conn, "two")
	}
}

// TestUpWithoutPort checks that a port that someone else has taken meanwhile is an error,
// and that one can try again.
func TestUpWithoutPort(t *testing.T) {
	f := forward(t, echo(t))
	if err := f.SetDown(true); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", f.Addr().String())
	if err != nil {
		t.Skipf("someone else was faster: %v", err)
	}
	if err := f.SetDown(false); err == nil {
		t.Fatal("SetDown(false) says that it listens on a port that is taken")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.SetDown(false); err != nil {
		t.Fatal(err)
	}
	conn := dial(t, f)
	send(t, conn, "one")
	expect(t, conn, "one")
}

func TestTarget(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	f := forward(t, nobody)
	conn := dial(t, f)
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatalf("got %d bytes from nobody", n)
	}
	f.SetTarget(echo(t))
	conn = dial(t, f)
	send(t, conn, "one")
	expect(t, conn, "one")
}

// TestHalfClose checks that the end of one direction is not the end of the other.
func TestHalfClose(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond} {
		t.Run(fmt.Sprint(delay), func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			f := forward(t, l.Addr().String())
			f.SetDelay(delay)
			client := dial(t, f)
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			// Greeted first, as a server's answer may be over before the request is.
			send(t, server, "hello")
			if err := server.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(client); err != nil || string(got) != "hello" {
				t.Fatalf("client got %q and %v", got, err)
			}
			send(t, client, "goodbye")
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(server); err != nil || string(got) != "goodbye" {
				t.Fatalf("server got %q and %v", got, err)
			}
		})
	}
}

func TestListenOnTakenPort(t *testing.T) {
	f := forward(t, echo(t))
	if second, err := wire.Listen(f.Addr().String(), "127.0.0.1:1"); err == nil {
		second.Close()
		t.Fatal("two forwarders on one address")
	}
}

// TestEnd checks that the end of ctx closes everything, also while nothing moves, and that
// a closed forwarder stays closed.
func TestEnd(t *testing.T) {
	f, err := wire.Listen("127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	conn := dial(t, f)
	send(t, conn, "one")
	expect(t, conn, "one")
	f.SetDelay(aDay)
	send(t, conn, "two")
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("got %d bytes after the end", n)
	}
	if err := f.SetDown(false); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", f.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("a connection was made after the end")
	}
}
