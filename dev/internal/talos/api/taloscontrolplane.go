package api

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1"
)

// TalosControlPlaneFinalizer keeps a TalosControlPlane until its machines are gone.
const TalosControlPlaneFinalizer = "talos.controlplane.cluster.x-k8s.io"

// Conditions of a TalosControlPlane and their reasons.
const (
	// MachinesReadyCondition is the sum of the machines' Ready conditions.
	MachinesReadyCondition clusterv1beta1.ConditionType = "MachinesReady"

	// MachinesBootstrapped says whether etcd and Kubernetes were started on the first machine.
	MachinesBootstrapped clusterv1beta1.ConditionType = "MachinesBootstrapped"
	// WaitingForMachinesReason (Info): machines have yet to be made.
	WaitingForMachinesReason = "WaitingForMachines"

	// AvailableCondition says that the first machine is up and an API server answers.
	AvailableCondition clusterv1beta1.ConditionType = "Available"
	// WaitingForTalosBootReason (Info): the first machine is not up yet.
	WaitingForTalosBootReason = "WaitingForTalosBoot"
	// InvalidControlPlaneConfigReason (Error): the control plane's configuration is wrong.
	InvalidControlPlaneConfigReason = "InvalidControlPlaneConfig"

	// MachinesSpecUpToDateCondition is false during a rollout.
	MachinesSpecUpToDateCondition clusterv1beta1.ConditionType = "MachinesSpecUpToDate"
	// RollingUpdateInProgressReason (Warning): outdated machines are being replaced.
	RollingUpdateInProgressReason = "RollingUpdateInProgress"

	// ResizedCondition is false while the number of machines changes.
	ResizedCondition clusterv1beta1.ConditionType = "Resized"
	// ScalingUpReason (Info): machines are being added.
	ScalingUpReason = "ScalingUp"
	// ScalingDownReason (Info): machines are being removed.
	ScalingDownReason = "ScalingDown"

	// ControlPlaneComponentsHealthyCondition is the health of the static pods and etcd on all machines.
	ControlPlaneComponentsHealthyCondition clusterv1beta1.ConditionType = "ControlPlaneComponentsHealthy"
	// ControlPlaneComponentsUnhealthyReason (Error): a component is not healthy.
	ControlPlaneComponentsUnhealthyReason = "ControlPlaneComponentsUnhealthy"
	// ControlPlaneComponentsInspectionFailedReason: the components could not be asked.
	ControlPlaneComponentsInspectionFailedReason = "ControlPlaneComponentsInspectionFailed"

	// EtcdClusterHealthyCondition is the health of etcd. The word Condition is part of the type, as in the original.
	EtcdClusterHealthyCondition clusterv1beta1.ConditionType = "EtcdClusterHealthyCondition"
	// EtcdClusterUnhealthyReason (Error): etcd is not healthy.
	EtcdClusterUnhealthyReason = "EtcdClusterUnhealthy"

	// MachinesCreatedCondition is false when a machine could not be made.
	MachinesCreatedCondition clusterv1beta1.ConditionType = "MachinesCreated"
	// InfrastructureTemplateCloningFailedReason (Error): the infrastructure template could not be cloned.
	InfrastructureTemplateCloningFailedReason = "InfrastructureTemplateCloningFailed"
	// BootstrapTemplateCloningFailedReason (Error): the TalosConfig could not be made.
	BootstrapTemplateCloningFailedReason = "BootstrapTemplateCloningFailed"
	// MachineGenerationFailedReason (Error): the Machine could not be made.
	MachineGenerationFailedReason = "MachineGenerationFailed"
)

// TalosControlPlaneSpec is the wanted control plane.
type TalosControlPlaneSpec struct {
	// Replicas is the number of machines; the webhook makes nil 1.
	Replicas *int32 `json:"replicas,omitempty"`
	// Version is the Kubernetes version, with its v.
	Version string `json:"version"`
	// InfrastructureTemplate is what the machines' infrastructure is cloned from.
	InfrastructureTemplate corev1.ObjectReference `json:"infrastructureTemplate"`
	// ControlPlaneConfig is the configuration of the machines.
	ControlPlaneConfig ControlPlaneConfig `json:"controlPlaneConfig"`
	// RolloutStrategy says how outdated machines are replaced.
	RolloutStrategy *RolloutStrategy `json:"rolloutStrategy,omitempty"`
}

// GetReplicas returns the number of machines, 0 if none is set.
func (s *TalosControlPlaneSpec) GetReplicas() int32 {
	if s.Replicas == nil {
		return 0
	}
	return *s.Replicas
}

// ControlPlaneConfig is the configuration of the machines.
type ControlPlaneConfig struct {
	// InitConfig is ignored since CACPPT 0.4.
	InitConfig         TalosConfigSpec `json:"init,omitempty"`
	ControlPlaneConfig TalosConfigSpec `json:"controlplane"`
}

// RolloutStrategyType is when outdated machines are replaced.
type RolloutStrategyType string

const (
	// RollingUpdateStrategyType replaces outdated machines one by one.
	RollingUpdateStrategyType RolloutStrategyType = "RollingUpdate"
	// OnDeleteStrategyType replaces a machine only after somebody deleted it.
	OnDeleteStrategyType RolloutStrategyType = "OnDelete"
)

// RolloutStrategy says how outdated machines are replaced.
type RolloutStrategy struct {
	// RollingUpdate belongs to the type RollingUpdate.
	RollingUpdate *RollingUpdate      `json:"rollingUpdate,omitempty"`
	Type          RolloutStrategyType `json:"type,omitempty"`
}

// RollingUpdate are the parameters of a rolling update.
type RollingUpdate struct {
	// MaxSurge is 1 to add a machine before one is removed, 0 to do it the other way round.
	MaxSurge *intstr.IntOrString `json:"maxSurge,omitempty"`
}

// TalosControlPlaneStatus is the state of the control plane.
type TalosControlPlaneStatus struct {
	// Selector is the label selector of the machines, for the scale subresource.
	Selector            string `json:"selector,omitempty"`
	Replicas            int32  `json:"replicas,omitempty"`
	ReadyReplicas       int32  `json:"readyReplicas,omitempty"`
	UnavailableReplicas int32  `json:"unavailableReplicas,omitempty"`
	// Initialized and Ready are written when false too.
	Initialized bool `json:"initialized"`
	Ready       bool `json:"ready"`
	// Bootstrapped says that one machine was told to start etcd; this happens once in the life of a cluster.
	Bootstrapped       bool                      `json:"bootstrapped,omitempty"`
	FailureReason      *string                   `json:"failureReason,omitempty"`
	FailureMessage     *string                   `json:"failureMessage,omitempty"`
	ObservedGeneration int64                     `json:"observedGeneration,omitempty"`
	Conditions         clusterv1beta1.Conditions `json:"conditions,omitempty"`
	// Version is the lowest Kubernetes version of the machines.
	Version *string `json:"version,omitempty"`
}

// TalosControlPlane is the control plane of one cluster.
//
// +kubebuilder:object:root=true
type TalosControlPlane struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   TalosControlPlaneSpec   `json:"spec,omitempty"`
	Status TalosControlPlaneStatus `json:"status,omitempty"`
}

// GetConditions returns the conditions in the status.
func (c *TalosControlPlane) GetConditions() clusterv1beta1.Conditions { return c.Status.Conditions }

// SetConditions replaces the conditions in the status.
func (c *TalosControlPlane) SetConditions(conditions clusterv1beta1.Conditions) {
	c.Status.Conditions = conditions
}

// TalosControlPlaneList is a list of TalosControlPlanes.
//
// +kubebuilder:object:root=true
type TalosControlPlaneList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TalosControlPlane `json:"items"`
}
