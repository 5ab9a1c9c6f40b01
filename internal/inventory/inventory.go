// Package inventory decides what an overlay owns in the management cluster:
// which entries are written before an apply, what an apply left there, and what
// may be deleted, when and in which order. Decisions over values only; entries
// live in the status of a ClusterOverlay.
package inventory

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// Desired is one object of a render.
type Desired struct {
	// Ref identifies the object; its UID is not looked at.
	Ref v1alpha1.ObjectReference
	// Digest stands for the manifest, see [object.Digester].
	Digest string
	// Shared marks a Namespace that other overlays render as well.
	Shared bool
}

// Outcome is what an apply did to one object.
type Outcome struct {
	// Ref identifies the object, with the UID of the live object if it is known.
	Ref v1alpha1.ObjectReference
	// Digest stands for the manifest that was sent.
	Digest string
	// Generation of the live object after that, 0 if it isn't known.
	Generation int64
	// ResourceVersion of the live object after that, and StateDigest, which stands
	// for the values of the fields that are ours in it; "" if they aren't known.
	ResourceVersion, StateDigest string
	// Applied tells that the API server accepted it. If it is false the object
	// may or may not have been written.
	Applied bool
}

// IDOf returns the identity of a reference: everything but version and UID.
func IDOf(ref v1alpha1.ObjectReference) object.ID {
	return object.ID{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
}

// RefOf returns the reference to an object, with its UID if it is a live one.
func RefOf(u *unstructured.Unstructured) v1alpha1.ObjectReference {
	gvk := u.GroupVersionKind()
	return v1alpha1.ObjectReference{
		Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind,
		Namespace: u.GetNamespace(), Name: u.GetName(), UID: u.GetUID(),
	}
}

// WriteAhead returns the inventory to be written before anything of a render is
// applied or pruned. What is rendered for the first time enters it as Intent;
// what is no longer rendered stays, as Leaving, unless it is Retained. What comes
// back after it had left is Intent again, without digest and UID: it may have been
// deleted meanwhile, so only the API server can tell. Everything else keeps
// digest, UID and message.
//
// changed is false if nothing has entered, left or come back; then the write can
// be skipped, because after a crash the old inventory leads to the same
// decisions. A crash after the write leaves entries whose objects don't exist,
// which the next round finds out.
func WriteAhead(previous []v1alpha1.InventoryEntry, desired []Desired) (next []v1alpha1.InventoryEntry, changed bool) {
	wanted := byID(desired)
	next = make([]v1alpha1.InventoryEntry, 0, len(previous)+len(desired))
	known := make(map[object.ID]bool, len(previous))
	for _, entry := range previous {
		id := IDOf(entry.ObjectReference)
		if known[id] {
			changed = true // written twice, by whomever
			continue
		}
		known[id] = true
		want, stays := wanted[id]
		after := entry
		switch {
		case !stays:
			after = leave(entry)
		case entry.State == v1alpha1.EntryLeaving || entry.State == v1alpha1.EntryRetained:
			after = intent(want)
		default:
			after.Version = want.Ref.Version
			after.State = stateOf(entry, want)
		}
		changed = changed || leaving(entry.State) != leaving(after.State)
		next = append(next, after)
	}
	for id, want := range wanted {
		if !known[id] {
			next, changed = append(next, intent(want)), true
		}
	}
	sortEntries(next)
	return next, changed
}

// intent is the entry of an object that is about to be applied.
func intent(want Desired) v1alpha1.InventoryEntry {
	ref := want.Ref
	ref.UID = ""
	state := v1alpha1.EntryIntent
	if want.Shared {
		state = v1alpha1.EntryShared // without a digest: not applied yet
	}
	return v1alpha1.InventoryEntry{ObjectReference: ref, State: state}
}

// leave is the entry of an object that is not rendered any more.
func leave(entry v1alpha1.InventoryEntry) v1alpha1.InventoryEntry {
	if !leaving(entry.State) {
		entry.State, entry.Message = v1alpha1.EntryLeaving, ""
	}
	return entry
}

// leaving tells whether a state is one of an object that has left Git.
func leaving(state v1alpha1.EntryState) bool {
	return state == v1alpha1.EntryLeaving || state == v1alpha1.EntryRetained
}

// stateOf is the state of an entry that stays: as it was, but an applied one
// follows Shared.
func stateOf(entry v1alpha1.InventoryEntry, want Desired) v1alpha1.EntryState {
	switch {
	case entry.State == v1alpha1.EntryIntent:
		return v1alpha1.EntryIntent
	case want.Shared:
		return v1alpha1.EntryShared
	default:
		return v1alpha1.EntryApplied
	}
}

// Changed lists the objects of a render that have to be sent: unknown ones, those
// not yet known to be applied, and those whose digest differs from the recorded
// one. All others cost nothing. It gives the same answer before and after
// [WriteAhead].
func Changed(previous []v1alpha1.InventoryEntry, desired []Desired) []object.ID {
	entries := make(map[object.ID]v1alpha1.InventoryEntry, len(previous))
	for _, entry := range previous {
		entries[IDOf(entry.ObjectReference)] = entry
	}
	var changed []object.ID
	for id, want := range byID(desired) {
		entry, known := entries[id]
		if !known || !settled(entry) || entry.Digest != want.Digest {
			changed = append(changed, id)
		}
	}
	slices.SortFunc(changed, object.Compare)
	return changed
}

// Settled tells whether an inventory has nothing to be done about: every object
// is applied, none is on its way in or out. Only then may an overlay be skipped
// because its render didn't change.
func Settled(entries []v1alpha1.InventoryEntry) bool {
	return !slices.ContainsFunc(entries, func(e v1alpha1.InventoryEntry) bool { return !settled(e) })
}

func settled(e v1alpha1.InventoryEntry) bool {
	return e.Digest != "" && (e.State == v1alpha1.EntryApplied || e.State == v1alpha1.EntryShared)
}

// Held lists the objects whose deletion waits for an approval.
func Held(pending *v1alpha1.PendingDeletion) map[object.ID]bool {
	held := map[object.ID]bool{}
	if pending != nil && !pending.Approved {
		for _, ref := range pending.Objects {
			held[IDOf(ref)] = true
		}
	}
	return held
}

// Unapproved lists the objects that an overlay has and is not approved to lose. An
// approval of everything covers what is kept as well.
func Unapproved(entries []v1alpha1.InventoryEntry, pending *v1alpha1.PendingDeletion) []object.ID {
	approved := map[object.ID]bool{}
	if pending != nil && pending.Approved {
		if pending.Reason != v1alpha1.ObjectsRemovedReason {
			return nil
		}
		for _, ref := range pending.Objects {
			approved[IDOf(ref)] = true
		}
	}
	var ids []object.ID
	for _, e := range entries {
		if id := IDOf(e.ObjectReference); !approved[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// Leaving lists the entries whose objects are not rendered any more, Retained
// ones included: the candidates of [PlanPrune].
func Leaving(previous []v1alpha1.InventoryEntry, desired []Desired) []v1alpha1.InventoryEntry {
	wanted := byID(desired)
	var gone []v1alpha1.InventoryEntry
	for _, entry := range previous {
		if _, stays := wanted[IDOf(entry.ObjectReference)]; !stays {
			gone = append(gone, leave(entry))
		}
	}
	sortEntries(gone)
	return gone
}

// Staying lists the entries whose objects are rendered.
func Staying(entries []v1alpha1.InventoryEntry, desired []Desired) []v1alpha1.InventoryEntry {
	wanted := byID(desired)
	var stay []v1alpha1.InventoryEntry
	for _, entry := range entries {
		if _, stays := wanted[IDOf(entry.ObjectReference)]; stays {
			stay = append(stay, entry)
		}
	}
	return stay
}

// Record returns the inventory after an apply. An object that was not accepted
// becomes Intent, because it may have been written all the same: it is sent again
// whatever Git says next.
func Record(current []v1alpha1.InventoryEntry, outcomes []Outcome) []v1alpha1.InventoryEntry {
	next := slices.Clone(current)
	index := make(map[object.ID]int, len(next))
	for i, entry := range next {
		index[IDOf(entry.ObjectReference)] = i
	}
	for _, o := range outcomes {
		i, known := index[IDOf(o.Ref)]
		if !known {
			i = len(next)
			index[IDOf(o.Ref)] = i
			next = append(next, v1alpha1.InventoryEntry{ObjectReference: o.Ref, State: v1alpha1.EntryIntent})
		}
		entry := &next[i]
		if o.Ref.UID != "" {
			entry.UID = o.Ref.UID
		}
		if !o.Applied {
			entry.StateDigest = "" // whatever is there now, it is not what was recorded
			if entry.State == v1alpha1.EntryShared {
				entry.Digest = ""
			} else {
				entry.State = v1alpha1.EntryIntent
			}
			continue
		}
		entry.Version, entry.Digest, entry.Generation, entry.Message = o.Ref.Version, o.Digest, o.Generation, ""
		entry.ResourceVersion, entry.StateDigest = o.ResourceVersion, o.StateDigest
		if entry.State != v1alpha1.EntryShared {
			entry.State = v1alpha1.EntryApplied
		}
	}
	sortEntries(next)
	return next
}

func byID(desired []Desired) map[object.ID]Desired {
	m := make(map[object.ID]Desired, len(desired))
	for _, d := range desired {
		m[IDOf(d.Ref)] = d
	}
	return m
}

func sortEntries(entries []v1alpha1.InventoryEntry) {
	slices.SortStableFunc(entries, func(a, b v1alpha1.InventoryEntry) int {
		return object.Compare(IDOf(a.ObjectReference), IDOf(b.ObjectReference))
	})
}
