package forge

import (
	"errors"
	"net/http"
)

// EventKind is what a webhook tells of.
type EventKind string

// The kinds of events.
const (
	// PingEvent only tests the connection.
	PingEvent EventKind = "Ping"
	// PushEvent tells of a branch or tag that moved.
	PushEvent EventKind = "Push"
	// PullRequestEvent tells of a pull request that changed.
	PullRequestEvent EventKind = "PullRequest"
	// IgnoredEvent is anything else.
	IgnoredEvent EventKind = "Ignored"
)

// Event is what a webhook says, in one form for all forges. It is a hint: nothing of it is
// to be believed before it was fetched.
type Event struct {
	// Kind says which of the fields are set.
	Kind EventKind
	// Reason says why an event is ignored.
	Reason string
	// Repository is the owner/name the event is about.
	Repository string

	// Ref is what was pushed (refs/heads/main), Before and After the commits it was and is
	// at; all zeros if there was none, or is none any more.
	Ref           string
	Before, After string
	// Paths are the files that the pushed commits added, removed or modified, sorted.
	Paths []string
	// PathsComplete says that the payload names every file of every pushed commit. A forced
	// push on Gitea and Forgejo looks like any other, and what it takes away is not listed:
	// a push may be passed over because of its paths only as a hint, not as knowledge.
	PathsComplete bool

	// Number is that of the pull request, Action what happened to it: opened, synchronize,
	// reopened, closed or edited.
	Number int
	Action string
	// Head is the commit proposed, Base the branch it is proposed for, BaseCommit where that is.
	Head, Base, BaseCommit string
}

// Verify checks that a delivery was signed with one of the secrets.
func Verify(header http.Header, body []byte, secrets [][]byte) error {
	return errors.New("not built yet")
}

// Parse reads a delivery.
func Parse(header http.Header, body []byte) (Event, error) {
	return Event{}, errors.New("not built yet")
}
