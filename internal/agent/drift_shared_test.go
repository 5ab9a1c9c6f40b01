package agent_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/planner"
)

// entry is what an overlay has on record of an object; nil for nothing.
func entry(o *v1alpha1.ClusterOverlay, kind, name string) *v1alpha1.InventoryEntry {
	i := slices.IndexFunc(o.Status.Inventory, func(e v1alpha1.InventoryEntry) bool { return e.Kind == kind && e.Name == name })
	if i < 0 {
		return nil
	}
	return &o.Status.Inventory[i]
}

// untilNamespace waits until an overlay has its Namespace on record in a state, as applied.
func (w *world) untilNamespace(path, name string, state v1alpha1.EntryState) {
	w.Helper()
	w.until(path, name+" is "+string(state), func(o *v1alpha1.ClusterOverlay) bool {
		e := entry(o, "Namespace", w.ns+name)
		return e != nil && e.State == state && e.Digest != "" && applied(o)
	})
}

// never fails if any drift was ever told of or corrected.
func (w *world) never(paths ...string) {
	w.Helper()
	w.untilInSync(paths...)
	for _, path := range paths {
		if o := w.overlay(path); len(o.Status.Corrections)+len(o.Status.Drift) > 0 {
			w.Errorf("%s: a false alarm: %s", path, describe(o))
		}
	}
	for _, e := range w.events() {
		if len(e) > 7 && e[:7] == v1alpha1.DriftedReason {
			w.Errorf("a false alarm: %s", e)
		}
	}
}

// A Namespace that comes to be shared, or is so no longer, or whose overlays change it
// together, has not drifted.
func TestDriftSharingChanges(t *testing.T) {
	w := newWorld(t)
	ns := namespaceOf("-shared")
	both := func(v, ns string) map[string]string {
		return merge(overlayOf("clusters/a", ns, configMap("-shared", "of-a", v)), overlayOf("clusters/b", ns, configMap("-shared", "of-b", v)))
	}
	first := revision(w.commit(merge(simple("c", "one"), overlayOf("clusters/b", ns, configMap("-shared", "of-b", "one")))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/b", "clusters/c")
	w.untilInSync("clusters/b", "clusters/c")
	label := func() string { return w.live("Namespace", "-shared").GetLabels()[v1alpha1.OverlayLabel] }
	if got, want := label(), planner.OverlayName("fleet", "clusters/b"); got != want {
		t.Errorf("labelled %q, want %q", got, want)
	}
	w.untilApplied(w.push(both("one", ns)), "clusters/a")
	w.untilNamespace("clusters/b", "-shared", v1alpha1.EntryShared)
	w.never("clusters/a", "clusters/b", "clusters/c")
	if got := label(); got != "" {
		t.Errorf("labelled %q, but it is shared", got)
	}
	more := `{apiVersion: v1, kind: Namespace, metadata: {name: NS-shared, labels: {more: "yes"}}}`
	w.untilApplied(w.push(both("two", more)), "clusters/a", "clusters/b")
	w.never("clusters/a", "clusters/b", "clusters/c")
	for _, drops := range []string{"clusters/a", "clusters/b"} {
		keeps := map[string]string{"clusters/a": "clusters/b", "clusters/b": "clusters/a"}[drops]
		w.untilApplied(w.push(overlayOf(drops, configMap("-shared", "of-"+drops[9:], "three"))), drops)
		w.untilNamespace(keeps, "-shared", v1alpha1.EntryApplied)
		w.never("clusters/a", "clusters/b", "clusters/c")
		if got, want := label(), planner.OverlayName("fleet", keeps); got != want {
			t.Errorf("labelled %q, want %q", got, want)
		}
		w.untilApplied(w.push(both("four", more)), drops)
		w.untilNamespace(keeps, "-shared", v1alpha1.EntryShared)
		w.never("clusters/a", "clusters/b", "clusters/c")
	}
	w.check()
}

// A shared Namespace is looked after by one of the overlays that share it.
func TestDriftOfShared(t *testing.T) {
	w := newWorld(t)
	ns := `{apiVersion: v1, kind: Namespace, metadata: {name: NS-shared, labels: {more: "yes"}}}`
	first := revision(w.commit(merge(overlayOf("clusters/a", ns, configMap("-shared", "of-a", "one")),
		overlayOf("clusters/b", ns, configMap("-shared", "of-b", "one")))))
	w.fleet(reports)
	r := w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.never("clusters/a", "clusters/b")
	edit := func(label, value string) {
		w.patch("Namespace", "-shared", "kubectl-edit", `{"metadata":{"labels":{"`+label+`":"`+value+`"}}}`)
	}
	edit("more", "no")
	w.untilDrift("clusters/a", "Namespace "+w.ns+"-shared Reported Changed /metadata/labels/more")
	edit("theirs", "x")
	both := []string{"Namespace " + w.ns + "-shared Reported Changed /metadata/labels/more", "Namespace " + w.ns + "-shared Reported Foreign /metadata/labels/theirs"}
	w.untilDrift("clusters/a", both...)
	r.stop()
	w.start()
	w.untilInSync("clusters/b")
	w.untilDrift("clusters/a", both...)
	w.untilDrift("clusters/b")
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Drift.Mode = v1alpha1.DriftCorrect })
	w.until("clusters/a", "is corrected", func(o *v1alpha1.ClusterOverlay) bool { return len(o.Status.Corrections) == 1 })
	if got := w.live("Namespace", "-shared").GetLabels(); got["more"] != "yes" || got[v1alpha1.OverlayLabel] != "" {
		t.Errorf("labels: %v", got)
	}
	// Whoever is first looks after it: also when the one that did has gone.
	w.push(overlayOf("clusters/a", configMap("-shared", "of-a", "one")))
	w.untilNamespace("clusters/b", "-shared", v1alpha1.EntryApplied)
	edit("more", "no")
	w.until("clusters/b", "is corrected", func(o *v1alpha1.ClusterOverlay) bool { return len(o.Status.Corrections) == 1 })
	w.check()
}

// Nor has one drifted that an overlay writes as its own, because it didn't know yet that
// another one has come to render it as well.
func TestDriftSharedUnawares(t *testing.T) {
	w := newWorld(t)
	ns := namespaceOf("-shared")
	var held atomic.Bool
	free, waits := make(chan struct{}), make(chan struct{})
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/namespaces/"+w.ns+"-shared") && held.CompareAndSwap(false, true) {
				close(waits)
				<-free
			}
			return next.RoundTrip(r)
		})
	}
	w.commit(overlayOf("clusters/b", ns, configMap("-shared", "of-b", "one")))
	w.fleet()
	w.start()
	<-waits
	second := w.push(overlayOf("clusters/a", ns, configMap("-shared", "of-a", "one")))
	w.untilApplied(second, "clusters/a")
	close(free)
	w.untilNamespace("clusters/b", "-shared", v1alpha1.EntryShared)
	w.never("clusters/a", "clusters/b")
	if got := w.live("Namespace", "-shared").GetLabels()[v1alpha1.OverlayLabel]; got != "" {
		t.Errorf("labelled %q, but it is shared", got)
	}
	w.check()
}

// One that an overlay has to apply again stays shared.
func TestDriftSharedHalted(t *testing.T) {
	w := newWorld(t)
	ns := namespaceOf("-shared")
	overlay := func(v string) map[string]string { return clusterOf("a", v, ns) }
	first := revision(w.commit(merge(overlay("one"), overlayOf("clusters/b", ns, configMap("-shared", "of-b", "one")))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.untilNamespace("clusters/a", "-shared", v1alpha1.EntryShared)
	w.untilInSync("clusters/a")
	w.delete("Cluster", "-a/a")
	second := w.push(overlay("two"))
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.ClusterDeletingReason)
	w.reconcile("clusters/a")
	w.untilApplied(second, "clusters/a")
	w.untilNamespace("clusters/a", "-shared", v1alpha1.EntryShared)
	w.untilInSync("clusters/a", "clusters/b")
	w.check()
}
