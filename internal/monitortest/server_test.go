package monitortest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What was loaded can be asked for, by the time that it was loaded with.
func TestSamples(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Samples: []byte("x{a=\"b\"} 1 1000000000\nx{a=\"b\"} 4 1000000015\n# EOF\n")})
	got, err := s.Query(t.Context(), "x", time.Unix(1000000015, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := []Sample{{Labels: map[string]string{"__name__": "x", "a": "b"}, Value: 4}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := s.Query(t.Context(), "x", time.Time{}); err != nil || len(got) != 0 {
		t.Errorf("now: %v, %v", got, err)
	}
	if _, err := s.Query(t.Context(), "x{", time.Time{}); err == nil {
		t.Error("no error for what is no expression")
	}
}

// A target is scraped, and an alert on it fires.
func TestScrape(t *testing.T) {
	t.Parallel()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write([]byte("x{namespace=\"theirs\"} 1\n"))
	}))
	t.Cleanup(target.Close)
	s := Start(t, Options{
		Targets: []string{strings.TrimPrefix(target.URL, "http://")}, Interval: 100 * time.Millisecond,
		Rules: []byte("groups: [{name: g, rules: [{alert: A, expr: x == 1, annotations: {summary: 'of {{ $labels.namespace }}'}}]}]"),
	})
	deadline := time.After(time.Minute)
	for {
		alerts, err := s.Alerts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(alerts) == 1 && alerts[0].State == "firing" {
			if got := alerts[0].Annotations["summary"]; got != "of theirs" {
				t.Errorf("summary %q", got)
			}
			return
		}
		select {
		case <-deadline:
			t.Fatalf("alerts after a minute: %v", alerts)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
