package agent

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Trim drops what the agent never reads of an object in the cache of its manager. It is
// that cache's transform.
func Trim(o any) (any, error) {
	switch o := o.(type) {
	case *metav1.PartialObjectMetadata:
		// It stands for a Secret or ConfigMap, of which a management cluster has tens of
		// thousands: it matters that there is another version. Annotations can hold their
		// content.
		o.ObjectMeta = metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}
	case client.Object:
		o.SetManagedFields(nil)
	}
	return o, nil
}
