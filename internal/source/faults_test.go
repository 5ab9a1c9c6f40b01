package source_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
)

const (
	// short is a timeout for servers that never answer.
	short = 50 * time.Millisecond
	// ample is one for servers that answer an ls-remote, however busy the machine
	// is, and then never again.
	ample = 3 * time.Second
)

func TestServerFaults(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	stall, drip := (*gittest.HTTPServer).Stall, func(after int64) func(*gittest.HTTPServer) gittest.Fault {
		return func(s *gittest.HTTPServer) gittest.Fault { return s.Drip(after) }
	}
	plain := func(f gittest.Fault) func(*gittest.HTTPServer) gittest.Fault {
		return func(*gittest.HTTPServer) gittest.Fault { return f }
	}
	tests := []struct {
		name    string
		request gittest.Request
		fault   func(*gittest.HTTPServer) gittest.Fault
		timeout time.Duration
		want    source.Reason
		words   []string
	}{
		{"ls-remote stalls", gittest.InfoRefs, stall, short, source.Timeout, []string{"listing references"}},
		{"fetch stalls", gittest.UploadPack, stall, ample, source.Timeout, []string{"fetching", "3s"}},
		{"ls-remote stops halfway", gittest.InfoRefs, drip(40), short, source.Timeout, nil},
		{"pack stops halfway", gittest.UploadPack, drip(60), ample, source.Timeout, []string{"fetching"}},
		{"ls-remote breaks off", gittest.InfoRefs, plain(gittest.Cut(40)), 0, source.ServerUnavailable, nil},
		{"pack breaks off", gittest.UploadPack, plain(gittest.Cut(60)), 0, source.ServerUnavailable, nil},
		{"pack breaks off at once", gittest.UploadPack, plain(gittest.Cut(0)), 0, source.ServerUnavailable, nil},
		{"ls-remote 500", gittest.InfoRefs, plain(gittest.Status(http.StatusInternalServerError)), 0, source.ServerUnavailable, []string{"500"}},
		{"fetch 503", gittest.UploadPack, plain(gittest.Status(http.StatusServiceUnavailable)), 0, source.ServerUnavailable, []string{"503"}},
		{"forbidden", gittest.InfoRefs, plain(gittest.Status(http.StatusForbidden)), 0, source.AuthenticationFailed, nil},
		{"gone", gittest.InfoRefs, plain(gittest.Status(http.StatusNotFound)), 0, source.RepositoryNotFound, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := gittest.NewHTTP(t, gittest.HTTPOptions{})
			m := open(t, source.Options{URL: server.URL(repo), Timeout: tt.timeout})
			server.SetFault(tt.request, tt.fault(server))
			_, err := m.Sync(t.Context())
			wantReason(t, err, tt.want, append(tt.words, server.Base())...)
		})
	}
}

// TestFaultKeepsTheLastState lets the second Sync fail and checks that nothing of
// the first is lost and that the third works without a rebuild.
func TestFaultKeepsTheLastState(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	server := repo.HTTP()
	m := open(t, source.Options{URL: repo.URL()})
	good := mustSync(t, m)
	repo.Commit(map[string]string{"f": "2"}, "second")
	for name, fault := range map[string]gittest.Fault{
		"cut in the answer": gittest.Cut(10), "cut in the pack": gittest.Cut(100), "500": gittest.Status(500),
	} {
		server.SetFault(gittest.UploadPack, fault)
		if _, err := m.Sync(t.Context()); source.ReasonOf(err) != source.ServerUnavailable {
			t.Fatalf("%s: %v", name, err)
		}
		if got := read(t, good.Tree, "f"); got != "1" {
			t.Errorf("%s: last good snapshot reads %q", name, got)
		}
	}
	server.SetFault(gittest.UploadPack, nil)
	if got := read(t, mustSync(t, m).Tree, "f"); got != "2" {
		t.Errorf("file %q", got)
	}
	if m.Stats().Rebuilds != 0 {
		t.Error("the mirror was rebuilt for a fault of the network")
	}
}

func TestServerGone(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	httpServer, sshServer := gittest.NewHTTP(t, gittest.HTTPOptions{}), gittest.NewSSH(t)
	for transport, tt := range map[string]struct {
		opts source.Options
		stop func()
	}{
		"http": {source.Options{URL: httpServer.URL(repo)}, httpServer.Stop},
		"ssh": {source.Options{
			URL: sshServer.URL(repo), Auth: source.Auth{SSHKey: sshServer.Identity(""), KnownHosts: sshServer.KnownHosts()},
		}, sshServer.Stop},
	} {
		t.Run(transport, func(t *testing.T) {
			m := open(t, tt.opts)
			s := mustSync(t, m)
			tt.stop()
			_, err := m.Sync(t.Context())
			wantReason(t, err, source.ServerUnavailable, tt.opts.URL)
			if got := read(t, s.Tree, "f"); got != "1" {
				t.Errorf("last good snapshot reads %q", got)
			}
		})
	}
}

func TestSilentSSHServer(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	ssh := gittest.NewSSH(t)
	opts := source.Options{URL: ssh.URL(repo), Auth: source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}, Timeout: short}
	ssh.Silence(true)
	_, err := open(t, opts).Sync(t.Context())
	wantReason(t, err, source.Timeout, opts.URL)
}

func TestCancelledCallerReturnsAndOthersGoOn(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	server := repo.HTTP()
	m := open(t, source.Options{URL: repo.URL()})
	hold, entered, release := server.Hold()
	server.SetFault(gittest.InfoRefs, hold)

	ctx, cancel := context.WithCancel(t.Context())
	impatient := make(chan error, 1)
	go func() {
		_, err := m.Sync(ctx)
		impatient <- err
	}()
	<-entered
	cancel()
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Sync: %v", err)
	}
	release()
	server.SetFault(gittest.InfoRefs, nil)
	mustSync(t, m)
}

func TestCloseEndsARunningSync(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	ssh := gittest.NewSSH(t)
	ssh.Silence(true)
	server := repo.HTTP()
	server.SetFault(gittest.UploadPack, server.Stall())
	hold, entered, _ := server.Hold()
	server.SetFault(gittest.InfoRefs, hold)
	for transport, opts := range map[string]source.Options{
		"http": {URL: repo.URL()},
		"ssh":  {URL: ssh.URL(repo), Auth: source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}},
	} {
		t.Run(transport, func(t *testing.T) {
			m := open(t, opts)
			result := make(chan error, 1)
			go func() {
				_, err := m.Sync(t.Context())
				result <- err
			}()
			if transport == "http" {
				<-entered
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			if err := <-result; err == nil || source.ReasonOf(err) != "" {
				t.Errorf("Sync on a closed mirror: %v", err)
			}
			if _, err := m.Sync(t.Context()); err == nil {
				t.Error("Sync after Close succeeded")
			}
		})
	}
}
