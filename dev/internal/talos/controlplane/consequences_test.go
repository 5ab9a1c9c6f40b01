package controlplane

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/dev/internal/edits"
	"capstan.dev/capstan/dev/internal/talos/api"
	"capstan.dev/capstan/internal/capi"
)

// TestConsequences: the product's tables say that machines are replaced for exactly those edits after
// which a machine is outdated.
func TestConsequences(t *testing.T) {
	values := func(field string) (first, other any) {
		switch {
		case field == "version":
			return "v1.33.1", "v1.34.0"
		case strings.HasSuffix(field, "Template.apiVersion"):
			return "infrastructure.cluster.x-k8s.io/v1alpha1", "infrastructure.cluster.x-k8s.io/v1alpha2"
		case strings.HasPrefix(field, "rolloutStrategy.type"):
			return "RollingUpdate", "OnDelete"
		case strings.HasSuffix(field, ".value.Raw"):
			return `"a"`, `"b"`
		}
		return nil, nil
	}
	filled := func() *api.TalosControlPlane {
		tcp := &api.TalosControlPlane{}
		edits.Fill(&tcp.Spec, values)
		return tcp
	}
	manifest := func(tcp *api.TalosControlPlane) *unstructured.Unstructured {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(tcp)
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{Object: content}
		u.SetAPIVersion("controlplane.cluster.x-k8s.io/v1alpha3")
		u.SetKind("TalosControlPlane")
		return u
	}
	rollouts := 0
	all := edits.All(&filled().Spec, values)
	for _, edit := range all {
		before, after := filled(), filled()
		edit.Do(&after.Spec, values)

		machine := &clusterv1.Machine{Spec: clusterv1.MachineSpec{Version: before.Spec.Version}}
		infra := &unstructured.Unstructured{Object: map[string]any{}}
		infra.SetAnnotations(map[string]string{
			clusterv1.TemplateClonedFromNameAnnotation:      before.Spec.InfrastructureTemplate.Name,
			clusterv1.TemplateClonedFromGroupKindAnnotation: before.Spec.InfrastructureTemplate.GroupVersionKind().GroupKind().String(),
		})
		// A machine's TalosConfig is read back from JSON.
		config := &api.TalosConfig{}
		content, err := json.Marshal(before.Spec.ControlPlaneConfig.ControlPlaneConfig)
		if err == nil {
			err = json.Unmarshal(content, &config.Spec)
		}
		if err != nil {
			t.Fatal(err)
		}
		replaced := len(outdated(after, []*clusterv1.Machine{machine}, map[string]made{"": {infra: infra, config: config}})) > 0

		said := capi.Consequences(manifest(before), manifest(after))
		rolls := false
		for _, c := range said {
			rolls = rolls || c.Kind == capi.ConsequenceControlPlaneRollout
		}
		if rolls != replaced {
			t.Errorf("%s: replaced is %t, but %v", edit, replaced, said)
		}
		if rolls {
			rollouts++
		}
	}
	t.Logf("%d edits, of which %d replace machines", len(all), rollouts)
	if rollouts == 0 || rollouts == len(all) {
		t.Error("nothing was told apart")
	}
}
