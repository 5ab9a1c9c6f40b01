package dev

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/install"
)

// The product on the real controllers: a push makes a cluster, a push rolls its machines, a directory removed
// and an approval take it away, with everything in the right order.
func TestPush(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "push")
	repository := e.repository("dev")
	e.createCredentials()
	e.installCapstan()
	e.startAgent()
	e.createFleet(map[string]any{"git": map[string]any{"url": repository, "interval": "1s"}})

	e.Eventually(func() string { return e.overlay() }).Should(gomega.Equal("Converged"), e.dump)
	e.Expect(counts(e.machines())).To(gomega.Equal(map[string]int{"cp v1.35.4": 1, "worker v1.35.4": 1}))

	edit(t, filepath.Join(repository, "clusters", "push", "cluster.yaml"), "v1.35.4", "v1.35.5")
	e.git(repository, "commit", "-qam", "push: v1.35.5")
	e.Eventually(func() map[string]int { return counts(e.machines()) }).Should(gomega.Equal(map[string]int{"cp v1.35.5": 1, "worker v1.35.5": 1}))
	e.awaitAvailable()

	e.git(repository, "rm", "-rq", "clusters/push")
	e.git(repository, "commit", "-qm", "push: gone")
	e.Eventually(func() string { return e.overlay() }).Should(gomega.Equal("PendingDeletion"))
	e.Expect(e.machines()).To(gomega.HaveLen(2), "nothing goes before it is approved")
	e.capstan("approve", "--yes", "clusters/push")
	e.Eventually(func() string { return e.overlay() }).Should(gomega.Equal("gone"))
	e.Expect(e.left()).To(gomega.BeEmpty())
	e.Eventually(func() bool {
		return apierrors.IsNotFound(admin.Get(e.ctx, client.ObjectKey{Name: e.namespace}, &corev1.Namespace{}))
	}).Should(gomega.BeTrue(), "its Namespace was in the overlay, too")
	e.Expect(e.vms()).To(gomega.Equal(0))
}

// repository commits the base of the sample fleet and one overlay, under this test's name.
func (e *env) repository(overlay string) string {
	e.Helper()
	dir := filepath.Join(e.TempDir(), "fleet")
	for from, to := range map[string]string{"base": "base", overlay: e.name} {
		if err := os.CopyFS(filepath.Join(dir, "clusters", to), os.DirFS(filepath.Join("..", "clusters", from))); err != nil {
			e.Fatal(err)
		}
	}
	err := filepath.WalkDir(filepath.Join(dir, "clusters", e.name), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			edit(e.T, path, overlay+"-", e.name+"-")
		}
		return err
	})
	if err != nil {
		e.Fatal(err)
	}
	e.git(dir, "init", "-q", "-b", "main")
	e.git(dir, "add", ".")
	e.git(dir, "commit", "-qm", "One cluster")
	return dir
}

func edit(t *testing.T, path, from, to string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, bytes.ReplaceAll(content, []byte(from), []byte(to)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (e *env) git(dir string, args ...string) {
	e.Helper()
	cmd := exec.Command("git", append([]string{
		"-C", dir, "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false",
	}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		e.Fatalf("git %s: %v: %s", args[0], err, out)
	}
}

func (e *env) installCapstan() {
	e.Helper()
	definitions, err := install.ReadCRDs(filepath.Join("..", "charts", "capstan", "files", "crds"))
	if err != nil {
		e.Fatal(err)
	}
	if err := install.CRDs(e.ctx, admin, definitions); err != nil {
		e.Fatal(err)
	}
}

// startAgent runs the agent for this test's namespace until the test ends.
func (e *env) startAgent(flags ...string) {
	e.Helper()
	var log bytes.Buffer
	cmd := exec.Command(capstan, append([]string{
		"run", "--kubeconfig", e.kubeconfig, "--watch-namespace", e.name + "-system", "-n", e.name + "-system",
		"--allow-local", "--leader-elect=false", "--cache-dir", e.TempDir(), "--metrics-address", "0", "--health-address", "0", "--webhook-address", "0",
	}, flags...)...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if e.Failed() || err != nil {
			e.Errorf("the agent ended with %v and said:\n%s", err, log.String())
		}
	})
}

// createFleet creates the Fleet of the one overlay, with what it needs in its namespace.
func (e *env) createFleet(spec map[string]any, needs ...client.Object) {
	e.Helper()
	spec["overlays"] = map[string]any{"exclude": []any{"clusters/base"}}
	fleet := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "capstan.dev/v1alpha1", "kind": "Fleet",
		"metadata": map[string]any{"name": "fleet", "namespace": e.name + "-system"},
		"spec":     spec,
	}}
	namespace := &corev1.Namespace{}
	namespace.Name = e.name + "-system"
	for _, o := range slices.Concat([]client.Object{namespace}, needs, []client.Object{fleet}) {
		if err := admin.Create(e.ctx, o); err != nil {
			e.Fatal(err)
		}
	}
}

// capstan runs a command of the product against the management cluster.
func (e *env) capstan(args ...string) []byte {
	e.Helper()
	out, err := exec.Command(capstan, append(args, "--kubeconfig", e.kubeconfig, "-n", e.name+"-system")...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		e.Fatalf("capstan %s: %v", args[0], err)
	}
	return out
}

// overlay is the state that `capstan status` shows of the test's overlay, with its message if there is more to
// say; "gone" if there is none.
func (e *env) overlay() string {
	e.Helper()
	var status struct {
		Overlays []struct{ Path, State, Message string }
	}
	if err := json.Unmarshal(e.capstan("status", "-o", "json"), &status); err != nil {
		e.Fatal(err)
	}
	for _, o := range status.Overlays {
		if strings.HasSuffix(o.Path, "/"+e.name) {
			return o.State
		}
	}
	return "gone"
}
