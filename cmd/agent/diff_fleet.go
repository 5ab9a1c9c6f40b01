package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/render"
)

// neighbours are the other overlays of the Fleet, as the working copy renders them:
// what one overlay loses another may have now.
type neighbours struct {
	// claims maps objects to the first other overlay that renders them.
	claims map[object.ID]string
	// namespaces maps namespaces to the first other overlay that renders into them.
	namespaces map[string]string
	// failing are those that don't render.
	failing []string
	// byName maps names of ClusterOverlays to what they render, nil if they don't.
	byName map[string]map[object.ID]bool
}

// discover tells whether the path is an overlay of the working copy, and finds the
// others. Without a Fleet it is what a person says it is.
func (s *subject) discover() (found bool, why string, err error) {
	if s.fleet == nil {
		_, err := s.tree.Stat(s.path)
		return err == nil, "", nil
	}
	overlays, skipped, err := render.Discover(render.DiscoverInput{
		Tree: s.tree, Paths: s.fleet.Spec.Overlays.Paths, Exclude: s.fleet.Spec.Overlays.Exclude,
	})
	if err != nil {
		return false, "", err
	}
	for _, o := range overlays {
		if o.Path == s.path {
			found = true
		} else {
			s.others = append(s.others, o.Path)
		}
	}
	why = fmt.Sprintf("no glob of spec.overlays.paths %q matches it", s.fleet.Spec.Overlays.Paths)
	for _, o := range skipped {
		if o.Path == s.path {
			why = o.Reason
		}
	}
	return found, why, nil
}

// look renders the other overlays.
func (s *subject) look(ctx context.Context) (*neighbours, error) {
	n := &neighbours{claims: map[object.ID]string{}, namespaces: map[string]string{}, byName: map[string]map[object.ID]bool{}}
	for _, path := range s.others {
		owner := s.owner
		owner.Path, owner.Overlay = path, planner.OverlayName(s.fleet.Name, path)
		built, err := planner.Build(ctx, planner.BuildInput{Tree: s.tree, Owner: owner, Substitution: s.values})
		if ctx.Err() != nil || errors.Is(err, render.ErrTree) {
			return nil, errors.Join(ctx.Err(), err)
		}
		if err != nil {
			n.failing = append(n.failing, path)
			n.byName[owner.Overlay] = nil
			continue
		}
		n.add(owner, built)
	}
	return n, nil
}

func (n *neighbours) add(owner apply.Owner, built *planner.Built) {
	claims := map[object.ID]bool{}
	for _, u := range built.Objects {
		id := object.IDOf(u)
		claims[id] = true
		if n.claims[id] == "" {
			n.claims[id] = owner.Path
		}
		if id.Namespace != "" && n.namespaces[id.Namespace] == "" {
			n.namespaces[id.Namespace] = owner.Path
		}
	}
	n.byName[owner.Overlay] = claims
}

// hold says why nothing would be deleted, as the agent would.
func (n *neighbours) hold() string {
	if len(n.failing) == 0 {
		return ""
	}
	return "nothing is deleted while overlays of the fleet do not render, because they may hold these objects now: " + strings.Join(n.failing, ", ")
}

// takeovers names, for objects that were refused because they are live under
// another overlay of the Fleet, that overlay if it doesn't render them any more.
func (s *subject) takeovers(report apply.Report) map[object.ID]string {
	from := map[object.ID]string{}
	for _, o := range report.Outcomes {
		if o.Err == nil || o.Err.Reason != v1alpha1.OwnedByOtherReason || o.Before == nil || s.fleet == nil ||
			o.Before.GetLabels()[v1alpha1.FleetLabel] != apply.FleetLabelValue(s.fleet.Namespace, s.fleet.Name) {
			continue
		}
		former := o.Before.GetLabels()[v1alpha1.OverlayLabel]
		claims, exists := s.around.byName[former]
		if !exists || claims != nil && !claims[o.ID] {
			from[o.ID] = former
		}
	}
	return from
}

// duplicate says that another overlay renders an object as well; "" if none does.
// Namespaces may be shared.
func (s *subject) duplicate(id object.ID) string {
	if other := s.around.claims[id]; other != "" && id.GroupKind() != (schema.GroupKind{Kind: "Namespace"}) {
		return fmt.Sprintf("it is rendered by two overlays, %s and %s; remove it from one of them", min(s.path, other), max(s.path, other))
	}
	return ""
}

// notesOf finds what was said about objects that are forgotten.
func notesOf(refs []v1alpha1.ObjectReference, notes []string) map[object.ID]string {
	said := map[object.ID]string{}
	for _, ref := range refs {
		name := strings.Trim(ref.Namespace+"/"+ref.Name, "/")
		for _, note := range notes {
			if text, ok := strings.CutPrefix(note, ref.Kind+" "+name+" "); ok {
				said[object.ID{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}] = text
			}
		}
	}
	return said
}
