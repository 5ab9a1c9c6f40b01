package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/commitstatus"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/render"
)

// renderStep renders the overlay, and takes back what its directory or its objects
// being back in Git withdraws: whether the rest succeeds doesn't matter for that.
func renderStep(ctx context.Context, run *overlayRun) error {
	err := run.render(ctx)
	if err != nil && !errors.Is(err, errStop) {
		return err
	}
	return cmp.Or(run.withdraw(ctx), err)
}

// render renders the overlay, unless it is known that the same inputs are applied
// already.
func (run *overlayRun) render(ctx context.Context) error {
	if run.gone {
		if run.status.InputsDigest != "" { // so that they count as changed when they are back
			run.status.InputsDigest = ""
			run.desire()
		}
		const message = "the directory is no overlay any more; what was applied stays until its deletion is approved"
		run.condition(v1alpha1.RenderedCondition, metav1.ConditionUnknown, v1alpha1.PathRemovedReason, message)
		run.condition(v1alpha1.AppliedCondition, metav1.ConditionUnknown, v1alpha1.PathRemovedReason, message)
		return nil
	}
	path := run.overlay.Spec.Path
	run.rendering = run.board.rendering(run.fleetName, path, run.view)
	if run.rendering != nil && run.rendering.err == nil && !run.needsObjects() {
		return nil
	}
	if run.rendering != nil && run.rendering.err != nil && !run.requested && !errors.Is(run.rendering.err, render.ErrTimeout) {
		run.renderFailed(run.rendering)
		return errStop
	}
	done := run.metrics.rendering()
	built, err := planner.Build(ctx, planner.BuildInput{
		Tree: run.view.tree, Owner: run.owner(), Substitution: run.view.substitution, Digester: run.digester,
	})
	done(err)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, render.ErrTree) {
		return err // says nothing about the overlay: what it holds is not known now
	}
	r := &rendering{
		sequence: run.view.sequence, closure: built.Closure, variables: built.Variables, err: err,
		claims: claimsOf(built), digest: built.Digest,
	}
	r.inputs = inputsDigest(run.digester, r.closure, r.variables, run.view)
	run.rendering = r
	if r.inputs != run.status.InputsDigest {
		run.status.InputsDigest = r.inputs
		run.desire()
	}
	r.desired = commitstatus.Hash(run.status.DesiredRevision)
	run.board.rendered(run.fleetName, path, r, run.digester)
	if r.err != nil {
		run.renderFailed(r)
		return errStop
	}
	run.built = built
	run.status.Cluster = built.ClusterName()
	message := fmt.Sprintf("%d objects", len(built.Objects))
	if len(built.Warnings) > 0 {
		message += "; " + strings.Join(built.Warnings, "; ")
		ctrl.LoggerFrom(ctx).V(1).Info("render has warnings", "warnings", built.Warnings)
	}
	run.recovered(v1alpha1.RenderedCondition, message)
	run.condition(v1alpha1.RenderedCondition, metav1.ConditionTrue, v1alpha1.SucceededReason, message)
	return nil
}

// desire notes that the commit changes the overlay. What Ready says is about an
// older one from here on, and the status may be recorded before it is known what
// becomes of this one.
func (run *overlayRun) desire() {
	run.status.DesiredRevision = run.view.revision.String()
	run.status.DesiredSince = nil
	if !run.view.since.IsZero() {
		since := metav1.Time{Time: run.view.since}.Rfc3339Copy()
		run.status.DesiredSince = &since
	}
	run.applying()
}

// applying says that what is applied is not what is desired.
func (run *overlayRun) applying() {
	run.condition(v1alpha1.ReadyCondition, metav1.ConditionUnknown, v1alpha1.ApplyingReason, "being applied")
	run.condition(v1alpha1.ConvergedCondition, metav1.ConditionFalse, v1alpha1.NotAppliedReason, "not everything is applied")
}

// owner is what the overlay's objects are labelled with.
func (run *overlayRun) owner() apply.Owner {
	return apply.Owner{
		FleetNamespace: run.fleetName.Namespace, FleetName: run.fleetName.Name,
		Overlay: run.name.Name, Path: run.overlay.Spec.Path,
	}
}

// needsObjects reports whether the rendered objects are needed although the inputs
// are unchanged: not everything is applied, or a full comparison was asked for.
func (run *overlayRun) needsObjects() bool {
	applied := meta.IsStatusConditionTrue(run.status.Conditions, v1alpha1.AppliedCondition)
	return run.requested || !applied || run.outdated() || run.status.InputsDigest != run.rendering.inputs ||
		slices.ContainsFunc(run.status.Inventory, func(e v1alpha1.InventoryEntry) bool {
			return e.State == v1alpha1.EntryIntent || e.State == v1alpha1.EntryShared && e.Digest == ""
		})
}

// outdated reports whether what is applied is not what was rendered last. That may be
// so at one commit, with other values of variables.
func (run *overlayRun) outdated() bool {
	return run.status.AppliedRevision != run.status.DesiredRevision || run.status.RenderDigest != run.rendering.digest
}

// renderFailed says why the overlay doesn't render. What is applied stays.
func (run *overlayRun) renderFailed(r *rendering) {
	run.fail(v1alpha1.RenderedCondition, reasonOf(r.err), r.err.Error())
	run.handled()
	if errors.Is(r.err, render.ErrTimeout) {
		run.again(0) // the machine may have been slow
	}
}

// recovered notes that a condition that was False no longer is.
func (run *overlayRun) recovered(kind, message string) {
	if meta.IsStatusConditionFalse(run.overlay.Status.Conditions, kind) {
		run.events = append(run.events, notice{corev1.EventTypeNormal, v1alpha1.SucceededReason, message})
	}
}

// handled acknowledges a person's request.
func (run *overlayRun) handled() {
	run.status.LastHandledRequest = run.overlay.Annotations[v1alpha1.RequestedAtAnnotation]
}
