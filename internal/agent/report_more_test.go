package agent_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/giteatest"
)

// An agent that is killed at any of its calls, again and again, has told all in the end.
func TestKilledAnywhere(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test
	files := func(value string) map[string]string { return merge(simple("a", value), simple("b", value)) }
	commits := []string{h.commit(files("zero"))}
	h.publish()
	h.fleet(h.direct)
	for round := range 6 {
		var run *running
		ready := make(chan struct{})
		dead := h.killAt(1+random.IntN(5), func(string) bool { return true }, func() *running { <-ready; return run })
		run = h.start()
		close(ready)
		hash := h.commit(files(fmt.Sprint("round ", round)))
		if random.IntN(2) == 0 {
			hash = h.commit(simple("b", fmt.Sprint("more ", round)))
		}
		commits = append(commits, hash)
		h.publish()
		asked := 0
		h.eventually("the agent is killed", func() string {
			select {
			case <-dead:
				return ""
			default:
			}
			asked++
			if asked%100 == 0 { // all may be told with less calls than it takes
				commits = append(commits, h.commit(files(fmt.Sprint("round ", round, " again ", asked))))
				h.publish()
			}
			if asked%20 == 0 {
				h.request(h.getFleet())
			}
			return fmt.Sprint(h.forgeCalls())
		})
		run.stop()
	}
	h.intercept(nil)
	h.start()
	last := h.commit(files("the end"))
	h.publish()
	h.look()
	h.untilStatuses(last, map[string]string{
		"capstan/fleet": "success: 2 overlays converged", "capstan/fleet/clusters/a": doneText, "capstan/fleet/clusters/b": doneText,
	})
	for _, hash := range commits {
		h.eventually(hash+" is closed", func() string {
			shown := h.statuses(hash)
			for context, text := range shown {
				if strings.HasPrefix(text, "pending") {
					return context + " " + text
				}
			}
			return ""
		})
	}
	h.eventually("no commit is followed but the last", func() string {
		if followed := h.getFleet().Status.Forge.Commits; len(followed) != 1 || followed[0].Commit != last {
			return toJSON(followed)
		}
		return ""
	})
}

// Two Fleets of one repository, with prefixes of their own, don't get in each other's way.
// Suspended, a Fleet says nothing new. Without a forge it forgets, and with one again it
// goes on.
func TestTwoFleetsOneRepository(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	first := h.commit(merge(simple("a", "one"), overlayOf("others/b", namespaceOf("-b"), configMap("-b", "settings", "one"))))
	h.publish()
	h.fleet(h.direct)
	other := &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: h.ns, Name: "other"},
		Spec:       *h.getFleet().Spec.DeepCopy(),
	}
	other.Spec.Overlays.Paths = []string{"others/*"}
	other.Spec.Forge.ContextPrefix = "lab"
	h.must(env.Client().Create(t.Context(), other))
	h.start(withSandbox)
	both := func(hash string, more map[string]string) {
		t.Helper()
		want := map[string]string{"capstan/fleet": "success: no cluster affected", "lab/other": "success: no cluster affected"}
		for context, text := range more {
			want[context] = text
		}
		h.untilStatuses(hash, want)
	}
	lookAll := func() {
		t.Helper()
		h.must(env.Client().Get(t.Context(), client.ObjectKeyFromObject(other), other))
		request := h.request(other)
		h.look()
		h.eventually("the other Fleet has looked", func() string {
			h.must(env.Client().Get(t.Context(), client.ObjectKeyFromObject(other), other))
			if other.Status.LastHandledRequest != request {
				return other.Status.LastHandledRequest
			}
			return ""
		})
	}
	push := func(files map[string]string) string {
		t.Helper()
		hash := h.commit(files)
		h.publish()
		lookAll()
		return hash
	}
	both(first, map[string]string{"capstan/fleet": doneText, "lab/other": doneText, "capstan/fleet/clusters/a": doneText, "lab/other/others/b": doneText})
	both(push(simple("a", "two")), map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})

	head, number := h.proposal("change", merge(simple("a", "three"), overlayOf("others/b", namespaceOf("-b"), configMap("-b", "settings", "three"))))
	lookAll()
	h.untilStatuses(head, map[string]string{"capstan/fleet/plan": "success: 1 overlay", "lab/other/plan": "success: 1 overlay"})
	h.eventually("each has its comment", func() string {
		all := h.comments(number)
		named := func(s string) bool {
			return slices.ContainsFunc(all, func(c string) bool { return strings.Contains(c, s) })
		}
		if len(all) != 2 || !named(h.ns+"/fleet`") || !named(h.ns+"/other`") {
			return fmt.Sprintf("%q", all)
		}
		return ""
	})

	// Suspended.
	h.patchFleet(func(s *v1alpha1.FleetSpec) { s.Suspend = true })
	h.untilFleet(v1alpha1.FetchedCondition, v1alpha1.SuspendedReason)
	missed := push(simple("a", "while suspended"))
	h.untilStatuses(missed, map[string]string{"lab/other": "success: no cluster affected"})
	h.patchFleet(func(s *v1alpha1.FleetSpec) { s.Suspend = false })
	both(missed, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})
	h.untilStatuses(head, map[string]string{"capstan/fleet/plan": "failure: rebase needed: clusters/a/all.yaml", "lab/other/plan": "failure: rebase needed: clusters/a/all.yaml"})

	// Without a forge.
	forge := h.getFleet().Spec.Forge
	h.patchFleet(func(s *v1alpha1.FleetSpec) { s.Forge = nil })
	h.eventually("what the forge has is forgotten", func() string {
		if f := h.getFleet(); f.Status.Forge != nil || has(f.Status.Conditions, v1alpha1.ReportedCondition, v1alpha1.SucceededReason) {
			return toJSON(f.Status)
		}
		return ""
	})
	untold := push(simple("a", "without a forge"))
	h.untilApplied(revision(untold), "clusters/a")
	h.untilStatuses(untold, map[string]string{"lab/other": "success: no cluster affected"})
	h.patchFleet(func(s *v1alpha1.FleetSpec) { s.Forge = forge })
	both(untold, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})
	h.untilPulls(number)
	if all := h.comments(number); len(all) != 2 {
		t.Errorf("comments: %q", all)
	}
}

// A token that is refused is told to people, and mended by nothing but another token. A
// forge that wants fewer requests gets none until the time that it named. A history that is
// written anew leaves no trouble behind.
func TestForgeRefuses(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	p := newProxy(h)
	var secret corev1.Secret
	h.must(env.Client().Get(t.Context(), client.ObjectKey{Namespace: h.ns, Name: "forge"}, &secret))
	token := string(secret.Data["token"])
	secret.Data["token"] = []byte("0123456789012345678901234567890123456789")
	h.must(env.Client().Update(t.Context(), &secret))
	h.secrets = append(h.secrets, string(secret.Data["token"]))
	first := h.commit(simple("a", "one"))
	h.publish()
	h.fleet(p.through)
	h.start(withSandbox)
	h.untilApplied(revision(first), "clusters/a")
	h.untilFleet(v1alpha1.ReportedCondition, "Unauthorized", "token")
	h.untilEvent("Unauthorized", "token")
	h.eventually("it is asked less and less often", func() string { // so that the next try would be far off
		if n := count(p.since(0), "POST /statuses/ID"); n < 3 {
			return fmt.Sprint(n)
		}
		return ""
	})
	h.must(env.Client().Get(t.Context(), client.ObjectKey{Namespace: h.ns, Name: "forge"}, &secret))
	secret.Data["token"] = []byte(token)
	h.must(env.Client().Update(t.Context(), &secret))
	h.untilStatuses(first, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})
	h.untilFleet(v1alpha1.ReportedCondition, v1alpha1.SucceededReason)

	// Too many requests.
	var mu sync.Mutex
	var posts []time.Time
	p.answers(func(call string, w http.ResponseWriter) bool {
		if !strings.HasPrefix(call, "POST /statuses") {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if posts = append(posts, time.Now()); len(posts) > 1 {
			return false
		}
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	second := h.push(simple("a", "three"))
	h.untilFleet(v1alpha1.ReportedCondition, "RateLimited")
	h.untilStatuses(second, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})
	h.untilFleet(v1alpha1.ReportedCondition, v1alpha1.SucceededReason)
	p.answers(nil)
	if pause := posts[1].Sub(posts[0]); pause < 2*time.Second { // waiting too long is no fault that a test can tell
		t.Errorf("the forge was asked again after %s", pause)
	}

	// A pull request and a commit are based on what is no more.
	head, number := h.proposal("change", simple("a", "two"))
	h.untilPlanned(head, "success: 1 overlay")
	h.untilComment(number, "two")
	h.suspend("clusters/a", true)
	third := h.push(simple("a", "four"))
	h.untilStatuses(third, map[string]string{"capstan/fleet": "pending: ", "capstan/fleet/clusters/a": "pending: suspended"})
	replaced := map[string]string{}
	for path, content := range simple("a", "five") {
		replaced[path] = strings.ReplaceAll(content, "NS", h.ns)
	}
	rewritten := h.repo.ForcePush(replaced, "anew")
	h.publish()
	h.look()
	h.untilStatuses(third, map[string]string{"capstan/fleet": "failure: superseded", "capstan/fleet/clusters/a": "failure: superseded"})
	h.suspend("clusters/a", false)
	h.untilStatuses(rewritten, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})
	h.untilPlanned(head, "failure: ")
	body := h.untilComment(number)
	if !strings.Contains(body, "no commit in common") {
		t.Errorf("the comment says\n%s", body)
	}
	h.quiet(p)
	h.untilFleet(v1alpha1.ReportedCondition, v1alpha1.SucceededReason)
	h.check()
}
