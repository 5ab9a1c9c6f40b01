package agent_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// A kind of one provider that can't be listed keeps new overlays from being made,
// because nobody knows what they own, and nothing else. The others wait with their
// deletions for the new one, and say so. When the provider is back all goes on.
func TestScanFails(t *testing.T) {
	w := newWorld(t)
	var down atomic.Bool
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if down.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/machinedrainrules") {
				return nil, errKilled
			}
			return next.RoundTrip(r)
		})
	}
	first := revision(w.commit(simple("a", "one", configMap("-a", "extra", "x"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	down.Store(true)
	second := revision(w.commit(merge(simple("a", "two"), simple("new", "one"))))
	w.request(w.getFleet())
	w.untilApplied(second, "clusters/a")
	w.untilFleet(v1alpha1.DiscoveredCondition, v1alpha1.TransientReason, "MachineDrainRule")
	w.untilFleet(v1alpha1.ReadyCondition, v1alpha1.TransientReason, "MachineDrainRule")
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "waits for clusters/new")
	w.wantLive("ConfigMap", "-a/extra")
	if w.find("clusters/new") != nil {
		t.Error("an overlay was made although it is not known what it owns")
	}
	if n := count(w.events(), v1alpha1.TransientReason+": "); n != 1 {
		t.Errorf("%d events", n)
	}

	down.Store(false)
	w.untilApplied(second, "clusters/new")
	w.untilFleet(v1alpha1.DiscoveredCondition, v1alpha1.SucceededReason)
	w.untilGone("ConfigMap", "-a/extra")
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.NothingPendingReason)
	w.check()
}

// An overlay that a person has made, and that may have owned something before, is
// left alone until the look at what it owns succeeds.
func TestScanFailsAdopting(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(simple("a", "one", configMap("-a", "extra", "x")), simple("b", "one"))))
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	r.stop()
	var down atomic.Bool
	down.Store(true)
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if down.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/machinedrainrules") {
				return nil, errKilled
			}
			return next.RoundTrip(r)
		})
	}
	// The cluster is restored without the status of a.
	a := w.overlay("clusters/a")
	base := a.DeepCopy()
	a.Status = v1alpha1.ClusterOverlayStatus{}
	w.must(env.Client().Status().Patch(w.Context(), a, client.MergeFrom(base)))
	second := revision(w.commit(merge(simple("a", "two"), simple("b", "two"))))
	w.start()
	w.untilApplied(second, "clusters/b")
	w.untilFleet(v1alpha1.DiscoveredCondition, v1alpha1.TransientReason, "MachineDrainRule")
	if got := w.data("-a/settings"); got != "one" {
		t.Errorf("applied without knowing what is owned: %q", got)
	}
	down.Store(false)
	w.untilApplied(second, "clusters/a")
	w.untilGone("ConfigMap", "-a/extra")
}

// An overlay that was deleted, and that the finalizer of somebody else keeps, is
// rendered, so that others go on deleting. Nothing of it is written.
func TestDepartingOverlay(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(simple("a", "one", configMap("-a", "extra", "x"), configMap("-a", "moves", "x")), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	b := w.overlay("clusters/b")
	finalizers := func(list string) {
		t.Helper()
		w.must(env.Client().Patch(w.Context(), b, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":[`+list+`]}}`))))
	}
	finalizers(`"example.com/x","` + v1alpha1.OverlayFinalizer + `"`)
	w.must(env.Client().Delete(w.Context(), b))
	w.until("clusters/b", "is released", func(o *v1alpha1.ClusterOverlay) bool { return len(o.Finalizers) == 1 })
	mark := w.mark()
	w.push(merge(simple("a", "one"), simple("b", "two", configMap("-a", "moves", "x"))))
	w.untilGone("ConfigMap", "-a/extra")
	w.wantLive("ConfigMap", "-a/moves") // Git asks for it
	for _, request := range w.written(mark) {
		if strings.Contains(request, "NS-b/") || strings.Contains(request, statusOf("clusters/b")) {
			t.Errorf("a write to the deleted overlay: %s", request)
		}
	}
	finalizers("")
	w.until("clusters/b", "is made anew", func(o *v1alpha1.ClusterOverlay) bool { return o.UID != b.UID && applied(o) })
	w.wantLive("ConfigMap", "-a/moves")
	w.check()
}

// Overlays that have lost their directory hear of the suspension of their Fleet too.
func TestSuspendFleetWithoutDirectory(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(clusterOf("a", "one"), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.remove("clusters/a")
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Suspend = true })
	// Much sooner than it looks at its objects anyway.
	w.g.Eventually(func() bool {
		return has(w.overlay("clusters/a").Status.Conditions, v1alpha1.ReadyCondition, v1alpha1.SuspendedReason)
	}, 20*time.Second, 30*time.Millisecond).Should(gomega.BeTrue())
	w.check()
}
