package capi

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Where the rules are from.
const (
	fromClusterWebhook    = "cluster-api v1.14 core/webhooks/admission/cluster.go"
	fromTopology          = "cluster-api v1.14 core/reconcilers/topology/cluster, desired state and patches"
	fromDeploymentWebhook = "cluster-api v1.14 core/webhooks/admission/machinedeployment.go"
	fromTemplateDiff      = "cluster-api v1.14 core/reconcilers/machinedeployment/mdutil, MachineTemplateUpToDate"
	fromMachineSync       = "cluster-api v1.14 core/reconcilers/machineset, syncMachines"
	fromPoolController    = "cluster-api v1.14 core/reconcilers/machinepool"
	fromPoolWebhook       = "cluster-api v1.14 core/webhooks/admission/machinepool.go"
	fromClusterController = "cluster-api v1.14 core/reconcilers/cluster"
	fromPaused            = "cluster-api v1.14 util/annotations, IsPaused"
	fromContract          = "cluster-api v1.14 docs/book/src/developer/providers/contracts"
	fromConversion        = "cluster-api v1.14 api/*/v1beta1/conversion.go: v1beta2 has no such field"
)

// pauseConsequences come before those of every kind.
var pauseConsequences = []consequenceRule{{
	fields: []string{"/metadata/annotations/cluster.x-k8s.io~1paused"},
	kinds:  []ConsequenceKind{ConsequencePause},
	says:   "stops its controllers, or lets them go on",
	source: fromPaused,
}}

// labelConsequences come after those of every kind.
var labelConsequences = []consequenceRule{{
	fields: []string{"/metadata/annotations", "/metadata/labels"},
	kinds:  []ConsequenceKind{ConsequenceNone},
	says:   "stays on the object",
	source: fromContract,
}}

// rest is the pattern that covers every field of a spec.
var rest = []string{"/spec"}

// machineSettings are what a template has of Machines that is carried to those that
// are there, in both versions.
func machineSettings(in string) []string {
	var fields []string
	for _, name := range []string{
		"metadata", "spec/minReadySeconds", "spec/readinessGates", "spec/taints", "spec/deletion",
		"spec/nodeDrainTimeout", "spec/nodeVolumeDetachTimeout", "spec/nodeDeletionTimeout",
	} {
		fields = append(fields, in+"/"+name)
	}
	return fields
}

func kindIs(group, kind string) func(gk schema.GroupKind) bool {
	return func(gk schema.GroupKind) bool { return gk == schema.GroupKind{Group: group, Kind: kind} }
}

// consequenceTables are asked in their order: the first that is of a kind has it.
var consequenceTables = []consequenceTable{
	clusterConsequences,
	machineDeploymentConsequences,
	machineSetConsequences,
	machinePoolConsequences,
	machineConsequences,
	kubeadmConsequences,
	talosConsequences,
	otherControlPlaneConsequences,
	clusterClassConsequences,
	fixedTemplateConsequences,
	openTemplateConsequences,
	infraClusterConsequences,
	infraPoolConsequences,
	bootstrapConsequences,
	healthCheckConsequences,
	resourceSetConsequences,
	addressPoolConsequences,
	otherConsequences,
}

var clusterConsequences = consequenceTable{
	title: "Cluster", of: IsCluster, machines: topologyControlPlane,
	rules: []consequenceRule{
		{
			fields: []string{"/spec/paused"},
			kinds:  []ConsequenceKind{ConsequencePause},
			says:   "stops all controllers of the cluster, or lets them go on",
			source: fromPaused,
		},
		{
			fields: []string{"/spec/clusterNetwork"},
			kinds:  []ConsequenceKind{ConsequenceUnsafe, ConsequenceLatent},
			says:   "gives new machines another network than those that are there have",
			why:    "latent until the control plane is initialized; nothing refuses it afterwards",
			source: "cluster-api-bootstrap-provider-talos v0.6 controllers/talosconfig_controller.go",
			weigh:  weighNetwork,
		},
		{
			fields: []string{"/spec/controlPlaneEndpoint"},
			kinds:  []ConsequenceKind{ConsequenceUnsafe, ConsequenceInPlace},
			says:   "gives new machines another endpoint than certificates and kubeconfigs have",
			why:    "in place where it is or becomes empty: Cluster API fills it in",
			source: fromClusterController,
			weigh:  weighEndpoint,
		},
		{
			fields: []string{"/spec/controlPlaneRef", "/spec/infrastructureRef"},
			kinds:  []ConsequenceKind{ConsequenceUnsafe, ConsequenceRejected, ConsequenceInPlace, ConsequenceNone},
			says:   "leaves what is there running and starts another one from nothing",
			why:    "of another name or kind; to take it away is refused; to add one is in place; the version of its API does nothing",
			source: fromClusterWebhook,
			weigh:  weighClusterReference,
		},
		{
			fields: []string{"/spec/topology/version"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceRejected, ConsequenceNone},
			says:   "replaces the {machines} of the control plane, then those of all workers",
			why:    "to go back is refused, unless an annotation of Cluster API's allows it",
			source: fromClusterWebhook,
			tells:  true,
			weigh:  weighTopologyVersion,
		},
		{
			fields: []string{"/spec/topology/controlPlane/replicas", "/spec/topology/workers/*/*/replicas"},
			kinds:  []ConsequenceKind{ConsequenceScaleDown, ConsequenceScaleUp, ConsequenceNone},
			says:   "adds or removes machines",
			tells:  true,
			source: fromTopology,
			weigh:  weighScale,
		},
		{
			fields: topologyFields("/spec/topology/controlPlane", "/spec/topology/workers/*/*",
				"metadata", "readinessGates", "taints", "deletion", "healthCheck", "machineHealthCheck", "minReadySeconds",
				"nodeDrainTimeout", "nodeVolumeDetachTimeout", "nodeDeletionTimeout", "rollout/strategy", "strategy"),
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is carried to what the topology has made",
			source: fromTopology,
		},
		{
			fields: []string{"/spec/topology/workers/*/*"},
			kinds:  []ConsequenceKind{ConsequenceRollout, ConsequenceScaleDown, ConsequenceScaleUp},
			says:   "may replace {machines}",
			why:    "elements are compared by name: one that is gone takes its machines along",
			source: fromTopology,
			weigh:  weighPool,
		},
		{
			fields: []string{"/spec/topology"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout},
			says:   "may replace {machines} of the control plane, and those of workers",
			why:    "class, variables and anything else: the ClusterClass says what they do",
			source: fromTopology,
		},
		{
			fields: []string{"/spec/availabilityGates"},
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "decides what the cluster reports",
			source: fromClusterController,
		},
		{
			fields: []string{"/metadata/labels"},
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "decides which ClusterResourceSets and other add-ons the cluster gets",
			source: "cluster-api v1.14 core/reconcilers/clusterresourceset",
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is taken over by the controllers of the cluster",
			source: fromClusterController,
		},
	},
}

func topologyFields(controlPlane, workers string, names ...string) (fields []string) {
	for _, in := range []string{controlPlane, workers} {
		for _, name := range names {
			fields = append(fields, in+"/"+name)
		}
	}
	return fields
}

var machineDeploymentConsequences = consequenceTable{
	title:    "MachineDeployment",
	of:       kindIs(family, "MachineDeployment"),
	machines: rollsReplicas,
	onDelete: strategyIs("OnDelete", "/spec/rollout/strategy/type", "/spec/strategy/type"),
	rules: []consequenceRule{
		{
			fields: []string{"/spec/replicas"},
			kinds:  []ConsequenceKind{ConsequenceScaleDown, ConsequenceScaleUp, ConsequenceNone},
			says:   "adds or removes machines",
			tells:  true,
			why:    "if it is taken away: what the autoscaler's annotations allow, else 1",
			source: fromDeploymentWebhook,
			weigh:  weighScale,
		},
		{
			fields: []string{"/spec/template/spec/version"},
			kinds:  []ConsequenceKind{ConsequenceRollout, ConsequenceLatent, ConsequenceNone},
			says:   "replaces {machines}",
			why:    "a missing v is added",
			source: fromTemplateDiff,
			tells:  true,
			weigh:  weighWorkerVersion,
		},
		{
			fields: []string{"/spec/template/spec/bootstrap/configRef", "/spec/template/spec/infrastructureRef"},
			kinds:  []ConsequenceKind{ConsequenceRollout, ConsequenceLatent, ConsequenceNone},
			says:   "replaces {machines}",
			why:    "of another name, kind or group; the version of its API does nothing",
			source: fromTemplateDiff,
			weigh:  weighReference,
		},
		{
			fields: []string{"/spec/template/spec/bootstrap/dataSecretName"},
			kinds:  []ConsequenceKind{ConsequenceRollout, ConsequenceLatent},
			says:   "replaces {machines}",
			source: fromTemplateDiff,
			tells:  true,
		},
		{
			fields: machineSettings("/spec/template"),
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is carried to the machines that are there",
			source: fromMachineSync,
		},
		{
			fields: []string{"/spec/clusterName", "/spec/template/spec/clusterName"},
			kinds:  []ConsequenceKind{ConsequenceRejected},
			says:   "is refused: the name of the cluster can't change",
			source: fromDeploymentWebhook,
		},
		{
			fields: []string{"/spec/template/spec/providerID"},
			kinds:  []ConsequenceKind{ConsequenceNone},
			says:   "is not looked at",
			source: fromTemplateDiff,
		},
		{
			fields: []string{"/spec/template/spec"},
			kinds:  []ConsequenceKind{ConsequenceRollout, ConsequenceLatent},
			says:   "replaces {machines}",
			why:    "`failureDomain`; and whatever a later version adds, which is replaced unless it is known not to be",
			source: fromTemplateDiff,
		},
		{
			fields: []string{"/spec/rollout/after", "/spec/rolloutAfter"},
			kinds:  []ConsequenceKind{ConsequenceRollout, ConsequenceLatent, ConsequenceInPlace},
			says:   "replaces {machines} that are older",
			why:    "in place if it is taken away",
			source: "cluster-api v1.14 core/reconcilers/machinedeployment/mdutil, FindNewAndOldMachineSets",
			weigh:  weighAfter,
		},
		{
			fields: []string{"/spec/rollout/strategy/type", "/spec/strategy/type"},
			kinds:  []ConsequenceKind{ConsequenceRollout, ConsequenceInPlace},
			says:   "replaces {machines} that OnDelete had left",
			why:    "from OnDelete to another while machines are outdated",
			source: "cluster-api v1.14 core/reconcilers/machinedeployment, rolloutOnDelete",
			weigh:  weighStrategy,
		},
		{
			fields: []string{"/spec/selector"},
			kinds:  []ConsequenceKind{ConsequenceUnsafe},
			says:   "is not refused, and may take over machines of others",
			source: "cluster-api v1.14 core/reconcilers/machinedeployment, getAndAdoptMachineSetsForDeployment",
		},
		{
			fields: []string{"/spec/machineNaming", "/spec/machineNamingStrategy"},
			kinds:  []ConsequenceKind{ConsequenceLatent},
			says:   "names machines that are made later",
			source: fromMachineSync,
		},
		{
			fields: []string{"/spec/paused"},
			kinds:  []ConsequenceKind{ConsequencePause},
			says:   "stops rollouts, or lets them go on",
			source: "cluster-api v1.14 core/reconcilers/machinedeployment, reconcile",
		},
		{
			fields: []string{"/metadata/annotations"},
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is copied to its MachineSets",
			source: "cluster-api v1.14 core/reconcilers/machinedeployment/machinedeployment_rollout_planner.go, computeDesiredMS",
		},
		{
			fields: []string{"/spec/revisionHistoryLimit", "/spec/progressDeadlineSeconds"},
			kinds:  []ConsequenceKind{ConsequenceNone},
			says:   "is not looked at",
			source: fromConversion,
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "decides how machines are replaced, removed and repaired next time",
			why:    "`deletion`, `remediation`, `rollout.strategy.rollingUpdate`, `minReadySeconds`; `strategy` of v1beta1",
			source: "cluster-api v1.14 core/reconcilers/machinedeployment",
		},
	},
}

var machineSetConsequences = consequenceTable{
	title:    "MachineSet",
	of:       kindIs(family, "MachineSet"),
	machines: rollsReplicas,
	rules: []consequenceRule{
		{
			fields: []string{"/spec/replicas"},
			kinds:  []ConsequenceKind{ConsequenceScaleDown, ConsequenceScaleUp, ConsequenceNone},
			says:   "adds or removes machines",
			tells:  true,
			why:    "if it is taken away: what the autoscaler's annotations allow, else 1",
			source: "cluster-api v1.14 core/webhooks/admission/machineset.go",
			weigh:  weighScale,
		},
		{
			fields: machineSettings("/spec/template"),
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is carried to the machines that are there",
			source: fromMachineSync,
		},
		{
			fields: []string{"/spec/clusterName", "/spec/template/spec/clusterName"},
			kinds:  []ConsequenceKind{ConsequenceRejected},
			says:   "is refused: the name of the cluster can't change",
			source: "cluster-api v1.14 core/webhooks/admission/machineset.go",
		},
		{
			fields: []string{"/spec/selector"},
			kinds:  []ConsequenceKind{ConsequenceUnsafe},
			says:   "is not refused, and may take over machines of others",
			source: "cluster-api v1.14 core/reconcilers/machineset",
		},
		{
			fields: []string{"/spec/template", "/spec/machineNaming", "/spec/machineNamingStrategy"},
			kinds:  []ConsequenceKind{ConsequenceLatent},
			says:   "applies to machines that are made later",
			source: fromMachineSync,
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "decides which machines are removed next time",
			source: fromMachineSync,
		},
	},
}

var machinePoolConsequences = consequenceTable{
	title:    "MachinePool",
	of:       func(gk schema.GroupKind) bool { return IsMachineOwner(gk) && gk.Kind == "MachinePool" },
	machines: rollsReplicas,
	rules: []consequenceRule{
		{
			fields: []string{"/spec/replicas"},
			kinds:  []ConsequenceKind{ConsequenceScaleDown, ConsequenceScaleUp, ConsequenceNone},
			says:   "adds or removes machines",
			tells:  true,
			why:    "if it is taken away: what the autoscaler's annotations allow, else 1",
			source: fromPoolWebhook,
			weigh:  weighScale,
		},
		{
			fields: []string{"/spec/template/spec/version"},
			kinds:  []ConsequenceKind{ConsequenceRollout, ConsequenceNone},
			says:   "replaces {machines}, as the provider does it",
			source: fromPoolController,
			tells:  true,
			weigh:  weighWorkerVersion,
		},
		{
			fields: []string{"/spec/template/spec/bootstrap/configRef", "/spec/template/spec/infrastructureRef"},
			kinds:  []ConsequenceKind{ConsequenceRollout, ConsequenceNone},
			says:   "replaces {machines}, as the provider does it",
			why:    "of another name, kind or group; the version of its API does nothing",
			source: fromPoolController,
			weigh:  weighReference,
		},
		{
			fields: machineSettings("/spec/template"),
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is carried to the machines that are there",
			source: fromPoolController,
		},
		{
			fields: []string{"/spec/clusterName", "/spec/template/spec/clusterName"},
			kinds:  []ConsequenceKind{ConsequenceRejected},
			says:   "is refused: the name of the cluster can't change",
			source: fromPoolWebhook,
		},
		{
			fields: []string{"/spec/template/spec", "/spec/failureDomains"},
			kinds:  []ConsequenceKind{ConsequenceRollout},
			says:   "replaces {machines}, as the provider does it",
			why:    "whether any is replaced is the provider's to decide; so all that a machine is made from counts",
			source: fromContract,
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is taken over by the pool",
			why:    "`providerIDList`, `minReadySeconds`",
			source: fromPoolController,
		},
	},
}

var machineConsequences = consequenceTable{
	title:    "Machine",
	of:       IsMachine,
	machines: func(*unstructured.Unstructured) int32 { return 1 },
	rules: []consequenceRule{
		{
			fields: []string{"/metadata/annotations/cluster.x-k8s.io~1remediate-machine"},
			kinds:  []ConsequenceKind{ConsequenceRollout},
			says:   "replaces {machines}",
			why:    "if a MachineHealthCheck selects it",
			source: "cluster-api v1.14 core/reconcilers/machinehealthcheck",
		},
		{
			fields: []string{"/spec/clusterName"},
			kinds:  []ConsequenceKind{ConsequenceRejected},
			says:   "is refused: the name of the cluster can't change",
			source: "cluster-api v1.14 core/webhooks/admission/machine.go",
		},
		{
			fields: []string{"/metadata/annotations", "/metadata/labels", "/spec/minReadySeconds", "/spec/readinessGates", "/spec/taints", "/spec/deletion",
				"/spec/nodeDrainTimeout", "/spec/nodeVolumeDetachTimeout", "/spec/nodeDeletionTimeout"},
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is carried to what the machine is made of, and to its node",
			source: "cluster-api v1.14 core/reconcilers/machine",
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceLatent},
			says:   "is read once, when the machine is made",
			source: "cluster-api v1.14 core/reconcilers/machine",
		},
	},
}
