package v1alpha1

// Labels on every applied object.
const (
	// FleetLabel names the Fleet: 8 hex digits of the SHA-256 of namespace/name.
	FleetLabel = "capstan.dev/fleet"
	// OverlayLabel names the ClusterOverlay.
	OverlayLabel = "capstan.dev/overlay"
)

// Annotations on every applied object: what the labels stand for, for people.
const (
	// FleetAnnotation is namespace/name of the Fleet.
	FleetAnnotation = "capstan.dev/fleet-name"
	// PathAnnotation is the directory of the overlay.
	PathAnnotation = "capstan.dev/path"
)

// Annotations that people set.
const (
	// PruneAnnotation set to Disabled on a managed object, in Git or live, keeps
	// the object when it leaves Git.
	PruneAnnotation = "capstan.dev/prune"
	// ReconcileAnnotation set to Disabled on a managed object, in Git or live,
	// makes the agent leave the object alone.
	ReconcileAnnotation = "capstan.dev/reconcile"
	// SubstituteAnnotation set to Disabled on an object in Git turns variable
	// substitution off for it.
	SubstituteAnnotation = "capstan.dev/substitute"
	// RequestedAtAnnotation on a Fleet or ClusterOverlay asks for a
	// reconciliation; any new value is a new request.
	RequestedAtAnnotation = "capstan.dev/requested-at"
	// ApproveDeletionAnnotation on a ClusterOverlay approves the pending deletion
	// whose hash it holds.
	ApproveDeletionAnnotation = "capstan.dev/approve-deletion"
	// ApproveCorrectionAnnotation on a ClusterOverlay approves the corrections whose
	// hashes it holds, separated by commas.
	ApproveCorrectionAnnotation = "capstan.dev/approve-correction"
	// IgnoreAnnotation on a managed object, in Git or live, lists fields that are left
	// to others: JSON pointers, separated by commas or spaces.
	IgnoreAnnotation = "capstan.dev/ignore"
	// DriftAnnotation on a managed object, in Git or live, is a [DriftMode] in any
	// case: what is done about drift of this object.
	DriftAnnotation = "capstan.dev/drift"

	// Disabled is the value that turns something off.
	Disabled = "disabled"
)

// OverlayFinalizer on a ClusterOverlay lets the agent record that its objects
// were orphaned when a person deletes it.
const OverlayFinalizer = "capstan.dev/overlay"

// FieldManager is the name under which the agent owns fields.
const FieldManager = "capstan"

// Condition types.
const (
	// FetchedCondition of a Fleet: the tracked ref was read from Git.
	FetchedCondition = "Fetched"
	// DiscoveredCondition of a Fleet: its overlays were listed.
	DiscoveredCondition = "Discovered"
	// ReportedCondition of a Fleet: its forge has the commit statuses and comments
	// that it should have.
	ReportedCondition = "Reported"
	// RenderedCondition of a ClusterOverlay: its directory renders.
	RenderedCondition = "Rendered"
	// ValidCondition of a ClusterOverlay: what it renders passes the rules.
	ValidCondition = "Valid"
	// AppliedCondition of a ClusterOverlay: the API server accepted everything.
	AppliedCondition = "Applied"
	// InSyncCondition of a ClusterOverlay: live objects say what was applied.
	InSyncCondition = "InSync"
	// ConvergedCondition of a ClusterOverlay: the machines are there.
	ConvergedCondition = "Converged"
	// PendingDeletionCondition of a ClusterOverlay: a deletion waits for approval
	// or is under way.
	PendingDeletionCondition = "PendingDeletion"
	// ReadyCondition sums the others up.
	ReadyCondition = "Ready"
)

// Condition reasons.
const (
	SucceededReason        = "Succeeded"
	NotTrackedReason       = "NotTracked"
	SuspendedReason        = "Suspended"
	InvalidSpecReason      = "InvalidSpec"
	CredentialsReason      = "CredentialsUnavailable"
	NoOverlaysReason       = "NoOverlays"
	RenderFailedReason     = "RenderFailed"
	SubstitutionReason     = "SubstitutionFailed"
	DuplicateObjectReason  = "DuplicateObject"
	TooManyObjectsReason   = "TooManyObjects"
	PathRemovedReason      = "PathRemoved"
	EmptyRenderReason      = "EmptyRender"
	ObjectsRemovedReason   = "ObjectsRemoved"
	InvalidReason          = "Invalid"
	ConflictReason         = "Conflict"
	OwnedByOtherReason     = "OwnedByOther"
	ForbiddenReason        = "Forbidden"
	TransientReason        = "Transient"
	FleetNotFoundReason    = "FleetNotFound"
	ClusterPausedReason    = "ClusterPaused"
	ClusterDeletingReason  = "ClusterDeleting"
	AwaitingApprovalReason = "AwaitingApproval"
	TeardownReason         = "Deleting"
	NothingPendingReason   = "NothingPending"
	PruneHeldReason        = "PruneHeld"
	ApplyingReason         = "Applying"
	ProgressingReason      = "Progressing"
	NotAppliedReason       = "NotApplied"
	// Reasons of Converged, and of Ready that follows it, are those of the phases.
	ConvergedReason  = string(PhaseConverged)
	WaitingReason    = string(PhaseWaiting)
	StalledReason    = string(PhaseStalled)
	DegradedReason   = string(PhaseDegraded)
	NotWatchedReason = "NotWatched"
	// Reasons of InSync that is False: the most urgent of what is done about drift.
	DriftedReason           = "Drifted"
	CorrectionHeldReason    = "CorrectionHeld"
	CorrectionBlockedReason = "CorrectionBlocked"
	FightReason             = "Fight"
)
