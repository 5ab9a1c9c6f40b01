package capi

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// kindSet is a set of kinds with a name for people.
type kindSet struct {
	name string
	have func(schema.GroupKind) bool
}

// The sets of kinds that rules are about.
var (
	allKinds         = &kindSet{"all", func(schema.GroupKind) bool { return true }}
	familyKinds      = &kindSet{"Cluster API's, and its providers'", IsFamily}
	clusterPartKinds = &kindSet{"Cluster API's, and its providers', but Clusters, templates and classes", isClusterPart}

	topologyPartKinds = &kindSet{"Cluster API's, and its providers', but Clusters and classes", isTopologyPart}

	clusterKinds           = &kindSet{"Cluster", IsCluster}
	clusterClassKinds      = &kindSet{"ClusterClass", IsClusterClass}
	infraClusterKinds      = &kindSet{"infrastructure clusters", IsInfraCluster}
	controlPlaneKinds      = &kindSet{"control planes", IsControlPlane}
	machineOwnerKinds      = &kindSet{"MachineDeployment, MachineSet, MachinePool", IsMachineOwner}
	machineDeploymentKinds = kindsOf(family, "MachineDeployment")
	machineSetKinds        = kindsOf(family, "MachineSet")
	replicaOwnerKinds      = kindsOf(family, "MachineDeployment", "MachineSet")
	machinePoolKinds       = kindsOf(family, "MachinePool")
	machineKinds           = kindsOf(family, "Machine")
	healthCheckKinds       = kindsOf(family, "MachineHealthCheck")
	infraMachineKinds      = &kindSet{"infrastructure machines", isInfraMachine}
	resourceSetKinds       = kindsOf("addons."+family, "ClusterResourceSet")
	extensionKinds         = kindsOf("runtime."+family, "ExtensionConfig")

	kubeadmKinds         = kindsOf("controlplane."+family, "KubeadmControlPlane")
	kubeadmTemplateKinds = kindsOf("controlplane."+family, "KubeadmControlPlaneTemplate")
	talosKinds           = kindsOf("controlplane."+family, talosControlPlane)

	proxmoxClusterKinds = kindsOf("infrastructure."+family, "ProxmoxCluster", "ProxmoxClusterTemplate")
	proxmoxMachineKinds = kindsOf("infrastructure."+family, "ProxmoxMachine", "ProxmoxMachineTemplate")
	proxmoxVMKinds      = kindsOf("infrastructure."+family, "ProxmoxMachine")
	poolKinds           = &kindSet{"IP pools", IsIPPool}
	prefixPoolKinds     = kindsOf("ipam."+family, "InClusterPrefixPool", "GlobalInClusterPrefixPool")

	namespaceKinds      = kindsOf("", "Namespace")
	secretKinds         = kindsOf("", "Secret")
	serviceAccountKinds = kindsOf("", "ServiceAccount")
	clusterRoleKinds    = kindsOf("rbac.authorization.k8s.io", "ClusterRole")
	webhookConfigKinds  = kindsOf("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
	definitionKinds     = &kindSet{"CustomResourceDefinition", IsDefinition}
)

// kindsOf is the set of some kinds of one group.
func kindsOf(group string, kinds ...string) *kindSet {
	return &kindSet{strings.Join(kinds, ", "), func(gk schema.GroupKind) bool { return gk.Group == group && slices.Contains(kinds, gk.Kind) }}
}

// isClusterPart tells whether objects of a kind belong to one Cluster.
func isClusterPart(gk schema.GroupKind) bool {
	return IsFamily(gk) && !IsCluster(gk) && !IsTemplate(gk) && !IsClusterClass(gk)
}

// isTopologyPart tells whether the topology controller makes objects of a kind. It puts
// its label on Clusters as well, but doesn't make them.
func isTopologyPart(gk schema.GroupKind) bool {
	return IsFamily(gk) && !IsCluster(gk) && !IsClusterClass(gk)
}

// isInfraMachine tells whether a kind is the infrastructure of a machine or of a pool
// of machines, of any provider.
func isInfraMachine(gk schema.GroupKind) bool {
	return inGroup(gk, "infrastructure") && (strings.HasSuffix(gk.Kind, "Machine") || strings.HasSuffix(gk.Kind, "MachinePool"))
}

// circumstance is what must be true of a live object for a rule to hold.
type circumstance struct {
	name  string
	holds func(*unstructured.Unstructured) bool
}

var (
	// whenAutoscaled: both bounds, or the annotation for any other scaler, unless it is
	// false (cluster-api v1.14 util/annotations/helpers.go hasTruthyAnnotationValue).
	whenAutoscaled = &circumstance{
		"annotated with `cluster-api-autoscaler-node-group-min-size` and `-max-size`, or with `replicas-managed-by`",
		func(u *unstructured.Unstructured) bool {
			_, smallest := metadataValue(u, "annotations", clusterv1.AutoscalerMinSizeAnnotation)
			_, largest := metadataValue(u, "annotations", clusterv1.AutoscalerMaxSizeAnnotation)
			by, managed := metadataValue(u, "annotations", clusterv1.ReplicasManagedByAnnotation)
			return smallest && largest || managed && by != "false"
		},
	}
	withTopology = &circumstance{
		"it has `spec.topology`",
		func(u *unstructured.Unstructured) bool {
			topology, found, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "topology")
			return found && !absent(topology)
		},
	}
	whenTopologyOwned = &circumstance{
		"labelled `topology.cluster.x-k8s.io/owned`",
		func(u *unstructured.Unstructured) bool {
			_, owned := metadataValue(u, "labels", clusterv1.ClusterTopologyOwnedLabel)
			return owned
		},
	}
	whilePaused = &circumstance{"it is `true`", Paused}
	// whenAggregated: cluster roles that are made of others.
	whenAggregated = &circumstance{
		"it has an `aggregationRule`",
		func(u *unstructured.Unstructured) bool {
			rule, found := u.Object["aggregationRule"]
			return found && rule != nil
		},
	}
	whenInjected = &circumstance{
		"annotated with `cert-manager.io/inject-ca-from` or `-ca-from-secret`, or with `inject-apiserver-ca`",
		func(u *unstructured.Unstructured) bool {
			return slices.ContainsFunc(caAnnotations, func(key string) bool {
				_, found := metadataValue(u, "annotations", key)
				return found
			})
		},
	}
)

// caAnnotations ask cert-manager or Cluster API for certificate authorities.
var caAnnotations = []string{
	"cert-manager.io/inject-ca-from", "cert-manager.io/inject-ca-from-secret", "cert-manager.io/inject-apiserver-ca",
	"runtime." + family + "/inject-ca-from-secret",
}

// metadataValue returns a label or an annotation without copying them all.
func metadataValue(u *unstructured.Unstructured, field, key string) (value string, found bool) {
	metadata, _ := u.Object["metadata"].(map[string]any)
	values, _ := metadata[field].(map[string]any)
	v, found := values[key]
	value, _ = v.(string)
	return value, found
}
