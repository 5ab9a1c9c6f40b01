package capi

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// Replicas counts machines of a Cluster, with the names of the Cluster's status.
// Nil is unknown: no provider has to report any of them.
type Replicas struct {
	Desired   *int64 `json:"desiredReplicas,omitempty"`
	Replicas  *int64 `json:"replicas,omitempty"`
	Ready     *int64 `json:"readyReplicas,omitempty"`
	Available *int64 `json:"availableReplicas,omitempty"`
	UpToDate  *int64 `json:"upToDateReplicas,omitempty"`
}

// ClusterKind is the version of Cluster whose status ReplicasOf reads.
func ClusterKind() schema.GroupVersionKind {
	return clusterv1.GroupVersion.WithKind("Cluster")
}

// ReplicasOf reads what a Cluster reports about its machines. The report follows
// the specification by a moment or more, so it can't tell that a rollout is done.
func ReplicasOf(cluster *unstructured.Unstructured) (controlPlane, workers Replicas) {
	read := func(field string) Replicas {
		counted := func(counter string) *int64 {
			if n, known := count(cluster, "status", field, counter); known {
				return &n
			}
			return nil
		}
		return Replicas{
			Desired: counted("desiredReplicas"), Replicas: counted("replicas"), Ready: counted("readyReplicas"),
			Available: counted("availableReplicas"), UpToDate: counted("upToDateReplicas"),
		}
	}
	return read("controlPlane"), read("workers")
}

// String is the machines that are ready of those wanted, and, if it is so, how many
// there are above the number wanted and how many are up to date: "2/3 +1 (1 up to
// date)". Ready ones, not available ones: for a control plane of the contract
// v1beta1, such as that of Talos, Cluster API reports as available what is wanted
// less what is said to be unavailable, and so counts machines that don't exist yet
// (cluster-api v1.14 core/reconcilers/cluster/cluster_controller_status.go,
// setControlPlaneReplicas).
func (r Replicas) String() string {
	if r == (Replicas{}) {
		return "-"
	}
	text := number(r.Ready) + "/" + number(r.Desired)
	if r.Replicas == nil {
		return text
	}
	if r.Desired != nil && *r.Replicas > *r.Desired {
		text += fmt.Sprintf(" +%d", *r.Replicas-*r.Desired)
	}
	if r.UpToDate != nil && *r.UpToDate < *r.Replicas {
		text += fmt.Sprintf(" (%d up to date)", *r.UpToDate)
	}
	return text
}

func number(n *int64) string {
	if n == nil {
		return "?"
	}
	return fmt.Sprint(*n)
}
