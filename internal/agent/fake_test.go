package agent

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capstan.dev/capstan/api/v1alpha1"
)

// fakeClient is a client of objects of ours, for tests of what is written when others have
// written meanwhile: a real API server can't be held in between.
func fakeClient(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(objects...).Build()
}

// readFleet reads a Fleet as it is now.
func readFleet(t *testing.T, c client.Client, fleet *v1alpha1.Fleet) *v1alpha1.Fleet {
	t.Helper()
	var f v1alpha1.Fleet
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(fleet), &f); err != nil {
		t.Fatal(err)
	}
	return &f
}
