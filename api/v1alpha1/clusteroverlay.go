package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ClusterOverlay is one overlay of a Fleet: a directory that renders one
// workload cluster. The agent creates it and owns fleetRef and path; a person may
// set suspend, also before the agent has created it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=clusteroverlays,scope=Namespaced,categories=capstan,shortName=overlay;overlays
// +kubebuilder:printcolumn:name="Path",type=string,JSONPath=`.spec.path`
// +kubebuilder:printcolumn:name="Cluster",type=string,JSONPath=`.status.cluster`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.progress.phase`
// +kubebuilder:printcolumn:name="Objects",type=integer,JSONPath=`.status.objects`
// +kubebuilder:printcolumn:name="Applied",type=string,JSONPath=`.status.appliedRevision`
// +kubebuilder:printcolumn:name="Converged",type=string,JSONPath=`.status.convergedRevision`
// +kubebuilder:printcolumn:name="Pending deletion",type=string,JSONPath=`.status.pendingDeletion.reason`
// +kubebuilder:printcolumn:name="Desired",type=string,JSONPath=`.status.desiredRevision`,priority=1
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspend`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ClusterOverlay struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ClusterOverlaySpec   `json:"spec"`
	Status ClusterOverlayStatus `json:"status,omitempty"`
}

// ClusterOverlayList is a list of ClusterOverlays.
//
// +kubebuilder:object:root=true
type ClusterOverlayList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ClusterOverlay `json:"items"`
}

// ClusterOverlaySpec names the overlay.
type ClusterOverlaySpec struct {
	// FleetRef names the Fleet, in the same namespace.
	//
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="fleetRef can't be changed: an overlay's name follows from it"
	FleetRef LocalReference `json:"fleetRef"`

	// Path is the directory, relative to the root of the repository.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="path can't be changed: an overlay's name follows from it"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.split('/').exists(e, e == '..' || e == '.' || e == '')",message="path must be relative, without empty, . and .. elements"
	Path string `json:"path"`

	// Suspend stops every write to the overlay's objects.
	//
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// Drift overrides what the Fleet says about drift.
	//
	// +optional
	Drift OverlayDriftSpec `json:"drift,omitzero"`
}

// ClusterOverlayStatus is what the agent knows of an overlay. Together with Git
// it is all that the agent needs after a restart.
type ClusterOverlayStatus struct {
	// ObservedGeneration is the generation of the spec this status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// DesiredRevision is the newest observed commit that changed an input of this
	// overlay.
	//
	// +optional
	DesiredRevision string `json:"desiredRevision,omitempty"`

	// DesiredSince is when that change can have come into Git at the earliest: the
	// commit's own time, but not before the look at Git that didn't find it yet, nor
	// after the one that did.
	//
	// +optional
	DesiredSince *metav1.Time `json:"desiredSince,omitempty"`

	// AppliedRevision is the revision whose objects the API server has accepted,
	// all of them.
	//
	// +optional
	AppliedRevision string `json:"appliedRevision,omitempty"`

	// ConvergedRevision is the newest revision that the machines have reached. That
	// they have isn't taken back when one of them fails later: Progress says that.
	//
	// +optional
	ConvergedRevision string `json:"convergedRevision,omitempty"`

	// InputsDigest stands for everything the last render read: files, variables,
	// settings of the Fleet, and the version of the renderer.
	//
	// +optional
	InputsDigest string `json:"inputsDigest,omitempty"`

	// RenderDigest stands for the objects applied last.
	//
	// +optional
	RenderDigest string `json:"renderDigest,omitempty"`

	// Cluster is namespace/name of the Cluster that the overlay renders, if any.
	//
	// +optional
	Cluster string `json:"cluster,omitempty"`

	// Objects is the number of objects in the inventory.
	//
	// +optional
	Objects int32 `json:"objects"`

	// Inventory is what the overlay owns, written before anything is applied.
	//
	// +kubebuilder:validation:MaxItems=2000
	// +listType=atomic
	// +optional
	Inventory []InventoryEntry `json:"inventory,omitempty"`

	// Progress is how far the machines are with what was applied last.
	//
	// +optional
	Progress *Progress `json:"progress,omitempty"`

	// Drift lists the live objects that don't say what was applied, the most urgent
	// first.
	//
	// +kubebuilder:validation:MaxItems=50
	// +listType=atomic
	// +optional
	Drift []DriftedObject `json:"drift,omitempty"`

	// DriftedObjects counts them, also those that Drift has no room for.
	//
	// +optional
	DriftedObjects int32 `json:"driftedObjects,omitempty"`

	// Corrections lists the objects that were corrected last, newest first, each once.
	//
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	// +optional
	Corrections []Correction `json:"corrections,omitempty"`

	// PendingDeletion is the deletion that waits for an approval or is under way.
	//
	// +optional
	PendingDeletion *PendingDeletion `json:"pendingDeletion,omitempty"`

	// LastHandledRequest is the value of capstan.dev/requested-at that was
	// handled last.
	//
	// +optional
	LastHandledRequest string `json:"lastHandledRequest,omitempty"`

	// History lists the latest revisions that were applied, newest first.
	//
	// +kubebuilder:validation:MaxItems=10
	// +listType=atomic
	// +optional
	History []HistoryEntry `json:"history,omitempty"`

	// Conditions: Rendered, Valid, Applied, InSync, Converged, PendingDeletion,
	// Ready.
	//
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ObjectReference identifies a live object.
type ObjectReference struct {
	// Group is the API group, empty for the core group.
	//
	// +optional
	Group string `json:"group,omitempty"`
	// Version is the API version of the manifest.
	//
	// +optional
	Version string `json:"version,omitempty"`
	// Kind is the kind.
	Kind string `json:"kind"`
	// Namespace is empty for cluster-scoped objects.
	//
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Name is the name.
	Name string `json:"name"`
	// UID of the live object; empty until it was applied or found.
	//
	// +optional
	UID types.UID `json:"uid,omitempty"`
}

// EntryState says why an object is in the inventory.
//
// +kubebuilder:validation:Enum=Intent;Applied;Retained;Shared;Leaving
type EntryState string

// The states of an inventory entry.
const (
	// EntryIntent: the object was about to be applied; it may or may not exist.
	EntryIntent EntryState = "Intent"
	// EntryApplied: the object was applied.
	EntryApplied EntryState = "Applied"
	// EntryRetained: the object has left Git and is kept because something live
	// refers to it, or because prune is disabled for it.
	EntryRetained EntryState = "Retained"
	// EntryShared: a Namespace that several overlays render; none prunes it.
	EntryShared EntryState = "Shared"
	// EntryLeaving: the object has left Git and is waiting to be pruned.
	EntryLeaving EntryState = "Leaving"
)

// InventoryEntry is one object that the overlay owns.
type InventoryEntry struct {
	ObjectReference `json:",inline"`

	// Digest stands for the manifest that was applied last; keyed, so that it
	// tells nothing of secret content. Empty until the object was applied.
	//
	// +optional
	Digest string `json:"digest,omitempty"`

	// Generation is that of the live object after it was applied last: what is known
	// of an older one says nothing about that.
	//
	// +optional
	Generation int64 `json:"generation,omitempty"`

	// ResourceVersion is that of the live object after it was applied last. What is
	// known of an older one says nothing about drift.
	//
	// +optional
	ResourceVersion string `json:"resourceVersion,omitempty"`

	// StateDigest stands for the values of the fields that the agent owned after it was
	// applied last, as the API server had stored them; keyed. Empty until that is known.
	//
	// +optional
	StateDigest string `json:"stateDigest,omitempty"`

	// Corrections is how many corrections of the object's drift came one after another
	// without a quiet time between them, and CorrectedTime is when the last one was made.
	//
	// +optional
	Corrections int32 `json:"corrections,omitempty"`
	// +optional
	CorrectedTime *metav1.Time `json:"correctedTime,omitempty"`

	// State says why the object is here.
	State EntryState `json:"state"`

	// Message says why an object that has left Git is still here.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
}

// PendingDeletion is a set of objects whose deletion needs an approval.
type PendingDeletion struct {
	// Hash stands for this overlay and exactly this set of objects with their
	// UIDs. The annotation capstan.dev/approve-deletion with this value approves
	// it, once.
	Hash string `json:"hash"`

	// Reason: PathRemoved, EmptyRender or ObjectsRemoved.
	Reason string `json:"reason"`

	// Message says in words what will be deleted.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`

	// Approved is true once the approval was accepted; the deletion is under way.
	//
	// +optional
	Approved bool `json:"approved,omitempty"`

	// Objects is the set.
	//
	// +kubebuilder:validation:MaxItems=2000
	// +listType=atomic
	Objects []ObjectReference `json:"objects"`
}

// Phase says in a word how far the machines of an overlay are.
//
// +kubebuilder:validation:Enum=Converged;Progressing;Waiting;Stalled;Degraded;Unknown
type Phase string

// The phases.
const (
	// PhaseConverged: everything is as declared, and every machine is there, up to
	// date and ready.
	PhaseConverged Phase = "Converged"
	// PhaseProgressing: controllers are at work.
	PhaseProgressing Phase = "Progressing"
	// PhaseWaiting: nothing happens until a person acts, as with a paused Cluster, or
	// an outdated machine under the strategy OnDelete.
	PhaseWaiting Phase = "Waiting"
	// PhaseStalled: it came no nearer for the Fleet's spec.stallAfter, or a controller
	// says that it can't.
	PhaseStalled Phase = "Stalled"
	// PhaseDegraded: it had converged at this revision, and is not as declared any more.
	PhaseDegraded Phase = "Degraded"
	// PhaseUnknown: the live objects can't be watched.
	PhaseUnknown Phase = "Unknown"
)

// Progress is how far the machines of an overlay are with what was applied last.
type Progress struct {
	// Phase says it in a word.
	Phase Phase `json:"phase"`

	// Message says what it waits for; empty if for nothing.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`

	// ControlPlane counts the machines of control planes.
	//
	// +optional
	ControlPlane MachineCounts `json:"controlPlane,omitzero"`

	// Workers counts all other machines.
	//
	// +optional
	Workers MachineCounts `json:"workers,omitzero"`

	// Score grows with every step towards convergence and has no unit. The best so
	// far is kept: a machine that comes and goes makes no progress.
	//
	// +optional
	Score int64 `json:"score,omitempty"`

	// StartTime is when what is declared was applied, or last changed.
	//
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// AdvanceTime is when Score grew last.
	//
	// +optional
	AdvanceTime *metav1.Time `json:"advanceTime,omitempty"`

	// EstimatedTime is when the machines will be there if they go on at their pace.
	// Absent if there is no telling.
	//
	// +optional
	EstimatedTime *metav1.Time `json:"estimatedTime,omitempty"`
}

// MachineCounts counts machines.
type MachineCounts struct {
	// Desired is the number declared.
	Desired int32 `json:"desired"`
	// Existing is the number that there are, those on their way out included.
	Existing int32 `json:"existing"`
	// Ready is the number that are ready and available and not on their way out.
	Ready int32 `json:"ready"`
	// UpToDate is the number that are as declared and not on their way out.
	UpToDate int32 `json:"upToDate"`
	// Done is the number that are both.
	Done int32 `json:"done"`
}

// Outcome is what became of a revision.
//
// +kubebuilder:validation:Enum=Applied;Converged;Stalled;Superseded
type Outcome string

// The outcomes.
const (
	// OutcomeApplied: applied, and the machines are on their way.
	OutcomeApplied Outcome = "Applied"
	// OutcomeConverged: the machines have reached it.
	OutcomeConverged Outcome = "Converged"
	// OutcomeStalled: the machines are stuck on their way to it.
	OutcomeStalled Outcome = "Stalled"
	// OutcomeSuperseded: something else was applied before the machines had reached it.
	OutcomeSuperseded Outcome = "Superseded"
)

// HistoryEntry is one revision that was applied.
type HistoryEntry struct {
	// Revision is the commit.
	Revision string `json:"revision"`
	// RenderDigest stands for the objects.
	RenderDigest string `json:"renderDigest"`
	// Outcome is what became of it.
	//
	// +optional
	Outcome Outcome `json:"outcome,omitempty"`
	// Since is when the change can have come into Git, as in desiredSince.
	//
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Time at which the API server had accepted everything.
	Time metav1.Time `json:"time"`
	// Converged is the time at which the machines had reached it.
	//
	// +optional
	Converged *metav1.Time `json:"converged,omitempty"`
	// Message counts what was done.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
}
