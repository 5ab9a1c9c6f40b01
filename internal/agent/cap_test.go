package agent_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
)

// What was approved doesn't count against the limit any more.
func TestCapApproved(t *testing.T) {
	w := newWorld(t)
	overlay := func(name string) map[string]string {
		return overlayOf("clusters/"+name, configMap("", name, "1"))
	}
	empty := func(name string) map[string]string {
		return map[string]string{"clusters/" + name + "/kustomization.yaml": "resources: []\n"}
	}
	first := revision(w.commit(merge(overlay("a"), overlay("b"), overlay("c"), overlay("z"))))
	one := int32(1)
	w.fleet(func(f *v1alpha1.Fleet) { f.Spec.Deletion.MaxClusters = &one })
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b", "clusters/c", "clusters/z")
	w.push(empty("a"))
	w.approve("clusters/a")
	w.until("clusters/a", "is empty", func(o *v1alpha1.ClusterOverlay) bool {
		return o.Status.Objects == 0 && o.Status.PendingDeletion == nil
	})
	w.finalizers("ConfigMap", "/b", held)
	w.push(empty("b"))
	w.untilCondition("clusters/b", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	w.approve("clusters/b")
	w.untilCondition("clusters/b", v1alpha1.PendingDeletionCondition, v1alpha1.TeardownReason)
	w.push(empty("c"))
	w.untilCondition("clusters/c", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	w.finalizers("ConfigMap", "/b")
	w.untilGone("ConfigMap", "/b")
	w.check()
}

// What an overlay is just being given counts as soon as it is on record.
func TestCapFirstApply(t *testing.T) {
	w := newWorld(t)
	overlay := func(name string) map[string]string {
		return overlayOf("clusters/"+name, configMap("", name, "1"), configMap("", name+"-more", "1"))
	}
	arrived, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/configmaps/a") {
				once.Do(func() { close(arrived) })
				<-free
			}
			return next.RoundTrip(r)
		})
	}
	first := revision(w.commit(merge(overlay("b"), overlay("z"))))
	one := int32(1)
	w.fleet(func(f *v1alpha1.Fleet) { f.Spec.Deletion.MaxClusters = &one })
	w.start()
	w.untilApplied(first, "clusters/b", "clusters/z")
	w.push(overlay("a"))
	<-arrived
	w.remove("clusters/a", "clusters/b")
	w.untilCondition("clusters/b", v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "2 overlays have lost")
	close(free)
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "2 overlays have lost")
	w.check()
}

// A commit that drops only the Clusters of many overlays counts against the limit
// as well. One whose Cluster moved to another overlay doesn't.
func TestCapClusters(t *testing.T) {
	w := newWorld(t)
	whole := func(name string) map[string]string {
		return overlayOf("clusters/"+name, namespaceOf("-"+name), cluster("-"+name, name))
	}
	rest := func(name string) map[string]string { return overlayOf("clusters/"+name, namespaceOf("-"+name)) }
	first := revision(w.commit(merge(whole("a"), whole("b"), whole("c"))))
	one := int32(1)
	w.fleet(func(f *v1alpha1.Fleet) { f.Spec.Deletion.MaxClusters = &one })
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b", "clusters/c")
	w.push(merge(rest("a"), rest("b"), rest("c"), overlayOf("clusters/d", cluster("-c", "c"))))
	for _, path := range []string{"clusters/a", "clusters/b"} {
		w.untilCondition(path, v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "2 overlays have lost", "maxClusters")
	}
	w.approve("clusters/a")
	w.push(merge(rest("a"), whole("b")))
	w.untilCondition("clusters/b", v1alpha1.PendingDeletionCondition, v1alpha1.NothingPendingReason)
	w.wantLive("Cluster", "-b/b", "-c/c")
	w.untilGone("Cluster", "-a/a")
	w.check()
}
