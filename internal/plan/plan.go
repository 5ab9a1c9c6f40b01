// Package plan shows what an overlay would do to the management cluster: the
// changes of every object, as text and as JSON, with secret material masked. It
// decides nothing; changes come from dry-runs and from the prune decision.
package plan

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/object"
)

// Action is what would happen to an object.
type Action string

// The actions.
const (
	// Create: the object doesn't exist yet.
	Create Action = "create"
	// Update: fields of the live object would change.
	Update Action = "update"
	// Delete: the object has left Git and would be deleted.
	Delete Action = "delete"
	// PendingDeletion: the object has left Git and would wait for an approval.
	PendingDeletion Action = "pendingDeletion"
	// Retained: the object has left Git and would be kept.
	Retained Action = "retained"
	// Invalid: the API server refuses the object.
	Invalid Action = "invalid"
	// Conflict: another field manager owns a field.
	Conflict Action = "conflict"
	// NotChecked: its Namespace or definition comes with the same render, so a
	// dry-run can't answer yet.
	NotChecked Action = "notChecked"
	// Skipped: an annotation asks to leave the object alone.
	Skipped Action = "skipped"
	// Unchanged: nothing would happen.
	Unchanged Action = "unchanged"
)

// actions lists all actions in the order of a summary, with the words for them.
var actions = []struct {
	action Action
	words  string
	// always marks those that a summary counts even if there are none.
	always bool
}{
	{Create, "to create", true},
	{Update, "to update", true},
	{Delete, "to delete", true},
	{PendingDeletion, "to delete after approval", false},
	{Retained, "retained", false},
	{Invalid, "invalid", false},
	{Conflict, "in conflict", false},
	{NotChecked, "not checked", false},
	{Skipped, "skipped", false},
	{Unchanged, "unchanged", true},
}

// Change is what would happen to one object.
type Change struct {
	// ID identifies the object.
	ID object.ID
	// Action is what would happen.
	Action Action
	// Before is the live object, nil if there is none. After is what a dry-run
	// answered, or the manifest if there is no answer; nil for an object that
	// leaves. Both hold secret material: they are shown only through [Plan.Text],
	// [Plan.JSON] and [Change.Fields], and what they hold is taken out of Error
	// and Note. So give the refused manifest with an Error.
	Before, After *unstructured.Unstructured
	// Error is why the API server refuses the object.
	Error string
	// Note says more, such as what a deletion waits for.
	Note string
}

// Plan is what one overlay would do.
type Plan struct {
	// Overlay is the name of the ClusterOverlay, or empty.
	Overlay string
	// Path is the directory.
	Path string
	// Revision is the commit, or empty for a working copy.
	Revision string
	// Changes are in any order; they are shown in stable order.
	Changes []Change
	// Secrets is a Secret whose values may be in any object, as values of variables
	// are. They are taken out of everything that is shown. Nil for none.
	Secrets *unstructured.Unstructured
}

// HasChanges tells whether an apply would do anything, or fail.
func (p Plan) HasChanges() bool {
	return slices.ContainsFunc(p.Changes, func(c Change) bool {
		return c.Action != Unchanged && c.Action != Skipped && c.Action != Retained
	})
}

// HasErrors tells whether the API server refuses anything.
func (p Plan) HasErrors() bool {
	return slices.ContainsFunc(p.Changes, Change.isProblem)
}

func (c Change) isProblem() bool { return c.Error != "" || c.Action == Invalid || c.Action == Conflict }

// Count is how many objects have an action.
func (p Plan) Count(action Action) int {
	n := 0
	for _, c := range p.Changes {
		if c.Action == action {
			n++
		}
	}
	return n
}

// Weight is about how many bytes of memory the objects of the changes take.
func (p Plan) Weight() int {
	total := 0
	for _, c := range p.Changes {
		total += object.Weight(c.Before, c.After)
	}
	return total
}

// DropObjects forgets what is live and what it becomes: only actions, errors and notes
// are shown then.
func (p *Plan) DropObjects() {
	for i := range p.Changes {
		c := &p.Changes[i]
		c.Error, c.Note = c.message(), c.scrub(c.Note)
		c.Before, c.After = nil, nil
	}
}

// sorted returns the changes in the order of identities.
func (p Plan) sorted() []Change {
	changes := slices.Clone(p.Changes)
	slices.SortStableFunc(changes, func(a, b Change) int {
		return cmp.Or(object.Compare(a.ID, b.ID), cmp.Compare(a.Action, b.Action))
	})
	return changes
}

// Fields lists the fields that would change, masked. Only an update has any: a
// manifest without a dry-run says too little to be compared with a live object.
func (c Change) Fields() []FieldChange {
	if c.Action != Update || c.Before == nil || c.After == nil {
		return nil
	}
	before, after := c.states()
	return Fields(before, after)
}

// created returns the object that would be created, masked, or nil.
func (c Change) created() *unstructured.Unstructured {
	if c.After == nil || c.Action != Create && (c.Action != NotChecked || c.Before != nil) {
		return nil
	}
	_, after := c.states()
	return after
}

// states returns both states as they may be shown.
func (c Change) states() (before, after *unstructured.Unstructured) {
	before, after = object.MaskPair(c.Before, c.After)
	return clean(before), clean(after)
}

// message returns the error as it may be shown: an API server quotes the values
// that it refuses.
func (c Change) message() string { return c.scrub(c.Error) }

func (c Change) scrub(text string) string {
	return object.Scrub(object.Scrub(text, c.Before), c.After)
}

// clean takes out what the API server writes and no person edits.
func clean(u *unstructured.Unstructured) *unstructured.Unstructured {
	if u == nil {
		return nil
	}
	u = u.DeepCopy()
	for _, field := range []string{
		"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink",
	} {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
	}
	delete(u.Object, "status")
	return u
}
