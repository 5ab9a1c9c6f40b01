package capi

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/internal/object"
)

// ClusterLabel is on everything that controllers make for a Cluster, with its name
// (cluster-api v1.14 docs/book/src/reference/api/labels-and-annotations.md).
const ClusterLabel = clusterv1.ClusterNameLabel

// ClusterID is the identity of a Cluster.
func ClusterID(namespace, name string) object.ID {
	return object.ID{Group: family, Kind: "Cluster", Namespace: namespace, Name: name}
}

// MachineKinds are the kinds that Cluster API itself makes for Clusters and that
// progress depends on.
func MachineKinds() []schema.GroupKind {
	return []schema.GroupKind{{Group: family, Kind: "Machine"}, {Group: family, Kind: "MachineSet"}}
}

// MadeOf are the kinds of the infrastructure machine and the bootstrap configuration
// that a Machine names, in either version of Machine.
func MadeOf(machine *unstructured.Unstructured) []schema.GroupKind {
	var kinds []schema.GroupKind
	for _, path := range [][]string{{"spec", "infrastructureRef"}, {"spec", "bootstrap", "configRef"}} {
		ref, _, err := unstructured.NestedMap(machine.Object, path...)
		if err != nil || text(ref, "kind") == "" {
			continue
		}
		if gk := (schema.GroupKind{Group: groupOf(ref), Kind: text(ref, "kind")}); IsFamily(gk) {
			kinds = append(kinds, gk)
		}
	}
	return kinds
}
