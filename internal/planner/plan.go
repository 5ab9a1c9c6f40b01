package planner

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// Input is one overlay in one tree, with what the cluster knows of it.
type Input struct {
	// Tree is the commit, or the working copy.
	Tree tree.Tree
	// Fleet is nil if there is none, which only the command line knows.
	Fleet *v1alpha1.Fleet
	// Overlay is nil if the cluster knows none of this path.
	Overlay *v1alpha1.ClusterOverlay
	// Owner is what the objects are labelled with; Path is the overlay's directory.
	// Without a Fleet there is nothing but the path.
	Owner apply.Owner
	// Gone says that the directory is no overlay in this tree.
	Gone bool
	// Built is what the overlay renders, if that is known already; nil: it is
	// rendered here. It is changed.
	Built *Built
	// Renderer is nil for [render.Render].
	Renderer Renderer
	// Substitution is nil if the Fleet declares none.
	Substitution *render.Substitution
	// Secrets are values that must not be shown, in the form of a Secret; nil for
	// none.
	Secrets *unstructured.Unstructured
	// Digester must be the agent's if Untrusted is set, so that digests can be
	// compared with those of the inventory.
	Digester object.Digester
	// Around is what the overlays of the Fleet render, this one included or not;
	// nil stands for none.
	Around *Neighbours

	// Untrusted says that the content is a stranger's, as that of a pull request is.
	// Then nothing is sent that need not be, no Secret at all, and what is shown tells
	// the stranger nothing of the cluster that the overlay's own manifests don't:
	//
	//   - An object that is recorded with this digest costs no request.
	//   - Of a Secret only the action is shown.
	//   - Of an object that this Fleet doesn't own only that it exists.
	//   - Values of Secrets that happen to be in live objects are taken out of all
	//     texts, and nothing says whether a stranger's guess of one is right.
	Untrusted bool
	// Placeholders are what Substitution holds in place of the values of Secrets,
	// with the values. Values are used to compare with what is recorded and what is
	// live, never sent, and shown as little as Secrets. For an Untrusted overlay only.
	Placeholders map[string]string
}

// Applier asks the API server. It is an [apply.Applier] without what writes.
type Applier interface {
	LiveUsers
	DryRun(ctx context.Context, req apply.Request) (apply.Report, error)
	Get(ctx context.Context, ref v1alpha1.ObjectReference) (*unstructured.Unstructured, error)
}

// Result is what would become of one overlay.
type Result struct {
	// Plan is safe to be shown.
	Plan plan.Plan
	// Halted is why the agent would write nothing now, nil if nothing stands against
	// it.
	Halted *apply.Error
	// Warnings come from the render.
	Warnings []string
}

// Plan says what a tree would do to an overlay. It writes nothing. An error of the
// renderer is returned as it is; one of the API server that leaves the plan
// unknown is an [apply.Error].
func Plan(ctx context.Context, applier Applier, in Input) (Result, error) {
	p := &planning{Input: in, applier: applier, around: in.Around.except(in.Owner.Path), shield: newShield(in)}
	result := Result{Plan: plan.Plan{Overlay: in.Owner.Overlay, Path: in.Owner.Path, Secrets: in.Secrets}}
	if in.Untrusted {
		result.Plan.Secrets = p.shield.placeholders()
	}
	var desired []inventory.Desired
	if !in.Gone {
		built, err := p.build(ctx)
		if err != nil {
			return result, err
		}
		result.Warnings = built.Warnings
		applied := p.applied
		desired = built.Desired
		if in.Untrusted {
			result.Warnings = p.shield.texts(built.Warnings)
			applied = p.appliedUntrusted
			desired = p.shield.desired(built.Desired)
		}
		if result.Plan.Changes, result.Halted, err = applied(ctx, built); err != nil {
			return result, err
		}
	}
	leaving, err := p.leaving(ctx, desired)
	if in.Untrusted {
		leaving, err = p.shield.leaving(leaving), p.shield.err(err)
	}
	result.Plan.Changes = append(result.Plan.Changes, leaving...)
	if in.Untrusted {
		p.shield.names(result.Plan.Changes)
	}
	return result, err
}

// planning is one call of Plan.
type planning struct {
	Input
	applier Applier
	around  others
	shield  *shield
}

func (p *planning) build(ctx context.Context) (*Built, error) {
	if p.Built != nil {
		return p.Built, nil
	}
	return Build(ctx, BuildInput{
		Tree: p.Tree, Owner: p.Owner, Substitution: p.Substitution, Digester: p.Digester, Renderer: p.Renderer,
	})
}
