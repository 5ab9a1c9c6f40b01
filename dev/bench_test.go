package dev

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/clientcmd"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// These measure, for docs/benchmarks.md, and judge nothing: `make bench` runs them.

// BenchFleet: `devcluster up` with default delays, and the sample fleet from apply to Available.
func TestBenchFleet(t *testing.T) {
	b := newBench(t)
	started := time.Now()
	b.up()
	t.Logf("devcluster up: %s", seconds(time.Since(started)))
	var objects []sampleCluster
	for _, overlay := range []string{"dev", "staging", "prod"} {
		objects = append(objects, sampleCluster{overlay, overlay, nil})
	}
	b.measure(objects)
	t.Logf("from up to the fleet Available: %s", seconds(time.Since(started)))
}

// BenchHundred: 100 clusters of 3 control-plane machines and 3 workers, applied at once.
func TestBenchHundred(t *testing.T) {
	b := newBench(t)
	b.up()
	var clusters []sampleCluster
	for i := range 100 {
		clusters = append(clusters, sampleCluster{"staging", fmt.Sprintf("c%03d", i), new(int64(3))})
	}
	b.measure(clusters)
	before := b.cpu()
	const rest = 60 * time.Second
	time.Sleep(rest)
	after := b.cpu()
	for _, name := range slices.Sorted(maps.Keys(after)) {
		t.Logf("at rest %-24s %.3f cores", name, (after[name]-before[name])/rest.Seconds())
	}
	t.Logf("memory at rest: %s", b.memory())
}

// sampleCluster is an overlay under another name, with so many workers.
type sampleCluster struct {
	overlay, name string
	workers       *int64
}

// bench is a management cluster in processes of its own.
type bench struct {
	*testing.T
	bin, dir string
}

func newBench(t *testing.T) *bench {
	if os.Getenv("CAPSTAN_BENCH") == "" {
		t.Skip("set CAPSTAN_BENCH=1, or run `make bench`")
	}
	dir := t.TempDir()
	b := &bench{t, filepath.Join(dir, "devcluster"), filepath.Join(dir, "state")}
	if out, err := exec.Command("go", "build", "-o", b.bin, "./cmd/devcluster").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return b
}

func (b *bench) run(args ...string) []byte {
	b.Helper()
	cmd := exec.Command(b.bin, append(args, "--dir", b.dir)...)
	bin, err := filepath.Abs(filepath.Join("..", "bin"))
	if err != nil {
		b.Fatal(err)
	}
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		cmd.Env = append(os.Environ(), "KUBEBUILDER_ASSETS="+bin)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("devcluster %s: %v\n%s%s", args[0], err, out, stderr.String())
	}
	return out
}

func (b *bench) up() {
	b.Helper()
	b.run("up")
	b.Cleanup(func() { b.run("down", "--wipe") })
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(b.dir, "kubeconfig"))
	if err != nil {
		b.Fatal(err)
	}
	config.QPS = -1
	shared := admin
	if admin, err = client.New(config, client.Options{Scheme: shared.Scheme()}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { admin = shared })
	if err := applyShared(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// measure applies clusters and waits until all are Available.
func (b *bench) measure(clusters []sampleCluster) {
	b.Helper()
	before, started := b.cpu(), time.Now()
	for _, c := range clusters {
		e := newEnv(b.T, c.name)
		e.objects = render(b.T, filepath.Join("..", "clusters", c.overlay), c.overlay, c.name)
		if c.workers != nil {
			set(b.T, e.object("MachineDeployment", "-workers"), *c.workers, "spec", "replicas")
		}
		e.createCredentials()
		e.apply(e.objects...)
	}
	b.Logf("%d clusters applied after %s", len(clusters), seconds(time.Since(started)))
	peak := 0
	for {
		if time.Since(started) > 30*time.Minute {
			b.Fatal("not all clusters are Available after half an hour")
		}
		list := &clusterv1.ClusterList{}
		if err := admin.List(b.Context(), list); err != nil {
			b.Fatal(err)
		}
		available := 0
		for _, c := range list.Items {
			if meta.IsStatusConditionTrue(c.Status.Conditions, clusterv1.AvailableCondition) {
				available++
			}
		}
		peak = max(peak, b.totalMemory())
		if available == len(clusters) {
			b.report(list.Items)
			break
		}
		time.Sleep(250 * time.Millisecond)
	}
	b.Logf("all Available after %s", seconds(time.Since(started)))
	after := b.cpu()
	for _, name := range slices.Sorted(maps.Keys(after)) {
		b.Logf("CPU %-24s %.1f s", name, after[name]-before[name])
	}
	b.Logf("memory: %s; peak of all together %d MiB", b.memory(), peak)
}

// report gives the time from creation to Available.
func (b *bench) report(clusters []clusterv1.Cluster) {
	b.Helper()
	var took []time.Duration
	for _, c := range clusters {
		condition := meta.FindStatusCondition(c.Status.Conditions, clusterv1.AvailableCondition)
		took = append(took, condition.LastTransitionTime.Sub(c.CreationTimestamp.Time))
	}
	slices.Sort(took)
	b.Logf("from created to Available: median %s, last %s", seconds(took[len(took)/2]), seconds(took[len(took)-1]))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

type benchStatus struct {
	Memory []struct {
		Name string `json:"name"`
		PID  int    `json:"pid"`
		MiB  int    `json:"mib"`
	} `json:"memory"`
}

func (b *bench) status() benchStatus {
	b.Helper()
	var s benchStatus
	if err := json.Unmarshal(b.run("status", "-o", "json"), &s); err != nil {
		b.Fatal(err)
	}
	return s
}

func (b *bench) memory() string {
	var out []string
	for _, p := range b.status().Memory {
		out = append(out, fmt.Sprintf("%s %d MiB", p.Name, p.MiB))
	}
	return strings.Join(out, ", ")
}

func (b *bench) totalMemory() int {
	total := 0
	for _, p := range b.status().Memory {
		total += p.MiB
	}
	return total
}

// cpu gives the seconds of processor time that each process has used. Source: proc(5), fields 14 and 15, in
// hundredths of a second.
func (b *bench) cpu() map[string]float64 {
	b.Helper()
	out := map[string]float64{}
	for _, p := range b.status().Memory {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
		if err != nil {
			b.Fatal(err)
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		for _, f := range fields[11:13] {
			ticks, err := strconv.ParseFloat(f, 64)
			if err != nil {
				b.Fatal(err)
			}
			out[p.Name] += ticks / 100
		}
	}
	return out
}
