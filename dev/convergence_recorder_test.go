package dev

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	watchapi "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// recorded are the kinds that convergence depends on, read as they are stored.
var recorded = map[schema.GroupVersionResource]string{
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "clusters"}:                                "Cluster",
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "machines"}:                                "Machine",
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "machinesets"}:                             "MachineSet",
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "machinedeployments"}:                      "MachineDeployment",
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "machinehealthchecks"}:                     "MachineHealthCheck",
	{Group: "controlplane.cluster.x-k8s.io", Version: "v1alpha3", Resource: "taloscontrolplanes"}:        "TalosControlPlane",
	{Group: "controlplane.cluster.x-k8s.io", Version: "v1beta2", Resource: "kubeadmcontrolplanes"}:       "KubeadmControlPlane",
	{Group: "bootstrap.cluster.x-k8s.io", Version: "v1alpha3", Resource: "talosconfigs"}:                 "TalosConfig",
	{Group: "bootstrap.cluster.x-k8s.io", Version: "v1alpha3", Resource: "talosconfigtemplates"}:         "TalosConfigTemplate",
	{Group: "bootstrap.cluster.x-k8s.io", Version: "v1beta2", Resource: "kubeadmconfigs"}:                "KubeadmConfig",
	{Group: "bootstrap.cluster.x-k8s.io", Version: "v1beta2", Resource: "kubeadmconfigtemplates"}:        "KubeadmConfigTemplate",
	{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Resource: "proxmoxclusters"}:         "ProxmoxCluster",
	{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Resource: "proxmoxmachines"}:         "ProxmoxMachine",
	{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Resource: "proxmoxmachinetemplates"}: "ProxmoxMachineTemplate",
	overlays: "ClusterOverlay",
}

var overlays = schema.GroupVersionResource{Group: "capstan.dev", Version: "v1alpha1", Resource: "clusteroverlays"}

// An event is one version of an object, or its end.
type event struct {
	rv   uint64 // of etcd, so those of all kinds have one order
	at   time.Time
	gone bool
	kind string
	u    *unstructured.Unstructured
}

// A recorder keeps all that becomes of the objects of a cluster, and of what Capstan says of it.
type recorder struct {
	client  dynamic.Interface
	ctx     context.Context //nolint:containedctx // that of the test
	spaces  map[schema.GroupVersionResource]string
	mu      sync.Mutex
	events  []event
	broken  []string
	last    map[string]uint64 // kind/name → newest resourceVersion
	overlay *said             // what is said last
}

// startRecorder records until the test ends.
func startRecorder(e *env) *recorder {
	e.Helper()
	config := rest.CopyConfig(mgmt.RESTConfig())
	config.QPS = -1
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		e.Fatal(err)
	}
	ctx, cancel := context.WithCancel(e.ctx)
	r := &recorder{client: client, ctx: ctx, last: map[string]uint64{}, spaces: map[schema.GroupVersionResource]string{}}
	var running sync.WaitGroup
	e.Cleanup(func() { cancel(); running.Wait() })
	for resource := range recorded {
		r.spaces[resource] = e.namespace
		if resource == overlays {
			r.spaces[resource] = e.name + "-system"
		}
		lw := r.listWatch(resource)
		list, err := lw.ListWithContext(ctx, metav1.ListOptions{})
		if err != nil {
			e.Fatal(err)
		}
		all := list.(*unstructured.UnstructuredList) //nolint:forcetypeassert // the dynamic client has no other
		for i := range all.Items {
			r.keep(recorded[resource], &all.Items[i], false)
		}
		w, err := watchtools.NewRetryWatcherWithContext(ctx, all.GetResourceVersion(), lw)
		if err != nil {
			e.Fatal(err)
		}
		running.Go(func() {
			for happened := range w.ResultChan() {
				u, ok := happened.Object.(*unstructured.Unstructured)
				if !ok || happened.Type == watchapi.Error {
					r.mu.Lock()
					r.broken = append(r.broken, fmt.Sprintf("the recorder's watch of %s: %v", resource.Resource, happened.Object))
					r.mu.Unlock()
					return
				}
				r.keep(recorded[resource], u, happened.Type == watchapi.Deleted)
			}
		})
	}
	return r
}

func (r *recorder) listWatch(resource schema.GroupVersionResource) *cache.ListWatch {
	client := r.client.Resource(resource).Namespace(r.spaces[resource])
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watchapi.Interface, error) {
			return client.Watch(ctx, o)
		},
	}
}

func (r *recorder) keep(kind string, u *unstructured.Unstructured, gone bool) {
	rv, err := strconv.ParseUint(u.GetResourceVersion(), 10, 64)
	m := event{rv: rv, at: time.Now(), gone: gone, kind: kind, u: u}
	u.SetManagedFields(nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.broken = append(r.broken, fmt.Sprintf("%s %s: %v", kind, u.GetName(), err))
	}
	r.events = append(r.events, m)
	r.last[kind+"/"+u.GetName()] = rv
	if kind == "ClusterOverlay" {
		if r.overlay = nil; !gone {
			r.overlay = hear(m)
		}
	}
}

// now is what Capstan says last; zero if it says nothing.
func (r *recorder) now() said {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.overlay == nil {
		return said{}
	}
	return *r.overlay
}

// history waits until everything there is has been recorded, and returns it in the order of etcd.
func (r *recorder) history(e *env) []event {
	e.Helper()
	for resource, kind := range recorded {
		list, err := r.listWatch(resource).ListWithContext(r.ctx, metav1.ListOptions{})
		if err != nil {
			e.Fatal(err)
		}
		e.Eventually(func() (behind []string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, u := range list.(*unstructured.UnstructuredList).Items { //nolint:forcetypeassert // as above
				if rv, err := strconv.ParseUint(u.GetResourceVersion(), 10, 64); err != nil || r.last[kind+"/"+u.GetName()] < rv {
					behind = append(behind, kind+"/"+u.GetName())
				}
			}
			return behind
		}, "30s", "20ms").Should(gomega.BeEmpty(), "the recorder itself")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.broken {
		e.Error(b)
	}
	all := slices.Clone(r.events)
	slices.SortStableFunc(all, func(a, b event) int { return cmp.Compare(a.rv, b.rv) })
	return all
}

// said is what the status of a ClusterOverlay says.
type said struct {
	at                          time.Time
	rv                          uint64
	desired, applied, converged string // revisions
	phase, message              string
	isConverged, isReady        string // conditions
	workers, controlPlane       string // counts
	outcomes                    []string
}

func hear(m event) *said {
	s := &said{at: m.at, rv: m.rv}
	text := func(path ...string) string {
		v, _, _ := unstructured.NestedString(m.u.Object, append([]string{"status"}, path...)...)
		return v
	}
	s.desired, s.applied, s.converged = text("desiredRevision"), text("appliedRevision"), text("convergedRevision")
	s.phase, s.message = text("progress", "phase"), text("progress", "message")
	s.isConverged, _, _ = cond(m.u, "Converged")
	s.isReady, _, _ = cond(m.u, "Ready")
	for role, to := range map[string]*string{"workers": &s.workers, "controlPlane": &s.controlPlane} {
		counts, _, _ := unstructured.NestedMap(m.u.Object, "status", "progress", role)
		*to = fmt.Sprintf("%v/%v/%v of %v", counts["done"], counts["ready"], counts["existing"], counts["desired"])
	}
	history, _, _ := unstructured.NestedSlice(m.u.Object, "status", "history")
	for _, h := range history {
		h, _ := h.(map[string]any)
		s.outcomes = append(s.outcomes, fmt.Sprintf("%v: %v", h["revision"], h["outcome"]))
	}
	return s
}

func (s said) String() string {
	return fmt.Sprintf("desired %s, applied %s, converged %s; %s (Converged %s, Ready %s; control plane %s, workers %s): %s",
		short(s.desired), short(s.applied), short(s.converged), s.phase, s.isConverged, s.isReady, s.controlPlane, s.workers, s.message)
}

func short(revision string) string { return revision[max(0, len(revision)-7):] }

// A world is what exists at a moment: kind → name → object.
type world map[string]map[string]*unstructured.Unstructured

func (w world) apply(m event) {
	if w[m.kind] == nil {
		w[m.kind] = map[string]*unstructured.Unstructured{}
	}
	if m.gone {
		delete(w[m.kind], m.u.GetName())
	} else {
		w[m.kind][m.u.GetName()] = m.u
	}
}

func (w world) sorted(kind string) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, name := range slices.Sorted(maps.Keys(w[kind])) {
		out = append(out, w[kind][name])
	}
	return out
}

func str(u *unstructured.Unstructured, path ...string) string {
	if u == nil {
		return ""
	}
	v, _, _ := unstructured.NestedString(u.Object, path...)
	return v
}

func number(u *unstructured.Unstructured, path ...string) int64 {
	v, ok, _ := unstructured.NestedInt64(u.Object, path...)
	if !ok {
		return -1
	}
	return v
}

// missing says what is not there, not up to date, or not ready, by the definitions of Cluster API and its
// providers, from specifications and Machines alone; empty if everything is. It shares nothing with the product.
func (w world) missing() string {
	seen := map[string]bool{}
	check := func(owner *unstructured.Unstructured, machines []*unstructured.Unstructured, judge func(m, infra, config *unstructured.Unstructured) string) string {
		want := number(owner, "spec", "replicas")
		if want == -1 {
			want = 1
		}
		if int64(len(machines)) != want {
			return fmt.Sprintf("%s has %d machines of %d", owner.GetName(), len(machines), want)
		}
		for _, m := range machines {
			seen[m.GetName()] = true
			infra := w[str(m, "spec", "infrastructureRef", "kind")][str(m, "spec", "infrastructureRef", "name")]
			config := w[str(m, "spec", "bootstrap", "configRef", "kind")][str(m, "spec", "bootstrap", "configRef", "name")]
			if why := cmp.Or(unready(m), judge(m, infra, config)); why != "" {
				return m.GetName() + " " + why
			}
		}
		return ""
	}
	var machines []*unstructured.Unstructured
	for _, m := range w.sorted("Machine") {
		if _, is := m.GetLabels()["cluster.x-k8s.io/control-plane"]; is {
			machines = append(machines, m)
		}
	}
	for _, kind := range []string{"TalosControlPlane", "KubeadmControlPlane"} {
		for _, cp := range w.sorted(kind) {
			if why := check(cp, machines, func(m, infra, config *unstructured.Unstructured) string {
				return differsFromControlPlane(cp, m, infra, config)
			}); why != "" {
				return why
			}
		}
	}
	for _, md := range w.sorted("MachineDeployment") {
		var machines []*unstructured.Unstructured
		for _, m := range w.sorted("Machine") {
			if m.GetLabels()["cluster.x-k8s.io/deployment-name"] == md.GetName() {
				machines = append(machines, m)
			}
		}
		if why := check(md, machines, func(m, infra, config *unstructured.Unstructured) string {
			return differsFromDeployment(md, m, infra, config)
		}); why != "" {
			return why
		}
	}
	for name := range w["Machine"] {
		if !seen[name] {
			return name + " is nobody's"
		}
	}
	if len(w["Cluster"]) == 0 {
		return "there is no Cluster"
	}
	for name, c := range w["Cluster"] {
		if paused, _, _ := unstructured.NestedBool(c.Object, "spec", "paused"); paused {
			return name + " is paused"
		}
	}
	return ""
}

func unready(m *unstructured.Unstructured) string {
	ready, _, why := cond(m, "Ready")
	available, _, _ := cond(m, "Available")
	switch {
	case m.GetDeletionTimestamp() != nil:
		return "is being deleted"
	case str(m, "status", "phase") != "Running":
		return "is " + str(m, "status", "phase")
	case str(m, "status", "nodeRef", "name") == "":
		return "has no node"
	case ready != "True":
		return "is not ready: " + why
	case available != "True":
		return "is not available"
	}
	return ""
}

func clonedFrom(u *unstructured.Unstructured) string {
	if u == nil {
		return "nothing"
	}
	return u.GetAnnotations()["cluster.x-k8s.io/cloned-from-name"]
}

func differsFromControlPlane(cp, m, infra, config *unstructured.Unstructured) string {
	template := str(cp, "spec", "infrastructureTemplate", "name")
	if cp.GetKind() == "KubeadmControlPlane" {
		template = str(cp, "spec", "machineTemplate", "spec", "infrastructureRef", "name")
		if upToDate, _, why := cond(m, "UpToDate"); upToDate != "True" {
			return "is outdated: " + why
		}
	} else {
		want, _, _ := unstructured.NestedMap(cp.Object, "spec", "controlPlaneConfig", "controlplane")
		if config == nil {
			return "has no TalosConfig"
		}
		if has, _, _ := unstructured.NestedMap(config.Object, "spec"); !reflect.DeepEqual(want, has) {
			return "has another Talos configuration"
		}
	}
	if want, has := str(cp, "spec", "version"), str(m, "spec", "version"); want != has {
		return "has " + has + " instead of " + want
	}
	if has := clonedFrom(infra); has != template {
		return "was cloned from " + has + " instead of " + template
	}
	return ""
}

func differsFromDeployment(md, m, infra, config *unstructured.Unstructured) string {
	if upToDate, _, why := cond(m, "UpToDate"); upToDate != "True" {
		return "is outdated: " + why
	}
	for what, pair := range map[string][2]string{
		"version":   {str(md, "spec", "template", "spec", "version"), str(m, "spec", "version")},
		"machine":   {str(md, "spec", "template", "spec", "infrastructureRef", "name"), clonedFrom(infra)},
		"bootstrap": {str(md, "spec", "template", "spec", "bootstrap", "configRef", "name"), clonedFrom(config)},
	} {
		if pair[0] != pair[1] {
			return fmt.Sprintf("has %s %s instead of %s", what, pair[1], pair[0])
		}
	}
	// What changes in place.
	labels, _, _ := unstructured.NestedStringMap(md.Object, "spec", "template", "metadata", "labels")
	for k, v := range labels {
		if m.GetLabels()[k] != v {
			return fmt.Sprintf("has label %s=%q instead of %q", k, m.GetLabels()[k], v)
		}
	}
	want, _, _ := unstructured.NestedMap(md.Object, "spec", "template", "spec", "deletion")
	has, _, _ := unstructured.NestedMap(m.Object, "spec", "deletion")
	for k, v := range want {
		if has[k] != v {
			return fmt.Sprintf("has %s %v instead of %v", k, has[k], v)
		}
	}
	return ""
}

// unsettled says which controller has not drawn its conclusions from the machines yet.
func (w world) unsettled() string { return cmp.Or(w.makersBehind(), w.sumsBehind()) }

// makersBehind says which of those has not that make the machines: they look at Machines themselves.
func (w world) makersBehind() string {
	counters := map[string][]string{
		"MachineSet":          {"replicas", "readyReplicas", "availableReplicas", "upToDateReplicas"},
		"KubeadmControlPlane": {"replicas", "readyReplicas", "availableReplicas", "upToDateReplicas"},
		"TalosControlPlane":   {"replicas", "readyReplicas"},
	}
	if why := w.countsBehind(counters); why != "" {
		return why
	}
	for _, u := range w.sorted("KubeadmControlPlane") {
		if why := rolling(u); why != "" {
			return why
		}
	}
	for _, u := range w.sorted("TalosControlPlane") {
		if ready, _, _ := cond(u, "Ready"); ready != "True" || str(u, "status", "version") != str(u, "spec", "version") {
			return "the TalosControlPlane is not ready at its version"
		}
		for _, c := range []string{"EtcdClusterHealthyCondition", "ControlPlaneComponentsHealthy"} {
			if status, _, why := cond(u, c); status != "True" {
				return c + " of the TalosControlPlane is not True: " + why
			}
		}
	}
	return ""
}

// sumsBehind says which of those has not that add up what others say.
func (w world) sumsBehind() string {
	counters := map[string][]string{
		"MachineDeployment":  {"replicas", "readyReplicas", "availableReplicas", "upToDateReplicas"},
		"MachineHealthCheck": nil, "Cluster": nil,
	}
	if why := w.countsBehind(counters); why != "" {
		return why
	}
	for _, u := range slices.Concat(w.sorted("MachineDeployment"), w.sorted("Cluster")) {
		if why := rolling(u); why != "" {
			return why
		}
	}
	for _, u := range w.sorted("Cluster") {
		if available, _, why := cond(u, "Available"); available != "True" {
			return "the Cluster is not Available: " + why
		}
		for _, role := range []string{"controlPlane", "workers"} {
			for _, c := range []string{"replicas", "readyReplicas", "availableReplicas"} {
				if n, want := number(u, "status", role, c), number(u, "status", role, "desiredReplicas"); n != want &&
					!(role == "controlPlane" && c == "availableReplicas" && len(w["TalosControlPlane"]) > 0) { // Talos counts none
					return fmt.Sprintf("%s.%s of the Cluster is %d of %d", role, c, n, want)
				}
			}
		}
	}
	return ""
}

// countsBehind says which counter of which kind is not what is declared, or was not for what is declared now.
func (w world) countsBehind(counters map[string][]string) string {
	for _, kind := range slices.Sorted(maps.Keys(counters)) {
		for _, u := range w.sorted(kind) {
			if number(u, "status", "observedGeneration") < u.GetGeneration() {
				return u.GetKind() + " has not been looked at by its controller"
			}
			for _, c := range counters[kind] {
				if n := number(u, "status", c); n != number(u, "spec", "replicas") && (n != -1 || number(u, "spec", "replicas") != 0) {
					return fmt.Sprintf("%s of %s %s is %d", c, kind, u.GetName(), n)
				}
			}
		}
	}
	return ""
}

func rolling(u *unstructured.Unstructured) string {
	for _, c := range []string{"RollingOut", "ScalingUp", "ScalingDown"} {
		if status, _, _ := cond(u, c); status == "True" {
			return u.GetKind() + " " + u.GetName() + " is " + c
		}
	}
	return ""
}

// differs says which of the objects that a revision declares is not as declared.
func (w world) differs(declared []*unstructured.Unstructured) string {
	for _, o := range declared {
		known := false
		for resource, kind := range recorded {
			known = known || kind == o.GetKind() && resource.GroupVersion().String() == o.GetAPIVersion()
		}
		if !known {
			continue
		}
		live := w[o.GetKind()][o.GetName()]
		if live == nil {
			return o.GetKind() + " " + o.GetName() + " is not there"
		}
		if path := notIn(o.Object["spec"], live.Object["spec"], "spec"); path != "" {
			return fmt.Sprintf("%s %s: %s is not as declared", o.GetKind(), o.GetName(), path)
		}
	}
	return ""
}

// notIn is where a declared value is not part of a live one.
func notIn(want, has any, path string) string {
	switch want := want.(type) {
	case map[string]any:
		h, _ := has.(map[string]any)
		for k, v := range want {
			if where := notIn(v, h[k], path+"."+k); where != "" {
				return where
			}
		}
		return ""
	case []any:
		h, _ := has.([]any)
		if len(want) != len(h) {
			return path
		}
		for i, v := range want {
			if where := notIn(v, h[i], path+"."+strconv.Itoa(i)); where != "" {
				return where
			}
		}
		return ""
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(has)
	if string(a) != string(b) {
		return path
	}
	return ""
}

// A verdict is what the judge makes of a history.
type verdict struct {
	complaints []string
	notes      []string // not wrong, and worth a look
	latencies  []*latency
	phases     map[string]int // how often each phase began
}

// latency is how long it took to report a success, and controllers to say so, since the last Machine became as it is
// to be; or since the revision was applied, if that is later.
type latency struct {
	revision string
	since    time.Time
	// said is Capstan, makers the controllers that make the machines, all every controller; -1 if they never did.
	said, makers, all time.Duration
}

// after is how long it took Capstan after somebody.
func (l latency) after(d time.Duration) time.Duration { return max(0, l.said-max(0, d)) }

// race is how long what was read may be older than what is said of it: a node may fail while the sentence is written.
const race = time.Second

// judge replays a history and holds what Capstan said against what was.
//
//nolint:funlen,cyclop // one claim after the other
func judge(history []event, order []string, declared map[string][]*unstructured.Unstructured) verdict {
	v := verdict{phases: map[string]int{}}
	w := world{}
	var was said
	var goodSince, madeSince, settledSince, appliedSince, lastGood time.Time
	var current *latency // that of the success which was reported last, while nothing else has happened to the machines
	hasConverged := map[string]bool{}
	generations := ""
	var course []string // since the machines are there
	note := func(at time.Time, who, what string) {
		line := fmt.Sprintf("%s: %s", who, what)
		if goodSince.IsZero() || len(course) > 0 && strings.HasSuffix(course[len(course)-1], line) {
			return
		}
		course = append(course, fmt.Sprintf("+%s %s", at.Sub(goodSince).Round(time.Millisecond), line))
	}
	complain := func(s said, format string, args ...any) {
		v.complaints = append(v.complaints, fmt.Sprintf("at %s, %s\n  %s", s.at.Format("15:04:05.000"), fmt.Sprintf(format, args...), s))
	}
	for _, m := range history {
		w.apply(m)
		if m.kind != "ClusterOverlay" {
			if g := w.generations(); g != generations {
				generations, lastGood = g, time.Time{} // something else is to be reached
			}
			if w.missing() != "" {
				goodSince, madeSince, settledSince, current = time.Time{}, time.Time{}, time.Time{}, nil
				continue
			}
			lastGood = m.at
			if goodSince.IsZero() {
				goodSince, course = m.at, nil
			}
			why := w.unsettled()
			for since, behind := range map[*time.Time]string{&madeSince: w.makersBehind(), &settledSince: why} {
				if behind != "" {
					*since = time.Time{}
				} else if since.IsZero() {
					*since = m.at
				}
			}
			current.settle(madeSince, settledSince)
			note(m.at, "controllers", why)
			continue
		}
		if m.gone {
			was = said{}
			continue
		}
		s := *hear(m)
		note(m.at, "Capstan", s.phase+" "+s.message)
		if s.applied != was.applied {
			appliedSince = s.at
		}
		if s.phase != was.phase {
			v.phases[s.phase]++
		}
		if !goodSince.IsZero() {
			lastGood = m.at
		}
		if s.phase == "Converged" && was.phase != "Converged" || s.converged != was.converged && s.converged != "" ||
			s.isConverged == "True" && was.isConverged != "True" || s.isReady == "True" && was.isReady != "True" {
			why := w.missing()
			if why != "" && m.at.Sub(lastGood) < race {
				v.notes = append(v.notes, fmt.Sprintf("%s: success was said %s after %s", short(s.applied), m.at.Sub(lastGood), why))
				why = ""
			}
			if why = cmp.Or(why, w.differs(declared[s.applied])); why != "" {
				complain(s, "success is reported, but %s", why)
			} else if why := w.unsettled(); why != "" {
				v.notes = append(v.notes, fmt.Sprintf("%s: success was said while %s", short(s.applied), why))
			}
		}
		if s.isReady == "True" && (s.isConverged != "True" || s.phase != "Converged" || s.converged != s.applied || s.desired != s.applied) {
			complain(s, "Ready is True")
		}
		if s.isConverged == "True" && s.phase != "Converged" {
			complain(s, "Converged is True")
		}
		if s.converged != was.converged {
			if slices.Index(order, s.converged) <= slices.Index(order, was.converged) {
				complain(s, "the converged revision goes back from %s", short(was.converged))
			}
			if s.converged == s.applied && !hasConverged[s.applied] {
				hasConverged[s.applied] = true
				current = &latency{revision: s.applied, since: latest(goodSince, appliedSince), makers: -1, all: -1}
				current.said = max(0, s.at.Sub(current.since))
				current.settle(madeSince, settledSince)
				v.latencies = append(v.latencies, current)
				if current.said > time.Second {
					v.notes = append(v.notes, fmt.Sprintf("%s took %s:\n  %s", short(s.applied), current.said, strings.Join(course, "\n  ")))
				}
			}
		}
		if hasConverged[s.applied] && s.applied == was.applied {
			if s.phase == "Progressing" || s.phase == "Stalled" {
				complain(s, "it is %s again after it had converged", s.phase)
			}
			if s.phase != "Converged" && s.message == "" {
				complain(s, "no cause is named")
			}
			if s.phase == "Degraded" && was.phase == "Converged" && w.missing() == "" {
				v.notes = append(v.notes, fmt.Sprintf("%s: Degraded while the machines are there: %s", short(s.applied), s.message))
			}
		}
		was = s
	}
	return v
}

func spent(d time.Duration) string {
	if d < 0 {
		return "no time before the next change"
	}
	return d.Round(time.Millisecond).String()
}

// settle notes when controllers said so, the first time that they did.
func (l *latency) settle(made, settled time.Time) {
	if l == nil {
		return
	}
	for to, at := range map[*time.Duration]time.Time{&l.makers: made, &l.all: settled} {
		if *to < 0 && !at.IsZero() {
			*to = max(0, at.Sub(l.since))
		}
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// generations stand for what is to be reached.
func (w world) generations() string {
	var out strings.Builder
	for _, u := range slices.Concat(w.sorted("Cluster"), w.sorted("MachineDeployment"), w.sorted("TalosControlPlane"), w.sorted("KubeadmControlPlane")) {
		fmt.Fprintln(&out, u.GetUID(), u.GetGeneration())
	}
	return out.String()
}

// convergences are the latencies of all tests, by what was measured.
var convergences struct {
	sync.Mutex
	all map[string][]time.Duration
}

func noteLatencies(t *testing.T, latencies []*latency) {
	convergences.Lock()
	defer convergences.Unlock()
	if convergences.all == nil {
		convergences.all = map[string][]time.Duration{}
	}
	for _, l := range latencies {
		t.Logf("%s: after the last machine, those who made them were through in %s, all controllers in %s, and Capstan in %s",
			short(l.revision), spent(l.makers), spent(l.all), spent(l.said))
		for what, d := range map[string]time.Duration{
			"1 the last machine to success":            l.said,
			"2 the last machine to its makers' word":   l.makers,
			"3 the last machine to all controllers'":   l.all,
			"4 the makers' word to success":            l.after(l.makers),
			"5 the word of all controllers to success": l.after(l.all),
		} {
			if d >= 0 {
				convergences.all[what] = append(convergences.all[what], d)
			}
		}
	}
	for _, what := range slices.Sorted(maps.Keys(convergences.all)) {
		all := slices.Sorted(slices.Values(convergences.all[what]))
		n := len(all)
		t.Logf("so far, from %s: p50 %s, p90 %s, max %s of %d", what[2:], all[n/2].Round(time.Millisecond),
			all[n*9/10].Round(time.Millisecond), all[n-1].Round(time.Millisecond), n)
	}
}
