package giteatest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// shared is the server of this process.
var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// ForTest returns a server that all tests of a package share, started on first
// use, with fast queues. It ends with the test binary, and its files go with it.
func ForTest(t testing.TB) *Server {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = startShared() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

func startShared() (*Server, error) {
	opts, err := Locate()
	if err != nil {
		return nil, err
	}
	if opts.Dir, err = os.MkdirTemp("", "capstan-giteatest-"); err != nil {
		return nil, fmt.Errorf("giteatest: %w", err)
	}
	opts.FastQueues = true
	s, err := start(context.Background(), opts, true)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(opts.Dir))
	}
	return s, nil
}

// NewForTest starts a server for one test, which may stop it and start another
// with the same Dir. Binary, StaticRoot and Dir are filled in if empty.
func NewForTest(t testing.TB, opts Options) *Server {
	t.Helper()
	located, err := Locate()
	if err != nil {
		t.Fatal(err)
	}
	opts.Binary, opts.StaticRoot = located.Binary, located.StaticRoot
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	s, err := Start(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the log of Gitea ends with:\n%s", tail(s.LogFile()))
		}
	})
	return s
}

// users counts them for all servers: one that was started again has those of the last.
var users atomic.Int64

// User is who signs in to a server.
type User struct{ Name, Password string }

// NewUser makes a user whom no other test has.
func (s *Server) NewUser(t testing.TB) User {
	t.Helper()
	u := User{Name: fmt.Sprintf("user-%d", users.Add(1)), Password: secret()}
	if err := s.CreateUser(t.Context(), u.Name, u.Password); err != nil {
		t.Fatal(err)
	}
	return u
}

// Locate returns options with Binary, which `make gitea` builds, and StaticRoot,
// the folder of the module that it was built from. The working directory must be
// in the repository.
func Locate() (Options, error) {
	root, err := os.Getwd()
	if err != nil {
		return Options{}, fmt.Errorf("giteatest: %w", err)
	}
	tools := filepath.Join("tools", "gitea")
	for ; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, tools, "go.mod")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			return Options{}, errors.New("giteatest: not inside Capstan's repository: no tools/gitea/go.mod at or above the working directory")
		}
	}
	opts := Options{Binary: filepath.Join(root, "bin", "gitea")}
	if _, err := os.Stat(opts.Binary); err != nil {
		return Options{}, fmt.Errorf("giteatest: no Gitea in bin/: run `make gitea` (%w)", err)
	}
	// Without -json it would not say where; what is in the cache is not downloaded again.
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = filepath.Join(root, tools)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return Options{}, fmt.Errorf("giteatest: go mod download %s in %s: %w\n%s%s", module, tools, err, out, stderr.String())
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		return Options{}, fmt.Errorf("giteatest: go mod download %s: %w", module, err)
	}
	opts.StaticRoot = downloaded.Dir
	return opts, nil
}

const module = "code.gitea.io/gitea"
