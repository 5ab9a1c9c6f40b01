package api

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1"
)

// TalosConfigFinalizer was put on TalosConfigs by older releases; the provider only still removes it.
const TalosConfigFinalizer = "talosconfig.bootstrap.cluster.x-k8s.io"

// Conditions of a TalosConfig and their reasons.
const (
	// DataSecretAvailableCondition says whether the machine configuration is in its Secret.
	DataSecretAvailableCondition clusterv1beta1.ConditionType = "DataSecretAvailable"
	// WaitingForClusterInfrastructureReason (Info): nothing is generated before the cluster's infrastructure is ready.
	WaitingForClusterInfrastructureReason = "WaitingForClusterInfrastructure"
	// DataSecretGenerationFailedReason (Error): the configuration cannot be generated, most often since it is wrong.
	DataSecretGenerationFailedReason = "DataSecretGenerationFailed"

	// ClientConfigAvailableCondition says whether the cluster's talosconfig Secret is up to date.
	ClientConfigAvailableCondition clusterv1beta1.ConditionType = "ClientConfigAvailable"
	// ClientConfigGenerationFailedReason (Error): the talosconfig cannot be generated.
	ClientConfigGenerationFailedReason = "ClientConfigGenerationFailed"
)

// TalosConfigSpec says how to make the machine configuration of one machine.
//
// A list that was written as [] is not nil after decoding, and omitempty drops it when the spec is written into a
// TalosConfig; so the two differ for ever under reflect.DeepEqual. Users of the real provider meet this too.
type TalosConfigSpec struct {
	// TalosVersion is the version of the configuration format, like v1.12; unset means the newest the provider knows.
	TalosVersion string `json:"talosVersion,omitempty"`
	// GenerateType is the machine type to generate for, or none to take Data.
	GenerateType string `json:"generateType"`
	// Data is a whole machine configuration, with GenerateType none.
	Data string `json:"data,omitempty"`
	// ConfigPatches are JSON patches to the configuration, which must then be a single document.
	ConfigPatches []ConfigPatches `json:"configPatches,omitempty"`
	// StrategicPatches are partial configurations that are merged in.
	StrategicPatches []string `json:"strategicPatches,omitempty"`
	// Hostname says where the host name comes from.
	Hostname HostnameSpec `json:"hostname,omitempty"`
}

// ConfigPatches is one operation of a JSON patch.
type ConfigPatches struct {
	Op    string               `json:"op"`
	Path  string               `json:"path"`
	Value apiextensionsv1.JSON `json:"value,omitempty"`
}

// HostnameSource is where a host name comes from.
type HostnameSource string

const (
	// HostnameSourceMachineName takes the name of the Machine.
	HostnameSourceMachineName HostnameSource = "MachineName"
	// HostnameSourceInfrastructureName takes the name of the Machine's infrastructure object.
	HostnameSourceInfrastructureName HostnameSource = "InfrastructureName"
)

// HostnameSpec says where the host name comes from.
type HostnameSpec struct {
	Source HostnameSource `json:"source,omitempty"`
}

// TalosConfigStatus is what became of a TalosConfig.
type TalosConfigStatus struct {
	// Ready says that the Secret DataSecretName can be used.
	Ready          bool    `json:"ready,omitempty"`
	DataSecretName *string `json:"dataSecretName,omitempty"`
	// TalosConfig is a client configuration with the cluster's administrator certificate. Deprecated in favour of the
	// Secret <cluster>-talosconfig, and still written.
	TalosConfig        string                    `json:"talosConfig,omitempty"`
	FailureReason      string                    `json:"failureReason,omitempty"`
	FailureMessage     string                    `json:"failureMessage,omitempty"`
	ObservedGeneration int64                     `json:"observedGeneration,omitempty"`
	Conditions         clusterv1beta1.Conditions `json:"conditions,omitempty"`
}

// TalosConfig is the machine configuration of one machine.
//
// +kubebuilder:object:root=true
type TalosConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   TalosConfigSpec   `json:"spec,omitempty"`
	Status TalosConfigStatus `json:"status,omitempty"`
}

// GetConditions returns the conditions in the status.
func (c *TalosConfig) GetConditions() clusterv1beta1.Conditions { return c.Status.Conditions }

// SetConditions replaces the conditions in the status.
func (c *TalosConfig) SetConditions(conditions clusterv1beta1.Conditions) {
	c.Status.Conditions = conditions
}

// TalosConfigList is a list of TalosConfigs.
//
// +kubebuilder:object:root=true
type TalosConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TalosConfig `json:"items"`
}

// TalosConfigTemplate is what a MachineSet clones TalosConfigs from.
//
// +kubebuilder:object:root=true
type TalosConfigTemplate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec TalosConfigTemplateSpec `json:"spec,omitempty"`
}

// TalosConfigTemplateSpec wraps the template.
type TalosConfigTemplateSpec struct {
	Template TalosConfigTemplateResource `json:"template"`
}

// TalosConfigTemplateResource is the template.
type TalosConfigTemplateResource struct {
	Spec TalosConfigSpec `json:"spec,omitempty"`
}

// TalosConfigTemplateList is a list of TalosConfigTemplates.
//
// +kubebuilder:object:root=true
type TalosConfigTemplateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TalosConfigTemplate `json:"items"`
}
