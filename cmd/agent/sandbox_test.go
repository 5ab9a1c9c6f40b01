package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/sandbox"
	"capstan.dev/capstan/internal/tree"
)

// TestSandbox: the binary, as it is shipped, renders for another process what it
// renders for people, and survives what needs too much memory.
func TestSandbox(t *testing.T) {
	t.Parallel()
	p, err := sandbox.Start(t.Context(), sandbox.Options{Command: []string{binary, sandboxCommand}, MemoryBytes: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	tr := tree.FromDir("../..")
	sample := func() {
		in := render.Input{Tree: tr, Path: "clusters/dev"}
		want, err := render.Render(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Render(t.Context(), in)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(render.Closure{})); err != nil || diff != "" {
			t.Errorf("%v (-render +sandbox):\n%s", err, diff)
		}
	}
	sample()
	// Two values that are appended to each other again and again.
	var b strings.Builder
	b.WriteString("configMapGenerator: [{name: a, literals: [a=some-text, b=other-text]}]\nreplacements:\n")
	for i := range 60 {
		fmt.Fprintf(&b, "- source: {kind: ConfigMap, fieldPath: data.%c}\n  targets: [{select: {kind: ConfigMap}, fieldPaths: [data.%c], options: {delimiter: /, index: 9999999}}]\n", 'a'+i%2, 'b'-i%2)
	}
	grows := tree.FromMap(map[string]string{"a/kustomization.yaml": b.String()})
	if _, err := p.Render(t.Context(), render.Input{Tree: grows, Path: "a"}); !errors.Is(err, sandbox.ErrKilled) || !strings.Contains(err.Error(), "needs more than 256 MiB") {
		t.Error(err)
	}
	sample()
}

// TestSandboxIsForTheAgent: people who find it are told what it is.
func TestSandboxIsForTheAgent(t *testing.T) {
	t.Parallel()
	device, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	for _, test := range []struct {
		args []string
		in   *os.File
		want string
	}{
		{[]string{"sandbox"}, device, "capstan: sandbox speaks to the agent, and not to a terminal; use capstan render\n"},
		{[]string{"sandbox", "--help"}, device, "There is nothing in it for people"},
		{[]string{"sandbox", "clusters/dev"}, device, `unknown command "clusters/dev"`},
	} {
		c := exec.Command(binary, test.args...)
		c.Stdin = test.in
		out, _ := c.CombinedOutput()
		if !bytes.Contains(out, []byte(test.want)) {
			t.Errorf("capstan %s: got %q, want %q", strings.Join(test.args, " "), out, test.want)
		}
	}
	if out, err := exec.Command(binary, "--help").Output(); err != nil || bytes.Contains(out, []byte("sandbox")) {
		t.Errorf("it is not hidden (%v):\n%s", err, out)
	}
}
