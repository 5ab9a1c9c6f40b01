package forge_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"capstan.dev/capstan/internal/forge"
)

// An App logs in once for as long as a token is good, and again after.
func TestAppTokens(t *testing.T) {
	for _, tt := range []struct {
		lifetime time.Duration
		logins   int
	}{{time.Hour, 1}, {30 * time.Second, 3}} { // one that ends within a minute is not used again
		g := newGitHubFake(t, githubSetup{app: true})
		g.lifetime = tt.lifetime
		f := open(t, g)
		for range 3 {
			set(t, f, forge.Status{Commit: g.main(), Context: "capstan/app", State: forge.Success})
		}
		if g.logins != tt.logins {
			t.Errorf("with tokens for %s it logged in %d times, want %d", tt.lifetime, g.logins, tt.logins)
		}
	}
}

func TestAppRefused(t *testing.T) {
	status := forge.Status{Commit: strings.Repeat("a1b2", 10), Context: "capstan/app", State: forge.Success}
	for name, tt := range map[string]struct {
		change func(*forge.Options)
		kind   forge.ErrorKind
		text   string
	}{
		"another App":          {func(o *forge.Options) { o.Credentials.AppID = 1 }, forge.Unauthorized, "check the App's id"},
		"not installed for it": {func(o *forge.Options) { o.Repository = "other" }, forge.Forbidden, "installed for the repository acme/other"},
	} {
		err := open(t, newGitHubFake(t, githubSetup{app: true}), tt.change).SetStatus(t.Context(), status)
		failed(t, err, tt.kind)
		if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), "logging in as the GitHub App") {
			t.Errorf("%s: %v", name, err)
		}
	}
	g := newGitHubFake(t, githubSetup{app: true})
	f := open(t, g)
	for answer, kind := range map[string]forge.ErrorKind{"null": forge.Unavailable, "[]": forge.Unavailable, "<html>": forge.Unavailable, `{}`: ""} {
		g.limited = func(w http.ResponseWriter) { _, _ = w.Write([]byte(answer)) }
		if err := f.SetStatus(t.Context(), status); kind != "" && forge.KindOf(err) != kind {
			t.Errorf("logging in answered %s: %v", answer, err)
		}
	}
	g.limited = func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusForbidden)
	}
	failed(t, f.SetStatus(t.Context(), status), forge.RateLimited)
	g.limited = nil
	set(t, f, status)
}

// GitHub keeps 1,000 statuses of a commit and context, and refuses more.
func TestStatusesFull(t *testing.T) {
	g := newGitHubFake(t, githubSetup{})
	for range 1000 {
		g.posted[g.main()] = append(g.posted[g.main()], githubStatus{Context: "capstan/full", State: "pending"})
	}
	err := open(t, g).SetStatus(t.Context(), forge.Status{Commit: g.main(), Context: "capstan/full", State: forge.Success})
	failed(t, err, forge.Invalid)
	if err == nil || !strings.Contains(err.Error(), "maximum number of statuses") {
		t.Error(err)
	}
}
