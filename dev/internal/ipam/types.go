package ipam

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

//go:generate ../../../bin/controller-gen object paths=.

// GroupVersion of the pools.
var GroupVersion = schema.GroupVersion{Group: ipamv1.GroupVersion.Group, Version: "v1alpha2"}

// Kinds of pools.
const (
	PoolKind       = "InClusterIPPool"
	GlobalPoolKind = "GlobalInClusterIPPool"
)

// AddToScheme registers the kinds of pools.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &InClusterIPPool{}, &InClusterIPPoolList{}, &GlobalInClusterIPPool{}, &GlobalInClusterIPPoolList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// +kubebuilder:object:generate=true

// PoolSpec is the addresses to give out.
type PoolSpec struct {
	Addresses                      []string `json:"addresses"`
	Prefix                         int      `json:"prefix"`
	Gateway                        string   `json:"gateway,omitempty"`
	AllocateReservedIPAddresses    bool     `json:"allocateReservedIPAddresses,omitempty"`
	ExcludedAddresses              []string `json:"excludedAddresses,omitempty"`
	AddressReuseGracePeriodSeconds *int32   `json:"addressReuseGracePeriodSeconds,omitempty"`
}

// +kubebuilder:object:generate=true

// PoolStatus counts them.
type PoolStatus struct {
	IPAddresses *Counts `json:"ipAddresses,omitempty"`
}

// +kubebuilder:object:generate=true

// Counts of a pool's addresses.
type Counts struct {
	Total      int `json:"total"`
	Free       int `json:"free"`
	Used       int `json:"used"`
	OutOfRange int `json:"outOfRange"`
}

// +kubebuilder:object:root=true

// InClusterIPPool serves the claims of its namespace.
type InClusterIPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              PoolSpec   `json:"spec,omitempty"`
	Status            PoolStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// InClusterIPPoolList is a list of InClusterIPPools.
type InClusterIPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []InClusterIPPool `json:"items"`
}

// +kubebuilder:object:root=true

// GlobalInClusterIPPool serves the claims of all namespaces.
type GlobalInClusterIPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              PoolSpec   `json:"spec,omitempty"`
	Status            PoolStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// GlobalInClusterIPPoolList is a list of GlobalInClusterIPPools.
type GlobalInClusterIPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GlobalInClusterIPPool `json:"items"`
}

// Pool is either kind of pool.
type Pool interface {
	client.Object
	Reference() ipamv1.IPPoolReference
	spec() *PoolSpec
	status() *PoolStatus
}

// Reference is how claims and addresses name the pool.
func (p *InClusterIPPool) Reference() ipamv1.IPPoolReference { return reference(PoolKind, p.Name) }
func (p *InClusterIPPool) spec() *PoolSpec                   { return &p.Spec }
func (p *InClusterIPPool) status() *PoolStatus               { return &p.Status }

// Reference is how claims and addresses name the pool.
func (p *GlobalInClusterIPPool) Reference() ipamv1.IPPoolReference {
	return reference(GlobalPoolKind, p.Name)
}
func (p *GlobalInClusterIPPool) spec() *PoolSpec     { return &p.Spec }
func (p *GlobalInClusterIPPool) status() *PoolStatus { return &p.Status }

func reference(kind, name string) ipamv1.IPPoolReference {
	return ipamv1.IPPoolReference{APIGroup: GroupVersion.Group, Kind: kind, Name: name}
}
