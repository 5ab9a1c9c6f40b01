package capi

import "strings"

// ManagerClass says to whom a field manager belongs. It decides what happens
// when an apply conflicts with that manager: fields of people and of a former
// owner are taken over, because Git is now the place to change them; fields of a
// controller or of someone unknown are not.
type ManagerClass string

// The classes of field managers.
const (
	// ManagerPerson: a tool in a person's hands.
	ManagerPerson ManagerClass = "person"
	// ManagerFormerOwner: a deployment tool that applied the object before us.
	ManagerFormerOwner ManagerClass = "former owner"
	// ManagerController: a controller, which needs the field to be its own.
	ManagerController ManagerClass = "controller"
	// ManagerUnknown: none of these as far as we know.
	ManagerUnknown ManagerClass = "unknown"
)

// managers is the table of known names. A client that sets no name gets the part
// of its user agent before the first slash (apiserver v0.36
// pkg/endpoints/handlers/create.go, managerOrUserAgent), which is the name of
// its binary.
var managers = map[string]ManagerClass{
	// What was there before the first server-side apply (apimachinery v0.36
	// pkg/util/managedfields/internal/skipnonapplied.go).
	"before-first-apply": ManagerPerson,
	// kubectl v0.36: pkg/cmd/apply (kubectl, kubectl-client-side-apply); the
	// other commands are matched by prefix below.
	"kubectl": ManagerPerson,
	"oc":      ManagerPerson,
	"k9s":     ManagerPerson,
	// Browsers and desktop front ends pass their own user agent on: Rancher,
	// Headlamp and the dashboard that of the browser, Lens that of its HTTP
	// library.
	"Mozilla":    ManagerPerson,
	"node-fetch": ManagerPerson,
	"Lens":       ManagerPerson,
	"dashboard":  ManagerPerson,
	"curl":       ManagerPerson,
	// velero pkg/cmd/server/server.go, SetBasename. A person orders a restore; it is
	// no former owner, whose fields would become ours.
	"velero-server": ManagerPerson,

	// kustomize-controller, helm-controller: internal/controller, FieldManager;
	// flux: the command line's bootstrap.
	"kustomize-controller": ManagerFormerOwner,
	"helm-controller":      ManagerFormerOwner,
	"flux":                 ManagerFormerOwner,
	// helm v3 pkg/kube/client.go getManagedFieldsManager: the binary's name.
	"helm": ManagerFormerOwner,
	// argo-cd common/common.go ArgoCDSSAManager; the other two are binaries.
	"argocd-controller":             ManagerFormerOwner,
	"argocd-application-controller": ManagerFormerOwner,
	"argocd-server":                 ManagerFormerOwner,
	// Rancher Fleet's agent, kluctl, Config Sync, Carvel kapp.
	"fleetagent":             ManagerFormerOwner,
	"kluctl":                 ManagerFormerOwner,
	"kluctl-controller":      ManagerFormerOwner,
	"configsync":             ManagerFormerOwner,
	"kapp":                   ManagerFormerOwner,
	"kapp-server-side-apply": ManagerFormerOwner,
	"kapp-controller":        ManagerFormerOwner,
	// terraform-provider-kubernetes: kubernetes_manifest, and its user agent.
	"Terraform": ManagerFormerOwner,
	"HashiCorp": ManagerFormerOwner,
	// clusterctl move creates objects in their new management cluster.
	"clusterctl": ManagerFormerOwner,

	// The binary of every controller built with kubebuilder, Cluster API's and
	// all its providers' among them.
	"manager":                 ManagerController,
	"kube-controller-manager": ManagerController,
	"kube-apiserver":          ManagerController,
	"cluster-autoscaler":      ManagerController,
	// kubernetes v1.36 pkg/controller/clusterroleaggregation.
	"clusterrole-aggregation-controller": ManagerController,
	// gatekeeper v3 main.go, UserAgent.
	"gatekeeper": ManagerController,
	// Binaries: kyverno v1.17 cmd/kyverno and cmd/background-controller; external-secrets.
	"kyverno":               ManagerController,
	"background-controller": ManagerController,
	"external-secrets":      ManagerController,
}

// managerPrefixes are names that vary at the end.
var managerPrefixes = []struct {
	prefix string
	class  ManagerClass
}{
	// kubectl v0.36 pkg/cmd: kubectl-client-side-apply, -create, -edit, -patch,
	// -replace, -label, -annotate, -scale, -set, -rollout, -last-applied.
	{"kubectl-", ManagerPerson},
	{"pulumi-kubernetes", ManagerFormerOwner},
	// cluster-api v1.14: capi-machinedeployment, capi-machineset,
	// capi-machineset-metadata, capi-kubeadmcontrolplane,
	// capi-kubeadmcontrolplane-metadata, capi-topology.
	{"capi-", ManagerController},
	// cert-manager v1.18 pkg/util/useragent.go, RestConfigWithUserAgent: cainjector and
	// the controllers.
	{"cert-manager-", ManagerController},
}

// ClassifyManager says to whom a field manager belongs.
func ClassifyManager(name string) ManagerClass {
	if class, known := managers[name]; known {
		return class
	}
	for _, m := range managerPrefixes {
		if strings.HasPrefix(name, m.prefix) {
			return m.class
		}
	}
	return ManagerUnknown
}

// speakers are the managers of whole objects that were written back.
var speakers = map[string]bool{
	// Where an object was first server-side applied: all fields that it had.
	"before-first-apply": true,
	// cluster-api v1.14 cmd/clusterctl/client/cluster/mover.go: move creates objects as
	// they were, fields of controllers included.
	"clusterctl": true,
	// A restore does the same (velero issue 5701: velero owns all fields of what it has
	// restored; it puts the original entries back since v1.11).
	"velero-server": true,
}

// SpeaksForAll tells whether a field manager's entry stands for the whole object as
// it was once written back, fields of controllers included. It says nothing about who
// set a field, so none of them is foreign.
func SpeaksForAll(name string) bool { return speakers[name] }
