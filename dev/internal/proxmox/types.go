package proxmox

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

//go:generate ../../../bin/controller-gen object paths=.

// The types below have the fields that the simulator reads or writes, and no others. Objects are
// therefore only ever patched, never updated: fields not known here stay as they are.

// GroupVersion of the provider's kinds.
var GroupVersion = schema.GroupVersion{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2"}

// AddToScheme registers the provider's kinds.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&ProxmoxCluster{}, &ProxmoxClusterList{}, &ProxmoxClusterTemplate{},
		&ProxmoxMachine{}, &ProxmoxMachineList{}, &ProxmoxMachineTemplate{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// +kubebuilder:object:root=true

// ProxmoxCluster is what the machines of a cluster share.
type ProxmoxCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              ClusterSpec   `json:"spec,omitempty"`
	Status            ClusterStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// ProxmoxClusterList is a list of ProxmoxClusters.
type ProxmoxClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ProxmoxCluster `json:"items"`
}

// GetConditions implements conditions.Getter.
func (c *ProxmoxCluster) GetConditions() []metav1.Condition { return c.Status.Conditions }

// SetConditions implements conditions.Setter.
func (c *ProxmoxCluster) SetConditions(conditions []metav1.Condition) {
	c.Status.Conditions = conditions
}

// +kubebuilder:object:generate=true

// ClusterSpec is the spec of a ProxmoxCluster.
type ClusterSpec struct {
	ControlPlaneEndpoint        *Endpoint               `json:"controlPlaneEndpoint,omitempty"`
	ExternalManagedControlPlane bool                    `json:"externalManagedControlPlane,omitempty"`
	AllowedNodes                []string                `json:"allowedNodes,omitempty"`
	IPv4Config                  *IPConfig               `json:"ipv4Config,omitempty"`
	IPv6Config                  *IPConfig               `json:"ipv6Config,omitempty"`
	ZoneConfig                  []ZoneConfig            `json:"zoneConfig,omitempty"`
	CredentialsRef              *corev1.SecretReference `json:"credentialsRef,omitempty"`
}

// +kubebuilder:object:generate=true

// Endpoint of a control plane.
type Endpoint struct {
	Host string `json:"host,omitempty"`
	Port int32  `json:"port,omitempty"`
}

// +kubebuilder:object:generate=true

// IPConfig is the addresses of one family.
type IPConfig struct {
	Addresses []string `json:"addresses,omitempty"`
	Prefix    int32    `json:"prefix,omitempty"`
	Gateway   string   `json:"gateway,omitempty"`
	Metric    *int32   `json:"metric,omitempty"`
}

// +kubebuilder:object:generate=true

// ZoneConfig is the addresses of a zone.
type ZoneConfig struct {
	Zone       string    `json:"zone,omitempty"`
	IPv4Config *IPConfig `json:"ipv4Config,omitempty"`
	IPv6Config *IPConfig `json:"ipv6Config,omitempty"`
}

// +kubebuilder:object:generate=true

// ClusterStatus is the status of a ProxmoxCluster.
type ClusterStatus struct {
	Conditions         []metav1.Condition            `json:"conditions,omitempty"`
	Initialization     *Initialization               `json:"initialization,omitempty"`
	InClusterIPPoolRef []corev1.LocalObjectReference `json:"inClusterIPPoolRef,omitempty"`
	InClusterZoneRef   []ZoneRef                     `json:"inClusterZoneRef,omitempty"`
	NodeLocations      *NodeLocations                `json:"nodeLocations,omitempty"`
}

// +kubebuilder:object:generate=true

// Initialization is the part of a status that Cluster API waits for.
type Initialization struct {
	Provisioned *bool `json:"provisioned,omitempty"`
}

func provisioned() *Initialization {
	yes := true
	return &Initialization{Provisioned: &yes}
}

func (i *Initialization) done() bool {
	return i != nil && i.Provisioned != nil && *i.Provisioned
}

// +kubebuilder:object:generate=true

// ZoneRef names the pools of a zone.
type ZoneRef struct {
	Zone                 string                       `json:"zone,omitempty"`
	InClusterIPPoolRefV4 *corev1.LocalObjectReference `json:"inClusterIPPoolRefV4,omitempty"`
	InClusterIPPoolRefV6 *corev1.LocalObjectReference `json:"inClusterIPPoolRefV6,omitempty"`
}

// +kubebuilder:object:generate=true

// NodeLocations tells on which Proxmox node each machine runs.
type NodeLocations struct {
	ControlPlane []NodeLocation `json:"controlPlane,omitempty"`
	Workers      []NodeLocation `json:"workers,omitempty"`
}

// +kubebuilder:object:generate=true

// NodeLocation tells on which Proxmox node a machine runs.
type NodeLocation struct {
	Machine corev1.LocalObjectReference `json:"machine"`
	Node    string                      `json:"node"`
	Zone    string                      `json:"zone,omitempty"`
}

// +kubebuilder:object:root=true

// ProxmoxClusterTemplate is what a ClusterClass makes ProxmoxClusters from.
type ProxmoxClusterTemplate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              ClusterTemplateSpec `json:"spec,omitempty"`
}

// +kubebuilder:object:generate=true

// ClusterTemplateSpec is the spec of a ProxmoxClusterTemplate.
type ClusterTemplateSpec struct {
	Template ClusterTemplateResource `json:"template"`
}

// +kubebuilder:object:generate=true

// ClusterTemplateResource is the ProxmoxCluster in a template.
type ClusterTemplateResource struct {
	Spec ClusterSpec `json:"spec"`
}

// +kubebuilder:object:root=true

// ProxmoxMachine is a virtual machine.
type ProxmoxMachine struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              MachineSpec   `json:"spec,omitempty"`
	Status            MachineStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// ProxmoxMachineList is a list of ProxmoxMachines.
type ProxmoxMachineList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ProxmoxMachine `json:"items"`
}

// GetConditions implements conditions.Getter.
func (m *ProxmoxMachine) GetConditions() []metav1.Condition { return m.Status.Conditions }

// SetConditions implements conditions.Setter.
func (m *ProxmoxMachine) SetConditions(conditions []metav1.Condition) {
	m.Status.Conditions = conditions
}

// +kubebuilder:object:generate=true

// MachineSpec is the spec of a ProxmoxMachine.
type MachineSpec struct {
	ProviderID       string            `json:"providerID,omitempty"`
	VirtualMachineID *int64            `json:"virtualMachineID,omitempty"`
	SourceNode       string            `json:"sourceNode,omitempty"`
	AllowedNodes     []string          `json:"allowedNodes,omitempty"`
	VMIDRange        *IDRange          `json:"vmIDRange,omitempty"`
	Network          *Network          `json:"network,omitempty"`
	Checks           *Checks           `json:"checks,omitempty"`
	MetadataSettings *MetadataSettings `json:"metadataSettings,omitempty"`
	Tags             []string          `json:"tags,omitempty"`
}

// +kubebuilder:object:generate=true

// IDRange is where the id of a virtual machine is to be taken from.
type IDRange struct {
	Start int64 `json:"start,omitempty"`
	End   int64 `json:"end,omitempty"`
}

// +kubebuilder:object:generate=true

// Checks that may be left out before a machine counts as provisioned.
type Checks struct {
	SkipCloudInitStatus bool `json:"skipCloudInitStatus,omitempty"`
	SkipQemuGuestAgent  bool `json:"skipQemuGuestAgent,omitempty"`
}

// +kubebuilder:object:generate=true

// MetadataSettings say what the guest learns of itself.
type MetadataSettings struct {
	ProviderIDInjection bool `json:"providerIDInjection,omitempty"`
}

// +kubebuilder:object:generate=true

// Network of a machine.
type Network struct {
	Zone           *string         `json:"zone,omitempty"`
	NetworkDevices []NetworkDevice `json:"networkDevices,omitempty"`
	VRFs           []VRF           `json:"vrfs,omitempty"`
}

// +kubebuilder:object:generate=true

// NetworkDevice of a machine.
type NetworkDevice struct {
	Name        string                             `json:"name,omitempty"`
	DefaultIPv4 bool                               `json:"defaultIPv4,omitempty"`
	DefaultIPv6 bool                               `json:"defaultIPv6,omitempty"`
	MTU         *int32                             `json:"mtu,omitempty"`
	LinkMTU     *int32                             `json:"linkMtu,omitempty"`
	IPPoolRef   []corev1.TypedLocalObjectReference `json:"ipPoolRef,omitempty"`
	Routing     `json:",inline"`
}

// +kubebuilder:object:generate=true

// VRF is a virtual routing device.
type VRF struct {
	Name    string `json:"name,omitempty"`
	Table   int32  `json:"table,omitempty"`
	Routing `json:",inline"`
}

// +kubebuilder:object:generate=true

// Routing is the routes and rules of a device.
type Routing struct {
	Routes        []Route         `json:"routes,omitempty"`
	RoutingPolicy []RoutingPolicy `json:"routingPolicy,omitempty"`
}

// +kubebuilder:object:generate=true

// Route of a device.
type Route struct {
	To  string `json:"to,omitempty"`
	Via string `json:"via,omitempty"`
	Is6 *bool  `json:"is6,omitempty"`
}

// +kubebuilder:object:generate=true

// RoutingPolicy chooses a routing table.
type RoutingPolicy struct {
	To    string `json:"to,omitempty"`
	From  string `json:"from,omitempty"`
	Table *int32 `json:"table,omitempty"`
	Is6   *bool  `json:"is6,omitempty"`
}

// +kubebuilder:object:generate=true

// MachineStatus is the status of a ProxmoxMachine.
type MachineStatus struct {
	Conditions            []metav1.Condition         `json:"conditions,omitempty"`
	Initialization        *Initialization            `json:"initialization,omitempty"`
	Addresses             []clusterv1.MachineAddress `json:"addresses,omitempty"`
	VMStatus              string                     `json:"vmStatus,omitempty"`
	BootstrapDataProvided *bool                      `json:"bootstrapDataProvided,omitempty"`
	IPAddresses           []IPAddresses              `json:"ipAddresses,omitempty"`
	ProxmoxNode           string                     `json:"proxmoxNode,omitempty"`
}

// +kubebuilder:object:generate=true

// IPAddresses are the addresses of a network device, or of "default".
type IPAddresses struct {
	Net  string   `json:"net"`
	IPv4 []string `json:"ipv4,omitempty"`
	IPv6 []string `json:"ipv6,omitempty"`
}

// +kubebuilder:object:root=true

// ProxmoxMachineTemplate is what ProxmoxMachines are made from. Its spec is kept as it came: it is
// only ever compared.
type ProxmoxMachineTemplate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              runtime.RawExtension `json:"spec,omitempty"`
}
