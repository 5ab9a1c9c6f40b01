package agent_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/testenv"
)

// isCorrected tells whether objects were corrected and none has drifted now.
func isCorrected(o *v1alpha1.ClusterOverlay) bool {
	return len(o.Status.Corrections) > 0 && len(o.Status.Drift) == 0
}

// An object that couldn't be examined once is examined again.
func TestDriftExaminedAgain(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(simple("a", "one")))
	var closed atomic.Bool
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if closed.Load() && r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "configmaps/settings") {
				return nil, fmt.Errorf("no way to %s", r.URL.Host)
			}
			return next.RoundTrip(r)
		})
	}
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	closed.Store(true)
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.untilCondition("clusters/a", v1alpha1.InSyncCondition, v1alpha1.CorrectionBlockedReason)
	closed.Store(false)
	w.until("clusters/a", "is corrected", isCorrected)
	w.check()
}

// What can't be made again because its namespace is gone is said, and made again once
// somebody has brought that back.
func TestDriftNamespaceBack(t *testing.T) {
	w := newWorld(t)
	kubectl := env.Kubectl(t, "person")
	kubectl.Run(t, "", "create", "namespace", w.ns+"-out")
	first := revision(w.commit(overlayOf("clusters/a", configMap("-out", "settings", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.delete("Namespace", "-out")
	w.delete("ConfigMap", "-out/settings")
	w.finalize("-out")
	w.untilDrift("clusters/a", "ConfigMap settings Blocked Missing")
	kubectl.Run(t, "", "create", "namespace", w.ns+"-out")
	w.until("clusters/a", "is corrected", isCorrected)
	w.wantLive("ConfigMap", "-out/settings")
	w.check()
}

// Nor is it overlooked if the namespace is one that overlays share, and goes first: the
// overlay that looks after it makes it again, and then all theirs.
func TestDriftSharedNamespaceGone(t *testing.T) {
	w := newWorld(t)
	shared := namespaceOf("-shared")
	first := revision(w.commit(merge(
		overlayOf("clusters/a", shared, configMap("-shared", "of-a", "one")),
		overlayOf("clusters/b", shared, configMap("-shared", "of-b", "one")))))
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.untilInSync("clusters/a", "clusters/b")
	r.stop()
	w.delete("Namespace", "-shared")
	w.delete("ConfigMap", "-shared/of-a")
	w.delete("ConfigMap", "-shared/of-b")
	w.finalize("-shared")
	w.start()
	for path, count := range map[string]int{"clusters/a": 2, "clusters/b": 1} { // watches tell of one at a time
		w.until(path, "is corrected", func(o *v1alpha1.ClusterOverlay) bool {
			return len(o.Status.Corrections) == count && len(o.Status.Drift) == 0
		})
	}
	if got, _ := corrections(w.overlay("clusters/a"), "Namespace", w.ns+"-shared"); !slices.Equal(got, []string{"Missing"}) {
		t.Errorf("corrections of the Namespace: %q", got)
	}
	w.wantLive("ConfigMap", "-shared/of-a", "-shared/of-b")
	w.check()
}

// As long as somebody else pauses a cluster its drift waits, and that is said once.
func TestDriftPaused(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.patch("Cluster", "-a/a", "kubectl-edit", `{"spec":{"paused":true}}`)
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.untilDrift("clusters/a", "ConfigMap settings Blocked Changed /data/v")
	w.until("clusters/a", "is known to wait", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.Progress.Phase == v1alpha1.PhaseWaiting })
	looks := func(mark testenv.Mark) {
		w.eventually("the agent looks whether it is paused still", func() string {
			if sent := w.sent(mark); count(sent, "get clusters NS-a/a") == 0 {
				return fmt.Sprintf("%q", sent)
			}
			return ""
		})
	}
	looks(w.mark()) // until then what led to this may be written
	mark := w.mark()
	looks(mark)
	if got := w.written(mark); count(got, statusOf("clusters/a"))+count(got, "NS-a/") > 0 {
		t.Errorf("written: %q", got)
	}
	w.patch("Cluster", "-a/a", "kubectl-edit", `{"spec":{"paused":null}}`)
	w.until("clusters/a", "is corrected", isCorrected)
	w.check()
}

// More drift than a status has room for is told once as well.
func TestDriftOfMany(t *testing.T) {
	w := newWorld(t)
	const many = 55
	var all []string
	for i := range many {
		all = append(all, configMap("-a", fmt.Sprintf("m%d", i), "one"))
	}
	first := revision(w.commit(simple("a", "one", all...)))
	w.fleet(reports)
	registry := prometheus.NewRegistry()
	w.start(func(o *agent.Options) { o.Registerer = registry })
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	for i := range many {
		w.patch("ConfigMap", fmt.Sprintf("-a/m%d", i), "kubectl-edit", `{"data":{"v":"edited"}}`)
	}
	w.until("clusters/a", "has drifted", func(o *v1alpha1.ClusterOverlay) bool {
		return len(o.Status.Drift) == 50 && o.Status.DriftedObjects == many
	})
	for _, label := range []string{`"blue"`, "null", `"red"`, "null"} { // each has the agent look at it
		w.patch("ConfigMap", "-a/settings", "kubectl-label", `{"metadata":{"labels":{"team":`+label+`}}}`)
		w.until("clusters/a", "has seen the label", func(o *v1alpha1.ClusterOverlay) bool {
			return (o.Status.DriftedObjects == many) == (label == "null")
		})
	}
	families, err := registry.Gather()
	w.must(err)
	told := 0.0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "capstan_drift_detections_total" && m.GetLabel()[0].GetValue() == "changed" {
				told += m.GetCounter().GetValue()
			}
		}
	}
	if told != many {
		t.Errorf("%v objects were found to have changed, want %d", told, many)
	}
	w.check()
}

// An object that was made again is not taken for somebody else's because the record of it
// lost a race.
func TestDriftRemade(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(simple("a", "one")))
	var armed atomic.Bool
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			answer, err := next.RoundTrip(r)
			if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "configmaps/settings") &&
				!strings.Contains(r.URL.RawQuery, "dryRun") && armed.CompareAndSwap(true, false) {
				w.annotate(w.overlay("clusters/a"), "example.com/note", "by somebody else")
			}
			return answer, err
		})
	}
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	armed.Store(true)
	w.delete("ConfigMap", "-a/settings")
	o := w.until("clusters/a", "is corrected", isCorrected)
	if got, n := corrections(o, "ConfigMap", "settings"); !slices.Equal(got, []string{"Missing"}) || n != 1 {
		t.Errorf("corrected %d times, of %q", n, got)
	}
	if uid := w.uid("ConfigMap", "-a/settings"); !slices.ContainsFunc(o.Status.Inventory, func(e v1alpha1.InventoryEntry) bool { return e.UID == uid }) {
		t.Errorf("%s is not on record", uid)
	}
	w.check()
}

// Nor because the watch tells of it later than that is known.
func TestDriftRemadeUnseen(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(simple("a", "one")))
	var armed, holds atomic.Bool
	told := make(chan struct{})
	tell := sync.OnceFunc(func() { close(told) })
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			made := r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "configmaps/settings") &&
				!strings.Contains(r.URL.RawQuery, "dryRun") && armed.CompareAndSwap(true, false)
			if made {
				holds.Store(true)
				w.annotate(w.overlay("clusters/a"), "example.com/note", "by somebody else")
			}
			answer, err := next.RoundTrip(r)
			if err == nil && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/configmaps") {
				answer.Body = heldBody{answer.Body, &holds, told}
			}
			return answer, err
		})
	}
	w.fleet()
	w.start()
	w.Cleanup(tell)
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	armed.Store(true)
	w.delete("ConfigMap", "-a/settings")
	w.until("clusters/a", "was looked at again", func(o *v1alpha1.ClusterOverlay) bool {
		return isCorrected(o) || len(o.Status.Drift) > 0 && o.Status.Drift[0].Action != v1alpha1.DriftCorrecting
	})
	tell()
	o := w.until("clusters/a", "is corrected", isCorrected)
	if got, n := corrections(o, "ConfigMap", "settings"); !slices.Equal(got, []string{"Missing"}) || n != 1 {
		t.Errorf("corrected %d times, of %q", n, got)
	}
	w.check()
}

// heldBody is the body of an answer of which nothing more arrives while it is held.
type heldBody struct {
	io.ReadCloser
	holds *atomic.Bool
	told  chan struct{}
}

func (b heldBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.holds.Load() {
		<-b.told
	}
	return n, err
}

// A change that must not be undone unasked, made right after one that may be, is not
// undone along with it.
func TestDriftChangedMeanwhile(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	var armed atomic.Bool
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			answer, err := next.RoundTrip(r)
			if strings.Contains(r.URL.Path, "machinedeployments/workers") && strings.Contains(r.URL.RawQuery, "dryRun") &&
				armed.CompareAndSwap(true, false) {
				w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"spec":{"replicas":5}}`)
			}
			return answer, err
		})
	}
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	armed.Store(true)
	w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"metadata":{"annotations":{"`+v1alpha1.PathAnnotation+`":"x"}}}`)
	w.until("clusters/a", "is held", func(o *v1alpha1.ClusterOverlay) bool {
		return len(o.Status.Drift) == 1 && o.Status.Drift[0].Action == v1alpha1.DriftHeld
	})
	if got, _, _ := unstructured.NestedInt64(w.live("MachineDeployment", "-a/workers").Object, "spec", "replicas"); got != 5 {
		t.Errorf("%d replicas, want those of the person", got)
	}
	w.check()
}
