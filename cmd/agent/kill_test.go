package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
)

const clusterManifest = `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: dev, namespace: NS-dev},
 spec: {infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: dev}}}`

// clusterFiles are an overlay of a dozen objects, guarded and not.
func clusterFiles(configMaps int) map[string]string {
	objects := []string{
		`{apiVersion: v1, kind: Namespace, metadata: {name: NS-dev}}`,
		`{apiVersion: v1, kind: Secret, metadata: {name: credentials, namespace: NS-dev}, stringData: {password: secret-of-the-test}}`,
		clusterManifest,
		`{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachineTemplate, metadata: {name: workers-v1, namespace: NS-dev},
 spec: {template: {spec: {sourceNode: pve, templateID: 100, network: {networkDevices: [{name: net0, bridge: vmbr0, defaultIPv4: true}]}}}}}`,
		`{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: workers, namespace: NS-dev},
 spec: {clusterName: dev, replicas: 2, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}},
 spec: {clusterName: dev, version: v1.30.0, bootstrap: {dataSecretName: boot},
 infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: workers-v1}}}}}`,
	}
	for i := range configMaps {
		objects = append(objects, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings-%d, namespace: NS-dev}, data: {v: one}}`, i))
	}
	return overlayOf("clusters/dev", objects...)
}

// managedKinds are what clusterFiles renders.
var managedKinds = []metav1.TypeMeta{
	{APIVersion: "v1", Kind: "Namespace"}, {APIVersion: "v1", Kind: "ConfigMap"}, {APIVersion: "v1", Kind: "Secret"},
	{APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "Cluster"}, {APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "MachineDeployment"},
	{APIVersion: "infrastructure.cluster.x-k8s.io/v1alpha2", Kind: "ProxmoxMachineTemplate"},
}

// labelled lists the live objects that carry the Fleet's label.
func (w *world) labelled() []*unstructured.Unstructured {
	w.Helper()
	var all []*unstructured.Unstructured
	for _, k := range managedKinds {
		var list unstructured.UnstructuredList
		list.SetAPIVersion(k.APIVersion)
		list.SetKind(k.Kind + "List")
		w.must(env.Client().List(w.Context(), &list, client.MatchingLabels{v1alpha1.FleetLabel: apply.FleetLabelValue(w.ns, "home")}))
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
	}
	return all
}

// orphans lists live objects with the Fleet's label that are in no inventory.
func (w *world) orphans() string {
	w.Helper()
	known := map[types.UID]bool{}
	var overlays v1alpha1.ClusterOverlayList
	w.must(env.Client().List(w.Context(), &overlays, client.InNamespace(w.ns)))
	for i := range overlays.Items {
		for _, e := range overlays.Items[i].Status.Inventory {
			known[e.UID] = true
		}
	}
	var lost []string
	for _, u := range w.labelled() {
		if !known[u.GetUID()] {
			lost = append(lost, u.GetKind()+" "+u.GetNamespace()+"/"+u.GetName())
		}
	}
	return strings.Join(lost, "\n")
}

// deletes lists the agent's successful deletes of managed objects, in order.
func (w *world) deletes() []string {
	w.Helper()
	var all []string
	for _, r := range env.Requests(w.T, w.user, 0) {
		if strings.HasPrefix(r.Verb, "delete") && r.Code < 300 && r.Group != "capstan.dev" {
			name := strings.Trim(r.Namespace+"/"+r.Name, "/")
			if r.Resource == "namespaces" {
				name = r.Name
			}
			all = append(all, r.Resource+" "+strings.ReplaceAll(name, w.ns, "NS"))
		}
	}
	return all
}

// gate is a connection to the API server that keeps the answer to one request for
// ever: what was asked is done, and whoever asked is not told. A kill then comes
// after the deed and before anything could be recorded of it.
type gate struct {
	kubeconfig string
	reached    chan struct{} // closed once the answer is held
	server     *httptest.Server

	mu   sync.Mutex
	left int // requests to let through before
}

// newGate holds the answer to the n-th request that is wanted, from 1.
func (w *world) newGate(n int, wanted func(*http.Request) bool) *gate {
	w.Helper()
	config := env.Config(w.user)
	transport, err := rest.TransportFor(config)
	w.must(err)
	target, err := url.Parse(config.Host)
	w.must(err)
	g := &gate{reached: make(chan struct{}), left: n}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		ModifyResponse: func(r *http.Response) error {
			if wanted(r.Request) && g.last() {
				close(g.reached)
				<-r.Request.Context().Done() // until the agent is dead
			}
			return nil
		},
	}
	g.server = httptest.NewServer(proxy)
	w.Cleanup(func() {
		g.server.CloseClientConnections()
		g.server.Close()
	})
	g.kubeconfig = filepath.Join(w.TempDir(), "kubeconfig")
	w.must(os.WriteFile(g.kubeconfig, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: c,
 clusters: [{name: c, cluster: {server: %q}}], contexts: [{name: c, context: {cluster: c}}]}`, g.server.URL), 0o600))
	return g
}

func (g *gate) last() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left--
	return g.left == 0
}

// killAt starts an agent behind a gate and kills it there.
func (w *world) killAt(n int, wanted func(*http.Request) bool) {
	w.Helper()
	g := w.newGate(n, wanted)
	p := w.agent("--kubeconfig", g.kubeconfig, "--requests=1")
	select {
	case <-g.reached:
		p.kill()
	case <-p.done:
		w.Fatalf("the agent ended by itself")
	case <-time.After(patience):
		w.Fatalf("the agent never sent the request to be killed at")
	}
}

// appliesManaged picks applies of managed objects.
func appliesManaged(r *http.Request) bool {
	return r.Method == http.MethodPatch && r.URL.Query().Get("dryRun") == "" && !strings.Contains(r.URL.Path, "/capstan.dev/") &&
		!strings.Contains(r.URL.Path, "/events")
}

func deletes(resource string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/"+resource+"/")
	}
}

// TestKilledWhileApplying kills the agent at an object of a new overlay, takes
// objects out of Git, and starts it again.
func TestKilledWhileApplying(t *testing.T) {
	for _, after := range []int{1, 4, 9, 16, 17} {
		t.Run(fmt.Sprint("after ", after), func(t *testing.T) {
			w := newWorld(t)
			w.commit(clusterFiles(12))
			w.fleet("home")
			w.killAt(after, appliesManaged)
			if n := len(w.labelled()); n != after {
				t.Errorf("killed after %d objects, %d are live", after, n)
			}
			if orphans := w.orphansWithoutUIDs(); orphans != "" {
				t.Errorf("while the agent is dead there are objects that no inventory names:\n%s", orphans)
			}

			// Most of it leaves Git while nobody looks.
			files := overlayOf("clusters/dev",
				`{apiVersion: v1, kind: Namespace, metadata: {name: NS-dev}}`, clusterManifest,
				`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings-11, namespace: NS-dev}, data: {v: one}}`)
			hash := w.commit(files)
			w.agent()
			w.look()
			w.until("clusters/dev", "applied "+hash, func(o *v1alpha1.ClusterOverlay) bool {
				return o.Status.AppliedRevision == "main@sha1:"+hash
			})
			w.eventually("no ConfigMap is left that Git doesn't ask for", func() string {
				var left []string
				for _, u := range w.labelled() {
					if u.GetKind() == "ConfigMap" && u.GetName() != "settings-11" {
						left = append(left, u.GetName())
					}
				}
				return strings.Join(left, ", ")
			})
			w.eventually("every live object is in the inventory", w.orphans)
			for _, d := range w.deletes() {
				unused := strings.HasPrefix(d, "proxmoxmachinetemplates ") && w.live("cluster.x-k8s.io/v1beta2", "MachineDeployment", w.ns+"-dev", "workers") == nil
				if !strings.HasPrefix(d, "configmaps ") && !unused {
					t.Errorf("deleted without an approval: %s", d)
				}
			}
		})
	}
}

// orphansWithoutUIDs lists live objects that no inventory names: what was written
// ahead knows no UIDs yet.
func (w *world) orphansWithoutUIDs() string {
	w.Helper()
	known := map[string]bool{}
	if o := w.find("clusters/dev"); o != nil {
		for _, e := range o.Status.Inventory {
			known[e.Kind+" "+e.Namespace+"/"+e.Name] = true
		}
	}
	var lost []string
	for _, u := range w.labelled() {
		if name := u.GetKind() + " " + u.GetNamespace() + "/" + u.GetName(); !known[name] {
			lost = append(lost, name)
		}
	}
	return strings.Join(lost, "\n")
}

// TestKilledWhileDeleting kills the agent in the middle of an approved teardown: at
// the delete of the Cluster, while it waits for it, and at deletes of the rest.
func TestKilledWhileDeleting(t *testing.T) {
	w := newWorld(t)
	files := clusterFiles(4)
	first := w.commit(merge(files, settingsOf("other")))
	w.fleet("home")
	p := w.agent()
	w.untilApplied("clusters/dev", first)
	// The finalizer of a controller that takes machines down.
	cluster := w.live("cluster.x-k8s.io/v1beta2", "Cluster", w.ns+"-dev", "dev")
	w.setFinalizers(cluster, "cluster.cluster.x-k8s.io")
	w.commit(settingsOf("other"))
	w.look()
	w.untilPending("clusters/dev")
	if got := w.deletes(); len(got) > 0 {
		t.Fatalf("deleted without an approval: %q", got)
	}
	p.kill()
	if r := w.run("", "approve", "clusters/dev", "--yes"); r.code != 0 {
		t.Fatal(r)
	}
	w.killAt(1, deletes("clusters"))

	// It goes on from the status, and waits for the Cluster.
	p = w.agent()
	w.until("clusters/dev", "waits for the Cluster", func(o *v1alpha1.ClusterOverlay) bool {
		c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.PendingDeletionCondition)
		return c != nil && c.Reason == v1alpha1.TeardownReason && strings.Contains(c.Message, "is being deleted")
	})
	w.look()
	if got := w.deletes(); !slices.Equal(got, []string{"clusters NS-dev/dev"}) {
		t.Errorf("deleted before the Cluster was gone: %q", got)
	}
	p.kill()
	w.setFinalizers(w.live("cluster.x-k8s.io/v1beta2", "Cluster", w.ns+"-dev", "dev"))
	w.killAt(1, deletes("machinedeployments"))
	w.killAt(1, deletes("secrets"))
	w.agent()
	w.untilDeleted("namespaces NS-dev")
	all := w.deletes()
	for _, d := range all {
		if n := count(all, d); n > 1 {
			t.Errorf("deleted %d times: %s", n, d)
		}
	}
	secret, namespace := slices.Index(all, "secrets NS-dev/credentials"), slices.Index(all, "namespaces NS-dev")
	if machines := slices.Index(all, "machinedeployments NS-dev/workers"); machines > secret || secret > namespace {
		t.Errorf("deleted in the wrong order: %q", all)
	}
	if w.live("v1", "ConfigMap", w.ns, "other") == nil {
		t.Error("the object of the other overlay is gone")
	}
}

func settingsOf(name string) map[string]string {
	return overlayOf("clusters/"+name, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: NS}}`, name))
}

func (w *world) untilDeleted(what string) {
	w.Helper()
	w.eventually(what+" is deleted", func() string {
		if deletes := w.deletes(); count(deletes, what) == 0 {
			return fmt.Sprintf("%q", deletes)
		}
		return ""
	})
}

func (w *world) setFinalizers(u *unstructured.Unstructured, finalizers ...string) {
	w.Helper()
	base := u.DeepCopy()
	u.SetFinalizers(finalizers)
	w.must(env.Client().Patch(w.Context(), u, client.MergeFrom(base), client.FieldOwner("manager")))
}

func count(all []string, one string) int {
	n := 0
	for _, s := range all {
		if s == one {
			n++
		}
	}
	return n
}
