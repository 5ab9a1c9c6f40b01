package web

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/internal/forge"
)

// fuzzed is a Fleet that takes everything.
type fuzzed struct{}

func (fuzzed) Hook(_ context.Context, fleet types.NamespacedName) (Hook, string, error) {
	if fleet != fleetA {
		return Hook{}, "there is no such Fleet", nil
	}
	return Hook{Secrets: [][]byte{[]byte(current)}, Branch: "main", PullRequests: true}, "", nil
}

func (fuzzed) Push(context.Context, types.NamespacedName, forge.Event) (bool, string, error) {
	return true, "", nil
}

func (fuzzed) PullRequest(context.Context, types.NamespacedName, forge.Event) (bool, string, error) {
	return true, "", nil
}

// FuzzHandler sends anything anywhere, signed rightly or not: no panic, no error of the
// agent, an answer of one line, and nothing accepted that was not signed.
func FuzzHandler(f *testing.F) {
	h, err := Handler(Options{Fleets: fuzzed{}, Hints: fuzzed{}, Pages: show(), Registerer: prometheus.NewRegistry(), PerFleet: 1e9, Total: 1e9, PageRate: 1e9})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("POST", "/webhooks/ns/a", "push", "push", "application/json", "", pushBody("refs/heads/main"), true)
	f.Add("POST", "/webhooks/ns/a", "pull_request", "pull_request_sync", "application/json; charset=utf-8", "", pullBody("synchronized", "main"), true)
	f.Add("POST", "/webhooks/ns/a", "ping", "", "application/x-www-form-urlencoded", "gzip", "payload=x", true)
	f.Add("POST", "/webhooks/ns/other", "push", "push", "application/json", "", "{}", false)
	f.Add("GET", "/fleets/ns/a/a-zeta-01234567", "", "", "", "", "", false)
	f.Fuzz(func(t *testing.T, method, path, event, kind, contentType, encoding, body string, signed bool) {
		r, err := http.NewRequest(method, "http://x/", strings.NewReader(body)) //nolint:noctx // nothing is sent
		if err != nil {
			return
		}
		r.URL.Path = path
		for name, value := range map[string]string{
			"X-GitHub-Event": event, "X-Gitea-Event-Type": kind, "Content-Type": contentType, "Content-Encoding": encoding, "X-GitHub-Delivery": event + kind,
		} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		if signed {
			r.Header.Set("X-Hub-Signature-256", "sha256="+signature(current, body))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if text := strings.TrimSuffix(w.Body.String(), "\n"); w.Header().Get("Content-Type") == "text/plain; charset=utf-8" && (text == "" || strings.Contains(text, "\n") || len(text) > 2000) {
			t.Errorf("the answer is not a line: %q", text)
		}
		if page := strings.HasPrefix(path, "/fleets/"); w.Code < 300 && !signed && !page {
			t.Errorf("%d without a signature", w.Code)
		}
	})
}
