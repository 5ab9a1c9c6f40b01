package object

import (
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Masked replaces secret material. Old and new values are told apart without
// saying anything about either: see [MaskPair].
const (
	Masked       = "*** (masked)"
	MaskedBefore = "*** (masked, before)"
	MaskedAfter  = "*** (masked, after)"
)

// secretFields lists, by group and kind, the fields whose whole value is secret
// material or may hold it. "*" stands for any key or index. Talos machine
// configuration and its patches are opaque strings that carry tokens, CA keys
// and registry passwords; bootstrap files and commands of kubeadm do the same.
var secretFields = map[schema.GroupKind][]string{
	{Kind: "Secret"}: {"data.*", "stringData.*"},

	{Group: "controlplane.cluster.x-k8s.io", Kind: "TalosControlPlane"}:         talosConfig("spec.controlPlaneConfig.*"),
	{Group: "controlplane.cluster.x-k8s.io", Kind: "TalosControlPlaneTemplate"}: talosConfig("spec.template.spec.controlPlaneConfig.*"),
	{Group: "bootstrap.cluster.x-k8s.io", Kind: "TalosConfig"}:                  append(talosConfig("spec"), "status.talosConfig"),
	{Group: "bootstrap.cluster.x-k8s.io", Kind: "TalosConfigTemplate"}:          talosConfig("spec.template.spec"),

	{Group: "controlplane.cluster.x-k8s.io", Kind: "KubeadmControlPlane"}:         kubeadmConfig("spec.kubeadmConfigSpec"),
	{Group: "controlplane.cluster.x-k8s.io", Kind: "KubeadmControlPlaneTemplate"}: kubeadmConfig("spec.template.spec.kubeadmConfigSpec"),
	{Group: "bootstrap.cluster.x-k8s.io", Kind: "KubeadmConfig"}:                  kubeadmConfig("spec"),
	{Group: "bootstrap.cluster.x-k8s.io", Kind: "KubeadmConfigTemplate"}:          kubeadmConfig("spec.template.spec"),
}

func talosConfig(prefix string) []string {
	return []string{prefix + ".data", prefix + ".configPatches", prefix + ".strategicPatches"}
}

func kubeadmConfig(prefix string) []string {
	return []string{
		prefix + ".files.*.content", prefix + ".users.*.passwd",
		prefix + ".preKubeadmCommands", prefix + ".postKubeadmCommands", prefix + ".bootCommands",
		prefix + ".joinConfiguration.discovery.file.kubeConfig",
		prefix + ".joinConfiguration.discovery.bootstrapToken", prefix + ".joinConfiguration.discovery.tlsBootstrapToken",
		prefix + ".initConfiguration.bootstrapTokens", prefix + ".clusterConfiguration.apiServer.extraArgs",
		prefix + ".ignition.containerLinuxConfig.additionalConfig",
	}
}

// copies are annotations that repeat the whole object, secrets included, in one
// string.
var copies = []string{
	"kubectl.kubernetes.io/last-applied-configuration",
	"cluster.x-k8s.io/conversion-data", // cluster-api v1.14 util/conversion: the hub version's content
	"objectset.rio.cattle.io/applied",  // Rancher Fleet
	"kapp.k14s.io/original",
}

// MaskPair returns copies of two states of one object with secret material
// replaced. Where the two differ the replacements differ too, so that a
// comparison still shows that a secret changed, and never what it is. Either
// may be nil.
func MaskPair(before, after *unstructured.Unstructured) (maskedBefore, maskedAfter *unstructured.Unstructured) {
	var fields []string
	for _, u := range []*unstructured.Unstructured{before, after} {
		if u != nil {
			fields = secretFields[u.GroupVersionKind().GroupKind()]
		}
	}
	maskedBefore, maskedAfter = before.DeepCopy(), after.DeepCopy()
	b, a := content(maskedBefore), content(maskedAfter)
	for _, field := range fields {
		maskPath(b, a, strings.Split(field, "."))
	}
	for _, annotation := range copies {
		maskPath(b, a, []string{"metadata", "annotations", annotation})
	}
	return maskedBefore, maskedAfter
}

// Mask returns a copy of an object with secret material replaced.
func Mask(u *unstructured.Unstructured) *unstructured.Unstructured {
	masked, _ := MaskPair(u, nil)
	return masked
}

// content returns what an object holds; nil for no object.
func content(u *unstructured.Unstructured) any {
	if u == nil {
		return nil
	}
	return u.Object
}

// maskPath masks the value at a path in both states at once. Where a path goes on
// and the value is no container, as in a malformed manifest, the value is masked
// as a whole.
func maskPath(before, after any, path []string) {
	for _, key := range keys(before, after, path[0]) {
		b, a := child(before, key), child(after, key)
		if len(path) == 1 || scalar(b) || scalar(a) {
			maskKey(before, after, key)
			continue
		}
		maskPath(b, a, path[1:])
	}
}

// scalar tells whether there is a value that holds no others.
func scalar(value any) bool {
	switch value.(type) {
	case nil, map[string]any, []any:
		return false
	}
	return true
}

// maskKey replaces one key of both states.
func maskKey(before, after any, key any) {
	b, a := child(before, key), child(after, key)
	inBefore, inAfter := Masked, Masked
	if b != nil && a != nil && !reflect.DeepEqual(b, a) {
		inBefore, inAfter = MaskedBefore, MaskedAfter
	}
	set(before, key, inBefore)
	set(after, key, inAfter)
}

// keys lists what a path element stands for in either state.
func keys(before, after any, element string) []any {
	if element != "*" {
		return []any{element}
	}
	var all []any
	seen := map[any]bool{}
	for _, state := range []any{before, after} {
		switch v := state.(type) {
		case map[string]any:
			for k := range v {
				if !seen[k] {
					seen[k] = true
					all = append(all, k)
				}
			}
		case []any:
			for i := range v {
				if !seen[i] {
					seen[i] = true
					all = append(all, i)
				}
			}
		}
	}
	return all
}

func child(state, key any) any {
	switch v := state.(type) {
	case map[string]any:
		if k, ok := key.(string); ok {
			return v[k]
		}
	case []any:
		if i, ok := key.(int); ok && i < len(v) {
			return v[i]
		}
	}
	return nil
}

func set(state, key any, value string) {
	if child(state, key) == nil {
		return
	}
	switch v := state.(type) {
	case map[string]any:
		v[key.(string)] = value //nolint:forcetypeassert // child found it
	case []any:
		v[key.(int)] = value //nolint:forcetypeassert // child found it
	}
}
