// Package capi says what Cluster API objects mean: in which order they are
// applied, which removal waits for an approval, what refers to what, and to whom
// a field manager belongs. Decisions over values only: nothing here reads a
// cluster or a clock.
package capi

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// family is the suffix that the API groups of Cluster API and its providers
// share: infrastructure.cluster.x-k8s.io, addons.cluster.x-k8s.io, and also
// vmware.infrastructure.cluster.x-k8s.io.
const family = "cluster.x-k8s.io"

// Stage is a step of an apply. Objects of one stage may be applied at once, a
// stage starts when the one before it is done; removal goes the other way round.
type Stage int

// The stages, in the order of applying. Cluster API tolerates any order, because
// its controllers try again; this one avoids noise and satisfies the webhooks
// that look references up (cluster-api v1.14 core/webhooks/admission/cluster.go:
// a ClusterClass must exist before a Cluster names it).
const (
	// StageDefinitions: CustomResourceDefinitions and Namespaces.
	StageDefinitions Stage = iota
	// StageConfig: accounts, roles, Secrets, ConfigMaps, provider identities,
	// runtime extensions, and all kinds that are not Cluster API's.
	StageConfig
	// StagePools: IPAM pools and what belongs to them.
	StagePools
	// StageTemplates: machine and bootstrap templates and what else machines are
	// made from.
	StageTemplates
	// StageInfraCluster: infrastructure clusters, and ClusterClasses, which name
	// templates and are named by Clusters.
	StageInfraCluster
	// StageControlPlane: control planes of every provider.
	StageControlPlane
	// StageCluster: Clusters.
	StageCluster
	// StageMachines: MachineDeployments, MachinePools, MachineSets, Machines.
	StageMachines
	// StageAddons: health checks, resource sets, drain rules, and everything else
	// that refers to a Cluster.
	StageAddons
)

// String names the stage as messages do.
func (s Stage) String() string {
	names := []string{
		"definitions", "configuration", "pools", "templates", "infrastructure",
		"control plane", "cluster", "machines", "add-ons",
	}
	if s < 0 || int(s) >= len(names) {
		return "unknown"
	}
	return names[s]
}

// StageOf returns the stage of a kind.
func StageOf(gk schema.GroupKind) Stage {
	switch {
	case gk.Group == "" && gk.Kind == "Namespace", IsDefinition(gk):
		return StageDefinitions
	case IsIPAM(gk):
		return StagePools
	case !IsFamily(gk):
		return StageConfig
	case IsClusterClass(gk):
		return StageInfraCluster
	case IsTemplate(gk):
		return StageTemplates
	case IsCluster(gk):
		return StageCluster
	case IsControlPlane(gk):
		return StageControlPlane
	case IsInfraCluster(gk):
		return StageInfraCluster
	case IsIdentity(gk), inGroup(gk, "runtime"):
		return StageConfig
	case inGroup(gk, "infrastructure"), inGroup(gk, "bootstrap"):
		return StageTemplates
	case IsMachineOwner(gk), IsMachine(gk):
		return StageMachines
	default:
		return StageAddons
	}
}

// IsFamily tells whether a kind belongs to Cluster API or to one of its
// providers.
func IsFamily(gk schema.GroupKind) bool {
	return gk.Group == family || strings.HasSuffix(gk.Group, "."+family)
}

// IsCluster tells whether a kind is Cluster API's Cluster.
func IsCluster(gk schema.GroupKind) bool {
	return gk == clusterv1.GroupVersion.WithKind("Cluster").GroupKind()
}

// IsClusterClass tells whether a kind is ClusterClass.
func IsClusterClass(gk schema.GroupKind) bool {
	return gk == clusterv1.GroupVersion.WithKind("ClusterClass").GroupKind()
}

// IsTemplate tells whether a kind is a template that controllers clone objects
// from. The suffix is part of the provider contract: the clone's kind is the
// template's without it (cluster-api v1.14 controllers/external/util.go,
// GenerateTemplate).
func IsTemplate(gk schema.GroupKind) bool {
	return IsFamily(gk) && strings.HasSuffix(gk.Kind, "Template")
}

// IsControlPlane tells whether a kind is a control plane of any provider, also of
// those that keep it in the infrastructure group (GCPManagedControlPlane,
// AzureManagedControlPlane).
func IsControlPlane(gk schema.GroupKind) bool {
	return IsFamily(gk) && strings.HasSuffix(gk.Kind, "ControlPlane")
}

// IsInfraCluster tells whether a kind is an infrastructure cluster of any
// provider.
func IsInfraCluster(gk schema.GroupKind) bool {
	return inGroup(gk, "infrastructure") && strings.HasSuffix(gk.Kind, "Cluster")
}

// IsIdentity tells whether a kind holds a provider's credentials outside a
// Secret, as AWSClusterStaticIdentity and AzureClusterIdentity do.
func IsIdentity(gk schema.GroupKind) bool {
	return inGroup(gk, "infrastructure") && strings.HasSuffix(gk.Kind, "Identity")
}

// IsMachineOwner tells whether a kind makes and removes worker machines:
// MachineDeployment, MachinePool, MachineSet. MachinePool was in the group
// exp.cluster.x-k8s.io before Cluster API v0.4.
func IsMachineOwner(gk schema.GroupKind) bool {
	if gk.Group != family && gk.Group != "exp."+family {
		return false
	}
	return gk.Kind == "MachineDeployment" || gk.Kind == "MachinePool" || gk.Kind == "MachineSet"
}

// IsMachine tells whether a kind is Cluster API's Machine.
func IsMachine(gk schema.GroupKind) bool {
	return gk.Group == family && gk.Kind == "Machine"
}

// IsIPAM tells whether a kind belongs to IP address management, also in the group
// of Metal3's provider.
func IsIPAM(gk schema.GroupKind) bool {
	return inGroup(gk, "ipam") || gk.Group == "ipam.metal3.io"
}

// IsIPPool tells whether a kind is a pool of IP addresses.
func IsIPPool(gk schema.GroupKind) bool {
	return IsIPAM(gk) && strings.HasSuffix(gk.Kind, "Pool")
}

// IsDefinition tells whether a kind is CustomResourceDefinition.
func IsDefinition(gk schema.GroupKind) bool {
	return gk.Group == "apiextensions.k8s.io" && gk.Kind == "CustomResourceDefinition"
}

// inGroup tells whether a kind is in the provider group of that name, or in a
// group below it.
func inGroup(gk schema.GroupKind, name string) bool {
	group := name + "." + family
	return gk.Group == group || strings.HasSuffix(gk.Group, "."+group)
}
