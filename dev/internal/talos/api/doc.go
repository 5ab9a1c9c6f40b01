// Package api has the kinds of the two Talos providers: TalosControlPlane of the control plane provider (v1alpha3 of
// CACPPT 0.5.12) and TalosConfig and TalosConfigTemplate of the bootstrap provider (v1alpha3 of CABPT 0.6.12).
//
// The JSON they give is the providers' own, to the last omitempty. That is more than tidiness: the control plane
// provider replaces every machine whose TalosConfig does not DeepEqual the TalosControlPlane's, and an explicit empty
// list is in the one and dropped from the other. See [TalosConfigSpec].
//
// +kubebuilder:object:generate=true
package api

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// BootstrapGroupVersion is the version of TalosConfig and TalosConfigTemplate.
	BootstrapGroupVersion = schema.GroupVersion{Group: "bootstrap.cluster.x-k8s.io", Version: "v1alpha3"}
	// ControlPlaneGroupVersion is the version of TalosControlPlane.
	ControlPlaneGroupVersion = schema.GroupVersion{Group: "controlplane.cluster.x-k8s.io", Version: "v1alpha3"}
)

// Kinds of the two providers.
const (
	TalosConfigKind         = "TalosConfig"
	TalosConfigTemplateKind = "TalosConfigTemplate"
	TalosControlPlaneKind   = "TalosControlPlane"
)

// AddToScheme adds the kinds of both providers to the scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(BootstrapGroupVersion,
		&TalosConfig{}, &TalosConfigList{}, &TalosConfigTemplate{}, &TalosConfigTemplateList{})
	metav1.AddToGroupVersion(scheme, BootstrapGroupVersion)
	scheme.AddKnownTypes(ControlPlaneGroupVersion, &TalosControlPlane{}, &TalosControlPlaneList{})
	metav1.AddToGroupVersion(scheme, ControlPlaneGroupVersion)
	return nil
}
