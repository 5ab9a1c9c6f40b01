package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
)

const (
	// deletionRetry is how often a deletion under way is looked at.
	deletionRetry = 2 * time.Second
	// retainedRetry is how often an object is looked at that has left Git and is
	// still in use.
	retainedRetry = time.Minute
	// pruneRounds bounds the deletes of one reconciliation: those that are gone at
	// once make room for the next.
	pruneRounds = 4
)

// pruneStep deletes what has left Git, as far as [inventory.PlanPrune] allows. It
// is reached only if everything that Git asks for was applied.
func pruneStep(ctx context.Context, run *overlayRun) error {
	if run.suspended() {
		return errStop
	}
	desired, known := run.desired()
	if !known {
		return nil
	}
	if len(inventory.Leaving(run.status.Inventory, desired)) == 0 && run.status.PendingDeletion == nil && run.approval() == "" {
		run.condition(v1alpha1.PendingDeletionCondition, metav1.ConditionFalse, v1alpha1.NothingPendingReason, "")
		return nil
	}
	if err := run.checkHalt(ctx); err != nil {
		return err
	}
	hold, wait := run.hold(len(desired) == 0)
	if wait {
		// Some overlay of the fleet is not rendered at this revision yet, and might
		// have taken objects over. It asks for us when it is.
		run.status.Inventory, _ = inventory.WriteAhead(run.status.Inventory, desired)
		run.waits()
		return nil
	}
	for range pruneRounds {
		again, err := run.pruneRound(ctx, desired, hold)
		if err != nil || !again {
			return err
		}
	}
	run.again(deletionRetry)
	return nil
}

// desired lists what Git asks for; known is false if that is not known.
func (run *overlayRun) desired() (desired []inventory.Desired, known bool) {
	switch {
	case run.gone:
		return nil, true
	case run.built != nil:
		return run.built.Desired, true
	case run.rendering == nil || run.rendering.err != nil:
		return nil, false
	}
	for id, c := range run.rendering.claims {
		desired = append(desired, inventory.Desired{Ref: c.ref, Digest: c.digest, Shared: run.shared[id]})
	}
	return desired, true
}

// checkHalt finds out whether the Cluster of the overlay forbids every write, if
// applying had nothing to ask that for.
func (run *overlayRun) checkHalt(ctx context.Context) error {
	cluster := run.rendering.cluster()
	if run.gone || run.halt != "" || cluster == nil {
		return nil // a Cluster that leaves is looked at with the other candidates
	}
	applier, err := run.as()
	if err != nil {
		return err
	}
	req := apply.Request{Owner: run.owner(), Cluster: cluster}
	if run.built != nil {
		req = run.built.Request(run.owner())
	}
	if halt := applier.Halted(ctx, req); halt != nil {
		run.halt = halt.Error()
		run.again(clusterRetry)
	}
	return nil
}

func (run *overlayRun) approval() string {
	return run.overlay.Annotations[v1alpha1.ApproveDeletionAnnotation]
}

// hold says what forbids every deletion now, or that it is too early to tell.
func (run *overlayRun) hold(whole bool) (hold string, wait bool) {
	settled, failing := run.board.settle(run.fleetName, run.overlay.Spec.Path)
	// A deletion of everything that was approved goes on: all overlays rendered when
	// the approval was accepted.
	approved := run.status.PendingDeletion != nil && run.status.PendingDeletion.Approved
	switch {
	case !settled:
		return "", true
	case run.halt != "":
		return run.halt, false
	case len(failing) > 0 && !(whole && approved):
		return fmt.Sprintf("nothing is deleted while overlays of the fleet do not render, because they may hold these objects now: %s", strings.Join(failing, ", ")), false
	case !approved && (whole || run.board.losesCluster(run.fleetName, run.overlay.Spec.Path)):
		if n := run.board.tooMany(run.fleetName, run.overlay.Spec.Path, run.view.maxClusters); n > 0 {
			return fmt.Sprintf("%d overlays have lost their directory or their content at once, spec.deletion.maxClusters of the Fleet allows %d: restore them or raise the limit", n, run.view.maxClusters), false
		}
	}
	return "", false
}

// pruneRound looks at every object that has left Git, decides, records, and acts.
// again asks for another round, because something changed.
func (run *overlayRun) pruneRound(ctx context.Context, desired []inventory.Desired, hold string) (again bool, err error) {
	run.status.Inventory, _ = inventory.WriteAhead(run.status.Inventory, desired)
	in := inventory.PruneInput{
		OverlayUID: run.overlay.UID, OverlayName: run.name.Name,
		Whole: len(desired) == 0, Reason: run.pruneReason(len(desired) == 0),
		Staying:  inventory.Staying(run.status.Inventory, desired),
		Previous: run.status.PendingDeletion, Approval: run.approval(), Hold: hold,
	}
	if slices.ContainsFunc(inventory.Leaving(run.status.Inventory, desired), isNamespace) {
		in.NamespacesInUse = run.board.namespaces(run.fleetName, run.overlay.Spec.Path)
	}
	var handing int
	if in.Candidates, handing, err = run.candidates(ctx, desired); err != nil {
		return false, err
	}
	plan := inventory.PlanPrune(in)
	run.take(plan, desired, hold)
	if plan.VoidApproval != "" {
		// Before the set is recorded: a restart must not find both the annotation
		// and a set that matches it again.
		if err := run.dropApproval(ctx); err != nil {
			return false, err
		}
	}
	if plan.AcceptedApproval {
		// First the status, then the annotation, then deeds. A crash in between
		// finds the approval in the status and goes on with it.
		if err := run.save(ctx); err != nil {
			return false, err
		}
		return true, run.dropApproval(ctx)
	}
	run.lookAgain(in.Candidates, handing)
	return run.delete(ctx, plan)
}

// lookAgain says when to look at the candidates next. Approvals, commits and other
// overlays announce themselves; what live objects do does not.
func (run *overlayRun) lookAgain(candidates []inventory.Candidate, handing int) {
	for _, c := range candidates {
		switch {
		case c.ReadError != nil:
			run.again(0)
		case c.Live != nil && c.Live.GetDeletionTimestamp() != nil:
			run.again(deletionRetry)
		}
	}
	if len(candidates)+handing > 0 {
		run.again(retainedRetry)
	}
}

// candidates reads the live state of what has left Git. Objects that another
// overlay renders but has not taken over yet are none: they stay in this inventory
// until they are in the other, so that no object is in neither.
func (run *overlayRun) candidates(ctx context.Context, desired []inventory.Desired) (_ []inventory.Candidate, handing int, _ error) {
	applier, err := run.as()
	if err != nil {
		return nil, 0, err
	}
	leaving := inventory.Leaving(run.status.Inventory, desired)
	ids := make([]object.ID, 0, len(leaving))
	for _, e := range leaving {
		ids = append(ids, inventory.IDOf(e.ObjectReference))
	}
	handed := run.board.handed(run.fleetName, run.overlay.Spec.Path, ids)
	candidates := make([]inventory.Candidate, 0, len(leaving))
	for i, entry := range leaving {
		c := inventory.Candidate{Entry: entry, OwnerLabel: run.name.Name, HandedTo: handed[ids[i]]}
		c.Live, c.ReadError = applier.Get(ctx, entry.ObjectReference)
		if apply.IsNotFound(c.ReadError) {
			c.Live, c.ReadError = nil, nil
		}
		if c.HandedTo != "" && run.handing(c) {
			handing++
			continue
		}
		if c.Live != nil && c.ReadError == nil && c.HandedTo == "" {
			c.Users, c.ReadError = planner.UsersOf(ctx, applier, entry, ids)
		}
		candidates = append(candidates, c)
	}
	return candidates, handing, nil
}

// handing reports whether an object that another overlay renders may still be this
// overlay's. Of a Namespace that both rendered the other is an owner already.
func (run *overlayRun) handing(c inventory.Candidate) bool {
	return !isNamespace(c.Entry) && (c.ReadError != nil || c.Live != nil && c.Live.GetLabels()[v1alpha1.OverlayLabel] == run.name.Name)
}

func isNamespace(e v1alpha1.InventoryEntry) bool { return e.Group == "" && e.Kind == "Namespace" }

// pruneReason says why objects leave.
func (run *overlayRun) pruneReason(whole bool) string {
	switch {
	case run.gone:
		return v1alpha1.PathRemovedReason
	case whole:
		return v1alpha1.EmptyRenderReason
	default:
		return v1alpha1.ObjectsRemovedReason
	}
}

// take puts a plan into the status to be recorded.
func (run *overlayRun) take(plan inventory.PrunePlan, desired []inventory.Desired, hold string) {
	run.status.Inventory = inventory.AfterPlan(run.status.Inventory, desired, plan)
	run.status.PendingDeletion = plan.Pending
	switch pending := plan.Pending; {
	case pending != nil && pending.Approved:
		message := pending.Message
		if plan.Waiting != "" {
			message = plan.Waiting
		}
		run.condition(v1alpha1.PendingDeletionCondition, metav1.ConditionTrue, v1alpha1.TeardownReason, message)
	case pending != nil:
		run.pendingSeen(pending, hold)
	default:
		run.held(plan)
	}
	for _, note := range plan.Notes {
		run.events = append(run.events, notice{corev1.EventTypeNormal, "Prune", note})
	}
	if plan.VoidApproval != "" {
		run.events = append(run.events, notice{corev1.EventTypeWarning, "ApprovalVoid", plan.VoidApproval})
	}
}

// pendingSeen announces a deletion that waits for an approval.
func (run *overlayRun) pendingSeen(pending *v1alpha1.PendingDeletion, hold string) {
	if before := run.overlay.Status.PendingDeletion; before == nil || before.Hash != pending.Hash {
		run.events = append(run.events, notice{corev1.EventTypeWarning, v1alpha1.AwaitingApprovalReason, pending.Message})
	}
	if hold != "" {
		run.condition(v1alpha1.PendingDeletionCondition, metav1.ConditionTrue, v1alpha1.PruneHeldReason, hold+"; "+pending.Message)
		return
	}
	run.condition(v1alpha1.PendingDeletionCondition, metav1.ConditionTrue, v1alpha1.AwaitingApprovalReason,
		pending.Message+fmt.Sprintf("; approve with: capstan approve -n %s %s", run.name.Namespace, run.name.Name))
}

// held says what is kept although it has left Git, if anything.
func (run *overlayRun) held(plan inventory.PrunePlan) {
	for _, e := range plan.Keep {
		run.condition(v1alpha1.PendingDeletionCondition, metav1.ConditionFalse, v1alpha1.PruneHeldReason,
			fmt.Sprintf("%d objects have left Git and are kept; %s: %s", len(plan.Keep), inventory.IDOf(e.ObjectReference), e.Message))
		return
	}
	run.condition(v1alpha1.PendingDeletionCondition, metav1.ConditionFalse, v1alpha1.NothingPendingReason, "")
}

// delete acts on a plan whose intent is on record.
func (run *overlayRun) delete(ctx context.Context, plan inventory.PrunePlan) (again bool, err error) {
	if len(plan.Delete) == 0 {
		return false, nil
	}
	if err := run.save(ctx); err != nil {
		return false, err
	}
	if err := run.current(ctx); err != nil {
		run.events = nil // of what was decided nothing happens
		return false, err
	}
	applier, err := run.as()
	if err != nil {
		return false, err
	}
	for _, ref := range plan.Delete {
		outcome, err := applier.Delete(ctx, ref, run.owner())
		if err != nil {
			return false, err // what is left is still in the inventory
		}
		switch outcome {
		case apply.DeleteDeleted:
			run.metrics.deleted(ref.Kind)
			again = true
		case apply.DeleteGone, apply.DeleteTerminating:
			again = true
		}
	}
	return again, nil // the next round sees what is gone
}

// current fails with a conflict if the overlay is another by now than was read: with nothing
// new to record no write has told, and an approval may have been withdrawn since.
func (run *overlayRun) current(ctx context.Context) error {
	var live v1alpha1.ClusterOverlay
	if err := run.live.Get(ctx, run.name, &live); err != nil {
		return fmt.Errorf("read the overlay anew before its objects are deleted: %w", err)
	}
	if live.UID != run.overlay.UID || live.ResourceVersion != run.overlay.ResourceVersion {
		return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("clusteroverlays").GroupResource(), run.name.Name,
			errors.New("it has changed since it was read, and what is deleted must be decided anew"))
	}
	return nil
}

// dropApproval removes the annotation: an approval is used once.
func (run *overlayRun) dropApproval(ctx context.Context) error {
	return run.patchMetadata(ctx, "remove the used approval", func(o *v1alpha1.ClusterOverlay) {
		delete(o.Annotations, v1alpha1.ApproveDeletionAnnotation)
	})
}

// retireStep deletes the ClusterOverlay of a directory that is gone, once nothing
// is left that it owns.
func retireStep(ctx context.Context, run *overlayRun) error {
	if !run.gone || len(run.status.Inventory) > 0 || run.status.PendingDeletion != nil || run.suspended() {
		return nil
	}
	if err := run.save(ctx); err != nil { // an empty inventory: releasing it orphans nothing
		return err
	}
	uid := run.overlay.UID
	err := run.client.Delete(ctx, run.overlay, client.Preconditions{UID: &uid})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete the ClusterOverlay of a directory that is gone: %w", err)
	}
	return errStop
}
