package capi

import (
	"slices"
	"strings"

	"capstan.dev/capstan/api/v1alpha1"
)

// rule is one annotation or label by which people keep a tool away from an
// object.
type rule struct {
	key string
	// matches tells whether the value asks for it.
	matches func(value string) bool
}

// keepRules are the annotations that keep an object when it leaves Git: ours,
// and those of tools that people come from.
var keepRules = []rule{
	{v1alpha1.PruneAnnotation, is(v1alpha1.Disabled)},
	// argo-cd v3 docs/user-guide/sync-options.md: a comma-separated list.
	{"argocd.argoproj.io/sync-options", hasOption("Prune=false", "Delete=false")},
	// kustomize-controller v1 docs/spec/v1/kustomizations.md, Prune.
	{"kustomize.toolkit.fluxcd.io/prune", is("disabled")},
	// cli-utils v0.37 pkg/common/common.go; Config Sync and kpt use both.
	{"client.lifecycle.config.k8s.io/deletion", is("detach")},
	{"cli-utils.sigs.k8s.io/on-remove", is("keep")},
	// helm v3 pkg/kube/resource_policy.go.
	{"helm.sh/resource-policy", is("keep")},
}

// keepLabels do the same as labels, whatever their value.
var keepLabels = []string{
	// giantswarm/kyverno-policies: block-resource-deletion.
	"giantswarm.io/prevent-deletion",
}

// aloneRules are the annotations that make the agent leave an object alone.
var aloneRules = []rule{
	{v1alpha1.ReconcileAnnotation, is(v1alpha1.Disabled)},
	// kustomize-controller v1 docs/spec/v1/kustomizations.md, Controlling the
	// apply behavior of resources.
	{"kustomize.toolkit.fluxcd.io/reconcile", is("disabled")},
	{"kustomize.toolkit.fluxcd.io/ssa", is("Ignore")},
	// cli-utils v0.37 pkg/common/common.go.
	{"client.lifecycle.config.k8s.io/mutation", is("ignore")},
}

// OptOut says whether an object is to be kept when it leaves Git, and by which
// annotation or label.
func OptOut(annotations, labels map[string]string) (reason string, keep bool) {
	if reason, keep := first(keepRules, annotations); keep {
		return reason, true
	}
	for _, key := range keepLabels {
		if value, found := labels[key]; found {
			return "label " + key + ": " + clip(value), true
		}
	}
	return "", false
}

// Unmanaged says whether the agent is to leave an object alone, and by which
// annotation.
func Unmanaged(annotations map[string]string) (reason string, skip bool) {
	return first(aloneRules, annotations)
}

func first(rules []rule, annotations map[string]string) (reason string, found bool) {
	for _, r := range rules {
		if value, set := annotations[r.key]; set && r.matches(value) {
			return "annotation " + r.key + ": " + clip(value), true
		}
	}
	return "", false
}

// clip keeps a foreign value from filling a message.
func clip(value string) string {
	const most = 80
	if len(value) > most {
		return strings.ToValidUTF8(value[:most], "") + "…"
	}
	return value
}

func is(want string) func(string) bool {
	return func(value string) bool { return strings.EqualFold(strings.TrimSpace(value), want) }
}

func hasOption(options ...string) func(string) bool {
	return func(value string) bool {
		for option := range strings.SplitSeq(value, ",") {
			if slices.ContainsFunc(options, func(o string) bool { return strings.EqualFold(strings.TrimSpace(option), o) }) {
				return true
			}
		}
		return false
	}
}
