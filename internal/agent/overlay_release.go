package agent

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capstan.dev/capstan/api/v1alpha1"
)

// releaseStep lets go of an overlay that a person has deleted. Its objects stay as
// they are; if the directory is still in Git the fleet reconciler makes the
// overlay anew, and it finds them again by their labels.
func releaseStep(ctx context.Context, run *overlayRun) error {
	if run.overlay.DeletionTimestamp.IsZero() {
		return run.ensureFinalizer(ctx)
	}
	if !controllerutil.ContainsFinalizer(run.overlay, v1alpha1.OverlayFinalizer) {
		return run.departing()
	}
	if n := len(run.overlay.Status.Inventory); n > 0 {
		run.recorder.Eventf(run.overlay, corev1.EventTypeWarning, "Orphaned",
			"the ClusterOverlay was deleted; its %d objects stay in the cluster, nothing else was deleted", n)
	}
	if err := run.removeFinalizer(ctx); err != nil {
		return err
	}
	return run.departing()
}

// departing goes on with an overlay that was deleted and that the finalizer of
// somebody else keeps: it is rendered, because others must know what it claims.
func (run *overlayRun) departing() error {
	if len(run.overlay.Finalizers) == 0 {
		return errStop
	}
	return nil
}

// departStep ends the round of an overlay that was deleted.
func departStep(_ context.Context, run *overlayRun) error {
	if !run.overlay.DeletionTimestamp.IsZero() {
		return errStop
	}
	return nil
}

// ensureFinalizer covers overlays that a person has created.
func (run *overlayRun) ensureFinalizer(ctx context.Context) error {
	if controllerutil.ContainsFinalizer(run.overlay, v1alpha1.OverlayFinalizer) {
		return nil
	}
	return run.patchMetadata(ctx, "add the finalizer", func(o *v1alpha1.ClusterOverlay) {
		controllerutil.AddFinalizer(o, v1alpha1.OverlayFinalizer)
	})
}

func (run *overlayRun) removeFinalizer(ctx context.Context) error {
	return run.patchMetadata(ctx, "remove the finalizer", func(o *v1alpha1.ClusterOverlay) {
		controllerutil.RemoveFinalizer(o, v1alpha1.OverlayFinalizer)
	})
}

// patchMetadata changes the overlay's metadata, on the version that was read.
func (run *overlayRun) patchMetadata(ctx context.Context, what string, change func(*v1alpha1.ClusterOverlay)) error {
	base := run.overlay.DeepCopy()
	changed := run.overlay.DeepCopy()
	change(changed)
	err := run.client.Patch(ctx, changed, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	switch {
	case apierrors.IsNotFound(err):
		return errStop // it is gone, and with it what was to be done
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	run.overlay = changed
	run.written.remember(changed)
	return nil
}
