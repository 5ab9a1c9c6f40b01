package agent

import (
	"context"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
)

// claimStep refuses objects that another overlay of the fleet renders as well. A
// Namespace rendered identically is shared: it names no overlay, so none prunes it.
func claimStep(_ context.Context, run *overlayRun) error {
	if run.gone || run.rendering == nil {
		return nil
	}
	if clashes := run.board.clashes(run.fleetName, run.overlay.Spec.Path); len(clashes) > 0 {
		run.fail(v1alpha1.AppliedCondition, v1alpha1.DuplicateObjectReason, strings.Join(clashes, "\n"))
		run.handled()
		return errStop
	}
	if run.built == nil {
		return nil
	}
	var namespaces []object.ID
	for id, c := range run.rendering.claims {
		if c.shareable {
			namespaces = append(namespaces, id)
		}
	}
	return run.built.share(run.digester, run.board.claimants(run.fleetName, run.overlay.Spec.Path, namespaces))
}

// blockedByDuplicate reports whether the last recorded outcome was a duplicate.
func (run *overlayRun) blockedByDuplicate() bool {
	c := meta.FindStatusCondition(run.status.Conditions, v1alpha1.AppliedCondition)
	return c != nil && c.Reason == v1alpha1.DuplicateObjectReason
}

// takeovers says, for objects that are live under another overlay of this fleet,
// which overlay may lose them: one that is known not to render them any more, or
// that shares them.
func (run *overlayRun) takeovers(ctx context.Context, ids []object.ID) (map[object.ID]string, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	var all v1alpha1.ClusterOverlayList
	if err := run.client.List(ctx, &all, client.InNamespace(run.name.Namespace), client.MatchingFields{fleetIndex: run.fleetName.Name}); err != nil {
		return nil, err
	}
	shared := run.board.claimants(run.fleetName, run.overlay.Spec.Path, ids)
	from := map[object.ID]string{}
	for i := range all.Items {
		other := &all.Items[i]
		if other.Name == run.name.Name {
			continue
		}
		for _, e := range other.Status.Inventory {
			id := inventory.IDOf(e.ObjectReference)
			if !slices.Contains(ids, id) {
				continue
			}
			if run.board.releasedBy(run.fleetName, other.Spec.Path, id) || shared[id] == other.Spec.Path {
				from[id] = other.Name
			}
		}
	}
	return from, nil
}

// wakeFormer asks the overlays that lost objects to look again, so that they drop
// them from their inventories.
func (run *overlayRun) wakeFormer(from map[object.ID]string) {
	for _, name := range slices.Sorted(maps.Values(from)) {
		run.board.enqueue(types.NamespacedName{Namespace: run.name.Namespace, Name: name})
	}
}
