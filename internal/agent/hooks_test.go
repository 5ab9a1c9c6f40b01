package agent_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/web"
)

// forgeBed is a world whose agent takes webhooks.
type forgeBed struct {
	*world
	hooks  *agent.Hooks
	server *httptest.Server
}

const zeros = "0000000000000000000000000000000000000000"

func newForgeBed(t *testing.T) *forgeBed {
	b := &forgeBed{world: newWorld(t), hooks: &agent.Hooks{}}
	b.world.secrets = []string{"first-webhook-secret", "second-webhook-secret"}
	handler, err := web.Handler(web.Options{Fleets: b.hooks, Hints: b.hooks, Registerer: prometheus.NewRegistry(), Wait: patience})
	b.must(err)
	b.server = httptest.NewServer(handler)
	t.Cleanup(b.server.Close)
	b.must(env.Client().Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: "webhook"},
		Data:       map[string][]byte{"secret": []byte("first-webhook-secret\n")},
	}))
	return b
}

// forged is a Fleet with a forge.
func forged(f *v1alpha1.Fleet) {
	f.Spec.Forge = &v1alpha1.ForgeSpec{
		Kind: v1alpha1.ForgeGitea, Repository: "owner/name", WebhookSecretRef: &v1alpha1.LocalReference{Name: "webhook"},
	}
}

func (b *forgeBed) use(o *agent.Options) { o.Hooks = b.hooks }

// deliver sends an event as a forge does and returns the answer.
func (b *forgeBed) deliver(secret, event, body string) string {
	b.Helper()
	return b.deliverTo(b.ns+"/fleet", secret, event, body)
}

func (b *forgeBed) deliverTo(fleet, secret, event, body string) string {
	b.Helper()
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, b.server.URL+"/webhooks/"+fleet, strings.NewReader(body))
	b.must(err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-GitHub-Event", event)
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	answer, err := b.server.Client().Do(r)
	b.must(err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	b.must(err)
	return fmt.Sprint(answer.StatusCode, " ", strings.TrimSpace(string(text)))
}

// push tells of a push; it names its files if there are some.
func (b *forgeBed) pushed(before, after string, paths ...string) string {
	b.Helper()
	commits := "[]"
	if len(paths) > 0 {
		commits = `[{"added":[],"removed":[],"modified":["` + strings.Join(paths, `","`) + `"]}]`
	}
	return b.deliver("first-webhook-secret", "push", fmt.Sprintf(
		`{"ref":"refs/heads/main","before":%q,"after":%q,"repository":{"full_name":"owner/name"},"commits":%s}`, before, after, commits))
}

func (b *forgeBed) want(answer, prefix string) {
	b.Helper()
	if !strings.HasPrefix(answer, prefix) {
		b.Errorf("answered %q, want %q", answer, prefix)
	}
}

// ready waits until the agent knows the webhook secret.
func (b *forgeBed) ready() {
	b.Helper()
	b.eventually("the webhook secret is known", func() string {
		if answer := b.deliver("first-webhook-secret", "ping", "{}"); !strings.HasPrefix(answer, "200") {
			return answer
		}
		return ""
	})
}

// A push reaches the cluster by its webhook. What is known, read by nobody or not
// signed rightly costs no request to anybody.
func TestPushHook(t *testing.T) {
	b := newForgeBed(t)
	first := b.commit(merge(simple("a", "one"), simple("b", "one")))
	b.fleet(forged)
	b.start(b.use)
	b.untilApplied(revision(first), "clusters/a", "clusters/b")
	b.untilFleetApplied(revision(first))
	b.ready()

	second := b.commit(simple("a", "two"))
	b.want(b.pushed(first, second, "clusters/a/all.yaml"), "202")
	b.untilApplied(revision(second), "clusters/a")
	b.look()
	b.eventually("the commit is known, and nobody looks any more", func() string {
		looks := b.repo.HTTP().Counts().InfoRefs
		answer := b.pushed(first, second)
		if !strings.HasPrefix(answer, "202") {
			return strings.TrimPrefix(answer, "200 nothing to do: the commit is known")
		}
		b.eventually("a look was just ending, so another one follows", func() string {
			if b.repo.HTTP().Counts().InfoRefs == looks {
				return "not yet"
			}
			return ""
		})
		return answer
	})
	b.eventually("the Fleet has said all there is to say", func() string {
		f := b.getFleet()
		if f.Status.ConvergedRevision != revision(second) || !has(f.Status.Conditions, v1alpha1.ReadyCondition, v1alpha1.ConvergedReason) {
			return toJSON(f.Status)
		}
		return ""
	})

	mark, before := b.mark(), b.repo.HTTP().Counts()
	b.want(b.pushed(first, second), "200 nothing to do: the commit is known")
	third := b.commit(map[string]string{"README.md": "x"})
	fourth := b.commit(map[string]string{"clusters/a/notes.txt": "x"})
	b.want(b.pushed(second, third, "README.md"), "200 nothing to do: no overlay reads")
	b.want(b.pushed(second, third, "README.md"), "200 nothing to do: no overlay reads")
	b.want(b.pushed(third, fourth, "clusters/a/notes.txt"), "200 nothing to do: no overlay reads")
	b.want(b.deliver("guessed", "push", `{}`), "401")
	if sent, after := b.sent(mark), b.repo.HTTP().Counts(); len(sent) > 0 || after != before {
		t.Errorf("deliveries that matter to nobody cost %q, and of Git %+v, before %+v", sent, after, before)
	}
	// After a push that it hasn't heard of, it can't tell from the files.
	unheard := b.commit(simple("b", "two"))
	fifth := b.commit(map[string]string{"README.md": "y"})
	b.want(b.pushed(unheard, fifth, "README.md"), "202")
	b.eventually("the push that was not heard of", func() string { return strings.TrimPrefix(b.data("-b/settings"), "two") })
	b.suspendFleet(true)
	b.eventually("nothing is done for a suspended Fleet", func() string {
		if answer := b.pushed(fifth, first); answer != "200 nothing to do: the Fleet is suspended" {
			return answer
		}
		return ""
	})
	b.check()
}

func (b *forgeBed) suspendFleet(on bool) {
	b.patchFleet(func(s *v1alpha1.FleetSpec) { s.Suspend = on })
}

// Secrets are rotated without a delivery lost, and read when they change, not when
// something is delivered.
func TestHookSecrets(t *testing.T) {
	b := newForgeBed(t)
	first := b.commit(simple("a", "one"))
	b.fleet(forged)
	b.start(b.use)
	b.untilApplied(revision(first), "clusters/a")
	b.ready()
	// There is no telling whether there is a Fleet, or could be.
	refused := b.deliver("guessed", "ping", "{}")
	for _, other := range []string{b.ns + "/other", "kube-system/fleet"} {
		b.want(refused, "401")
		b.want(b.deliverTo(other, "guessed", "ping", "{}"), refused)
	}
	secret := func(data map[string][]byte) {
		t.Helper()
		var s corev1.Secret
		b.must(env.Client().Get(t.Context(), client.ObjectKey{Namespace: b.ns, Name: "webhook"}, &s))
		s.Data = data
		b.must(env.Client().Update(t.Context(), &s))
	}
	until := func(secret, prefix string) {
		t.Helper()
		b.eventually(secret+" gives "+prefix, func() string {
			if answer := b.deliver(secret, "ping", "{}"); !strings.HasPrefix(answer, prefix) {
				return answer
			}
			return ""
		})
	}
	secret(map[string][]byte{"secret": []byte("second-webhook-secret"), "previousSecret": []byte("first-webhook-secret")})
	until("second-webhook-secret", "200")
	b.want(b.deliver("first-webhook-secret", "ping", "{}"), "200")
	secret(map[string][]byte{"secret": []byte("second-webhook-secret")})
	until("first-webhook-secret", "401")
	b.want(b.deliver("second-webhook-secret", "ping", "{}"), "200")
	secret(map[string][]byte{"secret": []byte(" \n")})
	until("second-webhook-secret", "401")
	b.want(b.deliver("", "ping", "{}"), "401")
	mark := b.mark()
	b.must(env.Client().Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: "webhook"}}))
	b.eventually("it is known that the Secret is gone", func() string {
		if sent := b.sent(mark); count(sent, "get secrets NS/webhook: 404") == 0 {
			return fmt.Sprintf("sent %q", sent)
		}
		return ""
	})
	mark = b.mark()
	for range 20 {
		b.want(b.deliver("second-webhook-secret", "ping", "{}"), "401")
	}
	if sent := b.sent(mark); count(sent, "secrets") > 0 { // what else there is, is of the first apply
		t.Errorf("deliveries that can't be checked cost %q", sent)
	}
	b.check()
}

// 500 pushes at once: one look at Git runs, at most one waits for it and one for the
// end of the pause between two.
func TestPushFlood(t *testing.T) {
	b := newForgeBed(t)
	first := b.commit(simple("a", "one"))
	b.fleet(forged)
	b.start(b.use)
	b.untilApplied(revision(first), "clusters/a")
	b.ready()
	b.look()
	before := b.repo.HTTP().Counts().InfoRefs
	hold, entered, release := b.repo.HTTP().Hold()
	b.repo.HTTP().SetFault(gittest.InfoRefs, hold)
	b.want(b.pushed(first, zeros[:39]+"1"), "202")
	<-entered
	var group sync.WaitGroup
	for worker := range 20 {
		group.Go(func() {
			for n := range 25 {
				if answer := b.pushed(first, fmt.Sprintf("%040d", 100+worker*25+n)); !strings.HasPrefix(answer, "202") {
					t.Errorf("answered %q", answer)
				}
			}
		})
	}
	group.Wait()
	last := b.commit(simple("a", "two"))
	b.want(b.pushed(first, last), "202")
	if got := b.repo.HTTP().Counts().InfoRefs - before; got != 1 {
		t.Errorf("%d looks at Git run at a time", got)
	}
	b.repo.HTTP().SetFault(gittest.InfoRefs, nil)
	release()
	b.untilApplied(revision(last), "clusters/a")
	b.look()
	if got := b.repo.HTTP().Counts().InfoRefs - before; got > 4 { // one of them is b.look's
		t.Errorf("500 pushes cost %d looks at Git", got)
	}
	b.check()
}

// A replica that doesn't lead leaves a request on the Fleet, and no second one before
// that was handled.
func TestHookOfReplica(t *testing.T) {
	b := newForgeBed(t)
	b.must(env.Client().Create(t.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: "lease"},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To("somebody else"), LeaseDurationSeconds: ptr.To[int32](3600), RenewTime: ptr.To(metav1.NowMicro()),
		},
	}))
	b.manage = func(o *manager.Options) {
		o.LeaderElection, o.LeaderElectionID, o.LeaderElectionNamespace = true, "lease", b.ns
	}
	first := b.commit(simple("a", "one"))
	b.fleet(forged)
	b.start(b.use)
	b.ready()
	mark := b.mark()
	patches := func() int {
		n := 0
		for _, r := range b.written(mark) {
			if r == "patch fleets NS/fleet: 200" {
				n++
			} else {
				t.Errorf("a replica that doesn't lead sent %q", r)
			}
		}
		return n
	}
	requested := ""
	// untilRequested waits for a new request, of the past few seconds.
	untilRequested := func() {
		t.Helper()
		b.eventually("a request", func() string {
			got := b.getFleet().Annotations[v1alpha1.RequestedAtAnnotation]
			if got == requested {
				return fmt.Sprintf("still %q", got)
			}
			requested = got
			return ""
		})
		if _, err := time.Parse(time.RFC3339Nano, requested); err != nil {
			t.Error(err)
		}
	}
	handle := func() {
		t.Helper()
		f := b.getFleet()
		base := f.DeepCopy()
		f.Status.LastHandledRequest = requested
		b.must(env.Client().Status().Patch(t.Context(), f, client.MergeFrom(base)))
	}
	b.want(b.pushed(zeros, first), "202")
	untilRequested()
	for range 30 {
		b.want(b.pushed(zeros, first), "202")
	}
	if n := patches(); n != 1 {
		t.Errorf("%d writes while a request waits", n)
	}
	handle() // it may have looked before the others were heard of, so they get theirs
	untilRequested()
	handle()
	if n := patches(); n != 2 {
		t.Errorf("%d writes, want 2", n)
	}
	pull := fmt.Sprintf(`{"action":"opened","number":7,"repository":{"full_name":"owner/name"},"pull_request":{"head":{"sha":%q},"base":{"sha":%q,"ref":"main"}}}`, first, first)
	b.want(b.deliver("first-webhook-secret", "pull_request", pull), "200 ignored: the Fleet doesn't look at pull requests")
	b.patchFleet(func(s *v1alpha1.FleetSpec) { s.Forge.SecretRef = &v1alpha1.LocalReference{Name: "token"} })
	b.eventually("a pull request is taken", func() string {
		return strings.TrimPrefix(b.deliver("first-webhook-secret", "pull_request", pull), "202 accepted")
	})
	untilRequested()
	if n := patches(); n != 3 {
		t.Errorf("%d writes, want 3", n)
	}
	if counts := b.repo.HTTP().Counts(); counts.InfoRefs > 0 {
		t.Errorf("a replica that doesn't lead asked Git: %+v", counts)
	}
}
