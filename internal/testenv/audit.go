package testenv

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// auditPolicy records each request twice: when it arrives, before anything is
// done, and when it is complete. The second record may come after the client has
// the answer, the first can't; so a request whose second record is missing is
// known to be on its way to the log.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
omitStages: [ResponseStarted]
rules:
- level: Metadata
`

// Request is one request that the API server has answered.
type Request struct {
	// User who sent it; As is the user it was sent as, if impersonated.
	User, As string
	// Verb as the API server sees it: get, list, watch, create, update, patch,
	// delete, deletecollection. Requests outside of the API, discovery included,
	// have an empty Resource.
	Verb string
	// Group, Resource (plural), Subresource, Namespace and Name say on what.
	Group, Resource, Subresource, Namespace, Name string
	// Path is the path without the query.
	Path string
	// Code is the HTTP status.
	Code int
	// DryRun and Force are the parameters of those names.
	DryRun, Force bool
}

// String is the form for test failures: "patch (dry-run) secrets ns/name: 200".
func (r Request) String() string {
	var b strings.Builder
	b.WriteString(r.Verb)
	if r.DryRun {
		b.WriteString(" (dry-run)")
	}
	if r.Force {
		b.WriteString(" (force)")
	}
	if r.Resource == "" {
		b.WriteString(" " + r.Path)
	} else {
		b.WriteString(" " + r.Resource)
		if r.Subresource != "" {
			b.WriteString("/" + r.Subresource)
		}
		b.WriteString(" " + strings.Trim(r.Namespace+"/"+r.Name, "/"))
	}
	fmt.Fprintf(&b, ": %d", r.Code)
	return b.String()
}

// Mark is a position in the audit log.
type Mark int64

// Mark returns the present end of the audit log.
func (e *Env) Mark(t testing.TB) Mark {
	t.Helper()
	info, err := os.Stat(e.auditPath())
	if err != nil {
		t.Fatalf("testenv: audit log: %v", err)
	}
	return Mark(info.Size())
}

// Requests returns what a user has sent since a mark (0 for all), in order of
// completion. It is complete for requests whose answer the client has: it waits
// for those still on their way to the log. One that had arrived before the mark is
// none of them, even if it was answered after it: others see a write before it is
// answered. Watches count once they have ended.
func (e *Env) Requests(t testing.TB, user string, since Mark) []Request {
	t.Helper()
	var requests []Request
	open := 0
	err := wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, startTimeout, true,
		func(context.Context) (bool, error) {
			var err error
			requests, open, err = e.readAudit(user, since)
			return open == 0, err
		})
	if err != nil {
		t.Fatalf("testenv: audit log of %s (%d requests without an answer): %v", user, open, err)
	}
	return requests
}

// Writes leaves out all that is no write to the API by intent: see [Counted],
// and get.
func Writes(requests []Request) []Request {
	return slices.DeleteFunc(Counted(requests), func(r Request) bool { return r.Verb == "get" || r.DryRun })
}

// Counted leaves out what the project's figures leave out: leases, events,
// discovery and other paths outside of the API, reviews of access, list and
// watch.
func Counted(requests []Request) []Request {
	return slices.DeleteFunc(slices.Clone(requests), func(r Request) bool {
		switch r.Resource {
		case "", "leases", "events":
			return true
		}
		return r.Verb == "list" || r.Verb == "watch" || strings.HasSuffix(r.Group, "authorization.k8s.io") || r.Group == "authentication.k8s.io"
	})
}

// auditEvent is what is read of an event of audit.k8s.io/v1.
type auditEvent struct {
	AuditID    string `json:"auditID"`
	Stage      string `json:"stage"`
	RequestURI string `json:"requestURI"`
	Verb       string `json:"verb"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	ImpersonatedUser struct {
		Username string `json:"username"`
	} `json:"impersonatedUser"`
	ObjectRef struct {
		APIGroup, Resource, Subresource, Namespace, Name string
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// readAudit reads the log from a mark, see [requestsOf].
func (e *Env) readAudit(user string, since Mark) (requests []Request, open int, err error) {
	f, err := os.Open(e.auditPath())
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	if _, err := f.Seek(int64(since), io.SeekStart); err != nil {
		return nil, 0, err
	}
	return requestsOf(f, user)
}

// requestsOf returns the requests of a user that arrived in a part of the log and were
// answered there; open counts those without an answer.
func requestsOf(log io.Reader, user string) (requests []Request, open int, err error) {
	arrived, pending := map[string]bool{}, map[string]bool{} // by audit ID
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return requests, len(pending), nil // an unfinished line is not there yet
		}
		if err != nil {
			return nil, 0, err
		}
		if !bytes.Contains(line, []byte(user)) {
			continue
		}
		var ev auditEvent
		if err := json.Unmarshal(line, &ev); err != nil {
			return nil, 0, err
		}
		if ev.User.Username != user {
			continue
		}
		switch {
		case ev.Stage == "RequestReceived":
			arrived[ev.AuditID] = true
			if ev.Verb != "watch" {
				pending[ev.AuditID] = true
			}
		case arrived[ev.AuditID]: // ResponseComplete or Panic
			delete(pending, ev.AuditID)
			requests = append(requests, ev.request())
		}
	}
}

func (ev auditEvent) request() Request {
	r := Request{
		User: ev.User.Username, As: ev.ImpersonatedUser.Username, Verb: ev.Verb,
		Group: ev.ObjectRef.APIGroup, Resource: ev.ObjectRef.Resource, Subresource: ev.ObjectRef.Subresource,
		Namespace: ev.ObjectRef.Namespace, Name: ev.ObjectRef.Name, Code: ev.ResponseStatus.Code, Path: ev.RequestURI,
	}
	if u, err := url.ParseRequestURI(ev.RequestURI); err == nil {
		r.Path = u.Path
		r.DryRun = u.Query().Get("dryRun") != ""
		r.Force = u.Query().Get("force") == "true"
	}
	return r
}
