package planner

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/drift"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// MaxObjects is what an inventory holds.
const MaxObjects = 2000

// ErrTooManyObjects is returned for an overlay that an inventory can't hold.
var ErrTooManyObjects = errors.New("too many objects")

// BuildInput is one overlay at one commit.
type BuildInput struct {
	Tree tree.Tree
	// Owner is put on the objects as labels and annotations; a zero Owner.Overlay
	// leaves them out.
	Owner apply.Owner
	// Substitution is nil if the Fleet declares none.
	Substitution *render.Substitution
	Digester     object.Digester
	// Renderer is nil for [render.Render].
	Renderer Renderer
}

// Renderer renders one overlay: in this process or, if its content is a stranger's,
// in one that can do no harm. It behaves as [render.Render] does.
type Renderer interface {
	Render(ctx context.Context, in render.Input) (*render.Result, error)
}

type inProcess struct{}

func (inProcess) Render(ctx context.Context, in render.Input) (*render.Result, error) {
	return render.Render(ctx, in)
}

// Built is what an overlay renders, ready to be applied.
type Built struct {
	Objects []*unstructured.Unstructured
	// Desired lists the objects with the digests of their manifests, in the same
	// order.
	Desired []inventory.Desired
	// Digest stands for all objects.
	Digest string
	// Cluster is the Cluster among the objects, nil if there is none.
	Cluster   *unstructured.Unstructured
	Closure   render.Closure
	Variables []string
	Warnings  []string
}

// Build renders an overlay and labels its objects. The agent and the command line
// both come through here, so they see the same bytes. On an error from the
// renderer Built holds what is known of the closure.
func Build(ctx context.Context, in BuildInput) (*Built, error) {
	renderer := in.Renderer
	if renderer == nil {
		renderer = inProcess{}
	}
	result, err := renderer.Render(ctx, render.Input{Tree: in.Tree, Path: in.Owner.Path, Substitute: in.Substitution})
	if result == nil {
		return &Built{}, err
	}
	b := &Built{Objects: result.Objects, Closure: result.Closure, Variables: result.Variables, Warnings: result.Warnings}
	if err != nil {
		return b, err
	}
	if len(b.Objects) > MaxObjects {
		return b, fmt.Errorf("%w: %d, an overlay may hold %d", ErrTooManyObjects, len(b.Objects), MaxObjects)
	}
	if in.Owner.Overlay != "" {
		apply.Label(in.Owner, b.Objects)
	}
	digests := make([]string, 0, len(b.Objects))
	for _, u := range b.Objects {
		digest, err := in.Digester.Object(anonymous(u))
		if err != nil {
			return b, err
		}
		digests = append(digests, digest)
		b.Desired = append(b.Desired, inventory.Desired{Ref: inventory.RefOf(u), Digest: digest})
		if capi.IsCluster(u.GroupVersionKind().GroupKind()) {
			b.Cluster = u
		}
	}
	b.Digest = in.Digester.Strings(digests...)
	return b, nil
}

// anonymous is what the digest of an object stands for. A Namespace may be rendered
// by several overlays, and the label of one of them is on it: that makes no
// difference.
func anonymous(u *unstructured.Unstructured) *unstructured.Unstructured {
	if (u.GroupVersionKind().GroupKind() != schema.GroupKind{Kind: "Namespace"}) {
		return u
	}
	bare := u.DeepCopy()
	disown(bare)
	return bare
}

// disown removes what names one overlay from an object's metadata.
func disown(u *unstructured.Unstructured) {
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	delete(labels, v1alpha1.OverlayLabel)
	delete(annotations, v1alpha1.PathAnnotation)
	u.SetLabels(labels)
	u.SetAnnotations(annotations)
}

// Share takes the name of this overlay off the Namespaces that others render too.
func (b *Built) Share(shared map[object.ID]bool) {
	for i, u := range b.Objects {
		if shared[object.IDOf(u)] {
			disown(u)
			b.Desired[i].Shared = true
		}
	}
}

// Request asks to apply all objects, or to look whether anything forbids it.
func (b *Built) Request(owner apply.Owner) apply.Request {
	req := apply.Request{Owner: owner, Objects: b.Objects, All: b.Objects}
	if b.Cluster != nil {
		id := object.IDOf(b.Cluster)
		req.Cluster, req.GitPaused = &id, capi.Paused(b.Cluster)
	}
	return req
}

// Holds tells whether an object is rendered with a manifest of this digest.
func (b *Built) Holds(id object.ID, digest string) bool {
	return digest != "" && slices.ContainsFunc(b.Desired, func(d inventory.Desired) bool {
		return d.Digest == digest && inventory.IDOf(d.Ref) == id
	})
}

// Left tells which fields a Fleet leaves to which managers, see [apply.Request].
func Left(fleet *v1alpha1.Fleet) func(id object.ID, pointer, manager string) bool {
	if fleet == nil || len(fleet.Spec.Drift.Ignore) == 0 {
		return nil
	}
	return func(id object.ID, pointer, manager string) bool {
		return drift.Ignored(fleet.Spec.Drift.Ignore, id.GroupKind(), pointer, manager)
	}
}

// Pick returns the objects with these identities.
func (b *Built) Pick(ids []object.ID) []*unstructured.Unstructured {
	wanted := make(map[object.ID]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	var picked []*unstructured.Unstructured
	for _, u := range b.Objects {
		if wanted[object.IDOf(u)] {
			picked = append(picked, u)
		}
	}
	return picked
}

// ClusterName is namespace/name of the Cluster, "" if there is none.
func (b *Built) ClusterName() string {
	if b.Cluster == nil {
		return ""
	}
	return b.Cluster.GetNamespace() + "/" + b.Cluster.GetName()
}
