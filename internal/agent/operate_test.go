package agent_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/planner"
)

// merge patches a live object as a person or a controller would.
func (w *world) patch(kind, name, manager, patch string) {
	w.Helper()
	w.must(env.Client().Patch(w.Context(), w.object(kind, name), client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner(manager)))
}

// Values come from the Fleet, ConfigMaps and Secrets. A change of one reaches the
// overlays that use it. A source that is missing stops everything. Values of
// Secrets show up nowhere.
func TestSubstitution(t *testing.T) {
	w := newWorld(t)
	w.secrets = []string{"hunter2-hunter2"}
	values := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "values"}, Data: map[string]string{"SIZE": "small", "ZONE": "north"}}
	first := revision(w.commit(merge(
		simple("a", "${SIZE} ${REGION} ${OTHER:=fallback}"), simple("b", "${ZONE}"),
		simple("c", "plain", secret("-c", "s", "${PASSWORD}")))))
	w.fleet(func(f *v1alpha1.Fleet) {
		f.Spec.Substitute = &v1alpha1.SubstituteSpec{
			Vars: map[string]string{"REGION": "eu"},
			From: []v1alpha1.SubstituteSource{{Kind: "ConfigMap", Name: "values"}, {Kind: "Secret", Name: "passwords"}},
		}
	})
	w.start()
	w.untilFleet(v1alpha1.DiscoveredCondition, v1alpha1.SubstitutionReason, "ConfigMap "+w.ns+"/values", "does not exist")
	w.must(env.Client().Create(w.Context(), values))
	w.untilFleet(v1alpha1.DiscoveredCondition, v1alpha1.SubstitutionReason, "Secret "+w.ns+"/passwords")
	if n := len(w.overlays()); n > 0 {
		t.Errorf("%d overlays although a source is missing", n)
	}
	w.must(env.Client().Create(w.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "passwords"}, StringData: map[string]string{"PASSWORD": "hunter2-hunter2"},
	}))
	w.untilApplied(first, "clusters/a", "clusters/b", "clusters/c")
	if got := w.data("-a/settings"); got != "small eu fallback" {
		t.Errorf("settings: %q", got)
	}

	mark := w.mark()
	values.Data["SIZE"] = "large"
	w.must(env.Client().Update(w.Context(), values))
	w.eventually("the new value arrives", func() string {
		if got := w.data("-a/settings"); got != "large eu fallback" {
			return got
		}
		return ""
	})
	w.until("clusters/a", "is applied", applied)
	for _, request := range w.sent(mark) {
		if strings.Contains(request, "NS-b/") || strings.Contains(request, "NS-c/") || strings.Contains(request, statusOf("clusters/b")) || strings.Contains(request, statusOf("clusters/c")) {
			t.Errorf("an overlay that doesn't use the value: %s", request)
		}
	}

	// A refusal by the API server, and one by the renderer, quote what they refuse.
	w.push(overlayOf("clusters/a", `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: NS-a, labels: {l: "${PASSWORD} !"}}}`))
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.InvalidReason)
	w.push(overlayOf("clusters/b", `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: NS-b, annotations: {a: "${PASSWORD} ${UNKNOWN}"}}}`))
	w.untilCondition("clusters/b", v1alpha1.RenderedCondition, v1alpha1.RenderFailedReason, "UNKNOWN")

	// A source that goes away changes nothing that is applied.
	w.must(env.Client().Delete(w.Context(), values))
	w.untilFleet(v1alpha1.DiscoveredCondition, v1alpha1.SubstitutionReason)
	w.wantLive("ConfigMap", "-a/settings", "-b/settings", "-c/settings")
	w.check()
}

// While something is suspended nothing of it is written; then everything is.
func TestSuspend(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(clusterOf("a", "one", configMap("-a", "extra", "x")), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.suspend("clusters/a", true)
	w.untilCondition("clusters/a", v1alpha1.ReadyCondition, v1alpha1.SuspendedReason)
	mark := w.mark()
	second := w.push(merge(clusterOf("a", "two"), simple("b", "two")))
	w.untilApplied(second, "clusters/b")
	w.until("clusters/a", "knows what Git asks for", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.DesiredRevision == second })
	w.reconcile("clusters/a") // is answered, and does nothing
	if n := count(w.written(mark), "NS-a/"); n > 0 {
		t.Errorf("%d writes to a suspended overlay: %q", n, w.written(mark))
	}
	w.suspend("clusters/a", false)
	w.untilApplied(second, "clusters/a")
	w.untilGone("ConfigMap", "-a/extra")

	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Suspend = true })
	w.untilFleet(v1alpha1.ReadyCondition, v1alpha1.SuspendedReason)
	w.untilCondition("clusters/b", v1alpha1.ReadyCondition, v1alpha1.SuspendedReason)
	mark = w.mark()
	polls := w.repo.HTTP().Counts()
	third := w.push(merge(clusterOf("a", "three"), simple("b", "three")))
	w.reconcile("clusters/b")
	if got := w.written(mark); count(got, "NS-a/")+count(got, "NS-b/") > 0 || w.repo.HTTP().Counts() != polls {
		t.Errorf("a suspended Fleet acts: %q", got)
	}
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Suspend = false })
	w.untilApplied(third, "clusters/a", "clusters/b")
	w.check()
}

// A teardown that a suspension stopped goes on when that ends.
func TestSuspendTeardown(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(clusterOf("a", "one"), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.finalizers("Cluster", "-a/a", held)
	w.remove("clusters/a")
	w.approve("clusters/a")
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.TeardownReason, "Cluster")
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Suspend = true })
	w.untilCondition("clusters/b", v1alpha1.ReadyCondition, v1alpha1.SuspendedReason)
	w.untilCondition("clusters/a", v1alpha1.ReadyCondition, v1alpha1.SuspendedReason)
	w.finalizers("Cluster", "-a/a")
	w.wantLive("Secret", "-a/credentials")
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Suspend = false })
	w.untilGone("Secret", "-a/credentials")
	w.check()
}

// A request reads everything again and restores what is missing or changed, and
// nothing else is written.
func TestReconcileRequest(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet(reports) // else they would be restored without a request
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilFleetApplied(first)
	w.delete("Secret", "-a/credentials")
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.patch("MachineDeployment", "-a/workers", "manager", `{"status":{"replicas":2}}`)
	mark := w.mark()
	w.reconcile("clusters/a")
	w.wantLive("Secret", "-a/credentials")
	if got := w.data("-a/settings"); got != "one" {
		t.Errorf("settings: %q", got)
	}
	for _, request := range w.written(mark) {
		if !strings.Contains(request, "credentials") && !strings.Contains(request, "settings") && !strings.Contains(request, "clusteroverlays") {
			t.Errorf("written: %s", request)
		}
	}
	mark = w.mark()
	w.reconcile("clusters/a")
	for _, request := range w.written(mark) {
		if !strings.Contains(request, statusOf("clusters/a")) && !strings.Contains(request, "fleets/status") {
			t.Errorf("a second request writes more than its answer: %s", request)
		}
	}
	w.check()
}

// A Cluster that somebody else has paused keeps the agent away from all its
// objects, deletions included.
func TestPaused(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one", configMap("-a", "extra", "x"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.patch("Cluster", "-a/a", "clusterctl", `{"spec":{"paused":true}}`)
	mark := w.mark()
	second := w.push(clusterOf("a", "two"))
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.ClusterPausedReason)
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "paused")
	w.reconcile("clusters/a")
	if got := w.written(mark); count(got, "NS-a/") > 0 {
		t.Errorf("written to a paused cluster: %q", got)
	}
	w.wantLive("ConfigMap", "-a/extra")
	w.patch("Cluster", "-a/a", "clusterctl", `{"spec":{"paused":null}}`)
	w.reconcileUntilApplied("clusters/a", second)
	w.untilGone("ConfigMap", "-a/extra")
	w.check()
}

// Overlays that people make: one in advance, suspended; one under a wrong name; one
// whose directory doesn't exist.
func TestMadeByPeople(t *testing.T) {
	w := newWorld(t)
	for name, path := range map[string]string{
		planner.OverlayName("fleet", "clusters/a"): "clusters/a", "own-name": "clusters/b",
		planner.OverlayName("fleet", "clusters/none"): "clusters/none",
	} {
		w.must(env.Client().Create(w.Context(), &v1alpha1.ClusterOverlay{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
			Spec:       v1alpha1.ClusterOverlaySpec{FleetRef: v1alpha1.LocalReference{Name: "fleet"}, Path: path, Suspend: path == "clusters/a"},
		}))
	}
	first := revision(w.commit(merge(simple("a", "one"), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/b")
	w.untilCondition("clusters/a", v1alpha1.ReadyCondition, v1alpha1.SuspendedReason)
	if w.live("Namespace", "-a") != nil {
		t.Error("an overlay that was suspended in advance was applied")
	}
	w.eventually("the misnamed one says so", func() string {
		o := w.overlays()["own-name"]
		if !has(o.Status.Conditions, v1alpha1.RenderedCondition, v1alpha1.InvalidSpecReason, planner.OverlayName("fleet", "clusters/b")) {
			return describe(o)
		}
		return ""
	})
	w.eventually("the one without a directory goes", func() string {
		if o := w.find("clusters/none"); o != nil {
			return describe(o)
		}
		return ""
	})
	w.suspend("clusters/a", false)
	w.untilApplied(first, "clusters/a")
	w.check()
}

// An overlay whose Namespace is being deleted waits, and says why.
func TestTerminatingNamespace(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(simple("a", "one"), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.delete("Namespace", "-a") // first: else drift may restore the ConfigMap in time
	w.delete("ConfigMap", "-a/settings")
	second := w.push(merge(simple("a", "two"), simple("b", "two")))
	w.untilApplied(second, "clusters/b")
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.TransientReason, "being deleted")
	w.finalize("-a")
	w.reconcileUntilApplied("clusters/a", second)
	if got := w.data("-a/settings"); got != "two" {
		t.Errorf("settings: %q", got)
	}
	w.check()
}
