package forge_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"

	"capstan.dev/capstan/internal/forge"
)

const faultToken = "0123456789abcdef-secret-token"

// at opens a forge of each kind at an address.
func at(t *testing.T, address string, change ...func(*forge.Options)) map[forge.Kind]forge.Forge {
	t.Helper()
	all := map[forge.Kind]forge.Forge{}
	for _, kind := range []forge.Kind{forge.Gitea, forge.Forgejo, forge.GitHub} {
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		o := forge.Options{Kind: kind, URL: address, Owner: "acme", Repository: "fleet", Transport: transport,
			Credentials: forge.Credentials{Token: faultToken}}
		for _, c := range change {
			c(&o)
		}
		f, err := forge.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		all[kind] = f
	}
	return all
}

// Whatever answers in the forge's place, the error says so and keeps the token.
func TestFaults(t *testing.T) {
	var handler http.HandlerFunc
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(w, r) }))
	defer server.Close()
	say := func(status int, contentType, body string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	const json, html = "application/json", "text/html; charset=utf-8"
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		kind   forge.ErrorKind
		text   string // in the error
		not    string // not in it
	}{
		"a page":             {say(200, html, "<html>please log in</html>"), forge.Unavailable, "text/html and not JSON", "please log in"},
		"nothing":            {say(200, json, ""), forge.Unavailable, "not JSON", ""},
		"broken JSON":        {say(200, json, `{"number": `), forge.Unavailable, "can't be read", ""},
		"another shape":      {say(200, json, `{"number": "x"}`), forge.Unavailable, "can't be read", ""},
		"null":               {say(200, json, `null`), forge.Unavailable, "not JSON", ""},
		"an empty object":    {say(200, json, `{}`), forge.Unavailable, "not what was asked for", ""},
		"another number":     {say(200, json, `{"number": 8}`), forge.Unavailable, "not what was asked for", ""},
		"too much":           {say(200, json, `{"a":"`+strings.Repeat("x", 33<<20)+`"}`), forge.Unavailable, "32 MiB", ""},
		"500":                {say(500, json, `{"message":"boom"}`), forge.Unavailable, "500 Internal Server Error: boom", ""},
		"502 of a proxy":     {say(502, html, "<html>Bad Gateway</html>"), forge.Unavailable, "502 Bad Gateway", "<html>"},
		"503 in plain words": {say(503, "text/plain", "down for\nmaintenance"), forge.Unavailable, "down for maintenance", ""},
		"a long story":       {say(500, json, `{"message":"`+strings.Repeat("long ", 1000)+`"}`), forge.Unavailable, "…", ""},
		"the token, back":    {say(401, json, `{"message":"what is `+faultToken+`?"}`), forge.Unauthorized, "what is ***?", faultToken},
		"two lines, colours": {say(403, json, `{"message":"a\u001b[31m\nb\u202ec"}`), forge.Forbidden, "a [31m b c", "\x1b"},
		"archived":           {say(423, json, `{"message":"This repo is archived"}`), forge.Forbidden, "archived", ""},
		"gone":               {say(410, json, `{"message":"This issue was deleted"}`), forge.NotFound, "deleted", ""},
		"invalid":            {say(422, json, `{"message":"Validation Failed","errors":[{"field":"body","code":"missing"},"text"]}`), forge.Invalid, "Validation Failed: body missing: text", ""},
		"a page that is not": {say(404, html, "<html>404</html>"), forge.NotFound, "404 Not Found", "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			handler = tt.answer
			for kind, f := range at(t, server.URL) {
				_, err := f.PullRequest(t.Context(), 7)
				failed(t, err, tt.kind)
				if !strings.Contains(err.Error(), tt.text) || tt.not != "" && strings.Contains(err.Error(), tt.not) {
					t.Errorf("%s: %q, want %q and not %q", kind, err, tt.text, tt.not)
				}
				if !strings.Contains(err.Error(), strings.TrimPrefix(server.URL, "http://")) || !strings.Contains(err.Error(), "acme/fleet") {
					t.Errorf("%s: %q does not say where", kind, err)
				}
			}
		})
	}
}

func TestRateLimits(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var answer func(w http.ResponseWriter)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
	defer server.Close()
	reset := fmt.Sprint(now.Add(25 * time.Minute).Unix())
	const secondary = "You have exceeded a secondary rate limit"
	for name, tt := range map[string]struct {
		status   int
		header   map[string]string
		message  string
		want     map[forge.Kind]time.Duration // Forgejo is as Gitea
		notLimit bool
	}{
		"primary":            {403, map[string]string{"X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": reset}, "API rate limit exceeded", map[forge.Kind]time.Duration{forge.GitHub: 25 * time.Minute, forge.Gitea: 25 * time.Minute}, false},
		"primary as 429":     {429, map[string]string{"X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": reset}, "", map[forge.Kind]time.Duration{forge.GitHub: 25 * time.Minute, forge.Gitea: 25 * time.Minute}, false},
		"secondary":          {403, map[string]string{"Retry-After": "90", "X-Ratelimit-Remaining": "100"}, secondary, map[forge.Kind]time.Duration{forge.GitHub: 90 * time.Second, forge.Gitea: 90 * time.Second}, false},
		"secondary, no time": {403, map[string]string{"X-Ratelimit-Remaining": "100"}, secondary, map[forge.Kind]time.Duration{forge.GitHub: time.Minute}, false},
		"a date":             {429, map[string]string{"Retry-After": now.Add(2 * time.Minute).Format(http.TimeFormat)}, "", map[forge.Kind]time.Duration{forge.GitHub: 2 * time.Minute, forge.Gitea: 2 * time.Minute}, false},
		"in the past":        {429, map[string]string{"Retry-After": now.Add(-time.Hour).Format(http.TimeFormat)}, "", nil, false},
		"for ever":           {429, map[string]string{"Retry-After": "999999999"}, "", map[forge.Kind]time.Duration{forge.GitHub: 24 * time.Hour, forge.Gitea: 24 * time.Hour}, false},
		"nonsense":           {429, map[string]string{"Retry-After": "soon"}, "", nil, false},
		"not at all":         {403, map[string]string{"X-Ratelimit-Remaining": "100"}, "Resource not accessible", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			answer = func(w http.ResponseWriter) {
				for key, value := range tt.header {
					w.Header().Set(key, value)
				}
				w.WriteHeader(tt.status)
				fmt.Fprintf(w, `{"message": %q}`, tt.message)
			}
			remaining := map[string]int{"": -1, "0": 0, "100": 100}[tt.header["X-Ratelimit-Remaining"]]
			seen := -2
			forges := at(t, server.URL, func(o *forge.Options) {
				o.Clock = testclock.NewFakePassiveClock(now)
				o.Observe = func(_ string, _ forge.ErrorKind, n int) { seen = n }
			})
			for kind, f := range forges {
				err := f.SetStatus(t.Context(), forge.Status{Commit: strings.Repeat("a", 40), Context: "c", State: forge.Success})
				if tt.notLimit {
					failed(t, err, forge.Forbidden)
					continue
				}
				failed(t, err, forge.RateLimited)
				if kind == forge.Forgejo {
					kind = forge.Gitea
				}
				if e := (*forge.Error)(nil); errors.As(err, &e) && e.RetryAfter != tt.want[kind] {
					t.Errorf("%s: wait %s, want %s", kind, e.RetryAfter, tt.want[kind])
				}
				if seen != remaining {
					t.Errorf("%s: %d remaining, want %d", kind, seen, remaining)
				}
			}
		})
	}
}

// Strangers write pull requests of the largest size, 65,536 characters of four bytes. As
// many as are asked for at once can be read, so nothing is hidden by them.
func TestLongTexts(t *testing.T) {
	long := strings.Repeat("\U0001f40b", 65536)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("per_page"))
		if err != nil {
			t.Error(err)
		}
		for i := range n {
			fmt.Fprintf(w, `%c{"number":%d,"head":{"sha":"%040d"},"base":{"ref":"main"},"body":"%s"}`, "[,"[min(i, 1)], i+1, i, long)
		}
		fmt.Fprint(w, "]")
	}))
	defer server.Close()
	prs, complete, err := at(t, server.URL)[forge.GitHub].OpenPullRequests(t.Context(), "main")
	if err != nil || len(prs) != 100 || !complete {
		t.Errorf("%d pull requests, complete %t, %v", len(prs), complete, err)
	}
}

// Gitea lists a pull request without a commit if that is lost. The others are listed.
func TestPullRequestWithoutCommit(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `[{"number":8,"state":"open","head":{"sha":""},"base":{"ref":"main"}},
{"number":7,"state":"open","head":{"sha":%q},"base":{"ref":"main"}}]`, strings.Repeat("a", 40))
	}))
	defer server.Close()
	for _, kind := range []forge.Kind{forge.Gitea, forge.Forgejo} {
		prs, complete, err := at(t, server.URL)[kind].OpenPullRequests(t.Context(), "main")
		if err != nil || len(prs) != 1 || prs[0].Number != 7 || complete {
			t.Errorf("%s: %+v, complete %t, %v", kind, prs, complete, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Run("gone", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		for _, f := range at(t, server.URL) {
			_, err := f.PullRequest(t.Context(), 7)
			failed(t, err, forge.Unavailable)
		}
	})
	t.Run("hanging", func(t *testing.T) {
		done := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
		defer server.Close()
		defer close(done)
		for _, f := range at(t, server.URL, func(o *forge.Options) { o.Timeout = 50 * time.Millisecond }) {
			_, err := f.PullRequest(t.Context(), 7)
			failed(t, err, forge.Unavailable)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer in time") {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, f := range at(t, server.URL) {
			_, err := f.PullRequest(ctx, 7)
			failed(t, err, forge.Unavailable)
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
	t.Run("hanging within an answer", func(t *testing.T) {
		done := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("{"))
			w.(http.Flusher).Flush()
			<-done
		}))
		defer server.Close()
		defer close(done)
		for _, f := range at(t, server.URL, func(o *forge.Options) { o.Timeout = 50 * time.Millisecond }) {
			_, err := f.PullRequest(t.Context(), 7)
			failed(t, err, forge.Unavailable)
		}
	})
	t.Run("broken off", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("{"))
		}))
		defer server.Close()
		for _, f := range at(t, server.URL) {
			_, err := f.PullRequest(t.Context(), 7)
			failed(t, err, forge.Unavailable)
		}
	})
}

func TestCertificates(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	own := func(ca []byte) func(*forge.Options) {
		return func(o *forge.Options) { o.Transport, o.Credentials.CA = nil, ca }
	}
	for _, f := range at(t, server.URL, own(nil)) {
		_, err := f.PullRequest(t.Context(), 7)
		failed(t, err, forge.CertificateInvalid)
		if !strings.Contains(err.Error(), "ca.crt") {
			t.Error(err)
		}
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for _, f := range at(t, server.URL, own(ca)) {
		_, err := f.PullRequest(t.Context(), 7)
		failed(t, err, forge.NotFound)
	}
}

// A forge that says it is elsewhere is followed within itself only: the token stays here.
func TestRedirects(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another host is asked for %s with %q", r.URL, r.Header.Get("Authorization"))
	}))
	defer other.Close()
	var status int
	var to func(r *http.Request) string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/renamed/") {
			switch {
			case r.Method == http.MethodPost:
				w.WriteHeader(http.StatusCreated)
				fmt.Fprint(w, `{"id": 5}`)
			default:
				w.WriteHeader(http.StatusNotFound)
			}
			return
		}
		w.Header().Set("Location", to(r))
		w.WriteHeader(status)
	}))
	defer server.Close()
	renamed := func(r *http.Request) string { return strings.Replace(r.URL.Path, "/fleet/", "/renamed/", 1) }
	for _, code := range []int{301, 302, 303, 307, 308} {
		status = code
		for name, target := range map[string]func(*http.Request) string{
			"another host": func(r *http.Request) string { return other.URL + r.URL.Path + "?secret=1" },
			"another scheme": func(r *http.Request) string {
				return (&url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path}).String()
			},
			"itself":  func(r *http.Request) string { return r.URL.Path },
			"nowhere": func(*http.Request) string { return "" },
		} {
			to = target
			for kind, f := range at(t, server.URL) {
				_, err := f.PullRequest(t.Context(), 7)
				if forge.KindOf(err) != forge.Unavailable || strings.Contains(err.Error(), "secret") {
					t.Errorf("%s: %d to %s: %v", kind, code, name, err)
				}
				_, err = f.CreateComment(t.Context(), 7, "text")
				failed(t, err, forge.Unavailable)
			}
		}
		to = renamed
		for kind, f := range at(t, server.URL) {
			_, err := f.PullRequest(t.Context(), 7)
			failed(t, err, forge.NotFound)
			_, err = f.CreateComment(t.Context(), 7, "text")
			if code == 307 || code == 308 {
				if err != nil {
					t.Errorf("%s: a comment by way of %d: %v", kind, code, err)
				}
				continue
			}
			failed(t, err, forge.Unavailable) // it would become a GET
		}
	}
}
