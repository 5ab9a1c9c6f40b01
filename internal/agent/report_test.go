package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/utils/ptr"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/giteatest"
)

const doneText = "success: converged"

// Each commit is told what became of it, and overlays that it doesn't touch are not
// mentioned. Nothing new costs no call.
func TestCommitStatuses(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	first := h.commit(merge(simple("a", "one"), simple("b", "one")))
	h.publish()
	h.fleet()
	h.start()
	h.untilStatuses(first, map[string]string{
		"capstan/fleet":            "success: 2 overlays converged",
		"capstan/fleet/clusters/a": doneText,
		"capstan/fleet/clusters/b": doneText,
	})
	h.untilFleet(v1alpha1.ReportedCondition, v1alpha1.SucceededReason)

	second := h.push(simple("a", "two"))
	h.untilStatuses(second, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})

	untouched := h.push(map[string]string{"README.md": "words"})
	h.untilStatuses(untouched, map[string]string{"capstan/fleet": "success: no cluster affected"})

	broken := h.push(map[string]string{"clusters/b/kustomization.yaml": "resources: [missing.yaml]"})
	h.untilStatuses(broken, map[string]string{
		"capstan/fleet":            "failure: clusters/b: ",
		"capstan/fleet/clusters/b": "failure: ",
	})
	refused := h.push(overlayOf("clusters/b", namespaceOf("-b"), `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: NS-b}, data: {v: {}}}`))
	h.untilStatuses(refused, map[string]string{
		"capstan/fleet":            "failure: clusters/b: ConfigMap " + h.ns + "-b/x: ",
		"capstan/fleet/clusters/b": "failure: ConfigMap " + h.ns + "-b/x: ",
	})
	mended := h.push(simple("b", "two"))
	h.untilStatuses(mended, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/b": doneText})

	machines := h.push(clusterOf("c", "one")) // which nobody makes here
	h.untilStatuses(machines, map[string]string{
		"capstan/fleet":            "pending: clusters/c: 0 of 2 machines: ",
		"capstan/fleet/clusters/c": "pending: 0 of 2 machines: ",
	})

	calls := h.forgeCalls()
	h.look()
	h.reconcile("clusters/a")
	h.settled()
	if now := h.forgeCalls(); len(now) != len(calls) {
		t.Errorf("nothing is new, and the forge was told %q", now[len(calls):])
	}
	for _, want := range []string{first, second, untouched, mended} {
		i := slices.IndexFunc(calls, func(c string) bool { return strings.HasPrefix(c, want[:7]+" capstan/fleet ") })
		if i < 0 {
			t.Errorf("no aggregate for %s in %q", want, calls)
		}
	}
}

// settled waits until a later commit is told of: what came before it was decided.
func (h *host) settled() {
	h.Helper()
	h.mu.Lock()
	before := len(h.calls)
	h.mu.Unlock()
	hash := h.push(map[string]string{"README.md": fmt.Sprint("settled ", before)})
	h.untilStatuses(hash, map[string]string{"capstan/fleet": "success: no cluster affected"})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = slices.DeleteFunc(h.calls, func(c string) bool { return strings.HasPrefix(c, hash[:7]) })
}

// A commit that waits for a person stays pending; one that is overtaken is closed for
// what overtook it.
func TestSupersededCommit(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	first := h.commit(merge(simple("a", "one"), simple("b", "one")))
	h.publish()
	h.fleet()
	h.start()
	h.untilStatuses(first, map[string]string{
		"capstan/fleet": "success: 2 overlays converged", "capstan/fleet/clusters/a": doneText, "capstan/fleet/clusters/b": doneText,
	})
	h.suspend("clusters/a", true)
	second := h.push(merge(simple("a", "two"), simple("b", "two")))
	h.untilStatuses(second, map[string]string{
		"capstan/fleet":            "pending: 1 of 2 overlays converged; clusters/a: suspended",
		"capstan/fleet/clusters/a": "pending: suspended",
		"capstan/fleet/clusters/b": doneText,
	})
	third := h.push(simple("a", "three"))
	h.untilStatuses(second, map[string]string{
		"capstan/fleet":            "failure: superseded by later commits: 1 of 2 overlays not converged",
		"capstan/fleet/clusters/a": "failure: superseded by " + third[:7],
		"capstan/fleet/clusters/b": doneText,
	})
	h.suspend("clusters/a", false)
	h.untilStatuses(third, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})
}

// A list of statuses that is longer than a page, and a commit that touches more
// overlays than get one each.
func TestManyContexts(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	const n = 60
	all := func(value string) map[string]string {
		files := map[string]string{}
		for i := range n {
			name := fmt.Sprintf("c%02d", i)
			files = merge(files, overlayOf("clusters/"+name, namespaceOf("-"+name), configMap("-"+name, "settings", value)))
		}
		return files
	}
	first := h.commit(all("one"))
	h.publish()
	h.fleet(func(f *v1alpha1.Fleet) { f.Spec.Forge.MaxContexts = ptr.To[int32](100) })
	h.start()
	want := map[string]string{"capstan/fleet": "success: 60 overlays converged"}
	var paths []string
	for i := range n {
		path := fmt.Sprintf("clusters/c%02d", i)
		paths, want["capstan/fleet/"+path] = append(paths, path), doneText
	}
	h.untilApplied(revision(first), paths...) // one after the other: so many take long, and so do their statuses
	for _, path := range paths {
		h.eventually(path+" is reported", func() string {
			if got := h.statuses(first)["capstan/fleet/"+path]; got != doneText {
				return fmt.Sprintf("%q", got)
			}
			return ""
		})
	}
	h.untilStatuses(first, want)

	h.patchFleet(func(f *v1alpha1.FleetSpec) { f.Forge.MaxContexts = ptr.To[int32](10) })
	before := len(h.forgeCalls())
	second := h.push(all("two"))
	h.untilApplied(revision(second), paths...)
	h.untilStatuses(second, map[string]string{"capstan/fleet": "success: 60 overlays converged"})
	if calls := h.forgeCalls()[before:]; len(calls) > n/2 { // now and then one says how many have converged
		t.Errorf("%d calls for one commit: %q", len(calls), calls)
	}
}

// A forge that is away while a commit is applied learns how it ended, and a forge that
// refuses the token is told once that is mended.
func TestForgeAway(t *testing.T) {
	gitea := giteatest.NewForTest(t, giteatest.Options{FastQueues: true, TLS: true})
	h := newHost(t, gitea)
	first := h.commit(simple("a", "one"))
	h.publish()
	h.fleet()
	h.start()
	h.untilStatuses(first, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})

	second := h.commit(simple("a", "two"))
	h.publish()
	h.must(gitea.Stop())
	h.look()
	h.untilApplied(revision(second), "clusters/a")
	h.untilFleet(v1alpha1.ReportedCondition, "Unavailable")
	back, err := giteatest.Start(context.WithoutCancel(t.Context()), gitea.Again())
	h.must(err)
	t.Cleanup(func() { h.must(back.Stop()) })
	h.gitea = back
	h.untilStatuses(second, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})
	h.untilFleet(v1alpha1.ReportedCondition, v1alpha1.SucceededReason)
}

// An agent that is killed between a decision and its post, or between a post and its
// record, is followed by one that says what is left to say.
func TestKilledBeforePost(t *testing.T) {
	for _, reached := range []bool{false, true} {
		t.Run(fmt.Sprint("the forge was reached: ", reached), func(t *testing.T) {
			h := newHost(t, giteatest.ForTest(t))
			first := h.commit(simple("a", "one"))
			h.publish()
			h.fleet()
			var running *running
			var killed atomic.Bool
			ready, dead := make(chan struct{}), make(chan struct{})
			h.intercept(func(call string) error {
				if killed.Swap(true) {
					return errors.New("the agent is dead")
				}
				<-ready
				if reached {
					h.must(h.gitea.API(context.Background(), "POST", fmt.Sprintf("/repos/%s/fleet/statuses/%s", h.user.Name, first),
						map[string]string{"context": "capstan/fleet", "state": "pending"}, nil))
				}
				running.cancel()
				close(dead)
				return errors.New("the agent is dead")
			})
			running = h.start()
			close(ready)
			h.eventually("the agent is killed", func() string {
				select {
				case <-dead:
					return ""
				default:
					return toJSON(h.getFleet().Status)
				}
			})
			running.stop()
			h.intercept(nil)
			second := h.commit(simple("a", "two")) // a commit comes while nobody is there
			h.publish()
			h.start()
			h.untilStatuses(second, map[string]string{"capstan/fleet": doneText, "capstan/fleet/clusters/a": doneText})
			h.eventually("the first commit is closed", func() string {
				for context, text := range h.statuses(first) {
					if strings.HasPrefix(text, "pending") {
						return context + " " + text
					}
				}
				return ""
			})
		})
	}
}
