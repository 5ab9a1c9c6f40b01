package planner

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
)

const (
	notOurs     = "an object of this name exists and isn't managed by this Fleet"
	hiddenName  = "its name holds a value that comes from a Secret, so it is not sent before it is merged"
	hiddenValue = "can't be checked before it is merged: it may need the number that stands in a Secret"
	secretFresh = "a Secret is not sent before it is merged"
	// reads is how many objects are read at a time.
	reads = 4
)

// appliedUntrusted says what applying would do to each object of a stranger's
// render, see [Input.Untrusted].
func (p *planning) appliedUntrusted(ctx context.Context, built *Built) ([]plan.Change, *apply.Error, error) {
	p.shareNamespaces(built)
	changes, send, err := p.known(built)
	if err != nil {
		return nil, nil, err
	}
	live, unread := p.read(ctx, send)
	for id, problem := range unread {
		switch {
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case problem.Transient && id.Namespace == "":
			// It may lack the namespace that its kind has; the dry-run finds that before
			// it asks.
			delete(unread, id)
		case problem.Transient:
			return nil, nil, problem
		}
	}
	req := built.Request(p.Owner)
	req.Objects, req.Known, req.TakeOverFrom = nil, map[object.ID]types.UID{}, map[object.ID]string{}
	for _, u := range send {
		id := object.IDOf(u)
		switch now := live[id]; {
		case unread[id] != nil: // no right to read it, perhaps
			changes = append(changes, plan.Change{ID: id, Action: plan.Invalid, Error: unread[id].Message})
			continue
		case now != nil && !p.owned(now):
			changes = append(changes, p.foreign(id, now))
			if req.Cluster != nil && *req.Cluster == id {
				req.Cluster = nil // whether it is paused is no business of the stranger's
			}
			continue
		case now != nil && p.mayApply(id, now):
			// Known objects are applied to without a look at former owners, whose
			// fields a preview would send.
			req.Known[id] = now.GetUID()
		}
		req.Objects = append(req.Objects, u)
	}
	var halted *apply.Error
	if len(req.Objects) > 0 {
		report, err := p.applier.DryRun(ctx, req)
		if err != nil {
			return nil, nil, err
		}
		if halted = report.Halted; halted != nil {
			halted = p.shield.problem(halted, built.Cluster)
		}
		changes = append(changes, p.answers(req.Objects, live, report)...)
	}
	for i := range changes {
		changes[i] = p.duplicate(changes[i])
	}
	return changes, halted, nil
}

// shareNamespaces takes the name of the overlay off the Namespaces that others
// render as well, as the agent does.
func (p *planning) shareNamespaces(built *Built) {
	shared := map[object.ID]bool{}
	for _, u := range built.Objects {
		if id := object.IDOf(u); p.shared(id) {
			shared[id] = true
		}
	}
	built.Share(shared)
}

// shared reports whether an object is a Namespace that others render as well.
func (p *planning) shared(id object.ID) bool {
	return id.GroupKind() == (schema.GroupKind{Kind: "Namespace"}) && p.around.claimant(id) != ""
}

// known decides what needs no request; send is the rest.
func (p *planning) known(built *Built) (changes []plan.Change, send []*unstructured.Unstructured, err error) {
	desired := p.shield.desired(built.Desired)
	var recorded []v1alpha1.InventoryEntry
	if p.Overlay != nil {
		recorded = p.Overlay.Status.Inventory
	}
	for i, u := range built.Objects {
		if desired[i].Digest, err = p.digest(u, inventory.IDOf(desired[i].Ref), recorded); err != nil {
			return nil, nil, err
		}
	}
	changed := map[object.ID]bool{}
	for _, id := range inventory.Changed(recorded, desired) {
		changed[id] = true
	}
	for i, u := range built.Objects {
		id, real := object.IDOf(u), inventory.IDOf(desired[i].Ref)
		isSecret := id.GroupKind() == schema.GroupKind{Kind: "Secret"}
		switch {
		case !changed[real]:
			changes = append(changes, plan.Change{ID: id, Action: plan.Unchanged})
		case isSecret && slices.ContainsFunc(recorded, func(e v1alpha1.InventoryEntry) bool {
			return inventory.IDOf(e.ObjectReference) == real && e.State != v1alpha1.EntryIntent
		}):
			changes = append(changes, plan.Change{ID: id, Action: plan.Update, Note: secretFresh})
		case isSecret:
			changes = append(changes, plan.Change{ID: id, Action: plan.Create, Note: secretFresh})
		case id != real:
			changes = append(changes, plan.Change{ID: id, Action: plan.NotChecked, Note: hiddenName})
		default:
			send = append(send, u)
		}
	}
	return changes, send, nil
}

// digest is that of an object as it is recorded after a merge. With a secret value
// in plain text it would say whether the stranger has guessed that: no digest then.
func (p *planning) digest(u *unstructured.Unstructured, id object.ID, recorded []v1alpha1.InventoryEntry) (string, error) {
	if p.shield.tooLong(leaves(u.Object, true)...) || p.shield.holdsValue(u.Object) {
		return "none", nil
	}
	digests, err := p.shield.digests(p.Digester, u)
	if err != nil {
		return "", err
	}
	for _, entry := range recorded {
		if inventory.IDOf(entry.ObjectReference) == id && slices.Contains(digests, entry.Digest) {
			return entry.Digest, nil
		}
	}
	return digests[0], nil
}

// read reads what is live of some objects.
func (p *planning) read(ctx context.Context, objects []*unstructured.Unstructured) (live map[object.ID]*unstructured.Unstructured, unread map[object.ID]*apply.Error) {
	live, unread = map[object.ID]*unstructured.Unstructured{}, map[object.ID]*apply.Error{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(reads)
	for _, u := range objects {
		group.Go(func() error {
			now, err := p.applier.Get(ctx, inventory.RefOf(u))
			mu.Lock()
			defer mu.Unlock()
			id := object.IDOf(u)
			switch {
			case err == nil:
				live[id] = now
			case !apply.IsNotFound(err):
				unread[id] = p.shield.problem(err, u)
			}
			return nil
		})
	}
	_ = group.Wait() // errors are in unread
	return live, unread
}

// owned reports whether the Fleet owns a live object: it carries the Fleet's labels
// and was applied by us; labels alone may be a copy's.
func (p *planning) owned(live *unstructured.Unstructured) bool {
	_, overlay := live.GetLabels()[v1alpha1.OverlayLabel]
	namespace := object.IDOf(live).GroupKind() == schema.GroupKind{Kind: "Namespace"}
	return live.GetLabels()[v1alpha1.FleetLabel] == p.fleetLabel() && (overlay || namespace) &&
		slices.ContainsFunc(live.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool {
			return e.Manager == v1alpha1.FieldManager && e.Operation == metav1.ManagedFieldsOperationApply
		})
}

// mayApply reports whether nothing is against applying to an object of the Fleet.
// All others apply itself judges, before it sends anything.
func (p *planning) mayApply(id object.ID, live *unstructured.Unstructured) bool {
	if _, alone := capi.Unmanaged(live.GetAnnotations()); alone || live.GetDeletionTimestamp() != nil || capi.TopologyOwned(live) {
		return false
	}
	overlay := live.GetLabels()[v1alpha1.OverlayLabel]
	return overlay == "" || overlay == p.Owner.Overlay || p.shared(id) || p.around.released(overlay, id)
}

// foreign is all that is said of an object that is not the Fleet's. It must not
// depend on what the object holds, or on what a dry-run would answer: a field
// conflict tells whether a guess at a value is right.
func (p *planning) foreign(id object.ID, live *unstructured.Unstructured) plan.Change {
	if live.GetLabels()[v1alpha1.FleetLabel] != "" {
		return plan.Change{ID: id, Action: plan.Conflict, Error: notOurs}
	}
	return plan.Change{ID: id, Action: plan.Update, Note: notOurs}
}

// answers puts the report of a dry-run into changes that can be shown.
func (p *planning) answers(sent []*unstructured.Unstructured, live map[object.ID]*unstructured.Unstructured, report apply.Report) []plan.Change {
	manifests := make(map[object.ID]*unstructured.Unstructured, len(sent))
	for _, u := range sent {
		manifests[object.IDOf(u)] = u
	}
	changes := make([]plan.Change, 0, len(report.Outcomes))
	for _, o := range report.Outcomes {
		now, manifest := live[o.ID], manifests[o.ID]
		if o.Before != nil {
			now = o.Before // it appeared, or changed, since it was read
		}
		if now != nil && !p.owned(now) {
			changes = append(changes, p.foreign(o.ID, now))
			continue
		}
		change := changeOf(o)
		change.Note = p.shield.quoting(change.Note, manifest, nil)
		if o.Action == apply.ActionFailed {
			change.Error = p.shield.quoting(change.Error, manifest, now)
		} else { // our own words, which name labels at most
			change.Error = p.shield.quoting(change.Error, manifest, nil)
		}
		change.After = manifest
		if o.After != nil {
			change.After = p.shield.answer(o.After, manifest)
		}
		if change.Action == plan.Invalid && p.shield.holdsTyped(manifest) {
			change.Action, change.Error, change.Note = plan.NotChecked, "", hiddenValue
		}
		if change.Action == plan.Update && now != nil {
			change.Before = p.shield.live(now, change.After)
			if len(change.Fields()) == 0 {
				change.Action = plan.Unchanged
			}
		}
		changes = append(changes, change)
	}
	return changes
}
