package agent_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
)

func TestTrim(t *testing.T) {
	full := metav1.ObjectMeta{
		Namespace: "ns", Name: "name", UID: "uid", ResourceVersion: "7", Labels: map[string]string{"a": "b"},
		Annotations:   map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "secret"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}
	unmanaged := *full.DeepCopy()
	unmanaged.ManagedFields = nil
	for name, test := range map[string]struct{ in, want any }{
		"metadata of a Secret": {
			&metav1.PartialObjectMetadata{ObjectMeta: *full.DeepCopy()},
			&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "name", UID: "uid", ResourceVersion: "7"}},
		},
		"an overlay": {
			&v1alpha1.ClusterOverlay{ObjectMeta: *full.DeepCopy(), Spec: v1alpha1.ClusterOverlaySpec{Path: "clusters/a"}},
			&v1alpha1.ClusterOverlay{ObjectMeta: unmanaged, Spec: v1alpha1.ClusterOverlaySpec{Path: "clusters/a"}},
		},
		"nothing that it knows": {"a tombstone", "a tombstone"},
	} {
		got, err := agent.Trim(test.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
