package agent_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/planner"
)

// A renamed directory deletes nothing: the new overlay takes everything over.
func TestRename(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(clusterOf("a", "one"), simple("b", "one"))))
	zero := int32(0) // a rename is no loss, whatever the limit is
	w.fleet(func(f *v1alpha1.Fleet) { f.Spec.Deletion.MaxClusters = &zero })
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	uids := map[string]types.UID{}
	names := map[string]string{
		"Namespace": "-a", "Cluster": "-a/a", "Secret": "-a/credentials", "ConfigMap": "-a/settings",
		"MachineDeployment": "-a/workers", "ProxmoxMachineTemplate": "-a/workers-v1",
	}
	for kind, name := range names {
		uids[kind] = w.uid(kind, name)
	}
	renamed := map[string]string{}
	for path, content := range clusterOf("a", "two") {
		renamed["clusters/renamed"+path[len("clusters/a"):]] = content
	}
	w.repo.Remove("remove", "clusters/a")
	second := w.push(renamed)
	w.untilApplied(second, "clusters/renamed")
	w.eventually("the old ClusterOverlay goes", func() string {
		if o := w.find("clusters/a"); o != nil {
			return describe(o)
		}
		return ""
	})
	for kind, name := range names {
		u := w.live(kind, name)
		if u == nil || u.GetUID() != uids[kind] || u.GetDeletionTimestamp() != nil {
			t.Errorf("%s is not the one it was", kind)
			continue
		}
		if got, want := u.GetLabels()[v1alpha1.OverlayLabel], planner.OverlayName("fleet", "clusters/renamed"); got != want {
			t.Errorf("%s is labelled %s, want %s", kind, got, want)
		}
	}
	if got := w.data("-a/settings"); got != "two" {
		t.Errorf("settings: %q", got)
	}
	w.check()
}

// An object that moves between overlays is handed over, in both directions, so that
// it doesn't matter which of them is looked at first.
func TestMove(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(simple("a", "one", configMap("-a", "x", "1"), secret("-a", "s", "moved-secret")), simple("b", "one"))))
	w.secrets = []string{"moved-secret"}
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	x, s := w.uid("ConfigMap", "-a/x"), w.uid("Secret", "-a/s")
	for i, value := range []string{"2", "3", "4", "5"} {
		from, to := simple("a", "one"), simple("b", "one", configMap("-a", "x", value), secret("-a", "s", "moved-secret"))
		if i%2 == 1 {
			from, to = simple("b", "one"), simple("a", "one", configMap("-a", "x", value), secret("-a", "s", "moved-secret"))
		}
		w.untilApplied(w.push(merge(from, to)), "clusters/a", "clusters/b")
		w.check()
	}
	if w.uid("ConfigMap", "-a/x") != x || w.uid("Secret", "-a/s") != s {
		t.Error("the objects are not those they were")
	}
	if got := w.data("-a/x"); got != "5" {
		t.Errorf("x: %q", got)
	}
	for _, e := range w.events() {
		if e != "" && (len(e) > 9 && e[:9] == "Duplicate" || len(e) > 12 && e[:12] == "OwnedByOther") {
			t.Errorf("a move is no collision: %s", e)
		}
	}
}

// An object that moved to an overlay which can't take it yet stays in the inventory
// of the old one, so that it is not lost if Git gives it up meanwhile.
func TestMoveToBlocked(t *testing.T) {
	w := newWorld(t)
	x := configMap("-a", "x", "1")
	first := revision(w.commit(merge(simple("a", "one", x), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.suspend("clusters/b", true)
	second := w.push(merge(simple("a", "one"), simple("b", "one", x)))
	w.untilApplied(second, "clusters/a")
	w.wantLive("ConfigMap", "-a/x")
	w.until("clusters/a", "still knows the object", func(o *v1alpha1.ClusterOverlay) bool {
		for _, e := range o.Status.Inventory {
			if e.Name == "x" {
				return e.State == v1alpha1.EntryLeaving
			}
		}
		return false
	})
	w.push(simple("b", "one"))
	w.untilGone("ConfigMap", "-a/x")
	w.suspend("clusters/b", false)
	w.check()
}

// The same object in two overlays is an error of both. Removing it from one heals
// the other, also when the whole directory goes.
func TestDuplicate(t *testing.T) {
	w := newWorld(t)
	x := configMap("-a", "x", "1")
	first := revision(w.commit(merge(simple("a", "one"), simple("b", "one"), simple("c", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b", "clusters/c")
	w.push(merge(simple("a", "two", x), simple("b", "two", x)))
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.DuplicateObjectReason, "/x", "clusters/a and clusters/b")
	w.untilCondition("clusters/b", v1alpha1.AppliedCondition, v1alpha1.DuplicateObjectReason, "/x")
	w.untilEvent(v1alpha1.DuplicateObjectReason, "clusters/a and clusters/b")
	third := w.push(simple("b", "three"))
	w.untilApplied(third, "clusters/b")
	w.until("clusters/a", "heals", applied)
	w.wantLive("ConfigMap", "-a/x")
	w.push(simple("c", "four", x))
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.DuplicateObjectReason, "clusters/a and clusters/c")
	w.remove("clusters/c")
	w.until("clusters/a", "heals", applied)
	w.wantLive("ConfigMap", "-a/x")
	w.check()
}

// applied reports whether an overlay has applied what Git asks for.
func applied(o *v1alpha1.ClusterOverlay) bool {
	return o.Status.AppliedRevision == o.Status.DesiredRevision && has(o.Status.Conditions, v1alpha1.AppliedCondition, v1alpha1.SucceededReason)
}

// A Namespace that two overlays render alike is shared, and pruned by neither; one
// that they render differently is a collision.
func TestSharedNamespace(t *testing.T) {
	w := newWorld(t)
	shared := namespaceOf("-shared")
	first := revision(w.commit(merge(
		overlayOf("clusters/a", shared, configMap("-shared", "of-a", "1")),
		overlayOf("clusters/b", shared, configMap("-shared", "of-b", "1")))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	for _, path := range []string{"clusters/a", "clusters/b"} {
		w.until(path, "shares the Namespace", func(o *v1alpha1.ClusterOverlay) bool {
			for _, e := range o.Status.Inventory {
				if e.Kind == "Namespace" {
					return e.State == v1alpha1.EntryShared
				}
			}
			return false
		})
	}
	w.push(map[string]string{"clusters/b/all.yaml": `{apiVersion: v1, kind: Namespace, metadata: {name: NS-shared, labels: {more: "yes"}}}`})
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.DuplicateObjectReason, "Namespace")
	both := map[string]string{}
	for _, path := range []string{"clusters/a", "clusters/b"} {
		both = merge(both, overlayOf(path, `{apiVersion: v1, kind: Namespace, metadata: {name: NS-shared, labels: {more: "yes"}}}`, configMap("-shared", "of-"+path[9:], "2")))
	}
	third := w.push(both)
	w.untilApplied(third, "clusters/a", "clusters/b")
	if got := w.live("Namespace", "-shared").GetLabels()["more"]; got != "yes" {
		t.Errorf("label: %q", got)
	}
	w.remove("clusters/a")
	o := w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	if n := len(o.Status.PendingDeletion.Objects); n != 1 {
		t.Errorf("%d objects wait for an approval, want the ConfigMap only: %s", n, toJSON(o.Status.PendingDeletion))
	}
	w.approve("clusters/a")
	w.untilGone("ConfigMap", "-shared/of-a")
	w.wantLive("Namespace", "-shared")
	w.wantLive("ConfigMap", "-shared/of-b")
	w.untilApplied(w.push(overlayOf("clusters/b", configMap("-shared", "of-b", "3"))), "clusters/b")
	w.wantLive("Namespace", "-shared")
	w.check()
}

// A ClusterOverlay that a person deletes takes nothing along. It is made anew, and
// knows what it owned, also what left Git meanwhile.
func TestOverlayDeleted(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one", configMap("-a", "extra", "x"), secret("-a", "old", "the-old-secret"))))
	w.secrets = []string{"the-old-secret"}
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a")
	before := w.overlay("clusters/a").UID
	uid := w.uid("Cluster", "-a/a")
	mark := w.mark()
	w.must(env.Client().Delete(w.Context(), w.overlay("clusters/a")))
	w.untilEvent("Orphaned", "8 objects stay")
	w.until("clusters/a", "is made anew", func(o *v1alpha1.ClusterOverlay) bool { return o.UID != before && applied(o) && o.Status.Objects == 8 })
	for _, request := range w.written(mark) {
		if len(request) > 6 && request[:6] == "delete" {
			t.Errorf("deleted: %s", request)
		}
	}
	// The same while the agent is away and Git changes.
	r.stop()
	o := w.overlay("clusters/a")
	// Whatever version it has: a write that the agent gave up may still come.
	w.must(env.Client().Patch(w.Context(), o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
	w.must(env.Client().Delete(w.Context(), o))
	last := revision(w.commit(clusterOf("a", "two")))
	w.start()
	w.look()
	w.untilApplied(last, "clusters/a")
	w.untilGone("ConfigMap", "-a/extra")
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason, "Secret "+w.ns+"-a/old")
	if w.uid("Cluster", "-a/a") != uid {
		t.Error("the Cluster is another one")
	}
	w.check()
}
