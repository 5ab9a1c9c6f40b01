package capi

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// made says what it means to make an object that isn't there.
func made(u *unstructured.Unstructured) []Consequence {
	gk := u.GroupVersionKind().GroupKind()
	c := Consequence{Kind: ConsequenceRebuild}
	switch {
	case !IsFamily(gk):
		return nil
	case IsTemplate(gk):
		c.Kind, c.Message = ConsequenceNone, "makes nothing by itself"
	case IsCluster(gk):
		c.Message = "builds the cluster anew"
	case IsControlPlane(gk):
		c.Machines = wanted(u, 1)
		c.Message = "builds a control plane anew: " + machinesText(c.Machines)
	case IsInfraCluster(gk):
		c.Message = "builds the infrastructure of the cluster anew"
	case IsMachineOwner(gk), IsMachine(gk):
		c.Machines = wanted(u, 1)
		c.Kind, c.Message = ConsequenceScaleUp, "adds "+machinesText(c.Machines)
		if c.Machines == 0 {
			c.Kind, c.Message = ConsequenceNone, "asks for no machines"
		}
	default:
		c.Kind, c.Message = ConsequenceNone, "touches no machines"
	}
	return []Consequence{c}
}

// deleted says what it means to delete a live object.
func deleted(u *unstructured.Unstructured) []Consequence {
	gk := u.GroupVersionKind().GroupKind()
	why, guarded := Guard(gk, u)
	switch {
	case guarded:
		c := Consequence{Kind: ConsequenceDeletion, Machines: present(u), Message: why}
		if c.Machines > 0 {
			c.Message += " (" + machinesText(c.Machines) + ")"
		}
		return []Consequence{c}
	case !IsFamily(gk):
		return nil
	case IsTemplate(gk):
		return []Consequence{{Kind: ConsequenceLatent, Message: "no machine can be made from it any more"}}
	}
	return []Consequence{{Kind: ConsequenceNone, Message: "no machine is deleted with it"}}
}

// wanted is how many machines an object asks for; so many if it doesn't say.
func wanted(u *unstructured.Unstructured, usual int32) int32 {
	if n, known := replicas(at(u, "/spec/replicas")); known {
		return n
	}
	return usual
}

// present is how many machines a live object has; 0 if that can't be known from it.
func present(u *unstructured.Unstructured) int32 {
	gk := u.GroupVersionKind().GroupKind()
	switch {
	case IsCluster(gk):
		controlPlane, _ := replicas(firstAt(u, "/status/v1beta2/controlPlane/replicas", "/status/controlPlane/replicas"))
		workers, _ := replicas(firstAt(u, "/status/v1beta2/workers/replicas", "/status/workers/replicas"))
		return controlPlane + workers
	case IsMachine(gk):
		return 1
	case IsControlPlane(gk), IsMachineOwner(gk):
		n, _ := replicas(firstAt(u, "/status/replicas", "/spec/replicas"))
		return n
	}
	return 0
}

// rollsReplicas is how many machines a rollout of a live object touches.
func rollsReplicas(u *unstructured.Unstructured) int32 { return wanted(u, 1) }

// topologyControlPlane is how many machines the control plane of a topology has.
func topologyControlPlane(u *unstructured.Unstructured) int32 {
	n, _ := replicas(at(u, "/spec/topology/controlPlane/replicas"))
	return n
}

// strategyIs tells which strategy an object has, at one of several fields.
func strategyIs(strategy string, fields ...string) func(u *unstructured.Unstructured) bool {
	return func(u *unstructured.Unstructured) bool { return firstAt(u, fields...) == strategy }
}
