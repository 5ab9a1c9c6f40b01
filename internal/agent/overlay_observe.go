package agent

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/planner"
)

// observeStep looks at what the fleet reconciler has published.
func observeStep(ctx context.Context, run *overlayRun) error {
	run.view = run.board.view(run.fleetName)
	if run.view == nil {
		// Git has not been read since the start, or there is no Fleet. Either way
		// nothing is known, so nothing is done; publishing asks for us again.
		err := run.client.Get(ctx, run.fleetName, &v1alpha1.Fleet{})
		run.orphan = apierrors.IsNotFound(err)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("read Fleet %s: %w", run.fleetName, err)
		}
		return errStop
	}
	digester, err := run.overlayReconciler.key.get(ctx)
	if err != nil {
		return err
	}
	run.digester = digester
	run.gone = !run.view.paths[run.overlay.Spec.Path]
	if run.misnamed() {
		run.fail(v1alpha1.RenderedCondition, v1alpha1.InvalidSpecReason,
			"the overlay of this path must be named "+planner.OverlayName(run.fleetName.Name, run.overlay.Spec.Path)+"; delete this ClusterOverlay")
		return errStop
	}
	request := run.overlay.Annotations[v1alpha1.RequestedAtAnnotation]
	run.requested = request != "" && request != run.status.LastHandledRequest
	if run.gone || run.suspended() {
		run.handled() // there is nothing to compare
	}
	if !covers(run.view, run.board, run.fleetName, run.overlay) {
		// Its inventory is empty and it is not known whether it owned anything
		// before: the next look at the Fleet finds out.
		run.again(2 * time.Second)
		return errStop
	}
	if len(run.status.Inventory) == 0 && run.status.AppliedRevision == "" {
		for _, ref := range run.view.adopted[run.name.Name] {
			run.status.Inventory = append(run.status.Inventory, v1alpha1.InventoryEntry{ObjectReference: ref, State: v1alpha1.EntryIntent})
		}
	}
	run.own() // before it counts as rendered
	return nil
}

// misnamed reports whether this is not the overlay of its path.
func (run *overlayRun) misnamed() bool {
	return run.name.Name != planner.OverlayName(run.fleetName.Name, run.overlay.Spec.Path)
}

// own tells the board what the overlay owns and is not approved to lose, if that is known.
func (run *overlayRun) own() {
	if run.view == nil || run.misnamed() || !covers(run.view, run.board, run.fleetName, run.overlay) {
		return
	}
	run.board.own(run.fleetName, run.overlay.Spec.Path, inventory.Unapproved(run.status.Inventory, run.status.PendingDeletion))
}

// suspended reports whether the overlay or its Fleet is suspended. Such an overlay
// is still rendered, because others must know what it claims.
func (run *overlayRun) suspended() bool {
	return run.overlay.Spec.Suspend || run.view != nil && run.view.suspended
}

// covers reports whether it is known what an overlay owned before it had an
// inventory.
func covers(v *view, b *board, fleet types.NamespacedName, o *v1alpha1.ClusterOverlay) bool {
	return len(o.Status.Inventory) > 0 || o.Status.AppliedRevision != "" || v.scanned[o.UID] || b.covered(fleet, o.Spec.Path, o.UID)
}
