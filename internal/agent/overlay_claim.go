package agent

import (
	"context"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
)

// claimStep refuses objects that another overlay of the fleet renders as well. A
// Namespace rendered identically is shared: it names no overlay, so none prunes it.
func claimStep(ctx context.Context, run *overlayRun) error {
	if run.gone || run.rendering == nil {
		return nil
	}
	clashes, undecided := run.board.clashes(run.fleetName, run.overlay.Spec.Path)
	if len(clashes) > 0 {
		run.fail(v1alpha1.AppliedCondition, v1alpha1.DuplicateObjectReason, strings.Join(clashes, "\n"))
		run.handled()
		return errStop
	}
	if undecided {
		return errStop
	}
	if run.share(); run.built == nil && run.needsObjects() {
		if err := run.render(ctx); err != nil { // a Namespace has come to be shared, or is so no longer
			return err
		}
	}
	if run.built != nil {
		run.built.Share(run.shared)
	}
	return nil
}

// share marks the Namespaces that other overlays render too. They are sent without
// the name of an overlay, so all overlays send the same and none is the owner. What
// is on record changes only when all overlays are rendered: until then it is not
// known that the others have let go. As it names an overlay then, or no longer, it is
// sent again.
func (run *overlayRun) share() {
	var namespaces []object.ID
	for id, c := range run.rendering.claims {
		if c.shareable {
			namespaces = append(namespaces, id)
		}
	}
	if len(namespaces) == 0 {
		return
	}
	run.shared = map[object.ID]bool{}
	for id := range run.board.claimants(run.fleetName, run.overlay.Spec.Path, namespaces) {
		run.shared[id] = true
	}
	for i := range run.status.Inventory {
		e := &run.status.Inventory[i]
		switch id := inventory.IDOf(e.ObjectReference); {
		case (e.State == v1alpha1.EntryApplied || e.State == v1alpha1.EntryIntent) && run.shared[id]:
			e.State, e.Digest = v1alpha1.EntryShared, ""
		case e.State == v1alpha1.EntryShared && !run.shared[id] && slices.Contains(namespaces, id):
			run.shared[id] = true
			// What an overlay renders that fails isn't known.
			if settled, failing := run.board.settle(run.fleetName, run.overlay.Spec.Path); settled && len(failing) == 0 {
				e.State, e.Digest = v1alpha1.EntryIntent, ""
				delete(run.shared, id)
			}
		}
	}
}

// takeovers says, for objects that were refused because they are live under
// another overlay of this fleet, which overlay may lose them: one that is known not
// to render them any more, or that shares them. complete is false if others may
// follow. The label on the object tells whose it is, because the
// other may have forgotten it by now.
func (run *overlayRun) takeovers(report apply.Report) (from map[object.ID]string, complete bool) {
	from, complete = map[object.ID]string{}, true
	for _, o := range report.Outcomes {
		if o.Err == nil || o.Err.Reason != v1alpha1.OwnedByOtherReason {
			continue
		}
		former := ""
		if o.Before != nil && o.Before.GetLabels()[v1alpha1.FleetLabel] == apply.FleetLabelValue(run.fleetName.Namespace, run.fleetName.Name) {
			former = o.Before.GetLabels()[v1alpha1.OverlayLabel]
		}
		if former != "" && (run.shared[o.ID] || run.board.releasedBy(run.fleetName, former, o.ID)) {
			from[o.ID] = former
		} else if former != "" {
			complete = false
		}
	}
	return from, complete
}

// wakeFormer asks the overlays that lost objects to look again, so that they drop
// them from their inventories.
func (run *overlayRun) wakeFormer(from map[object.ID]string) {
	for _, name := range slices.Sorted(maps.Values(from)) {
		run.board.enqueue(types.NamespacedName{Namespace: run.name.Namespace, Name: name})
	}
}
