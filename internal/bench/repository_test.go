package bench

import (
	"fmt"
	"strings"
)

// objectsPerOverlay is what one overlay renders.
const objectsPerOverlay = 10

// repository is a fleet as docs/benchmarks.md describes it: one base, n overlays
// with a name prefix, two patches each and a Namespace of their own.
func repository(n int) map[string]string {
	files := map[string]string{
		"base/kustomization.yaml": "resources: [namespace.yaml, cluster.yaml, control-plane.yaml, templates.yaml, workers.yaml, health.yaml, config.yaml]\n",
		"base/namespace.yaml":     "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ns\n",
		"base/cluster.yaml":       baseCluster,
		"base/control-plane.yaml": baseControlPlane,
		"base/templates.yaml":     baseTemplates,
		"base/workers.yaml":       baseWorkers(0),
		"base/health.yaml":        baseHealth,
		"base/config.yaml":        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: notes\ndata:\n  notes: |\n    " + strings.ReplaceAll(strings.TrimSpace(baseNotes), "\n", "\n    ") + "\n",
		"README.md":               "the fleet\n",
	}
	for i := range n {
		dir := fmt.Sprintf("clusters/c%04d/", i)
		files[dir+"kustomization.yaml"] = fmt.Sprintf("namePrefix: c%04d-\nnamespace: c%04d\nresources: [../../base]\npatches:\n- path: workers.yaml\n- path: cluster.yaml\n", i, i)
		files[overlayPatch(i)] = patchFor(i, 3)
		files[dir+"cluster.yaml"] = fmt.Sprintf(`apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2
kind: ProxmoxCluster
metadata:
  name: talos
spec:
  controlPlaneEndpoint:
    host: 10.%d.%d.10
    port: 6443
  ipv4Config:
    addresses: [10.%d.%d.20-10.%d.%d.60]
    gateway: 10.%d.%d.1
    prefix: 24
`, i/250, i%250, i/250, i%250, i/250, i%250, i/250, i%250)
	}
	return files
}

// baseNotes are what the ConfigMap of every overlay holds.
var baseNotes = strings.Repeat("a line of notes about this cluster, as long as people write them\n", 40)

func overlayPatch(i int) string { return fmt.Sprintf("clusters/c%04d/workers.yaml", i) }

func patchFor(_, replicas int) string {
	return fmt.Sprintf("apiVersion: cluster.x-k8s.io/v1beta2\nkind: MachineDeployment\nmetadata:\n  name: workers\nspec:\n  replicas: %d\n", replicas)
}

const baseCluster = `apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata:
  name: talos
spec:
  clusterNetwork:
    pods:
      cidrBlocks: [10.244.0.0/16]
    services:
      cidrBlocks: [10.96.0.0/12]
  infrastructureRef:
    apiGroup: infrastructure.cluster.x-k8s.io
    kind: ProxmoxCluster
    name: talos
  controlPlaneRef:
    apiGroup: controlplane.cluster.x-k8s.io
    kind: TalosControlPlane
    name: cp
---
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2
kind: ProxmoxCluster
metadata:
  name: talos
spec:
  dnsServers: [10.0.0.53]
  allowedNodes: [pve1, pve2, pve3]
`

const baseControlPlane = `apiVersion: controlplane.cluster.x-k8s.io/v1alpha3
kind: TalosControlPlane
metadata:
  name: cp
spec:
  replicas: 3
  version: v1.34.4
  infrastructureTemplate:
    apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2
    kind: ProxmoxMachineTemplate
    name: cp-v1
  controlPlaneConfig:
    controlplane:
      generateType: controlplane
      talosVersion: v1.12
      strategicPatches:
      - |
        cluster:
          network:
            cni:
              name: none
          proxy:
            disabled: true
`

const baseTemplates = `apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2
kind: ProxmoxMachineTemplate
metadata:
  name: cp-v1
spec:
  template:
    spec:
      sourceNode: pve1
      templateID: 9000
      numSockets: 1
      numCores: 4
      memoryMiB: 8192
      network:
        networkDevices:
        - name: net0
          bridge: vmbr0
---
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2
kind: ProxmoxMachineTemplate
metadata:
  name: workers-v1
spec:
  template:
    spec:
      sourceNode: pve1
      templateID: 9000
      numSockets: 1
      numCores: 8
      memoryMiB: 16384
      network:
        networkDevices:
        - name: net0
          bridge: vmbr0
---
apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3
kind: TalosConfigTemplate
metadata:
  name: workers-v1
spec:
  template:
    spec:
      generateType: worker
      talosVersion: v1.12
`

func baseWorkers(drain int64) string {
	return fmt.Sprintf(`apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata:
  name: workers
spec:
  clusterName: talos
  replicas: 1
  selector:
    matchLabels:
      pool: workers
  template:
    metadata:
      labels:
        pool: workers
    spec:
      clusterName: talos
      version: v1.34.4
      deletion:
        nodeDrainTimeoutSeconds: %d
      bootstrap:
        configRef:
          apiGroup: bootstrap.cluster.x-k8s.io
          kind: TalosConfigTemplate
          name: workers-v1
      infrastructureRef:
        apiGroup: infrastructure.cluster.x-k8s.io
        kind: ProxmoxMachineTemplate
        name: workers-v1
`, drain)
}

const baseHealth = `apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineHealthCheck
metadata:
  name: workers
spec:
  clusterName: talos
  selector:
    matchLabels:
      pool: workers
  checks:
    nodeStartupTimeoutSeconds: 900
    unhealthyNodeConditions:
    - type: Ready
      status: "False"
      timeoutSeconds: 300
`
