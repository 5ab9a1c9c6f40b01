package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/testenv"
)

// patience bounds every wait; only failures take as long.
const patience = 90 * time.Second

var (
	env *testenv.Env
	// binary is the agent as it is shipped, built once.
	binary    string
	processes *killer
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	ctrl.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "capstan-cmd-")
	if err == nil {
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "capstan")
		processes, err = newKiller()
	}
	if err == nil {
		var out []byte
		if out, err = exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			err = fmt.Errorf("build the binary: %w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer processes.end()
	return testenv.Run(m, &env)
}

// killer ends the agents when the test binary is gone without having done so: a
// timeout of go test runs no cleanup. It is a shell that waits for the end of a
// pipe.
type killer struct {
	mu    sync.Mutex
	stdin io.WriteCloser
	cmd   *exec.Cmd
}

func newKiller() (*killer, error) {
	cmd := exec.Command("/bin/sh", "-c", `all=
while read -r sign pid; do
	if [ "$sign" = + ]; then all="$all $pid "; else all=$(echo "$all" | sed "s/ $pid / /"); fi
done
for pid in $all; do kill -KILL "$pid"; done 2>/dev/null`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &killer{stdin: stdin, cmd: cmd}, cmd.Start()
}

func (k *killer) note(sign string, pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, _ = fmt.Fprintln(k.stdin, sign, pid)
}

func (k *killer) end() {
	_ = k.stdin.Close()
	_ = k.cmd.Wait()
}

// world is what a test works in: a namespace with a Fleet "home", its Git
// repository, and agents of a user of their own. What overlays render lives in
// namespaces whose names begin with the world's, written NS.
type world struct {
	*testing.T
	g          *gomega.WithT
	ns         string
	user       string
	kubeconfig string
	repo       *gittest.Repo
	cache      string
	requests   int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := &world{T: t, g: gomega.NewWithT(t), ns: env.Namespace(t), repo: gittest.NewRepo(t), cache: t.TempDir()}
	w.user = "agent-of-" + w.ns
	w.kubeconfig = env.Kubeconfig(t, w.user)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits until f returns "".
func (w *world) eventually(what string, f func() string) {
	w.Helper()
	w.g.Eventually(f, patience, 30*time.Millisecond).Should(gomega.BeEmpty(), what)
}

// result is what a command line came to.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\n%s\n%s", r.code, r.out, r.err)
}

// run runs a command line in this process, as the world's user in its namespace.
func (w *world) run(stdin string, args ...string) result {
	w.Helper()
	var out, errOut bytes.Buffer
	args = append(slices.Clone(args), "--kubeconfig", w.kubeconfig, "--namespace", w.ns)
	code := execute(w.Context(), strings.NewReader(stdin), &out, &errOut, args)
	return result{out.String(), errOut.String(), code}
}

// process is an agent in a process of its own.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the process has ended
	err  error         // of Wait, when done

	mu   sync.Mutex
	logs bytes.Buffer
}

func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logs.Write(text)
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logs.String()
}

// agent starts the binary. It serves no HTTP and elects no leader unless flags say
// so.
func (w *world) agent(flags ...string) *process {
	w.Helper()
	p := &process{done: make(chan struct{})}
	p.cmd = exec.Command(binary, append([]string{
		"run", "--kubeconfig", w.kubeconfig, "--namespace", w.ns, "--watch-namespace", w.ns, "--cache-dir", w.cache,
		"--leader-elect=false", "--metrics-address=0", "--health-address=0", "--webhook-address=0", "--log-level=debug",
	}, flags...)...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	w.must(p.cmd.Start())
	pid := p.cmd.Process.Pid
	processes.note("+", pid)
	go func() {
		p.err = p.cmd.Wait()
		processes.note("-", pid)
		close(p.done)
	}()
	w.Cleanup(func() {
		p.kill()
		if w.Failed() {
			w.Logf("agent %d:\n%s", pid, p.log())
		}
	})
	return p
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// stop ends an agent as Kubernetes does, and wants it to end well.
func (w *world) stop(p *process) {
	w.Helper()
	w.must(p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
	case <-time.After(patience):
		w.Fatalf("the agent doesn't end after SIGTERM")
	}
	if p.err != nil {
		w.Fatalf("the agent ended with %v after SIGTERM", p.err)
	}
}

// fleet creates the Fleet, which looks at Git on request only.
func (w *world) fleet(name string, change ...func(*v1alpha1.Fleet)) {
	w.Helper()
	f := &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec:       v1alpha1.FleetSpec{Git: v1alpha1.GitSpec{URL: w.repo.URL(), Interval: metav1.Duration{Duration: time.Hour}}},
	}
	for _, c := range change {
		c(f)
	}
	w.must(env.Client().Create(w.Context(), f))
}

// look has the agent look at Git and waits until it has.
func (w *world) look() {
	w.Helper()
	w.requests++
	value := fmt.Sprint("request-", w.requests)
	f := &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "home"}}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.RequestedAtAnnotation, value)
	w.must(env.Client().Patch(w.Context(), f, client.RawPatch(types.MergePatchType, []byte(patch))))
	w.eventually("the Fleet handles the request", func() string {
		w.must(env.Client().Get(w.Context(), client.ObjectKeyFromObject(f), f))
		if f.Status.LastHandledRequest != value {
			return fmt.Sprintf("handled %q, want %q", f.Status.LastHandledRequest, value)
		}
		return ""
	})
}

// commit replaces the whole content of the repository.
func (w *world) commit(files map[string]string) string {
	w.Helper()
	replaced := map[string]string{}
	for path, content := range files {
		replaced[path] = strings.ReplaceAll(content, "NS", w.ns)
	}
	if w.repo.Head() != "" {
		var gone []string
		for path := range strings.FieldsSeq(w.repo.Git("ls-tree", "-r", "--name-only", gittest.DefaultBranch)) {
			if _, kept := replaced[path]; !kept {
				gone = append(gone, path)
			}
		}
		if len(gone) > 0 {
			w.repo.Remove("remove", gone...)
		}
	}
	return w.repo.Commit(replaced, "change")
}

// find returns the overlay of a path, nil if there is none.
func (w *world) find(path string) *v1alpha1.ClusterOverlay {
	w.Helper()
	var o v1alpha1.ClusterOverlay
	err := env.Client().Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: planner.OverlayName("home", path)}, &o)
	if apierrors.IsNotFound(err) {
		return nil
	}
	w.must(err)
	return &o
}

// until waits until an overlay is as wanted and returns it.
func (w *world) until(path, what string, is func(*v1alpha1.ClusterOverlay) bool) *v1alpha1.ClusterOverlay {
	w.Helper()
	var found *v1alpha1.ClusterOverlay
	w.eventually(path+": "+what, func() string {
		if found = w.find(path); found == nil {
			return "no ClusterOverlay for " + path
		}
		if !is(found) {
			content, err := yaml.Marshal(found.Status)
			w.must(err)
			return string(content)
		}
		return ""
	})
	return found
}

// untilApplied waits until an overlay has applied a commit.
func (w *world) untilApplied(path, commit string) *v1alpha1.ClusterOverlay {
	w.Helper()
	return w.until(path, "applied "+commit, func(o *v1alpha1.ClusterOverlay) bool {
		return o.Status.AppliedRevision == "main@sha1:"+commit && isApplied(o)
	})
}

// isApplied tells whether the API server has accepted all that the overlay wants.
func isApplied(o *v1alpha1.ClusterOverlay) bool {
	return o.Status.AppliedRevision == o.Status.DesiredRevision && meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.AppliedCondition)
}

// untilPending waits until an overlay's deletion waits for approval.
func (w *world) untilPending(path string) *v1alpha1.ClusterOverlay {
	w.Helper()
	return w.until(path, "waits for approval", func(o *v1alpha1.ClusterOverlay) bool {
		return o.Status.PendingDeletion != nil && !o.Status.PendingDeletion.Approved
	})
}

// live reads an object; nil if there is none.
func (w *world) live(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
	w.Helper()
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	err := env.Client().Get(w.Context(), client.ObjectKey{Namespace: namespace, Name: name}, u)
	if apierrors.IsNotFound(err) {
		return nil
	}
	w.must(err)
	return u
}

// decode reads the objects of a YAML stream.
func (w *world) decode(text string) []*unstructured.Unstructured {
	w.Helper()
	var all []*unstructured.Unstructured
	for doc := range strings.SplitSeq(text, "\n---\n") {
		u := &unstructured.Unstructured{}
		w.must(yaml.Unmarshal([]byte(doc), &u.Object))
		all = append(all, u)
	}
	return all
}

// readTree reads a folder, without .git.
func (w *world) readTree(root string) map[string]string {
	w.Helper()
	files := map[string]string{}
	w.must(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return filepath.SkipDir
		case d.IsDir():
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		files[filepath.ToSlash(rel)] = string(content)
		return err
	}))
	return files
}

// overlayOf are the files of an overlay that renders these objects.
func overlayOf(path string, objects ...string) map[string]string {
	return map[string]string{
		path + "/kustomization.yaml": "resources: [all.yaml]\n",
		path + "/all.yaml":           strings.Join(objects, "\n---\n") + "\n",
	}
}

func merge(files ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, f := range files {
		maps.Copy(all, f)
	}
	return all
}
