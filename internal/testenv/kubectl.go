package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Kubectl is a real kubectl in the hands of a user.
type Kubectl struct {
	path, kubeconfig, home string
}

// Kubectl returns the kubectl of KUBEBUILDER_ASSETS or bin/ for a user who may do
// everything.
func (e *Env) Kubectl(t testing.TB, user string) *Kubectl {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "bin", "kubectl")
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "kubectl")); err == nil {
			path = filepath.Join(dir, "kubectl")
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("testenv: no kubectl: run `make assets` (%v)", err)
	}
	return &Kubectl{path: path, kubeconfig: e.Kubeconfig(t, user), home: t.TempDir()}
}

// Run runs kubectl with a text on its standard input and returns what it prints.
func (k *Kubectl) Run(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	return k.run(t, stdin, "", args)
}

// Edit runs kubectl edit with a sed script in the place of a person.
func (k *Kubectl) Edit(t testing.TB, script string, args ...string) string {
	t.Helper()
	return k.run(t, "", "sed -i "+script, append([]string{"edit"}, args...))
}

func (k *Kubectl) run(t testing.TB, stdin, editor string, args []string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), k.path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.kubeconfig, "HOME="+k.home, "KUBE_EDITOR="+editor)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
