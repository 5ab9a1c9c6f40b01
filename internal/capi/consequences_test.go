package capi

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// consequenceCases edit one field, or several that are separated by commas; before
// sets fields of both sides first. What is wanted is a line for each consequence: its
// kind, its machines, its message.
var consequenceCases = []struct {
	name, fixture, before, edit string
	want                        []string
}{
	// Cluster
	{"pause", "Cluster", "", "/spec/paused=true", []string{"pause 0 stops all controllers of the cluster, or lets them go on: spec.paused"}},
	{"network", "Cluster", "", "/spec/clusterNetwork/pods/cidrBlocks=[10.0.0.0/8]", []string{
		"unsafe 0 gives new machines another network than those that are there have: spec.clusterNetwork.pods.cidrBlocks[0]"}},
	{"network of v1beta1", "OldCluster", "", "/spec/clusterNetwork/apiServerPort=1", []string{
		"unsafe 0 gives new machines another network than those that are there have: spec.clusterNetwork.apiServerPort"}},
	{"network before there is a machine", "YoungCluster", "", "/spec/clusterNetwork/apiServerPort=1", []string{
		"latent 0 applies to the machines, of which there are none yet: spec.clusterNetwork.apiServerPort"}},
	{"endpoint", "Cluster", "", "/spec/controlPlaneEndpoint/host=10.0.0.2", []string{
		"unsafe 0 gives new machines another endpoint than certificates and kubeconfigs have: spec.controlPlaneEndpoint.host"}},
	{"endpoint filled in", "YoungCluster", "", "/spec/controlPlaneEndpoint/host=10.0.0.2", []string{
		"in place 0 is filled in from the infrastructure where it is empty: spec.controlPlaneEndpoint.host"}},
	{"another control plane", "Cluster", "", "/spec/controlPlaneRef/name=next", []string{
		"unsafe 0 leaves what is there running and starts another one from nothing: spec.controlPlaneRef TalosControlPlane prod -> TalosControlPlane next"}},
	{"another kind of infrastructure", "Cluster", "", "/spec/infrastructureRef/kind=AWSCluster", []string{
		"unsafe 0 leaves what is there running and starts another one from nothing: spec.infrastructureRef ProxmoxCluster prod -> AWSCluster prod"}},
	{"no control plane", "Cluster", "", "/spec/controlPlaneRef=-", []string{
		"rejected 0 is refused: a reference can't be removed: spec.controlPlaneRef TalosControlPlane prod -> (none)"}},
	{"a control plane", "YoungCluster", "", "/spec/controlPlaneRef={apiGroup: controlplane.cluster.x-k8s.io, kind: TalosControlPlane, name: prod}", []string{
		"in place 0 becomes part of the cluster: spec.controlPlaneRef (none) -> TalosControlPlane prod"}},
	{"version of a reference's API", "OldCluster", "", "/spec/controlPlaneRef/apiVersion=controlplane.cluster.x-k8s.io/v1beta1", []string{
		"none 0 names the same object: spec.controlPlaneRef.apiVersion"}},
	{"annotation that pauses", "Cluster", "", "/metadata/annotations/cluster.x-k8s.io~1paused=\"\"", []string{
		"pause 0 stops its controllers, or lets them go on: metadata.annotations[cluster.x-k8s.io/paused]"}},
	{"labels", "Cluster", "", "/metadata/labels/cni=cilium", []string{
		"in place 0 decides which ClusterResourceSets and other add-ons the cluster gets: metadata.labels.cni"}},

	// Topology
	{"topology up", "Topology", "", "/spec/topology/version=v1.34.0", []string{
		"control plane rollout 3 replaces the 3 machines of the control plane, then those of all workers: spec.topology.version v1.33.1 -> v1.34.0"}},
	{"topology down", "Topology", "", "/spec/topology/version=v1.33.0", []string{
		"rejected 0 is refused: the version of a topology can't go back: spec.topology.version v1.33.1 -> v1.33.0"}},
	{"topology down, by force", "Topology", "/metadata/annotations/unsafe.topology.cluster.x-k8s.io~1disable-update-version-check=\"\"",
		"/spec/topology/version=v1.33.0", []string{
			"control plane rollout 3 replaces the 3 machines of the control plane, then those of all workers: spec.topology.version v1.33.1 -> v1.33.0"}},
	{"topology's v", "Topology", "", "/spec/topology/version=1.33.1", []string{"none 0 means the same: spec.topology.version v1.33.1 -> 1.33.1"}},
	{"control plane of a topology grows", "Topology", "", "/spec/topology/controlPlane/replicas=5", []string{
		"scale-up 2 adds 2 machines: spec.topology.controlPlane.replicas 3 -> 5"}},
	{"workers of a topology shrink", "Topology", "",
		"/spec/topology/workers/machineDeployments/0/replicas=1,/spec/topology/workers/machineDeployments/1/replicas=1", []string{
			"scale-down 5 removes 5 machines: spec.topology.workers.machineDeployments[0].replicas 5 -> 1, spec.topology.workers.machineDeployments[1].replicas 2 -> 1"}},
	{"replicas of a topology with another type", "Topology", "", "/spec/topology/controlPlane/replicas=3.0", nil},
	{"replicas of a topology that are the usual", "Topology", "/spec/topology/controlPlane/replicas=1", "/spec/topology/controlPlane/replicas=-", []string{
		"none 0 means the same: spec.topology.controlPlane.replicas 1 -> (none), which becomes 1"}},
	{"workers of a topology in another place", "Topology", "",
		"/spec/topology/workers/machineDeployments=[{name: md-1, class: worker, replicas: 2}, {name: md-0, class: worker, replicas: 5}]", nil},
	{"workers of a topology go", "Topology", "", "/spec/topology/workers/machineDeployments/0=-", []string{
		"scale-down 5 removes 5 machines: spec.topology.workers.machineDeployments md-0"}},
	{"all workers of a topology go", "Topology", "", "/spec/topology/workers=-", []string{
		"scale-down 11 removes 11 machines: spec.topology.workers.machineDeployments md-0, spec.topology.workers.machineDeployments md-1, spec.topology.workers.machinePools mp-0"}},
	{"workers of a topology come", "Topology", "", "/spec/topology/workers/machinePools/1={name: mp-1, class: pool}", []string{
		"scale-up 1 adds 1 machine: spec.topology.workers.machinePools mp-1"}},
	{"workers of a topology elsewhere", "Topology", "", "/spec/topology/workers/machineDeployments/0/failureDomain=b", []string{
		"rollout 5 may replace 5 machines: spec.topology.workers.machineDeployments[0].failureDomain"}},
	{"variables", "Topology", "", "/spec/topology/variables/0/value=hunter2", []string{
		"control plane rollout 3 may replace 3 machines of the control plane, and those of workers: spec.topology.variables[0].value"}},
	{"topology of a Cluster that had none", "Cluster", "", "/spec/topology/classRef/name=standard", []string{
		"control plane rollout 0 may replace machines of the control plane, and those of workers: spec.topology.classRef.name"}},

	// MachineDeployment
	{"scale up", "MachineDeployment", "", "/spec/replicas=5", []string{"scale-up 2 adds 2 machines: spec.replicas 3 -> 5"}},
	{"scale down", "MachineDeployment", "", "/spec/replicas=0", []string{"scale-down 3 removes 3 machines: spec.replicas 3 -> 0"}},
	{"replicas of another type", "MachineDeployment", "", "/spec/replicas=many", []string{"scale-down 0 may remove machines: spec.replicas 3 -> many"}},
	{"no replicas", "MachineDeployment", "", "/spec/replicas=-", []string{
		"scale-down 2 removes 2 machines: spec.replicas 3 -> (none), which becomes 1"}},
	{"no replicas, and one machine", "MachineDeployment", "/spec/replicas=1", "/spec/replicas=-", []string{
		"none 0 means the same: spec.replicas 1 -> (none), which becomes 1"}},
	{"no replicas, autoscaled", "MachineDeployment", autoscaled(1, 5), "/spec/replicas=-", []string{
		"none 0 means the same: spec.replicas 3 -> (none), which becomes 3"}},
	{"no replicas, autoscaled to more", "MachineDeployment", autoscaled(4, 5), "/spec/replicas=-", []string{
		"scale-up 1 adds 1 machine: spec.replicas 3 -> (none), which becomes 4"}},
	{"version of workers", "MachineDeployment", "", "/spec/template/spec/version=v1.34.0", []string{
		"rollout 3 replaces 3 machines: spec.template.spec.version v1.33.1 -> v1.34.0"}},
	{"version of workers without v", "OldMachineDeployment", "", "/spec/template/spec/version=1.33.1", []string{
		"none 0 means the same: spec.template.spec.version v1.33.1 -> 1.33.1"}},
	{"version of workers, OnDelete", "MachineDeployment", "/spec/rollout/strategy/type=OnDelete", "/spec/template/spec/version=v1.34.0", []string{
		"latent 0 applies to a machine when somebody deletes it (strategy OnDelete): spec.template.spec.version v1.33.1 -> v1.34.0"}},
	{"version of workers, OnDelete of v1beta1", "OldMachineDeployment", "/spec/strategy/type=OnDelete", "/spec/template/spec/failureDomain=b", []string{
		"latent 0 applies to a machine when somebody deletes it (strategy OnDelete): spec.template.spec.failureDomain"}},
	{"another template", "MachineDeployment", "", "/spec/template/spec/infrastructureRef/name=b", []string{
		"rollout 3 replaces 3 machines: spec.template.spec.infrastructureRef ProxmoxMachineTemplate a -> ProxmoxMachineTemplate b"}},
	{"another template, OnDelete", "MachineDeployment", "/spec/rollout/strategy/type=OnDelete", "/spec/template/spec/infrastructureRef/name=b", []string{
		"latent 0 applies to a machine when somebody deletes it (strategy OnDelete): " +
			"spec.template.spec.infrastructureRef ProxmoxMachineTemplate a -> ProxmoxMachineTemplate b"}},
	{"another group of templates", "OldMachineDeployment", "", "/spec/template/spec/bootstrap/configRef/apiVersion=example.com/v1", []string{
		"rollout 3 replaces 3 machines: spec.template.spec.bootstrap.configRef TalosConfigTemplate a -> TalosConfigTemplate a"}},
	{"another version of templates", "OldMachineDeployment", "", "/spec/template/spec/infrastructureRef/apiVersion=infrastructure.cluster.x-k8s.io/v1alpha2", []string{
		"none 0 names the same object: spec.template.spec.infrastructureRef.apiVersion"}},
	{"a Secret instead of a template", "MachineDeployment", "",
		"/spec/template/spec/bootstrap/configRef=-,/spec/template/spec/bootstrap/dataSecretName=boot", []string{
			"rollout 3 replaces 3 machines: spec.template.spec.bootstrap.configRef TalosConfigTemplate a -> (none), " +
				"spec.template.spec.bootstrap.dataSecretName (none) -> boot"}},
	{"restart", "MachineDeployment", "", "/spec/rollout/after=\"2026-01-01T00:00:00Z\"", []string{
		"rollout 3 replaces 3 machines that are older: spec.rollout.after"}},
	{"restart, OnDelete", "MachineDeployment", "/spec/rollout/strategy/type=OnDelete", "/spec/rollout/after=\"2026-01-01T00:00:00Z\"", []string{
		"latent 0 applies to a machine when somebody deletes it (strategy OnDelete): spec.rollout.after"}},
	{"no restart", "OldMachineDeployment", "/spec/rolloutAfter=\"2026-01-01T00:00:00Z\"", "/spec/rolloutAfter=-", []string{
		"in place 0 no machine has to be younger than that any more: spec.rolloutAfter"}},
	{"strategy", "MachineDeployment", "", "/spec/rollout/strategy/type=OnDelete", []string{
		"in place 0 decides how machines are replaced next time: spec.rollout.strategy.type"}},
	{"strategy, outdated machines left", "MachineDeployment", "/spec/rollout/strategy/type=OnDelete,/status/upToDateReplicas=1", "/spec/rollout/strategy/type=RollingUpdate", []string{
		"rollout 2 replaces 2 machines that OnDelete had left: spec.rollout.strategy.type"}},
	{"strategy, none left", "MachineDeployment", "/spec/rollout/strategy/type=OnDelete", "/spec/rollout/strategy/type=RollingUpdate", []string{
		"in place 0 decides how machines are replaced next time: spec.rollout.strategy.type"}},
	{"strategy, unknown what is left", "OldMachineDeployment", "/spec/strategy/type=OnDelete", "/spec/strategy/type=RollingUpdate", []string{
		"rollout 0 replaces machines that OnDelete had left: spec.strategy.type"}},
	{"several at once", "MachineDeployment", "",
		"/spec/template/spec/version=v1.34.0,/spec/template/spec/failureDomain=b,/spec/replicas=2,/spec/template/metadata/labels/a=b,/metadata/annotations/a=b", []string{
			"rollout 3 replaces 3 machines: spec.template.spec.failureDomain, spec.template.spec.version v1.33.1 -> v1.34.0",
			"scale-down 1 removes 1 machine: spec.replicas 3 -> 2",
			"in place 0 is copied to its MachineSets: metadata.annotations.a",
			"in place 0 is carried to the machines that are there: spec.template.metadata.labels.a"}},
	{"many fields", "MachineDeployment", "",
		"/spec/template/spec/e=1,/spec/template/spec/d=1,/spec/template/spec/c=1,/spec/template/spec/b=1,/spec/template/spec/a=1", []string{
			"rollout 3 replaces 3 machines: spec.template.spec.a, spec.template.spec.b, spec.template.spec.c and 2 more"}},
	{"empty maps", "MachineDeployment", "", "/spec/template/spec/taints={},/spec/deletion={},/spec/paused=null", nil},

	// MachineSet, MachinePool
	{"scale of a MachineSet", "MachineSet", "", "/spec/replicas=2", []string{"scale-down 1 removes 1 machine: spec.replicas 3 -> 2"}},
	{"more of a MachineSet", "MachineSet", "", "/spec/replicas=4", []string{"scale-up 1 adds 1 machine: spec.replicas 3 -> 4"}},
	{"the usual of a MachineSet", "MachineSet", "/spec/replicas=1", "/spec/replicas=-", []string{
		"none 0 means the same: spec.replicas 1 -> (none), which becomes 1"}},
	{"scale of a pool", "MachinePool", "", "/spec/replicas=-", []string{
		"scale-down 3 removes 3 machines: spec.replicas 4 -> (none), which becomes 1"}},
	{"more of a pool", "MachinePool", "", "/spec/replicas=5", []string{"scale-up 1 adds 1 machine: spec.replicas 4 -> 5"}},
	{"the usual of a pool", "MachinePool", "/spec/replicas=1", "/spec/replicas=-", []string{
		"none 0 means the same: spec.replicas 1 -> (none), which becomes 1"}},
	{"version of a pool", "MachinePool", "", "/spec/template/spec/version=v1.34.0", []string{
		"rollout 4 replaces 4 machines, as the provider does it: spec.template.spec.version v1.33.1 -> v1.34.0"}},
	{"version of a pool without v", "MachinePool", "", "/spec/template/spec/version=1.33.1", []string{
		"none 0 means the same: spec.template.spec.version v1.33.1 -> 1.33.1"}},
	{"infrastructure of a pool", "MachinePool", "", "/spec/template/spec/infrastructureRef/name=b", []string{
		"rollout 4 replaces 4 machines, as the provider does it: spec.template.spec.infrastructureRef AWSMachinePool a -> AWSMachinePool b"}},
	{"namespace of a pool's reference", "MachinePool", "", "/spec/template/spec/bootstrap/configRef/namespace=fleet", []string{
		"none 0 names the same object: spec.template.spec.bootstrap.configRef.namespace"}},

	// KubeadmControlPlane
	{"patch release back", "KubeadmControlPlane", "", "/spec/version=v1.33.0", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.version v1.33.1 -> v1.33.0"}},
	{"minor version back", "KubeadmControlPlane", "", "/spec/version=v1.32.0", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.version v1.33.1 -> v1.32.0",
		"unsafe 0 goes back a minor version, which Kubernetes does not support for control planes: spec.version v1.33.1 -> v1.32.0"}},
	{"minor version skipped", "KubeadmControlPlane", "", "/spec/version=v1.35.0", []string{
		"rejected 0 is refused: minor versions can't be skipped: spec.version v1.33.1 -> v1.35.0"}},
	{"kubeadm version without v", "OldKubeadmControlPlane", "", "/spec/version=1.33.1", []string{
		"none 0 means the same: spec.version v1.33.1 -> 1.33.1"}},
	{"kubeadm replicas", "KubeadmControlPlane", "", "/spec/replicas=1", []string{"scale-down 2 removes 2 machines: spec.replicas 3 -> 1"}},
	{"kubeadm replicas gone", "KubeadmControlPlane", "/spec/replicas=1", "/spec/replicas=-", []string{
		"none 0 means the same: spec.replicas 1 -> (none), which becomes 1"}},
	{"kubeadm more replicas", "KubeadmControlPlane", "", "/spec/replicas=5", []string{"scale-up 2 adds 2 machines: spec.replicas 3 -> 5"}},
	{"kubeadm even", "KubeadmControlPlane", "", "/spec/replicas=2", []string{
		"rejected 0 is refused: replicas must be positive, and odd unless etcd is external: spec.replicas 3 -> 2"}},
	{"kubeadm even, external etcd", "KubeadmControlPlane", "/spec/kubeadmConfigSpec/clusterConfiguration/etcd={external: {endpoints: [a]}}", "/spec/replicas=2", []string{
		"scale-down 1 removes 1 machine: spec.replicas 3 -> 2"}},
	{"kubeadm none", "KubeadmControlPlane", "/spec/kubeadmConfigSpec/clusterConfiguration/etcd={external: {endpoints: [a]}}", "/spec/replicas=0", []string{
		"rejected 0 is refused: replicas must be positive, and odd unless etcd is external: spec.replicas 3 -> 0"}},
	{"kubeadm template", "KubeadmControlPlane", "", "/spec/machineTemplate/spec/infrastructureRef/name=b", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: " +
			"spec.machineTemplate.spec.infrastructureRef ProxmoxMachineTemplate a -> ProxmoxMachineTemplate b"}},
	{"kubeadm template's version", "OldKubeadmControlPlane", "", "/spec/machineTemplate/infrastructureRef/apiVersion=infrastructure.cluster.x-k8s.io/v1alpha2", []string{
		"none 0 names the same object: spec.machineTemplate.infrastructureRef.apiVersion"}},
	{"files", "KubeadmControlPlane", "", "/spec/kubeadmConfigSpec/files/0/content=hunter3", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.kubeadmConfigSpec.files[0].content"}},
	{"no files", "KubeadmControlPlane", "/spec/kubeadmConfigSpec/files=-", "/spec/kubeadmConfigSpec/files=[]", []string{
		"none 0 means the same: spec.kubeadmConfigSpec.files"}},
	{"format", "KubeadmControlPlane", "", "/spec/kubeadmConfigSpec/format=cloud-config", []string{"none 0 means the same: spec.kubeadmConfigSpec.format"}},
	{"no taints", "KubeadmControlPlane", "", "/spec/kubeadmConfigSpec/joinConfiguration/nodeRegistration/taints=[]", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.kubeadmConfigSpec.joinConfiguration.nodeRegistration.taints"}},
	{"init", "KubeadmControlPlane", "", "/spec/kubeadmConfigSpec/initConfiguration/nodeRegistration/name=a", []string{
		"control plane rollout 1 may replace 1 machine of the control plane, the one that was first: spec.kubeadmConfigSpec.initConfiguration.nodeRegistration.name"}},
	{"init's default", "KubeadmControlPlane", "", "/spec/kubeadmConfigSpec/initConfiguration/nodeRegistration/imagePullPolicy=IfNotPresent", []string{
		"none 0 means the same: spec.kubeadmConfigSpec.initConfiguration.nodeRegistration.imagePullPolicy"}},
	{"etcd", "KubeadmControlPlane", "", "/spec/kubeadmConfigSpec/clusterConfiguration/etcd/local/dataDir=/etcd", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.kubeadmConfigSpec.clusterConfiguration.etcd.local.dataDir"}},
	{"etcd's lists", "KubeadmControlPlane", "", "/spec/kubeadmConfigSpec/clusterConfiguration/etcd/local/extraArgs=[]", []string{
		"none 0 means the same: spec.kubeadmConfigSpec.clusterConfiguration.etcd.local.extraArgs"}},
	{"etcd moves", "KubeadmControlPlane", "", "/spec/kubeadmConfigSpec/clusterConfiguration/etcd={external: {endpoints: [a]}}", []string{
		"rejected 0 is refused: etcd can't become external, nor cease to be: " +
			"spec.kubeadmConfigSpec.clusterConfiguration.etcd.external.endpoints, spec.kubeadmConfigSpec.clusterConfiguration.etcd.local.dataDir"}},
	{"kubeadm restart", "KubeadmControlPlane", "", "/spec/rollout/after=\"2026-01-01T00:00:00Z\"", []string{
		"control plane rollout 3 replaces 3 machines of the control plane that are older, one at a time: spec.rollout.after"}},
	{"kubeadm no restart", "OldKubeadmControlPlane", "/spec/rolloutAfter=\"2026-01-01T00:00:00Z\"", "/spec/rolloutAfter=-", []string{
		"in place 0 no machine has to be younger than that any more: spec.rolloutAfter"}},
	{"expiry sooner", "KubeadmControlPlane", "", "/spec/rollout/before/certificatesExpiryDays=60", []string{
		"control plane rollout 0 may replace machines of the control plane whose certificates expire by then: spec.rollout.before.certificatesExpiryDays"}},
	{"expiry later", "KubeadmControlPlane", "", "/spec/rollout/before=-", []string{
		"in place 0 machines are replaced later, before their certificates expire: spec.rollout.before.certificatesExpiryDays"}},

	// TalosControlPlane
	{"talos version", "TalosControlPlane", "", "/spec/version=1.33.1", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.version v1.33.1 -> 1.33.1"}},
	{"talos version, OnDelete", "TalosControlPlane", "/spec/rolloutStrategy/type=OnDelete", "/spec/version=v1.33.2", []string{
		"latent 0 applies to a machine when somebody deletes it (strategy OnDelete): spec.version v1.33.1 -> v1.33.2"}},
	{"talos version skipped", "TalosControlPlane", "", "/spec/version=v1.35.0", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.version v1.33.1 -> v1.35.0",
		"unsafe 0 skips a minor version, which Kubernetes does not support: spec.version v1.33.1 -> v1.35.0"}},
	{"talos replicas", "TalosControlPlane", "", "/spec/replicas=1", []string{"scale-down 2 removes 2 machines: spec.replicas 3 -> 1"}},
	{"talos more replicas", "TalosControlPlane", "", "/spec/replicas=5", []string{"scale-up 2 adds 2 machines: spec.replicas 3 -> 5"}},
	{"talos the usual", "TalosControlPlane", "/spec/replicas=1", "/spec/replicas=-", []string{
		"none 0 means the same: spec.replicas 1 -> (none), which becomes 1"}},
	{"talos none", "TalosControlPlane", "", "/spec/replicas=0", []string{
		"scale-down 2 removes 2 machines: spec.replicas 3 -> 0",
		"unsafe 0 is never reached: the last machine of a control plane of Talos is not removed: spec.replicas 3 -> 0"}},
	{"talos not even one", "TalosControlPlane", "/spec/replicas=1", "/spec/replicas=0", []string{
		"unsafe 0 is never reached: the last machine of a control plane of Talos is not removed: spec.replicas 1 -> 0"}},
	{"talos template", "TalosControlPlane", "", "/spec/infrastructureTemplate/name=b", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.infrastructureTemplate ProxmoxMachineTemplate a -> ProxmoxMachineTemplate b"}},
	{"talos template, OnDelete", "TalosControlPlane", "/spec/rolloutStrategy/type=OnDelete", "/spec/infrastructureTemplate/name=b", []string{
		"latent 0 applies to a machine when somebody deletes it (strategy OnDelete): spec.infrastructureTemplate ProxmoxMachineTemplate a -> ProxmoxMachineTemplate b"}},
	{"talos template's version", "TalosControlPlane", "", "/spec/infrastructureTemplate/apiVersion=infrastructure.cluster.x-k8s.io/v1alpha2", []string{
		"none 0 names the same object: spec.infrastructureTemplate.apiVersion"}},
	{"a blank in a patch", "TalosControlPlane", "", "/spec/controlPlaneConfig/controlplane/strategicPatches=[\"machine:  {token: hunter2}\"]", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.controlPlaneConfig.controlplane.strategicPatches[0]"}},
	{"a patch, OnDelete", "TalosControlPlane", "/spec/rolloutStrategy/type=OnDelete", "/spec/controlPlaneConfig/controlplane/talosVersion=v1.11", []string{
		"latent 0 applies to a machine when somebody deletes it (strategy OnDelete): spec.controlPlaneConfig.controlplane.talosVersion"}},
	{"an empty list of patches", "TalosControlPlane", "", "/spec/controlPlaneConfig/controlplane/configPatches=[]", []string{
		"control plane rollout 3 replaces 3 machines of the control plane, one at a time: spec.controlPlaneConfig.controlplane.configPatches",
		"unsafe 0 is never up to date: the empty list does not get to the machines, which are replaced again and again: spec.controlPlaneConfig.controlplane.configPatches"}},
	{"no empty list of patches", "TalosControlPlane", "/spec/controlPlaneConfig/controlplane/configPatches=[]", "/spec/controlPlaneConfig/controlplane/configPatches=-", []string{
		"none 0 ends a rollout without end: the empty list never got to the machines: spec.controlPlaneConfig.controlplane.configPatches"}},
	{"an empty hostname", "TalosControlPlane", "", "/spec/controlPlaneConfig/controlplane/hostname={}", nil},
	{"talos strategy", "TalosControlPlane", "", "/spec/rolloutStrategy/type=OnDelete", []string{
		"in place 0 decides how machines are replaced next time: spec.rolloutStrategy.type"}},
	{"talos strategy back", "TalosControlPlane", "/spec/rolloutStrategy/type=OnDelete", "/spec/rolloutStrategy/type=RollingUpdate", []string{
		"control plane rollout 0 replaces machines of the control plane that OnDelete had left: spec.rolloutStrategy.type"}},
	{"talos surge", "TalosControlPlane", "", "/spec/rolloutStrategy/rollingUpdate/maxSurge=0", []string{
		"in place 0 decides how machines are replaced next time: spec.rolloutStrategy.rollingUpdate.maxSurge"}},
	{"talos surge, one machine", "TalosControlPlane", "/spec/replicas=1", "/spec/rolloutStrategy/rollingUpdate/maxSurge=0", []string{
		"unsafe 0 no rollout comes to an end: a single machine is never removed first: spec.rolloutStrategy.rollingUpdate.maxSurge"}},

	// Other control planes
	{"rke2 version", "RKE2ControlPlane", "", "/spec/version=v1.31.0+rke2r1", []string{
		"control plane rollout 3 replaces 3 machines of the control plane: spec.version v1.33.1+rke2r1 -> v1.31.0+rke2r1",
		"unsafe 0 goes back a minor version, which Kubernetes does not support for control planes: spec.version v1.33.1+rke2r1 -> v1.31.0+rke2r1"}},
	{"rke2 replicas", "RKE2ControlPlane", "", "/spec/replicas=-", []string{
		"scale-down 2 removes 2 machines: spec.replicas 3 -> (none), which becomes 1"}},
	{"rke2 more replicas", "RKE2ControlPlane", "", "/spec/replicas=5", []string{"scale-up 2 adds 2 machines: spec.replicas 3 -> 5"}},
	{"rke2 the usual", "RKE2ControlPlane", "/spec/replicas=1", "/spec/replicas=-", []string{
		"none 0 means the same: spec.replicas 1 -> (none), which becomes 1"}},
	{"rke2 template", "RKE2ControlPlane", "", "/spec/machineTemplate/infrastructureRef/name=b", []string{
		"control plane rollout 3 may replace 3 machines of the control plane: spec.machineTemplate.infrastructureRef ProxmoxMachineTemplate a -> ProxmoxMachineTemplate b"}},
	{"rke2 template's version", "RKE2ControlPlane", "", "/spec/machineTemplate/infrastructureRef/apiVersion=infrastructure.cluster.x-k8s.io/v1", []string{
		"none 0 names the same object: spec.machineTemplate.infrastructureRef.apiVersion"}},

	// The rest
	{"template", "ProxmoxMachineTemplate", "", "/spec/template/spec/memoryMiB=1", []string{
		"rejected 0 is refused: make one of another name, and refer to that: spec.template.spec.memoryMiB"}},
	{"template of a class", "ClassTemplate", "", "/spec/template/spec/memoryMiB=1", []string{
		"control plane rollout 0 may replace machines of every Cluster of its ClusterClass: spec.template.spec.memoryMiB"}},
	{"other template", "KubeadmConfigTemplate", "", "/spec/template/spec/files=[]", []string{
		"latent 0 applies to machines that are made later: spec.template.spec.files"}},
	{"other template of a class", "ClassConfigTemplate", "", "/spec/template/spec/files=[]", []string{
		"control plane rollout 0 may replace machines of every Cluster of its ClusterClass: spec.template.spec.files"}},
	{"template's label", "ProxmoxMachineTemplate", "", "/metadata/labels/a=b", []string{"none 0 stays on the object: metadata.labels.a"}},
	{"proxmox endpoint", "ProxmoxCluster", "", "/spec/controlPlaneEndpoint/host=10.0.0.2", []string{
		"unsafe 0 gives new machines another endpoint than certificates and kubeconfigs have: spec.controlPlaneEndpoint.host"}},
	{"proxmox endpoint gone", "ProxmoxCluster", "", "/spec/controlPlaneEndpoint=-", []string{
		"in place 0 is filled in from the infrastructure where it is empty: spec.controlPlaneEndpoint.host, spec.controlPlaneEndpoint.port"}},
	{"strategy of a set", "ClusterResourceSet", "", "/spec/strategy=ApplyOnce", []string{"rejected 0 is refused: it can't change: spec.strategy"}},
	{"first strategy of a set", "PlainResourceSet", "", "/spec/strategy=ApplyOnce", []string{"none 0 is the default: spec.strategy"}},
	{"not Cluster API's", "ConfigMap", "", "/data/a=b", nil},
	{"nothing", "MachineDeployment", "", "/status/replicas=1", nil},
}

func autoscaled(least, most int) string {
	const annotation = "/metadata/annotations/cluster.x-k8s.io~1cluster-api-autoscaler-node-group-"
	return fmt.Sprintf("%smin-size=%q,%smax-size=%q", annotation, fmt.Sprint(least), annotation, fmt.Sprint(most))
}

func TestConsequences(t *testing.T) {
	type hit struct {
		rule *consequenceRule
		kind ConsequenceKind
	}
	hits := map[hit]bool{}
	for _, test := range consequenceCases {
		t.Run(test.name, func(t *testing.T) {
			before := edited(t, test.fixture, test.before, fixtureOf(t, test.fixture))
			after := edited(t, test.fixture, test.edit, before)
			var got []string
			for i, c := range Consequences(before, after) {
				got = append(got, fmt.Sprintf("%s %d %s", c.Kind, c.Machines, c.Message))
				if len(c.Fields) == 0 || !slices.IsSorted(c.Fields) {
					t.Errorf("fields of %d: %q", i, c.Fields)
				}
				if strings.Contains(c.Message, "hunter") {
					t.Errorf("secret material in %q", c.Message)
				}
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
		before := edited(t, test.fixture, test.before, fixtureOf(t, test.fixture))
		after := edited(t, test.fixture, test.edit, before)
		if table := tableOf(before.GroupVersionKind().GroupKind()); table != nil {
			e := &edit{before: before, after: after, table: table}
			for _, c := range changesOf(before, after) {
				for _, o := range e.outcomesOf(c) {
					hits[hit{o.rule, o.kind}] = true
				}
			}
		}
	}
	// Every kind that a rule may come to is in a case, and no case comes to another.
	for i := range consequenceTables {
		for j := range consequenceTables[i].rules {
			r := &consequenceTables[i].rules[j]
			for kind := ConsequenceNone; kind <= ConsequenceRebuild; kind++ {
				named := slices.Contains(r.kinds, kind)
				if hit := hits[hit{r, kind}]; hit && !named {
					t.Errorf("%s: %s comes to %q, which it doesn't name", consequenceTables[i].title, r.fields[0], kind)
				} else if named && !hit && r.weigh != nil {
					t.Errorf("%s: no case in which %s comes to %q", consequenceTables[i].title, r.fields[0], kind)
				}
			}
		}
	}
}

// edited sets fields: pointer=YAML, separated by commas before a slash.
func edited(t *testing.T, fixture, edits string, u *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	for edit := range strings.SplitSeq(strings.ReplaceAll(edits, ",/", "\n/"), "\n") {
		if edit == "" {
			continue
		}
		pointer, value, found := strings.Cut(edit, "=")
		if !found {
			t.Fatalf("%s: no value in %q", fixture, edit)
		}
		u = withValue(t, u, pointer, value)
	}
	return u
}

// TestConsequencesOfEveryField changes each field that a rule names, where the values
// don't matter: no other rule hides it, and the message has no value.
func TestConsequencesOfEveryField(t *testing.T) {
	fixtures := map[string][]string{
		"Cluster": {"Cluster", "Topology"}, "MachineDeployment": {"MachineDeployment"}, "MachineSet": {"MachineSet"},
		"MachinePool": {"MachinePool"}, "Machine": {"Machine"}, "KubeadmControlPlane": {"KubeadmControlPlane"},
		"TalosControlPlane": {"TalosControlPlane"}, "Other control planes": {"RKE2ControlPlane"}, "ClusterClass": {"ClusterClass"},
		"ProxmoxMachineTemplate, TalosConfigTemplate, TalosConfig, KubeadmControlPlaneTemplate": {"ProxmoxMachineTemplate"},
		"Other templates": {"KubeadmConfigTemplate"}, "ProxmoxCluster and other infrastructure clusters": {"ProxmoxCluster"},
		"Machine pools of infrastructure providers": {"AWSMachinePool"}, "Bootstrap configurations": {"KubeadmConfig"},
		"MachineHealthCheck": {"MachineHealthCheck"}, "ClusterResourceSet": {"ClusterResourceSet"}, "Address pools": {"InClusterIPPool"},
		"Everything else of Cluster API and its providers": {"HelmChartProxy"},
	}
	stars := strings.NewReplacer("/workers/*/*", "/workers/machineDeployments/0", "/*/", "/initConfiguration/")
	for i := range consequenceTables {
		table := &consequenceTables[i]
		if len(fixtures[table.title]) == 0 {
			t.Errorf("no fixture for %s", table.title)
		}
		for _, rules := range [][]consequenceRule{pauseConsequences, table.rules} {
			for j := range rules {
				r := &rules[j]
				if r.weigh != nil {
					continue
				}
				if len(r.kinds) == 0 || len(r.kinds) > 1 && (table.onDelete == nil || r.kinds[1] != ConsequenceLatent) {
					t.Errorf("%s: %s has kinds %v", table.title, r.fields[0], r.kinds)
				}
				for _, pattern := range r.fields {
					for _, fixture := range fixtures[table.title] {
						if strings.Contains(pattern, "/topology/") != (fixture == "Topology") && table.title == "Cluster" {
							continue
						}
						field := stars.Replace(pattern)
						if slices.Contains(rest, pattern) {
							field += "/zzz"
						}
						before := fixtureOf(t, fixture)
						after := withValue(t, before, field, "hunter2")
						want := r.kinds[0]
						for _, c := range Consequences(before, after) {
							if c.Kind != want {
								t.Errorf("%s: %s of %s is %s: %s", table.title, field, fixture, c.Kind, c.Message)
							}
							if !r.tells && strings.Contains(c.Message, "hunter") {
								t.Errorf("%s: secret material: %s", field, c.Message)
							}
						}
						if tableOf(before.GroupVersionKind().GroupKind()) != table || len(Consequences(before, after)) == 0 {
							t.Errorf("%s: %s of %s does nothing, or is another table's", table.title, field, fixture)
						}
						if table.onDelete == nil || len(r.kinds) == 1 {
							continue
						}
						before, after = withValue(t, before, "/spec/rolloutStrategy/type", "OnDelete"), withValue(t, after, "/spec/rolloutStrategy/type", "OnDelete")
						before, after = withValue(t, before, "/spec/rollout/strategy/type", "OnDelete"), withValue(t, after, "/spec/rollout/strategy/type", "OnDelete")
						if got := Consequences(before, after); len(got) != 1 || got[0].Kind != ConsequenceLatent {
							t.Errorf("%s: %s of %s, OnDelete: %v", table.title, field, fixture, got)
						}
					}
				}
			}
		}
	}
}

func TestConsequencesOfMakingAndDeleting(t *testing.T) {
	for _, test := range []struct{ fixture, edit, made, deleted string }{
		{"Cluster", "", "rebuild 0 builds the cluster anew", "deletion 8 the cluster and all its machines are deleted (8 machines)"},
		{"TalosControlPlane", "", "rebuild 3 builds a control plane anew: 3 machines", "deletion 3 all machines of the control plane are deleted (3 machines)"},
		{"RKE2ControlPlane", "/spec/replicas=-", "rebuild 1 builds a control plane anew: 1 machine", "deletion 0 all machines of the control plane are deleted"},
		{"ProxmoxCluster", "", "rebuild 0 builds the infrastructure of the cluster anew", "deletion 0 the cluster loses its infrastructure"},
		{"MachineDeployment", "", "scale-up 3 adds 3 machines", "deletion 3 its machines are deleted (3 machines)"},
		{"MachineDeployment", "/spec/replicas=0,/status/replicas=0", "none 0 asks for no machines", "none 0 no machine is deleted with it"},
		{"MachinePool", "", "scale-up 4 adds 4 machines", "deletion 4 its machines are deleted (4 machines)"},
		{"Machine", "", "scale-up 1 adds 1 machine", "deletion 1 the machine is deleted (1 machine)"},
		{"ProxmoxMachineTemplate", "", "none 0 makes nothing by itself", "latent 0 no machine can be made from it any more"},
		{"MachineHealthCheck", "", "none 0 touches no machines", "none 0 no machine is deleted with it"},
		{"Secret", "", "", "deletion 0 providers need their credentials to delete machines"},
		{"ConfigMap", "", "", ""},
	} {
		u := edited(t, test.fixture, test.edit, fixtureOf(t, test.fixture))
		for _, c := range []struct {
			what, want string
			got        []Consequence
		}{{"made", test.made, Consequences(nil, u)}, {"deleted", test.deleted, Consequences(u, nil)}} {
			got := ""
			for _, c := range c.got {
				got += fmt.Sprintf("%s %d %s", c.Kind, c.Machines, c.Message)
			}
			if got != c.want {
				t.Errorf("%s %s: %q, not %q", test.fixture, c.what, got, c.want)
			}
		}
	}
	if got := Consequences(nil, nil); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

func TestDisruptive(t *testing.T) {
	var got []string
	for kind := ConsequenceNone; kind <= ConsequenceRebuild; kind++ {
		if (Consequence{Kind: kind}).Disruptive() {
			got = append(got, kind.String())
		}
	}
	want := []string{"scale-down", "rollout", "control plane rollout", "deletion", "rebuild"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := ConsequenceKind(99).String(); got != "unknown" {
		t.Error(got)
	}
}

var updatePage = flag.Bool("update-consequences", false, "write the tables of docs/reference/consequences.md")

// TestConsequencesPage keeps the tables of the documentation those that are compiled in.
func TestConsequencesPage(t *testing.T) {
	const page = "../../docs/reference/consequences.md"
	const begin, end = "<!-- tables: go test ./internal/capi -run TestConsequencesPage -update-consequences -->\n", "<!-- end of tables -->"
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, tail, found := strings.Cut(string(content), begin)
	tables, tail, closed := strings.Cut(tail, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the tables", page)
	}
	want := consequencePage()
	if *updatePage {
		if err := os.WriteFile(page, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(want, tables); d != "" {
		t.Errorf("%s (-tables compiled in +page); write it with -update-consequences:\n%s", page, d)
	}
}

func consequencePage() string {
	var b strings.Builder
	for i := range consequenceTables {
		table := &consequenceTables[i]
		fmt.Fprintf(&b, "\n### %s\n\n| field | consequence | what happens |\n|---|---|---|\n", table.title)
		var sources []string
		for _, r := range table.rules {
			fields := shortly(r.fields)
			switch {
			case slices.Equal(r.fields, rest) && len(table.rules) == 1:
				fields = "anything in `spec`"
			case slices.Equal(r.fields, rest):
				fields = "anything else in `spec`"
			}
			kinds := make([]string, len(r.kinds))
			for i, k := range r.kinds {
				kinds[i] = k.String()
			}
			what := strings.ReplaceAll(r.says, "{machines}", "machines")
			if r.why != "" {
				what += "; " + r.why
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", fields, strings.Join(kinds, ", "), what)
			if !slices.Contains(sources, r.source) {
				sources = append(sources, r.source)
			}
		}
		fmt.Fprintf(&b, "\nSources: %s.\n", strings.Join(sources, "; "))
	}
	return b.String() + "\n"
}

// shortly writes fields with dots, those of one parent together.
func shortly(fields []string) string {
	var parents []string
	names := map[string][]string{}
	for _, f := range fields {
		last := strings.LastIndexByte(f, '/')
		parent := strings.ReplaceAll(f[1:last+1], "/", ".")
		if !slices.Contains(parents, parent) {
			parents = append(parents, parent)
		}
		names[parent] = append(names[parent], strings.ReplaceAll(f[last+1:], "~1", "/"))
	}
	var written []string
	for _, parent := range parents {
		list := strings.Join(names[parent], ", ")
		if len(names[parent]) > 1 {
			list = "{" + list + "}"
		}
		written = append(written, "`"+parent+list+"`")
	}
	return strings.Join(written, ", ")
}
