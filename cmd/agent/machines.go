package main

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/capi"
)

// owner is the overlay that an object's labels name.
type owner struct{ fleet, overlay string }

func ownerOf(o *v1alpha1.ClusterOverlay) owner {
	return owner{apply.FleetLabelValue(o.Namespace, o.Spec.FleetRef.Name), o.Name}
}

// machines are those of an overlay's Cluster, as it reports them.
type machines struct{ controlPlane, workers capi.Replicas }

// readMachines reads the machines of overlays from their live Clusters. An overlay
// without one has no entry.
func readMachines(ctx context.Context, c client.Client, overlays []v1alpha1.ClusterOverlay) (map[owner]machines, error) {
	if len(overlays) == 0 {
		return nil, nil
	}
	var clusters unstructured.UnstructuredList
	clusters.SetGroupVersionKind(capi.ClusterKind())
	if err := c.List(ctx, &clusters, client.HasLabels{v1alpha1.FleetLabel, v1alpha1.OverlayLabel}); err != nil {
		return nil, fmt.Errorf("list Clusters: %w", err)
	}
	rendered := map[owner]string{}
	for i := range overlays {
		rendered[ownerOf(&overlays[i])] = overlays[i].Status.Cluster
	}
	found := map[owner]machines{}
	for i := range clusters.Items {
		u := &clusters.Items[i]
		labels := u.GetLabels()
		of := owner{labels[v1alpha1.FleetLabel], labels[v1alpha1.OverlayLabel]}
		// A second one is that of an earlier commit and waits to be deleted.
		if _, another := found[of]; !another || rendered[of] == u.GetNamespace()+"/"+u.GetName() {
			var m machines
			m.controlPlane, m.workers = capi.ReplicasOf(u)
			found[of] = m
		}
	}
	return found, nil
}
