package capi

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

var (
	allKinds      = &kindSet{"all kinds", func(schema.GroupKind) bool { return true }}
	machineOwners = &kindSet{"MachineDeployment, MachineSet, MachinePool", IsMachineOwner}
	clusters      = &kindSet{"Cluster", IsCluster}
)

var autoscaled = &circumstance{
	"an autoscaler sets the replicas",
	func(u *unstructured.Unstructured) bool {
		annotations, _, _ := unstructured.NestedMap(u.Object, "metadata", "annotations")
		_, smallest := annotations[clusterv1.AutoscalerMinSizeAnnotation]
		_, largest := annotations[clusterv1.AutoscalerMaxSizeAnnotation]
		_, managed := annotations[clusterv1.ReplicasManagedByAnnotation]
		return managed || smallest && largest
	},
}

// ownershipRules is the map of fields that are left to others.
var ownershipRules = []ownershipRule{
	{
		kinds:  allKinds,
		fields: []string{"/status"},
		effect: yields,
		why:    "status is what controllers report",
		source: "kubernetes enhancements KEP-555",
	},
	{
		kinds:  machineOwners,
		fields: []string{"/spec/replicas"},
		when:   autoscaled,
		effect: yields,
		why:    "the autoscaler sets the replicas",
		source: "cluster-api v1.14 core/webhooks/admission/machinedeployment.go",
	},
	{
		kinds:  clusters,
		fields: []string{"/spec/controlPlaneEndpoint"},
		effect: leaves,
		why:    "Cluster API fills it from the infrastructure",
		source: "cluster-api v1.14 core/reconcilers/cluster",
	},
}
