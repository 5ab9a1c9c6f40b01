package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/giteatest"
)

// host is a world whose repository is also on a real Gitea. The agent reads the
// world's own copy, so that Gitea can be away while it does.
type host struct {
	*world
	gitea *giteatest.Server
	user  giteatest.User
	token string

	mu    sync.Mutex
	calls []string
	// before, if set, is asked before a request goes to the forge.
	before func(call string) error
}

func newHost(t *testing.T, gitea *giteatest.Server) *host {
	t.Helper()
	h := &host{world: newWorld(t), gitea: gitea}
	h.user = gitea.NewUser(t)
	h.must(gitea.CreateRepo(t.Context(), h.user.Name, "fleet", false))
	token, err := gitea.Token(t.Context(), h.user.Name, "write:repository", "write:issue")
	h.must(err)
	h.token, h.secrets = token, append(h.secrets, token)
	data := map[string]string{"token": token}
	if ca := gitea.CA(); len(ca) > 0 {
		data["ca.crt"] = string(ca)
	}
	h.must(env.Client().Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: h.ns, Name: "forge"}, StringData: data,
	}))
	return h
}

// publish pushes the world's main branch to Gitea.
func (h *host) publish() {
	h.Helper()
	h.repo.Git("-c", "http.sslVerify=false", "push", "--quiet", "--force", h.gitea.GitURL(h.user.Name, h.token, h.user.Name, "fleet"), "refs/heads/main:refs/heads/main")
}

// push commits, publishes and has the agent look; it returns the hash.
func (h *host) push(files map[string]string) string {
	h.Helper()
	hash := h.commit(files)
	h.publish()
	h.look()
	return hash
}

// fleet creates the Fleet with its forge.
func (h *host) fleet(change ...func(*v1alpha1.Fleet)) {
	h.Helper()
	h.world.fleet(append([]func(*v1alpha1.Fleet){func(f *v1alpha1.Fleet) {
		f.Spec.Forge = &v1alpha1.ForgeSpec{
			Kind: v1alpha1.ForgeGitea, URL: h.gitea.URL(), Repository: h.user.Name + "/fleet",
			SecretRef: &v1alpha1.LocalReference{Name: "forge"},
		}
	}}, change...)...)
}

// start starts an agent whose requests to the forge are noted.
func (h *host) start(change ...func(*agent.Options)) *running {
	h.Helper()
	return h.world.start(append(change, func(o *agent.Options) {
		o.OpenForge = func(fo forge.Options) (forge.Forge, error) {
			f, err := forge.Open(fo)
			return &noted{Forge: f, host: h}, err
		}
	})...)
}

// noted is the real forge with a note of each status.
type noted struct {
	forge.Forge
	host *host
}

func (n *noted) SetStatus(ctx context.Context, s forge.Status) error {
	call := fmt.Sprintf("%.7s %s %s", s.Commit, s.Context, s.State)
	n.host.mu.Lock()
	n.host.calls = append(n.host.calls, call)
	before := n.host.before
	n.host.mu.Unlock()
	if before != nil {
		if err := before(call); err != nil {
			return err
		}
	}
	return n.Forge.SetStatus(ctx, s)
}

func (h *host) forgeCalls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// intercept has f asked before each status that goes to the forge.
func (h *host) intercept(f func(call string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = f
}

// statuses reads what Gitea shows beside a commit, all pages of it: context → "state:
// description".
func (h *host) statuses(hash string) map[string]string {
	h.Helper()
	shown := map[string]string{}
	for page := 1; ; page++ {
		var combined struct {
			Statuses []struct{ Context, Status, Description string }
		}
		path := fmt.Sprintf("/repos/%s/fleet/commits/%s/status?limit=50&page=%d", h.user.Name, hash, page)
		h.must(h.gitea.API(h.Context(), http.MethodGet, path, nil, &combined))
		for _, s := range combined.Statuses {
			shown[s.Context] = s.Status + ": " + s.Description
		}
		if len(combined.Statuses) == 0 {
			return shown
		}
	}
}

// textPause is how long a status waits at first if nothing but its text is new, see
// [commitstatus.Decide].
const textPause = 30 * time.Second

// untilStatuses waits until Gitea shows exactly these statuses; each value is a
// prefix. A text may come a pause late, and the next one another.
func (h *host) untilStatuses(hash string, want map[string]string) {
	h.Helper()
	h.g.Eventually(func() string {
		got := h.statuses(hash)
		wrong := len(got) != len(want)
		for context, text := range want {
			wrong = wrong || got[context] == "" || !strings.HasPrefix(got[context], text)
		}
		if wrong {
			return fmt.Sprintf("got %s\nwant %s\nfleet %s", indent(got), indent(want), toJSON(h.getFleet().Status))
		}
		return ""
	}, patience+2*textPause, 30*time.Millisecond).Should(gomega.BeEmpty(), "statuses of "+hash)
}

func indent(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}
