package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// The demo with a Gitea, from its start to Ctrl-C: it shows what it promises, and leaves nothing behind.
func TestGitea(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	capstan := filepath.Join(t.TempDir(), "capstan")
	if out, err := exec.Command("go", "-C", root, "build", "-buildvcs=false", "-o", capstan, "./cmd/agent").CombinedOutput(); err != nil {
		t.Fatalf("build capstan: %v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The first page of the status follows the explanation.
	screen := &screen{until: "\nFLEET ", reached: cancel}
	if err := run(ctx, options{root: root, capstan: capstan, gitea: true, fast: true, out: screen}); err != nil {
		t.Errorf("the demo ended with %v", err)
	}
	text := screen.String()
	for _, want := range []string{
		`success  capstan/demo                   4 overlays converged`,
		`success  capstan/demo/clusters/staging  converged`,
		`success  capstan/demo/plan              1 overlay: 0 to create, 1 to update, 0 to delete`,
		"-   spec.replicas: 2\n    +   spec.replicas: 4",
		"/demo/fleet/pulls/1\n      the pull request",
		"/fleets/capstan-system/demo\n      the agent's status page\n\nIn a second terminal:\n\n  export KUBECONFIG=",
		`git commit -qam "prod: Kubernetes 1.35" && git push -q`,
		"clusters/staging",
		"==> stopping",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it did not show %q", want)
		}
	}
	dir := regexp.MustCompile(`==> stopped; removing (\S+)`).FindStringSubmatch(text)
	if dir == nil {
		t.Error("it did not say what it removes")
	} else if _, err := os.Stat(dir[1]); !os.IsNotExist(err) {
		t.Errorf("%s is left behind (%v)", dir[1], err)
	}
	if t.Failed() {
		t.Logf("it showed:\n%s", text)
	}
}

// screen is what the demo shows. It calls reached when it shows a certain text.
type screen struct {
	until   string
	reached func()

	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.text.Write(text)
	if bytes.Contains(s.text.Bytes(), []byte(s.until)) {
		s.reached()
	}
	return n, err
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
