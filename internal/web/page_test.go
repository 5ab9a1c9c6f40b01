package web

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"capstan.dev/capstan/api/v1alpha1"
)

// shown is the Fleet of the status pages.
type shown struct {
	fleet    *v1alpha1.Fleet
	overlays []v1alpha1.ClusterOverlay
	err      error
}

func (s shown) Fleet(_ context.Context, name types.NamespacedName) (*v1alpha1.Fleet, []v1alpha1.ClusterOverlay, error) {
	if name != fleetA {
		return nil, nil, s.err
	}
	return s.fleet, s.overlays, s.err
}

func (shown) State(o *v1alpha1.ClusterOverlay) string {
	if o.Status.PendingDeletion != nil {
		return "PendingDeletion"
	}
	if o.Status.ConvergedRevision != "" && o.Status.ConvergedRevision == o.Status.DesiredRevision {
		return "Converged"
	}
	return "Progressing"
}

func show() shown {
	revision := "main@sha1:" + pushed
	condition := metav1.Condition{Type: "Applied", Status: metav1.ConditionFalse, Reason: "Invalid", Message: "<script>alert(1)</script>\n\u202eright to left\u202c"}
	return shown{
		fleet: &v1alpha1.Fleet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"},
			Status: v1alpha1.FleetStatus{
				ObservedRevision: revision, Forge: &v1alpha1.ForgeStatus{Tip: known},
				Conditions: []metav1.Condition{{Type: "Fetched", Status: metav1.ConditionTrue, Reason: "Succeeded", Message: "the tracked ref is readable"}},
			},
		},
		overlays: []v1alpha1.ClusterOverlay{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a-zeta-01234567"},
			Spec:       v1alpha1.ClusterOverlaySpec{Path: "clusters/zeta"},
			Status:     v1alpha1.ClusterOverlayStatus{DesiredRevision: revision, Objects: 2, Conditions: []metav1.Condition{condition}},
		}, {
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a-alpha-01234567"},
			Spec:       v1alpha1.ClusterOverlaySpec{Path: `clusters/"><img src=x>`},
			Status: v1alpha1.ClusterOverlayStatus{
				DesiredRevision: revision, AppliedRevision: "main@sha1:" + known, Cluster: "ns-alpha/alpha",
				PendingDeletion: &v1alpha1.PendingDeletion{
					Hash: "cafe", Reason: "PathRemoved", Message: "its directory is gone",
					Objects: []v1alpha1.ObjectReference{{Group: "cluster.x-k8s.io", Kind: "Cluster", Namespace: "ns-alpha", Name: "alpha", UID: "uid-1"}},
				},
				Inventory: []v1alpha1.InventoryEntry{{ObjectReference: v1alpha1.ObjectReference{Kind: "Namespace", Name: "ns-alpha"}, State: v1alpha1.EntryLeaving}},
				History:   []v1alpha1.HistoryEntry{{Revision: revision, Time: metav1.NewTime(time.Unix(0, 0)), Message: "2 created"}},
			},
		}},
	}
}

func (b *bed) get(method, path string) (int, string, http.Header) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), method, b.server.URL+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	answer, err := b.server.Client().Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		b.Fatal(err)
	}
	return answer.StatusCode, string(text), answer.Header
}

func TestPages(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(o *Options) { o.Pages = show(); o.PageRate = 1000 })
	for _, test := range []struct {
		path string
		want []string
	}{
		{"/fleets/ns/a", []string{
			"Fleet ns/a", "main@abcdefab", "01234567", "0 of 2 overlays converged", "1 Progressing", "1 PendingDeletion", "1 with a pending deletion",
			"the tracked ref is readable", `href="a/a-zeta-01234567"`, "Invalid: &lt;script&gt;alert(1)&lt;/script&gt;\n·right to left·",
			"clusters/&#34;&gt;&lt;img src=x&gt;", "ns-alpha/alpha",
		}},
		{"/fleets/ns/a/a-alpha-01234567", []string{
			`href="../a"`, "PathRemoved: its directory is gone", "capstan approve -n ns --hash cafe a-alpha-01234567",
			"Cluster.cluster.x-k8s.io ns-alpha/alpha", "uid-1", "Namespace ns-alpha", "Leaving", "2 created", "1970-01-01 00:00:00 UTC", "main@01234567",
		}},
		{"/fleets/ns/a/a-zeta-01234567", []string{"<td>Invalid</td>", "nothing was applied yet", "empty"}},
	} {
		code, text, header := b.get(http.MethodGet, test.path)
		if code != 200 || header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: %d %s", test.path, code, header.Get("Content-Type"))
		}
		if csp := header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; style-src 'unsafe-inline'") || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: policy %q, caching %q", test.path, csp, header.Get("Cache-Control"))
		}
		for _, want := range test.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q:\n%s", test.path, want, text)
			}
		}
		for _, never := range []string{"<script", "<img", "\u202e", "http://", "https://"} {
			if strings.Contains(text, never) {
				t.Errorf("%s has %q", test.path, never)
			}
		}
		if code, text, _ := b.get(http.MethodHead, test.path); code != 200 || text != "" {
			t.Errorf("HEAD %s: %d %q", test.path, code, text)
		}
	}
	_, text, _ := b.get(http.MethodGet, "/fleets/ns/a")
	if strings.Index(text, "a-alpha") > strings.Index(text, "a-zeta") {
		t.Error("the overlays are not sorted")
	}
	for _, path := range []string{"/", "/fleets", "/fleets/ns", "/fleets/ns/a/", "/fleets/ns/other", "/fleets/ns/a/other", "/fleets/ns/a/A", "/fleets/ns/a/b/c", "/fleets/ns/%61", "/metrics", "/favicon.ico"} {
		if code, _, _ := b.get(http.MethodGet, path); code != 404 {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
	if code, _, header := b.get(http.MethodPost, "/fleets/ns/a"); code != 405 || header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d, Allow %q", code, header.Get("Allow"))
	}
}

// There is no page unless it was asked for, none for what can't be read, and not too
// many of them.
func TestNoPages(t *testing.T) {
	t.Parallel()
	if code, _, _ := newBed(t).get(http.MethodGet, "/fleets/ns/a"); code != 404 {
		t.Errorf("%d without pages", code)
	}
	b := newBed(t, func(o *Options) { o.Pages = shown{err: errBroken} })
	if code, text, _ := b.get(http.MethodGet, "/fleets/ns/a"); code != 503 || strings.Contains(text, "broken") {
		t.Errorf("%d %q for what can't be read", code, text)
	}
	b = newBed(t, func(o *Options) {
		o.Pages, o.PageRate, o.Clock = show(), 0.1, clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	})
	for _, want := range []int{200, 429} {
		if code, _, _ := b.get(http.MethodGet, "/fleets/ns/a"); code != want {
			t.Errorf("%d, want %d", code, want)
		}
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for _, external := range []string{"https://capstan.example.com", "https://example.com/capstan/", "http://127.0.0.1:9292"} {
		if err := CheckExternal(external); err != nil {
			t.Errorf("%s: %v", external, err)
		}
	}
	for _, external := range []string{"", "example.com", "ftp://example.com", "https://", "https://u:password@example.com", "https://example.com?x", "https://example.com#x", "https://exa\x7fmple"} {
		if err := CheckExternal(external); err == nil || strings.Contains(err.Error(), "password") {
			t.Errorf("%q: %v", external, err)
		}
	}
	if got, want := OverlayURL("https://example.com/capstan/", fleetA, "a-x-01234567"), "https://example.com/capstan/fleets/ns/a/a-x-01234567"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := FleetURL("", fleetA) + OverlayURL("", fleetA, "x"); got != "" {
		t.Errorf("%q without an external URL", got)
	}
}
