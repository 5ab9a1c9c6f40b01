package planner

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
)

// LiveUsers finds live objects that need others.
type LiveUsers interface {
	TemplateUsers(ctx context.Context, template v1alpha1.ObjectReference) ([]string, error)
	ClustersIn(ctx context.Context, namespace string) ([]string, error)
}

// UsersOf lists live objects that need one that has left Git: those that are made
// from a template, and Clusters in a Namespace that don't leave with it. The agent
// and plans both ask it.
func UsersOf(ctx context.Context, applier LiveUsers, entry v1alpha1.InventoryEntry, leaving []object.ID) ([]string, error) {
	id := inventory.IDOf(entry.ObjectReference)
	switch {
	case capi.IsTemplate(id.GroupKind()):
		return applier.TemplateUsers(ctx, entry.ObjectReference)
	case id.GroupKind() == schema.GroupKind{Kind: "Namespace"}:
		names, err := applier.ClustersIn(ctx, id.Name)
		names = slices.DeleteFunc(names, func(name string) bool {
			return slices.ContainsFunc(leaving, func(l object.ID) bool {
				return capi.IsCluster(l.GroupKind()) && l.Namespace == id.Name && l.Name == name
			})
		})
		for i := range names {
			names[i] = "Cluster " + id.Name + "/" + names[i]
		}
		return names, err
	}
	return nil, nil
}
