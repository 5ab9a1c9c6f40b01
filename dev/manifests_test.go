package dev

import (
	"strings"
	"testing"

	"github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// homelab is how people write a Talos cluster on Proxmox: Cluster API's kinds in both versions, the
// provider's in its older one, everything left out that has a default, JSON patches where strategic ones
// are expected, and the cloud provider of workers set by the kubelet's argument.
const homelab = `
apiVersion: cluster.x-k8s.io/v1beta1
kind: Cluster
metadata: {name: homelab-talos}
spec:
  controlPlaneRef: {apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, name: homelab-cp}
  infrastructureRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxCluster, name: homelab}
---
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: ProxmoxCluster
metadata: {name: homelab}
spec:
  allowedNodes: [pve1]
  controlPlaneEndpoint: {host: 192.168.1.50, port: 6443}
  dnsServers: [192.168.1.1]
  ipv4Config: {addresses: [192.168.1.60-192.168.1.80], prefix: 24, gateway: 192.168.1.1, metric: 1}
  credentialsRef: {name: proxmox-credentials}
---
apiVersion: controlplane.cluster.x-k8s.io/v1alpha3
kind: TalosControlPlane
metadata: {name: homelab-cp}
spec:
  version: v1.34.1
  infrastructureTemplate: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxMachineTemplate, name: homelab-cp}
  controlPlaneConfig:
    controlplane:
      generateType: controlplane
      talosVersion: v1.11
      strategicPatches:
      - |
        - {op: add, path: /machine/install/image, value: "factory.talos.dev/installer/x:v1.11.2"}
        - {op: add, path: /cluster/externalCloudProvider, value: {enabled: true}}
      - |
        machine:
          network:
            interfaces: [{interface: eth0, vip: {ip: 192.168.1.50}}]
---
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: ProxmoxMachineTemplate
metadata: {name: homelab-cp}
spec:
  template:
    spec:
      sourceNode: pve1
      templateID: 9000
      format: qcow2
      full: true
      memoryMiB: 4096
      checks: {skipCloudInitStatus: true}
      metadataSettings: {providerIDInjection: true}
      disks: {bootVolume: {disk: scsi0, sizeGb: 20}}
      network: {default: {bridge: vmbr0, model: virtio}}
---
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: ProxmoxMachineTemplate
metadata: {name: homelab-workers}
spec:
  template:
    spec:
      sourceNode: pve1
      templateID: 9000
      format: qcow2
      full: true
      memoryMiB: 4096
      checks: {skipCloudInitStatus: true}
      metadataSettings: {providerIDInjection: true}
      disks: {bootVolume: {disk: scsi0, sizeGb: 20}}
      network: {default: {bridge: vmbr0, model: virtio}}
---
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata: {name: homelab-workers}
spec:
  clusterName: homelab-talos
  replicas: 1
  selector: {matchLabels: null}
  template:
    spec:
      clusterName: homelab-talos
      version: v1.34.1
      bootstrap: {configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: TalosConfigTemplate, name: homelab-workers}}
      infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: homelab-workers}
---
apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3
kind: TalosConfigTemplate
metadata: {name: homelab-workers}
spec:
  template:
    spec:
      generateType: join
      talosVersion: v1.11
      configPatches: [{op: add, path: /machine/kubelet/extraArgs, value: {cloud-provider: external}}]
`

// Manifests as they are found in public come up as they are, and can be applied again.
func TestPublicManifests(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "homelab")
	e.objects = parse(t, homelab)
	for _, o := range e.objects {
		o.SetNamespace(e.namespace)
	}
	e.createCredentials()
	e.apply(e.objects...)
	e.awaitAvailable()
	e.Expect(e.machines()).To(gomega.HaveLen(2))

	// Applied again, nothing changes: not even of an immutable template that reads otherwise as it is stored.
	template, cluster := e.object("ProxmoxMachineTemplate", "homelab-cp"), e.object("ProxmoxCluster", "homelab")
	stored := func() (versions []string) {
		for _, o := range []*unstructured.Unstructured{template, cluster} {
			there := &unstructured.Unstructured{}
			there.SetAPIVersion("infrastructure.cluster.x-k8s.io/v1alpha2")
			there.SetKind(o.GetKind())
			e.Expect(admin.Get(e.ctx, client.ObjectKeyFromObject(o), there)).To(gomega.Succeed())
			versions = append(versions, there.GetResourceVersion())
		}
		return versions
	}
	before := stored()
	e.apply(template, cluster)
	e.Expect(stored()).To(gomega.Equal(before))

	// The webhooks see through the versions.
	changed := template.DeepCopy()
	e.Expect(unstructured.SetNestedField(changed.Object, int64(8192), "spec", "template", "spec", "memoryMiB")).To(gomega.Succeed())
	if err := e.tryApply(changed); err == nil || !strings.Contains(err.Error(), "immutable") {
		t.Errorf("error %v for a changed template", err)
	}

	// A reader of the older version finds what was written, and the status in its words.
	seen := &unstructured.Unstructured{}
	seen.SetAPIVersion(cluster.GetAPIVersion())
	seen.SetKind(cluster.GetKind())
	e.Expect(admin.Get(e.ctx, client.ObjectKeyFromObject(cluster), seen)).To(gomega.Succeed())
	ready, _, _ := unstructured.NestedBool(seen.Object, "status", "ready")
	e.Expect(ready).To(gomega.BeTrue())
}
