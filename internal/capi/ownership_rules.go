package capi

import (
	"slices"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// effect is what a rule says about a field.
type effect string

const (
	// leaves: nothing is reported where Git does not declare the field.
	leaves effect = "left"
	// yields: nor where Git declares it, once somebody else has taken it.
	yields effect = "yielded"
	// unstable: its value says nothing.
	unstable effect = "no difference"
)

// ownershipRule is one entry of the map.
type ownershipRule struct {
	kinds *kindSet
	// fields are patterns as [Covers] takes them.
	fields []string
	// when, if set, must hold for the live object.
	when *circumstance
	// values, if set, are the only ones for which the rule holds: defaults.
	values []any
	// empty says that Git may declare the field with nothing in it, and means the same as
	// if it didn't.
	empty  bool
	effect effect
	// why says it to people: who writes the field, and what for.
	why string
	// source is where upstream says so.
	source string
}

// ownershipRules is the map of fields that are left to others. API versions v1beta1
// and v1beta2 are listed side by side, because a manifest may be of either.
var ownershipRules = slices.Concat(metadataRules, clusterRules, machineRules, controlPlaneRules, providerRules, coreRules)

// templated gives fields of a kind and of its template.
func templated(fields ...string) []string {
	var all []string
	for _, f := range fields {
		all = append(all, f, "/spec/template"+f)
	}
	return all
}

// versioned gives what conversion rewrites in references.
func versioned(references ...string) []string {
	var all []string
	for _, r := range references {
		all = append(all, r+"/apiVersion", r+"/namespace")
	}
	return all
}

const conversionSource = "cluster-api v1.14 core/webhooks/conversion; api/core/v1beta1/conversion.go"

var clusterRules = []ownershipRule{
	{
		kinds:  clusterKinds,
		fields: []string{"/spec/controlPlaneEndpoint"},
		empty:  true,
		effect: leaves,
		why:    "Cluster API copies it from the infrastructure or the control plane; v1beta1 shows an empty one",
		source: "cluster-api v1.14 core/reconcilers/cluster/cluster_controller_phases.go; " +
			"api/core/v1beta1/cluster_types.go, ControlPlaneEndpoint",
	},
	{
		kinds:  clusterKinds,
		fields: []string{"/spec/paused"},
		when:   whilePaused,
		effect: yields,
		why:    "clusterctl move or an operator has paused the Cluster; the agent halts",
		source: "cluster-api v1.14 cmd/clusterctl/client/cluster/mover.go, setClusterPause",
	},
	{
		kinds:  clusterKinds,
		fields: []string{"/spec/infrastructureRef", "/spec/controlPlaneRef"},
		when:   withTopology,
		effect: leaves,
		why:    "the topology controller makes them, and refers to them",
		source: "cluster-api v1.14 exp/topology/desiredstate/desired_state.go, computeCluster",
	},
	{
		kinds:  clusterKinds,
		fields: versioned("/spec/infrastructureRef", "/spec/controlPlaneRef"),
		effect: unstable,
		why:    "conversion to v1beta1 fills in the provider's current version",
		source: conversionSource,
	},
	{
		kinds:  clusterClassKinds,
		fields: []string{"/spec/variables/*/schema/openAPIV3Schema/x-kubernetes-validations/*/reason"},
		values: []any{"FieldValueInvalid"},
		effect: leaves,
		why:    "default of the CRD",
		source: "cluster-api v1.14 api/core/v1beta2/clusterclass_types.go",
	},
	{
		kinds:  infraClusterKinds,
		fields: []string{"/spec/controlPlaneEndpoint"},
		empty:  true,
		effect: leaves,
		why:    "the provider fills it in when it has the address",
		source: "cluster-api v1.14 docs/book/src/developer/providers/contracts/infra-cluster.md, control plane endpoint",
	},
	{
		kinds:  controlPlaneKinds,
		fields: []string{"/spec/controlPlaneEndpoint"},
		empty:  true,
		effect: leaves,
		why:    "the provider fills it in when it has the address",
		source: "cluster-api v1.14 docs/book/src/developer/providers/contracts/control-plane.md, control plane endpoint",
	},
}

var machineRules = []ownershipRule{
	{
		kinds:  machineOwnerKinds,
		fields: []string{"/spec/replicas"},
		when:   whenAutoscaled,
		effect: yields,
		why:    "the autoscaler sets the replicas",
		source: "cluster-api v1.14 api/core/v1beta2/common_types.go; docs/book/src/tasks/automated-machine-management/autoscaling.md",
	},
	{
		kinds:  machineOwnerKinds,
		fields: []string{"/spec/replicas"},
		effect: leaves,
		why:    "without them in Git, who scales by hand decides; the webhook sets 1 first",
		source: "cluster-api v1.14 core/webhooks/admission/machinedeployment.go, calculateMachineDeploymentReplicas",
	},
	{
		kinds: replicaOwnerKinds,
		fields: append(
			keyed("/spec/selector/matchLabels/", clusterv1.ClusterNameLabel, clusterv1.MachineDeploymentNameLabel, clusterv1.MachineSetNameLabel),
			keyed("/spec/template/metadata/labels/", clusterv1.ClusterNameLabel, clusterv1.MachineDeploymentNameLabel,
				clusterv1.MachineSetNameLabel)...),
		effect: leaves,
		why:    "the webhook adds them, so that the selector finds machines of this object only",
		source: "cluster-api v1.14 core/webhooks/admission/machinedeployment.go, Default; core/webhooks/admission/machineset.go, Default",
	},
	{
		kinds:  machineDeploymentKinds,
		fields: []string{"/spec/rollout/strategy/type", "/spec/strategy/type"},
		values: []any{"RollingUpdate"},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 core/webhooks/admission/machinedeployment.go, Default",
	},
	{
		kinds:  machineDeploymentKinds,
		fields: []string{"/spec/rollout/strategy/rollingUpdate/maxSurge", "/spec/strategy/rollingUpdate/maxSurge"},
		values: []any{int64(1)},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 core/webhooks/admission/machinedeployment.go, Default",
	},
	{
		kinds:  machineDeploymentKinds,
		fields: []string{"/spec/rollout/strategy/rollingUpdate/maxUnavailable", "/spec/strategy/rollingUpdate/maxUnavailable"},
		values: []any{int64(0)},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 core/webhooks/admission/machinedeployment.go, Default",
	},
	{
		kinds:  machineDeploymentKinds,
		fields: []string{"/spec/revisionHistoryLimit"},
		values: []any{int64(1)},
		effect: leaves,
		why:    "default before Cluster API v1.11, v1beta1 only",
		source: "cluster-api v1.14 api/core/v1beta1/machinedeployment_types.go, RevisionHistoryLimit",
	},
	{
		kinds:  machineDeploymentKinds,
		fields: []string{"/spec/progressDeadlineSeconds"},
		values: []any{int64(600)},
		effect: leaves,
		why:    "default before Cluster API v1.11, v1beta1 only",
		source: "cluster-api v1.14 api/core/v1beta1/machinedeployment_types.go, ProgressDeadlineSeconds",
	},
	{
		kinds:  machineOwnerKinds,
		fields: []string{"/spec/minReadySeconds"},
		values: []any{int64(0)},
		effect: leaves,
		why:    "default before Cluster API v1.11, v1beta1 only",
		source: "cluster-api v1.14 api/core/v1beta1/machinedeployment_types.go, MinReadySeconds",
	},
	{
		kinds:  machineSetKinds,
		fields: []string{"/spec/deletePolicy"},
		values: []any{"Random"},
		effect: leaves,
		why:    "default before Cluster API v1.11, v1beta1 only",
		source: "cluster-api v1.14 api/core/v1beta1/machineset_types.go, DeletePolicy",
	},
	{
		kinds:  machinePoolKinds,
		fields: []string{"/spec/providerIDList", "/spec/template/spec/bootstrap/dataSecretName"},
		effect: leaves,
		why:    "the controller copies them from the infrastructure and the bootstrap configuration",
		source: "cluster-api v1.14 core/reconcilers/machinepool/machinepool_controller_phases.go",
	},
	{
		kinds:  machinePoolKinds,
		fields: []string{"/spec/template/spec/deletion/nodeDeletionTimeoutSeconds", "/spec/template/spec/nodeDeletionTimeout"},
		values: []any{int64(10), "10s"},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 core/webhooks/admission/machinepool.go, Default",
	},
	{
		kinds:  machineOwnerKinds,
		fields: versioned("/spec/template/spec/infrastructureRef", "/spec/template/spec/bootstrap/configRef"),
		effect: unstable,
		why:    "conversion to v1beta1 fills in the provider's current version",
		source: conversionSource,
	},
	{
		kinds:  machineKinds,
		fields: []string{"/spec/providerID", "/spec/bootstrap/dataSecretName"},
		effect: leaves,
		why:    "the controller copies them from the infrastructure and the bootstrap configuration",
		source: "cluster-api v1.14 core/reconcilers/machine/machine_controller_phases.go",
	},
	{
		kinds:  machineKinds,
		fields: []string{"/spec/deletion/nodeDeletionTimeoutSeconds", "/spec/nodeDeletionTimeout"},
		values: []any{int64(10), "10s"},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 core/webhooks/admission/machine.go, DefaultMachineNodeDeletionTimeoutSeconds",
	},
	{
		kinds:  machineKinds,
		fields: versioned("/spec/infrastructureRef", "/spec/bootstrap/configRef"),
		effect: unstable,
		why:    "conversion to v1beta1 fills in the provider's current version",
		source: conversionSource,
	},
	{
		kinds:  healthCheckKinds,
		fields: []string{"/spec/checks/nodeStartupTimeoutSeconds", "/spec/nodeStartupTimeout"},
		values: []any{int64(600), "10m0s"},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 core/webhooks/admission/machinehealthcheck.go, Default",
	},
	{
		kinds:  resourceSetKinds,
		fields: []string{"/spec/strategy"},
		values: []any{"ApplyOnce"},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 core/webhooks/admission/clusterresourceset.go, Default",
	},
	{
		kinds:  extensionKinds,
		fields: []string{"/spec/clientConfig/caBundle"},
		when:   whenInjected,
		effect: yields,
		why:    "Cluster API puts the certificate authority in",
		source: "cluster-api v1.14 core/reconcilers/extensionconfig/extensionconfig_controller.go, reconcileCABundle",
	},
	{
		kinds:  extensionKinds,
		fields: []string{"/spec/namespaceSelector"},
		values: []any{map[string]any{}},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 core/webhooks/admission/extensionconfig.go, Default",
	},
	{
		kinds:  extensionKinds,
		fields: []string{"/spec/clientConfig/service/port"},
		values: []any{int64(443)},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 core/webhooks/admission/extensionconfig.go, Default",
	},
}

var controlPlaneRules = []ownershipRule{
	{
		kinds:  kubeadmKinds,
		fields: []string{"/spec/replicas"},
		values: []any{int64(1)},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 controlplane/kubeadm/webhooks/admission/kubeadmcontrolplane.go, Default",
	},
	{
		kinds:  kubeadmKinds,
		fields: []string{"/spec/rollout/strategy/type", "/spec/rolloutStrategy/type"},
		values: []any{"RollingUpdate"},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 controlplane/kubeadm/webhooks/admission/kubeadmcontrolplane.go, Default",
	},
	{
		kinds:  kubeadmKinds,
		fields: []string{"/spec/rollout/strategy/rollingUpdate/maxSurge", "/spec/rolloutStrategy/rollingUpdate/maxSurge"},
		values: []any{int64(1)},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api v1.14 controlplane/kubeadm/webhooks/admission/kubeadmcontrolplane.go, Default",
	},
	{
		kinds:  kubeadmTemplateKinds,
		fields: []string{"/spec/template/spec/rolloutStrategy"},
		values: []any{map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": int64(1)}}},
		effect: leaves,
		why:    "default of the CRD, v1beta1 only",
		source: "cluster-api v1.14 api/controlplane/kubeadm/v1beta1/kubeadmcontrolplanetemplate_types.go",
	},
	{
		kinds:  controlPlaneKinds,
		fields: versioned("/spec/machineTemplate/infrastructureRef"),
		effect: unstable,
		why:    "conversion to v1beta1 fills in the provider's current version",
		source: "cluster-api v1.14 controlplane/kubeadm/webhooks/conversion; api/controlplane/kubeadm/v1beta1/conversion.go",
	},
	{
		kinds:  talosKinds,
		fields: []string{"/spec/replicas"},
		values: []any{int64(1)},
		effect: leaves,
		why:    "default of the webhook",
		source: "cluster-api-control-plane-provider-talos v0.5.12 api/v1alpha3/taloscontrolplane_webhook.go",
	},
	{
		kinds:  talosKinds,
		fields: []string{"/spec/infrastructureTemplate/namespace"},
		effect: leaves,
		why:    "default of the webhook: its own namespace",
		source: "cluster-api-control-plane-provider-talos v0.5.12 api/v1alpha3/taloscontrolplane_webhook.go",
	},
	{
		kinds:  talosKinds,
		fields: []string{"/spec/rolloutStrategy/type"},
		values: []any{"RollingUpdate"},
		effect: leaves,
		why:    "default of the CRD and of the webhook",
		source: "cluster-api-control-plane-provider-talos v0.5.12 api/v1alpha3/taloscontrolplane_webhook.go, defaultRolloutStrategy",
	},
	{
		kinds:  talosKinds,
		fields: []string{"/spec/rolloutStrategy/rollingUpdate/maxSurge"},
		values: []any{int64(1)},
		effect: leaves,
		why:    "default of the CRD and of the webhook",
		source: "cluster-api-control-plane-provider-talos v0.5.12 api/v1alpha3/taloscontrolplane_webhook.go, defaultRolloutStrategy",
	},
}

var providerRules = []ownershipRule{
	{
		kinds:  infraMachineKinds,
		fields: []string{"/spec/providerID", "/spec/providerIDList"},
		effect: leaves,
		why:    "the provider says which machine it is",
		source: "cluster-api v1.14 docs/book/src/developer/providers/contracts/infra-machine.md, provider ID",
	},
	{
		kinds: proxmoxClusterKinds,
		fields: templated("/spec/ipv4Config/metric", "/spec/ipv6Config/metric",
			"/spec/zoneConfig/*/ipv4Config/metric", "/spec/zoneConfig/*/ipv6Config/metric"),
		values: []any{int64(100)},
		effect: leaves,
		why:    "default of the CRD",
		source: "cluster-api-provider-proxmox v0.9 api/v1alpha2/proxmoxcluster_types.go; api/v1alpha1/proxmoxcluster_types.go",
	},
	{
		kinds:  proxmoxClusterKinds,
		fields: templated("/spec/externalManagedControlPlane"),
		values: []any{false},
		effect: leaves,
		why:    "default of the CRD",
		source: "cluster-api-provider-proxmox v0.9 api/v1alpha2/proxmoxcluster_types.go",
	},
	{
		kinds:  proxmoxClusterKinds,
		fields: templated("/spec/cloneSpec/machineSpec/*/full"),
		values: []any{true},
		effect: leaves,
		why:    "default of the CRD, v1alpha1 only",
		source: "cluster-api-provider-proxmox v0.9 api/v1alpha1/proxmoxmachine_types.go",
	},
	{
		kinds: proxmoxClusterKinds,
		fields: templated("/spec/cloneSpec/machineSpec/*/network/default/model",
			"/spec/cloneSpec/machineSpec/*/network/additionalDevices/*/model"),
		values: []any{"virtio"},
		effect: leaves,
		why:    "default of the CRD, v1alpha1 only",
		source: "cluster-api-provider-proxmox v0.9 api/v1alpha1/proxmoxmachine_types.go",
	},
	{
		kinds:  proxmoxClusterKinds,
		fields: templated("/spec/cloneSpec/machineSpec/*/templateSelector/matchPolicy"),
		values: []any{"exact"},
		effect: leaves,
		why:    "default of the CRD, v1alpha1 only",
		source: "cluster-api-provider-proxmox v0.9 api/v1alpha1/proxmoxmachine_types.go",
	},
	{
		kinds:  proxmoxMachineKinds,
		fields: templated("/spec/full"),
		values: []any{true},
		effect: leaves,
		why:    "default of the CRD",
		source: "cluster-api-provider-proxmox v0.9 api/v1alpha2/proxmoxmachine_types.go; api/v1alpha1/proxmoxmachine_types.go",
	},
	{
		kinds: proxmoxMachineKinds,
		fields: templated("/spec/network/networkDevices/*/model", "/spec/network/default/model",
			"/spec/network/additionalDevices/*/model"),
		values: []any{"virtio"},
		effect: leaves,
		why:    "default of the CRD",
		source: "cluster-api-provider-proxmox v0.9 api/v1alpha2/proxmoxmachine_types.go; api/v1alpha1/proxmoxmachine_types.go",
	},
	{
		kinds:  proxmoxMachineKinds,
		fields: templated("/spec/network/networkDevices/*/name"),
		values: []any{"net0"},
		effect: leaves,
		why:    "default of the CRD",
		source: "cluster-api-provider-proxmox v0.9 api/v1alpha2/proxmoxmachine_types.go",
	},
	{
		kinds:  proxmoxMachineKinds,
		fields: templated("/spec/templateSelector/matchPolicy"),
		values: []any{"exact"},
		effect: leaves,
		why:    "default of the CRD",
		source: "cluster-api-provider-proxmox v0.9 api/v1alpha2/proxmoxmachine_types.go; api/v1alpha1/proxmoxmachine_types.go",
	},
	{
		kinds: proxmoxVMKinds,
		fields: []string{"/spec/virtualMachineID", "/spec/network/networkDevices/*/defaultIPv4",
			"/spec/network/networkDevices/*/defaultIPv6"},
		effect: leaves,
		why:    "the provider and its webhook say what became of the machine",
		source: "cluster-api-provider-proxmox v0.9 internal/webhook/proxmoxmachine_webhook.go, Default; internal/service/vmservice",
	},
	{
		kinds:  prefixPoolKinds,
		fields: []string{"/spec/allocationPrefixLength"},
		values: []any{int64(64)},
		effect: leaves,
		why:    "default of the CRD",
		source: "cluster-api-ipam-provider-in-cluster v1.1 api/v1alpha2/inclusterprefixpool_types.go",
	},
}

var coreRules = []ownershipRule{
	{
		kinds:  namespaceKinds,
		fields: append([]string{"/spec/finalizers"}, keyed(labelsAt, "kubernetes.io/metadata.name")...),
		effect: leaves,
		why:    "the API server adds them",
		source: "kubernetes v1.36 pkg/registry/core/namespace/strategy.go; pkg/apis/core/v1/defaults.go, SetDefaults_Namespace",
	},
	{
		kinds:  secretKinds,
		fields: []string{"/type"},
		values: []any{"Opaque"},
		effect: leaves,
		why:    "default of the API server",
		source: "kubernetes v1.36 pkg/apis/core/v1/defaults.go, SetDefaults_Secret",
	},
	{
		kinds:  serviceAccountKinds,
		fields: []string{"/secrets", "/imagePullSecrets"},
		effect: leaves,
		why:    "token and registry controllers add theirs",
		source: "kubernetes v1.36 pkg/controller/serviceaccount/tokens_controller.go",
	},
	{
		kinds:  clusterRoleKinds,
		fields: []string{"/rules"},
		when:   whenAggregated,
		effect: yields,
		why:    "gathered from other roles",
		source: "kubernetes v1.36 pkg/controller/clusterroleaggregation/clusterroleaggregation_controller.go",
	},
	{
		kinds:  webhookConfigKinds,
		fields: []string{"/webhooks/*/clientConfig/caBundle"},
		when:   whenInjected,
		effect: yields,
		why:    "cert-manager puts the certificate authority in",
		source: "cert-manager v1.18 pkg/controller/cainjector/injectors.go",
	},
	{
		kinds:  definitionKinds,
		fields: []string{"/spec/conversion/webhook/clientConfig/caBundle"},
		when:   whenInjected,
		effect: yields,
		why:    "cert-manager puts the certificate authority in",
		source: "cert-manager v1.18 pkg/controller/cainjector/injectors.go",
	},
}
