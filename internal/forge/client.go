package forge

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An operation is one request that can be made of a forge.
type operation struct {
	// name is for metrics.
	name string
	// doing is what is said of it in an error.
	doing string
	// gitea and github are the permissions that it needs.
	gitea, github string
}

var (
	setStatus = operation{"set-status", "setting the commit status",
		"the scope write:repository, and its user write access to the repository",
		`"Commit statuses: write" (classic token: repo:status)`}
	getCommit = operation{"get-commit", "looking for the commit of a status",
		"the scope read:repository", ""}
	listPullRequests = operation{"list-pull-requests", "listing the pull requests",
		"the scope read:repository", `"Pull requests: read" (classic token: repo)`}
	getPullRequest = operation{"get-pull-request", "reading the pull request",
		"the scope read:repository", `"Pull requests: read" (classic token: repo)`}
	listComments = operation{"list-comments", "listing the comments",
		"the scope read:issue", `"Pull requests: read" (classic token: repo)`}
	createComment = operation{"create-comment", "creating the comment",
		"the scope write:issue", `"Pull requests: write" (classic token: repo)`}
	editComment = operation{"edit-comment", "editing the comment",
		"the scope write:issue, and its user must have written the comment or have write access",
		`"Pull requests: write" (classic token: repo)`}
)

// client is what all forges have in common: what is checked before a request, and what is
// made of its answer.
type client struct {
	Options
	// host is named in errors.
	host   string
	limits Limits
	// page is how much is asked for in one request.
	page int
}

// maxPage is the most that GitHub lists in one answer; others list less.
const maxPage = 100

func (c *client) Limits() Limits { return c.limits }

// do makes one request by way of f and turns what is answered into one form of errors.
func (c *client) do(ctx context.Context, op operation, f func(ctx context.Context) error) error {
	a := &answer{}
	err := c.explain(op, a, f(listen(ctx, a)))
	remaining := -1
	if n, convErr := strconv.Atoi(a.header.Get("X-Ratelimit-Remaining")); convErr == nil && n >= 0 {
		remaining = n
	}
	c.Log.V(1).Info("asked the forge", "operation", op.name, "host", c.host, "status", a.status,
		"remaining", remaining, "error", KindOf(err))
	if c.Observe != nil {
		c.Observe(op.name, KindOf(err), remaining)
	}
	return err
}

// invalid is the error for what is not even sent.
func (c *client) invalid(op operation, format string, args ...any) error {
	return &Error{Kind: Invalid, text: c.text(op, fmt.Sprintf(format, args...))}
}

func (c *client) text(op operation, what string) string {
	return fmt.Sprintf("%s: %s of %s/%s: %s", c.host, op.doing, c.Owner, c.Repository, what)
}

var commitID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// maxContext is the longest name of a status.
const maxContext = 255

// checkStatus makes a status one that the forge can accept.
func (c *client) checkStatus(s *Status) error {
	switch {
	case !commitID.MatchString(s.Commit):
		return c.invalid(setStatus, "%q is not the full id of a commit", cut(line(s.Commit), 100))
	case s.Context == "" || utf8.RuneCountInString(s.Context) > maxContext || line(s.Context) != s.Context:
		return c.invalid(setStatus, "the context %q must be one line of 1 to %d characters", cut(line(s.Context), 100), maxContext)
	}
	switch s.State {
	case Pending, Success, Failure, Errored:
	default:
		return c.invalid(setStatus, "there is no state %q", cut(line(string(s.State)), 100))
	}
	s.Description = cut(line(s.Description), c.limits.Description)
	return nil
}

// checkComment checks the text of a comment.
func (c *client) checkComment(op operation, body string) error {
	switch {
	case strings.TrimSpace(body) == "":
		return c.invalid(op, "it has no text")
	case len(body) > c.limits.Comment:
		return c.invalid(op, "it has %d bytes, and %s accepts %d", len(body), c.Kind, c.limits.Comment)
	case !utf8.ValidString(body):
		return c.invalid(op, "its text is not valid UTF-8")
	}
	return nil
}

// strange is an answer that is JSON but not what was asked for.
func strange(what string) error {
	return fmt.Errorf("%w: %s", errStrange, what)
}

// found checks that a pull request is the one that was asked for, and all there.
func (pr PullRequest) found(number int) error {
	switch {
	case pr.Number < 1 || number != 0 && pr.Number != number:
		return strange("it has not the number asked for")
	case !commitID.MatchString(pr.Head):
		return strange("its pull request has no commit")
	case pr.Base == "":
		return strange("its pull request has no base")
	}
	return nil
}

// headRef is where a forge keeps the head of a pull request.
func headRef(number int) string { return fmt.Sprintf("refs/pull/%d/head", number) }

// commentPage is one page of the comments of a pull request, the oldest first, and the number of
// the next (0: there is none).
type commentPage struct {
	comments []comment
	next     int
}

type comment struct {
	id   int64
	body string
}

// maxPages is where a forge is believed no more that there is another page.
const maxPages = 1000

// findComment walks the pages of comments that get returns.
func (c *client) findComment(ctx context.Context, marker string, get func(ctx context.Context, n int) (commentPage, error)) (int64, bool, error) {
	if marker == "" {
		return 0, false, c.invalid(listComments, "there is no marker to look for")
	}
	for n := 1; n > 0 && n <= maxPages; {
		var p commentPage
		err := c.do(ctx, listComments, func(ctx context.Context) (err error) {
			p, err = get(ctx, n)
			return err
		})
		if err != nil {
			return 0, false, err
		}
		oldest := int64(0)
		for _, comment := range p.comments {
			if strings.Contains(comment.body, marker) && (oldest == 0 || comment.id < oldest) {
				oldest = comment.id
			}
		}
		if oldest != 0 {
			return oldest, true, nil
		}
		if p.next <= n {
			break
		}
		n = p.next
	}
	return 0, false, nil
}

// statusText is how a status code is named.
func statusText(code int) string {
	if text := http.StatusText(code); text != "" {
		return fmt.Sprintf("%d %s", code, text)
	}
	return strconv.Itoa(code)
}
