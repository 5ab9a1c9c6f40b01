package apply

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// run is one request under way.
type run struct {
	*Applier
	req   Request
	dry   bool // nothing is written, see DryRun
	seen  bool // all objects were examined before, see Request.Seen
	items []*item

	// What the render brings along.
	namespaces  map[string]bool           // Namespaces in All: true if in Objects too
	definitions map[schema.GroupKind]bool // kinds defined in All: true if in Objects too

	// made are the Namespaces and definitions that this run has created; it changes
	// only between phases.
	made map[object.ID]bool
	// cluster is the live Cluster, nil if absent; clusterRead is true if it was
	// read. They stay as they are once the items are looked at.
	cluster     *unstructured.Unstructured
	clusterRead bool

	mu    sync.Mutex
	reads map[string]*namespaceRead // Namespaces looked at, each once
}

// item is one object of a run. Until a phase starts goroutines for the items and
// after it has waited for them, they are the run's; in between each is its
// goroutine's.
type item struct {
	id      object.ID
	desired *unstructured.Unstructured // a copy of our own if changed
	kind    kind
	// uid is the precondition: only the object with this UID, or, if empty, any.
	uid types.UID
	// version is the resourceVersion at which the object was seen last.
	version string
	// owned is true for an object that was ours before this run.
	owned bool

	// live is the object as read; nil if it was not read or is absent.
	live *unstructured.Unstructured
	// absent is true if the object is believed not to exist; appeared, if it did
	// exist when it was to be made.
	absent, appeared bool
	// waits says what has to happen before the object can be checked.
	waits waiting
	// left are the fields that are left out of what is sent, see leaveOut. pinned is
	// true if that is safe only for the version of the object that was seen last.
	left   [][]string
	pinned bool
	// takeover is true if fields of former owners are to become ours first.
	takeover bool
	// decided is true once the outcome stands and nothing is to be written.
	decided bool
	outcome Outcome
}

// waiting is what an object that can't be checked yet waits for.
type waiting string

const (
	waitsForNothing    waiting = ""
	waitsForNamespace  waiting = "namespace"  // in the same render
	waitsForDefinition waiting = "definition" // in the same render
	waitsForFields     waiting = "fields"     // managed fields must be rewritten
)

func (a *Applier) newRun(req Request) *run {
	r := &run{
		Applier: a, req: req,
		namespaces: map[string]bool{}, definitions: map[schema.GroupKind]bool{},
		made: map[object.ID]bool{}, reads: map[string]*namespaceRead{},
	}
	for i, objects := range [][]*unstructured.Unstructured{req.All, req.Objects} {
		now := i == 1
		for _, u := range objects {
			if isNamespace(u.GroupVersionKind().GroupKind()) {
				r.namespaces[u.GetName()] = now
			}
			if gk, ok := defines(u); ok {
				r.definitions[gk] = now
			}
		}
	}
	for _, u := range req.Objects {
		it := &item{id: object.IDOf(u), desired: inData(u)}
		it.uid, it.owned = req.Known[it.id]
		it.outcome = Outcome{ID: it.id, Ref: refTo(u), Action: ActionNotReached}
		r.items = append(r.items, it)
	}
	slices.SortStableFunc(r.items, func(x, y *item) int { return object.Compare(x.id, y.id) })
	return r
}

// each runs f for some items, some at a time, and waits.
func (r *run) each(ctx context.Context, items []*item, f func(context.Context, *item)) {
	var group errgroup.Group
	group.SetLimit(r.share())
	for _, it := range items {
		group.Go(func() error {
			f(ctx, it)
			return nil
		})
	}
	_ = group.Wait() // f returns nothing: outcomes are in the items
}

// open returns the items that something is still to be done for.
func (r *run) open(wanted func(*item) bool) []*item {
	var open []*item
	for _, it := range r.items {
		if !it.decided && wanted(it) {
			open = append(open, it)
		}
	}
	return open
}

// failed tells whether any item has an error.
func (r *run) failed() bool {
	return slices.ContainsFunc(r.items, func(it *item) bool { return it.outcome.Err != nil })
}

func (r *run) report() Report {
	var report Report
	for _, it := range r.items {
		report.Outcomes = append(report.Outcomes, it.outcome)
	}
	return report
}

// fail records an error.
func (it *item) fail(err *Error) {
	err.ID = it.id
	it.decided = true
	it.outcome.Action, it.outcome.Err = ActionFailed, err
}

// refuse records that the object must not be written.
func (it *item) refuse(err *Error) {
	it.fail(err)
	it.outcome.Action = ActionRefused
}

// skip records that the object is left alone.
func (it *item) skip(why string) {
	it.decided = true
	it.outcome.Action, it.outcome.Note = ActionSkipped, why
}

// wait records that the object can't be checked before something else happened.
func (it *item) wait(what waiting, note string) {
	it.waits = what
	it.outcome.Action, it.outcome.Note = ActionNotChecked, note
}

// found records the live object.
func (it *item) found(live *unstructured.Unstructured) {
	it.live = live
	it.absent = live == nil
	it.outcome.Before = live
	if live != nil {
		it.version = live.GetResourceVersion()
		it.outcome.Ref.UID = live.GetUID()
	}
}

func (it *item) stage() capi.Stage { return capi.StageOf(it.id.GroupKind()) }

// change returns the manifest for changing it; the caller's is left as it is.
func (it *item) change() *unstructured.Unstructured {
	it.desired = it.desired.DeepCopy()
	return it.desired
}

// refTo names the object of a manifest.
func refTo(u *unstructured.Unstructured) v1alpha1.ObjectReference {
	gvk := u.GroupVersionKind()
	return v1alpha1.ObjectReference{
		Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: u.GetNamespace(), Name: u.GetName(), UID: u.GetUID(),
	}
}

func idOf(ref v1alpha1.ObjectReference) object.ID {
	return object.ID{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
}

func kindOf(ref v1alpha1.ObjectReference) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: ref.Group, Version: ref.Version, Kind: ref.Kind}
}

func isNamespace(gk schema.GroupKind) bool { return gk == schema.GroupKind{Kind: "Namespace"} }

// defines returns the kind that a CustomResourceDefinition defines.
func defines(u *unstructured.Unstructured) (schema.GroupKind, bool) {
	if !capi.IsDefinition(u.GroupVersionKind().GroupKind()) {
		return schema.GroupKind{}, false
	}
	group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
	name, _, _ := unstructured.NestedString(u.Object, "spec", "names", "kind")
	return schema.GroupKind{Group: group, Kind: name}, name != ""
}
