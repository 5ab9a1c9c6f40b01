package web

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/internal/forge"
)

const (
	known   = "0123456789012345678901234567890123456789"
	pushed  = "abcdefabcdefabcdefabcdefabcdefabcdefabcd"
	current = "the-current-secret"
	former  = "the-former-secret"
)

var fleetA, fleetB = types.NamespacedName{Namespace: "ns", Name: "a"}, types.NamespacedName{Namespace: "ns", Name: "b"}

// bed is a handler behind a real server, with two Fleets.
type bed struct {
	*testing.T
	registry *prometheus.Registry
	server   *httptest.Server

	mu     sync.Mutex
	hooks  map[types.NamespacedName]Hook
	err    error
	hints  []forge.Event
	answer func(forge.Event) (bool, string, error)
	logs   strings.Builder
}

func newBed(t *testing.T, change ...func(*Options)) *bed {
	t.Helper()
	hook := Hook{Secrets: [][]byte{[]byte(current), []byte(former)}, Repository: "Owner/Name", Ref: "refs/heads/main", Branch: "main", PullRequests: true}
	b := &bed{
		T: t, registry: prometheus.NewRegistry(), hooks: map[types.NamespacedName]Hook{fleetA: hook, fleetB: hook},
		answer: func(forge.Event) (bool, string, error) { return true, "", nil },
	}
	o := Options{Fleets: b, Hints: b, Registerer: b.registry, Log: testLogger(b)}
	for _, f := range change {
		f(&o)
	}
	h, err := Handler(o)
	if err != nil {
		t.Fatal(err)
	}
	b.server = httptest.NewUnstartedServer(nil)
	b.server.Config = HTTPServer(h, o.Log)
	b.server.Start()
	t.Cleanup(b.server.Close)
	return b
}

func (b *bed) Hook(_ context.Context, fleet types.NamespacedName) (Hook, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.hooks[fleet]
	if !ok {
		return Hook{}, "there is no such Fleet", b.err
	}
	return h, "", b.err
}

func (b *bed) Push(_ context.Context, _ types.NamespacedName, e forge.Event) (bool, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hints = append(b.hints, e)
	return b.answer(e)
}

func (b *bed) PullRequest(ctx context.Context, fleet types.NamespacedName, e forge.Event) (bool, string, error) {
	return b.Push(ctx, fleet, e)
}

func (b *bed) log() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.logs.String()
}

func (b *bed) hinted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.hints)
}

// deliveries are the counted deliveries, as "namespace/fleet outcome".
func (b *bed) deliveries() map[string]int {
	b.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.Fatal(err)
	}
	all := map[string]int{}
	for _, f := range families {
		if f.GetName() != "capstan_webhook_deliveries_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			all[labels["namespace"]+"/"+labels["fleet"]+" "+labels["outcome"]] += int(m.GetCounter().GetValue())
		}
	}
	return all
}

func pushBody(ref string) string {
	return fmt.Sprintf(`{"ref":%q,"before":%q,"after":%q,"total_commits":1,"repository":{"full_name":"owner/name"},
"commits":[{"id":%q,"added":[],"removed":[],"modified":["clusters/a/x.yaml"]}]}`, ref, known, pushed, pushed)
}

func pullBody(action, base string) string {
	return fmt.Sprintf(`{"action":%q,"number":7,"repository":{"full_name":"owner/name"},
"pull_request":{"head":{"sha":%q,"ref":"topic"},"base":{"sha":%q,"ref":%q}}}`, action, pushed, known, base)
}

func signature(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

// request is a delivery as Gitea sends it, signed.
func (b *bed) request(path, event, body, secret string) *http.Request {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, b.server.URL+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json", "X-Gitea-Event": event, "X-GitHub-Event": event, "X-Gogs-Event": event,
		"X-Gitea-Event-Type": event, "X-GitHub-Event-Type": event,
		"X-Gitea-Delivery":  "0e7b1c9e-0000-4000-8000-000000000001",
		"X-Gitea-Signature": signature(secret, body), "X-Hub-Signature-256": "sha256=" + signature(secret, body),
	} {
		r.Header.Set(name, value)
	}
	return r
}

// send returns the code and the text of the answer.
func (b *bed) send(r *http.Request) (int, string, http.Header) {
	b.Helper()
	answer, err := b.server.Client().Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		b.Fatal(err)
	}
	return answer.StatusCode, strings.TrimSpace(string(text)), answer.Header
}

var errBroken = errors.New("broken")

func testLogger(b *bed) logr.Logger {
	return funcr.New(func(prefix, args string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.logs.WriteString(prefix + " " + args + "\n")
	}, funcr.Options{Verbosity: 1})
}
