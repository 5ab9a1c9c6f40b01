package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/sandbox"
	"capstan.dev/capstan/internal/testenv"
)

var env *testenv.Env

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "sandbox" {
		if err := sandbox.Serve(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	ctrl.SetLogger(logr.Discard())
	os.Exit(testenv.Run(m, &env))
}

// sandboxCommand has this program render for another, as the agent's own does.
func sandboxCommand() []string { return []string{os.Args[0], "sandbox"} }

// patience bounds every wait; only failures take as long.
const patience = 60 * time.Second

// world is what a test works in: a namespace with a Fleet, its Git repository, and
// agents of a user of their own. Everything that overlays render lives in
// namespaces whose names begin with the world's.
type world struct {
	*testing.T
	g     *gomega.WithT
	ns    string
	user  string
	repo  *gittest.Repo
	cache string
	logs  *logBuffer
	// wire wraps the agent's connection to the API server, if a test wants that.
	wire func(http.RoundTripper) http.RoundTripper
	// manage changes the options of the agent's manager, if a test wants that.
	manage func(*manager.Options)

	// approved are the objects that the test allowed to be deleted, as "Kind
	// namespace/name"; secrets must show up nowhere.
	approved map[string]bool
	secrets  []string
	requests int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := &world{
		T: t, g: gomega.NewWithT(t), ns: env.Namespace(t), repo: gittest.NewRepo(t), cache: t.TempDir(),
		logs: &logBuffer{}, approved: map[string]bool{},
	}
	w.user = "agent-of-" + w.ns
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.dump())
		}
	})
	return w
}

// logBuffer collects an agent's log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.WriteString(line + "\n")
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is an agent in this process.
type running struct {
	cancel context.CancelFunc
	done   chan error
}

// stop ends the agent and waits for it.
func (r *running) stop() {
	r.cancel()
	<-r.done //nolint:errcheck // it is waited for, not asked
}

// start starts an agent that sees the world's namespace only.
func (w *world) start(change ...func(*agent.Options)) *running {
	w.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		w.Fatal(err)
	}
	restConfig := env.Config(w.user)
	if w.wire != nil {
		restConfig.Wrap(w.wire)
	}
	log := funcr.New(func(prefix, args string) { w.logs.add(prefix + " " + args) }, funcr.Options{Verbosity: 1})
	skip, grace := true, 30*time.Second
	options := manager.Options{
		Scheme: scheme, Logger: log, Controller: config.Controller{SkipNameValidation: &skip},
		Metrics: server.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Cache:                   cache.Options{DefaultNamespaces: map[string]cache.Config{w.ns: {}}, DefaultTransform: agent.Trim},
		GracefulShutdownTimeout: &grace,
	}
	if w.manage != nil {
		w.manage(&options)
	}
	mgr, err := manager.New(restConfig, options)
	if err != nil {
		w.Fatal(err)
	}
	opts := agent.Options{
		Namespace: w.ns, CacheDir: w.cache, Registerer: prometheus.NewRegistry(), Log: log,
		RetryFirst: 20 * time.Millisecond, RetryMost: time.Second, OverlayWorkers: 4,
	}
	for _, f := range change {
		f(&opts)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := agent.Setup(ctx, mgr, opts); err != nil {
		w.Fatal(err)
	}
	r := &running{cancel: cancel, done: make(chan error, 1)}
	go func() {
		r.done <- mgr.Start(ctx)
		close(r.done)
	}()
	w.Cleanup(r.stop)
	return r
}

// fleet creates the Fleet, which looks at Git on request only.
func (w *world) fleet(change ...func(*v1alpha1.Fleet)) {
	w.Helper()
	f := &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "fleet"},
		Spec:       v1alpha1.FleetSpec{Git: v1alpha1.GitSpec{URL: w.repo.URL(), Interval: metav1.Duration{Duration: time.Hour}}},
	}
	for _, c := range change {
		c(f)
	}
	w.must(env.Client().Create(w.Context(), f))
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

// commit replaces files of the repository; NS stands for the world's namespace.
func (w *world) commit(files map[string]string) string {
	w.Helper()
	replaced := map[string]string{}
	for path, content := range files {
		replaced[path] = strings.ReplaceAll(content, "NS", w.ns)
	}
	return w.repo.Commit(replaced, "change")
}

// push commits and has the agent look; it returns the revision.
func (w *world) push(files map[string]string) string {
	w.Helper()
	hash := w.commit(files)
	w.look()
	return revision(hash)
}

// remove deletes paths in Git and has the agent look.
func (w *world) remove(paths ...string) string {
	w.Helper()
	hash := w.repo.Remove("remove", paths...)
	w.look()
	return revision(hash)
}

func revision(hash string) string { return "main@sha1:" + hash }

// look has the agent look at Git and waits until it has.
func (w *world) look() {
	w.Helper()
	request := w.request(w.getFleet())
	w.eventually("the Fleet handles the request", func() string {
		if got := w.getFleet().Status.LastHandledRequest; got != request {
			return fmt.Sprintf("handled %q, want %q", got, request)
		}
		return ""
	})
}

// request asks for a reconciliation of a Fleet or an overlay.
func (w *world) request(o client.Object) string {
	w.Helper()
	w.requests++
	value := fmt.Sprint("request-", w.requests)
	w.annotate(o, v1alpha1.RequestedAtAnnotation, value)
	return value
}

func (w *world) annotate(o client.Object, key, value string) {
	w.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value)
	w.must(env.Client().Patch(w.Context(), o, client.RawPatch(types.MergePatchType, []byte(patch))))
}

// reconcile asks for a full comparison of an overlay and waits until it was made.
func (w *world) reconcile(path string) {
	w.Helper()
	request := w.request(w.overlay(path))
	w.until(path, "handles the request", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.LastHandledRequest == request })
}

func (w *world) getFleet() *v1alpha1.Fleet {
	w.Helper()
	var f v1alpha1.Fleet
	w.must(env.Client().Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: "fleet"}, &f))
	return &f
}

// patchFleet changes the Fleet's spec.
func (w *world) patchFleet(change func(*v1alpha1.FleetSpec)) {
	w.Helper()
	f := w.getFleet()
	base := f.DeepCopy()
	change(&f.Spec)
	w.must(env.Client().Patch(w.Context(), f, client.MergeFrom(base)))
}

// find returns the overlay of a path, nil if there is none.
func (w *world) find(path string) *v1alpha1.ClusterOverlay {
	w.Helper()
	var o v1alpha1.ClusterOverlay
	err := env.Client().Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: planner.OverlayName("fleet", path)}, &o)
	if apierrors.IsNotFound(err) {
		return nil
	}
	w.must(err)
	return &o
}

func (w *world) overlay(path string) *v1alpha1.ClusterOverlay {
	w.Helper()
	o := w.find(path)
	if o == nil {
		w.Fatalf("no ClusterOverlay for %s", path)
	}
	return o
}

// suspend suspends or resumes an overlay.
func (w *world) suspend(path string, on bool) {
	w.Helper()
	patch := fmt.Sprintf(`{"spec":{"suspend":%t}}`, on)
	w.must(env.Client().Patch(w.Context(), w.overlay(path), client.RawPatch(types.MergePatchType, []byte(patch))))
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
			return describe(found)
		}
		return ""
	})
	return found
}

// untilApplied waits until overlays have applied a revision and have taken note of what is
// live since. No controller is there to change that.
func (w *world) untilApplied(revision string, paths ...string) {
	w.Helper()
	for _, path := range paths {
		w.until(path, "applied "+revision, func(o *v1alpha1.ClusterOverlay) bool {
			return o.Status.AppliedRevision == revision && meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.AppliedCondition) && isSeen(o)
		})
	}
}

// isSeen reports whether what was applied has been seen live, by those who look at
// progress and at drift.
func isSeen(o *v1alpha1.ClusterOverlay) bool {
	p, inSync := o.Status.Progress, meta.FindStatusCondition(o.Status.Conditions, v1alpha1.InSyncCondition)
	if inSync == nil && len(o.Status.Inventory) > 0 || inSync != nil && inSync.Reason == v1alpha1.NotWatchedReason {
		return false
	}
	return p != nil && p.Phase != v1alpha1.PhaseUnknown && !strings.Contains(p.Message, "is missing") && !strings.Contains(p.Message, "not seen yet")
}

// untilCondition waits until a condition of an overlay has a reason and a message
// with these parts.
func (w *world) untilCondition(path, kind, reason string, parts ...string) *v1alpha1.ClusterOverlay {
	w.Helper()
	return w.until(path, kind+" "+reason, func(o *v1alpha1.ClusterOverlay) bool { return has(o.Status.Conditions, kind, reason, parts...) })
}

// untilFleet does the same for the Fleet.
func (w *world) untilFleet(kind, reason string, parts ...string) {
	w.Helper()
	w.eventually("Fleet "+kind+" "+reason, func() string {
		f := w.getFleet()
		if !has(f.Status.Conditions, kind, reason, parts...) {
			return toJSON(f.Status)
		}
		return ""
	})
}

// untilFleetApplied waits until the Fleet says that all overlays have applied a revision.
func (w *world) untilFleetApplied(revision string) {
	w.Helper()
	w.eventually("the Fleet to have applied "+revision, func() string {
		if f := w.getFleet(); f.Status.AppliedRevision != revision {
			return toJSON(f.Status)
		}
		return ""
	})
}

func has(conditions []metav1.Condition, kind, reason string, parts ...string) bool {
	c := meta.FindStatusCondition(conditions, kind)
	return c != nil && c.Reason == reason && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(c.Message, p) })
}

func describe(o *v1alpha1.ClusterOverlay) string {
	s := o.Status.DeepCopy()
	s.History = nil
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c metav1.Condition) bool { return c.Reason == v1alpha1.NotTrackedReason })
	return o.Spec.Path + ": " + toJSON(s)
}

func toJSON(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// kinds that tests apply, by short name.
var kinds = map[string]metav1.TypeMeta{
	"Namespace":              {APIVersion: "v1", Kind: "Namespace"},
	"ConfigMap":              {APIVersion: "v1", Kind: "ConfigMap"},
	"Secret":                 {APIVersion: "v1", Kind: "Secret"},
	"Cluster":                {APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "Cluster"},
	"ProxmoxCluster":         {APIVersion: "infrastructure.cluster.x-k8s.io/v1alpha2", Kind: "ProxmoxCluster"},
	"MachineDeployment":      {APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "MachineDeployment"},
	"ProxmoxMachineTemplate": {APIVersion: "infrastructure.cluster.x-k8s.io/v1alpha2", Kind: "ProxmoxMachineTemplate"},
}

// object names a live object: "Kind" and "namespace/name", where the namespace has
// the world's name as prefix: "-a/name" or, for Namespaces, "-a".
func (w *world) object(kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(kinds[kind].APIVersion)
	u.SetKind(kind)
	namespace, rest, namespaced := strings.Cut(name, "/")
	if !namespaced {
		u.SetName(w.ns + name)
		return u
	}
	u.SetNamespace(w.ns + namespace)
	u.SetName(rest)
	return u
}

// live reads an object; nil if there is none.
func (w *world) live(kind, name string) *unstructured.Unstructured {
	w.Helper()
	u := w.object(kind, name)
	err := env.Client().Get(w.Context(), client.ObjectKeyFromObject(u), u)
	if apierrors.IsNotFound(err) {
		return nil
	}
	w.must(err)
	return u
}

// uid of an object that has to be there.
func (w *world) uid(kind, name string) types.UID {
	w.Helper()
	u := w.live(kind, name)
	if u == nil {
		w.Fatalf("%s %s is not there", kind, name)
	}
	return u.GetUID()
}

// wantLive checks that objects are there, not being deleted.
func (w *world) wantLive(kind string, names ...string) {
	w.Helper()
	for _, name := range names {
		if u := w.live(kind, name); u == nil || u.GetDeletionTimestamp() != nil {
			w.Errorf("%s %s is gone or being deleted", kind, name)
		}
	}
}

// untilGone waits until an object is not there or, for Namespaces, which nothing
// here removes, is being deleted.
func (w *world) untilGone(kind, name string) {
	w.Helper()
	w.eventually(kind+" "+name+" is deleted", func() string {
		u := w.live(kind, name)
		if u == nil || kind == "Namespace" && u.GetDeletionTimestamp() != nil {
			return ""
		}
		return toJSON(u)
	})
}

// data is the value of key "v" of a ConfigMap, "" if absent.
func (w *world) data(name string) string {
	w.Helper()
	u := w.live("ConfigMap", name)
	if u == nil {
		return ""
	}
	value, _, _ := unstructured.NestedString(u.Object, "data", "v")
	return value
}

// delete deletes an object as somebody else.
func (w *world) delete(kind, name string) {
	w.Helper()
	w.must(client.IgnoreNotFound(env.Client().Delete(w.Context(), w.object(kind, name))))
}

// finalizers sets an object's finalizers as a controller would.
func (w *world) finalizers(kind, name string, finalizers ...string) {
	w.Helper()
	list, err := json.Marshal(append([]string{}, finalizers...))
	w.must(err)
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":`+string(list)+`}}`))
	w.must(env.Client().Patch(w.Context(), w.object(kind, name), patch, client.FieldOwner("manager")))
}

// finalize lets a Namespace that is being deleted go, as its controller would.
func (w *world) finalize(name string) {
	w.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns + name}}
	w.must(env.Client().Get(w.Context(), client.ObjectKeyFromObject(ns), ns))
	ns.Spec.Finalizers = nil
	w.must(env.Client().SubResource("finalize").Update(w.Context(), ns))
}

// approve approves an overlay's pending deletion.
func (w *world) approve(path string) {
	w.Helper()
	o := w.until(path, "has a pending deletion", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.PendingDeletion != nil })
	for _, ref := range o.Status.PendingDeletion.Objects {
		w.approved[strings.ToLower(ref.Kind)+" "+strings.TrimPrefix(ref.Namespace+"/"+ref.Name, "/")] = true
	}
	w.annotate(o, v1alpha1.ApproveDeletionAnnotation, o.Status.PendingDeletion.Hash)
}

// sent are the agent's requests since a mark, with NS for the world's namespace.
func (w *world) sent(since testenv.Mark) []string { return w.requestsBy(since, testenv.Counted) }

// written are those that write, leases and events left out.
func (w *world) written(since testenv.Mark) []string { return w.requestsBy(since, testenv.Writes) }

func (w *world) requestsBy(since testenv.Mark, filter func([]testenv.Request) []testenv.Request) []string {
	w.Helper()
	var all []string
	for _, r := range filter(env.Requests(w.T, w.user, since)) {
		all = append(all, strings.ReplaceAll(r.String(), w.ns, "NS"))
	}
	return all
}

// statusOf names the status of an overlay as requests do.
func statusOf(path string) string {
	return "clusteroverlays/status NS/" + planner.OverlayName("fleet", path)
}

// count counts the requests that contain a part.
func count(requests []string, part string) int {
	n := 0
	for _, r := range requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

// events are the world's events, as "Reason: message".
func (w *world) events() []string {
	w.Helper()
	var list corev1.EventList
	w.must(env.Client().List(context.Background(), &list, client.InNamespace(w.ns)))
	var all []string
	for _, e := range list.Items {
		all = append(all, e.Reason+": "+e.Message)
	}
	return all
}

// untilEvent waits for an event with a reason and a part of its message.
func (w *world) untilEvent(reason, part string) {
	w.Helper()
	w.eventually("event "+reason, func() string {
		events := w.events()
		for _, e := range events {
			if strings.HasPrefix(e, reason+": ") && strings.Contains(e, part) {
				return ""
			}
		}
		return strings.Join(events, "\n")
	})
}

// overlays lists all ClusterOverlays by name.
func (w *world) overlays() map[string]*v1alpha1.ClusterOverlay {
	w.Helper()
	var list v1alpha1.ClusterOverlayList
	w.must(env.Client().List(context.Background(), &list, client.InNamespace(w.ns)))
	all := map[string]*v1alpha1.ClusterOverlay{}
	for i := range list.Items {
		all[list.Items[i].Name] = &list.Items[i]
	}
	return all
}

// dump says how things stand, for failures.
func (w *world) dump() string {
	var b strings.Builder
	all := w.overlays()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		o := all[name]
		fmt.Fprintf(&b, "%s: desired %s applied %s suspended %t\n", o.Spec.Path, o.Status.DesiredRevision, o.Status.AppliedRevision, o.Spec.Suspend)
		for _, c := range o.Status.Conditions {
			if c.Status != metav1.ConditionTrue && c.Reason != v1alpha1.NotTrackedReason || c.Type == v1alpha1.PendingDeletionCondition {
				fmt.Fprintf(&b, "  %s %s %s %s\n", c.Type, c.Status, c.Reason, c.Message)
			}
		}
		for _, e := range o.Status.Inventory {
			fmt.Fprintf(&b, "  - %s %s/%s %s %s\n", e.Kind, e.Namespace, e.Name, e.State, e.Message)
		}
		if p := o.Status.PendingDeletion; p != nil {
			fmt.Fprintf(&b, "  pending: %s approved %t, %d objects\n", p.Reason, p.Approved, len(p.Objects))
		}
	}
	fmt.Fprintln(&b, strings.Join(w.events(), "\n"))
	for line := range strings.Lines(w.logs.String()) {
		if !strings.Contains(line, "Event occurred") && !strings.Contains(line, "Starting") && !strings.Contains(line, "topping") {
			b.WriteString(line)
		}
	}
	return b.String()
}
