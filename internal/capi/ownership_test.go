package capi

import (
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// liveObject makes an object of a kind, as in "cluster.x-k8s.io/v1beta2 Cluster", and YAML.
func liveObject(t testing.TB, kind, content string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal([]byte(content), &u.Object); err != nil {
		t.Fatalf("%s: %v", content, err)
	}
	if u.Object == nil {
		u.Object = map[string]any{}
	}
	apiVersion, name, ok := strings.Cut(kind, " ")
	if !ok {
		t.Fatalf("%q is no kind", kind)
	}
	u.SetAPIVersion(apiVersion)
	u.SetKind(name)
	return u
}

const (
	liveCluster    = "cluster.x-k8s.io/v1beta2 Cluster"
	liveDeployment = "cluster.x-k8s.io/v1beta2 MachineDeployment"
	liveSet        = "cluster.x-k8s.io/v1beta2 MachineSet"
	livePool       = "cluster.x-k8s.io/v1beta2 MachinePool"
	liveMachine    = "cluster.x-k8s.io/v1beta2 Machine"
	liveCheck      = "cluster.x-k8s.io/v1beta2 MachineHealthCheck"
	liveClass      = "cluster.x-k8s.io/v1beta2 ClusterClass"
	liveKubeadm    = "controlplane.cluster.x-k8s.io/v1beta2 KubeadmControlPlane"
	liveTalos      = "controlplane.cluster.x-k8s.io/v1alpha3 TalosControlPlane"
	liveProxmox    = "infrastructure.cluster.x-k8s.io/v1alpha2 ProxmoxCluster"
	liveTemplate   = "infrastructure.cluster.x-k8s.io/v1alpha2 ProxmoxMachineTemplate"
	liveVM         = "infrastructure.cluster.x-k8s.io/v1alpha2 ProxmoxMachine"
	liveAddresses  = "ipam.cluster.x-k8s.io/v1alpha2 InClusterIPPool"
	liveExtension  = "runtime.cluster.x-k8s.io/v1beta2 ExtensionConfig"
	liveSecret     = "v1 Secret"
	liveConfig     = "v1 ConfigMap"
	liveRole       = "rbac.authorization.k8s.io/v1 ClusterRole"
	liveDefinition = "apiextensions.k8s.io/v1 CustomResourceDefinition"
	liveWebhooks   = "admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration"

	liveBounds = `metadata: {annotations: {cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size: "1",
		cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size: "9"}}`
	liveTopology = `spec: {topology: {classRef: {name: small}}}`
)

// ownershipCase is a field of a live object, and what the map says about it: none, or
// an effect.
type ownershipCase struct {
	kind, content string
	pointer       string
	value         any
	want          effect
}

const noEffect effect = ""

var ownershipCases = []ownershipCase{
	// Metadata.
	{liveConfig, ``, "/metadata/resourceVersion", "7", yields},
	{liveConfig, ``, "/metadata/managedFields/0/time", "now", yields},
	{liveConfig, ``, "/metadata/name", "x", noEffect},
	{liveConfig, ``, "/metadata/labels", nil, noEffect},
	{liveCluster, ``, "/status/phase", "Provisioned", yields},
	{liveConfig, ``, "/data/status", "x", noEffect},
	{liveSecret, ``, "/metadata/finalizers", []any{"proxmoxcluster.infrastructure.cluster.x-k8s.io/secret"}, leaves},
	{liveConfig, ``, "/metadata/ownerReferences/0/uid", "1", leaves},
	{liveConfig, ``, "/metadata/ownerReferences/0/apiVersion", "v1", unstable},
	{liveSecret, ``, "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration", "{}", yields},
	{liveSecret, ``, "/metadata/annotations/kubectl.kubernetes.io~1restartedAt", "now", noEffect},
	{liveSecret, ``, "/metadata/annotations/capstan.dev~1prune", "disabled", leaves},
	{liveSecret, ``, "/metadata/annotations/capstan.dev~1path", "x", noEffect},
	{liveSecret, ``, "/metadata/annotations/helm.sh~1resource-policy", "keep", leaves},
	{liveSecret, ``, "/metadata/annotations/helm.sh~1hook", "x", noEffect},
	{liveSecret, ``, "/metadata/labels/giantswarm.io~1prevent-deletion", "", leaves},

	// Labels.
	{liveDeployment, ``, "/metadata/labels/cluster.x-k8s.io~1cluster-name", "dev", leaves},
	{liveProxmox, ``, "/metadata/labels/cluster.x-k8s.io~1cluster-name", "dev", leaves},
	{liveCluster, liveTopology, "/metadata/labels/cluster.x-k8s.io~1cluster-name", "dev", leaves},
	{liveCluster, ``, "/metadata/labels/cluster.x-k8s.io~1cluster-name", "dev", noEffect},
	{liveTemplate, ``, "/metadata/labels/cluster.x-k8s.io~1cluster-name", "dev", noEffect},
	{liveSecret, ``, "/metadata/labels/cluster.x-k8s.io~1cluster-name", "dev", noEffect},
	{liveTemplate, ``, "/metadata/labels/topology.cluster.x-k8s.io~1owned", "", leaves},
	{liveDeployment, ``, "/metadata/annotations/topology.cluster.x-k8s.io~1defer-upgrade", "", noEffect},
	{liveMachine, ``, "/metadata/labels/cluster.x-k8s.io~1set-name", "x", leaves},
	{liveMachine, ``, "/metadata/labels/machine-template-hash", "x", leaves},
	{liveMachine, ``, "/metadata/labels/cluster.x-k8s.io~1interruptible", "", noEffect},
	{liveAddresses, ``, "/metadata/labels/topology.kubernetes.io~1proxmox-zone", "default", leaves},
	{liveConfig, ``, "/metadata/labels/topology.kubernetes.io~1proxmox-zone", "default", noEffect},

	// Annotations.
	{liveDeployment, ``, "/metadata/annotations/cluster.x-k8s.io~1paused", "", leaves},
	{liveConfig, ``, "/metadata/annotations/cluster.x-k8s.io~1paused", "", noEffect},
	{liveProxmox, ``, "/metadata/annotations/clusterctl.cluster.x-k8s.io~1block-move", "", leaves},
	{liveProxmox, ``, "/metadata/labels/clusterctl.cluster.x-k8s.io~1move", "", noEffect},
	{liveVM, ``, "/metadata/annotations/cluster.x-k8s.io~1cloned-from-name", "t", leaves},
	{liveSet, ``, "/metadata/annotations/cluster.x-k8s.io~1disable-machine-create", "true", leaves},
	{liveProxmox, ``, "/metadata/annotations/cluster.x-k8s.io~1conversion-data", "{}", yields},
	{liveCluster, ``, "/metadata/annotations/topology.internal.cluster.x-k8s.io~1upgrade-step", "", leaves},
	{liveSet, ``, "/metadata/annotations/in-place-updates.internal.cluster.x-k8s.io~1acknowledged-move", "", leaves},
	{liveCluster, ``, "/metadata/annotations/runtime.cluster.x-k8s.io~1pending-hooks", "", leaves},
	{liveExtension, ``, "/metadata/annotations/runtime.cluster.x-k8s.io~1inject-ca-from-secret", "a/b", noEffect},
	{liveDeployment, ``, "/metadata/annotations/machinedeployment.clusters.x-k8s.io~1revision", "3", leaves},
	{liveSet, ``, "/metadata/annotations/machinedeployment.clusters.x-k8s.io~1desired-replicas", "3", leaves},
	{livePool, ``, "/metadata/annotations/machinedeployment.clusters.x-k8s.io~1revision", "3", noEffect},
	{liveKubeadm, ``, "/metadata/annotations/controlplane.cluster.x-k8s.io~1remediation-in-progress", "{}", leaves},
	{liveKubeadm, ``, "/metadata/annotations/controlplane.cluster.x-k8s.io~1skip-coredns", "", noEffect},
	{liveMachine, ``, "/metadata/annotations/pre-terminate.delete.hook.machine.cluster.x-k8s.io~1kcp-cleanup", "", leaves},
	{liveMachine, ``, "/metadata/annotations/pre-terminate.delete.hook.machine.cluster.x-k8s.io~1mine", "", noEffect},
	{liveAddresses, ``, "/metadata/annotations/ipam.capmox.cluster.x-k8s.io~1gateway-metric", "100", leaves},
	{liveAddresses, ``, "/metadata/annotations/metric", "100", leaves},
	{liveProxmox, ``, "/metadata/annotations/metric", "100", noEffect},
	{liveDefinition, ``, "/metadata/annotations/crd-migration.cluster.x-k8s.io~1observed-generation", "1", leaves},
	{liveDefinition, ``, "/metadata/annotations/controller-gen.kubebuilder.io~1version", "1", noEffect},
	// By these a person says who else is in charge.
	{liveProxmox, ``, "/metadata/annotations/cluster.x-k8s.io~1managed-by", "", noEffect},
	{livePool, ``, "/metadata/annotations/cluster.x-k8s.io~1replicas-managed-by", "external", noEffect},

	// Topology.
	{liveDeployment, `metadata: {labels: {topology.cluster.x-k8s.io/owned: ""}}`, "/spec/template/spec/version", "v1.33.0", leaves},
	{liveDeployment, `metadata: {labels: {topology.cluster.x-k8s.io/owned: ""}}`, "/metadata/labels/mine", "", noEffect},
	{liveTemplate, `metadata: {labels: {topology.cluster.x-k8s.io/owned: ""}}`, "/spec/template/spec/numCores", int64(2), leaves},
	{liveTemplate, ``, "/spec/template/spec/numCores", int64(2), noEffect},
	{liveDeployment, ``, "/spec/template/spec/version", "v1.33.0", noEffect},
	{liveCluster, `metadata: {labels: {topology.cluster.x-k8s.io/owned: ""}}`, "/spec/topology/version", "v1.33.0", noEffect},
	{liveClass, `metadata: {labels: {topology.cluster.x-k8s.io/owned: ""}}`, "/spec/patches", nil, noEffect},
	{liveCluster, liveTopology, "/spec/infrastructureRef", map[string]any{"name": "dev"}, leaves},
	{liveCluster, liveTopology, "/spec/controlPlaneRef/name", "dev", leaves},
	{liveCluster, ``, "/spec/controlPlaneRef/name", "dev", noEffect},
	{liveCluster, `spec: {topology: {}}`, "/spec/controlPlaneRef/name", "dev", noEffect},

	// Cluster.
	{liveClass, ``, "/spec/variables/0/schema/openAPIV3Schema/x-kubernetes-validations/0/reason", "FieldValueInvalid", leaves},
	{liveClass, ``, "/spec/variables/0/schema/openAPIV3Schema/x-kubernetes-validations/0/reason", "FieldValueForbidden", noEffect},
	{liveCluster, ``, "/spec/controlPlaneEndpoint/host", "10.0.0.1", leaves},
	{"cluster.x-k8s.io/v1beta1 Cluster", ``, "/spec/controlPlaneEndpoint", map[string]any{"host": "", "port": int64(0)}, leaves},
	{liveProxmox, ``, "/spec/controlPlaneEndpoint/host", "10.0.0.1", leaves},
	{"controlplane.cluster.x-k8s.io/v1beta2 AWSManagedControlPlane", ``, "/spec/controlPlaneEndpoint/host", "10.0.0.1", leaves},
	{liveCluster, `spec: {paused: true}`, "/spec/paused", true, yields},
	{liveCluster, `spec: {paused: false}`, "/spec/paused", false, noEffect},
	{liveCluster, ``, "/spec/paused", nil, noEffect},
	{liveCluster, ``, "/spec/clusterNetwork/pods", nil, noEffect},
	{"cluster.x-k8s.io/v1beta1 Cluster", ``, "/spec/infrastructureRef/apiVersion", "x/v1alpha1", unstable},
	{"cluster.x-k8s.io/v1beta1 Cluster", ``, "/spec/controlPlaneRef/namespace", "dev", unstable},
	{liveCluster, ``, "/spec/infrastructureRef/name", "dev", noEffect},

	// Machines.
	{liveDeployment, liveBounds, "/spec/replicas", int64(5), yields},
	{livePool, liveBounds, "/spec/replicas", int64(5), yields},
	{livePool, `metadata: {annotations: {cluster.x-k8s.io/replicas-managed-by: ""}}`, "/spec/replicas", int64(5), yields},
	{livePool, `metadata: {annotations: {cluster.x-k8s.io/replicas-managed-by: "false"}}`, "/spec/replicas", int64(5), leaves},
	{liveSet, `metadata: {annotations: {cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size: "1"}}`, "/spec/replicas", int64(5), leaves},
	{liveDeployment, ``, "/spec/replicas", int64(5), leaves},
	{liveKubeadm, liveBounds, "/spec/replicas", int64(5), noEffect},
	{liveDeployment, ``, "/spec/selector/matchLabels/cluster.x-k8s.io~1cluster-name", "dev", leaves},
	{liveDeployment, ``, "/spec/selector/matchLabels", map[string]any{
		"cluster.x-k8s.io/cluster-name": "dev", "cluster.x-k8s.io/deployment-name": "md"}, leaves},
	{liveDeployment, ``, "/spec/selector/matchLabels", map[string]any{"cluster.x-k8s.io/cluster-name": "dev", "a": "b"}, noEffect},
	{liveDeployment, ``, "/spec/template/metadata/labels/cluster.x-k8s.io~1deployment-name", "md", leaves},
	{liveDeployment, ``, "/spec/template/metadata/labels/a", "b", noEffect},
	{livePool, ``, "/spec/template/metadata/labels/cluster.x-k8s.io~1cluster-name", "dev", noEffect},
	{liveDeployment, ``, "/spec/rollout/strategy/type", "RollingUpdate", leaves},
	{liveDeployment, ``, "/spec/rollout/strategy/type", "OnDelete", noEffect},
	{liveDeployment, ``, "/spec/rollout/strategy/type", nil, noEffect},
	{"cluster.x-k8s.io/v1beta1 MachineDeployment", ``, "/spec/strategy/type", "RollingUpdate", leaves},
	{liveDeployment, ``, "/spec/rollout/strategy/rollingUpdate/maxSurge", int64(1), leaves},
	{liveDeployment, ``, "/spec/rollout/strategy/rollingUpdate/maxSurge", float64(1), leaves},
	{liveDeployment, ``, "/spec/rollout/strategy/rollingUpdate/maxSurge", "1", noEffect},
	{liveDeployment, ``, "/spec/rollout/strategy/rollingUpdate/maxSurge", 1.5, noEffect},
	{liveDeployment, ``, "/spec/rollout/strategy/rollingUpdate/maxUnavailable", int64(0), leaves},
	{liveDeployment, ``, "/spec/rollout/strategy/rollingUpdate/maxUnavailable", int64(1), noEffect},
	{liveDeployment, ``, "/spec/rollout", map[string]any{"strategy": map[string]any{
		"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": int64(1), "maxUnavailable": int64(0)}}}, leaves},
	{liveDeployment, ``, "/spec/rollout", map[string]any{"strategy": map[string]any{"type": "OnDelete"}}, noEffect},
	{liveDeployment, ``, "/spec/rollout", map[string]any{}, noEffect},
	{liveDeployment, ``, "/spec/revisionHistoryLimit", int64(1), leaves},
	{liveDeployment, ``, "/spec/revisionHistoryLimit", int64(3), noEffect},
	{liveDeployment, ``, "/spec/progressDeadlineSeconds", int64(600), leaves},
	{liveSet, ``, "/spec/minReadySeconds", int64(0), leaves},
	{liveSet, ``, "/spec/minReadySeconds", int64(30), noEffect},
	{liveSet, ``, "/spec/deletePolicy", "Random", leaves},
	{liveSet, ``, "/spec/deletePolicy", "Oldest", noEffect},
	{livePool, ``, "/spec/providerIDList", []any{"proxmox://1"}, leaves},
	{livePool, ``, "/spec/template/spec/bootstrap/dataSecretName", "x", leaves},
	{liveDeployment, ``, "/spec/template/spec/bootstrap/dataSecretName", "x", noEffect},
	{livePool, ``, "/spec/template/spec/deletion/nodeDeletionTimeoutSeconds", int64(10), leaves},
	{"cluster.x-k8s.io/v1beta1 MachinePool", ``, "/spec/template/spec/nodeDeletionTimeout", "10s", leaves},
	{livePool, ``, "/spec/template/spec/deletion/nodeDeletionTimeoutSeconds", int64(60), noEffect},
	{"cluster.x-k8s.io/v1beta1 MachineDeployment", ``, "/spec/template/spec/infrastructureRef/apiVersion", "x/v1", unstable},
	{"cluster.x-k8s.io/v1beta1 MachineDeployment", ``, "/spec/template/spec/bootstrap/configRef/namespace", "dev", unstable},
	{liveDeployment, ``, "/spec/template/spec/bootstrap/configRef/name", "x", noEffect},
	{liveMachine, ``, "/spec/providerID", "proxmox://1", leaves},
	{liveMachine, ``, "/spec/version", "v1.33.0", noEffect},
	{liveMachine, ``, "/spec/deletion/nodeDeletionTimeoutSeconds", int64(10), leaves},
	{"cluster.x-k8s.io/v1beta1 Machine", ``, "/spec/infrastructureRef/apiVersion", "x/v1", unstable},
	{liveCheck, ``, "/spec/checks/nodeStartupTimeoutSeconds", int64(600), leaves},
	{"cluster.x-k8s.io/v1beta1 MachineHealthCheck", ``, "/spec/nodeStartupTimeout", "10m0s", leaves},
	{liveCheck, ``, "/spec/checks/nodeStartupTimeoutSeconds", int64(30), noEffect},
	{"addons.cluster.x-k8s.io/v1beta2 ClusterResourceSet", ``, "/spec/strategy", "ApplyOnce", leaves},
	{"addons.cluster.x-k8s.io/v1beta2 ClusterResourceSet", ``, "/spec/strategy", "Reconcile", noEffect},

	// Runtime extensions.
	{liveExtension, `metadata: {annotations: {runtime.cluster.x-k8s.io/inject-ca-from-secret: a/b}}`,
		"/spec/clientConfig/caBundle", "x", yields},
	{liveExtension, ``, "/spec/clientConfig/caBundle", "x", noEffect},
	{liveExtension, ``, "/spec/namespaceSelector", map[string]any{}, leaves},
	{liveExtension, ``, "/spec/namespaceSelector", map[string]any{"matchLabels": map[string]any{"a": "b"}}, noEffect},
	{liveExtension, ``, "/spec/clientConfig/service/port", int64(443), leaves},
	{liveExtension, ``, "/spec/clientConfig/service/port", int64(8443), noEffect},

	// Control planes.
	{liveKubeadm, ``, "/spec/replicas", int64(1), leaves},
	{liveKubeadm, ``, "/spec/replicas", int64(3), noEffect},
	{liveKubeadm, ``, "/spec/rollout/strategy/type", "RollingUpdate", leaves},
	{liveKubeadm, ``, "/spec/rollout/strategy/rollingUpdate/maxSurge", int64(1), leaves},
	{liveKubeadm, ``, "/spec/rollout/strategy/rollingUpdate/maxSurge", int64(0), noEffect},
	{"controlplane.cluster.x-k8s.io/v1beta1 KubeadmControlPlaneTemplate", ``, "/spec/template/spec/rolloutStrategy",
		map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": int64(1)}}, leaves},
	{"controlplane.cluster.x-k8s.io/v1beta1 KubeadmControlPlaneTemplate", ``, "/spec/template/spec/rolloutStrategy",
		map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": int64(0)}}, noEffect},
	{"controlplane.cluster.x-k8s.io/v1beta1 KubeadmControlPlane", ``, "/spec/machineTemplate/infrastructureRef/apiVersion", "x/v1", unstable},
	{liveTalos, ``, "/spec/replicas", int64(1), leaves},
	{liveTalos, ``, "/spec/replicas", int64(3), noEffect},
	{liveTalos, ``, "/spec/infrastructureTemplate/namespace", "dev", leaves},
	{liveTalos, ``, "/spec/infrastructureTemplate/apiVersion", "x/v1", noEffect},
	{liveTalos, ``, "/spec/rolloutStrategy/type", "RollingUpdate", leaves},
	{liveTalos, ``, "/spec/rolloutStrategy/type", "OnDelete", noEffect},
	{liveTalos, ``, "/spec/rolloutStrategy/rollingUpdate/maxSurge", int64(1), leaves},
	{liveTalos, ``, "/spec/controlPlaneConfig/controlplane/strategicPatches", []any{"x"}, noEffect},

	// Providers.
	{liveVM, ``, "/spec/providerID", "proxmox://1", leaves},
	{"infrastructure.cluster.x-k8s.io/v1beta2 AWSMachinePool", ``, "/spec/providerIDList", []any{"aws://1"}, leaves},
	{liveTemplate, ``, "/spec/providerID", "proxmox://1", noEffect},
	{liveProxmox, ``, "/spec/ipv4Config/metric", int64(100), leaves},
	{liveProxmox, ``, "/spec/ipv4Config/metric", int64(50), noEffect},
	{"infrastructure.cluster.x-k8s.io/v1alpha2 ProxmoxClusterTemplate", ``, "/spec/template/spec/ipv6Config/metric", int64(100), leaves},
	{liveProxmox, ``, "/spec/zoneConfig/0/ipv4Config/metric", int64(100), leaves},
	{liveProxmox, ``, "/spec/cloneSpec/machineSpec/controlPlane/full", true, leaves},
	{liveProxmox, ``, "/spec/cloneSpec/machineSpec/controlPlane/full", false, noEffect},
	{liveProxmox, ``, "/spec/cloneSpec/machineSpec/controlPlane/network/default/model", "virtio", leaves},
	{liveProxmox, ``, "/spec/cloneSpec/machineSpec/controlPlane/templateSelector/matchPolicy", "exact", leaves},
	{liveProxmox, ``, "/spec/cloneSpec/machineSpec/controlPlane/numCores", int64(2), noEffect},
	{liveProxmox, ``, "/spec/externalManagedControlPlane", false, leaves},
	{liveProxmox, ``, "/spec/externalManagedControlPlane", true, noEffect},
	{liveTemplate, ``, "/spec/template/spec/full", true, leaves},
	{liveTemplate, ``, "/spec/template/spec/full", false, noEffect},
	{liveTemplate, ``, "/spec/template/spec/network/networkDevices/0/model", "virtio", leaves},
	{liveTemplate, ``, "/spec/template/spec/network/networkDevices/0/model", "e1000", noEffect},
	{liveTemplate, ``, "/spec/template/spec/network/networkDevices/0/name", "net0", leaves},
	{liveTemplate, ``, "/spec/template/spec/templateSelector/matchPolicy", "exact", leaves},
	{liveTemplate, ``, "/spec/template/spec/templateSelector/matchPolicy", "uniqueness", noEffect},
	{liveVM, ``, "/spec/virtualMachineID", int64(101), leaves},
	{liveVM, ``, "/spec/network/networkDevices/0/defaultIPv4", true, leaves},
	{liveTemplate, ``, "/spec/template/spec/network/networkDevices/0/defaultIPv4", true, noEffect},
	{"ipam.cluster.x-k8s.io/v1alpha2 InClusterPrefixPool", ``, "/spec/allocationPrefixLength", int64(64), leaves},
	{"ipam.cluster.x-k8s.io/v1alpha2 InClusterPrefixPool", ``, "/spec/allocationPrefixLength", int64(56), noEffect},

	// Kubernetes.
	{"v1 Namespace", ``, "/spec/finalizers", []any{"kubernetes"}, leaves},
	{"v1 Namespace", ``, "/metadata/labels/kubernetes.io~1metadata.name", "dev", leaves},
	{"v1 Namespace", ``, "/metadata/labels/pod-security.kubernetes.io~1enforce", "privileged", noEffect},
	{liveSecret, ``, "/type", "Opaque", leaves},
	{liveSecret, ``, "/type", "kubernetes.io/tls", noEffect},
	{liveSecret, ``, "/data/password", "eA==", noEffect},
	{"v1 ServiceAccount", ``, "/secrets", []any{map[string]any{"name": "x"}}, leaves},
	{liveRole, `aggregationRule: {clusterRoleSelectors: []}`, "/rules", []any{}, yields},
	{liveRole, ``, "/rules", []any{}, noEffect},
	{liveWebhooks, `metadata: {annotations: {cert-manager.io/inject-ca-from: a/b}}`, "/webhooks/0/clientConfig/caBundle", "x", yields},
	{liveWebhooks, ``, "/webhooks/0/clientConfig/caBundle", "x", noEffect},
	{liveDefinition, `metadata: {annotations: {cert-manager.io/inject-ca-from: a/b}}`,
		"/spec/conversion/webhook/clientConfig/caBundle", "x", yields},
	{liveDefinition, ``, "/spec/conversion/webhook/clientConfig/caBundle", "x", noEffect},

	// Of another group.
	{"apps/v1 MachineDeployment", liveBounds, "/spec/replicas", int64(1), noEffect},
	{"controlplane.example.com/v1 KubeadmControlPlane", ``, "/spec/replicas", int64(1), noEffect},
}

func TestOwnership(t *testing.T) {
	hit := map[*ownershipRule]bool{}
	for _, c := range ownershipCases {
		o := OwnershipOf(liveObject(t, c.kind, c.content))
		why, left := o.Left(c.pointer, c.value)
		yieldedWhy, yielded := o.Yielded(c.pointer)
		if (why != "") != left || (yieldedWhy != "") != yielded {
			t.Errorf("%s %s: left %v %q, yielded %v %q", c.kind, c.pointer, left, why, yielded, yieldedWhy)
		}
		var got []effect
		switch {
		case yielded && left:
			got = append(got, yields)
		case left:
			got = append(got, leaves)
		case yielded:
			t.Errorf("%s %s is yielded where Git declares it, and not where it doesn't", c.kind, c.pointer)
		}
		if o.Unstable(c.pointer) {
			got = append(got, unstable)
		}
		want := c.want != noEffect && slices.Contains(got, c.want) || c.want == noEffect && len(got) == 0
		if !want {
			t.Errorf("%s {%s} %s = %v: %q, want %q", c.kind, c.content, c.pointer, c.value, got, c.want)
		}
		if r := o.find(c.pointer, func(r *ownershipRule) bool { return r.effect == c.want && r.allows(c.value) }); r != nil {
			hit[r] = true
		}
	}
	for i := range ownershipRules {
		if r := &ownershipRules[i]; !hit[r] {
			t.Errorf("no case for %s, %s", r.kinds.name, strings.Join(r.fields, " "))
		}
	}
}

func TestOwnershipRules(t *testing.T) {
	versions := []string{
		"cluster-api v", "cluster-api-provider-proxmox v", "cluster-api-control-plane-provider-talos v",
		"cluster-api-ipam-provider-in-cluster v", "kubernetes v", "kubernetes community ", "cert-manager v", "capstan docs/",
	}
	seen := map[string]bool{}
	for i := range ownershipRules {
		r := &ownershipRules[i]
		where := r.kinds.name + " " + strings.Join(r.fields, " ")
		if len(r.fields) == 0 || r.why == "" || r.kinds.name == "" {
			t.Errorf("%s: not said which fields of what, or why", where)
		}
		if !slices.ContainsFunc(versions, func(v string) bool { return strings.HasPrefix(r.source, v) && strings.Contains(r.source, "/") }) {
			t.Errorf("%s: the source is %q, which names no version and file", where, r.source)
		}
		if r.effect != leaves && r.values != nil {
			t.Errorf("%s: values count only for what is left where Git doesn't declare it", where)
		}
		for _, v := range r.values {
			switch v.(type) {
			case int64, string, bool, map[string]any:
			default:
				t.Errorf("%s: no live value is a %T", where, v)
			}
		}
		for _, f := range r.fields {
			if one, _ := heads(f); !validPointer(f) || strings.Contains(one, "*") {
				t.Errorf("%s: %s is no pattern that begins with a field's name", where, f)
			}
			key := r.kinds.name + " " + f + " " + string(r.effect)
			if seen[key] && r.values == nil && r.when == nil {
				t.Errorf("%s: said before", key)
			}
			seen[key] = true
		}
	}
}

func TestIgnoreAnnotation(t *testing.T) {
	o := OwnershipOf(liveObject(t, liveDeployment, `
metadata:
  annotations:
    capstan.dev/ignore: /spec/rollout, /metadata/labels/team~1*,/spec/template/spec/taints/*/value spec/replicas /
`))
	for pointer, want := range map[string]bool{
		"/spec/rollout":                       true,
		"/spec/rollout/strategy/type":         true,
		"/spec/rolloutAfter":                  false,
		"/metadata/labels/team~1name":         true,
		"/metadata/labels/team":               false,
		"/spec/template/spec/taints/0/value":  true,
		"/spec/template/spec/taints/0/effect": false,
		"/spec/version":                       false,
	} {
		why, yielded := o.Yielded(pointer)
		if _, left := o.Left(pointer, "x"); yielded != want || left != want {
			t.Errorf("%s: yielded %v, left %v, want %v", pointer, yielded, left, want)
		}
		if yielded && !strings.HasPrefix(why, "annotation capstan.dev/ignore: /") {
			t.Errorf("%s: %q doesn't say which annotation", pointer, why)
		}
	}
	if _, yielded := o.Yielded("/spec/replicas"); yielded {
		t.Error("a pointer without its slash counts")
	}
}

func TestStable(t *testing.T) {
	reference := map[string]any{"apiVersion": "x/v1alpha1", "kind": "ProxmoxCluster", "name": "dev", "namespace": "dev"}
	o := OwnershipOf(liveObject(t, "cluster.x-k8s.io/v1beta1 Cluster", ``))
	got := o.Stable("/spec", map[string]any{"infrastructureRef": reference, "paused": false})
	want := map[string]any{"infrastructureRef": map[string]any{"kind": "ProxmoxCluster", "name": "dev"}, "paused": false}
	if d := gocmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if len(reference) != 4 {
		t.Errorf("the value itself was changed: %v", reference)
	}
	if got := o.Stable("/spec/paused", true); got != true {
		t.Errorf("a plain value became %v", got)
	}
}

// What is no object of any kind has no rules but the general ones, and does no harm.
func TestOwnershipOfNonsense(t *testing.T) {
	for _, object := range []map[string]any{
		nil, {}, {"apiVersion": "a/b/c", "kind": 1}, {"kind": "Cluster", "apiVersion": "cluster.x-k8s.io/v1beta2", "metadata": "x", "spec": []any{}},
		{"kind": "MachinePool", "apiVersion": "cluster.x-k8s.io/v1beta2", "metadata": map[string]any{"annotations": map[string]any{"capstan.dev/ignore": 1}}},
	} {
		o := OwnershipOf(&unstructured.Unstructured{Object: object})
		for _, pointer := range []string{"", "/", "x", "//", "/spec/paused", "/spec/replicas/", "/data/~"} {
			o.Left(pointer, map[string]any{"": nil})
			o.Unstable(pointer)
		}
		if _, left := o.Left("/status", nil); !left {
			t.Errorf("%v: its status isn't left to others", object)
		}
	}
}

// It is asked for every field of every object at every event.
func TestOwnershipAllocatesNothing(t *testing.T) {
	u := liveObject(t, liveDeployment, liveBounds)
	o := OwnershipOf(u)
	var value any = "v1.33.0"
	if n := testing.AllocsPerRun(100, func() {
		o.Left("/spec/template/spec/version", value)
		o.Left("/metadata/annotations/example.com~1mine", value)
		o.Yielded("/spec/replicas")
		o.Unstable("/spec/template/spec/infrastructureRef/apiVersion")
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkOwnership(b *testing.B) {
	u := liveObject(b, liveDeployment, liveBounds)
	b.ReportAllocs()
	for b.Loop() {
		o := OwnershipOf(u)
		for _, pointer := range []string{
			"/spec/clusterName", "/spec/replicas", "/spec/selector", "/spec/template/spec/version",
			"/spec/template/spec/bootstrap/configRef", "/spec/template/spec/infrastructureRef", "/metadata/labels/a", "/metadata/annotations/b",
		} {
			o.Left(pointer, "x")
			o.Unstable(pointer)
		}
	}
}

func TestSpeaksForAll(t *testing.T) {
	for name, want := range map[string]bool{
		"before-first-apply": true, "clusterctl": true, "velero-server": true,
		"manager": false, "kubectl": false, "kubectl-edit": false, "capstan": false, "": false,
	} {
		if got := SpeaksForAll(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestClassifyMoreManagers(t *testing.T) {
	for name, want := range map[string]ManagerClass{
		"velero-server": ManagerPerson, "cert-manager-cainjector": ManagerController, "kyverno": ManagerController,
		"clusterrole-aggregation-controller": ManagerController, "gatekeeper": ManagerController,
		"cert-manager": ManagerUnknown, "rancher": ManagerUnknown, "Go-http-client": ManagerUnknown,
	} {
		if got := ClassifyManager(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}
