package source_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
)

func TestHTTPCredentials(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	basic := gittest.NewHTTP(t, gittest.HTTPOptions{Username: "robot", Password: "hunter2-basic"})
	bearer := gittest.NewHTTP(t, gittest.HTTPOptions{Bearer: "hunter2-bearer"})
	tls := gittest.NewHTTP(t, gittest.HTTPOptions{TLS: true, Username: "robot", Password: "hunter2-basic"})
	good := source.Auth{Username: "robot", Password: "hunter2-basic"}

	tests := []struct {
		name   string
		server *gittest.HTTPServer
		auth   source.Auth
		want   source.Reason // "" for success
	}{
		{"basic", basic, good, ""},
		{"basic, wrong password", basic, source.Auth{Username: "robot", Password: "hunter2-wrong"}, source.AuthenticationFailed},
		{"basic, none given", basic, source.Auth{}, source.AuthenticationFailed},
		{"bearer", bearer, source.Auth{BearerToken: "hunter2-bearer"}, ""},
		{"bearer, wrong token", bearer, source.Auth{BearerToken: "hunter2-wrong"}, source.AuthenticationFailed},
		{"custom CA", tls, source.Auth{Username: "robot", Password: "hunter2-basic", CAFile: tls.CA()}, ""},
		{"no CA", tls, good, source.CertificateInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := open(t, source.Options{URL: tt.server.URL(repo), Auth: tt.auth})
			s, err := m.Sync(t.Context())
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := read(t, s.Tree, "f"); got != "1" {
					t.Errorf("file %q", got)
				}
				return
			}
			wantReason(t, err, tt.want, tt.server.Base())
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q tells a secret", err)
			}
		})
	}
}

func TestRepositoryNotFound(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	ssh := gittest.NewSSH(t)
	for transport, opts := range map[string]source.Options{
		"http":  {URL: repo.URL() + "-not"},
		"ssh":   {URL: ssh.URL(repo) + "-not", Auth: source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}},
		"local": {URL: t.TempDir(), AllowLocal: true},
	} {
		t.Run(transport, func(t *testing.T) {
			_, err := open(t, opts).Sync(t.Context())
			wantReason(t, err, source.RepositoryNotFound, opts.URL)
		})
	}
}

func TestSSHKeys(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	server, stranger := gittest.NewSSH(t), gittest.NewSSH(t)
	url := server.URL(repo)
	tests := []struct {
		name string
		auth source.Auth
		want source.Reason
	}{
		{"key", source.Auth{SSHKey: server.Identity(""), KnownHosts: server.KnownHosts()}, ""},
		{"key with passphrase", source.Auth{SSHKey: server.Identity("hunter2"), SSHPassphrase: []byte("hunter2"), KnownHosts: server.KnownHosts()}, ""},
		{"another's key", source.Auth{SSHKey: stranger.Identity(""), KnownHosts: server.KnownHosts()}, source.AuthenticationFailed},
		{"unknown host", source.Auth{SSHKey: server.Identity(""), KnownHosts: stranger.KnownHosts()}, source.HostKeyUnknown},
		{"changed host key", source.Auth{SSHKey: server.Identity(""), KnownHosts: server.WrongKnownHosts()}, source.HostKeyMismatch},
		{
			"revoked host key",
			source.Auth{SSHKey: server.Identity(""), KnownHosts: append([]byte("@revoked "), server.KnownHosts()...)},
			source.HostKeyMismatch,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sessions := server.Sessions()
			s, err := open(t, source.Options{URL: url, Auth: tt.auth}).Sync(t.Context())
			if tt.want != "" {
				wantReason(t, err, tt.want, url)
				if server.Sessions() != sessions {
					t.Error("the server was used all the same")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, s.Tree, "f"); got != "1" {
				t.Errorf("file %q", got)
			}
		})
	}
}

func TestSSHForcePushOfAnUnrelatedHistory(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	ssh := gittest.NewSSH(t)
	m := open(t, source.Options{URL: ssh.URL(repo), Auth: source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}})
	mustSync(t, m)
	repo.ForcePush(map[string]string{"f": "2"}, "unrelated")
	repo.Git("reflog", "expire", "--expire=now", "--all")
	repo.Git("gc", "--quiet", "--prune=now") // the server has never heard of what we have
	if got := read(t, mustSync(t, m).Tree, "f"); got != "2" {
		t.Errorf("file %q", got)
	}
}

// TestRedirectKeepsCredentials sends the mirror to another host and expects the
// credentials not to follow.
func TestRedirectKeepsCredentials(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	elsewhere := repo.HTTP()
	for name, auth := range map[string]source.Auth{
		"basic":  {Username: "robot", Password: "hunter2"},
		"bearer": {BearerToken: "hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			var authorized bool
			redirecting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				authorized = r.Header.Get("Authorization") != ""
				path := strings.TrimPrefix(r.URL.Path, "/repo")
				http.Redirect(w, r, elsewhere.URL(repo)+path+"?"+r.URL.RawQuery, http.StatusFound)
			}))
			defer redirecting.Close()
			m := open(t, source.Options{URL: redirecting.URL + "/repo", Auth: auth})
			if got := read(t, mustSync(t, m).Tree, "f"); got != "1" {
				t.Errorf("file %q", got)
			}
			if !authorized {
				t.Error("the first host got no credentials; the test shows nothing")
			}
			for _, h := range elsewhere.Headers() {
				if h.Get("Authorization") != "" {
					t.Fatal("the credentials followed a redirect to another host")
				}
			}
		})
	}
}

func TestServerThatIsNoGitServer(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"login page": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>Sign in</html>")) },
		"nothing":    func(http.ResponseWriter, *http.Request) {},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(handler)
			defer server.Close()
			_, err := open(t, source.Options{URL: server.URL + "/repo.git"}).Sync(t.Context())
			wantReason(t, err, source.ServerUnavailable, server.URL)
		})
	}
}
