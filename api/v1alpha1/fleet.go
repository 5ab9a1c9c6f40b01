package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Fleet is one Git repository at one ref, with the overlays found in it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=fleets,scope=Namespaced,categories=capstan
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40",message="a Fleet's name is a DNS label of at most 40 characters: it becomes part of its overlays' names"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Overlays",type=integer,JSONPath=`.status.overlays.total`
// +kubebuilder:printcolumn:name="Converged",type=integer,JSONPath=`.status.overlays.converged`
// +kubebuilder:printcolumn:name="Stalled",type=integer,JSONPath=`.status.overlays.stalled`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.overlays.failed`
// +kubebuilder:printcolumn:name="Pending deletion",type=integer,JSONPath=`.status.overlays.pendingDeletion`
// +kubebuilder:printcolumn:name="Revision",type=string,JSONPath=`.status.observedRevision`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspend`,priority=1
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.spec.git.url`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Fleet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   FleetSpec   `json:"spec"`
	Status FleetStatus `json:"status,omitempty"`
}

// FleetList is a list of Fleets.
//
// +kubebuilder:object:root=true
type FleetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Fleet `json:"items"`
}

// FleetSpec says where a fleet's overlays are and how they are applied.
type FleetSpec struct {
	// Git is the repository.
	Git GitSpec `json:"git"`

	// Overlays says which directories are overlays.
	//
	// +kubebuilder:default={}
	// +optional
	Overlays OverlaysSpec `json:"overlays,omitzero"`

	// Substitute turns on ${VAR} and ${VAR:=default} in rendered objects. If it
	// is absent nothing is substituted.
	//
	// +optional
	Substitute *SubstituteSpec `json:"substitute,omitempty"`

	// Deletion limits what one commit may delete.
	//
	// +kubebuilder:default={}
	// +optional
	Deletion DeletionSpec `json:"deletion,omitzero"`

	// Drift says what is done about live objects that no longer say what was applied.
	//
	// +kubebuilder:default={}
	// +optional
	Drift DriftSpec `json:"drift,omitzero"`

	// StallAfter is how long the machines of an overlay may come no nearer to what is
	// declared before that counts as stalled.
	//
	// +kubebuilder:default="15m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="stallAfter must be at least 1s"
	// +optional
	StallAfter metav1.Duration `json:"stallAfter,omitzero"`

	// Forge is where the repository is hosted: it sends webhooks and is told, in
	// commit statuses and comments on pull requests, what became of them. If it is
	// absent the repository is only polled.
	//
	// +optional
	Forge *ForgeSpec `json:"forge,omitempty"`

	// ServiceAccountName is a ServiceAccount in the Fleet's namespace under whose
	// rights managed objects are read and written. If it is empty the agent's own
	// rights apply.
	//
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// Suspend stops polling and every write to the fleet's objects.
	//
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// GitSpec is a Git repository and the ref that is tracked.
type GitSpec struct {
	// URL of the repository: https, http or ssh. A file path only if the agent
	// runs with --allow-local. It must not hold a password.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^(https?|ssh|file)://.+') || self.startsWith('/') || self.matches('^[A-Za-z0-9._-]+@[A-Za-z0-9._-]+:.+')",message="url must start with https://, http://, ssh://, file:// or /, or be of the form user@host:path"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[a-z]+://[^/@]*:[^/@]*@')",message="url must not hold a password; put it into the Secret that secretRef names"
	URL string `json:"url"`

	// Ref is what is tracked.
	//
	// +kubebuilder:default={branch: main}
	// +optional
	Ref GitRef `json:"ref,omitzero"`

	// Interval between two looks at the remote, jittered by 10 %. A webhook or
	// `capstan reconcile` comes on top.
	//
	// +kubebuilder:default="1m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="interval must be at least 1s"
	// +optional
	Interval metav1.Duration `json:"interval,omitzero"`

	// Timeout of one conversation with the remote.
	//
	// +kubebuilder:default="60s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="timeout must be at least 1s"
	// +optional
	Timeout metav1.Duration `json:"timeout,omitzero"`

	// SecretRef names a Secret in the Fleet's namespace with credentials, by key:
	// username and password, or bearerToken, for https and http; identity,
	// known_hosts and optionally passphrase for ssh; ca.crt for a private CA.
	//
	// +optional
	SecretRef *LocalReference `json:"secretRef,omitempty"`
}

// GitRef is what is tracked: exactly one of its fields.
//
// +kubebuilder:validation:XValidation:rule="[has(self.branch), has(self.tag), has(self.semver), has(self.commit), has(self.name)].filter(x, x).size() == 1",message="exactly one of branch, tag, semver, commit and name must be set"
type GitRef struct {
	// Branch is a branch name.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +optional
	Branch string `json:"branch,omitempty"`

	// Tag is a tag name.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +optional
	Tag string `json:"tag,omitempty"`

	// SemVer is a range, such as ">=1.2.0 <2.0.0"; the highest matching tag wins.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +optional
	SemVer string `json:"semver,omitempty"`

	// Commit is a full commit hash.
	//
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{40}$`
	// +optional
	Commit string `json:"commit,omitempty"`

	// Name is any full ref name, such as refs/pull/7/head.
	//
	// +kubebuilder:validation:Pattern=`^refs/.+`
	// +kubebuilder:validation:MaxLength=255
	// +optional
	Name string `json:"name,omitempty"`
}

// OverlaysSpec selects directories of the repository.
type OverlaysSpec struct {
	// Paths are globs over directories: * and ? within one path element, ** for
	// any number of elements.
	//
	// +kubebuilder:default={"clusters/*"}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	// +listType=atomic
	// +optional
	Paths []string `json:"paths,omitempty"`

	// Exclude are globs of directories that are not overlays; they win over Paths.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	// +listType=atomic
	// +optional
	Exclude []string `json:"exclude,omitempty"`
}

// SubstituteSpec gives variables their values. A later source wins over an
// earlier one, Vars wins over all sources.
type SubstituteSpec struct {
	// Vars are values by name.
	//
	// +kubebuilder:validation:MaxProperties=512
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^[A-Za-z_][A-Za-z0-9_]*$'))",message="a variable's name consists of letters, digits and _ and doesn't start with a digit"
	// +optional
	Vars map[string]string `json:"vars,omitempty"`

	// From are ConfigMaps and Secrets in the Fleet's namespace; each key is a
	// variable.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	From []SubstituteSource `json:"from,omitempty"`
}

// SubstituteSource is an object whose data are variables.
type SubstituteSource struct {
	// Kind of the object.
	//
	// +kubebuilder:validation:Enum=ConfigMap;Secret
	Kind string `json:"kind"`

	// Name of the object.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Optional makes a missing object count as empty.
	//
	// +optional
	Optional bool `json:"optional,omitempty"`
}

// DeletionSpec limits what one commit may delete.
type DeletionSpec struct {
	// MaxClusters is the number of overlays that may have lost their directory or
	// their whole content at the same time and still be approved for deletion.
	// More than that is taken for an accident: no approval is accepted until the
	// directories are restored or the limit is raised.
	//
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxClusters *int32 `json:"maxClusters,omitempty"`
}

// LocalReference names an object in the same namespace.
type LocalReference struct {
	// Name of the object.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// FleetStatus is what the agent knows of a fleet.
type FleetStatus struct {
	// ObservedGeneration is the generation of the spec this status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// ObservedRevision is the newest commit of the tracked ref that changed an
	// input of any overlay. A newer commit that no overlay reads costs no write,
	// so it is not recorded here; it shows in an event and in the metrics.
	//
	// +optional
	ObservedRevision string `json:"observedRevision,omitempty"`

	// AppliedRevision is the newest observed revision that all overlays have applied.
	//
	// +optional
	AppliedRevision string `json:"appliedRevision,omitempty"`

	// ConvergedRevision is the newest observed revision that the machines of all
	// overlays have reached.
	//
	// +optional
	ConvergedRevision string `json:"convergedRevision,omitempty"`

	// LastHandledRequest is the value of capstan.dev/requested-at that was
	// handled last.
	//
	// +optional
	LastHandledRequest string `json:"lastHandledRequest,omitempty"`

	// Overlays counts the overlays by state.
	//
	// +optional
	Overlays OverlayCounts `json:"overlays,omitzero"`

	// Forge is what the forge was told.
	//
	// +optional
	Forge *ForgeStatus `json:"forge,omitempty"`

	// Conditions: Fetched, Discovered, Reported, Ready.
	//
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// OverlayCounts counts the overlays of a fleet by state.
type OverlayCounts struct {
	// Total is the number of overlays, those without a directory included.
	//
	// +optional
	Total int32 `json:"total"`
	// Applied is the number whose desired revision is applied, whatever else they are.
	//
	// +optional
	Applied int32 `json:"applied"`
	// Converged is the number whose machines are all there.
	//
	// +optional
	Converged int32 `json:"converged"`
	// Progressing is the number being applied, or whose machines are on their way.
	//
	// +optional
	Progressing int32 `json:"progressing"`
	// Waiting is the number that wait for a person, as with a paused Cluster.
	//
	// +optional
	Waiting int32 `json:"waiting"`
	// Stalled is the number whose machines are stuck on their way.
	//
	// +optional
	Stalled int32 `json:"stalled"`
	// Degraded is the number that had converged and are not as declared any more.
	//
	// +optional
	Degraded int32 `json:"degraded"`
	// Failed is the number that don't render or can't be applied.
	//
	// +optional
	Failed int32 `json:"failed"`
	// Suspended is the number that are suspended.
	//
	// +optional
	Suspended int32 `json:"suspended"`
	// PendingDeletion is the number with a deletion that waits for approval or is
	// under way.
	//
	// +optional
	PendingDeletion int32 `json:"pendingDeletion"`
}
