package capi

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ConsequenceKind says what a change of an object does to the cluster that the
// object is part of. A greater one is more severe.
type ConsequenceKind int

// The kinds of consequences, the least severe first.
const (
	// ConsequenceNone: no controller acts on it.
	ConsequenceNone ConsequenceKind = iota
	// ConsequenceLatent: accepted, touches nothing that is there, applies to
	// machines that are made later.
	ConsequenceLatent
	// ConsequenceInPlace: existing objects are changed, no machine is replaced.
	ConsequenceInPlace
	// ConsequencePause: controllers stop, or go on.
	ConsequencePause
	// ConsequenceUnsafe: accepted and harmful.
	ConsequenceUnsafe
	// ConsequenceRejected: the API server or a webhook refuses it.
	ConsequenceRejected
	// ConsequenceScaleUp: machines are added.
	ConsequenceScaleUp
	// ConsequenceScaleDown: machines are removed.
	ConsequenceScaleDown
	// ConsequenceRollout: machines of a MachineDeployment, MachineSet or
	// MachinePool are replaced.
	ConsequenceRollout
	// ConsequenceControlPlaneRollout: machines of a control plane are replaced.
	ConsequenceControlPlaneRollout
	// ConsequenceDeletion: the object and what belongs to it is deleted.
	ConsequenceDeletion
	// ConsequenceRebuild: a cluster, or an essential part of one, is made anew.
	ConsequenceRebuild
)

// String names the kind as messages do.
func (k ConsequenceKind) String() string {
	names := []string{
		"none", "latent", "in place", "pause", "unsafe", "rejected", "scale-up", "scale-down",
		"rollout", "control plane rollout", "deletion", "rebuild",
	}
	if k < 0 || int(k) >= len(names) {
		return "unknown"
	}
	return names[k]
}

// Consequence is what a change of some fields of an object does.
type Consequence struct {
	Kind ConsequenceKind
	// Fields are the JSON pointers of the changed fields that have it, sorted;
	// none if the object is made or deleted.
	Fields []string
	// Machines is how many machines are touched; 0 if none or unknown.
	Machines int32
	// Message is a short sentence for a person, without secret material.
	Message string
}

// Disruptive tells whether the consequence replaces or removes machines, or
// builds anew what a cluster can't be without.
func (c Consequence) Disruptive() bool { return c.Kind >= ConsequenceScaleDown }

// Consequences says what it means when an object becomes another, the most severe
// first: before is nil if it is made anew, after is nil if it is deleted. Both
// are at the same API version. Nothing is said about what didn't change, nor
// about the status.
func Consequences(before, after *unstructured.Unstructured) []Consequence {
	return nil
}
