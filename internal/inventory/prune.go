package inventory

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// Candidate is an object that has left Git, with what is known of it now.
type Candidate struct {
	// Entry is what the inventory says.
	Entry v1alpha1.InventoryEntry
	// Live is the object as the API server has it; nil if it answered NotFound.
	Live *unstructured.Unstructured
	// ReadError is any other answer: nothing is known, so nothing is pruned.
	ReadError error
	// HandedTo names another overlay of the Fleet that renders this object at
	// this revision.
	HandedTo string
	// Users names live objects that need this one, see [capi.TemplateUsers]. The
	// caller may also give the Clusters that live in a Namespace.
	Users []string
	// OwnerLabel is the value that the label capstan.dev/overlay must have for
	// the object to be this overlay's.
	OwnerLabel string
}

// PruneInput is everything that a decision about pruning looks at.
type PruneInput struct {
	// OverlayUID is the UID of the ClusterOverlay; approvals are bound to it.
	OverlayUID types.UID
	// OverlayName is the name of the ClusterOverlay, for messages.
	OverlayName string
	// Whole says that nothing is left of the overlay: its directory is gone, or
	// it renders nothing. Then everything waits for one approval.
	Whole bool
	// Reason is PathRemoved, EmptyRender or ObjectsRemoved.
	Reason string
	// Candidates are all entries of [Leaving].
	Candidates []Candidate
	// Staying are the entries of the inventory that Git still asks for.
	Staying []v1alpha1.InventoryEntry
	// Previous is the pending deletion in the status.
	Previous *v1alpha1.PendingDeletion
	// Approval is the value of the annotation capstan.dev/approve-deletion.
	Approval string
	// Hold, if not empty, is why nothing may be deleted, forgotten or approved
	// now: another overlay doesn't render, the Fleet's cap is reached, somebody has
	// paused the Cluster.
	Hold string
	// NamespacesInUse says, by name of a Namespace, who still renders objects
	// into it. Such a Namespace is kept. Optional.
	NamespacesInUse map[string]string
}

// PrunePlan is what to do about objects that have left Git.
//
// Every candidate is either in Forget or in Keep, never in both. Those of Delete
// are in Keep too: they stay in the inventory until the API server answers
// NotFound for them, so that a crash after a delete loses nothing. [AfterPlan]
// applies both to an inventory.
type PrunePlan struct {
	// Delete lists what to delete now, in this order, each with a UID to be used
	// as precondition. It never holds an object that is being deleted already.
	Delete []v1alpha1.ObjectReference
	// Forget lists what leaves the inventory without a delete. Notes say why.
	Forget []v1alpha1.ObjectReference
	// Keep lists the entries that stay, with state and message.
	Keep []v1alpha1.InventoryEntry
	// Pending is the pending deletion to be recorded in the status, nil for none.
	// Its hash is the one that was approved, its objects those still to go.
	Pending *v1alpha1.PendingDeletion
	// AcceptedApproval says that the annotation approves Pending. Record Pending,
	// then remove the annotation, then plan again: nothing is deleted before both
	// are done.
	AcceptedApproval bool
	// VoidApproval, if not empty, says why the annotation approves nothing. It is
	// to be removed before Pending is recorded, or a restart could find both the
	// annotation and a set that matches it again.
	VoidApproval string
	// Notes say what was decided in this round, for events: one for each object
	// that is forgotten or deleted and for each approval. A round in which people
	// or controllers have to act first has none.
	Notes []string
	// Waiting says in words what the rest is waiting for, empty for nothing.
	Waiting string
}

// PlanPrune decides what happens to the objects that have left Git. It must be
// called in every round that has candidates or a previous pending deletion: an
// approval ends when its objects are gone or back in Git, and only a call sees
// that.
//
// The rules, in order:
//   - If the live state of any candidate is unknown, or something holds, all stay.
//   - An object that is in the inventory under a second identity, and stays under
//     that, is forgotten under the first.
//   - An object that is gone, rendered by another overlay, no longer labelled as
//     ours, recreated by somebody else, or opted out of pruning is forgotten. With
//     an opted-out Cluster goes everything that leaves with it.
//   - An object that live objects need is kept as Retained.
//   - While a Cluster that leaves lives, nothing else that leaves is deleted:
//     Cluster API takes its machines down and needs the rest for that.
//   - A single object that isn't guarded ([capi.Guard]) is deleted at once.
//   - Guarded objects, and all objects if Whole, wait for an approval of exactly
//     this set with these UIDs. What was approved goes in waves, credentials after
//     machines, Namespaces last; a wave starts when the one before is gone.
//
// It is a pure function: a crash at any point, followed by a call with what was
// stored by then, leads to the same end.
func PlanPrune(in PruneInput) PrunePlan {
	in.Approval = strings.TrimSpace(in.Approval)
	p := planner{in: in, items: judgeAll(in)}
	p.hold = p.findHold()
	p.approved = p.findApproved()
	if p.approved != nil && p.hold == "" && p.overtaken() {
		p.note("the approval of deletion " + in.Previous.Hash + " is void: the set has changed")
		p.approved = nil
	}
	p.decidePending()
	p.decideDelete()
	p.finish()
	return p.plan
}

// planner is the state of one call of PlanPrune.
type planner struct {
	in    PruneInput
	items []*item
	// hold is why nothing may happen in this round.
	hold string
	// approved holds the identities and UIDs that an accepted approval covers and
	// that are still to go; nil if there is none.
	approved map[approvalKey]bool
	plan     PrunePlan
}

// approvalKey is one live object as an approval names it.
type approvalKey struct {
	id  object.ID
	uid types.UID
}

func (p *planner) note(text string) { p.plan.Notes = append(p.plan.Notes, clip(text)) }

// findHold says why nothing may happen now. A read error comes first: it makes
// everything else a guess.
func (p *planner) findHold() string {
	for _, it := range p.items {
		if it.fate == unknown {
			return it.message
		}
	}
	if p.in.Hold != "" {
		return p.in.Hold
	}
	for _, it := range p.items {
		// Under deletion nothing progresses either, but nothing is done about it.
		if capi.IsCluster(it.id.GroupKind()) && it.alive() && capi.Paused(it.Live) {
			return it.name() + " is paused: nothing is deleted until it is unpaused"
		}
	}
	return ""
}

// findApproved returns what is left of an accepted approval: its objects that
// still leave and still are the same. An object that came back to Git meanwhile
// is not among them and needs a new approval should it leave again.
func (p *planner) findApproved() map[approvalKey]bool {
	previous := p.in.Previous
	if previous == nil || !previous.Approved {
		return nil
	}
	// An approval of single objects doesn't speak about a whole overlay, nor the
	// other way round.
	if (previous.Reason != v1alpha1.ObjectsRemovedReason) != p.in.Whole {
		if len(p.items) > 0 {
			p.note("the approval of deletion " + previous.Hash + " is void: it was given for " + previous.Reason)
		}
		return nil
	}
	given := make(map[approvalKey]bool, len(previous.Objects))
	for _, ref := range previous.Objects {
		given[approvalKey{IDOf(ref), ref.UID}] = true
	}
	left := map[approvalKey]bool{}
	for _, it := range p.items {
		if it.fate != forget && given[it.key()] {
			left[it.key()] = true
		}
	}
	if len(left) == 0 {
		return nil
	}
	return left
}

// overtaken tells whether an approval can't be carried out because something
// that it doesn't cover would have to go first: then the whole set needs a new
// one.
func (p *planner) overtaken() bool {
	front := p.front()
	return slices.ContainsFunc(front, func(it *item) bool {
		return it.fate == ready && !p.approved[it.key()] && (p.in.Whole || it.guarded)
	}) && !slices.ContainsFunc(front, func(it *item) bool { return p.approved[it.key()] })
}

// front returns the objects of the first wave that isn't gone.
func (p *planner) front() []*item {
	var gating []*item
	for _, it := range p.items {
		if it.fate != forget && p.gates(it) {
			gating = append(gating, it)
		}
	}
	if len(gating) == 0 {
		return nil
	}
	first := slices.MinFunc(gating, func(a, b *item) int { return cmp.Compare(a.wave, b.wave) })
	return slices.DeleteFunc(gating, func(it *item) bool { return it.wave != first.wave })
}

// gates tells whether later waves wait for an object: Clusters always, everything
// of a whole overlay, and what an approval covers or what is being deleted.
func (p *planner) gates(it *item) bool {
	return it.wave == waveCluster || p.in.Whole || it.fate == deleting || p.approved[it.key()]
}

// decidePending sets the pending deletion and judges the annotation. An approval
// that doesn't match is void even while something holds: otherwise it would count
// again if its set left Git once more.
func (p *planner) decidePending() {
	if p.approved != nil {
		p.underWay()
		return
	}
	if slices.ContainsFunc(p.items, func(it *item) bool { return it.fate == unknown }) {
		p.carryOver()
		return
	}
	approval := p.in.Approval
	set := p.refs(p.needsApproval)
	if len(set) == 0 {
		if approval != "" {
			p.void("nothing is waiting for one")
		}
		return
	}
	pending := &v1alpha1.PendingDeletion{
		Hash: Hash(p.in.OverlayUID, set), Reason: p.in.Reason, Message: Describe(set), Objects: set,
	}
	p.plan.Pending = pending
	switch {
	case approval == "":
	case approval != pending.Hash:
		p.void("what waits for one is " + pending.Hash + ", " + pending.Message)
	case p.hold == "":
		pending.Approved = true
		p.plan.AcceptedApproval = true
		p.note("deletion " + pending.Hash + " is approved: " + pending.Message)
	}
}

// underWay continues a deletion that was approved before.
func (p *planner) underWay() {
	pending := *p.in.Previous
	pending.Objects = p.refs(func(it *item) bool { return p.approved[it.key()] })
	p.plan.Pending = &pending
	switch p.in.Approval {
	case "":
	case pending.Hash:
		// Accepted before, and stopped before the annotation was removed.
		p.plan.AcceptedApproval = p.hold == ""
	default:
		p.void("deletion " + pending.Hash + " is under way, what else has left is asked for after it")
	}
}

// carryOver keeps what was waiting while the set can't be known. The approval
// waits too, unless some of its objects are back in Git.
func (p *planner) carryOver() {
	previous := p.in.Previous
	if previous == nil || previous.Approved {
		return // none of what was approved is left
	}
	p.plan.Pending = previous.DeepCopy()
	for _, ref := range previous.Objects {
		leaves := slices.ContainsFunc(p.items, func(it *item) bool { return it.id == IDOf(ref) })
		if !leaves && p.in.Approval != "" {
			p.void("the set has changed")
			return
		}
	}
}

// void turns the annotation down.
func (p *planner) void(why string) {
	p.plan.VoidApproval = clip("approval " + clipTo(p.in.Approval, 64) + " doesn't match: " + why)
}

// needsApproval tells whether an object belongs to the set that is waiting.
func (p *planner) needsApproval(it *item) bool {
	switch it.fate {
	case ready, blocked:
		return p.in.Whole || it.guarded
	case retained:
		return p.in.Whole
	default:
		return false
	}
}

func (p *planner) refs(match func(*item) bool) []v1alpha1.ObjectReference {
	var refs []v1alpha1.ObjectReference
	for _, it := range p.items {
		if it.fate != forget && match(it) {
			refs = append(refs, it.ref)
		}
	}
	return sortedRefs(refs)
}

// decideDelete chooses what is deleted in this round.
func (p *planner) decideDelete() {
	if p.hold != "" || p.plan.AcceptedApproval {
		return
	}
	front := p.front()
	clusterLives := len(front) > 0 && front[0].wave == waveCluster
	var chosen []*item
	for _, it := range p.items {
		if it.fate != ready {
			continue
		}
		free := !p.in.Whole && !it.guarded && !clusterLives
		inTurn := p.approved[it.key()] && slices.Contains(front, it)
		if free || inTurn {
			it.chosen = true
			chosen = append(chosen, it)
		}
	}
	slices.SortStableFunc(chosen, func(a, b *item) int {
		return cmp.Or(cmp.Compare(a.wave, b.wave),
			cmp.Compare(capi.StageOf(b.id.GroupKind()), capi.StageOf(a.id.GroupKind())),
			object.Compare(a.id, b.id))
	})
	for _, it := range chosen {
		p.plan.Delete = append(p.plan.Delete, it.ref)
	}
}

// finish puts every candidate into Forget or Keep and says what is waited for.
func (p *planner) finish() {
	for _, it := range p.items {
		if it.fate == forget && p.hold == "" {
			p.plan.Forget = append(p.plan.Forget, it.Entry.ObjectReference)
			p.note(it.name() + " " + it.message)
			continue
		}
		p.plan.Keep = append(p.plan.Keep, p.kept(it))
	}
	for _, ref := range p.plan.Delete {
		p.note("deleting " + nameOf(ref))
	}
	p.plan.Waiting = clip(p.waiting())
}

// AfterPlan returns the inventory after a plan: without what is forgotten, and
// with state and message of what is kept. What Git asks for is not touched.
func AfterPlan(current []v1alpha1.InventoryEntry, desired []Desired, plan PrunePlan) []v1alpha1.InventoryEntry {
	wanted := byID(desired)
	forgotten := make(map[object.ID]bool, len(plan.Forget))
	for _, ref := range plan.Forget {
		forgotten[IDOf(ref)] = true
	}
	kept := make(map[object.ID]v1alpha1.InventoryEntry, len(plan.Keep))
	for _, entry := range plan.Keep {
		kept[IDOf(entry.ObjectReference)] = entry
	}
	next := make([]v1alpha1.InventoryEntry, 0, len(current))
	for _, entry := range current {
		id := IDOf(entry.ObjectReference)
		if _, stays := wanted[id]; !stays {
			if forgotten[id] {
				continue
			}
			if k, found := kept[id]; found {
				entry = k
			}
		}
		next = append(next, entry)
	}
	return next
}
