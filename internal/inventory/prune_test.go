package inventory_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
)

// candidate is an object that has left Git, lives, and is ours.
func candidate(kind, name string, change ...func(*inventory.Candidate)) inventory.Candidate {
	r := ref(kind, name)
	r.UID = types.UID("uid-" + kind + "-" + name)
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetAPIVersion(strings.TrimPrefix(r.Group+"/"+r.Version, "/"))
	u.SetKind(r.Kind)
	u.SetNamespace(r.Namespace)
	u.SetName(r.Name)
	u.SetUID(r.UID)
	u.SetLabels(map[string]string{v1alpha1.OverlayLabel: overlay})
	c := inventory.Candidate{
		Entry:      v1alpha1.InventoryEntry{ObjectReference: r, Digest: "d", State: v1alpha1.EntryLeaving},
		Live:       u,
		OwnerLabel: overlay,
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func gone(c *inventory.Candidate) { c.Live = nil }
func terminating(c *inventory.Candidate) {
	now := metav1.Now()
	c.Live.SetDeletionTimestamp(&now)
}
func unread(c *inventory.Candidate)     { c.Live, c.ReadError = nil, errors.New("i/o timeout") }
func handed(c *inventory.Candidate)     { c.HandedTo = "other" }
func used(c *inventory.Candidate)       { c.Users = []string{"MachineDeployment dev/workers"} }
func unlabelled(c *inventory.Candidate) { c.Live.SetLabels(nil) }
func foreign(c *inventory.Candidate) {
	c.Live.SetLabels(map[string]string{v1alpha1.OverlayLabel: "other"})
}
func recreated(c *inventory.Candidate) { c.Live.SetUID("uid-new") }
func intent(c *inventory.Candidate)    { c.Entry.UID, c.Entry.Digest = "", "" }
func optedOut(c *inventory.Candidate) {
	c.Live.SetAnnotations(map[string]string{v1alpha1.PruneAnnotation: v1alpha1.Disabled})
}
func leftAlone(c *inventory.Candidate) {
	c.Live.SetAnnotations(map[string]string{v1alpha1.ReconcileAnnotation: v1alpha1.Disabled})
}
func moving(c *inventory.Candidate) {
	c.Live.SetAnnotations(map[string]string{"clusterctl.cluster.x-k8s.io/delete-for-move": ""})
}
func paused(c *inventory.Candidate) { c.Live.Object["spec"] = map[string]any{"paused": true} }
func scaledToZero(c *inventory.Candidate) {
	c.Live.Object["spec"] = map[string]any{"replicas": int64(0)}
}
func restored(c *inventory.Candidate) {
	c.Live.SetUID("uid-new")
	c.Live.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: v1alpha1.FieldManager, Operation: metav1.ManagedFieldsOperationApply}})
}

func removed(candidates ...inventory.Candidate) inventory.PruneInput {
	return inventory.PruneInput{
		OverlayUID: "o", OverlayName: overlay, Reason: v1alpha1.ObjectsRemovedReason, Candidates: candidates,
	}
}

func whole(candidates ...inventory.Candidate) inventory.PruneInput {
	in := removed(candidates...)
	in.Whole, in.Reason = true, v1alpha1.PathRemovedReason
	return in
}

// approved returns the input after a person has approved what was pending and the
// agent has recorded that.
func approved(t *testing.T, in inventory.PruneInput) inventory.PruneInput {
	t.Helper()
	first := inventory.PlanPrune(in)
	if first.Pending == nil || first.Pending.Approved || len(first.Delete) > 0 && in.Whole {
		t.Fatalf("nothing waits: %+v", first)
	}
	in.Previous, in.Approval = first.Pending, first.Pending.Hash
	second := inventory.PlanPrune(in)
	if !second.AcceptedApproval || !second.Pending.Approved || len(second.Delete) > 0 {
		t.Fatalf("not accepted: %+v", second)
	}
	in.Previous = second.Pending
	third := inventory.PlanPrune(in) // killed before the annotation was removed
	if !third.AcceptedApproval || len(third.Delete) > 0 || third.VoidApproval != "" {
		t.Fatalf("the annotation is still there: %+v", third)
	}
	in.Approval = ""
	return in
}

func names(refs []v1alpha1.ObjectReference) string {
	var all []string
	for _, r := range refs {
		all = append(all, r.Kind+"/"+r.Name)
	}
	return strings.Join(all, " ")
}

func keeps(entries []v1alpha1.InventoryEntry) string {
	var all []string
	for _, e := range entries {
		all = append(all, e.Kind+"/"+e.Name+" "+string(e.State)+": "+e.Message)
	}
	return strings.Join(all, "\n")
}

// TestPruneOne: what happens to a single object that leaves a living overlay.
func TestPruneOne(t *testing.T) {
	type want struct{ del, forget, keep, pending string }
	template := "ProxmoxMachineTemplate"
	cases := []struct {
		name string
		c    inventory.Candidate
		want want
	}{
		{"deleted at once", candidate("ConfigMap", "a"), want{del: "ConfigMap/a", keep: "ConfigMap/a Leaving: is being deleted"}},
		{"gone", candidate("ConfigMap", "a", gone), want{forget: "ConfigMap/a"}},
		{"being deleted", candidate("ConfigMap", "a", terminating), want{keep: "ConfigMap/a Leaving: is being deleted"}},
		{"read error", candidate("ConfigMap", "a", unread), want{keep: "ConfigMap/a Leaving: nothing is deleted: the live state of ConfigMap dev/a could not be read: i/o timeout"}},
		{"handed over", candidate("ConfigMap", "a", handed), want{forget: "ConfigMap/a"}},
		{"handed over, gone", candidate("Cluster", "a", handed, gone), want{forget: "Cluster/a"}},
		{"label lost", candidate("ConfigMap", "a", unlabelled), want{forget: "ConfigMap/a"}},
		{"label of another", candidate("ConfigMap", "a", foreign), want{forget: "ConfigMap/a"}},
		{"recreated", candidate("ConfigMap", "a", recreated), want{forget: "ConfigMap/a"}},
		{"recreated by us", candidate("ConfigMap", "a", restored), want{del: "ConfigMap/a", keep: "ConfigMap/a Leaving: is being deleted"}},
		{"intent", candidate("ConfigMap", "a", intent), want{del: "ConfigMap/a", keep: "ConfigMap/a Leaving: is being deleted"}},
		{"intent, never applied", candidate("ConfigMap", "a", intent, gone), want{forget: "ConfigMap/a"}},
		{"intent, somebody else's", candidate("ConfigMap", "a", intent, unlabelled), want{forget: "ConfigMap/a"}},
		{"opted out", candidate("ConfigMap", "a", optedOut), want{forget: "ConfigMap/a"}},
		{"opted out, guarded", candidate("Secret", "a", optedOut), want{forget: "Secret/a"}},
		{"left alone", candidate("ConfigMap", "a", leftAlone), want{keep: "ConfigMap/a Retained: is kept: annotation capstan.dev/reconcile: disabled"}},
		{"being moved", candidate("ConfigMap", "a", moving), want{keep: "ConfigMap/a Leaving: can't be deleted now: clusterctl is moving it to another management cluster (annotation clusterctl.cluster.x-k8s.io/delete-for-move)"}},
		{"in use", candidate(template, "a", used), want{keep: template + "/a Retained: is kept: in use by MachineDeployment dev/workers"}},
		{"not in use", candidate(template, "a"), want{del: template + "/a", keep: template + "/a Leaving: is being deleted"}},
		{"guarded", candidate("Secret", "a"), want{pending: "Secret dev/a", keep: "Secret/a Leaving: waits for an approval: providers need their credentials to delete machines"}},
		{"machines", candidate("MachineDeployment", "a"), want{pending: "MachineDeployment dev/a", keep: "MachineDeployment/a Leaving: waits for an approval: its machines are deleted"}},
		{"no machines", candidate("MachineDeployment", "a", scaledToZero), want{del: "MachineDeployment/a", keep: "MachineDeployment/a Leaving: is being deleted"}},
		{"part of a cluster", candidate("TalosControlPlane", "a"), want{
			pending: "TalosControlPlane dev/a (parts of a cluster, whose Cluster is not among them)",
			keep:    "TalosControlPlane/a Leaving: waits for an approval: all machines of the control plane are deleted",
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			plan := inventory.PlanPrune(removed(c.c))
			got := want{del: names(plan.Delete), forget: names(plan.Forget), keep: keeps(plan.Keep)}
			if plan.Pending != nil {
				got.pending = plan.Pending.Message
			}
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			for _, r := range plan.Delete {
				if r.UID == "" || r.UID != c.c.Live.GetUID() {
					t.Errorf("delete without precondition: %+v", r)
				}
			}
			if len(plan.Forget)+len(plan.Delete) != len(plan.Notes) {
				t.Errorf("notes: %q", plan.Notes)
			}
		})
	}
}

// fullSet is a cluster and what belongs to it.
func fullSet(change ...func(*inventory.Candidate)) []inventory.Candidate {
	return []inventory.Candidate{
		candidate("Namespace", "dev", change...),
		candidate("Secret", "credentials", change...),
		candidate("ConfigMap", "cilium", change...),
		candidate("ProxmoxMachineTemplate", "workers", change...),
		candidate("ProxmoxCluster", "dev", change...),
		candidate("TalosControlPlane", "cp", change...),
		candidate("Cluster", "dev", change...),
		candidate("MachineDeployment", "workers", change...),
		candidate("MachineHealthCheck", "workers", change...),
	}
}

// TestTeardown: the Cluster alone, then the rest in waves, one delete for each
// object, a second call in between changing nothing.
func TestTeardown(t *testing.T) {
	in := approved(t, whole(fullSet()...))
	waves := []string{
		"Cluster/dev",
		"MachineHealthCheck/workers MachineDeployment/workers",
		"TalosControlPlane/cp",
		"ProxmoxCluster/dev",
		"ProxmoxMachineTemplate/workers ConfigMap/cilium",
		"Secret/credentials",
		"Namespace/dev",
	}
	for _, wave := range waves {
		plan := inventory.PlanPrune(in)
		if got := names(plan.Delete); got != wave {
			t.Fatalf("deletes %q, want %q\n%s", got, wave, keeps(plan.Keep))
		}
		// The deletes were accepted, finalizers hold the objects.
		var next []inventory.Candidate
		deleted := map[string]bool{}
		for _, r := range plan.Delete {
			deleted[names([]v1alpha1.ObjectReference{r})] = true
		}
		for i, c := range in.Candidates {
			if deleted[names([]v1alpha1.ObjectReference{c.Entry.ObjectReference})] {
				terminating(&in.Candidates[i])
				gone(&c)
			}
			next = append(next, c)
		}
		in.Previous = plan.Pending
		plan = inventory.PlanPrune(in)
		if len(plan.Delete) > 0 || !strings.HasSuffix(plan.Waiting, " is being deleted") {
			t.Fatalf("while %q go: deletes %q, waits for %q", wave, names(plan.Delete), plan.Waiting)
		}
		in.Candidates, in.Previous = next, plan.Pending
	}
	plan := inventory.PlanPrune(in)
	if len(plan.Forget) != len(waves)+2 || len(plan.Keep) > 0 || plan.Pending != nil || plan.Waiting != "" {
		t.Errorf("at the end: %+v", plan)
	}
}

// TestWholeWaits: nothing at all goes before the approval.
func TestWholeWaits(t *testing.T) {
	in := whole(fullSet()...)
	plan := inventory.PlanPrune(in)
	if len(plan.Delete)+len(plan.Forget) > 0 || len(plan.Keep) != 9 {
		t.Errorf("acts: %+v", plan)
	}
	want := "Cluster dev/dev and its machines, 8 more objects: 1 ConfigMap, 1 MachineDeployment, 1 MachineHealthCheck, " +
		"1 Namespace, 1 ProxmoxCluster, 1 ProxmoxMachineTemplate, 1 Secret, 1 TalosControlPlane"
	if plan.Pending.Message != want || plan.Pending.Reason != v1alpha1.PathRemovedReason || len(plan.Pending.Objects) != 9 {
		t.Errorf("pending: %+v", plan.Pending)
	}
	if plan.Waiting != "approval of deletion "+plan.Pending.Hash {
		t.Errorf("waiting: %q", plan.Waiting)
	}
	if plan := inventory.PlanPrune(whole(candidate("ConfigMap", "a"))); len(plan.Delete) > 0 || plan.Pending == nil {
		t.Errorf("unguarded objects of a whole overlay: %+v", plan)
	}
}

// TestRenamedDirectory: everything is rendered by another overlay now.
func TestRenamedDirectory(t *testing.T) {
	plan := inventory.PlanPrune(whole(fullSet(handed)...))
	if len(plan.Delete) > 0 || plan.Pending != nil || len(plan.Forget) != 9 || len(plan.Keep) > 0 {
		t.Errorf("%+v", plan)
	}
}

func TestApprovalThatDoesNotMatch(t *testing.T) {
	in := whole(candidate("Cluster", "dev"), candidate("Secret", "a"))
	pending := inventory.PlanPrune(in).Pending
	in.Previous, in.Approval = pending, "0123"
	plan := inventory.PlanPrune(in)
	if plan.AcceptedApproval || len(plan.Delete) > 0 || !strings.HasPrefix(plan.VoidApproval, "approval 0123 doesn't match") {
		t.Errorf("wrong hash: %+v", plan)
	}
	in.Approval = pending.Hash
	for name, candidates := range map[string][]inventory.Candidate{
		"an object came back": {candidate("Cluster", "dev")},
		"an object joined":    {candidate("Cluster", "dev"), candidate("Secret", "a"), candidate("Secret", "b")},
		"another UID":         {candidate("Cluster", "dev"), candidate("Secret", "a", restored)},
		"everything is back":  nil,
	} {
		changed := in
		changed.Candidates = candidates
		plan := inventory.PlanPrune(changed)
		if plan.AcceptedApproval || plan.VoidApproval == "" || len(plan.Delete) > 0 {
			t.Errorf("%s: %+v", name, plan)
		}
		if (plan.Pending == nil) != (candidates == nil) || plan.Pending != nil && plan.Pending.Hash == pending.Hash {
			t.Errorf("%s: pending %+v", name, plan.Pending)
		}
	}
	other := in
	other.OverlayUID = "p"
	if plan := inventory.PlanPrune(other); plan.AcceptedApproval {
		t.Error("an approval of another overlay counts")
	}
}

// TestHold: nothing happens, and an approval stays where it is.
func TestHold(t *testing.T) {
	for name, hold := range map[string]func(*inventory.PruneInput){
		"held":          func(in *inventory.PruneInput) { in.Hold = "overlay x doesn't render" },
		"leaves paused": func(in *inventory.PruneInput) { paused(&in.Candidates[1]) },
		"read error":    func(in *inventory.PruneInput) { unread(&in.Candidates[2]) },
	} {
		t.Run(name, func(t *testing.T) {
			candidates := func() []inventory.Candidate {
				return []inventory.Candidate{
					candidate("ConfigMap", "gone", gone), candidate("Cluster", "dev"), candidate("Secret", "a"), candidate("ConfigMap", "b"),
				}
			}
			in := removed(candidates()...)
			in.Previous = inventory.PlanPrune(in).Pending
			in.Approval = in.Previous.Hash
			hold(&in)
			plan := inventory.PlanPrune(in)
			if len(plan.Delete)+len(plan.Forget) > 0 || plan.AcceptedApproval || plan.VoidApproval != "" || len(plan.Keep) != 4 || plan.Waiting == "" {
				t.Errorf("%+v", plan)
			}
			if diff := cmp.Diff(in.Previous, plan.Pending); diff != "" {
				t.Error(diff)
			}

			in = approved(t, removed(candidates()...))
			hold(&in)
			plan = inventory.PlanPrune(in)
			if len(plan.Delete) > 0 || plan.Pending == nil || !plan.Pending.Approved {
				t.Errorf("approved: %+v", plan)
			}
		})
	}
}

// TestApprovedSetChanges: only what was approved goes.
func TestApprovedSetChanges(t *testing.T) {
	in := approved(t, removed(candidate("MachineDeployment", "a"), candidate("MachineDeployment", "b"), candidate("MachineDeployment", "c")))
	in.Candidates = []inventory.Candidate{
		candidate("MachineDeployment", "a"),
		candidate("MachineDeployment", "b", restored), // another object now
		candidate("MachineDeployment", "new"),         // left after the approval
		// c came back to Git
	}
	plan := inventory.PlanPrune(in)
	if names(plan.Delete) != "MachineDeployment/a" || names(plan.Pending.Objects) != "MachineDeployment/a" || !plan.Pending.Approved {
		t.Errorf("%+v", plan)
	}
	in.Previous = plan.Pending
	in.Candidates[0] = candidate("MachineDeployment", "a", gone)
	in.Candidates = append(in.Candidates, candidate("MachineDeployment", "c")) // and has left again
	plan = inventory.PlanPrune(in)
	if len(plan.Delete) > 0 || plan.Pending.Approved || names(plan.Pending.Objects) != "MachineDeployment/b MachineDeployment/c MachineDeployment/new" {
		t.Errorf("%+v", plan)
	}
}

// TestDirectoryComesBack withdraws an approval that is under way; if the directory
// goes once more it needs a new one.
func TestDirectoryComesBack(t *testing.T) {
	in := approved(t, whole(fullSet()...))
	back := in
	back.Candidates, back.Whole, back.Reason = nil, false, v1alpha1.ObjectsRemovedReason
	plan := inventory.PlanPrune(back)
	if plan.Pending != nil || len(plan.Delete) > 0 {
		t.Errorf("%+v", plan)
	}
	in.Previous = plan.Pending
	if plan := inventory.PlanPrune(in); len(plan.Delete) > 0 || plan.Pending == nil || plan.Pending.Approved {
		t.Errorf("gone once more: %+v", plan)
	}
}

// TestClusterJoins: an approval of single objects is overtaken when their Cluster
// leaves too, because that has to go first.
func TestClusterJoins(t *testing.T) {
	in := approved(t, removed(candidate("MachineDeployment", "workers")))
	in.Candidates = append(in.Candidates, candidate("Cluster", "dev"))
	plan := inventory.PlanPrune(in)
	if len(plan.Delete) > 0 || plan.Pending.Approved || len(plan.Pending.Objects) != 2 || len(plan.Notes) != 1 {
		t.Errorf("%+v", plan)
	}
}

// TestClusterLeavesLivingOverlay: everything that leaves with it waits for it, also
// what needs no approval.
func TestClusterLeavesLivingOverlay(t *testing.T) {
	in := removed(candidate("Cluster", "dev"), candidate("TalosControlPlane", "cp"), candidate("ConfigMap", "a"))
	plan := inventory.PlanPrune(in)
	if len(plan.Delete) > 0 || len(plan.Pending.Objects) != 2 {
		t.Errorf("%+v", plan)
	}
	in = approved(t, in)
	if plan := inventory.PlanPrune(in); names(plan.Delete) != "Cluster/dev" {
		t.Errorf("%+v", plan)
	}
	terminating(&in.Candidates[0])
	if plan := inventory.PlanPrune(in); len(plan.Delete) > 0 || plan.Waiting != "Cluster dev/dev is being deleted" {
		t.Errorf("%+v", plan)
	}
	gone(&in.Candidates[0])
	if plan := inventory.PlanPrune(in); names(plan.Delete) != "TalosControlPlane/cp ConfigMap/a" {
		t.Errorf("%+v", plan)
	}
}

// TestControlPlaneAlone was approved explicitly and goes by itself.
func TestControlPlaneAlone(t *testing.T) {
	in := approved(t, removed(candidate("TalosControlPlane", "cp"), candidate("ProxmoxCluster", "dev"), candidate("Secret", "a")))
	if plan := inventory.PlanPrune(in); names(plan.Delete) != "TalosControlPlane/cp" {
		t.Errorf("%+v", plan)
	}
}

// TestOptedOutClusterKeepsAll: what leaves with a Cluster that stays, stays.
func TestOptedOutClusterKeepsAll(t *testing.T) {
	all := fullSet()
	optedOut(&all[6])
	plan := inventory.PlanPrune(whole(all...))
	if len(plan.Forget) != 9 || plan.Pending != nil || len(plan.Delete) > 0 {
		t.Errorf("%+v", plan)
	}
}

// TestNamespaceOfWhatStays isn't deleted.
func TestNamespaceOfWhatStays(t *testing.T) {
	plan := inventory.PlanPrune(whole(candidate("Namespace", "dev"), candidate("ConfigMap", "a", optedOut), candidate("ConfigMap", "b")))
	if names(plan.Forget) != "ConfigMap/a Namespace/dev" || names(plan.Pending.Objects) != "ConfigMap/b" {
		t.Errorf("%+v", plan)
	}
	in := removed(candidate("Namespace", "dev"))
	in.NamespacesInUse = map[string]string{"dev": "this overlay"}
	plan = inventory.PlanPrune(in)
	if plan.Pending != nil || keeps(plan.Keep) != "Namespace/dev Retained: is kept: in use by this overlay" {
		t.Errorf("%+v", plan)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	var all []inventory.Candidate
	for i := range 2000 {
		all = append(all, candidate("Secret", strings.Repeat("x", 200)+string(rune('a'+i%26))+strings.Repeat("y", i/26)))
	}
	for i := range 5 {
		all = append(all, candidate("Cluster", strings.Repeat("ü", 120)+string(rune('a'+i))))
	}
	in := whole(all...)
	in.Approval = strings.Repeat("z", 5000)
	plan := inventory.PlanPrune(in)
	for _, m := range []string{plan.Pending.Message, plan.VoidApproval, plan.Waiting} {
		if len(m) > 1024 || m == "" {
			t.Errorf("%d bytes: %s", len(m), m)
		}
	}
	unread(&all[0])
	all[0].ReadError = errors.New(strings.Repeat("e", 5000))
	for _, e := range inventory.PlanPrune(whole(all...)).Keep {
		if len(e.Message) > 1024 {
			t.Errorf("%d bytes", len(e.Message))
		}
	}
}

func TestAfterPlan(t *testing.T) {
	a, b, c := ref("ConfigMap", "a"), ref("ConfigMap", "b"), ref("ConfigMap", "c")
	kept := entry(b, "2", "d", v1alpha1.EntryRetained)
	kept.Message = "is kept"
	current := []v1alpha1.InventoryEntry{
		entry(a, "1", "d", v1alpha1.EntryLeaving), entry(b, "2", "d", v1alpha1.EntryLeaving), entry(c, "3", "d", v1alpha1.EntryApplied),
	}
	plan := inventory.PrunePlan{Forget: []v1alpha1.ObjectReference{a, c}, Keep: []v1alpha1.InventoryEntry{kept}}
	want := []v1alpha1.InventoryEntry{kept, current[2]}
	if diff := cmp.Diff(want, inventory.AfterPlan(current, []inventory.Desired{desired(c, "d")}, plan)); diff != "" {
		t.Error(diff)
	}
}
