package capi

// Where the rules of control planes are from.
const (
	fromKubeadmDiff    = "cluster-api v1.14 controlplane/kubeadm/pkg/filters.go, UpToDate"
	fromKubeadmWebhook = "cluster-api v1.14 controlplane/kubeadm/webhooks/admission/kubeadmcontrolplane.go"
	fromKubeadmSync    = "cluster-api v1.14 controlplane/kubeadm/reconcilers/kubeadmcontrolplane, syncMachines"
	fromTalosUpgrade   = "cluster-api-control-plane-provider-talos v0.5 controllers/controlplane.go, upgrade.go"
	fromTalosScale     = "cluster-api-control-plane-provider-talos v0.5 controllers/scale.go"
)

// replacesControlPlane is what replacing machines of a control plane is called.
const replacesControlPlane = "replaces {machines} of the control plane, one at a time"

var kubeadmConsequences = consequenceTable{
	title:    "KubeadmControlPlane",
	of:       kindIs("controlplane."+family, "KubeadmControlPlane"),
	machines: rollsReplicas,
	rules: []consequenceRule{
		{
			fields: []string{"/spec/replicas"},
			kinds:  []ConsequenceKind{ConsequenceScaleDown, ConsequenceScaleUp, ConsequenceRejected, ConsequenceNone},
			says:   "adds or removes machines",
			tells:  true,
			why:    "0, or even with etcd on the machines, is refused; if it is taken away: 1",
			source: fromKubeadmWebhook,
			weigh:  weighKubeadmScale,
		},
		{
			fields: []string{"/spec/version"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceRejected, ConsequenceUnsafe, ConsequenceNone},
			says:   replacesControlPlane,
			why:    "to skip a minor version is refused; to go back a minor version is not, and unsafe as well; a missing v is added",
			source: fromKubeadmWebhook,
			tells:  true,
			weigh:  weighKubeadmVersion,
		},
		{
			fields: []string{"/spec/machineTemplate/spec/infrastructureRef", "/spec/machineTemplate/infrastructureRef"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceNone},
			says:   replacesControlPlane,
			why:    "of another name, kind or group; the version of its API does nothing",
			source: fromKubeadmDiff,
			weigh:  weighReference,
		},
		{
			fields: append(machineSettings("/spec/machineTemplate"),
				"/spec/machineTemplate/readinessGates", "/spec/machineTemplate/taints", "/spec/machineTemplate/nodeDrainTimeout",
				"/spec/machineTemplate/nodeVolumeDetachTimeout", "/spec/machineTemplate/nodeDeletionTimeout"),
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "is carried to the machines that are there",
			source: fromKubeadmSync,
		},
		{
			fields: []string{"/spec/kubeadmConfigSpec/clusterConfiguration/dns"},
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "updates CoreDNS",
			why:    "a version of CoreDNS that can't be migrated to is refused",
			source: fromKubeadmDiff,
		},
		{
			fields: []string{
				"/spec/kubeadmConfigSpec/clusterConfiguration/certificatesDir",
				"/spec/kubeadmConfigSpec/clusterConfiguration/caCertificateValidityPeriodDays",
				"/spec/kubeadmConfigSpec/clusterConfiguration/controlPlaneEndpoint",
			},
			kinds:  []ConsequenceKind{ConsequenceRejected},
			says:   "is refused: it can't change",
			source: fromKubeadmWebhook,
		},
		{
			fields: []string{
				"/spec/kubeadmConfigSpec/clusterConfiguration/clusterName",
				"/spec/kubeadmConfigSpec/clusterConfiguration/kubernetesVersion",
				"/spec/kubeadmConfigSpec/clusterConfiguration/networking",
				"/spec/kubeadmConfigSpec/*/apiVersion",
				"/spec/kubeadmConfigSpec/*/kind",
			},
			kinds:  []ConsequenceKind{ConsequenceNone},
			says:   "is not looked at",
			why:    "v1beta1 only; Cluster API before v1.11 refuses it",
			source: fromConversion,
		},
		{
			fields: []string{"/spec/kubeadmConfigSpec/joinConfiguration/discovery/timeout"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout},
			says:   replacesControlPlane,
			why:    "v1beta1 only; v1beta2 has it as `timeouts.tlsBootstrapSeconds`",
			source: "cluster-api v1.14 bootstrap/kubeadm/webhooks/conversion, ConvertKubeadmConfigSpecV1Beta1ToHub",
		},
		{
			fields: []string{
				"/spec/kubeadmConfigSpec/joinConfiguration/discovery",
				"/spec/kubeadmConfigSpec/initConfiguration/timeouts/controlPlaneComponentHealthCheckSeconds",
				"/spec/kubeadmConfigSpec/joinConfiguration/timeouts/controlPlaneComponentHealthCheckSeconds",
				"/spec/kubeadmConfigSpec/clusterConfiguration/apiServer/timeoutForControlPlane",
			},
			kinds:  []ConsequenceKind{ConsequenceLatent},
			says:   "applies to machines that join later",
			source: fromKubeadmDiff,
		},
		{
			fields: []string{"/spec/kubeadmConfigSpec/clusterConfiguration/etcd"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceRejected, ConsequenceNone},
			says:   replacesControlPlane,
			why:    "etcd can't move into the control plane nor out of it: that is refused",
			source: fromKubeadmWebhook,
			weigh:  weighKubeadmEtcd,
		},
		{
			fields: []string{"/spec/kubeadmConfigSpec/initConfiguration"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceNone},
			says:   "may replace {machines} of the control plane, the one that was first",
			why:    "only if that one is still there, and was made with another configuration than those that joined",
			source: fromKubeadmDiff,
			weigh:  weighKubeadmInit,
		},
		{
			fields: []string{"/spec/kubeadmConfigSpec"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceNone},
			says:   replacesControlPlane,
			why:    "all that kubeadm and cloud-init read; an empty list is none, `format: cloud-config` and `imagePullPolicy: IfNotPresent` are the default",
			source: fromKubeadmDiff,
			weigh:  weighKubeadmConfig,
		},
		{
			fields: []string{"/spec/rollout/after", "/spec/rolloutAfter"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceInPlace},
			says:   "replaces {machines} of the control plane that are older, one at a time",
			why:    "in place if it is taken away",
			source: fromKubeadmDiff,
			weigh:  weighAfter,
		},
		{
			fields: []string{"/spec/rollout/before", "/spec/rolloutBefore"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceInPlace},
			says:   "may replace {machines} of the control plane whose certificates expire by then",
			why:    "in place if it becomes fewer days",
			source: fromKubeadmDiff,
			weigh:  weighExpiry,
		},
		{
			fields: []string{"/spec/rollout/strategy", "/spec/rolloutStrategy", "/spec/remediation", "/spec/remediationStrategy"},
			kinds:  []ConsequenceKind{ConsequenceInPlace},
			says:   "decides how machines are replaced and repaired next time",
			source: fromKubeadmSync,
		},
		{
			fields: []string{"/spec/machineNaming", "/spec/machineNamingStrategy"},
			kinds:  []ConsequenceKind{ConsequenceLatent},
			says:   "names machines that are made later",
			source: fromKubeadmSync,
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout},
			says:   "may replace {machines} of the control plane",
			why:    "a field that isn't known here",
			source: fromKubeadmDiff,
		},
	},
}

var talosConsequences = consequenceTable{
	title:    "TalosControlPlane",
	of:       kindIs("controlplane."+family, "TalosControlPlane"),
	machines: rollsReplicas,
	onDelete: strategyIs("OnDelete", "/spec/rolloutStrategy/type"),
	rules: []consequenceRule{
		{
			fields: []string{"/spec/replicas"},
			kinds:  []ConsequenceKind{ConsequenceScaleDown, ConsequenceScaleUp, ConsequenceUnsafe, ConsequenceNone},
			says:   "adds or removes machines",
			tells:  true,
			why:    "0 is never reached; an even number is not refused; if it is taken away: 1",
			source: fromTalosScale,
			weigh:  weighTalosScale,
		},
		{
			fields: []string{"/spec/version"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceLatent, ConsequenceUnsafe},
			says:   replacesControlPlane,
			why:    "to skip a minor version or go back one is unsafe as well; a missing v is another version",
			source: fromTalosUpgrade,
			tells:  true,
			weigh:  weighTalosVersion,
		},
		{
			fields: []string{"/spec/infrastructureTemplate"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceLatent, ConsequenceNone},
			says:   replacesControlPlane,
			why:    "of another name, kind or group; the version of its API and its namespace do nothing",
			source: fromTalosUpgrade,
			weigh:  weighReference,
		},
		{
			fields: []string{"/spec/controlPlaneConfig/controlplane"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceLatent, ConsequenceUnsafe, ConsequenceNone},
			says:   replacesControlPlane,
			why:    "compared as it is written, with blanks and comments of a patch; an empty list is unsafe as well: it is never up to date",
			source: fromTalosUpgrade,
			weigh:  weighTalosConfig,
		},
		{
			fields: []string{"/spec/controlPlaneConfig/init"},
			kinds:  []ConsequenceKind{ConsequenceLatent},
			says:   "applies to the first machine, when it is made",
			why:    "deprecated, and not compared",
			source: fromTalosUpgrade,
		},
		{
			fields: []string{"/spec/rolloutStrategy/type"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceInPlace},
			says:   "replaces {machines} of the control plane that OnDelete had left",
			why:    "from OnDelete to another: how many are outdated it does not say",
			source: fromTalosUpgrade,
			weigh:  weighStrategy,
		},
		{
			fields: []string{"/spec/rolloutStrategy/rollingUpdate/maxSurge"},
			kinds:  []ConsequenceKind{ConsequenceInPlace, ConsequenceUnsafe},
			says:   "decides how machines are replaced next time",
			why:    "0 with a single machine is unsafe: no rollout comes to an end",
			source: fromTalosScale,
			weigh:  weighTalosSurge,
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceLatent},
			says:   "may replace {machines} of the control plane",
			why:    "a field that isn't known here",
			source: fromTalosUpgrade,
		},
	},
}

// otherControlPlaneConsequences: of a provider that isn't known here nothing is sure
// but what the contract says. Most replace machines for whatever they make them from,
// and an approval too many is better than a control plane replaced by surprise.
var otherControlPlaneConsequences = consequenceTable{
	title:    "Other control planes",
	of:       IsControlPlane,
	machines: rollsReplicas,
	rules: []consequenceRule{
		{
			fields: []string{"/spec/replicas"},
			kinds:  []ConsequenceKind{ConsequenceScaleDown, ConsequenceScaleUp, ConsequenceNone},
			says:   "adds or removes machines",
			tells:  true,
			source: fromContract,
			weigh:  weighScale,
		},
		{
			fields: []string{"/spec/version"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceUnsafe},
			says:   "replaces {machines} of the control plane",
			why:    "to skip a minor version or go back one is unsafe as well",
			source: fromContract,
			tells:  true,
			weigh:  weighTalosVersion,
		},
		{
			fields: []string{"/spec/machineTemplate/spec/infrastructureRef", "/spec/machineTemplate/infrastructureRef"},
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout, ConsequenceNone},
			says:   "may replace {machines} of the control plane",
			why:    "of another name, kind or group; the version of its API does nothing",
			source: fromContract,
			weigh:  weighReference,
		},
		{
			fields: rest,
			kinds:  []ConsequenceKind{ConsequenceControlPlaneRollout},
			says:   "may replace {machines} of the control plane",
			why:    "its provider decides; so everything counts",
			source: fromContract,
		},
	},
}
