package agent_test

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
)

// A commit to an overlay whose Cluster somebody deleted, or moved away, builds nothing of
// it unless it changes the Cluster. Once that is back the rest follows.
func TestCommitClusterGone(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.delete("Cluster", "-a/a")
	w.delete("MachineDeployment", "-a/workers")
	second := w.push(clusterOf("a", "two"))
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.ClusterDeletingReason, "the cluster is gone", "approve")
	o := w.until("clusters/a", "holds the Cluster", holdsCluster)
	if got := w.data("-a/settings"); got != "one" {
		t.Errorf("settings was changed to %q", got)
	}
	if w.live("Cluster", "-a/a") != nil || w.live("MachineDeployment", "-a/workers") != nil {
		t.Error("the cluster is built anew")
	}
	for _, d := range o.Status.Drift {
		if d.Kind == "Cluster" {
			w.annotate(o, v1alpha1.ApproveCorrectionAnnotation, d.Hash)
		}
	}
	w.until("clusters/a", "has its Cluster back", func(o *v1alpha1.ClusterOverlay) bool { return !holdsCluster(o) })
	w.reconcileUntilApplied("clusters/a", second)
	w.untilInSync("clusters/a")
	w.wantLive("MachineDeployment", "-a/workers")
	if got := w.data("-a/settings"); got != "two" {
		t.Errorf("settings: %q", got)
	}
	w.check()
}

// One that arrives while somebody's deletion is under way doesn't either. A
// reconciliation on request builds everything.
func TestCommitClusterDeleting(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.finalizers("Cluster", "-a/a", held)
	w.delete("Cluster", "-a/a")
	second := w.push(clusterOf("a", "two"))
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.ClusterDeletingReason, "is being deleted")
	w.delete("MachineDeployment", "-a/workers") // as the garbage collector does
	w.finalizers("Cluster", "-a/a")
	w.nudge("clusters/a")
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.ClusterDeletingReason, "the cluster is gone")
	w.until("clusters/a", "holds the Cluster", holdsCluster)
	if w.live("Cluster", "-a/a") != nil || w.live("MachineDeployment", "-a/workers") != nil {
		t.Error("the cluster is built anew")
	}
	w.reconcile("clusters/a")
	w.untilApplied(second, "clusters/a")
	w.untilInSync("clusters/a")
	w.wantLive("Cluster", "-a/a")
	w.wantLive("MachineDeployment", "-a/workers")
	w.check()
}

// A commit that finds a Namespace of the overlay gone restores what was in it, and leaves
// what has drifted and what takes an approval to be built anew, also if nobody has looked
// at it yet.
func TestCommitRestores(t *testing.T) {
	w := newWorld(t)
	more := func(value string) []string {
		return []string{
			namespaceOf("-more"), configMap("-more", "changed", value), configMap("-more", "unchanged", "one"),
			proxmoxClusterOfA,
		}
	}
	first := revision(w.commit(clusterOf("a", "one", more("one")...)))
	w.fleet(reports) // else what is gone is made again as soon as it is missed
	r := w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"spec":{"replicas":5}}`)
	w.untilDrift("clusters/a", "MachineDeployment workers Reported Changed /spec/replicas")
	r.stop()
	w.delete("ProxmoxCluster", "-a/a")
	w.delete("Namespace", "-more")
	w.delete("ConfigMap", "-more/changed")
	w.delete("ConfigMap", "-more/unchanged")
	w.finalize("-more")
	second := revision(w.commit(clusterOf("a", "one", more("two")...)))
	w.start()
	w.until("clusters/a", "has applied what can be", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.AppliedRevision == second })
	w.untilDrift("clusters/a", "MachineDeployment workers Reported Changed /spec/replicas", "ProxmoxCluster a Reported Missing")
	if w.live("ProxmoxCluster", "-a/a") != nil {
		t.Error("the infrastructure is built anew")
	}
	if got := w.data("-more/changed"); got != "two" {
		t.Errorf("changed: %q", got)
	}
	w.wantLive("ConfigMap", "-more/unchanged")
	if got, _, _ := unstructured.NestedInt64(w.live("MachineDeployment", "-a/workers").Object, "spec", "replicas"); got != 5 {
		t.Errorf("%d replicas", got)
	}
	w.check()
}

func holdsCluster(o *v1alpha1.ClusterOverlay) bool {
	return slices.ContainsFunc(o.Status.Drift, func(d v1alpha1.DriftedObject) bool {
		return d.Kind == "Cluster" && d.Action == v1alpha1.DriftHeld
	})
}
