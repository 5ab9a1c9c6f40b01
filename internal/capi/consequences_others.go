package capi

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Where the rules of other kinds are from.
const (
	fromRotation = "cluster-api v1.14 docs/book/src/tasks/updating-machine-templates.md"
	fromProxmox  = "cluster-api-provider-proxmox v0.8 internal/webhook"
)

var clusterClassConsequences = consequenceTable{
	title: "ClusterClass",
	of:    IsClusterClass,
	rules: []consequenceRule{{
		fields: rest,
		kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout},
		says:   "may replace machines of every Cluster of the class",
		why:    "which fields do is up to its patches",
		source: fromTopology,
	}},
}

// fixedTemplateConsequences are of what never changes.
var fixedTemplateConsequences = consequenceTable{
	title: "ProxmoxMachineTemplate, TalosConfigTemplate, TalosConfig, KubeadmControlPlaneTemplate",
	of: func(gk schema.GroupKind) bool {
		switch gk {
		case schema.GroupKind{Group: "infrastructure." + family, Kind: "ProxmoxMachineTemplate"},
			schema.GroupKind{Group: "bootstrap." + family, Kind: "TalosConfigTemplate"},
			schema.GroupKind{Group: "bootstrap." + family, Kind: "TalosConfig"},
			schema.GroupKind{Group: "controlplane." + family, Kind: "KubeadmControlPlaneTemplate"}:
			return true
		}
		return false
	},
	rules: []consequenceRule{{
		fields: rest,
		kinds:  []ConsequenceKind{ConsequenceRejected, ConsequenceControlPlaneRollout},
		says:   "is refused: make one of another name, and refer to that",
		why: "the Proxmox provider before v0.8 accepts it, and applies it to machines that are made later; " +
			"one of a ClusterClass may replace machines",
		source: fromProxmox + "; cluster-api-bootstrap-provider-talos v0.6 api/v1alpha3",
		weigh:  weighTemplate,
	}},
}

var openTemplateConsequences = consequenceTable{
	title: "Other templates",
	of:    IsTemplate,
	rules: []consequenceRule{{
		fields: rest,
		kinds:  []ConsequenceKind{ConsequenceLatent, ConsequenceControlPlaneRollout},
		says:   "applies to machines that are made later",
		why:    "KubeadmConfigTemplate and all others: many providers refuse it; one of a ClusterClass may replace machines",
		source: fromRotation,
		weigh:  weighTemplate,
	}},
}

var infraClusterConsequences = consequenceTable{
	title: "ProxmoxCluster and other infrastructure clusters",
	of:    IsInfraCluster,
	rules: []consequenceRule{
		{
			fields: []string{"/spec/controlPlaneEndpoint"},
			kinds:  []ConsequenceKind{ConsequenceUnsafe, ConsequenceInPlace},
			says:   "gives new machines another endpoint than certificates and kubeconfigs have",
			why:    "in place where it is or becomes empty",
			source: fromContract,
			weigh:  weighEndpoint,
		},
		{
			fields: []string{"/spec/dnsServers", "/spec/ipv4Config", "/spec/ipv6Config", "/spec/zoneConfig"},
			kinds:  []ConsequenceKind{ConsequenceLatent},
			says:   "changes the address pools, and applies to machines that are made later",
			why:    "the pool refuses to lose an address in use",
			source: "cluster-api-provider-proxmox v0.8 internal/controller/proxmoxcluster_controller.go",
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is taken over by the infrastructure provider",
			why:    "machines are replaced for their templates, not for the infrastructure cluster",
			source: fromContract,
		},
	},
}

// infraPoolConsequences: they are made in Git, not from a template, and their provider
// replaces their machines itself.
var infraPoolConsequences = consequenceTable{
	title: "Machine pools of infrastructure providers",
	of: func(gk schema.GroupKind) bool {
		return inGroup(gk, "infrastructure") && strings.HasSuffix(gk.Kind, "Pool")
	},
	rules: []consequenceRule{{
		fields: rest,
		kinds:  []ConsequenceKind{ConsequenceRollout},
		says:   "may replace {machines}",
		why:    "their provider decides; so everything counts",
		source: fromContract,
	}},
}

var bootstrapConsequences = consequenceTable{
	title: "Bootstrap configurations",
	of:    func(gk schema.GroupKind) bool { return inGroup(gk, "bootstrap") },
	rules: []consequenceRule{{
		fields: rest,
		kinds:  []ConsequenceKind{ConsequenceLatent},
		says:   "is read once, when the machine is made",
		source: "cluster-api v1.14 bootstrap/kubeadm/reconcilers/kubeadmconfig",
	}},
}

var healthCheckConsequences = consequenceTable{
	title: "MachineHealthCheck",
	of:    kindIs(family, "MachineHealthCheck"),
	rules: []consequenceRule{
		{
			fields: []string{"/spec/clusterName"},
			kinds:  []ConsequenceKind{ConsequenceRejected},
			says:   "is refused: the name of the cluster can't change",
			source: "cluster-api v1.14 core/webhooks/admission/machinehealthcheck.go",
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "decides which machines count as unhealthy, and are replaced",
			source: "cluster-api v1.14 core/reconcilers/machinehealthcheck",
		},
	},
}

var resourceSetConsequences = consequenceTable{
	title: "ClusterResourceSet",
	of:    kindIs("addons."+family, "ClusterResourceSet"),
	rules: []consequenceRule{
		{
			fields: []string{"/spec/clusterSelector"},
			kinds:  []ConsequenceKind{ConsequenceRejected},
			says:   "is refused: it can't change",
			source: "cluster-api v1.14 core/webhooks/admission/clusterresourceset.go",
		},
		{
			fields: []string{"/spec/strategy"},
			kinds:  []ConsequenceKind{ConsequenceRejected, ConsequenceNone},
			says:   "is refused: it can't change",
			why:    "unless there was none",
			source: "cluster-api v1.14 core/webhooks/admission/clusterresourceset.go",
			weigh:  weighStrategyOfSet,
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "applies what is added to the clusters, and takes nothing away from them",
			source: "cluster-api v1.14 core/reconcilers/clusterresourceset",
		},
	},
}

var addressPoolConsequences = consequenceTable{
	title: "Address pools",
	of:    IsIPPool,
	rules: []consequenceRule{{
		fields: rest,
		kinds:  []ConsequenceKind{ConsequenceLatent},
		says:   "applies to addresses that are given out later",
		why:    "to take an address in use away is refused",
		source: "cluster-api-ipam-provider-in-cluster v1 internal/webhooks/inclusterippool.go",
	}},
}

// otherConsequences: what neither is a control plane nor makes machines has no way of
// replacing one in Cluster API's contracts.
var otherConsequences = consequenceTable{
	title: "Everything else of Cluster API and its providers",
	of:    IsFamily,
	rules: []consequenceRule{{
		fields: []string{"/spec"},
		kinds:  []ConsequenceKind{ConsequenceInPlace},
		says:   "is taken over by its controller",
		why:    "only what makes machines replaces them",
		source: fromContract,
	}},
}
