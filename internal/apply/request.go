package apply

import (
	"errors"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// Request is what to apply for one overlay.
type Request struct {
	// Owner is the overlay; its labels are on the objects, see [Label].
	Owner Owner

	// Objects are those to apply, in any order. They are not changed.
	Objects []*unstructured.Unstructured

	// All is everything the overlay renders; nil stands for Objects. A Namespace
	// or CustomResourceDefinition in it explains why an object can't be checked
	// yet.
	All []*unstructured.Unstructured

	// Known are the objects that the overlay owns already, with the UID if it is
	// known. They need not be read before they are applied. If a UID differs the
	// object is looked at as if it were not known.
	Known map[object.ID]types.UID

	// TakeOverFrom names, for objects that another overlay of the same Fleet handed
	// over, that overlay. Without it an object of another overlay is refused.
	TakeOverFrom map[object.ID]string

	// Cluster is the rendered Cluster. If it is paused by someone or being deleted
	// nothing is written.
	Cluster *object.ID

	// ClusterMade says that the Cluster was applied before. If it is gone, deleted or
	// moved to another management cluster, nothing is written unless it is among Objects.
	ClusterMade bool

	// GitPaused is true if Git itself asks for the Cluster to be paused.
	GitPaused bool

	// ReadAll makes known objects be read too. Missing ones are made again,
	// unchanged ones are not written, and Before is filled in for all.
	ReadAll bool

	// Override names further managers that give way to Git in this request, beside
	// people and former owners; nil: nobody. What is taken from them is what was
	// looked at: UID and resourceVersion are preconditions. Apply does not ask it
	// for controllers, which never give way. A DryRun does, and it may say yes for
	// everybody there: the answer then shows what Git asks for, whoever is in the
	// way.
	Override func(manager string) bool

	// Seen are objects as an examination (see DryRun) of the same manifests has found them a
	// moment ago. If it has them all, those that are known are not read again, and what is
	// written is bound to that version: where there is a newer one it is read, and asked about
	// (see Same), first.
	Seen map[object.ID]*unstructured.Unstructured

	// Same tells whether a live object, nil if there is none, is still what the decision to
	// apply it was made on; nil: it doesn't matter. One that isn't is refused.
	Same func(id object.ID, live *unstructured.Unstructured) bool

	// Left tells, beside what internal/capi knows, which fields Git declares but
	// leaves to a manager that has taken them; nil: none. The pointer is a JSON
	// pointer into the live object, the manager is empty if the field was removed.
	Left func(id object.ID, pointer, manager string) bool
}

// Action is what happened, or in a dry-run would happen, to an object.
type Action string

// The actions.
const (
	// ActionCreated: it did not exist.
	ActionCreated Action = "Created"
	// ActionConfigured: it existed and was changed, or may have been.
	ActionConfigured Action = "Configured"
	// ActionUnchanged: it existed and says what Git says.
	ActionUnchanged Action = "Unchanged"
	// ActionFailed: the API server did not accept it. See Err.
	ActionFailed Action = "Failed"
	// ActionRefused: we did not want to write it. See Err.
	ActionRefused Action = "Refused"
	// ActionNotChecked: it can't be checked before something else is applied. In a
	// report of Apply: that did not come to pass.
	ActionNotChecked Action = "NotChecked"
	// ActionSkipped: an annotation asks to leave it alone. No error.
	ActionSkipped Action = "Skipped"
	// ActionNotReached: something else failed first, so it was not written.
	ActionNotReached Action = "NotReached"
)

// Outcome is what became of one object.
type Outcome struct {
	// ID is the object as the manifest names it.
	ID object.ID
	// Ref is the live object, as far as it is known.
	Ref v1alpha1.ObjectReference
	// Action is what happened.
	Action Action
	// Before is the live object, nil if it was absent or was not read. After is
	// the object as the API server has or would have stored it. Neither is masked.
	Before, After *unstructured.Unstructured
	// Left are the fields, as JSON pointers, that Git declares and that were not
	// sent, because they are left to others who have taken them.
	Left []string
	// Note explains the action where that is needed and no error.
	Note string
	// Err is set for ActionFailed and ActionRefused.
	Err *Error
}

// Report is what became of a request.
type Report struct {
	// Outcomes has one entry per object of the request, in the order of
	// object.Compare.
	Outcomes []Outcome
	// Halted says why nothing of the overlay is written now, whatever the objects
	// are: ClusterPaused, ClusterDeleting, or that it can't be told. Apply has no
	// outcomes then; DryRun has them all the same.
	Halted *Error
}

// Errors returns all errors, Halted first, in the order of the objects.
func (r Report) Errors() []*Error {
	var all []*Error
	if r.Halted != nil {
		all = append(all, r.Halted)
	}
	for _, o := range r.Outcomes {
		if o.Err != nil {
			all = append(all, o.Err)
		}
	}
	return all
}

// Err joins all errors; it is nil if there are none.
func (r Report) Err() error {
	var all []error
	for _, err := range r.Errors() {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// Count returns the number of outcomes with any of the actions.
func (r Report) Count(actions ...Action) int {
	n := 0
	for _, o := range r.Outcomes {
		if slices.Contains(actions, o.Action) {
			n++
		}
	}
	return n
}
