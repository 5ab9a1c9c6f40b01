// Package v1alpha1 holds the custom resources of Capstan, group capstan.dev:
// Fleet, one Git repository of overlays, and ClusterOverlay, one overlay of it.
//
// +kubebuilder:object:generate=true
// +groupName=capstan.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this package's kinds.
var GroupVersion = schema.GroupVersion{Group: "capstan.dev", Version: "v1alpha1"}

// AddToScheme registers this package's kinds.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Fleet{}, &FleetList{}, &ClusterOverlay{}, &ClusterOverlayList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
