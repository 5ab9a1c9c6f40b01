// Package forge talks to the Git host of a repository: it sets commit statuses, reads
// pull requests, keeps a comment on them, and understands the webhooks the host sends.
// Gitea, Forgejo and GitHub are equals behind one interface. The package knows nothing of
// what the statuses are about.
//
// What a token needs, and nothing more, is in docs/forges.md.
package forge

import (
	"context"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
)

// Kind is the software a forge runs.
type Kind string

// The kinds of forges.
const (
	Gitea   Kind = "Gitea"
	Forgejo Kind = "Forgejo"
	GitHub  Kind = "GitHub"
)

// Options say which repository of which forge to talk to, and how.
type Options struct {
	// Kind is the software of the forge.
	Kind Kind
	// URL is where people see the forge: https://gitea.example.com, which may have a path.
	// For GitHub it is empty or https://github.com, or the host of GitHub Enterprise, whose
	// API is expected at /api/v3/ (at api.<name>.ghe.com for <name>.ghe.com).
	URL string
	// Owner and Repository name the repository.
	Owner, Repository string
	// Credentials are what the forge knows us by.
	Credentials Credentials
	// Timeout is the longest that one request may take; 30 seconds if 0.
	Timeout time.Duration
	// Transport sends the requests; a transport of its own, which takes proxies from the
	// environment and trusts Credentials.CA, if nil. Redirects and the size of answers are
	// watched above it.
	Transport http.RoundTripper
	// Observe is told of each request, if set.
	Observe Observer
	// Clock is the time by which waits for a rate limit are counted; the real one if nil.
	Clock clock.PassiveClock
	// Log gets what is good to know when looking for a fault; nothing if unset.
	Log logr.Logger
}

// Observer is told of each operation that ended, for metrics: what it was, "" or the kind
// of its error, and how many requests the forge says are left (-1: it does not say).
type Observer func(operation string, outcome ErrorKind, remaining int)

// State is the state of a commit status.
type State string

// The states of a commit status.
const (
	Pending State = "pending"
	Success State = "success"
	Failure State = "failure"
	Errored State = "error"
)

// Status is what a forge shows beside a commit. A later one of the same commit and context
// replaces it.
type Status struct {
	// Commit is the full id of the commit.
	Commit string
	// Context names what the status is about.
	Context string
	// State is what the forge draws an icon for.
	State State
	// Description is one line for a person; it is cut to what the forge accepts.
	Description string
	// TargetURL is where a click leads; none if empty.
	TargetURL string
}

// PullRequest is what is known of a pull request.
type PullRequest struct {
	// Number names it within the repository.
	Number int
	// Title and Author are for people; both are untrusted text.
	Title, Author string
	// Head is the commit that is proposed, Base the branch it is proposed for.
	Head, Base string
	// Fork says that the head is in another repository (or in one that is gone).
	Fork bool
	// Open and Draft are its state.
	Open, Draft bool
	// Ref is where the head can be fetched from, in the repository of the base.
	Ref string
}

// Limits are what a forge accepts.
type Limits struct {
	// Description is the longest description of a status, in characters.
	Description int
	// Comment is the longest comment, in bytes.
	Comment int
}

// Forge is one repository on a forge. All its errors are of type *Error. It is safe for
// concurrent use, and repeats nothing by itself: when to try again is the caller's to say.
type Forge interface {
	// SetStatus sets the status of a commit, in one request. (If Gitea fails with
	// 500, there is a second one, to see whether that is because the commit is gone.)
	SetStatus(ctx context.Context, s Status) error
	// OpenPullRequests returns the open pull requests for the branch base, the ones updated
	// last first, in one request; complete is false if there may be more.
	OpenPullRequests(ctx context.Context, base string) (prs []PullRequest, complete bool, err error)
	// PullRequest returns one pull request, open or closed.
	PullRequest(ctx context.Context, number int) (PullRequest, error)
	// FindComment returns the oldest comment of a pull request that contains the marker.
	// Anyone who may comment may write a marker: who wrote the comment is not checked.
	FindComment(ctx context.Context, number int, marker string) (id int64, found bool, err error)
	// CreateComment adds a comment to a pull request and returns its id.
	CreateComment(ctx context.Context, number int, body string) (int64, error)
	// EditComment replaces the text of a comment; it is NotFound if that was deleted.
	EditComment(ctx context.Context, number int, id int64, body string) error
	// Limits returns what the forge accepts.
	Limits() Limits
}
