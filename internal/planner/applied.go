package planner

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
)

// applied asks the API server what applying would do to each object.
func (p *planning) applied(ctx context.Context, built *Built) ([]plan.Change, *apply.Error, error) {
	req := built.Request(p.Owner)
	req.ReadAll, req.Left = true, Left(p.Fleet)
	if p.Fleet == nil {
		// The objects carry no labels then, and whatever carries any is another's.
		req.Owner = apply.Owner{FleetName: "none", Overlay: "none"}
	}
	report, err := p.applier.DryRun(ctx, req)
	if err == nil {
		if from := p.takeovers(report); len(from) > 0 {
			req.TakeOverFrom = from
			report, err = p.applier.DryRun(ctx, req)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	manifests := map[object.ID]int{}
	for i, u := range built.Objects {
		manifests[object.IDOf(u)] = i
	}
	changes := make([]plan.Change, 0, len(report.Outcomes))
	for _, o := range report.Outcomes {
		change := changeOf(o)
		change.Before = o.Before
		if change.After == nil {
			change.After = built.Objects[manifests[o.ID]]
		}
		changes = append(changes, p.duplicate(change))
	}
	return changes, report.Halted, nil
}

// changeOf puts an outcome into the words of a plan. What was live is left out.
func changeOf(o apply.Outcome) plan.Change {
	change := plan.Change{ID: o.ID, Action: actionOf(o), After: o.After, Note: o.Note}
	if o.Err != nil {
		change.Error = o.Err.Message
	}
	return change
}

func actionOf(o apply.Outcome) plan.Action {
	switch o.Action {
	case apply.ActionCreated:
		return plan.Create
	case apply.ActionConfigured:
		return plan.Update
	case apply.ActionUnchanged:
		return plan.Unchanged
	case apply.ActionSkipped:
		return plan.Skipped
	case apply.ActionNotChecked, apply.ActionNotReached:
		return plan.NotChecked
	default:
		if o.Err != nil && (o.Err.Reason == v1alpha1.ConflictReason || o.Err.Reason == v1alpha1.OwnedByOtherReason) {
			return plan.Conflict
		}
		return plan.Invalid
	}
}

// takeovers names, for objects that were refused because they are live under
// another overlay of the Fleet, that overlay if it doesn't render them any more.
func (p *planning) takeovers(report apply.Report) map[object.ID]string {
	from := map[object.ID]string{}
	for _, o := range report.Outcomes {
		if o.Err == nil || o.Err.Reason != v1alpha1.OwnedByOtherReason || o.Before == nil || p.Fleet == nil ||
			o.Before.GetLabels()[v1alpha1.FleetLabel] != p.fleetLabel() {
			continue
		}
		if former := o.Before.GetLabels()[v1alpha1.OverlayLabel]; p.around.released(former, o.ID) {
			from[o.ID] = former
		}
	}
	return from
}

// fleetLabel is what objects of the Fleet carry.
func (p *planning) fleetLabel() string {
	return apply.FleetLabelValue(p.Owner.FleetNamespace, p.Owner.FleetName)
}

// duplicate refuses an object that another overlay renders as well. Namespaces may
// be shared.
func (p *planning) duplicate(change plan.Change) plan.Change {
	other := p.around.claimant(change.ID)
	if other == "" || change.ID.GroupKind() == (schema.GroupKind{Kind: "Namespace"}) {
		return change
	}
	change.Action, change.Error = plan.Invalid, fmt.Sprintf("it is rendered by two overlays, %s and %s; remove it from one of them",
		min(p.Owner.Path, other), max(p.Owner.Path, other))
	return change
}
