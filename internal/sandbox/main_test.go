package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"capstan.dev/capstan/internal/tree"
)

// program is the child as the agent has it, built once.
var program string

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "fake" {
		os.Exit(fake(os.Args[2:]))
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sandbox-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "child")
	build := exec.Command("go", "build", "-o", program, "./testdata/child")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the child: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// start starts a Process and ends it with the test.
func start(t testing.TB, o Options) *Process {
	t.Helper()
	if o.Command == nil {
		o.Command = []string{program}
	}
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// patience bounds every wait; only failures take as long.
const patience = 3 * time.Minute

const oneConfigMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"

// plainFiles is a repository of one overlay with one object.
func plainFiles() map[string]string {
	return map[string]string{
		"clusters/a/kustomization.yaml": "resources: [a.yaml]\n",
		"clusters/a/a.yaml":             fmt.Sprintf(oneConfigMap, "a"),
	}
}

var plain = tree.FromMap(plainFiles())
