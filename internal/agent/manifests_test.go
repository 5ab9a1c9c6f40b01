package agent_test

import (
	"fmt"
	"maps"
	"strings"

	"sigs.k8s.io/yaml"
)

// Manifests in flow style, one object each. NS stands for the world's namespace.

func namespaceOf(suffix string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: NS%s}}`, suffix)
}

// configMap is an object that is deleted without an approval.
func configMap(suffix, name, value string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: NS%s}, data: {v: %q}}`, name, suffix, value)
}

func secret(suffix, name, value string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Secret, metadata: {name: %s, namespace: NS%s}, stringData: {password: %q}}`, name, suffix, value)
}

func cluster(suffix, name string) string {
	return fmt.Sprintf(`{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: %s, namespace: NS%s},
 spec: {infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: %s}}}`, name, suffix, name)
}

func machineTemplate(suffix, name string) string {
	return fmt.Sprintf(`{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachineTemplate, metadata: {name: %s, namespace: NS%s},
 spec: {template: {spec: {sourceNode: pve, templateID: 100, network: {networkDevices: [{name: net0, bridge: vmbr0, defaultIPv4: true}]}}}}}`, name, suffix)
}

func machines(suffix, name, clusterName, template string, replicas int) string {
	return fmt.Sprintf(`{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: %s, namespace: NS%s},
 spec: {clusterName: %s, replicas: %d, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}},
 spec: {clusterName: %s, version: v1.30.0, bootstrap: {dataSecretName: boot},
 infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: %s}}}}}`,
		name, suffix, clusterName, replicas, clusterName, template)
}

// overlayOf are the files of an overlay that renders these objects.
func overlayOf(path string, objects ...string) map[string]string {
	return map[string]string{
		path + "/kustomization.yaml": "resources: [all.yaml]\n",
		path + "/all.yaml":           strings.Join(objects, "\n---\n") + "\n",
	}
}

// clusterOf is a small whole overlay clusters/<name> in the namespace NS-<name>.
func clusterOf(name, value string, more ...string) map[string]string {
	s := "-" + name
	objects := append([]string{
		namespaceOf(s), secret(s, "credentials", "pass-of-"+name), cluster(s, name), machineTemplate(s, "workers-v1"),
		machines(s, "workers", name, "workers-v1", 2), configMap(s, "settings", value),
	}, more...)
	return overlayOf("clusters/"+name, objects...)
}

// proxmoxClusterOfA is the infrastructure of the Cluster a.
const proxmoxClusterOfA = `{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxCluster, metadata: {name: a, namespace: NS-a},
 spec: {dnsServers: [192.0.2.53], allowedNodes: [pve1], ipv4Config: {addresses: [192.0.2.10-192.0.2.20], prefix: 24, gateway: 192.0.2.1, metric: 100}}}`

// simple is an overlay with a Namespace and one ConfigMap.
func simple(name, value string, more ...string) map[string]string {
	s := "-" + name
	return overlayOf("clusters/"+name, append([]string{namespaceOf(s), configMap(s, "settings", value)}, more...)...)
}

func merge(files ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, f := range files {
		maps.Copy(all, f)
	}
	return all
}

// parse reads one manifest.
func parse(manifest string) map[string]any {
	var object map[string]any
	if err := yaml.Unmarshal([]byte(manifest), &object); err != nil {
		panic(err)
	}
	return object
}
