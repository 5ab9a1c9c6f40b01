package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/host"
)

// binary is the program, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "devcluster-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "devcluster")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// A cli runs commands on one folder.
type cli struct {
	*testing.T
	dir string
	// path of the folder with bin/ that the program runs in.
	root string
	env  []string
}

func newCLI(t *testing.T) *cli {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	c := &cli{T: t, dir: filepath.Join(t.TempDir(), "state"), root: root, env: os.Environ()}
	t.Cleanup(func() {
		if pid, running, err := host.User(c.dir); err != nil {
			t.Error(err)
		} else if running && pid > 0 {
			t.Errorf("process %d still runs at the end of the test", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return c
}

func (c *cli) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append(args, "--dir", c.dir)...)
	cmd.Dir, cmd.Env = c.root, c.env
	return cmd
}

// run runs a command and expects its exit code and parts of what it prints.
func (c *cli) run(wantCode int, args []string, want ...string) string {
	c.Helper()
	out, err := c.command(args...).CombinedOutput()
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		c.Fatal(err)
	}
	if code != wantCode {
		c.Fatalf("devcluster %s: exit code %d, not %d:\n%s", strings.Join(args, " "), code, wantCode, out)
	}
	for _, text := range want {
		if !strings.Contains(string(out), text) {
			c.Errorf("devcluster %s: no %q in:\n%s", strings.Join(args, " "), text, out)
		}
	}
	return string(out)
}

// status returns what status says, which ends with that exit code.
func (c *cli) status(wantCode int) (r report) {
	c.Helper()
	out := c.run(wantCode, []string{"status", "-o", "json"})
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		c.Fatalf("status -o json: %v:\n%s", err, out)
	}
	return r
}

func args(words string) []string { return strings.Fields(words) }

func TestBadArguments(t *testing.T) {
	for line, want := range map[string]string{
		"up --chaos no-such-knob":                  "never-boots, node-unhealthy, api-delay and webhook-down",
		"up --chaos api-delay=soon":                "--chaos api-delay",
		"up --chaos none --chaos webhook-down":     "--chaos none does not go with other knobs",
		"up --port 70000":                          "--port 70000",
		"up --port -1":                             "--port -1",
		"up --machine-boot -1s":                    "--machine-boot -1s",
		"up --machine-boot fast":                   "machine-boot",
		"up --timeout 0s":                          "--timeout 0s",
		"up now":                                   "now",
		"up --provider-crds /no/such/folder":       "/no/such/folder",
		"down now":                                 "now",
		"status -o yaml":                           "there is only json",
		"upp":                                      "unknown command",
		"serve --chaos never-boots=without-a-mark": "<namespace>/<machine>",
	} {
		t.Run(line, func(t *testing.T) {
			c := newCLI(t)
			c.run(1, args(line), want)
		})
	}
	t.Run("no folder", func(t *testing.T) {
		out, err := exec.Command(binary, "status", "--dir", "").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--dir is empty") {
			t.Errorf("got %v:\n%s", err, out)
		}
	})
}

// TestLife follows one management cluster from its first start to its end.
func TestLife(t *testing.T) {
	c := newCLI(t)
	if r := c.status(1); r.State != "stopped" {
		t.Errorf("state %q before the first start", r.State)
	}
	c.run(0, args("down"), "not running")
	kubeconfig := filepath.Join(c.dir, "kubeconfig")
	c.run(0, args("up --machine-boot 0s --chaos never-boots=a/b"), "etcd", "kube-apiserver", "devcluster is up at https://127.0.0.1:",
		"export KUBECONFIG="+kubeconfig, "chaos: never-boots=a/b:1")
	first := c.status(0)
	if first.State != "running" || first.ClustersError != "" || first.Kubeconfig != kubeconfig || first.Versions.ClusterAPI == "" || first.MachineBoot != "0s" {
		t.Errorf("status: %+v", first)
	}
	if _, err := os.Stat("/proc/self/status"); err == nil && len(first.Memory) != 4 {
		t.Errorf("memory of %d processes, not 4: %+v", len(first.Memory), first.Memory)
	}
	c.run(0, args("status"), "running", first.API, kubeconfig, "never-boots=a/b:1", "There are no Clusters.")

	c.run(0, args("up"), "running already", "export KUBECONFIG="+kubeconfig)
	if r := c.status(0); r.Chaos != "never-boots=a/b:1" || r.PID != first.PID {
		t.Errorf("up on a running one changed it: %+v", r)
	}
	c.run(1, args("up --machine-boot 9s"), `--machine-boot "0s"`, "devcluster down")
	c.run(1, args("up --port 1"), "--port", "devcluster down")
	c.run(1, args("up --foreground"), "in use by process "+strconv.Itoa(first.PID))
	// One that has not seen the other in time, either: it leaves the other's record alone.
	for _, line := range []string{"serve", "serve --provider-crds /no/such/folder"} {
		c.run(1, args(line), "in use by process "+strconv.Itoa(first.PID))
		if r := c.status(0); r.PID != first.PID || r.State != "running" {
			t.Errorf("after %s: %+v", line, r)
		}
	}
	c.run(0, args("up --chaos api-delay=2ms --chaos webhook-down"), "api-delay=2ms webhook-down")
	if r := c.status(0); r.Chaos != "api-delay=2ms webhook-down" {
		t.Errorf("chaos %q", r.Chaos)
	}
	c.run(0, args("up --chaos none"), "chaos is now: none")
	if r := c.status(0); r.Chaos != "none" {
		t.Errorf("chaos %q", r.Chaos)
	}
	c.run(1, args("down --wipe extra"))

	// A crash takes the children with it and is told.
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, p := range first.Memory {
		awaitGone(t, p)
	}
	if r := c.status(1); r.State != "failed" || !strings.Contains(r.Error, "killed") {
		t.Errorf("after a crash: %+v", r)
	}
	c.run(0, args("down"), "not running")

	c.run(0, args("up"), "devcluster is up at "+first.API)
	second := c.status(0)
	if second.MachineBoot != "2s" || second.Chaos != "none" {
		t.Errorf("the second start has settings of the first: %+v", second)
	}
	// A part that breaks ends everything and is told.
	for _, p := range second.Memory {
		if p.Name == "etcd" {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, p := range second.Memory {
		awaitGone(t, p)
	}
	if r := c.status(1); r.State != "failed" || !strings.Contains(r.Error, "etcd ended unexpectedly") {
		t.Errorf("after the end of etcd: %+v", r)
	}

	c.run(0, args("up"), "devcluster is up at "+first.API)
	third := c.status(0)
	c.run(0, args("down"), "stopped")
	for _, p := range third.Memory {
		awaitGone(t, p)
	}
	if r := c.status(1); r.State != "stopped" || r.Error != "" {
		t.Errorf("after down: %+v", r)
	}
	c.run(0, args("down --wipe"), "removed "+c.dir)
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("the folder is there after down --wipe: %v", err)
	}
}

// awaitGone waits until a process has ended.
func awaitGone(t *testing.T, p process) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); syscall.Kill(p.PID, 0) == nil; time.Sleep(20 * time.Millisecond) {
		if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID)); err == nil && bytes.Contains(state, []byte(") Z ")) {
			return // nobody fetches the orphans of this machine
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s (process %d) runs on", p.Name, p.PID)
		}
	}
}

// TestForeground checks that Ctrl-C ends one in the foreground, and the end of the terminal, and down do.
func TestForeground(t *testing.T) {
	// Under nohup the signal is ignored, and what is started here would ignore it too.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for name, end := range map[string]func(c *cli, cmd *exec.Cmd){
		"Ctrl-C":      func(c *cli, cmd *exec.Cmd) { c.signal(cmd, syscall.SIGINT) },
		"no terminal": func(c *cli, cmd *exec.Cmd) { c.signal(cmd, syscall.SIGHUP) },
		"no reader":   func(c *cli, cmd *exec.Cmd) { c.signal(cmd, syscall.SIGINT) },
		"down":        func(c *cli, _ *exec.Cmd) { c.run(0, args("down"), "stopped") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCLI(t)
			cmd := c.command("up", "--foreground")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if name == "no reader" {
				cmd.Stdout = closedPipe(t)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := wait(cmd)
			c.await(ended, "running")
			c.run(0, args("up"), "running already")
			end(c, cmd)
			if err := <-ended; err != nil {
				t.Errorf("%v:\n%s", err, out.String())
			}
			if name != "no reader" && !strings.Contains(out.String(), "export KUBECONFIG=") {
				t.Errorf("it printed:\n%s", out.String())
			}
			if r := c.status(1); r.State != "stopped" {
				t.Errorf("status: %+v", r)
			}
		})
	}
}

// closedPipe is the end to write to of a pipe that nobody reads.
func closedPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// TestInterruptedUp checks that Ctrl-C during up leaves nothing running.
func TestInterruptedUp(t *testing.T) {
	c := newCLI(t)
	cmd := c.command("up")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := wait(cmd)
	c.await(ended, "starting")
	c.signal(cmd, syscall.SIGINT)
	if err := <-ended; err == nil || !strings.Contains(out.String(), "interrupted") {
		t.Errorf("up ended with %v:\n%s", err, out.String())
	}
	if r := c.status(1); r.State != "stopped" {
		t.Errorf("status: %+v", r)
	}
}

// TestSameProcessID checks that a process is not taken for an earlier one that had its id, as in a container
// where every start has the same.
func TestSameProcessID(t *testing.T) {
	c := newCLI(t)
	if err := host.OpenDir(c.dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `echo "{\"pid\": $$, \"ready\": true}" >"$2/run.json" && exec "$1" up --foreground --dir "$2"`, "sh", binary, c.dir)
	cmd.Dir, cmd.Env = c.root, c.env
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := wait(cmd)
	for state := ""; state != "starting"; {
		if r, err := inspect(t.Context(), c.dir, time.Now()); err == nil {
			state = r.State
		}
		if state == "running" {
			t.Error("it is said to run before it does")
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	c.signal(cmd, syscall.SIGINT)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("interrupted before it ran, it ended with %v", err)
	}
}

func wait(cmd *exec.Cmd) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended
}

func (c *cli) signal(cmd *exec.Cmd, signal os.Signal) {
	c.Helper()
	if err := cmd.Process.Signal(signal); err != nil {
		c.Fatal(err)
	}
}

// await waits for a state, as long as the command runs.
func (c *cli) await(ended <-chan error, state string) {
	c.Helper()
	for {
		if r, err := inspect(c.Context(), c.dir, time.Now()); err == nil && r.State == state {
			return
		}
		select {
		case err := <-ended:
			c.Fatalf("it ended (%v) and was never %s", err, state)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestFailedStart checks that up says what is wrong, and status still does later.
func TestFailedStart(t *testing.T) {
	expect := func(t *testing.T, c *cli, line string, want ...string) {
		t.Helper()
		c.run(1, args(line), want...)
		if r := c.status(1); r.State != "failed" || !strings.Contains(r.Error, want[0]) {
			t.Errorf("status: %+v", r)
		}
	}
	t.Run("port taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		expect(t, newCLI(t), "up --port "+port, "port "+l.Addr().String()+" is taken", "--port")
	})
	t.Run("binary missing", func(t *testing.T) {
		c := newCLI(t)
		c.root = t.TempDir()
		c.env = append(c.env, "KUBEBUILDER_ASSETS="+c.root)
		expect(t, c, "up", "there is no program", "kube-apiserver", c.root, "make devcluster")
	})
	t.Run("other version", func(t *testing.T) {
		c := newCLI(t)
		if err := host.OpenDir(c.dir); err != nil {
			t.Fatal(err)
		}
		state := `{"format": 1, "clusterAPI": "v1.13.0", "kubernetes": "v1.35.0", "etcd": "v3.5.0", "port": 0}`
		if err := os.WriteFile(filepath.Join(c.dir, "state.json"), []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "up", "was made by devcluster with Cluster API v1.13.0", "down --wipe --dir "+c.dir)
		c.run(0, args("down --wipe"), "removed")
	})
	t.Run("no time", func(t *testing.T) {
		expect(t, newCLI(t), "up --timeout 1ms", "not ready within --timeout 1ms")
	})
	t.Run("someone's folder", func(t *testing.T) {
		c := newCLI(t)
		c.dir = t.TempDir()
		file := filepath.Join(c.dir, "mine")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		c.run(1, args("up"), "not empty")
		c.run(1, args("down --wipe"), "not removed")
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	})
}

func TestKnobs(t *testing.T) {
	for name, test := range map[string]struct {
		settings []string
		want     chaos.Knobs
	}{
		"nothing": {nil, chaos.Knobs{}},
		"none":    {[]string{"none"}, chaos.Knobs{}},
		"many": {[]string{"webhook-down", "api-delay=1s", "never-boots=a/*:2"}, chaos.Knobs{
			NeverBoots: chaos.Picks{{Pattern: "a/*", Count: 2}}, APIDelay: time.Second, WebhookDown: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseKnobs(test.settings)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestClusters(t *testing.T) {
	var clusters []cluster
	for _, manifest := range []string{`
metadata: {namespace: prod-talos, name: prod}
status:
  phase: Provisioned
  conditions: [{type: Paused, status: "False"}, {type: Available, status: "True"}]
  controlPlane: {desiredReplicas: 3, replicas: 4, readyReplicas: 3}
  workers: {desiredReplicas: 5, replicas: 5, readyReplicas: 4}
`, `
metadata: {namespace: new, name: dev}
`} {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(manifest), &o.Object); err != nil {
			t.Fatal(err)
		}
		// As the dynamic client has numbers.
		content, err := json.Marshal(map[string]any{"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": o.Object["metadata"], "status": o.Object["status"]})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.UnmarshalJSON(content); err != nil {
			t.Fatal(err)
		}
		clusters = append(clusters, summarize(o))
	}
	var out bytes.Buffer
	if err := printClusters(&out, clusters, ""); err != nil {
		t.Fatal(err)
	}
	want := `CLUSTER          PHASE        AVAILABLE  CONTROL PLANE  WORKERS
prod-talos/prod  Provisioned  True       3/3            4/5
new/dev                       Unknown    0/0            0/0
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestQuote(t *testing.T) {
	for path, want := range map[string]string{
		"/plain/path-1_2.x": "/plain/path-1_2.x",
		"/with space":       "'/with space'",
		"/it's":             `'/it'\''s'`,
		"/$HOME;rm":         "'/$HOME;rm'",
	} {
		if got := quote(path); got != want {
			t.Errorf("%s is quoted as %s, not %s", path, got, want)
		}
	}
}
