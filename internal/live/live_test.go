package live_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	rbacv1 "k8s.io/api/rbac/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/live"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/testenv"
)

var env *testenv.Env

func TestMain(m *testing.M) { os.Exit(testenv.Run(m, &env)) }

// bed is a namespace with one overlay in it.
type bed struct {
	*testing.T
	*gomega.WithT
	ns      string
	overlay types.NamespacedName
	objects *live.Objects
	stop    func()

	mu      sync.Mutex
	changes int
	sighted int
	failed  map[schema.GroupKind]int
}

func newBed(t *testing.T, config *rest.Config) *bed {
	t.Helper()
	b := &bed{T: t, WithT: gomega.NewWithT(t), ns: env.Namespace(t), failed: map[schema.GroupKind]int{}}
	b.SetDefaultEventuallyTimeout(time.Minute)
	b.overlay = types.NamespacedName{Namespace: b.ns, Name: "fleet-a"}
	var err error
	b.objects, err = live.New(live.Options{
		Config: config,
		Retry:  100 * time.Millisecond, Patience: 100 * time.Millisecond,
		Changed: func(overlay types.NamespacedName) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if overlay == b.overlay {
				b.changes++
			}
		},
		Sighted: func(overlay types.NamespacedName) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if overlay == b.overlay {
				b.sighted++
			}
		},
		Failed: func(kind schema.GroupKind) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.failed[kind]++
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.objects.Start(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

// changed waits for the overlay to be told of.
func (b *bed) changed(since int) int {
	b.Helper()
	var now int
	b.Eventually(func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		now = b.changes
		return now
	}).Should(gomega.BeNumerically(">", since))
	return now
}

func (b *bed) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changes
}

// create creates an object of a manifest in which NS is the namespace.
func (b *bed) create(manifest string) *unstructured.Unstructured {
	b.Helper()
	u := b.parse(manifest)
	if err := env.Client().Create(b.Context(), u); err != nil {
		b.Fatal(err)
	}
	return u
}

// ref is the reference that an inventory has of an object.
func ref(u *unstructured.Unstructured) v1alpha1.ObjectReference {
	gvk := u.GroupVersionKind()
	return v1alpha1.ObjectReference{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: u.GetNamespace(), Name: u.GetName()}
}

func (b *bed) complete() live.View {
	b.Helper()
	var view live.View
	b.Eventually(func() string {
		if view = b.objects.Look(b.overlay); !view.Complete {
			return "not complete: " + view.Failing
		}
		return ""
	}).Should(gomega.BeEmpty())
	return view
}

const cluster = `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: a, namespace: NS, labels: {capstan.dev/overlay: fleet-a}},
spec: {infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: a}}}`

func machine(name, cluster string) string {
	return fmt.Sprintf(`{apiVersion: cluster.x-k8s.io/v1beta2, kind: Machine, metadata: {name: %[1]s, namespace: NS, labels: {cluster.x-k8s.io/cluster-name: %[2]s}},
spec: {clusterName: %[2]s, version: v1.35.0, bootstrap: {dataSecretName: x}, infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachine, name: %[1]s}}}`, name, cluster)
}

func proxmoxMachine(name, cluster string) string {
	return fmt.Sprintf(`{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachine, metadata: {name: %[1]s, namespace: NS,
labels: {cluster.x-k8s.io/cluster-name: %[2]s}, annotations: {cluster.x-k8s.io/cloned-from-name: t}},
spec: {sourceNode: pve1, templateID: 100, network: {networkDevices: [{bridge: vmbr0}]}}}`, name, cluster)
}

// What is declared and what controllers make is seen, down to the kinds that only
// Machines name; of other Clusters nothing is.
func TestSeen(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	declared := b.create(cluster)
	b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{ref(declared), {Version: "v1", Kind: "ConfigMap", Namespace: b.ns, Name: "x"}})
	n := b.changed(0)
	view := b.complete()
	if view.Live[object.IDOf(declared)] == nil || len(view.Live) != 1 || len(view.Made) != 0 {
		t.Fatalf("declared: %v", view)
	}

	b.create(machine("m1", "a"))
	b.create(proxmoxMachine("m1", "a"))
	b.create(machine("other", "b"))
	b.create(proxmoxMachine("other", "b"))
	b.changed(n)
	b.Eventually(func() []string { return kinds(b.objects.Look(b.overlay).Made) }).Should(gomega.ConsistOf("Machine m1", "ProxmoxMachine m1"))
	b.complete()

	machines, err := b.objects.Machines(t.Context(), b.overlay)
	if err != nil || len(machines) != 1 || machines[0].GetName() != "m1" || len(machines[0].GetManagedFields()) > 0 {
		t.Errorf("read anew: %v, %v", machines, err)
	}

	n = b.count()
	if err := env.Client().Delete(t.Context(), machines[0]); err != nil {
		t.Fatal(err)
	}
	b.changed(n)
	b.Eventually(func() []string { return kinds(b.objects.Look(b.overlay).Made) }).Should(gomega.ConsistOf("ProxmoxMachine m1"))

	n = b.count()
	if err := env.Client().Delete(t.Context(), declared); err != nil {
		t.Fatal(err)
	}
	b.changed(n)
	b.Eventually(func() int { return len(b.objects.Look(b.overlay).Live) }).Should(gomega.BeZero())

	b.objects.Forget(b.overlay)
	if view := b.objects.Look(b.overlay); len(view.Live)+len(view.Made) > 0 {
		t.Errorf("forgotten, and still there: %v", view)
	}
}

func kinds(objects []*unstructured.Unstructured) []string {
	names := []string{}
	for _, u := range objects {
		names = append(names, u.GetKind()+" "+u.GetName())
	}
	return names
}

// At rest nothing is asked of the API server.
func TestRest(t *testing.T) {
	user := "live-" + t.Name()
	b := newBed(t, env.Config(user))
	u := b.create(cluster)
	b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{ref(u)})
	b.changed(0)
	b.complete()
	mark := env.Mark(t)
	for range 100 {
		b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{ref(u)})
		b.objects.Look(b.overlay)
	}
	n := b.count()
	b.create(machine("m1", "a"))
	b.create(proxmoxMachine("m1", "a"))
	b.changed(n)
	b.Eventually(func() []string { return kinds(b.objects.Look(b.overlay).Made) }).Should(gomega.HaveLen(2))
	for _, r := range env.Requests(t, user, mark) {
		if !strings.Contains(r.String(), "proxmoxmachine") && r.Verb != "watch" { // the kind that became known just now
			t.Errorf("asked: %s", r)
		}
	}
}

// A kind that the API server doesn't know is not taken for objects that don't exist.
func TestUnknownKind(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{
		{Group: "controlplane.cluster.x-k8s.io", Version: "v1", Kind: "NoSuchControlPlane", Namespace: b.ns, Name: "a"},
	})
	b.Eventually(func() string { return b.objects.Look(b.overlay).Failing }).Should(gomega.ContainSubstring("NoSuchControlPlane"))
	if b.objects.Look(b.overlay).Complete {
		t.Error("it is unknown, and called complete")
	}
	b.changed(0) // it is told of
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed[schema.GroupKind{Group: "controlplane.cluster.x-k8s.io", Kind: "NoSuchControlPlane"}] == 0 {
		t.Errorf("failures: %v", b.failed)
	}
}

// A right that is lacking is named, and noticed when it is given.
func TestForbidden(t *testing.T) {
	user := env.Namespace(t) + "-live" // rights outlive a test
	b := newBed(t, env.Restricted(t, user, "", rbacv1.PolicyRule{APIGroups: []string{"cluster.x-k8s.io"}, Resources: []string{"clusters"}, Verbs: []string{"list", "watch"}}))
	u := b.create(cluster)
	b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{ref(u)})
	b.Eventually(func() string { return b.objects.Look(b.overlay).Failing }).Should(gomega.MatchRegexp("(?s)Machine.*forbidden"))
	if _, err := b.objects.Machines(t.Context(), b.overlay); !apierrors.IsForbidden(err) {
		t.Errorf("read anew: %v", err)
	}
	env.Grant(t, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}, "",
		rbacv1.PolicyRule{APIGroups: []string{"cluster.x-k8s.io"}, Resources: []string{"machines", "machinesets"}, Verbs: []string{"list", "watch"}})
	view := b.complete()
	b.Eventually(func() string { return b.objects.Look(b.overlay).Failing }).Should(gomega.BeEmpty())
	if view.Live[object.IDOf(u)] == nil {
		t.Error("the Cluster isn't seen")
	}
}

// line is a connection to the API server that can be cut.
type line struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, errors.New("the line is cut")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		l.conns = append(l.conns, conn)
	}
	return conn, err
}

func (l *line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	for _, conn := range l.conns {
		_ = conn.Close()
	}
	l.conns = nil
}

// While the API server can't be reached what was seen last stays, and is said to be old;
// changes made meanwhile are seen afterwards.
func TestAPIServerAway(t *testing.T) {
	config, wire := env.Config("live-"+t.Name()), &line{}
	config.Dial = wire.dial
	b := newBed(t, config)
	u := b.create(cluster)
	b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{ref(u)})
	b.complete()
	wire.set(true)
	b.Eventually(func() string { return b.objects.Look(b.overlay).Failing }).Should(gomega.ContainSubstring("the line is cut"))
	if view := b.objects.Look(b.overlay); view.Live[object.IDOf(u)] == nil {
		t.Error("what was seen is forgotten")
	}
	n := b.count()
	b.create(machine("m1", "a"))
	wire.set(false)
	b.changed(n)
	b.Eventually(func() string {
		view := b.objects.Look(b.overlay)
		if view.Failing != "" || len(view.Made) == 0 {
			return "failing: " + view.Failing
		}
		return ""
	}).Should(gomega.BeEmpty())
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An API server that is behind accepts a streamed list, and says only then that there won't be
// one: that is said, too.
func TestListGivenUp(t *testing.T) {
	const behind = `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":504,"reason":"Timeout",` +
		`"details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}],"retryAfterSeconds":1},` +
		`"message":"Timeout: Too large resource version: 11003, current: 6158"}}` + "\n"
	config := env.Config("live-" + t.Name())
	var answered atomic.Int32
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Query().Get("sendInitialEvents") != "true" {
				return next.RoundTrip(r)
			}
			if answered.Add(1) > 100 { // it is asked again at once
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return &http.Response{
				StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
				Body: io.NopCloser(strings.NewReader(behind)), Request: r,
			}, nil
		})
	})
	b := newBed(t, config)
	b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{ref(b.create(cluster))})
	b.Eventually(func() string { return b.objects.Look(b.overlay).Failing }).Should(gomega.ContainSubstring("Too large resource version"))
}

// What is kept holds nothing secret.
func TestTrimmed(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	u := b.create(cluster)
	b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{ref(u)})
	m := b.create(strings.Replace(machine("m1", "a"), "dataSecretName: x", "configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: TalosConfig, name: m1}", 1))
	b.create(`{apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3, kind: TalosConfig, metadata: {name: m1, namespace: NS, labels: {cluster.x-k8s.io/cluster-name: a}},
spec: {generateType: worker, strategicPatches: ["machine: {token: hunter2}"]}}`)
	b.Eventually(func() []string { return kinds(b.objects.Look(b.overlay).Made) }).Should(gomega.ConsistOf("Machine m1", "TalosConfig m1"))
	for _, o := range b.objects.Look(b.overlay).Made {
		if text := fmt.Sprint(o.Object); strings.Contains(text, "hunter2") || len(o.GetManagedFields()) > 0 {
			t.Errorf("kept: %s", text)
		}
	}
	if gks := capi.MadeOf(m); len(gks) != 2 {
		t.Errorf("a Machine is made of %v", gks)
	}
}

// What another overlay's Machines are made of may not be watchable; that hides nothing here.
func TestOthersKind(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	u := b.create(cluster)
	other := b.create(strings.NewReplacer("name: a,", "name: b,", "fleet-a", "fleet-b").Replace(cluster))
	of := types.NamespacedName{Namespace: b.ns, Name: "fleet-b"}
	b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{ref(u)})
	b.objects.Declare(of, []v1alpha1.ObjectReference{ref(other)})
	b.create(strings.Replace(machine("m1", "b"), "ProxmoxMachine", "NoSuchMachine", 1))
	b.Eventually(func() string { return b.objects.Look(of).Failing }).Should(gomega.ContainSubstring("NoSuchMachine"))
	if view := b.objects.Look(of); view.Complete {
		t.Error("it is unknown, and called complete")
	}
	if view := b.objects.Look(b.overlay); !view.Complete || view.Failing != "" {
		t.Errorf("hidden by another: complete %t, %s", view.Complete, view.Failing)
	}
}

// A list that succeeds doesn't hide that nothing can be watched: what is known is old.
func TestListedOnly(t *testing.T) {
	user := env.Namespace(t) + "-live"
	b := newBed(t, env.Restricted(t, user, "", rbacv1.PolicyRule{
		APIGroups: []string{"cluster.x-k8s.io"}, Resources: []string{"clusters", "machines", "machinesets"}, Verbs: []string{"list"},
	}))
	u := b.create(cluster)
	b.objects.Declare(b.overlay, []v1alpha1.ObjectReference{ref(u)})
	b.Eventually(func() string { return b.objects.Look(b.overlay).Failing }).Should(gomega.ContainSubstring("forbidden"))
	b.Consistently(func() string { return b.objects.Look(b.overlay).Failing }, "3s").ShouldNot(gomega.BeEmpty())
}

// An overlay without anything to watch is known at once: nobody would tell of it later.
func TestNothingToWatch(t *testing.T) {
	o, err := live.New(live.Options{Config: env.Config("x"), Mapper: restmapper.NewDiscoveryRESTMapper(nil), Changed: func(types.NamespacedName) {}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := types.NamespacedName{Namespace: "a", Name: "b"}
	o.Declare(overlay, []v1alpha1.ObjectReference{{Version: "v1", Kind: "ConfigMap", Namespace: "a", Name: "x"}})
	if view := o.Look(overlay); !view.Complete {
		t.Error("not complete before the start")
	}
}
