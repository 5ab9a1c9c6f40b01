package bench

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/testenv"
)

// TestRest prints what a large fleet with all its Machines costs the agent at a start, when
// nothing happens, and when nothing happens that matters. CAPSTAN_BENCH_AGENTS lists
// programs to compare on the same fleet, separated by commas; a script that ends with
// exec may set their environment.
func TestRest(t *testing.T) {
	n := number("CAPSTAN_BENCH_REST_OVERLAYS", 1000)
	period := time.Duration(number("CAPSTAN_BENCH_REST_SECONDS", 60)) * time.Second
	b := &bench{T: t, n: n, repo: gittest.NewRepo(t), binary: build(t)}
	agents := []string{b.binary}
	if list := os.Getenv("CAPSTAN_BENCH_AGENTS"); list != "" {
		agents = strings.Split(list, ",")
	}
	files := repository(n)
	for i := range n {
		files[overlayPatch(i)] = patchFor(i, workers)
	}
	b.setUp(files)
	t.Logf("%d overlays x %d objects, and %d that controllers made for each", n, objectsPerOverlay, madePerOverlay)
	t.Logf("%-34s %9s %9s %12s %9s  %s", "", "RSS MiB", "peak MiB", "% of a core", "requests", "load")
	b.startAgent()
	b.createFleet()
	b.await("first sync", b.allApplied)
	b.during("after the first sync", 0, nil)
	b.stopAgent() // the controllers have the machine to themselves
	c := newControllers(t)
	c.converge(n)
	for _, b.binary = range agents {
		t.Log(filepath.Base(b.binary))
		b.rest(c, period)
	}
}

// rest measures one agent on a fleet that has converged.
func (b *bench) rest(c *controllers, period time.Duration) {
	b.Helper()
	start := time.Now()
	b.startAgent()
	b.await("convergence", b.calm) // those that have converged before are rendered without a request
	b.await("convergence", func() bool {
		time.Sleep(time.Second)
		return strings.HasPrefix(b.phases(), fmt.Sprint(b.n, " ", v1alpha1.PhaseConverged))
	})
	b.during(fmt.Sprintf("a start: %.0f s, CPU %.1f s", time.Since(start).Seconds(), cpu(b.agent.Process.Pid)), 0, nil)
	b.during("rest", period, nil)
	b.during("more of it", period, nil)
	b.during("every Machine written once", 0, func() { c.churn(period) })
	b.during("rest", period, nil)
	b.during("more of it", period, nil)
	b.stopAgent()
}

// calm tells whether the agent has done next to nothing for a while.
func (b *bench) calm() bool {
	used := cpu(b.agent.Process.Pid)
	time.Sleep(5 * time.Second)
	return cpu(b.agent.Process.Pid)-used < 0.1
}

// during prints what the agent does while act runs, or for a while, and what it has afterwards.
func (b *bench) during(name string, period time.Duration, act func()) {
	b.Helper()
	mark, start, used := env.Mark(b.T), time.Now(), cpu(b.agent.Process.Pid)
	if act != nil {
		act()
	}
	time.Sleep(period)
	b.alive()
	took := time.Since(start)
	share := "-"
	if act != nil || period > 0 {
		share = fmt.Sprintf("%.2f", 100*(cpu(b.agent.Process.Pid)-used)/took.Seconds())
	}
	requests := env.Requests(b.T, user, mark)
	b.Logf("%-34s %9d %9d %12s %9d  %s  %s", name, memory(b.agent.Process.Pid, residentMemory), memory(b.agent.Process.Pid, peakMemory),
		share, len(testenv.Counted(requests)), load(), summary(requests))
}

// phases counts the overlays by phase.
func (b *bench) phases() string {
	b.Helper()
	var list v1alpha1.ClusterOverlayList
	if err := env.Client().List(b.Context(), &list, client.InNamespace(namespace)); err != nil {
		b.Fatal(err)
	}
	counts := map[string]int{}
	for i := range list.Items {
		phase := "none"
		if p := list.Items[i].Status.Progress; p != nil {
			phase = fmt.Sprintf("%s %s", p.Phase, p.Message)
		}
		counts[phase]++
	}
	var parts []string
	for _, phase := range slices.Sorted(maps.Keys(counts)) {
		if len(parts) < 5 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[phase], phase))
		}
	}
	return strings.Join(parts, "; ")
}

// churn writes the status of every Machine once, evenly over a while, as controllers do
// when nothing changes but a time.
func (c *controllers) churn(period time.Duration) {
	c.Helper()
	list, err := c.of(machineKind, "").List(c.Context(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	each := period / time.Duration(len(list.Items))
	start := time.Now()
	indices := make([]int, len(list.Items))
	for i := range indices {
		indices[i] = i
	}
	parallel(8, indices, func(i int) {
		time.Sleep(time.Until(start.Add(time.Duration(i) * each)))
		status := map[string]any{"lastUpdated": time.Now().UTC().Format(time.RFC3339)}
		c.patch(&list.Items[i], map[string]any{"status": status}, "status")
	})
}

var machineKind = schema.GroupVersionKind{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "Machine"}
