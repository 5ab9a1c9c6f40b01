package planner

import (
	"context"
	"strings"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
)

// leaving says what would become of the objects that are not rendered any more, by
// the agent's own decision.
func (p *planning) leaving(ctx context.Context, desired []inventory.Desired) ([]plan.Change, error) {
	if p.Overlay == nil {
		return nil, nil
	}
	in := inventory.PruneInput{
		OverlayUID: p.Overlay.UID, OverlayName: p.Overlay.Name, Whole: len(desired) == 0,
		Reason: v1alpha1.ObjectsRemovedReason, Previous: p.Overlay.Status.PendingDeletion,
		Hold: p.around.hold(), NamespacesInUse: p.around.namespaces(),
		Staying: inventory.Staying(p.Overlay.Status.Inventory, desired),
	}
	switch {
	case p.Gone:
		in.Reason = v1alpha1.PathRemovedReason
	case in.Whole:
		in.Reason = v1alpha1.EmptyRenderReason
	}
	leaving := inventory.Leaving(p.Overlay.Status.Inventory, desired)
	ids := make([]object.ID, 0, len(leaving))
	for _, entry := range leaving {
		ids = append(ids, inventory.IDOf(entry.ObjectReference))
	}
	for i, entry := range leaving {
		c := inventory.Candidate{Entry: entry, OwnerLabel: p.Overlay.Name, HandedTo: p.around.claimant(ids[i])}
		c.Live, c.ReadError = p.applier.Get(ctx, entry.ObjectReference)
		if apply.IsNotFound(c.ReadError) {
			c.Live, c.ReadError = nil, nil
		}
		if c.ReadError != nil {
			return nil, c.ReadError
		}
		if c.Live != nil && c.HandedTo == "" {
			var err error
			if c.Users, err = UsersOf(ctx, p.applier, entry, ids); err != nil {
				return nil, err
			}
		}
		in.Candidates = append(in.Candidates, c)
	}
	return leavingChanges(in, inventory.PlanPrune(in)), nil
}

// leavingChanges puts a prune decision into words.
func leavingChanges(in inventory.PruneInput, decided inventory.PrunePlan) []plan.Change {
	live := map[object.ID]inventory.Candidate{}
	for _, c := range in.Candidates {
		live[inventory.IDOf(c.Entry.ObjectReference)] = c
	}
	deleted, pending := map[object.ID]bool{}, map[object.ID]bool{}
	for _, ref := range decided.Delete {
		deleted[inventory.IDOf(ref)] = true
	}
	if decided.Pending != nil {
		for _, ref := range decided.Pending.Objects {
			pending[inventory.IDOf(ref)] = true
		}
	}
	var changes []plan.Change
	said := notesOf(decided.Forget, decided.Notes)
	for _, ref := range decided.Forget {
		id := inventory.IDOf(ref)
		if live[id].Live != nil { // else nothing happens to it
			changes = append(changes, plan.Change{ID: id, Action: plan.Retained, Before: live[id].Live, Note: said[id]})
		}
	}
	for _, entry := range decided.Keep {
		id := inventory.IDOf(entry.ObjectReference)
		change := plan.Change{ID: id, Action: plan.Retained, Before: live[id].Live, Note: entry.Message}
		switch {
		case pending[id]:
			change.Action = plan.PendingDeletion
		case deleted[id]:
			change.Action, change.Note = plan.Delete, ""
		}
		changes = append(changes, change)
	}
	return changes
}

// notesOf finds what was said about objects that are forgotten.
func notesOf(refs []v1alpha1.ObjectReference, notes []string) map[object.ID]string {
	said := map[object.ID]string{}
	for _, ref := range refs {
		name := strings.Trim(ref.Namespace+"/"+ref.Name, "/")
		for _, note := range notes {
			if text, ok := strings.CutPrefix(note, ref.Kind+" "+name+" "); ok {
				said[object.ID{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}] = text
			}
		}
	}
	return said
}
