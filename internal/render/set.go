package render

import (
	"errors"
	"fmt"
	"strings"

	"capstan.dev/capstan/internal/object"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var clusterKind = schema.GroupKind{Group: coreGroup, Kind: "Cluster"}

// clusterScoped are kinds without a namespace that kustomize takes for namespaced,
// because they aren't in its schema, and so gives a namespace.
var clusterScoped = map[schema.GroupKind]bool{
	{Group: ipamGroup, Kind: "GlobalInClusterIPPool"}: true,
}

// overlayKind is what the agent writes itself: approvals of deletions are given on
// it, so it must not come from Git.
var overlayKind = schema.GroupKind{Group: "capstan.dev", Kind: "ClusterOverlay"}

// serverFields are fields of metadata that only the API server sets. In a manifest
// they come from `kubectl get -o yaml` and bind it to one live object.
var serverFields = []string{"uid", "resourceVersion", "managedFields", "generation", "selfLink", "deletionTimestamp"}

// checkSet checks what an overlay may declare as a whole: every object can be
// identified, none twice, and at most one Cluster. All findings are reported.
func checkSet(objects []*unstructured.Unstructured) error {
	var errs []error
	var clusters []string
	seen := map[object.ID]*unstructured.Unstructured{}
	for _, u := range objects {
		if clusterScoped[u.GroupVersionKind().GroupKind()] {
			u.SetNamespace("")
		}
		id := object.IDOf(u)
		// What generators of manifests leave behind, often empty: it is not a wish.
		unstructured.RemoveNestedField(u.Object, "status")
		unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
		for _, field := range serverFields {
			if _, set, _ := unstructured.NestedFieldNoCopy(u.Object, "metadata", field); set {
				errs = append(errs, fmt.Errorf("%s sets metadata.%s, which only the API server does; remove it", id, field))
			}
		}
		switch {
		case id.GroupKind() == overlayKind:
			errs = append(errs, fmt.Errorf("%s must not come from Git; the agent makes ClusterOverlays, and deletions are approved on them", id))
		case u.GetAPIVersion() == "" || id.Kind == "":
			errs = append(errs, fmt.Errorf("%s has no apiVersion or no kind", id))
		case u.GetGenerateName() != "":
			errs = append(errs, fmt.Errorf("%s has a generateName; give it a metadata.name, so that it can be found again", id))
		case id.Name == "":
			errs = append(errs, fmt.Errorf("a %s has no metadata.name", id.GroupKind()))
		}
		if other := seen[id]; other != nil {
			errs = append(errs, fmt.Errorf("%s is rendered twice, as %s and as %s; keep one", id, other.GetAPIVersion(), u.GetAPIVersion()))
		}
		seen[id] = u
		if id.GroupKind() == clusterKind {
			clusters = append(clusters, id.String())
		}
	}
	if len(clusters) > 1 {
		errs = append(errs, fmt.Errorf("it renders %d Clusters (%s); an overlay is one cluster, make one overlay of each", len(clusters), strings.Join(clusters, ", ")))
	}
	return errors.Join(errs...)
}
