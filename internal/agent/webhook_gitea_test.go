package agent_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/web"
)

// hooked is a host whose Gitea delivers to the agent what happens in the repository,
// all of it.
type hooked struct {
	*proxy
	hooks *agent.Hooks

	mu sync.Mutex
	// answers are what the deliveries got, as "push: 202".
	got []string
}

func newHooked(h *host, secrets map[string]string, used string) *hooked {
	h.Helper()
	k := &hooked{proxy: newProxy(h), hooks: &agent.Hooks{}}
	handler, err := web.Handler(web.Options{Fleets: k.hooks, Hints: k.hooks, Registerer: prometheus.NewRegistry(), Wait: patience})
	h.must(err)
	server := httptest.NewUnstartedServer(nil)
	server.Config = web.HTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		k.mu.Lock()
		k.got = append(k.got, fmt.Sprintf("%s: %d %s", r.Header.Get("X-Gitea-Event"), answer.Code, strings.TrimSpace(answer.Body.String())))
		k.mu.Unlock()
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}), logr.Discard())
	server.Start()
	h.Cleanup(server.Close)
	h.must(env.Client().Create(h.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: h.ns, Name: "webhook"}, StringData: secrets,
	}))
	for _, secret := range secrets {
		h.secrets = append(h.secrets, secret)
	}
	h.must(h.gitea.CreateHook(h.Context(), h.user.Name, "fleet", server.URL+"/webhooks/"+h.ns+"/fleet", used,
		"push", "create", "delete", "pull_request", "pull_request_only", "pull_request_sync", "pull_request_comment", "pull_request_label",
		"issues", "issue_comment", "status"))
	return k
}

func (k *hooked) webhook(f *v1alpha1.Fleet) {
	f.Spec.Forge.WebhookSecretRef = &v1alpha1.LocalReference{Name: "webhook"}
}

func (k *hooked) with(o *agent.Options) { o.Hooks = k.hooks }

// deliveries are the answers after the first n.
func (k *hooked) deliveries(n int) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.got[n:])
}

// untilDelivered waits for a delivery that was answered so.
func (k *hooked) untilDelivered(n int, prefix string) {
	k.Helper()
	k.eventually("a delivery "+prefix, func() string {
		all := k.deliveries(n)
		if slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
			return ""
		}
		return fmt.Sprintf("%q", all)
	})
}

// With webhooks, everything comes by itself: pushes are applied and pull requests are
// planned without a poll. What the agent itself says comes back as events, and makes no
// work. The repository is private, and the token opens it.
func TestWebhooksOfGitea(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	h.must(h.gitea.API(t.Context(), http.MethodPatch, "/repos/"+h.user.Name+"/fleet", map[string]any{"private": true}, nil))
	k := newHooked(h, map[string]string{"secret": "webhook-secret-new", "previousSecret": "webhook-secret-old"}, "webhook-secret-old")
	h.must(env.Client().Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: h.ns, Name: "git"}, StringData: map[string]string{"username": "git", "password": h.token},
	}))
	first := h.commit(merge(simple("a", "one"), simple("b", "one")))
	h.publish()
	h.fleet(k.through, k.webhook, func(f *v1alpha1.Fleet) {
		f.Spec.Git.SecretRef = &v1alpha1.LocalReference{Name: "git"}
		f.Spec.Forge.PullRequests.Interval = metav1.Duration{Duration: 3600e9}
	})
	h.start(withSandbox, k.with)
	h.untilApplied(revision(first), "clusters/a", "clusters/b")
	h.untilStatuses(first, map[string]string{
		"capstan/fleet": "success: 2 overlays converged", "capstan/fleet/clusters/a": doneText, "capstan/fleet/clusters/b": doneText,
	})

	before := len(k.deliveries(0))
	second := h.commit(simple("a", "two"))
	h.publish()
	h.untilApplied(revision(second), "clusters/a")
	h.untilStatuses(second, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})
	k.untilDelivered(before, "push: 202")

	head, number := h.proposal("change", simple("a", "three"))
	planned := func(head, value string) {
		t.Helper()
		h.untilStatuses(head, map[string]string{"capstan/fleet/plan": "success: 1 overlay: 0 to create, 1 to update, 0 to delete"})
		h.untilComment(number, value)
	}
	planned(head, "three")
	head = h.branch("change", second, simple("a", "four"))
	h.send(h.address(), "change")
	planned(head, "four")
	k.untilDelivered(before, "pull_request: 202")
	k.untilDelivered(before, "issue_comment: 200 ignored")
	k.untilDelivered(before, "status: 200 ignored")

	// What the agent has said comes back; and others talk, too.
	h.quiet(k.proxy)
	calls, deliveries := k.noted(), len(k.deliveries(0))
	h.must(h.gitea.API(t.Context(), http.MethodPost, fmt.Sprintf("/repos/%s/fleet/issues/%d/comments", h.user.Name, number), map[string]string{"body": "words"}, nil))
	h.must(h.gitea.API(t.Context(), http.MethodPost, fmt.Sprintf("/repos/%s/fleet/statuses/%s", h.user.Name, head), map[string]string{"context": "other", "state": "success"}, nil))
	k.untilDelivered(deliveries, "issue_comment: 200 ignored")
	k.untilDelivered(deliveries, "status: 200 ignored")
	h.repo.Branch("unrelated", first)
	h.send(h.address(), "unrelated")
	k.untilDelivered(deliveries, "push: 200 ignored")
	if made := k.since(calls); len(made) > 0 {
		t.Errorf("events that matter to nobody cost %q", made)
	}
	if answers := k.deliveries(deliveries); slices.ContainsFunc(answers, func(a string) bool { return strings.Contains(a, ": 202") }) {
		t.Errorf("taken were %q", answers)
	}

	// An event of a pull request whose commit was looked at costs nothing.
	h.setPull(number, map[string]string{"title": "another title"})
	k.untilDelivered(deliveries, "pull_request: 200 nothing to do: the commit was looked at")
	if made := k.since(calls); len(made) > 0 {
		t.Errorf("an event without news cost %q", made)
	}
	h.setPull(number, map[string]string{"state": "closed"})
	h.eventually("it is forgotten", func() string { // the agent does one at a time
		if known := h.knownPulls(); len(known) > 0 {
			return toJSON(known)
		}
		return ""
	})
	if made := writes(k.since(calls)); len(made) > 0 {
		t.Errorf("an event without news had the agent say %q", made)
	}

	// The old secret is withdrawn, but not on Gitea.
	var secret corev1.Secret
	h.must(env.Client().Get(t.Context(), client.ObjectKey{Namespace: h.ns, Name: "webhook"}, &secret))
	delete(secret.Data, "previousSecret")
	calls = k.noted()
	h.must(env.Client().Update(t.Context(), &secret))
	h.eventually("the agent looks at Git with the Fleet's new Secret", func() string {
		if made := k.since(calls); count(made, "info/refs") == 0 {
			return fmt.Sprintf("%q", made)
		}
		return ""
	})
	var third string
	h.eventually("the old secret is refused", func() string {
		deliveries = len(k.deliveries(0))
		third = h.commit(simple("b", fmt.Sprint("refused ", deliveries)))
		calls = k.noted()
		h.publish()
		k.untilDelivered(deliveries, "push: ")
		if answers := k.deliveries(deliveries); !strings.HasPrefix(answers[0], "push: 401") {
			return answers[0]
		}
		return ""
	})
	h.settledIs(third, false)
	if made := k.since(calls); count(made, "info/refs") > 0 {
		t.Errorf("a delivery with a wrong signature cost %q", made)
	}
	h.look() // nothing is lost
	h.untilApplied(revision(third), "clusters/b")
	h.check()
}

// settledIs checks whether a commit is what the Fleet has seen.
func (h *host) settledIs(hash string, want bool) {
	h.Helper()
	if got := h.getFleet().Status.ObservedRevision == revision(hash); got != want {
		h.Errorf("the Fleet has seen %s", h.getFleet().Status.ObservedRevision)
	}
}
