package inventory_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
)

// model is a management cluster, a Git directory, an agent that may be killed
// between any two instructions, and people who edit, approve and meddle. It checks
// the promises of pruning at every delete and after every round.
type model struct {
	t   *testing.T
	rng *rand.Rand
	log []string

	git  map[object.ID]bool // rendered objects
	rev  map[object.ID]int  // version of their content, also while they are away
	all  []v1alpha1.ObjectReference
	live map[object.ID]*unstructured.Unstructured
	uids int

	// what survives the agent
	entries    []v1alpha1.InventoryEntry
	pending    *v1alpha1.PendingDeletion
	annotation string

	// approvals are what people approved and that was not back in Git since.
	approvals map[object.ID]map[types.UID]bool
	// noted are live objects that the agent has let go, saying so.
	noted map[types.UID]bool
	// deleted are objects that the agent has deleted and not applied since.
	deleted map[object.ID]bool
	// left is the number of instructions until the agent is killed.
	left int
}

type killed struct{}

const overlay = "fleet-dev"

var universe = []v1alpha1.ObjectReference{
	{Version: "v1", Kind: "Namespace", Name: "dev"},
	{Version: "v1", Kind: "Secret", Namespace: "dev", Name: "credentials"},
	{Version: "v1", Kind: "ConfigMap", Namespace: "dev", Name: "cilium"},
	{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Kind: "ProxmoxMachineTemplate", Namespace: "dev", Name: "workers"},
	{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Kind: "ProxmoxCluster", Namespace: "dev", Name: "dev"},
	{Group: "controlplane.cluster.x-k8s.io", Version: "v1alpha3", Kind: "TalosControlPlane", Namespace: "dev", Name: "cp"},
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "Cluster", Namespace: "dev", Name: "dev"},
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "MachineDeployment", Namespace: "dev", Name: "workers"},
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "MachineHealthCheck", Namespace: "dev", Name: "workers"},
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), all: universe,
		git: map[object.ID]bool{}, rev: map[object.ID]int{}, deleted: map[object.ID]bool{}, live: map[object.ID]*unstructured.Unstructured{},
		approvals: map[object.ID]map[types.UID]bool{}, noted: map[types.UID]bool{},
	}
	m.restore()
	return m
}

func (m *model) logf(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(m.log, "\n"))
}

func (m *model) pick() v1alpha1.ObjectReference { return m.all[m.rng.IntN(len(m.all))] }

// --- people and the world

func (m *model) restore() {
	for _, ref := range m.all {
		m.git[inventory.IDOf(ref)] = true
	}
	m.logf("git: everything")
}

func (m *model) newUID() types.UID {
	m.uids++
	return types.UID(fmt.Sprintf("uid-%d", m.uids))
}

func (m *model) object(ref v1alpha1.ObjectReference) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetAPIVersion(strings.TrimPrefix(ref.Group+"/"+ref.Version, "/"))
	u.SetKind(ref.Kind)
	u.SetNamespace(ref.Namespace)
	u.SetName(ref.Name)
	u.SetUID(m.newUID())
	if ref.Kind == "MachineDeployment" {
		u.Object["spec"] = map[string]any{"replicas": int64(3)}
	}
	return u
}

func (m *model) act() {
	ref := m.pick()
	id := inventory.IDOf(ref)
	u := m.live[id]
	switch n := m.rng.IntN(100); {
	case n < 12:
		m.logf("git: remove %s", id)
		delete(m.git, id)
	case n < 20:
		m.logf("git: add or edit %s", id)
		if m.git[id] {
			m.rev[id]++
		}
		m.git[id] = true
	case n < 26:
		m.logf("git: the directory is gone")
		clear(m.git)
	case n < 30:
		m.restore()
	case n < 50:
		m.approve()
	case n < 52:
		m.logf("person: a made-up approval")
		m.annotation = "0123456789abcdef"
	case n < 54 && u != nil:
		m.logf("person: recreates %s with our label", id)
		m.live[id] = m.object(ref)
		m.live[id].SetLabels(map[string]string{v1alpha1.OverlayLabel: overlay})
		m.noted[m.live[id].GetUID()] = true // the person's own, until we apply to it
	case n < 56 && u != nil:
		m.logf("person: takes the label off %s", id)
		u.SetLabels(nil)
	case n < 58 && u != nil:
		m.logf("person: prune disabled on %s", id)
		u.SetAnnotations(map[string]string{v1alpha1.PruneAnnotation: v1alpha1.Disabled})
	case n < 60 && u != nil:
		m.logf("person: deletes %s", id)
		m.terminate(u)
	case n < 62 && u != nil:
		m.logf("person: scales or unscales %s", id)
		if ref.Kind == "MachineDeployment" {
			u.Object["spec"] = map[string]any{"replicas": int64(m.rng.IntN(2))}
		}
	case n < 80:
		m.progress(false)
	}
}

func (m *model) approve() {
	if m.pending == nil || m.pending.Approved {
		return
	}
	m.logf("person: approves %s (%s)", m.pending.Hash, m.pending.Message)
	m.annotation = m.pending.Hash
	for _, ref := range m.pending.Objects {
		id := inventory.IDOf(ref)
		if m.approvals[id] == nil {
			m.approvals[id] = map[types.UID]bool{}
		}
		m.approvals[id][ref.UID] = true
	}
}

func (m *model) terminate(u *unstructured.Unstructured) {
	now := metav1.Now()
	u.SetDeletionTimestamp(&now)
}

// progress lets objects that are being deleted vanish; a Cluster takes what
// belongs to it along.
func (m *model) progress(all bool) {
	for _, ref := range m.all {
		id := inventory.IDOf(ref)
		u := m.live[id]
		if u == nil || u.GetDeletionTimestamp() == nil || (!all && m.rng.IntN(2) == 0) {
			continue
		}
		m.logf("world: %s is gone", id)
		delete(m.live, id)
		if capi.IsCluster(id.GroupKind()) {
			for other := range m.live {
				if gk := other.GroupKind(); capi.IsControlPlane(gk) || capi.IsInfraCluster(gk) || capi.IsMachineOwner(gk) {
					delete(m.live, other)
				}
			}
		}
	}
}

// --- the agent

// step is a point at which the agent may be killed.
func (m *model) step() {
	if m.left--; m.left == 0 {
		m.logf("agent: killed")
		panic(killed{})
	}
}

// reconcile runs one round, which may be cut short.
func (m *model) reconcile(instructions int) (done bool) {
	m.left = instructions
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			done = false
		}
	}()
	var desired []inventory.Desired
	for _, ref := range m.all {
		if id := inventory.IDOf(ref); m.git[id] {
			desired = append(desired, inventory.Desired{Ref: ref, Digest: fmt.Sprint("rev ", m.rev[id])})
		}
	}
	next, changed := inventory.WriteAhead(m.entries, desired)
	if changed {
		m.entries = next
		m.step()
	}
	outcomes := m.apply(next, desired)
	current := inventory.Record(next, outcomes)
	in := m.input(current, desired)
	plan := inventory.PlanPrune(in)
	m.checkPlan(in, plan)
	if plan.VoidApproval != "" {
		m.annotation = ""
		m.step()
	}
	m.entries, m.pending = inventory.AfterPlan(current, desired, plan), plan.Pending
	for _, ref := range plan.Forget {
		if u := m.live[inventory.IDOf(ref)]; u != nil {
			m.noted[u.GetUID()] = true
		}
	}
	for _, note := range plan.Notes {
		m.logf("agent: %s", note)
	}
	// An object that the agent has seen in Git needs a new approval to go.
	for _, d := range desired {
		delete(m.approvals, inventory.IDOf(d.Ref))
	}
	m.step()
	if plan.AcceptedApproval {
		m.annotation = ""
		m.step()
	}
	for _, ref := range plan.Delete {
		m.delete(ref, in.Whole)
		m.step()
	}
	m.checkNothingLost()
	for id := range m.deleted {
		if m.git[id] && m.live[id] == nil {
			m.fail("%s came back to Git and is missing", id)
		}
	}
	return true
}

func (m *model) apply(entries []v1alpha1.InventoryEntry, desired []inventory.Desired) []inventory.Outcome {
	var outcomes []inventory.Outcome
	for _, id := range inventory.Changed(entries, desired) {
		i := slices.IndexFunc(desired, func(d inventory.Desired) bool { return inventory.IDOf(d.Ref) == id })
		u := m.live[id]
		if u != nil && u.GetDeletionTimestamp() != nil {
			outcomes = append(outcomes, inventory.Outcome{Ref: desired[i].Ref}) // the API server refuses
			continue
		}
		if u == nil {
			u = m.object(desired[i].Ref)
			m.live[id] = u
		}
		u.SetLabels(map[string]string{v1alpha1.OverlayLabel: overlay})
		u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: v1alpha1.FieldManager, Operation: metav1.ManagedFieldsOperationApply}})
		delete(m.noted, u.GetUID())
		delete(m.deleted, id)
		m.logf("agent: applied %s (%s)", id, u.GetUID())
		ref := desired[i].Ref
		ref.UID = u.GetUID()
		outcomes = append(outcomes, inventory.Outcome{Ref: ref, Digest: desired[i].Digest, Applied: true})
		m.step()
	}
	return outcomes
}

func (m *model) input(current []v1alpha1.InventoryEntry, desired []inventory.Desired) inventory.PruneInput {
	in := inventory.PruneInput{
		OverlayUID: "overlay-uid", OverlayName: overlay, Whole: len(desired) == 0,
		Reason: v1alpha1.ObjectsRemovedReason, Previous: m.pending, Approval: m.annotation,
	}
	if in.Whole {
		in.Reason = v1alpha1.PathRemovedReason
	}
	if m.rng.IntN(20) == 0 {
		in.Hold = "the fleet is held"
	}
	var live []*unstructured.Unstructured
	for _, u := range m.live {
		live = append(live, u)
	}
	for _, entry := range inventory.Leaving(current, desired) {
		id := inventory.IDOf(entry.ObjectReference)
		c := inventory.Candidate{Entry: entry, OwnerLabel: overlay}
		switch {
		case m.rng.IntN(40) == 0:
			c.ReadError = fmt.Errorf("i/o timeout")
		case m.live[id] != nil:
			c.Live = m.live[id].DeepCopy()
			c.Users = capi.TemplateUsers(id, live)
		}
		in.Candidates = append(in.Candidates, c)
	}
	return in
}

// --- promises

func (m *model) checkPlan(in inventory.PruneInput, plan inventory.PrunePlan) {
	m.t.Helper()
	if diff := cmp.Diff(plan, inventory.PlanPrune(in)); diff != "" {
		m.fail("asked again, the plan differs: %s", diff)
	}
	seen := map[object.ID]int{}
	for _, ref := range plan.Forget {
		seen[inventory.IDOf(ref)]++
	}
	for _, entry := range plan.Keep {
		seen[inventory.IDOf(entry.ObjectReference)]++
		if len(entry.Message) > 1024 || entry.Message == "" {
			m.fail("message of %s: %q", entry.Name, entry.Message)
		}
	}
	for _, c := range in.Candidates {
		if seen[inventory.IDOf(c.Entry.ObjectReference)] != 1 {
			m.fail("%s is not in exactly one of Forget and Keep: %+v", c.Entry.Name, plan)
		}
	}
	if plan.AcceptedApproval && len(plan.Delete) > 0 {
		m.fail("deletes in the round of the approval")
	}
	unread := slices.ContainsFunc(in.Candidates, func(c inventory.Candidate) bool { return c.ReadError != nil })
	if (in.Hold != "" || unread) && (len(plan.Delete) > 0 || len(plan.Forget) > 0 || plan.AcceptedApproval) {
		m.fail("acted although it must not: %+v", plan)
	}
}

func (m *model) delete(ref v1alpha1.ObjectReference, whole bool) {
	m.t.Helper()
	id := inventory.IDOf(ref)
	u := m.live[id]
	if u == nil || u.GetUID() != ref.UID {
		return // the precondition fails
	}
	m.logf("agent: deletes %s (%s)", id, ref.UID)
	m.deleted[id] = true
	if m.git[id] {
		m.fail("%s is in Git", id)
	}
	if u.GetDeletionTimestamp() != nil {
		m.fail("second delete of %s", id)
	}
	if u.GetLabels()[v1alpha1.OverlayLabel] != overlay {
		m.fail("%s is not ours", id)
	}
	if u.GetAnnotations()[v1alpha1.PruneAnnotation] != "" {
		m.fail("%s opted out", id)
	}
	_, guarded := capi.Guard(id.GroupKind(), u)
	if (guarded || whole) && !m.approvals[id][ref.UID] {
		m.fail("nobody approved the deletion of %s (%s)", id, ref.UID)
	}
	if !capi.IsCluster(id.GroupKind()) {
		for _, entry := range m.entries {
			other := inventory.IDOf(entry.ObjectReference)
			if l := m.live[other]; capi.IsCluster(other.GroupKind()) && l != nil && l.GetUID() == entry.UID && entry.State == v1alpha1.EntryLeaving {
				m.fail("%s is deleted before its Cluster is gone", id)
			}
		}
	}
	if whole && id.Kind == "Secret" {
		for _, entry := range m.entries {
			other := inventory.IDOf(entry.ObjectReference)
			if gk := other.GroupKind(); m.live[other] != nil && (capi.IsMachineOwner(gk) || capi.IsControlPlane(gk) || capi.IsInfraCluster(gk)) {
				m.fail("credentials go before %s", other)
			}
		}
	}
	m.terminate(u)
	if id.Group == "" && id.Kind == "ConfigMap" {
		delete(m.live, id) // no finalizers
	}
}

// checkNothingLost: an object that carries our label is in the inventory, or was
// let go with a note.
func (m *model) checkNothingLost() {
	m.t.Helper()
	for id, u := range m.live {
		known := slices.ContainsFunc(m.entries, func(e v1alpha1.InventoryEntry) bool { return inventory.IDOf(e.ObjectReference) == id })
		if u.GetLabels()[v1alpha1.OverlayLabel] == overlay && !known && !m.noted[u.GetUID()] {
			m.fail("%s (%s) is lost", id, u.GetUID())
		}
	}
}

// TestModel plays random histories.
func TestModel(t *testing.T) {
	runs := 500
	if testing.Short() {
		runs = 100
	}
	for seed := range uint64(runs) {
		m := newModel(t, seed)
		for range 40 {
			m.act()
			if m.rng.IntN(2) == 0 {
				m.reconcile(1 + m.rng.IntN(25))
			}
		}
		m.finish()
	}
}

// finish removes the directory, approves whatever is asked for, and expects the
// end within some rounds.
func (m *model) finish() {
	m.t.Helper()
	m.logf("--- the end")
	clear(m.git)
	for range 80 {
		m.reconcile(1000)
		if len(m.entries) == 0 {
			break
		}
		m.approve()
		m.progress(true)
	}
	if len(m.entries) > 0 || m.pending != nil {
		m.fail("never ends: %+v\npending %+v", m.entries, m.pending)
	}
	for id, u := range m.live {
		if u.GetLabels()[v1alpha1.OverlayLabel] == overlay && !m.noted[u.GetUID()] {
			m.fail("%s is left behind", id)
		}
	}
}
