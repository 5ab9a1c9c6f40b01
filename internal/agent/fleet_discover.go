package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/render"
)

// discoverStep lists the overlays of the commit.
func discoverStep(ctx context.Context, run *fleetRun) error {
	run.next.search = render.DiscoverInput{
		Tree: run.snapshot.Tree, Paths: run.fleet.Spec.Overlays.Paths, Exclude: run.fleet.Spec.Overlays.Exclude,
	}
	overlays, skipped, err := render.Discover(run.next.search)
	if err != nil {
		reason := v1alpha1.InvalidSpecReason
		if errors.Is(err, render.ErrTree) {
			reason = fetchReason(err)
		}
		return run.stop(v1alpha1.DiscoveredCondition, reason, err)
	}
	for _, s := range skipped {
		ctrl.LoggerFrom(ctx).V(1).Info("directory is not an overlay", "path", s.Path, "reason", s.Reason)
	}
	run.next.revision, run.next.tree = run.snapshot.Revision, run.snapshot.Tree
	run.next.since = run.since
	run.next.serviceAccount = run.fleet.Spec.ServiceAccountName
	run.next.maxClusters = int(ptr.Deref(run.fleet.Spec.Deletion.MaxClusters, 0))
	run.next.paths = make(map[string]bool, len(overlays))
	for _, o := range overlays {
		if why := unfit(o.Path); why != "" {
			run.next.unfollowed = true
			skipped = append(skipped, render.Skipped{Path: o.Path, Reason: why})
			ctrl.LoggerFrom(ctx).Info("directory can't be an overlay", "path", o.Path, "reason", why)
			continue
		}
		run.next.paths[o.Path] = true
	}
	if len(run.next.paths) == 0 {
		// Not an error of ours, and no reason to delete: every overlay that there
		// was waits for its approval.
		run.condition(v1alpha1.DiscoveredCondition, metav1.ConditionFalse, v1alpha1.NoOverlaysReason,
			fmt.Sprintf("no directory of the commit matches spec.overlays.paths %q and holds a kustomization file; nothing is deleted", run.fleet.Spec.Overlays.Paths))
		return nil
	}
	run.condition(v1alpha1.DiscoveredCondition, metav1.ConditionTrue, v1alpha1.SucceededReason,
		fmt.Sprintf("%d overlays, %d directories skipped", len(run.next.paths), len(skipped)))
	return nil
}

// unfit says why there can be no ClusterOverlay for a directory; "" if there can.
// One that is counted as an overlay and never rendered would keep all others from
// pruning.
func unfit(path string) string {
	const most = 1024 // what spec.path holds
	switch {
	case path == ".":
		return "the root of the repository can't be an overlay"
	case len(path) > most:
		return fmt.Sprintf("the path is longer than %d bytes", most)
	}
	return ""
}

// adoptStep finds out what overlays without an inventory owned before: somebody
// may have deleted their ClusterOverlay, or the cluster was restored from a backup.
// It comes before publishing, and that before creating, because an overlay must
// know what it owns before it applies or prunes.
func adoptStep(ctx context.Context, run *fleetRun) error {
	existing, err := run.list(ctx)
	if err != nil {
		return err
	}
	run.existing = existing
	run.next.scanned = map[types.UID]bool{}
	if previous := run.board.view(run.name); previous != nil {
		run.next.adopted = previous.adopted
		for _, o := range existing {
			if previous.scanned[o.UID] {
				run.next.scanned[o.UID] = true
			}
		}
	}
	run.board.uncover(run.name, run.next.paths)
	unknown := false
	for path := range run.next.paths {
		unknown = unknown || existing[path] == nil
	}
	var uncovered []types.UID
	for _, o := range existing {
		if !covers(&run.next, run.board, run.name, o) {
			uncovered = append(uncovered, o.UID)
		}
	}
	if unknown || len(uncovered) > 0 {
		adopted, err := run.scan(ctx, run.fleet)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			// Overlays that have an inventory go on; createStep reports the error.
			run.unscanned = fmt.Errorf("look for objects that carry this Fleet's labels, before new overlays are made: %w", err)
		} else {
			run.next.adopted = adopted
			for _, uid := range uncovered {
				run.next.scanned[uid] = true
			}
		}
	}
	run.next.leaving = leavingOverlays(existing, &run.next)
	return nil
}

// leavingOverlays lists the overlays that have lost their directory.
func leavingOverlays(existing map[string]*v1alpha1.ClusterOverlay, v *view) map[string][]object.ID {
	leaving := map[string][]object.ID{}
	for path, o := range existing {
		if v.paths[path] {
			continue
		}
		leaving[path] = inventory.Unapproved(o.Status.Inventory, o.Status.PendingDeletion)
		if len(o.Status.Inventory) == 0 && o.Status.AppliedRevision == "" {
			for _, ref := range v.adopted[o.Name] {
				leaving[path] = append(leaving[path], inventory.IDOf(ref))
			}
		}
	}
	return leaving
}

// createStep creates the ClusterOverlays that are missing, unless it is not known
// what they own. A crash here leaves some of them; the next round makes the rest.
func createStep(ctx context.Context, run *fleetRun) error {
	if run.unscanned != nil {
		if err := run.stop(v1alpha1.DiscoveredCondition, v1alpha1.TransientReason, run.unscanned); !errors.Is(err, errStop) {
			return err
		}
		return run.unscanned // sooner than the next interval
	}
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(run.next.paths)) {
		if run.existing[path] != nil {
			continue
		}
		o := &v1alpha1.ClusterOverlay{
			ObjectMeta: metav1.ObjectMeta{Namespace: run.name.Namespace, Name: planner.OverlayName(run.name.Name, path)},
			Spec:       v1alpha1.ClusterOverlaySpec{FleetRef: v1alpha1.LocalReference{Name: run.name.Name}, Path: path},
		}
		controllerutil.AddFinalizer(o, v1alpha1.OverlayFinalizer)
		err := run.client.Create(ctx, o)
		if client.IgnoreAlreadyExists(err) != nil {
			errs = append(errs, fmt.Errorf("create ClusterOverlay %s for %s: %w", o.Name, path, err))
		}
		if err == nil {
			run.board.cover(run.name, path, o.UID)
			run.enqueue(client.ObjectKeyFromObject(o))
		}
	}
	return errors.Join(errs...)
}

// list returns the Fleet's ClusterOverlays by path.
func (run *fleetRun) list(ctx context.Context) (map[string]*v1alpha1.ClusterOverlay, error) {
	var all v1alpha1.ClusterOverlayList
	if err := run.client.List(ctx, &all, client.InNamespace(run.name.Namespace), client.MatchingFields{fleetIndex: run.name.Name}); err != nil {
		return nil, fmt.Errorf("list the overlays of Fleet %s: %w", run.name, err)
	}
	byPath := make(map[string]*v1alpha1.ClusterOverlay, len(all.Items))
	for i := range all.Items {
		// One that a person made under another name is not the overlay of its path.
		if o := &all.Items[i]; o.Name == planner.OverlayName(run.name.Name, o.Spec.Path) {
			byPath[o.Spec.Path] = o
		} else {
			run.misnamed = append(run.misnamed, o)
		}
	}
	return byPath, nil
}

// fleetIndex finds ClusterOverlays by the name of their Fleet.
const fleetIndex = "spec.fleetRef.name"

// publishStep puts the view on the board and asks for the overlays it concerns.
func publishStep(ctx context.Context, run *fleetRun) error {
	digester, err := run.fleetReconciler.key.get(ctx)
	if err != nil {
		return err
	}
	previous := run.board.view(run.name)
	concerned, err := run.board.publish(run.name, &run.next, digester)
	if err != nil {
		return err
	}
	for _, path := range concerned {
		run.enqueue(client.ObjectKey{Namespace: run.name.Namespace, Name: planner.OverlayName(run.name.Name, path)})
	}
	// Overlays that have lost their directory are looked at when that is news, when
	// it may have happened while the agent was away, and when what holds them back
	// may have gone.
	if previous == nil || !previous.sameSettings(&run.next) || len(previous.leaving) != len(run.next.leaving) {
		for path, o := range run.existing {
			if !run.next.paths[path] {
				run.enqueue(client.ObjectKeyFromObject(o))
			}
		}
	}
	if previous == nil {
		for _, o := range run.misnamed {
			run.enqueue(client.ObjectKeyFromObject(o))
		}
	}
	run.announce(ctx, previous, len(concerned))
	return nil
}

// announce tells of a new revision. A commit that concerns no overlay is an event
// and costs no other write.
func (run *fleetRun) announce(ctx context.Context, previous *view, changed int) {
	revision := run.next.revision.String()
	run.metrics.observed(run.name, revision)
	if changed > 0 || previous == nil {
		run.board.announce(run.name, run.next.revision)
	}
	if changed > 0 || previous == nil || previous.suspended || previous.revision != run.next.revision {
		// Also for a commit that no overlay reads: one that a pull request makes may.
		run.replan(run.fleet)
	}
	if previous != nil && previous.revision == run.next.revision {
		return
	}
	ctrl.LoggerFrom(ctx).Info("new revision", "revision", revision, "overlays", len(run.next.paths), "concerned", changed)
	if previous != nil {
		all := maps.Clone(run.next.paths)
		maps.Copy(all, previous.paths) // a directory that is gone is concerned too
		run.recorder.Eventf(run.fleet, corev1.EventTypeNormal, "NewRevision", "%s concerns %d of %d overlays", revision, changed, len(all))
	}
}

// publishSuspended tells the overlays that their Fleet is suspended, those that have
// lost their directory too.
func (run *fleetRun) publishSuspended(ctx context.Context) error {
	previous := run.board.view(run.name)
	if previous == nil || previous.suspended {
		return errStop
	}
	existing, err := run.list(ctx)
	if err != nil {
		return err
	}
	next := *previous
	next.suspended = true
	concerned, err := run.board.publish(run.name, &next, *run.fleetReconciler.key.digester)
	if err != nil {
		return err
	}
	for _, path := range concerned {
		run.enqueue(client.ObjectKey{Namespace: run.name.Namespace, Name: planner.OverlayName(run.name.Name, path)})
	}
	for path, o := range existing {
		if !next.paths[path] {
			run.enqueue(client.ObjectKeyFromObject(o))
		}
	}
	return errStop
}
