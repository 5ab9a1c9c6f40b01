package web

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/go-logr/logr"
	xrate "golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// handler serves /webhooks/ and, if it has pages, /fleets/.
type handler struct {
	Options
	gates   *gates
	metrics *metrics
	// decoys stand in for secrets, so that checking a delivery for a Fleet that there is
	// not takes as long as for one with two secrets. Nobody knows them.
	decoys [][]byte
	// refusals and pageRate limit log lines and pages.
	refusals, pageRate *xrate.Limiter
}

// Handler returns what serves the webhooks and the status page.
func Handler(o Options) (http.Handler, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer, o.Fleets)
	if err != nil {
		return nil, fmt.Errorf("web: register metrics: %w", err)
	}
	h := &handler{
		Options: o, gates: newGates(o), metrics: m,
		refusals: xrate.NewLimiter(1, 10), pageRate: newLimiter(o.PageRate),
	}
	for range 2 {
		decoy := make([]byte, 32)
		if _, err := rand.Read(decoy); err != nil {
			return nil, fmt.Errorf("web: %w", err)
		}
		h.decoys = append(h.decoys, decoy)
	}
	return h, nil
}

// ServeHTTP finds the way by the path as it was sent: what is escaped in it is no name.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	switch {
	case parts[0] == "webhooks":
		h.webhook(w, r, parts[1:])
	case parts[0] == "fleets" && h.Pages != nil:
		h.page(w, r, parts[1:])
	default:
		answer{code: http.StatusNotFound, text: "not found"}.write(w)
	}
}

// answer is what a request is answered with, for the person who reads the forge's log
// of deliveries: what, and what to do.
type answer struct {
	code    int
	outcome outcome
	text    string
	// header is one more header, as name and value.
	header [2]string
	// hangUp ends the connection: what the client still has to send is not read.
	hangUp bool
}

func (a answer) write(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	if a.header[0] != "" {
		header.Set(a.header[0], a.header[1])
	}
	if a.hangUp {
		header.Set("Connection", "close")
	}
	w.WriteHeader(a.code)
	fmt.Fprintln(w, a.text)
}

func notAllowed(allow string) answer {
	return answer{
		code: http.StatusMethodNotAllowed, outcome: badMethod, text: "use " + allow + " here", header: [2]string{"Allow", allow}, hangUp: true,
	}
}

// fleetNamed returns the Fleet that a path names, false if there can be none of that
// name.
func fleetNamed(parts []string) (types.NamespacedName, bool) {
	for _, p := range parts {
		if len(validation.IsDNS1123Label(p)) > 0 {
			return types.NamespacedName{}, false
		}
	}
	return types.NamespacedName{Namespace: parts[0], Name: parts[1]}, true
}

// survive runs f and turns a panic into an answer: the process is also the agent.
func survive(ctx context.Context, log logr.Logger, f func(context.Context) answer) (a answer) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			// The value may quote what was sent; only the runtime's own don't.
			what := fmt.Sprintf("%T", p)
			if e, ok := p.(runtime.Error); ok {
				what = e.Error()
			}
			log.Error(nil, "panic while handling a request", "panic", what, "stack", string(debug.Stack()))
			a = answer{code: http.StatusInternalServerError, outcome: panicked, text: "an error of the agent; its log says more", hangUp: true}
		}
	}()
	return f(ctx)
}
