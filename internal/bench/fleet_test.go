package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/testenv"
)

const (
	user      = "capstan-agent"
	namespace = "capstan-system"
	fleetName = "bench"
	patience  = 20 * time.Minute
)

var env *testenv.Env

func TestMain(m *testing.M) {
	if os.Getenv("CAPSTAN_BENCH") == "" {
		fmt.Println("skipped: run `make bench`")
		return
	}
	os.Exit(testenv.Run(m, &env))
}

// TestFleet goes through the life of a fleet and prints what each step costs.
func TestFleet(t *testing.T) {
	n := number("CAPSTAN_BENCH_OVERLAYS", 500)
	rounds := number("CAPSTAN_BENCH_ROUNDS", 5)
	b := &bench{T: t, n: n, repo: gittest.NewRepo(t), binary: build(t)}
	b.setUp(repository(n))
	t.Logf("%d overlays x %d objects, %d cores, %s", n, objectsPerOverlay, runtime.GOMAXPROCS(0), runtime.Version())
	t.Logf("%-28s %8s %8s %9s %9s %9s %7s  %s", "scenario", "live s", "settle s", "agent CPU", "API CPU", "requests", "writes", "requests left out of the count")

	b.startAgent()
	b.measure("first sync", func() { b.createFleet() }, b.allApplied)
	for i := range rounds {
		value := 3 + 2*(i+1)
		b.measure("one overlay", func() {
			b.repo.Commit(map[string]string{overlayPatch(n / 2): patchFor(n/2, value)}, "one overlay")
			b.trigger()
		}, b.seen(1, "replicas", int64(value)))
	}
	for i := range min(rounds, 3) {
		value := int64(600 + 60*i)
		b.measure("base, all overlays", func() {
			b.repo.Commit(map[string]string{"base/workers.yaml": baseWorkers(value)}, "base")
			b.trigger()
		}, b.seen(n, "nodeDrainTimeoutSeconds", value))
	}
	b.quiet(rounds)
	b.restart()
	t.Logf("agent peak memory: %d MiB", b.peak)
	b.floor()
}

func number(name string, fallback int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return fallback
}

// build builds the agent as it is shipped.
func build(t *testing.T) string {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "capstan")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "./cmd/agent")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// bench is the agent under measurement and its world.
type bench struct {
	*testing.T
	n       int
	repo    *gittest.Repo
	binary  string
	watcher *watcher
	agent   *exec.Cmd
	ended   chan struct{} // closed once the agent is no more
	peak    int64         // MiB
	ask     int
}

func (b *bench) setUp(files map[string]string) {
	b.Helper()
	b.repo.Commit(files, "the fleet")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if err := env.Client().Create(b.Context(), ns); err != nil {
		b.Fatal(err)
	}
	b.watcher = watchMachineDeployments(b.T)
}

// startAgent runs the agent as a process of its own.
func (b *bench) startAgent(flags ...string) {
	b.Helper()
	log, err := os.Create(filepath.Join(b.TempDir(), "agent.log"))
	if err != nil {
		b.Fatal(err)
	}
	b.agent = exec.Command(b.binary, append([]string{
		"run", "--kubeconfig", env.Kubeconfig(b.T, user), "-n", namespace,
		"--cache-dir", b.TempDir(), "--metrics-address", "127.0.0.1:0", "--health-address", "0", "--webhook-address", "0", "--leader-elect=true",
	}, flags...)...)
	b.agent.Stdout, b.agent.Stderr = log, log
	if err := b.agent.Start(); err != nil {
		b.Fatal(err)
	}
	b.ended = make(chan struct{})
	go func(agent *exec.Cmd, ended chan struct{}) {
		_ = agent.Wait() // what it has to say is in its log
		close(ended)
	}(b.agent, b.ended)
	b.Cleanup(func() {
		b.stopAgent()
		if b.Failed() {
			content, _ := os.ReadFile(log.Name())
			b.Logf("agent log, its end:\n%s", content[max(0, len(content)-8000):])
		}
	})
}

func (b *bench) stopAgent() {
	if b.agent == nil {
		return
	}
	b.peak = max(b.peak, memory(b.agent.Process.Pid, peakMemory))
	_ = b.agent.Process.Signal(syscall.SIGTERM)
	<-b.ended
	b.agent = nil
}

func (b *bench) createFleet() {
	b.Helper()
	fleet := &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fleetName},
		Spec: v1alpha1.FleetSpec{Git: v1alpha1.GitSpec{
			URL: b.repo.URL(), Interval: metav1.Duration{Duration: time.Hour}, Ref: v1alpha1.GitRef{Branch: "main"},
		}},
	}
	if err := env.Client().Create(b.Context(), fleet); err != nil {
		b.Fatal(err)
	}
}

// trigger asks for a look at Git, as a webhook would. The clock of a scenario
// starts here.
func (b *bench) trigger() {
	b.Helper()
	b.ask++
	fleet := &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fleetName}}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"bench-%d"}}}`, v1alpha1.RequestedAtAnnotation, b.ask)
	if err := env.Client().Patch(b.Context(), fleet, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		b.Fatal(err)
	}
}

// interval sets the Fleet's interval.
func (b *bench) interval(d time.Duration) {
	b.Helper()
	fleet := &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fleetName}}
	patch := fmt.Sprintf(`{"spec":{"git":{"interval":%q}}}`, d)
	if err := env.Client().Patch(b.Context(), fleet, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		b.Fatal(err)
	}
}

// measure runs a scenario until it is done and the agent is quiet, and prints a
// line.
func (b *bench) measure(name string, act func(), done func() bool) {
	b.Helper()
	mark := env.Mark(b.T)
	agentCPU, apiCPU := cpu(b.agent.Process.Pid), apiServerCPU()
	b.watcher.reset()
	start := time.Now()
	act()
	b.await(name, done)
	live := time.Since(start)
	requests, settled := b.settle(mark, start)
	counted := testenv.Counted(requests)
	b.Logf("%-28s %8.2f %8.2f %9.2f %9.2f %9d %7d  %d", name, live.Seconds(), settled.Seconds(),
		cpu(b.agent.Process.Pid)-agentCPU, apiServerCPU()-apiCPU, len(counted), len(testenv.Writes(requests)), len(requests)-len(counted))
	if len(counted) <= 30 {
		b.Logf("    %s", summary(counted))
	}
	b.peak = max(b.peak, memory(b.agent.Process.Pid, peakMemory))
}

// settle waits until the agent has sent nothing for a while; it returns what it
// sent, and when the last came.
func (b *bench) settle(mark testenv.Mark, start time.Time) ([]testenv.Request, time.Duration) {
	const calm = 3 * time.Second
	requests := env.Requests(b.T, user, mark)
	last := time.Now()
	for time.Since(last) < calm {
		time.Sleep(100 * time.Millisecond)
		if now := env.Requests(b.T, user, mark); len(testenv.Counted(now)) != len(testenv.Counted(requests)) {
			requests, last = now, time.Now()
		}
	}
	return requests, last.Sub(start)
}

func (b *bench) await(name string, done func() bool) {
	b.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("%s: not done within %s", name, patience)
		}
		b.alive()
	}
}

// alive fails if the agent has ended by itself: on a machine that is too busy it loses
// its lease.
func (b *bench) alive() {
	b.Helper()
	select {
	case <-b.ended:
		if b.agent != nil {
			b.Fatal("the agent has ended")
		}
	default:
	}
}

// allApplied reports whether every overlay is applied.
func (b *bench) allApplied() bool {
	time.Sleep(200 * time.Millisecond) // a list of all overlays is not cheap
	var fleet v1alpha1.Fleet
	if err := env.Client().Get(b.Context(), client.ObjectKey{Namespace: namespace, Name: fleetName}, &fleet); err != nil {
		b.Fatal(err)
	}
	return int(fleet.Status.Overlays.Applied) == b.n && b.watcher.count() == b.n
}

func (b *bench) seen(n int, field string, value int64) func() bool {
	return func() bool { return b.watcher.having(field, value) >= n }
}

// quiet measures what must cost nothing: looks at Git that find nothing new, and
// commits that no overlay reads.
func (b *bench) quiet(rounds int) {
	b.Helper()
	b.interval(time.Second)
	b.settle(env.Mark(b.T), time.Now())
	server := b.repo.HTTP()
	for range min(rounds, 3) {
		mark, before := env.Mark(b.T), server.Counts()
		b.await("no-op polls", func() bool { return server.Counts().InfoRefs >= before.InfoRefs+3 })
		after := server.Counts()
		b.Logf("%-28s %d ls-remotes, %d fetches, %d API requests", "no-op polls", after.InfoRefs-before.InfoRefs,
			after.UploadPacks-before.UploadPacks, len(testenv.Counted(env.Requests(b.T, user, mark))))
	}
	for i := range min(rounds, 3) {
		mark, before := env.Mark(b.T), server.Counts()
		b.repo.Commit(map[string]string{"README.md": fmt.Sprintf("round %d\n", i)}, "nothing that an overlay reads")
		b.await("commit nobody reads", func() bool { return server.Counts().UploadPacks > before.UploadPacks })
		polled := server.Counts().InfoRefs
		b.await("commit nobody reads", func() bool { return server.Counts().InfoRefs >= polled+2 })
		requests := env.Requests(b.T, user, mark)
		b.Logf("%-28s %d API requests, %d writes (%s left out)", "commit nobody reads", len(testenv.Counted(requests)), len(testenv.Writes(requests)),
			summary(leftOut(requests)))
	}
	b.interval(time.Hour)
	b.settle(env.Mark(b.T), time.Now())
}

// restart measures a new process on an applied fleet.
func (b *bench) restart() {
	b.Helper()
	b.stopAgent()
	mark := env.Mark(b.T)
	start := time.Now()
	b.startAgent()
	b.await("restart", func() bool { return b.repo.HTTP().Counts().InfoRefs > 0 && len(env.Requests(b.T, user, mark)) > 0 })
	requests, settled := b.settle(mark, start)
	managed := 0
	for _, r := range testenv.Writes(requests) {
		if r.Group != v1alpha1.GroupVersion.Group {
			managed++
		}
	}
	b.Logf("%-28s %8s %8.2f %9.2f %9s %9d %7d  %d (writes to managed objects: %d)", "restart", "", settled.Seconds(), cpu(b.agent.Process.Pid), "",
		len(testenv.Counted(requests)), len(testenv.Writes(requests)), len(requests)-len(testenv.Counted(requests)), managed)
	b.Logf("    %s", summary(testenv.Counted(requests)))
}

func leftOut(requests []testenv.Request) []testenv.Request {
	counted := testenv.Counted(requests)
	return slices.DeleteFunc(slices.Clone(requests), func(r testenv.Request) bool { return slices.Contains(counted, r) })
}

// summary counts requests by verb and resource.
func summary(requests []testenv.Request) string {
	counts := map[string]int{}
	for _, r := range requests {
		key := r.Verb + " " + strings.Trim(r.Resource+"/"+r.Subresource, "/")
		if r.DryRun {
			key += " (dry-run)"
		}
		counts[key]++
	}
	var parts []string
	for key, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, key))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
