package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ForgeKind is the software that hosts a repository.
//
// +kubebuilder:validation:Enum=Gitea;Forgejo;GitHub
type ForgeKind string

// The forges.
const (
	ForgeGitea   ForgeKind = "Gitea"
	ForgeForgejo ForgeKind = "Forgejo"
	ForgeGitHub  ForgeKind = "GitHub"
)

// ForgeSpec is the host of a Fleet's repository.
//
// +kubebuilder:validation:XValidation:rule="has(self.secretRef) || has(self.webhookSecretRef)",message="without secretRef and webhookSecretRef there is nothing to do for a forge: set one, or leave forge out"
type ForgeSpec struct {
	// Kind is the software.
	Kind ForgeKind `json:"kind"`

	// URL is where people open the forge in a browser, such as
	// https://gitea.example.com. Default: scheme and host of git.url; https if that
	// is ssh.
	//
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^@?#]+$')",message="url must start with https:// or http:// and hold no user, query or fragment"
	// +optional
	URL string `json:"url,omitempty"`

	// Repository is owner/name. Default: the path of git.url.
	//
	// +kubebuilder:validation:Pattern=`^[^/\s]+/[^/\s]+$`
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Repository string `json:"repository,omitempty"`

	// SecretRef names a Secret in the Fleet's namespace with the credentials for
	// commit statuses and comments, by key: token; or githubAppID,
	// githubAppInstallationID and githubAppPrivateKey; ca.crt for a private CA. If
	// it is absent nothing is posted.
	//
	// +optional
	SecretRef *LocalReference `json:"secretRef,omitempty"`

	// WebhookSecretRef names a Secret in the Fleet's namespace whose key secret is
	// what the forge signs deliveries with. To rotate it, put the old value into
	// the key previousSecret for a while. If it is absent deliveries are refused.
	//
	// +optional
	WebhookSecretRef *LocalReference `json:"webhookSecretRef,omitempty"`

	// ContextPrefix begins the contexts of commit statuses: prefix/fleet,
	// prefix/fleet/overlay and prefix/fleet/plan. Management clusters that share a
	// repository need different ones.
	//
	// +kubebuilder:default=capstan
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$`
	// +kubebuilder:validation:MaxLength=64
	// +optional
	ContextPrefix string `json:"contextPrefix,omitempty"`

	// MaxContexts is how many overlays a commit may touch and still get a commit
	// status for each. A commit that touches more gets only that of the Fleet.
	//
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +optional
	MaxContexts *int32 `json:"maxContexts,omitempty"`

	// PullRequests says what is done about pull requests. It needs secretRef.
	//
	// +kubebuilder:default={}
	// +optional
	PullRequests PullRequestsSpec `json:"pullRequests,omitzero"`
}

// PullRequestMode says what is done about pull requests.
//
// +kubebuilder:validation:Enum=Plan;Ignore
type PullRequestMode string

// The modes.
const (
	// PullRequestsPlan: every open pull request to the tracked branch gets a commit
	// status and one comment that say what it would do. Nothing is applied.
	PullRequestsPlan PullRequestMode = "Plan"
	// PullRequestsIgnore: nothing is done.
	PullRequestsIgnore PullRequestMode = "Ignore"
)

// PullRequestsSpec says what is done about pull requests.
type PullRequestsSpec struct {
	// Mode is Plan or Ignore.
	//
	// +kubebuilder:default=Plan
	// +optional
	Mode PullRequestMode `json:"mode,omitempty"`

	// Interval between two looks at the list of open pull requests, for events that
	// were missed.
	//
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s')",message="interval must be at least 10s"
	// +optional
	Interval metav1.Duration `json:"interval,omitzero"`
}

// ForgeStatus is what the forge has acknowledged. It is compared with what the
// forge should know, so a restart goes on where it was.
type ForgeStatus struct {
	// Host is the forge, the repository and the prefix of contexts that all this is
	// about. With another one everything is told anew.
	//
	// +optional
	Host string `json:"host,omitempty"`

	// Tip is the commit of the tracked ref that was observed last.
	//
	// +optional
	Tip string `json:"tip,omitempty"`

	// Commits are those whose statuses may still change, newest first.
	//
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	// +optional
	Commits []ReportedCommit `json:"commits,omitempty"`

	// PullRequests are the open ones that have been looked at.
	//
	// +kubebuilder:validation:MaxItems=200
	// +listType=atomic
	// +optional
	PullRequests []ReportedPullRequest `json:"pullRequests,omitempty"`
}

// ReportedCommit is a commit with the statuses that the forge has.
type ReportedCommit struct {
	// Commit is its hash.
	Commit string `json:"commit"`

	// Overlays is how many overlays the commit touches; absent until all overlays
	// were looked at.
	//
	// +optional
	Overlays *int32 `json:"overlays,omitempty"`

	// Posts is how many statuses the commit was given so far; it limits texts, not
	// transitions.
	//
	// +optional
	Posts int32 `json:"posts,omitempty"`

	// Statuses by context.
	//
	// +kubebuilder:validation:MaxItems=101
	// +listType=atomic
	// +optional
	Statuses []ReportedStatus `json:"statuses,omitempty"`
}

// ReportedStatus is a commit status that the forge has.
type ReportedStatus struct {
	// Context is its name.
	Context string `json:"context"`
	// Overlay is the name of the ClusterOverlay it speaks of; empty for the Fleet's.
	//
	// +optional
	Overlay string `json:"overlay,omitempty"`
	// State is pending, success, failure or error; empty while it is
	// not known which of them the forge has.
	//
	// +optional
	State string `json:"state,omitempty"`
	// Digest stands for the text and the link.
	//
	// +optional
	Digest string `json:"digest,omitempty"`
	// Time at which it was posted.
	//
	// +optional
	Time metav1.Time `json:"time,omitzero"`
}

// ReportedPullRequest is an open pull request with what the forge was told of it.
type ReportedPullRequest struct {
	// Number of the pull request.
	Number int64 `json:"number"`
	// Head is the commit that was planned.
	Head string `json:"head"`
	// Target is the commit of the tracked ref that it was compared with.
	Target string `json:"target"`
	// Digest stands for the status and the comment.
	Digest string `json:"digest"`
	// Comment is the comment's number, 0 if there is none.
	//
	// +optional
	Comment int64 `json:"comment,omitempty"`
}
