package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DriftMode says what is done about a live object that no longer says what was applied.
//
// +kubebuilder:validation:Enum=Correct;Report
type DriftMode string

// The modes.
const (
	// DriftCorrect: the object is applied again.
	DriftCorrect DriftMode = "Correct"
	// DriftReport: it is reported, and left as it is.
	DriftReport DriftMode = "Report"
)

// DriftSpec says what is done about drift in a Fleet.
type DriftSpec struct {
	// Mode is Correct or Report.
	//
	// +kubebuilder:default=Correct
	// +optional
	Mode DriftMode `json:"mode,omitempty"`

	// Ignore lists fields that are left to others.
	//
	// +kubebuilder:validation:MaxItems=100
	// +listType=atomic
	// +optional
	Ignore []DriftIgnore `json:"ignore,omitempty"`
}

// OverlayDriftSpec overrides a DriftSpec.
type OverlayDriftSpec struct {
	// Mode is Correct or Report; empty: what the Fleet says.
	//
	// +optional
	Mode DriftMode `json:"mode,omitempty"`
}

// DriftIgnore names fields that are left to others.
type DriftIgnore struct {
	// Kinds are Kind or Kind.group, such as MachineDeployment or
	// MachineDeployment.cluster.x-k8s.io; none stands for all.
	//
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:MinLength=1
	// +listType=atomic
	// +optional
	Kinds []string `json:"kinds,omitempty"`

	// Paths are JSON pointers; each covers all below it, and an element * stands for
	// any one.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:Pattern=`^(/[^/]+)+$`
	// +listType=atomic
	Paths []string `json:"paths"`

	// Managers are the field managers that they are left to; none stands for all.
	//
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:MinLength=1
	// +listType=atomic
	// +optional
	Managers []string `json:"managers,omitempty"`
}

// FindingClass says in what way a live object doesn't say what was applied.
//
// +kubebuilder:validation:Enum=Changed;Missing;Foreign;OwnershipLost;Recreated
type FindingClass string

// The classes.
const (
	// FindingChanged: a field that Git declares has another value, or is gone.
	FindingChanged FindingClass = "Changed"
	// FindingMissing: the object was deleted.
	FindingMissing FindingClass = "Missing"
	// FindingForeign: somebody set a field that Git does not declare.
	FindingForeign FindingClass = "Foreign"
	// FindingOwnershipLost: a field says what Git says and belongs to somebody else.
	FindingOwnershipLost FindingClass = "OwnershipLost"
	// FindingRecreated: the object was deleted, and somebody made another one.
	FindingRecreated FindingClass = "Recreated"
)

// DriftAction says what is done about a drifted object.
//
// +kubebuilder:validation:Enum=Correcting;Reported;Held;Blocked;Fight
type DriftAction string

// The actions.
const (
	// DriftCorrecting: the object is being applied again.
	DriftCorrecting DriftAction = "Correcting"
	// DriftReported: nothing is done: the mode is Report, or only foreign fields are set.
	DriftReported DriftAction = "Reported"
	// DriftHeld: the correction would replace or remove machines, and waits for an
	// approval.
	DriftHeld DriftAction = "Held"
	// DriftBlocked: it can't be corrected now; the message says why.
	DriftBlocked DriftAction = "Blocked"
	// DriftFight: it was corrected, and changed again. The next correction waits.
	DriftFight DriftAction = "Fight"
)

// DriftedObject is a live object that doesn't say what was applied.
type DriftedObject struct {
	ObjectReference `json:",inline"`

	// Action is what is done about it.
	Action DriftAction `json:"action"`

	// Message says why.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`

	// Hash stands for this overlay, this object and exactly this correction. The
	// annotation capstan.dev/approve-correction with this value approves it, once.
	//
	// +optional
	Hash string `json:"hash,omitempty"`

	// Approved is true once the approval was accepted.
	//
	// +optional
	Approved bool `json:"approved,omitempty"`

	// DetectedTime is when it was found to have drifted.
	DetectedTime metav1.Time `json:"detectedTime"`

	// NextTime is when the next correction is tried after a fight.
	//
	// +optional
	NextTime *metav1.Time `json:"nextTime,omitempty"`

	// Findings say what is different.
	//
	// +kubebuilder:validation:MaxItems=10
	// +listType=atomic
	Findings []Finding `json:"findings"`

	// MoreFindings counts those that Findings has no room for.
	//
	// +optional
	MoreFindings int32 `json:"moreFindings,omitempty"`
}

// Finding is one difference between a live object and what was applied.
type Finding struct {
	// Class says in what way it differs.
	Class FindingClass `json:"class"`

	// Field is a JSON pointer, empty if it is about the whole object.
	//
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Field string `json:"field,omitempty"`

	// From is what was applied, To what is live, as JSON; secret material is masked, and
	// long values are cut. Empty for no value.
	//
	// +kubebuilder:validation:MaxLength=256
	// +optional
	From string `json:"from,omitempty"`
	// +kubebuilder:validation:MaxLength=256
	// +optional
	To string `json:"to,omitempty"`

	// Writer is who did it, as far as the object tells.
	//
	// +optional
	Writer Writer `json:"writer,omitzero"`
}

// Writer is who wrote a field, from metadata.managedFields.
type Writer struct {
	// Manager is the name of the field manager: a program, not a user.
	//
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Manager string `json:"manager,omitempty"`
	// Class is person, former owner, controller or unknown.
	//
	// +optional
	Class string `json:"class,omitempty"`
	// Operation is Apply or Update.
	//
	// +optional
	Operation string `json:"operation,omitempty"`
	// Subresource is empty for the object itself.
	//
	// +optional
	Subresource string `json:"subresource,omitempty"`
	// Time of that manager's last write.
	//
	// +optional
	Time *metav1.Time `json:"time,omitempty"`
}

// Correction is what was written over somebody's change: who lost what.
type Correction struct {
	ObjectReference `json:",inline"`

	// Time of the last correction.
	Time metav1.Time `json:"time"`

	// Count is how many corrections of this object came one after another without a
	// quiet time between them.
	Count int32 `json:"count"`

	// Findings are what was written over by the last one.
	//
	// +kubebuilder:validation:MaxItems=5
	// +listType=atomic
	// +optional
	Findings []Finding `json:"findings,omitempty"`
}
