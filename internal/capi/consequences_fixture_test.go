package capi

import (
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// consequenceFixtures are live objects that the tests of consequences edit.
var consequenceFixtures = map[string]string{
	"Cluster": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {name: prod, namespace: fleet}
spec:
  clusterNetwork: {pods: {cidrBlocks: [10.244.0.0/16]}}
  controlPlaneEndpoint: {host: 10.0.0.1, port: 6443}
  controlPlaneRef: {apiGroup: controlplane.cluster.x-k8s.io, kind: TalosControlPlane, name: prod}
  infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: prod}
status:
  initialization: {controlPlaneInitialized: true}
  controlPlane: {replicas: 3}
  workers: {replicas: 5}
`,
	"OldCluster": `
apiVersion: cluster.x-k8s.io/v1beta1
kind: Cluster
metadata: {name: prod, namespace: fleet}
spec:
  clusterNetwork: {pods: {cidrBlocks: [10.244.0.0/16]}}
  controlPlaneRef: {apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, name: prod, namespace: fleet}
status:
  conditions: [{type: ControlPlaneInitialized, status: "True"}]
`,
	"YoungCluster": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {name: prod, namespace: fleet}
spec:
  controlPlaneEndpoint: {host: "", port: 0}
  infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: prod}
status: {phase: Pending}
`,
	"Topology": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {name: prod, namespace: fleet}
spec:
  topology:
    classRef: {name: standard}
    version: v1.33.1
    controlPlane: {replicas: 3}
    workers:
      machineDeployments:
      - {name: md-0, class: worker, replicas: 5}
      - {name: md-1, class: worker, replicas: 2}
      machinePools:
      - {name: mp-0, class: pool, replicas: 4}
    variables: [{name: token, value: a}]
`,
	"MachineDeployment": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata: {name: workers, namespace: fleet}
spec:
  clusterName: prod
  replicas: 3
  rollout: {strategy: {type: RollingUpdate}}
  selector: {matchLabels: {pool: a}}
  template:
    metadata: {labels: {pool: a}}
    spec:
      clusterName: prod
      version: v1.33.1
      bootstrap: {configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: TalosConfigTemplate, name: a}}
      infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: a}
status: {replicas: 3, upToDateReplicas: 3}
`,
	"OldMachineDeployment": `
apiVersion: cluster.x-k8s.io/v1beta1
kind: MachineDeployment
metadata: {name: workers, namespace: fleet}
spec:
  clusterName: prod
  replicas: 3
  strategy: {type: RollingUpdate}
  selector: {matchLabels: {pool: a}}
  template:
    metadata: {labels: {pool: a}}
    spec:
      clusterName: prod
      version: v1.33.1
      bootstrap:
        configRef: {apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3, kind: TalosConfigTemplate, name: a, namespace: fleet}
      infrastructureRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxMachineTemplate, name: a}
`,
	"MachineSet": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineSet
metadata: {name: workers-x, namespace: fleet}
spec: {clusterName: prod, replicas: 3, template: {spec: {version: v1.33.1}}}
`,
	"MachinePool": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachinePool
metadata: {name: pool, namespace: fleet}
spec:
  clusterName: prod
  replicas: 4
  template:
    spec:
      version: v1.33.1
      bootstrap: {configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: KubeadmConfig, name: a}}
      infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: AWSMachinePool, name: a}
`,
	"Machine": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: Machine
metadata: {name: one, namespace: fleet}
spec: {clusterName: prod, version: v1.33.1}
`,
	"KubeadmControlPlane": `
apiVersion: controlplane.cluster.x-k8s.io/v1beta2
kind: KubeadmControlPlane
metadata: {name: prod, namespace: fleet}
spec:
  replicas: 3
  version: v1.33.1
  rollout: {before: {certificatesExpiryDays: 30}}
  machineTemplate:
    spec:
      infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: a}
  kubeadmConfigSpec:
    clusterConfiguration: {etcd: {local: {dataDir: /var/lib/etcd}}}
    files: [{path: /etc/secret, content: hunter2}]
`,
	"OldKubeadmControlPlane": `
apiVersion: controlplane.cluster.x-k8s.io/v1beta1
kind: KubeadmControlPlane
metadata: {name: prod, namespace: fleet}
spec:
  replicas: 3
  version: v1.33.1
  machineTemplate:
    infrastructureRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxMachineTemplate, name: a}
  kubeadmConfigSpec: {}
`,
	"TalosControlPlane": `
apiVersion: controlplane.cluster.x-k8s.io/v1alpha3
kind: TalosControlPlane
metadata: {name: prod, namespace: fleet}
spec:
  replicas: 3
  version: v1.33.1
  infrastructureTemplate: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxMachineTemplate, name: a}
  rolloutStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1}}
  controlPlaneConfig:
    controlplane:
      generateType: controlplane
      strategicPatches: ["machine: {token: hunter2}"]
`,
	"RKE2ControlPlane": `
apiVersion: controlplane.cluster.x-k8s.io/v1beta1
kind: RKE2ControlPlane
metadata: {name: prod, namespace: fleet}
spec:
  replicas: 3
  version: v1.33.1+rke2r1
  machineTemplate:
    infrastructureRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxMachineTemplate, name: a}
`,
	"ClusterClass": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: ClusterClass
metadata: {name: standard, namespace: fleet}
spec: {}
`,
	"ProxmoxMachineTemplate": `
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: ProxmoxMachineTemplate
metadata: {name: a, namespace: fleet}
spec: {template: {spec: {memoryMiB: 4096}}}
`,
	"ClassTemplate": `
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: ProxmoxMachineTemplate
metadata:
  name: a
  namespace: fleet
  ownerReferences: [{apiVersion: cluster.x-k8s.io/v1beta2, kind: ClusterClass, name: standard, uid: x}]
spec: {template: {spec: {memoryMiB: 4096}}}
`,
	"KubeadmConfigTemplate": `
apiVersion: bootstrap.cluster.x-k8s.io/v1beta2
kind: KubeadmConfigTemplate
metadata: {name: a, namespace: fleet}
spec: {template: {spec: {}}}
`,
	"ClassConfigTemplate": `
apiVersion: bootstrap.cluster.x-k8s.io/v1beta2
kind: KubeadmConfigTemplate
metadata:
  name: a
  namespace: fleet
  ownerReferences: [{apiVersion: cluster.x-k8s.io/v1beta2, kind: ClusterClass, name: standard, uid: x}]
spec: {template: {spec: {}}}
`,
	"ProxmoxCluster": `
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: ProxmoxCluster
metadata: {name: prod, namespace: fleet}
spec:
  controlPlaneEndpoint: {host: 10.0.0.1, port: 6443}
  ipv4Config: {addresses: [10.0.0.10-10.0.0.20]}
`,
	"AWSMachinePool": `
apiVersion: infrastructure.cluster.x-k8s.io/v1beta2
kind: AWSMachinePool
metadata: {name: pool, namespace: fleet}
spec: {}
`,
	"KubeadmConfig": `
apiVersion: bootstrap.cluster.x-k8s.io/v1beta2
kind: KubeadmConfig
metadata: {name: a, namespace: fleet}
spec: {}
`,
	"MachineHealthCheck": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineHealthCheck
metadata: {name: workers, namespace: fleet}
spec: {clusterName: prod}
`,
	"ClusterResourceSet": `
apiVersion: addons.cluster.x-k8s.io/v1beta2
kind: ClusterResourceSet
metadata: {name: cni, namespace: fleet}
spec: {strategy: Reconcile}
`,
	"PlainResourceSet": `
apiVersion: addons.cluster.x-k8s.io/v1beta2
kind: ClusterResourceSet
metadata: {name: cni, namespace: fleet}
spec: {}
`,
	"InClusterIPPool": `
apiVersion: ipam.cluster.x-k8s.io/v1alpha2
kind: InClusterIPPool
metadata: {name: pool, namespace: fleet}
spec: {addresses: [10.0.0.10-10.0.0.20]}
`,
	"HelmChartProxy": `
apiVersion: addons.cluster.x-k8s.io/v1alpha1
kind: HelmChartProxy
metadata: {name: cni, namespace: fleet}
spec: {}
`,
	"ConfigMap": `
apiVersion: v1
kind: ConfigMap
metadata: {name: values, namespace: fleet}
data: {}
`,
	"Secret": `
apiVersion: v1
kind: Secret
metadata: {name: credentials, namespace: fleet}
`,
}

// fixtureOf returns a fixture.
func fixtureOf(t *testing.T, fixture string) *unstructured.Unstructured {
	t.Helper()
	manifest, found := consequenceFixtures[fixture]
	if !found {
		t.Fatalf("no fixture %s", fixture)
	}
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(manifest), &u.Object); err != nil {
		t.Fatal(err)
	}
	u.Object = u.DeepCopy().Object
	return u
}

// withValue returns a copy of an object that has a value, given as YAML, at a JSON pointer;
// none if it is "-".
func withValue(t *testing.T, u *unstructured.Unstructured, pointer, text string) *unstructured.Unstructured {
	t.Helper()
	var value any
	if text != "-" {
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
	}
	u = u.DeepCopy()
	var keys []string
	for _, key := range strings.Split(pointer, "/")[1:] {
		keys = append(keys, strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~"))
	}
	u.Object, _ = setIn(u.Object, keys, value, text == "-").(map[string]any)
	return u
}

func setIn(in any, keys []string, value any, remove bool) any {
	if len(keys) == 0 {
		return value
	}
	if list, ok := in.([]any); ok {
		i, err := strconv.Atoi(keys[0])
		switch {
		case err != nil:
			panic("no index: " + keys[0])
		case i == len(list):
			return append(list, setIn(nil, keys[1:], value, remove))
		case remove && len(keys) == 1:
			return append(list[:i:i], list[i+1:]...)
		}
		list[i] = setIn(list[i], keys[1:], value, remove)
		return list
	}
	m, ok := in.(map[string]any)
	if !ok {
		m = map[string]any{}
	}
	if remove && len(keys) == 1 {
		delete(m, keys[0])
		return m
	}
	m[keys[0]] = setIn(m[keys[0]], keys[1:], value, remove)
	return m
}
