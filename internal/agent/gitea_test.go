package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/testenv"
)

// direct has the Fleet read its repository from Gitea itself.
func (h *host) direct(f *v1alpha1.Fleet) {
	f.Spec.Git.URL = h.gitea.GitURL("", "", h.user.Name, "fleet")
}

// through has it go through a proxy, as does all that is asked of the forge.
func (p *proxy) through(f *v1alpha1.Fleet) {
	f.Spec.Forge.URL = p.server.URL
	f.Spec.Git.URL = p.server.URL + "/" + f.Spec.Forge.Repository + ".git"
}

// proxy stands in front of a Gitea, and notes what goes through.
type proxy struct {
	*host
	server *httptest.Server

	mu    sync.Mutex
	notes []string
	// answer, if set, may answer in Gitea's place.
	answer func(call string, w http.ResponseWriter) bool
}

var numbers = regexp.MustCompile(`/([0-9a-f]{40}|[0-9]+)`)

func newProxy(h *host) *proxy {
	h.Helper()
	target, err := url.Parse(h.gitea.URL())
	h.must(err)
	p := &proxy{host: h}
	reverse := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// As "POST /issues/N/comments" or "GET .git/info/refs".
		path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/api/v1/repos"), "/"+h.user.Name+"/fleet")
		call := r.Method + " " + numbers.ReplaceAllStringFunc(path, func(s string) string {
			if len(s) > 40 {
				return "/ID"
			}
			return "/N"
		})
		p.mu.Lock()
		p.notes = append(p.notes, call)
		answer := p.answer
		p.mu.Unlock()
		if answer == nil || !answer(call, w) {
			reverse.ServeHTTP(w, r)
		}
	}))
	h.Cleanup(p.server.Close)
	return p
}

// since are the calls after the first n.
func (p *proxy) since(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.notes[n:])
}

func (p *proxy) noted() int { return len(p.since(0)) }

func (p *proxy) answers(f func(call string, w http.ResponseWriter) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

// writes are the calls that change something at the forge.
func writes(calls []string) []string {
	return slices.DeleteFunc(slices.Clone(calls), func(c string) bool {
		return strings.HasPrefix(c, "GET ") || strings.Contains(c, "git-upload-pack")
	})
}

// CreateComment notes a comment like a status; what is asked after it is whether the agent
// lives to know of it.
func (n *noted) CreateComment(ctx context.Context, number int, body string) (int64, error) {
	if err := n.ask("comment created"); err != nil {
		return 0, err
	}
	id, err := n.Forge.CreateComment(ctx, number, body)
	if lost := n.ask("comment answered"); lost != nil {
		return 0, lost
	}
	return id, err
}

func (n *noted) EditComment(ctx context.Context, number int, id int64, body string) error {
	if err := n.ask("comment edited"); err != nil {
		return err
	}
	return n.Forge.EditComment(ctx, number, id, body)
}

func (n *noted) ask(call string) error {
	n.host.mu.Lock()
	n.host.calls = append(n.host.calls, call)
	before := n.host.before
	n.host.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(call)
}

// killAt has the agent killed at the nth call that a test is asked about, counted from
// one. The channel is closed then.
func (h *host) killAt(nth int, matches func(call string) bool, agent func() *running) <-chan struct{} {
	dead := make(chan struct{})
	n := 0
	var mu sync.Mutex
	h.intercept(func(call string) error {
		mu.Lock()
		defer mu.Unlock()
		if n >= nth {
			return errors.New("the agent is dead")
		}
		if !matches(call) {
			return nil
		}
		if n++; n < nth {
			return nil
		}
		agent().cancel()
		close(dead)
		return errors.New("the agent is dead")
	})
	return dead
}

// fork makes another user with a fork of the repository, and returns where to push.
func (h *host) fork() (user giteatest.User, address string) {
	h.Helper()
	user = h.gitea.NewUser(h.T)
	h.must(h.gitea.API(h.Context(), http.MethodPost, "/repos/"+h.user.Name+"/fleet/forks?sudo="+user.Name, map[string]string{}, nil))
	token, err := h.gitea.Token(h.Context(), user.Name, "write:repository", "write:issue")
	h.must(err)
	return user, h.gitea.GitURL(user.Name, token, user.Name, "fleet")
}

// branch makes a branch off a commit with these files, NS replaced, and returns its head.
func (h *host) branch(name, from string, files map[string]string) string {
	h.Helper()
	h.repo.Branch(name, from)
	h.repo.Checkout(name)
	defer h.repo.Checkout("main")
	return h.commit(files)
}

// send pushes a branch.
func (h *host) send(address, branch string) {
	h.Helper()
	h.repo.Git("push", "--quiet", "--force", address, "refs/heads/"+branch+":refs/heads/"+branch)
}

func (h *host) address() string {
	return h.gitea.GitURL(h.user.Name, h.token, h.user.Name, "fleet")
}

// pull opens a pull request as a user, "" for the owner: "user:branch" for a fork.
func (h *host) pull(user, head, base, title string) int {
	h.Helper()
	var pull struct{ Number int }
	h.eventually("a pull request is opened", func() string {
		path := "/repos/" + h.user.Name + "/fleet/pulls"
		if user != "" {
			path += "?sudo=" + user
		}
		if err := h.gitea.API(h.Context(), http.MethodPost, path, map[string]string{"head": head, "base": base, "title": title}, &pull); err != nil {
			return err.Error()
		}
		return ""
	})
	return pull.Number
}

// proposal makes a branch with files off main, sends it and opens a pull request.
func (h *host) proposal(branch string, files map[string]string) (head string, number int) {
	h.Helper()
	head = h.branch(branch, h.repo.Head(), files)
	h.send(h.address(), branch)
	return head, h.pull("", branch, "main", "a change")
}

// untilPlanned has the agent look, again and again, until the plan's status of a commit
// begins so. Gitea shows a new head a moment after the push.
func (h *host) untilPlanned(head, prefix string) string {
	h.Helper()
	var text string
	round := 0
	h.eventually("the plan of "+head, func() string {
		if round%40 == 0 {
			h.request(h.getFleet())
		}
		round++
		if text = h.statuses(head)["capstan/fleet/plan"]; !strings.HasPrefix(text, prefix) || text == "" {
			return fmt.Sprintf("%q, want %q", text, prefix)
		}
		return ""
	})
	return text
}

// setPull closes or reopens a pull request.
func (h *host) setPull(number int, change map[string]string) {
	h.Helper()
	h.must(h.gitea.API(h.Context(), http.MethodPatch, fmt.Sprintf("/repos/%s/fleet/pulls/%d", h.user.Name, number), change, nil))
}

// appliesNothing checks that the agent has written to nothing but its own objects.
func (w *world) appliesNothing(since testenv.Mark) {
	w.Helper()
	for _, request := range w.written(since) {
		if !strings.HasPrefix(request, "patch fleets/status ") && !strings.HasPrefix(request, "patch clusteroverlays/status ") {
			w.Errorf("the agent sent %q", request)
		}
	}
}

// gathered are an agent's metrics, as text.
func gathered(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

// bodies collects what an agent sends to the API server.
type bodies struct {
	http.RoundTripper
	mu  sync.Mutex
	all []string
}

func (b *bodies) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		_ = r.Body.Close()
		r.Body = io.NopCloser(strings.NewReader(string(content)))
		b.mu.Lock()
		b.all = append(b.all, r.Method+" "+r.URL.String()+"\n"+string(content))
		b.mu.Unlock()
	}
	return b.RoundTripper.RoundTrip(r)
}

func (b *bodies) dryRuns() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.all), func(s string) bool { return !strings.Contains(s, "dryRun=All") })
}

// withSandbox are the options of an agent that plans pull requests.
func withSandbox(o *agent.Options) { o.Sandbox = sandboxCommand() }
