package planner

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/render"
)

// Neighbours are the overlays of a Fleet and what they render: what one overlay
// loses another may have now, and no two may have the same.
type Neighbours struct {
	byPath map[string]neighbour
}

// neighbour is one overlay of the Fleet.
type neighbour struct {
	path string
	// name is that of its ClusterOverlay.
	name string
	// claims are the objects that it renders; nil if it doesn't render.
	claims map[object.ID]bool
}

// NewNeighbours returns those of a Fleet without overlays.
func NewNeighbours() *Neighbours { return &Neighbours{byPath: map[string]neighbour{}} }

// NeighboursFromInventories takes what is recorded of overlays for what they
// render, which holds for those that a change doesn't concern. The paths of except
// are left out: add them from their renders.
func NeighboursFromInventories(overlays []v1alpha1.ClusterOverlay, except map[string]bool) *Neighbours {
	n := NewNeighbours()
	for _, o := range overlays {
		if except[o.Spec.Path] {
			continue
		}
		member := neighbour{path: o.Spec.Path, name: o.Name}
		if !meta.IsStatusConditionFalse(o.Status.Conditions, v1alpha1.RenderedCondition) {
			member.claims = map[object.ID]bool{}
			for _, entry := range o.Status.Inventory {
				if entry.State != v1alpha1.EntryLeaving && entry.State != v1alpha1.EntryRetained {
					member.claims[inventory.IDOf(entry.ObjectReference)] = true
				}
			}
		}
		n.byPath[member.path] = member
	}
	return n
}

// RenderNeighbours renders overlays, as like names the Fleet and its values. One
// that doesn't render is no error.
func RenderNeighbours(ctx context.Context, like BuildInput, paths []string) (*Neighbours, error) {
	n := NewNeighbours()
	for _, path := range paths {
		like.Owner.Path, like.Owner.Overlay = path, OverlayName(like.Owner.FleetName, path)
		built, err := Build(ctx, like)
		if ctx.Err() != nil || errors.Is(err, render.ErrTree) {
			return nil, errors.Join(ctx.Err(), err)
		}
		if err != nil {
			built = nil
		}
		n.Add(path, like.Owner.Overlay, built)
	}
	return n, nil
}

// Add adds an overlay, or replaces what was known of it; built is nil if it doesn't
// render.
func (n *Neighbours) Add(path, overlay string, built *Built) {
	member := neighbour{path: path, name: overlay}
	if built != nil {
		member.claims = make(map[object.ID]bool, len(built.Objects))
		for _, u := range built.Objects {
			member.claims[object.IDOf(u)] = true
		}
	}
	n.byPath[path] = member
}

// others are the neighbours of one overlay, by path.
type others []neighbour

func (n *Neighbours) except(path string) others {
	if n == nil {
		return nil
	}
	var all others
	for _, p := range slices.Sorted(maps.Keys(n.byPath)) {
		if p != path {
			all = append(all, n.byPath[p])
		}
	}
	return all
}

// claimant is the first overlay that renders an object, "" if none does.
func (o others) claimant(id object.ID) string {
	for _, member := range o {
		if member.claims[id] {
			return member.path
		}
	}
	return ""
}

// namespaces maps namespaces to the first overlay that renders into them.
func (o others) namespaces() map[string]string {
	users := map[string]string{}
	for _, member := range o {
		for id := range member.claims {
			if id.Namespace != "" && users[id.Namespace] == "" {
				users[id.Namespace] = member.path
			}
		}
	}
	return users
}

// released reports whether an overlay, by name, has no claim on an object: it
// doesn't render it, or is not there any more.
func (o others) released(overlay string, id object.ID) bool {
	for _, member := range o {
		if member.name == overlay {
			return member.claims != nil && !member.claims[id]
		}
	}
	return true
}

// hold says why nothing would be deleted, as the agent would.
func (o others) hold() string {
	var failing []string
	for _, member := range o {
		if member.claims == nil {
			failing = append(failing, member.path)
		}
	}
	if len(failing) == 0 {
		return ""
	}
	return "nothing is deleted while overlays of the fleet do not render, because they may hold these objects now: " + strings.Join(failing, ", ")
}
