package drift_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/drift"
)

// TestReferencesThatConversionRewrites changes a reference's API version, which conversion
// fills in, and then its name, which nobody changes without meaning it: where the reference
// is owned field by field, and where it is owned as a whole.
func TestReferencesThatConversionRewrites(t *testing.T) {
	const ref = "/spec/infrastructureRef"
	for name, owned := range map[string]string{
		"by field": `{"f:apiVersion": {}, "f:kind": {}, "f:name": {}}`,
		"as one":   `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			cluster := func(version, name string) *unstructured.Unstructured {
				return parse(t, `{apiVersion: cluster.x-k8s.io/v1beta1, kind: Cluster, metadata: {name: a, managedFields: [
					{manager: capstan, operation: Apply, apiVersion: cluster.x-k8s.io/v1beta1, fieldsV1: {"f:spec": {"f:infrastructureRef": `+owned+`}}}]},
					spec: {infrastructureRef: {apiVersion: infrastructure.cluster.x-k8s.io/`+version+`, kind: ProxmoxCluster, name: `+name+`}}}`)
			}
			applied, rewritten, renamed := cluster("v1alpha1", "a"), cluster("v1alpha2", "a"), cluster("v1alpha1", "b")
			was := drift.See(applied)
			if drift.See(rewritten).Owned != was.Owned {
				t.Error("another API version in a reference changes the fingerprint")
			}
			if got := drift.Compare(drift.Comparison{Before: rewritten, After: applied}); len(got) > 0 {
				t.Errorf("another API version in a reference is a finding: %+v", got)
			}
			if drift.See(renamed).Owned == was.Owned {
				t.Error("another name in a reference does not change the fingerprint")
			}
			if got := drift.Compare(drift.Comparison{Before: renamed, After: applied}); len(got) != 1 || got[0].Field != ref+"/name" {
				t.Errorf("another name in a reference: %+v", got)
			}
		})
	}
}
