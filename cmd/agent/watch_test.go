package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// screen is what a watching command has written.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(text)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestWatch watches the status: it is printed when it changes and only then, and
// Ctrl-C is a good end.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	w.fleet("home")
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	var out, errOut screen
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, strings.NewReader(""), &out, &errOut,
			[]string{"status", "--watch", "--interval=10ms", "--kubeconfig", w.kubeconfig, "--namespace", w.ns})
	}()
	pages := func() int { return strings.Count(out.String(), "FLEET ") }
	// The watch is known to have looked often without a change: count its lists.
	lists := func() int {
		n := 0
		for _, r := range env.Requests(w.T, w.user, 0) {
			if r.Verb == "list" && r.Resource == "fleets" {
				n++
			}
		}
		return n
	}
	w.eventually("it has looked ten times", func() string {
		if n := lists(); n < 10 {
			return fmt.Sprint(n, " times")
		}
		return ""
	})
	if n := pages(); n != 1 {
		t.Errorf("%d pages without a change, want 1:\n%s", n, out.String())
	}
	hash := w.commit(settings("one"))
	w.agent()
	w.untilApplied("clusters/dev", hash)
	w.eventually("it shows the overlay", func() string {
		if text := out.String(); !strings.Contains(text, "clusters/dev") || !strings.Contains(text, "Converged") {
			return text
		}
		return ""
	})
	cancel()
	select {
	case code := <-ended:
		if code != 0 || errOut.String() != "" {
			t.Errorf("exit code %d, stderr %q", code, errOut.String())
		}
	case <-time.After(patience):
		t.Error("the watch doesn't end")
	}
}

// TestWatchSurvives watches while the API server is away.
func TestWatchSurvives(t *testing.T) {
	w := newWorld(t)
	w.fleet("home")
	g := w.newGate(0, func(*http.Request) bool { return false })
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	var out screen
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, strings.NewReader(""), &out, &out,
			[]string{"status", "--watch", "--interval=10ms", "--kubeconfig", g.kubeconfig, "--namespace", w.ns})
	}()
	shows := func(part string) {
		t.Helper()
		w.eventually("it shows "+part, func() string {
			if text := out.String(); !strings.Contains(text, part) {
				return text
			}
			return ""
		})
	}
	shows(w.ns + "/home")
	g.server.CloseClientConnections()
	g.server.Close()
	shows("can't read the status")
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
}
