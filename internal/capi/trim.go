package capi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// keptAnnotations are the annotations that progress depends on.
var keptAnnotations = []string{
	clusterv1.TemplateClonedFromNameAnnotation, clusterv1.TemplateClonedFromGroupKindAnnotation, clusterv1.PausedAnnotation,
}

// Trim drops, in place, what progress doesn't depend on: the most of an object, and
// everything in it that may be secret. What is left gives the same [Report].
func Trim(u *unstructured.Unstructured) {
	trimMetadata(u)
	gk := u.GroupVersionKind().GroupKind()
	if !IsFamily(gk) {
		keepOnly(u.Object, "apiVersion", "kind", "metadata")
		return
	}
	keepOnly(u.Object, "apiVersion", "kind", "metadata", "spec", "status")
	trimSpec(u)
	trimStatus(u)
}

func trimMetadata(u *unstructured.Unstructured) {
	metadata, ok := u.Object["metadata"].(map[string]any)
	if !ok {
		return
	}
	keepOnly(metadata, "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
		"labels", "annotations", "ownerReferences")
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		keepOnly(annotations, keptAnnotations...)
		if len(annotations) == 0 {
			delete(metadata, "annotations")
		}
	}
}

// keepOnly deletes all other keys.
func keepOnly(m map[string]any, keys ...string) {
	maps.DeleteFunc(m, func(key string, _ any) bool { return !slices.Contains(keys, key) })
}

func trimSpec(u *unstructured.Unstructured) {
	gk := u.GroupVersionKind().GroupKind()
	spec, ok := u.Object["spec"].(map[string]any)
	if !ok {
		delete(u.Object, "spec")
		return
	}
	switch {
	case IsTemplate(gk), IsClusterClass(gk):
		delete(u.Object, "spec")
	case IsIPAM(gk):
		keepOnly(spec, "clusterName", "paused")
	case gk.Kind == "TalosConfig" && inGroup(gk, "bootstrap"):
		u.Object["spec"] = map[string]any{digestKey: talosDigest(u, "spec")}
	case inGroup(gk, "bootstrap"):
		delete(u.Object, "spec")
	case gk.Kind == talosControlPlane && IsControlPlane(gk):
		digest := talosDigest(u, "spec", "controlPlaneConfig", "controlplane")
		spec["controlPlaneConfig"] = map[string]any{"controlplane": map[string]any{digestKey: digest}}
	case IsControlPlane(gk):
		_, external, _ := unstructured.NestedFieldNoCopy(u.Object, externalEtcd...)
		keepOnly(spec, "replicas", "version", "machineTemplate", "infrastructureTemplate", "infrastructureRef", "rollout", "paused")
		if external {
			_ = unstructured.SetNestedMap(u.Object, map[string]any{}, externalEtcd...)
		}
	case inGroup(gk, "infrastructure"):
		keepOnly(spec, "providerID", "controlPlaneEndpoint", "paused")
	case IsCluster(gk):
		trimTopology(u)
	}
}

// trimStatus drops addresses, certificates and the like, and what v1beta2 repeats of
// v1beta1 except for failures, which it has nowhere else.
func trimStatus(u *unstructured.Unstructured) {
	status, ok := u.Object["status"].(map[string]any)
	if !ok {
		delete(u.Object, "status")
		return
	}
	for _, key := range []string{"addresses", "talosConfig", "targets", "nodeRefs", "network", "failureDomains", "variables"} {
		delete(status, key)
	}
	if info, ok := status["nodeInfo"].(map[string]any); ok {
		keepOnly(info, "kubeletVersion")
	}
	if deprecated, ok := status["deprecated"].(map[string]any); ok {
		keepOnly(deprecated, "v1beta1")
		if old, ok := deprecated["v1beta1"].(map[string]any); ok {
			keepOnly(old, "failureReason", "failureMessage")
			if len(old) == 0 {
				delete(deprecated, "v1beta1")
			}
		}
		if len(deprecated) == 0 {
			delete(status, "deprecated")
		}
	}
}

// digestKey is the only key of what stands for a Talos configuration. No field of one is
// called so.
const digestKey = "capstanDigest"

// talosDigest stands for the Talos configuration at a path, be it trimmed or not. Two are
// equal exactly if the control plane provider finds them equal once it has decoded them:
// fields that are empty are absent, but a list that is empty is not one that is absent.
func talosDigest(u *unstructured.Unstructured, path ...string) string {
	value, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	config, _ := value.(map[string]any)
	if digest := text(config, digestKey); digest != "" && len(config) == 1 {
		return digest
	}
	canonical := map[string]any{}
	for key, value := range config {
		if !absent(value) {
			canonical[key] = value
		}
	}
	content, err := json.Marshal(canonical)
	if err != nil {
		// What can't be written as JSON didn't come from an API server.
		content = []byte(strings.Join(slices.Sorted(maps.Keys(canonical)), ","))
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// absent tells whether a field's value is the same as none, for Go's decoder.
func absent(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case map[string]any:
		for _, inner := range v {
			if !absent(inner) {
				return false
			}
		}
		return true
	}
	return false
}
