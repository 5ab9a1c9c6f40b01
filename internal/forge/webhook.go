package forge

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
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

// families are how the headers of the forges begin. A forge also sends those of the ones
// that come after it here, whose webhooks it took over.
var families = []string{"X-Forgejo-", "X-Gitea-", "X-Github-"}

// Parse reads a delivery: what kind of event it is from the headers, the rest from the body.
func Parse(header http.Header, body []byte) (Event, error) {
	if err := checkContentType(header); err != nil {
		return Event{}, err
	}
	name, kind, own, err := eventName(header)
	if err != nil {
		return Event{}, err
	}
	switch {
	case name == "ping":
		var p struct{ Repository repositoryPayload }
		// A ping of an organisation's webhook has no repository.
		if err := decode(name, body, &p); err != nil {
			return Event{}, err
		}
		return Event{Kind: PingEvent, Repository: p.Repository.FullName}, nil
	case name == "push":
		return parsePush(body, own)
	case name == "pull_request" && (kind == "" || kind == "pull_request" || kind == "pull_request_sync"):
		return parsePullRequest(body)
	case name == "pull_request":
		return ignored(body, kind)
	default:
		return ignored(body, name)
	}
}

func checkContentType(header http.Header) error {
	t, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	switch {
	case err == nil && t == "application/json":
		return nil
	case err == nil && t == "application/x-www-form-urlencoded":
		return errors.New("the delivery is a form: choose the content type application/json in the settings of the webhook")
	default:
		return fmt.Errorf("the delivery has the content type %q: it must be application/json", cut(line(header.Get("Content-Type")), 100))
	}
}

// eventName returns the name of the event, the finer type of it (Gitea and Forgejo only),
// and whether it is from them. Gitea sends GitHub's headers too, and Forgejo both's: they
// must agree.
func eventName(header http.Header) (name, kind string, own bool, err error) {
	for _, family := range families {
		for _, value := range header.Values(family + "Event") {
			if name != "" && value != name {
				return "", "", false, fmt.Errorf("the headers of the delivery name two events, %q and %q", cut(line(name), 50), cut(line(value), 50))
			}
			name = value
			own = own || family != "X-Github-"
		}
		for _, value := range header.Values(family + "Event-Type") {
			if kind != "" && value != kind {
				return "", "", false, fmt.Errorf("the headers of the delivery name two types of events, %q and %q", cut(line(kind), 50), cut(line(value), 50))
			}
			kind = value
		}
	}
	if name == "" {
		return "", "", false, errors.New("the delivery names no event: it lacks the header X-Gitea-Event, X-Forgejo-Event or X-GitHub-Event")
	}
	return name, kind, own, nil
}

func ignored(body []byte, name string) (Event, error) {
	name = cut(line(name), 50)
	var p struct{ Repository repositoryPayload }
	if err := decode(name, body, &p); err != nil {
		return Event{}, err
	}
	return Event{Kind: IgnoredEvent, Repository: p.Repository.FullName, Reason: fmt.Sprintf("event %s is not used", name)}, nil
}

type repositoryPayload struct {
	FullName string `json:"full_name"`
}

func (r repositoryPayload) check(name string) error {
	owner, repository, ok := strings.Cut(r.FullName, "/")
	if !ok || checkName("owner", owner) != nil || checkName("repository", repository) != nil {
		return fmt.Errorf("the %s event names no repository: full_name is %q", name, cut(line(r.FullName), 100))
	}
	return nil
}

// decode reads the body of an event.
func decode(name string, body []byte, to any) error {
	err := json.Unmarshal(body, to)
	if t := (*json.UnmarshalTypeError)(nil); errors.As(err, &t) {
		where := t.Field
		if where == "" {
			where = "the whole"
		}
		return fmt.Errorf("the %s event is not as expected: %s is a JSON %s", name, cut(line(where), 100), cut(line(t.Value), 50))
	}
	if err != nil {
		return fmt.Errorf("the %s event is not JSON: %w", name, err)
	}
	if !strings.HasPrefix(strings.TrimLeft(string(body[:min(len(body), 100)]), " \t\r\n"), "{") {
		return fmt.Errorf("the %s event is not a JSON object", name)
	}
	return nil
}

type pushPayload struct {
	Ref        string            `json:"ref"`
	Before     string            `json:"before"`
	After      string            `json:"after"`
	Created    bool              `json:"created"`
	Deleted    bool              `json:"deleted"`
	Forced     bool              `json:"forced"`
	Repository repositoryPayload `json:"repository"`
	Commits    []struct {
		Added    []string `json:"added"`
		Removed  []string `json:"removed"`
		Modified []string `json:"modified"`
	} `json:"commits"`
	// Total is how many commits were pushed, said by Gitea and Forgejo.
	Total *int `json:"total_commits"`
}

const (
	// githubCommits is a number of commits at which GitHub may have left some out. It lists
	// up to 2,048, older Enterprise servers 20.
	githubCommits = 20
	// githubFiles is the number of files of a commit at which GitHub leaves some out.
	githubFiles = 3000
)

func parsePush(body []byte, own bool) (Event, error) {
	var p pushPayload
	if err := decode("push", body, &p); err != nil {
		return Event{}, err
	}
	if err := p.Repository.check("push"); err != nil {
		return Event{}, err
	}
	if !strings.HasPrefix(p.Ref, "refs/") || line(p.Ref) != p.Ref {
		return Event{}, fmt.Errorf("the push event names no ref: ref is %q", cut(line(p.Ref), 100))
	}
	for _, id := range []string{p.Before, p.After} {
		if !commitID.MatchString(id) {
			return Event{}, fmt.Errorf("the push event names no commit: before or after is %q", cut(line(id), 100))
		}
	}
	e := Event{Kind: PushEvent, Repository: p.Repository.FullName, Ref: p.Ref, Before: p.Before, After: p.After}
	for _, c := range p.Commits {
		e.Paths = slices.Concat(e.Paths, c.Added, c.Removed, c.Modified)
	}
	slices.Sort(e.Paths)
	e.Paths = slices.Compact(e.Paths)
	e.PathsComplete = p.complete(own)
	return e, nil
}

// complete says whether the lists of files are all there: it is false when in doubt.
func (p pushPayload) complete(own bool) bool {
	if len(p.Commits) == 0 || p.Created || p.Deleted || p.Forced || zero(p.Before) || zero(p.After) || p.Before == p.After {
		return false
	}
	if own {
		// Gitea lists the first few commits only (5 by default).
		if p.Total == nil || *p.Total != len(p.Commits) {
			return false
		}
	} else if len(p.Commits) >= githubCommits {
		return false
	}
	for _, c := range p.Commits {
		for _, files := range [][]string{c.Added, c.Removed, c.Modified} {
			if files == nil || len(files) >= githubFiles {
				return false
			}
		}
	}
	return true
}

// zero says whether a commit id stands for none.
func zero(id string) bool { return strings.Trim(id, "0") == "" }

type pullRequestPayload struct {
	Action      string            `json:"action"`
	Number      int               `json:"number"`
	Repository  repositoryPayload `json:"repository"`
	PullRequest struct {
		Head branchPayload `json:"head"`
		Base branchPayload `json:"base"`
	} `json:"pull_request"`
}

type branchPayload struct {
	Ref string `json:"ref"`
	SHA string `json:"sha"`
}

// actions are those of pull requests that matter, in GitHub's words.
var actions = map[string]string{
	"opened": "opened", "synchronize": "synchronize", "synchronized": "synchronize",
	"reopened": "reopened", "closed": "closed", "edited": "edited",
}

func parsePullRequest(body []byte) (Event, error) {
	var p pullRequestPayload
	if err := decode("pull_request", body, &p); err != nil {
		return Event{}, err
	}
	if err := p.Repository.check("pull_request"); err != nil {
		return Event{}, err
	}
	action, ok := actions[p.Action]
	if !ok {
		return Event{Kind: IgnoredEvent, Repository: p.Repository.FullName,
			Reason: fmt.Sprintf("action %s of a pull request is not used", cut(line(p.Action), 50))}, nil
	}
	switch head, base := p.PullRequest.Head, p.PullRequest.Base; {
	case p.Number < 1:
		return Event{}, fmt.Errorf("the pull_request event has the number %d", p.Number)
	case !commitID.MatchString(head.SHA) || !commitID.MatchString(base.SHA):
		return Event{}, fmt.Errorf("the pull_request event names no commit: head.sha or base.sha is %q and %q", cut(line(head.SHA), 100), cut(line(base.SHA), 100))
	case base.Ref == "" || line(base.Ref) != base.Ref:
		return Event{}, fmt.Errorf("the pull_request event names no branch: base.ref is %q", cut(line(base.Ref), 100))
	}
	return Event{Kind: PullRequestEvent, Repository: p.Repository.FullName, Number: p.Number, Action: action,
		Head: p.PullRequest.Head.SHA, Base: p.PullRequest.Base.Ref, BaseCommit: p.PullRequest.Base.SHA}, nil
}
