package agent_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
)

const held = "capstan-test/hold"

// What leaves Git singly: an unguarded object is deleted at once, a guarded one
// waits for an approval of exactly itself.
func TestPruneObjects(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one", configMap("-a", "extra", "x"), secret("-a", "extra", "secret-extra"))))
	w.secrets = []string{"secret-extra", "pass-of-a"}
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	second := w.push(clusterOf("a", "one"))
	w.untilApplied(second, "clusters/a")
	w.untilGone("ConfigMap", "-a/extra")
	o := w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason, "Secret "+w.ns+"-a/extra", "capstan approve")
	if p := o.Status.PendingDeletion; p.Reason != v1alpha1.ObjectsRemovedReason || len(p.Objects) != 1 || p.Approved {
		t.Errorf("pending: %s", toJSON(p))
	}
	w.wantLive("Secret", "-a/extra")
	w.untilEvent(v1alpha1.AwaitingApprovalReason, "extra")

	// An approval of something else is void and doesn't stay.
	w.annotate(o, v1alpha1.ApproveDeletionAnnotation, "0123456789abcdef")
	w.untilEvent("ApprovalVoid", "0123456789abcdef")
	w.until("clusters/a", "drops the approval", func(o *v1alpha1.ClusterOverlay) bool {
		return o.Annotations[v1alpha1.ApproveDeletionAnnotation] == ""
	})
	w.wantLive("Secret", "-a/extra")

	// While it waits it costs nothing.
	mark := w.mark()
	third := w.push(clusterOf("a", "two"))
	w.untilApplied(third, "clusters/a")
	if got := w.written(mark); count(got, "secrets") > 0 {
		t.Errorf("writes: %q", got)
	}

	w.approve("clusters/a")
	w.untilGone("Secret", "-a/extra")
	w.until("clusters/a", "is done", func(o *v1alpha1.ClusterOverlay) bool {
		return o.Status.PendingDeletion == nil && o.Status.Objects == 6 && o.Annotations[v1alpha1.ApproveDeletionAnnotation] == ""
	})
	w.check()
}

// A directory that is gone deletes nothing by itself. After the approval the
// Cluster goes first, and the rest in order when it is gone.
func TestTeardown(t *testing.T) {
	w := newWorld(t)
	w.secrets = []string{"pass-of-a"}
	first := revision(w.commit(merge(clusterOf("a", "one"), simple("b", "one"))))
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.finalizers("Cluster", "-a/a", held)
	w.remove("clusters/a")
	o := w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	if p := o.Status.PendingDeletion; p.Reason != v1alpha1.PathRemovedReason || len(p.Objects) != 6 {
		t.Errorf("pending: %s", toJSON(p))
	}
	all := map[string][]string{
		"Namespace": {"-a"}, "Secret": {"-a/credentials"}, "MachineDeployment": {"-a/workers"},
		"ProxmoxMachineTemplate": {"-a/workers-v1"}, "ConfigMap": {"-a/settings"},
	}
	for kind, names := range all {
		w.wantLive(kind, names...)
	}
	w.wantLive("Cluster", "-a/a")

	w.approve("clusters/a")
	w.eventually("the Cluster is being deleted", func() string {
		if u := w.live("Cluster", "-a/a"); u.GetDeletionTimestamp() == nil {
			return "not yet"
		}
		return ""
	})
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.TeardownReason, "Cluster")
	// A restart in the middle goes on from the status.
	r.stop()
	mark := w.mark()
	w.start()
	w.look()
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.TeardownReason, "Cluster")
	for kind, names := range all {
		w.wantLive(kind, names...)
	}
	// The user's finalizer goes when Cluster API has taken the machines down.
	w.finalizers("Cluster", "-a/a")
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		if kind != "Namespace" {
			w.untilGone(kind, all[kind][0])
		}
	}
	w.untilGone("Namespace", "-a")
	w.finalize("-a")
	w.eventually("the ClusterOverlay goes", func() string {
		if o := w.find("clusters/a"); o != nil {
			return describe(o)
		}
		return ""
	})
	var order []string
	for _, request := range w.written(mark) {
		if verb, what, _ := strings.Cut(request, " "); verb == "delete" && !strings.Contains(what, "clusteroverlays") {
			order = append(order, strings.Fields(what)[0])
		}
	}
	if n := len(order); n != 5 || order[0] != "machinedeployments" || order[n-2] != "secrets" || order[n-1] != "namespaces" {
		t.Errorf("order of deletes: %q", order)
	}
	w.untilApplied(first, "clusters/b")
	w.wantLive("ConfigMap", "-b/settings")
	w.check()
}

// A directory that comes back before the approval withdraws the deletion.
func TestRestoredBeforeApproval(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(clusterOf("a", "one"), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	uid := w.uid("Cluster", "-a/a")
	w.remove("clusters/a")
	hash := w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason).Status.PendingDeletion.Hash
	back := w.push(clusterOf("a", "one"))
	w.untilApplied(back, "clusters/a")
	w.until("clusters/a", "withdraws the deletion", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.PendingDeletion == nil })
	if w.uid("Cluster", "-a/a") != uid {
		t.Error("the Cluster is another one")
	}
	// An approval that comes too late is void, and counts for nothing later.
	w.annotate(w.overlay("clusters/a"), v1alpha1.ApproveDeletionAnnotation, hash)
	w.untilEvent("ApprovalVoid", hash)
	w.until("clusters/a", "drops the approval", func(o *v1alpha1.ClusterOverlay) bool {
		return o.Annotations[v1alpha1.ApproveDeletionAnnotation] == ""
	})
	w.check()
}

// A directory that comes back during a teardown waits until the Cluster is gone.
// Then everything is applied as new, also what the garbage collector took along.
func TestRestoredDuringTeardown(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(clusterOf("a", "one"), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	uid := w.uid("Cluster", "-a/a")
	w.finalizers("Cluster", "-a/a", held)
	w.remove("clusters/a")
	w.approve("clusters/a")
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.TeardownReason)
	w.push(clusterOf("a", "two"))
	w.untilCondition("clusters/a", v1alpha1.AppliedCondition, v1alpha1.ClusterDeletingReason)
	if got := w.data("-a/settings"); got != "one" {
		t.Errorf("settings was changed to %q while the Cluster is being deleted", got)
	}
	// A commit that breaks the overlay meanwhile must not make it forget.
	w.push(overlayOf("clusters/a", "{kind: ["))
	w.untilCondition("clusters/a", v1alpha1.RenderedCondition, v1alpha1.RenderFailedReason)
	last := w.push(clusterOf("a", "two"))
	w.untilCondition("clusters/a", v1alpha1.RenderedCondition, v1alpha1.SucceededReason)
	w.delete("MachineDeployment", "-a/workers")
	w.delete("ProxmoxMachineTemplate", "-a/workers-v1")
	w.finalizers("Cluster", "-a/a")
	w.reconcileUntilApplied("clusters/a", last)
	if w.uid("Cluster", "-a/a") == uid {
		t.Error("the Cluster is the old one")
	}
	w.wantLive("MachineDeployment", "-a/workers")
	w.wantLive("ProxmoxMachineTemplate", "-a/workers-v1")
	w.wantLive("Secret", "-a/credentials")
	if got := w.data("-a/settings"); got != "two" {
		t.Errorf("settings: %q", got)
	}
	w.until("clusters/a", "has no deletion", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.PendingDeletion == nil })
	w.check()
}

// nudge makes the agent look at an overlay now, where it would by itself in some
// seconds, without asking for a comparison.
func (w *world) nudge(path string) { w.suspend(path, true); w.suspend(path, false) }

func (w *world) reconcileUntilApplied(path, revision string) {
	w.Helper()
	w.nudge(path)
	w.untilApplied(revision, path)
}

// A template that machines are made from is kept when it leaves Git, until nothing
// refers to it.
func TestTemplateInUse(t *testing.T) {
	w := newWorld(t)
	s := "-a"
	objects := func(template string, templates ...string) map[string]string {
		all := []string{namespaceOf(s), cluster(s, "a"), machines(s, "workers", "a", template, 1)}
		for _, name := range templates {
			all = append(all, machineTemplate(s, name))
		}
		return overlayOf("clusters/a", all...)
	}
	first := revision(w.commit(objects("v1", "v1")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	// The old one is still used by a MachineSet of the rollout, which is not in Git.
	set := w.object("MachineDeployment", "-a/old")
	set.Object = parse(strings.NewReplacer("MachineDeployment", "MachineSet", "name: workers", "name: old", "NS", w.ns).Replace(machines(s, "workers", "a", "v1", 1)))
	w.must(env.Client().Create(w.Context(), set))
	second := w.push(objects("v2", "v2"))
	w.untilApplied(second, "clusters/a")
	o := w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "v1", "in use by MachineSet")
	if o.Status.PendingDeletion != nil {
		t.Errorf("pending: %s", toJSON(o.Status.PendingDeletion))
	}
	w.wantLive("ProxmoxMachineTemplate", "-a/v1", "-a/v2")
	w.must(env.Client().Delete(w.Context(), set))
	w.nudge("clusters/a")
	w.untilGone("ProxmoxMachineTemplate", "-a/v1")
	w.until("clusters/a", "has forgotten the template", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.Objects == 4 })
	w.check()
}

// While an overlay of the Fleet doesn't render it isn't known what it holds, so
// nothing is deleted; when it does, deletions go on by themselves.
func TestHeldByBrokenNeighbour(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(simple("a", "one", configMap("-a", "extra", "x")), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	second := w.push(merge(simple("a", "two"), overlayOf("clusters/b", "{kind: [")))
	w.untilApplied(second, "clusters/a") // it isn't delayed
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "clusters/b")
	w.wantLive("ConfigMap", "-a/extra")
	uid := w.uid("ConfigMap", "-a/extra")
	// It turns out to be there now.
	third := w.push(simple("b", "two", configMap("-a", "extra", "y")))
	w.untilApplied(third, "clusters/b")
	w.until("clusters/a", "lets go", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.Objects == 2 })
	if w.uid("ConfigMap", "-a/extra") != uid || w.data("-a/extra") != "y" {
		t.Error("the object was deleted and made anew, or not taken over")
	}
	w.push(merge(simple("a", "three"), overlayOf("clusters/c", "{kind: ["), simple("b", "three")))
	w.untilCondition("clusters/b", v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "clusters/c")
	w.remove("clusters/c")
	w.untilGone("ConfigMap", "-a/extra")
	w.check()
}

// Losing more overlays at once than the Fleet allows is taken for an accident: no
// approval counts until some are back or the limit is raised.
func TestCap(t *testing.T) {
	w := newWorld(t)
	names := []string{"a", "b", "c"}
	files := simple("z", "one")
	var paths []string
	for _, name := range names {
		files = merge(files, simple(name, "one"))
		paths = append(paths, "clusters/"+name)
	}
	first := revision(w.commit(files))
	two := int32(2)
	w.fleet(func(f *v1alpha1.Fleet) { f.Spec.Deletion.MaxClusters = &two })
	w.start()
	w.untilApplied(first, paths...)
	w.remove(paths...)
	for _, path := range paths {
		w.untilCondition(path, v1alpha1.PendingDeletionCondition, v1alpha1.PruneHeldReason, "3 overlays have lost", "maxClusters")
	}
	pending := w.overlay("clusters/a").Status.PendingDeletion
	w.annotate(w.overlay("clusters/a"), v1alpha1.ApproveDeletionAnnotation, pending.Hash)
	w.reconcile("clusters/a") // it has looked
	w.wantLive("ConfigMap", "-a/settings")
	if w.overlay("clusters/a").Status.PendingDeletion.Approved {
		t.Error("an approval beyond the limit was accepted")
	}
	w.approved["namespace "+w.ns+"-a"] = true
	three := int32(3)
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Deletion.MaxClusters = &three })
	w.untilGone("ConfigMap", "-a/settings")
	w.wantLive("ConfigMap", "-b/settings", "-c/settings")
	w.check()
}

// Everything gone at once, in whatever way, deletes nothing.
func TestNothingLeft(t *testing.T) {
	w := newWorld(t)
	files := merge(clusterOf("a", "one"), clusterOf("b", "one"), map[string]string{"README.md": "x"})
	first := revision(w.commit(files))
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	unharmed := func(what string) {
		t.Helper()
		for _, name := range []string{"a", "b"} {
			s := "-" + name
			w.wantLive("Namespace", s)
			w.wantLive("Cluster", s+"/"+name)
			w.wantLive("Secret", s+"/credentials")
			w.wantLive("ConfigMap", s+"/settings")
			w.wantLive("ProxmoxMachineTemplate", s+"/workers-v1")
		}
		for _, request := range w.written(0) {
			if strings.HasPrefix(request, "delete") {
				t.Fatalf("%s: %s", what, request)
			}
		}
	}
	w.remove("clusters")
	w.untilFleet(v1alpha1.DiscoveredCondition, v1alpha1.NoOverlaysReason, "nothing is deleted")
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	w.untilCondition("clusters/b", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	unharmed("rm -rf clusters")
	// The same after a restart, when nothing is known but statuses.
	r.stop()
	w.start()
	w.look()
	unharmed("rm -rf clusters, restarted")
	back := w.push(files)
	w.untilApplied(back, "clusters/a", "clusters/b")
	w.until("clusters/a", "has no deletion", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.PendingDeletion == nil })

	// Directories that render nothing.
	empty := map[string]string{}
	for _, name := range []string{"a", "b"} {
		empty["clusters/"+name+"/all.yaml"] = "# nothing\n"
	}
	w.push(empty)
	o := w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	if got := o.Status.PendingDeletion.Reason; got != v1alpha1.EmptyRenderReason {
		t.Errorf("reason %s, want EmptyRender", got)
	}
	w.untilCondition("clusters/b", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	unharmed("empty renders")

	// A glob that matches nothing.
	w.push(files)
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Overlays.Paths = []string{"cluster/*"} })
	w.untilFleet(v1alpha1.DiscoveredCondition, v1alpha1.NoOverlaysReason, fmt.Sprintf("%q", "cluster/*"))
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	unharmed("a wrong glob")
	w.check()
}
