package live_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/onsi/gomega"
	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/live"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// fleet is a thousand of the sample fleet's clusters, each with what controllers make for
// it: too many for a test's API server, so this one makes them up as they are asked for.
type fleet struct {
	overlays int
	// templates has the objects of one cluster by kind, as JSON in which CLUSTER stands for
	// its name.
	templates map[schema.GroupVersionKind][]string
	declared  []v1alpha1.ObjectReference
	made      int
	resources map[string]schema.GroupVersionKind
	served    atomic.Int64
	bytes     atomic.Int64
}

const sampleCluster = "CLUSTER"

// newFleet puts together what is rendered and what was recorded in the local management
// cluster.
func newFleet(t *testing.T, overlays int) *fleet {
	t.Helper()
	f := &fleet{
		overlays: overlays, templates: map[schema.GroupVersionKind][]string{},
		resources: map[string]schema.GroupVersionKind{},
	}
	archive, err := txtar.ParseFile("../capi/testdata/progress/talos-converged.txtar")
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]*unstructured.Unstructured{}
	for _, file := range archive.Files {
		if !strings.Contains("live.yaml made.yaml", file.Name) {
			continue
		}
		for _, document := range strings.Split(string(file.Data), "\n---\n") {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(strings.ReplaceAll(document, "rec-talos", sampleCluster)), &u.Object); err != nil {
				t.Fatal(err)
			}
			recorded[u.GetKind()] = u // of several the last one, a worker
		}
	}
	result, err := render.Render(t.Context(), render.Input{Tree: tree.FromDir("../.."), Path: "clusters/prod"})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range result.Objects {
		labels := u.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[v1alpha1.OverlayLabel], labels[v1alpha1.FleetLabel] = sampleCluster, "platform.talos"
		u.SetLabels(labels)
		ours := managedBy(v1alpha1.FieldManager, "Apply", "", u, "metadata", "spec", "data")
		if r := recorded[u.GetKind()]; r != nil {
			u.Object["status"] = r.Object["status"]
		}
		f.add(t, u, ours)
		f.declared = append(f.declared, ref(u))
	}
	if len(f.declared) < 10 {
		t.Fatalf("a cluster is just %d objects", len(f.declared))
	}
	for kind, n := range map[string]int{"Machine": 5, "ProxmoxMachine": 5, "TalosConfig": 5, "MachineSet": 2} {
		f.made += n
		for i := range n {
			u := recorded[kind].DeepCopy()
			u.SetName(fmt.Sprintf("%s-%d", u.GetName(), i))
			f.add(t, u, managedBy("manager", "Update", "", u, "metadata", "spec"))
		}
	}
	return f
}

// mapper knows the kinds.
func (f *fleet) mapper() meta.RESTMapper {
	var versions []schema.GroupVersion
	for _, gvk := range f.resources {
		versions = append(versions, gvk.GroupVersion())
	}
	mapper := meta.NewDefaultRESTMapper(versions)
	for _, gvk := range f.resources {
		mapper.Add(gvk, meta.RESTScopeNamespace)
	}
	return mapper
}

// add adds an object to what each cluster has.
func (f *fleet) add(t *testing.T, u *unstructured.Unstructured, entries ...any) {
	t.Helper()
	if _, ok := u.Object["status"]; ok {
		entries = append(entries, managedBy("manager", "Update", "status", u, "status"))
	}
	if u.GetKind() == "Namespace" {
		u.SetName(sampleCluster)
	} else {
		u.SetNamespace(sampleCluster)
	}
	u.SetUID("00000000-0000-4000-8000-UID")
	u.SetResourceVersion("VERSION")
	u.SetCreationTimestamp(metav1.Now())
	metadata := u.Object["metadata"].(map[string]any) //nolint:forcetypeassert // it has a name
	metadata["managedFields"] = entries
	content, err := json.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	gvk := u.GroupVersionKind()
	if f.templates[gvk] == nil {
		plural, _ := meta.UnsafeGuessKindToResource(gvk)
		f.resources[plural.Resource] = gvk
	}
	f.templates[gvk] = append(f.templates[gvk], strings.ReplaceAll(string(content), "prod-talos", sampleCluster))
}

// managedBy is an entry of managedFields that owns all of some fields.
func managedBy(manager, operation, subresource string, u *unstructured.Unstructured, fields ...string) map[string]any {
	set := map[string]any{}
	for _, field := range fields {
		value, ok := u.Object[field].(map[string]any)
		if !ok {
			continue
		}
		if field == "metadata" {
			value = map[string]any{"labels": value["labels"], "annotations": value["annotations"]}
		}
		set["f:"+field] = owned(value)
	}
	entry := map[string]any{
		"manager": manager, "operation": operation, "apiVersion": u.GetAPIVersion(),
		"time": "2026-11-22T18:26:59Z", "fieldsType": "FieldsV1", "fieldsV1": set,
	}
	if subresource != "" {
		entry["subresource"] = subresource
	}
	return entry
}

func owned(value map[string]any) map[string]any {
	set := map[string]any{}
	for key, element := range value {
		switch element := element.(type) {
		case nil:
		case map[string]any:
			set["f:"+key] = owned(element)
		default:
			set["f:"+key] = map[string]any{}
		}
	}
	return set
}

// ServeHTTP answers a watch with all that there is, and then nothing more.
func (f *fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, ok := f.resources[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
	if !ok || r.URL.Query().Get("sendInitialEvents") != "true" {
		http.Error(w, "it can be watched from the start, no more", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	version := 1000
	for i := range f.overlays {
		for _, template := range f.templates[kind] {
			version++
			object := strings.NewReplacer(sampleCluster, clusterName(i), "VERSION", fmt.Sprint(version), "UID", fmt.Sprintf("%012d", version)).Replace(template)
			n, err := fmt.Fprintf(w, `{"type":"ADDED","object":%s}`+"\n", object)
			if err != nil {
				return
			}
			f.served.Add(1)
			f.bytes.Add(int64(n))
		}
	}
	fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"apiVersion":%q,"kind":%q,"metadata":{"resourceVersion":"%d","annotations":{"k8s.io/initial-events-end":"true"}}}}`+"\n",
		kind.GroupVersion().String(), kind.Kind, version)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func clusterName(i int) string { return fmt.Sprintf("prod-cluster-%04d", i) }

// references are new strings for each cluster, as an inventory's are.
func (f *fleet) references(i int) []v1alpha1.ObjectReference {
	refs := make([]v1alpha1.ObjectReference, 0, len(f.declared))
	for _, r := range f.declared {
		r.Group, r.Version, r.Kind = strings.Clone(r.Group), strings.Clone(r.Version), strings.Clone(r.Kind)
		r.Name = strings.ReplaceAll(strings.ReplaceAll(r.Name, "prod-talos", sampleCluster), sampleCluster, clusterName(i))
		r.Namespace = strings.ReplaceAll(strings.ReplaceAll(r.Namespace, "prod-talos", sampleCluster), sampleCluster, clusterName(i))
		refs = append(refs, r)
	}
	return refs
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// With CAPSTAN_BENCH set there are a thousand overlays, and what they take is limited.
func TestMemory(t *testing.T) {
	overlays := 20
	bench := os.Getenv("CAPSTAN_BENCH") != ""
	if bench {
		overlays = 1000
	}
	f := newFleet(t, overlays)
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	o, err := live.New(live.Options{
		Config: &rest.Config{Host: server.URL}, Mapper: f.mapper(),
		Changed: func(types.NamespacedName) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	for i := range overlays {
		o.Declare(types.NamespacedName{Namespace: "platform", Name: clusterName(i)}, f.references(i))
	}
	declared := heap()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	want := overlays * (len(f.declared) + f.made)
	var peak uint64
	gomega.NewWithT(t).Eventually(func() int {
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(sample)
		peak = max(peak, sample[0].Value.Uint64())
		return o.Count()
	}, "2m", "100ms").Should(gomega.Equal(want))
	after := heap()
	each := (after - declared) / uint64(want)
	t.Logf("%d overlays, %d objects of %d bytes: %.1f MiB, %d bytes each; declarations %.1f MiB; heap at most %.1f MiB",
		overlays, want, f.bytes.Load()/f.served.Load(), mib(after-before), each, mib(declared-before), mib(peak))
	if bench && mib(after-before) > 80 {
		t.Errorf("it takes %.1f MiB", mib(after-before))
	}
	if path := os.Getenv("CAPSTAN_BENCH_HEAP"); path != "" {
		profile(t, path)
	}
	for i := range overlays {
		name := types.NamespacedName{Namespace: "platform", Name: clusterName(i)}
		if view := o.Look(name); !view.Complete || len(view.Made) != f.made || len(view.Live) < 5 {
			t.Fatalf("%s is %+v", name, view)
		}
		for id, seen := range o.Seen(name) {
			if !seen.Known || !seen.Present || seen.Sight.Owned == [32]byte{} || len(seen.Sight.Foreign) > 0 {
				t.Fatalf("%s is seen as %+v", id, seen)
			}
		}
	}
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

func profile(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(filepath.Clean(path))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := pprof.WriteHeapProfile(file); err != nil {
		t.Fatal(err)
	}
}
