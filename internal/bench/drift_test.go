package bench

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/testenv"
)

// TestDrift changes live objects of a fleet at rest as kubectl edit does, and prints how
// long it takes until that is found, and taken back.
func TestDrift(t *testing.T) {
	n := number("CAPSTAN_BENCH_OVERLAYS", 500)
	b := &driftBench{bench: &bench{T: t, n: n, repo: gittest.NewRepo(t), binary: build(t)}}
	b.setUp(repository(n))
	b.startAgent()
	b.createFleet()
	b.await("first sync", b.allApplied)
	b.observe()
	b.await("rest", func() bool { return b.inSync() == n })
	b.settle(env.Mark(t), time.Now())
	t.Logf("%d overlays x %d objects, an edit of each in every round; seconds after the API server's answer to the edit", n, objectsPerOverlay)
	t.Logf("%-18s %-9s %6s %6s %6s %6s  %s", "round", "", "p50", "p90", "p99", "max", "load")
	b.round("one at a time", func(edit func(i int) *drifting) {
		for i := range n {
			d := edit(i)
			b.await("correction", func() bool { return b.over(d) })
		}
	})
	b.round("5 a second", func(edit func(i int) *drifting) {
		tick := time.NewTicker(time.Second / 5)
		defer tick.Stop()
		for i := range n {
			<-tick.C
			edit(i)
		}
	})
	b.round("all at once", func(edit func(i int) *drifting) {
		all := make([]int, n)
		for i := range all {
			all[i] = i
		}
		parallel(50, all, func(i int) { edit(i) })
	})
	t.Logf("agent peak memory: %d MiB", b.peak)
}

// driftBench edits objects and sees what becomes of that.
type driftBench struct {
	*bench
	client dynamic.Interface
	// rounds is how many there were: each edits other objects, so that no edit is the second
	// one of its object.
	rounds int

	mu      sync.Mutex
	synced  map[string]bool // overlays by name
	pending map[string]*drifting
}

// drifting is one edit, and when what was seen of it.
type drifting struct {
	kind                  string
	answered, found, back time.Time
	changed               bool // the edit was seen
}

// edits are what people change: fields that Git declares, whose correction moves no machine.
var edits = []struct {
	resource    schema.GroupVersionResource
	kind, name  string
	patch       string
	field       []string
	edited, was any
}{
	{
		machineDeployments, "MachineDeployment", "workers", `{"spec":{"template":{"spec":{"deletion":{"nodeDrainTimeoutSeconds":4321}}}}}`,
		[]string{"spec", "template", "spec", "deletion", "nodeDrainTimeoutSeconds"}, int64(4321), int64(0),
	},
	{
		schema.GroupVersionResource{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "machinehealthchecks"}, "MachineHealthCheck", "workers",
		`{"spec":{"checks":{"nodeStartupTimeoutSeconds":4321}}}`,
		[]string{"spec", "checks", "nodeStartupTimeoutSeconds"}, int64(4321), int64(900),
	},
	{
		schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, "ConfigMap", "notes", `{"data":{"notes":"edited"}}`,
		[]string{"data", "notes"}, "edited", baseNotes,
	},
}

// observe starts watches of our own.
func (b *driftBench) observe() {
	b.Helper()
	var err error
	if b.client, err = dynamic.NewForConfig(env.Config("person")); err != nil {
		b.Fatal(err)
	}
	b.synced, b.pending = map[string]bool{}, map[string]*drifting{}
	b.follow(v1alpha1.GroupVersion.WithResource("clusteroverlays"), b.noteOverlay)
	for _, e := range edits {
		b.follow(e.resource, func(u *unstructured.Unstructured) {
			value, _, _ := unstructured.NestedFieldNoCopy(u.Object, e.field...)
			b.mu.Lock()
			defer b.mu.Unlock()
			switch d := b.pending[u.GetNamespace()]; {
			case d == nil || d.kind != e.kind:
			case value == e.edited:
				d.changed = true
			case value == e.was && d.changed && d.back.IsZero():
				d.back = time.Now()
			}
		})
	}
}

// follow passes on what a watch of our own delivers.
func (b *driftBench) follow(resource schema.GroupVersionResource, note func(*unstructured.Unstructured)) {
	b.Helper()
	events, err := b.client.Resource(resource).Watch(b.Context(), metav1.ListOptions{LabelSelector: selectorOf(resource)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(events.Stop)
	go func() {
		for event := range events.ResultChan() {
			if u, ok := event.Object.(*unstructured.Unstructured); ok && event.Type != watch.Error {
				note(u)
			}
		}
	}()
}

// selectorOf leaves out what is not ours.
func selectorOf(resource schema.GroupVersionResource) string {
	if resource.Group == v1alpha1.GroupVersion.Group {
		return ""
	}
	return v1alpha1.OverlayLabel
}

func (b *driftBench) noteOverlay(u *unstructured.Unstructured) {
	at := time.Now()
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	drift, _, _ := unstructured.NestedSlice(u.Object, "status", "drift")
	path, _, _ := unstructured.NestedString(u.Object, "spec", "path")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.synced[u.GetName()] = slices.ContainsFunc(conditions, func(c any) bool {
		condition, _ := c.(map[string]any)
		return condition["type"] == v1alpha1.InSyncCondition && condition["status"] == string(metav1.ConditionTrue)
	})
	d := b.pending[path[strings.LastIndexByte(path, '/')+1:]]
	if d == nil || !d.found.IsZero() {
		return
	}
	for _, o := range drift {
		if object, _ := o.(map[string]any); object["kind"] == d.kind {
			d.found = at
		}
	}
}

// inSync counts the overlays that say what was applied.
func (b *driftBench) inSync() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, synced := range b.synced {
		if synced {
			n++
		}
	}
	return n
}

// over reports whether an edit was found and taken back.
func (b *driftBench) over(d *drifting) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !d.found.IsZero() && !d.back.IsZero()
}

// round edits an object of each overlay and prints what came of it.
func (b *driftBench) round(name string, act func(edit func(i int) *drifting)) {
	b.Helper()
	mark, start, used, served := env.Mark(b.T), time.Now(), cpu(b.agent.Process.Pid), apiServerCPU()
	all := make([]*drifting, b.n)
	act(func(i int) *drifting {
		all[i] = b.edit(i)
		return all[i]
	})
	b.await(name, func() bool { return !slices.ContainsFunc(all, func(d *drifting) bool { return !b.over(d) }) })
	b.await(name, func() bool { return b.inSync() == b.n })
	requests, _ := b.settle(mark, start)
	var found, back []time.Duration
	for _, d := range all {
		found, back = append(found, d.found.Sub(d.answered)), append(back, d.back.Sub(d.answered))
	}
	b.Logf("%-18s %-9s %s  %s", name, "found", quantiles(found), load())
	b.Logf("%-18s %-9s %s", "", "corrected", quantiles(back))
	counted := testenv.Counted(requests)
	each := func(total float64) float64 { return total / float64(b.n) }
	b.Logf("    for each: %.2f requests, %.2f of them writes, %.1f ms of the agent's CPU, %.1f ms of the API server's; in all: %s",
		each(float64(len(counted))), each(float64(len(testenv.Writes(requests)))), each(1000*(cpu(b.agent.Process.Pid)-used)),
		each(1000*(apiServerCPU()-served)), summary(requests))
	b.peak = max(b.peak, memory(b.agent.Process.Pid, peakMemory))
	b.rounds++
}

// edit changes an object of an overlay.
func (b *driftBench) edit(i int) *drifting {
	e, namespace := edits[(i+b.rounds)%len(edits)], fmt.Sprintf("c%04d", i)
	d := &drifting{kind: e.kind}
	b.mu.Lock()
	b.pending[namespace] = d
	b.mu.Unlock()
	_, err := b.client.Resource(e.resource).Namespace(namespace).Patch(b.Context(), namespace+"-"+e.name, types.MergePatchType, []byte(e.patch),
		metav1.PatchOptions{FieldManager: "kubectl-edit"})
	answered := time.Now()
	if err != nil {
		b.Error(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d.answered = answered
	return d
}

// quantiles are those of durations, in seconds.
func quantiles(all []time.Duration) string {
	slices.Sort(all)
	var text []string
	for _, q := range []float64{0.5, 0.9, 0.99, 1} {
		text = append(text, fmt.Sprintf("%6.2f", all[int(math.Ceil(q*float64(len(all))))-1].Seconds()))
	}
	return strings.Join(text, " ")
}

// load is what else the machine does.
func load() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(content))[:2], " ")
}
