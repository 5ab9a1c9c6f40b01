package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// prepare gathers what must be known before an object is sent: its kind, its
// Namespace if the render brings that along, and the live object if it is not
// known to be ours (or if read asks for it). It decides the item, lets it wait,
// or leaves it ready to be sent.
func (r *run) prepare(ctx context.Context, it *item, read bool) {
	it.waits, it.absent = waitsForNothing, false
	if why, skip := capi.Unmanaged(it.desired.GetAnnotations()); skip {
		it.skip(why + " in Git")
		return
	}
	if !r.prepareKind(it) || !r.prepareNamespace(ctx, it) {
		return
	}
	switch {
	case r.cannotExist(it):
		it.uid, it.owned, it.absent = "", false, true
	case !it.owned || read || r.req.ReadAll:
		r.prepareLive(ctx, it)
	}
}

// prepareKind finds the kind; false if the item can't go on.
func (r *run) prepareKind(it *item) bool {
	found, err := r.kinds.find(it.desired.GroupVersionKind())
	if _, defined := r.definitions[it.id.GroupKind()]; defined && errors.As(err, new(*noKindError)) {
		it.wait(waitsForDefinition, "can be checked when its definition, which is part of this overlay, is applied")
		return false
	}
	if err != nil {
		it.fail(r.explain(it, "discover", err))
		return false
	}
	it.kind = found
	switch {
	case found.namespaced && it.id.Namespace == "":
		it.fail(refuse(it.id, v1alpha1.InvalidReason, "kind %s is namespaced, but metadata.namespace is missing", it.id.GroupKind()))
		return false
	case !found.namespaced && it.desired.GetNamespace() != "":
		// kustomize sets the namespace on every kind that it doesn't know.
		it.change().SetNamespace("")
	}
	return true
}

// prepareNamespace lets an object wait for a Namespace that is applied with it and
// does not exist yet; false if the item can't go on. Where that is not to be
// expected it costs no request: the answer to the apply tells.
func (r *run) prepareNamespace(ctx context.Context, it *item) bool {
	if !it.kind.namespaced || it.owned || !r.namespaces[it.id.Namespace] || r.made[object.ID{Kind: "Namespace", Name: it.id.Namespace}] {
		return true
	}
	live, err := r.readNamespace(ctx, it.id.Namespace)
	switch {
	case err != nil:
		it.fail(r.explain(it, "read", fmt.Errorf("namespace %s: %w", it.id.Namespace, err)))
		return false
	case live == nil:
		it.wait(waitsForNamespace, namespaceNote)
		return false
	}
	return true
}

const namespaceNote = "can be checked when its namespace, which is part of this overlay, is applied"

// prepareLive reads the object and decides whether it may be applied.
func (r *run) prepareLive(ctx context.Context, it *item) {
	var live *unstructured.Unstructured
	var err error
	seen, pinned := r.req.Seen[it.id], false
	switch {
	case isNamespace(it.id.GroupKind()):
		live, err = r.readNamespace(ctx, it.id.Name)
	case r.clusterRead && it.id == *r.req.Cluster:
		live = r.cluster
	case r.seen && it.owned && seen.GetUID() == it.uid: // adoption looks anew
		live, pinned = seen, true
	default:
		live, err = r.readLive(ctx, it)
	}
	r.judge(it, live, err)
	it.pinned = pinned
}

// judge decides, from what a read has returned, whether an object may be applied.
func (r *run) judge(it *item, live *unstructured.Unstructured, err error) {
	if err != nil {
		it.fail(r.explain(it, "read", err))
		return
	}
	it.found(live)
	it.keepAll()
	if r.req.Same != nil && !r.req.Same(it.id, live) {
		err := refuse(it.id, v1alpha1.TransientReason, "somebody has changed it meanwhile")
		err.Transient = true
		it.refuse(err)
		return
	}
	if live == nil {
		it.uid = "" // gone, if it ever was: it is made anew
		return
	}
	if it.uid != "" && it.uid != live.GetUID() {
		it.owned = false // somebody else made this one
	}
	r.adopt(it)
	if !it.decided {
		r.leaveOut(it)
	}
}

// cannotExist tells whether this run has made the object's Namespace or its
// definition: then the object need not be looked for.
func (r *run) cannotExist(it *item) bool {
	for id := range r.made {
		if isNamespace(id.GroupKind()) && it.kind.namespaced && id.Name == it.id.Namespace {
			return true
		}
		if capi.IsDefinition(id.GroupKind()) && id.Name == it.kind.resource+"."+it.kind.Group {
			return true
		}
	}
	return false
}

// adopt decides whether a live object may be applied to.
func (r *run) adopt(it *item) {
	live := it.live
	if why, skip := capi.Unmanaged(live.GetAnnotations()); skip {
		it.skip(why + " on the live object")
		return
	}
	if live.GetDeletionTimestamp() != nil {
		it.refuse(beingDeleted(it.id))
		return
	}
	if capi.TopologyOwned(live) {
		it.refuse(refuse(it.id, v1alpha1.OwnedByOtherReason,
			"the topology of its Cluster generates it; it can't be managed from Git as well"))
		return
	}
	if err := r.foreign(it.id, live); err != nil && !(it.owned && r.relabelled(live)) {
		it.refuse(err)
		return
	}
	it.uid = live.GetUID()
	if it.owned && !ownsFields(live, r.manager) {
		it.outcome.Note = "none of its fields were ours any more; fields removed from Git meanwhile may have stayed"
	}
	it.takeover = !it.owned && len(takeovers(live)) > 0
}

// foreign says whose an object is if its labels name another overlay or another
// Fleet. Within the Fleet the other overlay may have handed it over. A Namespace
// that overlays of the Fleet share names none of them.
func (r *run) foreign(id object.ID, live *unstructured.Unstructured) *Error {
	labels := live.GetLabels()
	fleet, overlay := labels[v1alpha1.FleetLabel], labels[v1alpha1.OverlayLabel]
	ours := r.req.Owner.labels()
	sameFleet := fleet == ours[v1alpha1.FleetLabel]
	switch {
	case fleet == "" && overlay == "",
		sameFleet && overlay == "",
		sameFleet && overlay == ours[v1alpha1.OverlayLabel],
		sameFleet && overlay == r.req.TakeOverFrom[id]:
		return nil
	}
	annotations := live.GetAnnotations()
	return refuse(id, v1alpha1.OwnedByOtherReason, "it belongs to overlay %s (%s) of Fleet %s", orDefault(overlay, "unknown"),
		orDefault(annotations[v1alpha1.PathAnnotation], "path unknown"), orDefault(annotations[v1alpha1.FleetAnnotation], "unknown"))
}

// relabelled tells whether the labels that say whose an object is were changed by somebody
// else than an agent: then they say nothing.
func (r *run) relabelled(live *unstructured.Unstructured) bool {
	labels := live.GetLabels()
	for key, value := range r.req.Owner.labels() {
		if labels[key] != value && slices.ContainsFunc(live.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool {
			return e.Manager == r.manager && ownsPath(e, "f:metadata", "f:labels", "f:"+key)
		}) {
			return false
		}
	}
	return true
}

func beingDeleted(id object.ID) *Error {
	err := refuse(id, v1alpha1.TransientReason, "it is being deleted; when it is gone it is applied as new")
	err.Transient = true
	return err
}

// readLive reads an object; nil without an error means that the API server said
// that there is none.
func (a *Applier) readLive(ctx context.Context, it *item) (*unstructured.Unstructured, error) {
	live, err := a.get(ctx, it.kind, it.id, "")
	if IsNotFound(err) {
		return nil, nil
	}
	return live, err
}

// namespaceRead is the one look at a Namespace within a run.
type namespaceRead struct {
	once sync.Once
	live *unstructured.Unstructured
	err  error
}

// readNamespace reads a Namespace, at most once in a run; nil without an error
// means that there is none.
func (r *run) readNamespace(ctx context.Context, name string) (*unstructured.Unstructured, error) {
	r.mu.Lock()
	read := r.reads[name]
	if read == nil {
		read = &namespaceRead{}
		r.reads[name] = read
	}
	r.mu.Unlock()
	read.once.Do(func() {
		k := kind{GroupVersionKind: schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, resource: "namespaces"}
		read.live, read.err = r.get(ctx, k, object.ID{Kind: "Namespace", Name: name}, "")
		if IsNotFound(read.err) {
			read.live, read.err = nil, nil
		}
	})
	return read.live, read.err
}

// forgetNamespaces makes the next look at each Namespace a new one.
func (r *run) forgetNamespaces() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.reads)
}
