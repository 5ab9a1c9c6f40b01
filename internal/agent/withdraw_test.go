package agent_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// priorityClass reads the PriorityClass of the world, which is cluster-scoped.
func (w *world) priorityClass() *unstructured.Unstructured {
	w.Helper()
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("scheduling.k8s.io/v1")
	u.SetKind("PriorityClass")
	if err := env.Client().Get(w.Context(), client.ObjectKey{Name: w.ns + "-pc"}, u); client.IgnoreNotFound(err) != nil {
		w.Fatal(err)
	}
	return u
}

// A manifest of a cluster-scoped kind may carry a namespace, which the API server
// drops. With and without it is the same object: dropping it from the manifest, or
// rebuilding the inventory from what is live, deletes nothing.
func TestScope(t *testing.T) {
	w := newWorld(t)
	pc := func(namespace string) string {
		return `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: NS-pc` + namespace + `}, value: 5}`
	}
	first := revision(w.commit(overlayOf("clusters/a", namespaceOf("-a"), pc(", namespace: NS-a"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	uid := w.priorityClass().GetUID()
	second := w.push(overlayOf("clusters/a", namespaceOf("-a"), pc("")))
	w.untilApplied(second, "clusters/a")
	w.reconcile("clusters/a") // a whole round later
	third := w.push(overlayOf("clusters/a", namespaceOf("-a"), pc(", namespace: NS-a")))
	w.untilApplied(third, "clusters/a")
	before := w.overlay("clusters/a")
	w.must(env.Client().Delete(w.Context(), before.DeepCopy()))
	w.until("clusters/a", "made anew and applied", func(o *v1alpha1.ClusterOverlay) bool {
		return o.UID != before.UID && o.Status.AppliedRevision == third
	})
	w.reconcile("clusters/a")
	if got := w.priorityClass().GetUID(); got != uid {
		t.Errorf("UID %q, was %q", got, uid)
	}
}

// Somebody else's pause stops deletions too, also of a commit that sends nothing.
func TestPausedPrune(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one", configMap("-a", "extra", "x"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	pause := func(value string) {
		w.must(env.Client().Patch(w.Context(), w.object("Cluster", "-a/a"),
			client.RawPatch(types.MergePatchType, []byte(`{"spec":{"paused":`+value+`}}`)), client.FieldOwner("clusterctl")))
	}
	pause("true")
	w.push(clusterOf("a", "one"))
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "paused")
	w.wantLive("ConfigMap", "-a/extra")
	pause("null")
	w.nudge("clusters/a")
	w.untilGone("ConfigMap", "-a/extra")
	w.check()
}

// An approval ends when what it was given for is back in Git, also if that commit
// can't be rendered or applied. When it leaves once more it is asked for again.
func TestApprovalWithdrawn(t *testing.T) {
	for how, bad := range map[string]string{
		"not rendered": `{apiVersion: v1, kind: ConfigMap}`,
		"not applied":  `{apiVersion: v1, kind: ConfigMap, metadata: {name: bad, namespace: NS-a}, daten: {}}`,
	} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			x, s := configMap("-a", "x", "1"), secret("-a", "s", "sssss")
			first := revision(w.commit(merge(overlayOf("clusters/a", namespaceOf("-a"), x, s), simple("b", "one"))))
			w.fleet()
			w.start()
			w.untilApplied(first, "clusters/a", "clusters/b")
			w.finalizers("ConfigMap", "-a/x", "example.com/held")
			w.remove("clusters/a")
			w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
			w.approve("clusters/a")
			w.eventually("x is being deleted", func() string {
				if w.live("ConfigMap", "-a/x").GetDeletionTimestamp() == nil {
					return "no"
				}
				return ""
			})
			w.push(overlayOf("clusters/a", namespaceOf("-a"), s, bad))
			w.until("clusters/a", "the deletion is withdrawn", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.PendingDeletion == nil })
			w.finalizers("ConfigMap", "-a/x")
			w.remove("clusters/a")
			w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
			w.wantLive("Secret", "-a/s")
		})
	}
}

// An approval that is given while its objects are back in Git approves nothing,
// not even later.
func TestApprovalTooLate(t *testing.T) {
	w := newWorld(t)
	s := secret("-a", "s", "sssss")
	bad := `{apiVersion: v1, kind: ConfigMap, metadata: {name: bad, namespace: NS-a}, daten: {}}`
	first := revision(w.commit(overlayOf("clusters/a", namespaceOf("-a"), configMap("-a", "x", "1"), s)))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.push(overlayOf("clusters/a", namespaceOf("-a"), configMap("-a", "x", "1")))
	pending := w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	hash := pending.Status.PendingDeletion.Hash
	w.push(overlayOf("clusters/a", namespaceOf("-a"), configMap("-a", "x", "1"), s, bad))
	withdrawn := w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.NothingPendingReason)
	if p := withdrawn.Status.PendingDeletion; p != nil {
		t.Errorf("pending: %s", toJSON(p))
	}
	w.annotate(w.overlay("clusters/a"), v1alpha1.ApproveDeletionAnnotation, hash)
	w.until("clusters/a", "the approval is removed", func(o *v1alpha1.ClusterOverlay) bool {
		return o.Annotations[v1alpha1.ApproveDeletionAnnotation] == ""
	})
	w.push(overlayOf("clusters/a", namespaceOf("-a"), configMap("-a", "x", "1")))
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	w.wantLive("Secret", "-a/s")
	w.check()
}
