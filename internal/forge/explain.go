package forge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// errStrange is wrapped by what is wrong with an answer that was read.
var errStrange = errors.New("the answer is not what was asked for")

// maxRetryAfter bounds how long a forge can make us wait.
const maxRetryAfter = 24 * time.Hour

// secondaryWait is what GitHub asks for if it names no time.
const secondaryWait = time.Minute

// explain makes one error of what a library returned and what was answered.
func (c *client) explain(op operation, a *answer, err error) error {
	switch {
	case err == nil:
		return nil
	case a.refused != nil:
		return c.unavailable(op, nil, "the answer can't be used: "+a.refused.Error()+
			": check the forge's URL, and what is between it and here")
	case a.status/100 == 3:
		return c.unavailable(op, nil, fmt.Sprintf("the forge sends us elsewhere (%s): %s: it may have moved: correct its URL or the repository's",
			statusText(a.status), elsewhere(a.header.Get("Location"))))
	case a.status/100 == 2 && errors.Is(err, errStrange):
		return c.unavailable(op, nil, err.Error())
	case a.status/100 == 2:
		return c.unavailable(op, nil, "the answer can't be read: "+c.safe(a, err.Error()))
	case a.status != 0:
		return c.refusal(op, a)
	default:
		return c.noAnswer(op, a, err)
	}
}

func (c *client) unavailable(op operation, cause error, what string) error {
	return &Error{Kind: Unavailable, cause: cause, text: c.text(op, what)}
}

// safe makes a text of somebody else one that can be shown.
func (c *client) safe(a *answer, s string) string {
	return cut(line(scrub(s, append(a.secrets, c.Credentials.Token))), maxServerText)
}

func elsewhere(location string) string {
	u, err := url.Parse(location)
	if err != nil || location == "" {
		return "to no address"
	}
	// The query is left out: pages to log in put into it what was asked for.
	return "to " + cut(line((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()), 200)
}

// noAnswer explains why there was none.
func (c *client) noAnswer(op operation, a *answer, err error) error {
	cause := err
	if e := (*url.Error)(nil); errors.As(err, &e) { // says the URL again
		cause = e.Err
	}
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var hostname x509.HostnameError
	timeout := false
	if t := (interface{ Timeout() bool })(nil); errors.As(err, &t) {
		timeout = t.Timeout()
	}
	switch {
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &hostname):
		return &Error{Kind: CertificateInvalid, cause: cause, text: c.text(op, "the forge's certificate is not trusted: "+c.safe(a, cause.Error())+
			`: put the certificate of its authority into the Secret as "ca.crt"`)}
	case errors.Is(err, context.Canceled):
		return c.unavailable(op, context.Canceled, "it was given up")
	case timeout || errors.Is(err, context.DeadlineExceeded):
		return c.unavailable(op, context.DeadlineExceeded, fmt.Sprintf("there was no answer in time (at most %s)", c.Timeout))
	default:
		return c.unavailable(op, cause, "the forge can't be reached: "+c.safe(a, cause.Error()))
	}
}

// refusal explains an answer that is no success.
func (c *client) refusal(op operation, a *answer) error {
	said := c.said(a)
	e := &Error{status: a.status}
	if strings.HasSuffix(a.path, "/access_tokens") {
		// It was not the operation that failed, but logging in for it.
		return c.loginRefusal(op, a, said)
	}
	detail := statusText(a.status)
	if said != "" {
		detail += ": " + said
	}
	var what string
	switch e.Kind = c.kind(a, said); e.Kind {
	case RateLimited:
		// What the forge says has ids of the request in it; nobody needs them here.
		e.RetryAfter = c.retryAfter(a, said)
		what = fmt.Sprintf("there were too many requests (%s): the forge accepts more later", statusText(a.status))
	case Unauthorized:
		what = fmt.Sprintf("the forge does not accept the token (%s): it may be mistyped, expired or deleted: put a new one into the Secret", detail)
	case Forbidden:
		what = fmt.Sprintf("the token may not do this (%s): it needs %s", detail, c.permission(op, a))
	case NotFound:
		what = fmt.Sprintf("it was not found (%s): either it does not exist (any more), or the token may not see it: it needs %s", detail, c.permission(op, a))
	case Invalid:
		what = fmt.Sprintf("the forge does not accept it (%s)", detail)
	default:
		what = fmt.Sprintf("the forge is not in order (%s)", detail)
	}
	e.text = c.text(op, what)
	return e
}

// loginRefusal explains why a GitHub App got no token.
func (c *client) loginRefusal(op operation, a *answer, said string) error {
	e := &Error{Kind: c.kind(a, said), status: a.status}
	what := fmt.Sprintf("logging in as the GitHub App failed (%s)", statusText(a.status))
	if said != "" && e.Kind != RateLimited {
		what += ": " + said
	}
	switch e.Kind {
	case RateLimited:
		e.RetryAfter = c.retryAfter(a, said)
	case Unauthorized:
		what += ": check the App's id, that the private key is one of its keys, and the clock of this machine"
	case NotFound:
		what += ": check the id of the installation"
	case Invalid:
		e.Kind = Forbidden
		what += fmt.Sprintf(": the App must be installed for the repository %s/%s", c.Owner, c.Repository)
	case Forbidden:
		what += ": the installation may be suspended"
	}
	e.text = c.text(op, what)
	return e
}

// kind sorts an answer that is no success.
func (c *client) kind(a *answer, said string) ErrorKind {
	switch a.status {
	case http.StatusUnauthorized:
		return Unauthorized
	case http.StatusTooManyRequests:
		return RateLimited
	case http.StatusForbidden:
		if a.header.Get("X-Ratelimit-Remaining") == "0" || a.header.Get("Retry-After") != "" ||
			strings.Contains(strings.ToLower(said), "rate limit") {
			return RateLimited
		}
		return Forbidden
	case http.StatusLocked, http.StatusUnavailableForLegalReasons:
		return Forbidden
	case http.StatusNotFound, http.StatusGone:
		return NotFound
	case http.StatusUnprocessableEntity:
		if strings.HasPrefix(said, "No commit found") { // how GitHub says that a commit is missing
			return NotFound
		}
		return Invalid
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusProxyAuthRequired:
		return Unavailable
	}
	if a.status/100 == 4 {
		return Invalid
	}
	return Unavailable
}

// said is what the forge says in an answer that is no success.
func (c *client) said(a *answer) string {
	var m struct {
		Message string `json:"message"`
		Errors  []json.RawMessage
	}
	if json.Unmarshal(a.body, &m) != nil {
		if text := strings.TrimSpace(string(a.body)); text != "" && !strings.HasPrefix(text, "<") &&
			strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
			return c.safe(a, text)
		}
		return ""
	}
	parts := []string{m.Message}
	for _, raw := range m.Errors {
		var text string
		var e struct{ Field, Code, Message string }
		switch {
		case json.Unmarshal(raw, &text) == nil:
		case json.Unmarshal(raw, &e) == nil && e.Message != "":
			text = e.Message
		default:
			text = strings.TrimSpace(e.Field + " " + e.Code)
		}
		parts = append(parts, text)
	}
	return c.safe(a, strings.Trim(strings.Join(parts, ": "), ": "))
}

// permission is what an operation needs; GitHub says itself what an operation takes.
func (c *client) permission(op operation, a *answer) string {
	if c.Kind != GitHub {
		return op.gitea
	}
	if accepted := c.safe(a, a.header.Get("X-Accepted-Github-Permissions")); accepted != "" {
		return op.github + ", GitHub says " + accepted
	}
	return op.github
}

// retryAfter is how long the forge asks to wait.
func (c *client) retryAfter(a *answer, said string) time.Duration {
	now := c.Clock.Now()
	var wait time.Duration
	if v := a.header.Get("Retry-After"); v != "" {
		if seconds, err := strconv.ParseInt(v, 10, 32); err == nil {
			wait = time.Duration(seconds) * time.Second
		} else if at, err := http.ParseTime(v); err == nil {
			wait = at.Sub(now)
		}
	} else if a.header.Get("X-Ratelimit-Remaining") == "0" {
		if seconds, err := strconv.ParseInt(a.header.Get("X-Ratelimit-Reset"), 10, 64); err == nil {
			wait = time.Unix(seconds, 0).Sub(now)
		}
	} else if c.Kind == GitHub {
		wait = secondaryWait
	}
	return min(max(wait, 0), maxRetryAfter)
}
