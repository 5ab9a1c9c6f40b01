package agent

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
)

// withdraw ends a pending deletion, approved or not, as far as Git asks for its
// objects again, and drops an approval that then approves nothing. It comes before
// anything that can fail: an approval must not survive its objects being back in
// Git, or it would count again when they leave once more.
func (run *overlayRun) withdraw(ctx context.Context) error {
	if run.gone {
		return nil
	}
	pending := run.status.PendingDeletion
	rendered := run.rendering != nil && run.rendering.err == nil
	if pending != nil {
		pending = pending.DeepCopy()
		whole := pending.Reason != v1alpha1.ObjectsRemovedReason
		switch {
		case pending.Reason == v1alpha1.PathRemovedReason,
			whole && rendered && len(run.rendering.claims) > 0:
			pending = nil
		case rendered:
			pending.Objects = slices.DeleteFunc(pending.Objects, func(ref v1alpha1.ObjectReference) bool {
				_, back := run.rendering.claims[inventory.IDOf(ref)]
				return back
			})
			if len(pending.Objects) == 0 || !pending.Approved && len(pending.Objects) < len(run.status.PendingDeletion.Objects) {
				pending = nil
			}
		}
	}
	if run.approval() != "" && (pending == nil || !rendered) {
		// The annotation goes first: a restart in between finds the set still
		// pending and comes here again.
		run.events = append(run.events, notice{corev1.EventTypeWarning, "ApprovalVoid",
			fmt.Sprintf("approval %.64s doesn't match: the directory or its objects are back in Git, or what waits for one is not known now", run.approval())})
		if err := run.dropApproval(ctx); err != nil {
			return err
		}
	}
	if pending == nil && run.status.PendingDeletion != nil || pending != nil && len(pending.Objects) != len(run.status.PendingDeletion.Objects) {
		run.status.PendingDeletion = pending
		return run.save(ctx)
	}
	return nil
}
