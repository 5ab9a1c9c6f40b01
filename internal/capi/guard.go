package capi

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// Guard says whether the removal of an object waits for an approval, and why.
// live may be nil when only the kind is known; then owners of machines count as
// having some.
//
// What is guarded is what destroys machines or what machines can't be destroyed
// without: see "Deletion" in the Cluster API quick start, which warns that
// anything but deleting the Cluster object may leave infrastructure behind.
func Guard(gk schema.GroupKind, live *unstructured.Unstructured) (why string, guarded bool) {
	switch {
	case gk.Group == "" && gk.Kind == "Namespace":
		return "everything in the namespace is deleted with it", true
	case gk.Group == "" && gk.Kind == "Secret":
		return "providers need their credentials to delete machines", true
	case IsDefinition(gk):
		return "every object of the kind is deleted with it", true
	case IsIPPool(gk):
		return "machines hold addresses of the pool", true
	case IsCluster(gk):
		return "the cluster and all its machines are deleted", true
	case IsTemplate(gk):
		return "", false
	case IsControlPlane(gk):
		// cluster-api-control-plane-provider-talos v0.5 reconcileDelete: all
		// machines at once, without waiting for workers.
		return "all machines of the control plane are deleted", true
	case IsInfraCluster(gk):
		// It never finishes terminating without its Cluster, and machines can't
		// be deleted without it.
		return "the cluster loses its infrastructure", true
	case IsMachine(gk):
		return "the machine is deleted", true
	case IsMachineOwner(gk):
		if machines(live) {
			return "its machines are deleted", true
		}
		return "", false
	case inGroup(gk, "infrastructure"):
		return "machines of the provider may depend on it", true
	}
	return "", false
}

// machines tells whether an owner of machines has some or may get some: replicas
// asked for or reported above 0, or unknown.
func machines(live *unstructured.Unstructured) bool {
	if live == nil {
		return true
	}
	wanted, known := count(live, "spec", "replicas")
	if !known || wanted > 0 {
		return true
	}
	present, known := count(live, "status", "replicas")
	return known && present > 0
}

// count reads a replica counter, which is a pointer in v1beta2.
func count(u *unstructured.Unstructured, fields ...string) (n int64, known bool) {
	value, found, err := unstructured.NestedFieldNoCopy(u.Object, fields...)
	if !found || err != nil {
		return 0, false
	}
	switch v := value.(type) {
	case int64:
		return v, true
	case float64:
		return int64(v), true
	}
	return 0, false
}

// Paused tells whether a Cluster is paused: no controller acts on its objects,
// not even to finish a deletion.
func Paused(cluster *unstructured.Unstructured) bool {
	paused, _, _ := unstructured.NestedBool(cluster.Object, "spec", "paused")
	return paused
}

// Annotations that `clusterctl move` sets on the objects it is moving
// (cluster-api v1.14 cmd/clusterctl/api/v1alpha3/annotations.go).
const (
	blockMoveAnnotation     = "clusterctl.cluster.x-k8s.io/block-move"
	deleteForMoveAnnotation = "clusterctl.cluster.x-k8s.io/delete-for-move"
)

// Blocked says why a live object must not be deleted now, whoever approves it:
// it is being moved to another management cluster, or another owner generates
// it.
func Blocked(live *unstructured.Unstructured) (why string, blocked bool) {
	annotations := live.GetAnnotations()
	for _, key := range []string{deleteForMoveAnnotation, blockMoveAnnotation} {
		if _, found := annotations[key]; found {
			return "clusterctl is moving it to another management cluster (annotation " + key + ")", true
		}
	}
	if TopologyOwned(live) {
		return "the topology of its Cluster generates it (label " + clusterv1.ClusterTopologyOwnedLabel + ")", true
	}
	return "", false
}

// TopologyOwned tells whether Cluster API generates an object from a
// ClusterClass. The controller owns such an object's fields as capi-topology, so
// it can't be managed from Git as well.
func TopologyOwned(u *unstructured.Unstructured) bool {
	_, owned := u.GetLabels()[clusterv1.ClusterTopologyOwnedLabel]
	return owned
}

// CloneKind returns the kind of the objects that controllers clone from a
// template kind.
func CloneKind(template schema.GroupKind) schema.GroupKind {
	return schema.GroupKind{Group: template.Group, Kind: strings.TrimSuffix(template.Kind, "Template")}
}
