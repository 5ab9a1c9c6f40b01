package capi

import (
	"slices"
	"strings"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/api/v1alpha1"
)

const (
	labelsAt      = "/metadata/labels/"
	annotationsAt = "/metadata/annotations/"
)

// keyed makes pointers to labels or annotations. A * at a key's end stands for any rest.
func keyed(field string, keys ...string) []string {
	pointers := make([]string, 0, len(keys))
	for _, key := range keys {
		pointers = append(pointers, field+escape(key))
	}
	return pointers
}

// foreignOptOuts are the annotations of other tools by which people keep a tool away
// from an object.
func foreignOptOuts() []string {
	var keys []string
	for _, r := range slices.Concat(keepRules, aloneRules) {
		if !strings.HasPrefix(r.key, "capstan.dev/") {
			keys = append(keys, r.key)
		}
	}
	return keys
}

// metadataRules are the rules about metadata and status. Not among them, and so
// reported where Git doesn't declare them, are cluster.x-k8s.io/managed-by and
// cluster.x-k8s.io/replicas-managed-by: by them a person says who else is in charge.
var metadataRules = []ownershipRule{
	{
		kinds: allKinds,
		fields: []string{
			"/metadata/uid", "/metadata/resourceVersion", "/metadata/generation", "/metadata/creationTimestamp", "/metadata/selfLink",
			"/metadata/managedFields", "/metadata/deletionTimestamp", "/metadata/deletionGracePeriodSeconds", "/metadata/generateName",
		},
		effect: yields,
		why:    "the API server's bookkeeping",
		source: "kubernetes v1.36 staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/types.go, ObjectMeta",
	},
	{
		kinds:  allKinds,
		fields: []string{"/status"},
		effect: yields,
		why:    "what controllers report",
		source: "kubernetes community contributors/devel/sig-architecture/api-conventions.md, Spec and Status",
	},
	{
		kinds:  allKinds,
		fields: []string{"/metadata/finalizers"},
		effect: leaves,
		why:    "controllers hold objects until they have cleaned up",
		source: "cluster-api v1.14 util/finalizers; cluster-api-provider-proxmox v0.9 internal/controller/proxmoxcluster_controller.go, on its Secret",
	},
	{
		kinds:  allKinds,
		fields: []string{"/metadata/ownerReferences"},
		effect: leaves,
		why:    "controllers say what belongs to what",
		source: "cluster-api v1.14 core/reconcilers/cluster/cluster_controller_phases.go, ensureOwnerRefAndLabel",
	},
	{
		kinds:  allKinds,
		fields: []string{"/metadata/ownerReferences/*/apiVersion"},
		effect: unstable,
		why:    "controllers raise it to the version they know",
		source: "cluster-api v1.14 util/util.go, EnsureOwnerRef",
	},
	{
		kinds:  allKinds,
		fields: keyed(annotationsAt, "kubectl.kubernetes.io/last-applied-configuration"),
		effect: yields,
		why:    "kubectl's note of what it applied",
		source: "kubernetes v1.36 staging/src/k8s.io/api/core/v1/annotation_key_constants.go, LastAppliedConfigAnnotation",
	},
	{
		kinds: allKinds,
		fields: keyed(annotationsAt, v1alpha1.ReconcileAnnotation, v1alpha1.PruneAnnotation, v1alpha1.DriftAnnotation,
			v1alpha1.IgnoreAnnotation),
		effect: leaves,
		why:    "says to the agent what to do with the object",
		source: "capstan docs/reference/annotations.md",
	},
	{
		kinds:  allKinds,
		fields: append(keyed(annotationsAt, foreignOptOuts()...), keyed(labelsAt, keepLabels...)...),
		effect: leaves,
		why:    "of other tools, and honoured: keeps the object, or leaves it alone",
		source: "capstan docs/reference/annotations.md",
	},
	{
		kinds:  clusterPartKinds,
		fields: keyed(labelsAt, clusterv1.ClusterNameLabel),
		effect: leaves,
		why:    "webhooks and controllers say which Cluster it belongs to",
		source: "cluster-api v1.14 core/webhooks/admission/machinedeployment.go; core/reconcilers/cluster/cluster_controller_phases.go",
	},
	{
		kinds:  clusterKinds,
		fields: keyed(labelsAt, clusterv1.ClusterNameLabel),
		when:   withTopology,
		effect: leaves,
		why:    "the topology controller labels its Clusters",
		source: "cluster-api v1.14 exp/topology/desiredstate/desired_state.go, computeCluster",
	},
	{
		kinds:  familyKinds,
		fields: keyed(labelsAt, "topology."+family+"/*"),
		effect: leaves,
		why:    "the topology controller marks what it makes",
		source: "cluster-api v1.14 exp/topology/desiredstate/desired_state.go",
	},
	{
		kinds: familyKinds,
		fields: keyed(labelsAt, clusterv1.MachineDeploymentNameLabel, clusterv1.MachineSetNameLabel, clusterv1.MachineControlPlaneLabel,
			clusterv1.MachineControlPlaneNameLabel, clusterv1.MachinePoolNameLabel, clusterv1.MachineDeploymentUniqueLabel),
		effect: leaves,
		why:    "controllers find their machines by it",
		source: "cluster-api v1.14 core/reconcilers/machinedeployment/machinedeployment_rollout_planner.go",
	},
	{
		kinds:  familyKinds,
		fields: keyed(labelsAt, "topology.kubernetes.io/proxmox-zone"),
		effect: leaves,
		why:    "the Proxmox provider says in which zone it is",
		source: "cluster-api-provider-proxmox v0.9 pkg/kubernetes/ipam/ipam.go; api/v1alpha2/types.go",
	},
	{
		kinds:  familyKinds,
		fields: keyed(annotationsAt, clusterv1.PausedAnnotation),
		effect: leaves,
		why:    "an operator, or clusterctl, has paused the object",
		source: "cluster-api v1.14 cmd/clusterctl/client/cluster/mover.go, setClusterClassPause",
	},
	{
		kinds:  familyKinds,
		fields: keyed(annotationsAt, "clusterctl."+family+"/block-move", "clusterctl."+family+"/delete-for-move"),
		effect: leaves,
		why:    "clusterctl move is at work",
		source: "cluster-api v1.14 cmd/clusterctl/api/v1alpha3/annotations.go",
	},
	{
		kinds: familyKinds,
		fields: keyed(annotationsAt, clusterv1.TemplateClonedFromNameAnnotation, clusterv1.TemplateClonedFromGroupKindAnnotation,
			clusterv1.DisableMachineCreateAnnotation),
		effect: leaves,
		why:    "controllers note where it comes from, and what it may make",
		source: "cluster-api v1.14 controllers/external/util.go; core/reconcilers/machinedeployment/machinedeployment_rollout_planner.go",
	},
	{
		kinds:  familyKinds,
		fields: keyed(annotationsAt, family+"/conversion-data"),
		effect: yields,
		why:    "conversion keeps what the other API version has no field for",
		source: "cluster-api v1.14 util/conversion/conversion.go, DataAnnotation",
	},
	{
		kinds:  familyKinds,
		fields: keyed(annotationsAt, "topology.internal."+family+"/*", "in-place-updates.internal."+family+"/*"),
		effect: leaves,
		why:    "controllers' own notes of an upgrade or update",
		source: "cluster-api v1.14 api/core/v1beta2/common_types.go; api/core/v1beta2/machineset_types.go; api/core/v1beta2/machine_types.go",
	},
	{
		kinds:  familyKinds,
		fields: keyed(annotationsAt, "runtime."+family+"/pending-hooks", "runtime."+family+"/ok-to-delete"),
		effect: leaves,
		why:    "controllers note which runtime hooks are due",
		source: "cluster-api v1.14 api/runtime/v1beta2/extensionconfig_types.go",
	},
	{
		kinds:  replicaOwnerKinds,
		fields: keyed(annotationsAt, "machinedeployment.clusters.x-k8s.io/*"),
		effect: leaves,
		why:    "the controller counts revisions and replicas",
		source: "cluster-api v1.14 api/core/v1beta2/machinedeployment_types.go; core/reconcilers/machinedeployment/mdutil/util.go",
	},
	{
		kinds:  familyKinds,
		fields: keyed(annotationsAt, "controlplane."+family+"/remediation-in-progress", "controlplane."+family+"/remediation-for"),
		effect: leaves,
		why:    "the control plane notes a remediation",
		source: "cluster-api v1.14 api/controlplane/kubeadm/v1beta2/kubeadm_control_plane_types.go",
	},
	{
		kinds: machineKinds,
		fields: keyed(annotationsAt, clusterv1.PreTerminateDeleteHookAnnotationPrefix+"/kcp-cleanup",
			clusterv1.MachineCertificatesExpiryDateAnnotation),
		effect: leaves,
		why:    "the control plane's own notes on its machines",
		source: "cluster-api v1.14 api/controlplane/kubeadm/v1beta2/kubeadm_control_plane_types.go; api/core/v1beta2/machine_types.go",
	},
	{
		kinds:  poolKinds,
		fields: keyed(annotationsAt, "ipam.capmox."+family+"/*", "metric"),
		effect: leaves,
		why:    "the Proxmox provider says how it uses the pool",
		source: "cluster-api-provider-proxmox v0.9 pkg/kubernetes/ipam/ipam.go",
	},
	{
		kinds:  definitionKinds,
		fields: keyed(annotationsAt, clusterv1.CRDMigrationObservedGenerationAnnotation),
		effect: leaves,
		why:    "the controller notes how far stored objects were migrated",
		source: "cluster-api v1.14 controllers/crdmigrator/crd_migrator.go",
	},
	{
		kinds:  topologyPartKinds,
		fields: []string{"/spec"},
		when:   whenTopologyOwned,
		effect: leaves,
		why:    "the topology controller writes the object, and restores it",
		source: "cluster-api v1.14 core/reconcilers/topology/cluster/reconcile_state.go; core/reconcilers/topology/cluster/structuredmerge/serversidepatchhelper.go",
	},
}
