package render

import (
	"encoding/json"
	"slices"
	"strings"
)

// referenceRules teaches kustomize which fields of Cluster API objects name other
// objects, as a transformer configuration ("configurations:" in a kustomization).
// Providers bring their own kinds, so rules are made for the kinds that the files
// of this render mention: kustomize loads a kustomization's configurations after
// its resources (KustTarget.accumulateTarget), and merges those of bases upward.
type referenceRules struct {
	kinds map[string]bool
	// given holds what earlier configurations of this render had: a rule only has
	// to reach the accumulator once, and each repetition costs a merge.
	given map[string]bool
}

func newReferenceRules() *referenceRules {
	r := &referenceRules{kinds: map[string]bool{}, given: map[string]bool{}}
	r.see([]string{"ConfigMap", "Secret"}) // generators make them out of no file
	return r
}

func (r *referenceRules) see(kinds []string) {
	for _, k := range kinds {
		r.kinds[k] = true
	}
}

// fieldSpec and nameReference are the form of a transformer configuration, from
// types.FieldSpec and builtinconfig.NameBackReferences.
type fieldSpec struct {
	Group string `json:"group,omitempty"`
	Kind  string `json:"kind,omitempty"`
	Path  string `json:"path"`
}

type nameReference struct {
	Group      string      `json:"group,omitempty"`
	Version    string      `json:"version,omitempty"`
	Kind       string      `json:"kind"`
	FieldSpecs []fieldSpec `json:"fieldSpecs"`
}

type transformerConfig struct {
	NameReference []nameReference `json:"nameReference,omitempty"`
	Namespace     []fieldSpec     `json:"namespace,omitempty"`
}

// configuration returns the configuration for the kinds seen so far, as JSON.
func (r *referenceRules) configuration() []byte {
	var config transformerConfig
	for _, rule := range nameRules {
		referrers := r.expand(rule.referrers)
		for _, target := range r.expand(rule.targets) {
			ref := nameReference{Group: target.group, Version: target.version, Kind: target.kind}
			for _, from := range referrers {
				for _, p := range rule.paths {
					spec := fieldSpec{Group: from.group, Kind: from.kind, Path: p}
					if r.first("name", target.kind, from.kind, p) {
						ref.FieldSpecs = append(ref.FieldSpecs, spec)
					}
				}
			}
			if len(ref.FieldSpecs) > 0 {
				config.NameReference = append(config.NameReference, ref)
			}
		}
	}
	// Unlike names, namespaces are set level by level, so each level needs the rules.
	for _, rule := range nameRules {
		if rule.namespaced {
			for _, from := range r.expand(rule.referrers) {
				for _, p := range rule.paths {
					spec := fieldSpec{Group: from.group, Kind: from.kind, Path: strings.TrimSuffix(p, "/name") + "/namespace"}
					if !slices.Contains(config.Namespace, spec) {
						config.Namespace = append(config.Namespace, spec)
					}
				}
			}
		}
	}
	b, err := json.Marshal(config)
	if err != nil {
		panic(err) // strings only
	}
	return b
}

func (r *referenceRules) first(parts ...string) bool {
	key := strings.Join(parts, "|")
	if r.given[key] {
		return false
	}
	r.given[key] = true
	return true
}

// class is a set of kinds: one kind, or all whose name ends like the provider
// contract says. Any kind at all if both are empty.
type class struct{ group, version, kind, suffix string }

// expand returns the members of classes among the kinds seen.
func (r *referenceRules) expand(classes []class) []class {
	var out []class
	for _, c := range classes {
		switch {
		case c.suffix == "" && (c.kind == "" || r.kinds[c.kind]):
			out = append(out, c)
		case c.suffix != "":
			var kinds []string
			for k := range r.kinds {
				if strings.HasSuffix(k, c.suffix) && k != c.suffix && !coreKinds[k] {
					kinds = append(kinds, k)
				}
			}
			slices.Sort(kinds)
			for _, k := range kinds {
				out = append(out, class{kind: k})
			}
		}
	}
	return out
}

// coreKinds end like provider kinds but are none.
var coreKinds = map[string]bool{"ConfigMap": true}

const (
	coreGroup   = "cluster.x-k8s.io"
	addonsGroup = "addons.cluster.x-k8s.io"
	ipamGroup   = "ipam.cluster.x-k8s.io"

	clusterNameLabel = `cluster.x-k8s.io\/cluster-name` // escaped for kyaml/utils PathSplitter
)

func core(kinds ...string) []class {
	out := make([]class, 0, len(kinds))
	for _, k := range kinds {
		out = append(out, class{group: coreGroup, kind: k})
	}
	return out
}

// The provider contract fixes how kinds end; it is what lets rules follow kinds that
// nobody listed here.
var (
	infraClusters       = class{suffix: "Cluster"}
	infraTemplates      = class{suffix: "ClusterTemplate"}
	controlPlanes       = class{suffix: "ControlPlane"}
	controlTemplates    = class{suffix: "ControlPlaneTemplate"}
	machines            = class{suffix: "Machine"}
	machineTemplates    = class{suffix: "MachineTemplate"}
	machinePools        = class{suffix: "MachinePool"}
	machinePoolTmpls    = class{suffix: "MachinePoolTemplate"}
	configs             = class{suffix: "Config"}
	configTemplates     = class{suffix: "ConfigTemplate"}
	remediationTemplate = class{suffix: "RemediationTemplate"}
	anyKind             = class{}
	secret              = class{version: "v1", kind: "Secret"}
	configMap           = class{version: "v1", kind: "ConfigMap"}
	ipPools             = []class{{group: ipamGroup, kind: "InClusterIPPool"}, {group: ipamGroup, kind: "GlobalInClusterIPPool"}}
)

// nameRule says that a field of the referrers holds the name of one of the targets.
type nameRule struct {
	targets   []class
	referrers []class
	paths     []string
	// namespaced rules are for references in the form of v1beta1, which may carry
	// the namespace beside the name. It must be the referrer's own, so it follows.
	namespaced bool
}

// nameRules are the references of Cluster API, its Talos and Proxmox providers, and
// what the contract fixes for all providers.
var nameRules = []nameRule{
	// The cluster an object belongs to.
	{targets: core("Cluster"), referrers: core("MachineDeployment", "MachineSet", "MachinePool"),
		paths: []string{"spec/clusterName", "spec/template/spec/clusterName", "spec/template/metadata/labels/" + clusterNameLabel, "spec/selector/matchLabels/" + clusterNameLabel}},
	{targets: core("Cluster"), referrers: core("Machine", "MachineHealthCheck"),
		paths: []string{"spec/clusterName", "spec/selector/matchLabels/" + clusterNameLabel}},
	{targets: core("Cluster"), referrers: []class{{group: addonsGroup, kind: "ClusterResourceSet"}},
		paths: []string{"spec/clusterSelector/matchLabels/" + clusterNameLabel}},
	{targets: core("Cluster"), referrers: []class{anyKind}, paths: []string{"metadata/labels/" + clusterNameLabel}},
	{targets: core("Cluster"), referrers: []class{controlPlanes}, paths: []string{"spec/kubeadmConfigSpec/clusterConfiguration/clusterName"}},

	// What a cluster is made of.
	{targets: []class{infraClusters, controlPlanes}, referrers: core("Cluster"), paths: []string{"spec/infrastructureRef/name"}, namespaced: true},
	{targets: []class{controlPlanes}, referrers: core("Cluster"), paths: []string{"spec/controlPlaneRef/name"}, namespaced: true},
	{targets: core("ClusterClass"), referrers: core("Cluster"), paths: []string{"spec/topology/class", "spec/topology/classRef/name"}},

	// Templates of machines, by workers and by control planes (KCP v1beta1 and
	// others, KCP v1beta2, Talos).
	{targets: []class{machineTemplates, machinePools, machinePoolTmpls}, referrers: core("MachineDeployment", "MachineSet", "MachinePool"),
		paths: []string{"spec/template/spec/infrastructureRef/name"}, namespaced: true},
	{targets: []class{configTemplates, configs}, referrers: core("MachineDeployment", "MachineSet", "MachinePool"),
		paths: []string{"spec/template/spec/bootstrap/configRef/name"}, namespaced: true},
	{targets: []class{machineTemplates}, referrers: []class{controlPlanes}, namespaced: true,
		paths: []string{"spec/machineTemplate/infrastructureRef/name", "spec/machineTemplate/spec/infrastructureRef/name", "spec/infrastructureTemplate/name"}},
	{targets: []class{machineTemplates}, referrers: []class{controlTemplates}, namespaced: true,
		paths: []string{"spec/template/spec/infrastructureTemplate/name"}},
	{targets: []class{machines}, referrers: core("Machine"), paths: []string{"spec/infrastructureRef/name"}, namespaced: true},
	{targets: []class{configs}, referrers: core("Machine"), paths: []string{"spec/bootstrap/configRef/name"}, namespaced: true},
	{targets: []class{remediationTemplate}, referrers: core("MachineHealthCheck"), namespaced: true,
		paths: []string{"spec/remediationTemplate/name", "spec/remediation/templateRef/name"}},
	{targets: []class{secret}, referrers: core("Machine"), paths: []string{"spec/bootstrap/dataSecretName"}},
	{targets: []class{secret}, referrers: core("MachineDeployment", "MachineSet", "MachinePool"), paths: []string{"spec/template/spec/bootstrap/dataSecretName"}},

	// ClusterClass: "ref" in v1beta1, "templateRef" in v1beta2.
	{targets: []class{infraTemplates}, referrers: core("ClusterClass"), namespaced: true,
		paths: []string{"spec/infrastructure/ref/name", "spec/infrastructure/templateRef/name"}},
	{targets: []class{controlTemplates}, referrers: core("ClusterClass"), namespaced: true,
		paths: []string{"spec/controlPlane/ref/name", "spec/controlPlane/templateRef/name"}},
	{targets: []class{machineTemplates, machinePoolTmpls}, referrers: core("ClusterClass"), namespaced: true,
		paths: []string{
			"spec/controlPlane/machineInfrastructure/ref/name", "spec/controlPlane/machineInfrastructure/templateRef/name",
			"spec/workers/machineDeployments/template/infrastructure/ref/name", "spec/workers/machineDeployments/infrastructure/templateRef/name",
			"spec/workers/machinePools/template/infrastructure/ref/name", "spec/workers/machinePools/infrastructure/templateRef/name",
		}},
	{targets: []class{configTemplates}, referrers: core("ClusterClass"), namespaced: true,
		paths: []string{
			"spec/workers/machineDeployments/template/bootstrap/ref/name", "spec/workers/machineDeployments/bootstrap/templateRef/name",
			"spec/workers/machinePools/template/bootstrap/ref/name", "spec/workers/machinePools/bootstrap/templateRef/name",
		}},
	{targets: []class{remediationTemplate}, referrers: core("ClusterClass"), namespaced: true,
		paths: []string{
			"spec/controlPlane/machineHealthCheck/remediationTemplate/name", "spec/controlPlane/healthCheck/remediation/templateRef/name",
			"spec/workers/machineDeployments/machineHealthCheck/remediationTemplate/name", "spec/workers/machineDeployments/healthCheck/remediation/templateRef/name",
		}},

	// Add-ons, credentials, files and address pools.
	{targets: []class{configMap, secret}, referrers: []class{{group: addonsGroup, kind: "ClusterResourceSet"}}, paths: []string{"spec/resources/name"}},
	{targets: []class{secret}, referrers: []class{infraClusters}, paths: []string{"spec/credentialsRef/name", "spec/identityRef/name"}},
	{targets: []class{secret}, referrers: []class{infraTemplates, machineTemplates}, paths: []string{"spec/template/spec/credentialsRef/name", "spec/template/spec/identityRef/name"}},
	{targets: []class{secret}, referrers: []class{configs}, paths: []string{"spec/files/contentFrom/secret/name"}},
	{targets: []class{secret}, referrers: []class{configTemplates}, paths: []string{"spec/template/spec/files/contentFrom/secret/name"}},
	{targets: []class{secret}, referrers: []class{controlPlanes}, paths: []string{"spec/kubeadmConfigSpec/files/contentFrom/secret/name"}},
	{targets: []class{secret}, referrers: []class{controlTemplates}, paths: []string{"spec/template/spec/kubeadmConfigSpec/files/contentFrom/secret/name"}},
	{targets: ipPools, referrers: []class{machineTemplates}, paths: []string{
		"spec/template/spec/network/networkDevices/ipPoolRef/name",
		"spec/template/spec/network/default/ipv4PoolRef/name", "spec/template/spec/network/default/ipv6PoolRef/name",
		"spec/template/spec/network/additionalDevices/ipv4PoolRef/name", "spec/template/spec/network/additionalDevices/ipv6PoolRef/name",
	}},
}
