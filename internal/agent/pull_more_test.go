package agent_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/testenv"
)

// The life of pull requests on a Gitea that is asked through one list a look: drafts, new
// heads, closed, opened again, merged, and those for other branches.
func TestPullRequestLife(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	p := newProxy(h)
	base := map[string]string{"clusters/base/kustomization.yaml": "resources: [cm.yaml]\n", "clusters/base/cm.yaml": configMap("-a", "shared", "one")}
	reads := func(name string) map[string]string {
		return map[string]string{"clusters/" + name + "/kustomization.yaml": "resources: [../base, all.yaml]\nnamespace: NS-" + name + "\n",
			"clusters/" + name + "/all.yaml": namespaceOf("-"+name) + "\n"}
	}
	first := h.commit(merge(base, reads("a"), reads("b"), simple("c", "one"), clusterOf("d", "one"), simple("e", "one")))
	h.publish()
	h.fleet(p.through)
	h.start(withSandbox)
	h.untilApplied(revision(first), "clusters/a", "clusters/b", "clusters/c", "clusters/d", "clusters/e")
	mark := h.mark()

	// A base reaches all that read it; a directory that goes waits for an approval; one
	// that is renamed is both.
	baseHead, baseNumber := h.proposal("base", map[string]string{"clusters/base/cm.yaml": configMap("-a", "shared", "two")})
	h.untilPlanned(baseHead, "success: 2 overlays: 0 to create, 2 to update, 0 to delete")
	if body := h.untilComment(baseNumber, "clusters/a", "clusters/b", "two"); strings.Contains(body, "clusters/c") {
		t.Errorf("names an overlay that doesn't read it:\n%s", body)
	}
	h.repo.Branch("delete", first)
	h.repo.Checkout("delete")
	deleteHead := h.repo.Remove("delete", "clusters/d")
	h.repo.Checkout("main")
	h.send(h.address(), "delete")
	deleteNumber := h.pull("", "delete", "main", "delete")
	h.untilPlanned(deleteHead, "success: 1 overlay: 0 to create, 0 to update, 0 to delete, 6 to delete after approval")
	h.untilComment(deleteNumber, "clusters/d", "approval")
	h.repo.Branch("rename", first)
	h.repo.Checkout("rename")
	h.repo.Remove("rename", "clusters/e")
	renameHead := h.commit(overlayOf("clusters/f", namespaceOf("-e"), configMap("-e", "settings", "one")))
	h.repo.Checkout("main")
	h.send(h.address(), "rename")
	renameNumber := h.pull("", "rename", "main", "rename")
	h.untilPlanned(renameHead, "")
	h.untilComment(renameNumber, "clusters/e", "clusters/f")

	// A draft is planned like any other; nothing at all is no concern; other branches are
	// other people's.
	draftHead := h.branch("draft", first, simple("c", "two"))
	h.send(h.address(), "draft")
	draft := h.pull("", "draft", "main", "WIP: <b>@"+h.user.Name+"</b> [x](http://127.0.0.1:1/)")
	h.untilPlanned(draftHead, "success: 1 overlay: 0 to create, 1 to update")
	h.repo.Branch("other", first)
	h.send(h.address(), "other")
	elsewhereHead := h.branch("elsewhere", first, simple("c", "elsewhere"))
	h.send(h.address(), "elsewhere")
	elsewhere := h.pull("", "elsewhere", "other", "elsewhere")
	emptyHead := h.branch("empty", first, simple("c", "one"))
	h.send(h.address(), "empty")
	empty := h.pull("", "empty", "main", "empty")
	h.untilPlanned(emptyHead, "success: no cluster affected")
	if all := append(h.comments(empty), h.comments(elsewhere)...); len(all) > 0 {
		t.Errorf("comments on what concerns nobody: %q", all)
	}
	if shown := h.statuses(elsewhereHead); len(shown) > 0 {
		t.Errorf("a pull request for another branch: %v", shown)
	}

	// A new head, by force. What a person deleted comes back when there is something new.
	var comments []struct{ ID int64 }
	path := fmt.Sprintf("/repos/%s/fleet/issues/", h.user.Name)
	h.must(h.gitea.API(t.Context(), http.MethodGet, path+fmt.Sprint(draft)+"/comments", nil, &comments))
	h.must(h.gitea.API(t.Context(), http.MethodDelete, path+fmt.Sprint("comments/", comments[0].ID), nil, nil))
	draftHead = h.branch("draft", first, simple("c", "three"))
	h.send(h.address(), "draft")
	h.untilPlanned(draftHead, "success: ")
	h.untilComment(draft, "three")

	// Closed and opened again: it isn't told what it was told.
	h.setPull(draft, map[string]string{"state": "closed"})
	h.untilPulls(baseNumber, deleteNumber, renameNumber, empty)
	h.setPull(draft, map[string]string{"state": "open"})
	h.untilPulls(baseNumber, deleteNumber, renameNumber, empty, draft)
	h.untilComment(draft, "three")

	// The target moves: who is told nothing else is not told again.
	before := p.noted()
	second := h.push(simple("e", "two"))
	h.untilApplied(revision(second), "clusters/e")
	h.untilComment(renameNumber, "Rebase needed")
	h.untilPlanned(renameHead, "failure: rebase needed: clusters/e/all.yaml")
	for _, number := range []int{baseNumber, deleteNumber, draft} {
		h.untilComment(number, "main@"+first[:7])
	}
	if edits := count(p.since(before), "PATCH /issues/comments/N"); edits != 1 {
		t.Errorf("%d comments were edited: %q", edits, writes(p.since(before)))
	}

	// Merged: it is applied as a commit of main, and forgotten.
	h.appliesNothingBut(mark, "-e/settings")
	h.repo.Branch("draft", h.repo.Head())
	h.repo.Checkout("draft")
	merged := h.commit(simple("c", "three"))
	h.repo.Checkout("main")
	h.send(h.address(), "draft")
	h.must(h.gitea.API(t.Context(), http.MethodPatch, fmt.Sprintf("/repos/%s/fleet/pulls/%d", h.user.Name, draft), map[string]string{"title": "ready"}, nil))
	h.untilPlanned(merged, "success: ")
	h.eventually("it is merged", func() string {
		if err := h.gitea.API(t.Context(), http.MethodPost, fmt.Sprintf("/repos/%s/fleet/pulls/%d/merge", h.user.Name, draft),
			map[string]string{"Do": "rebase"}, nil); err != nil {
			return err.Error()
		}
		return ""
	})
	h.look()
	h.eventually("it is applied", func() string { return strings.TrimPrefix(h.data("-c/settings"), "three") })
	h.untilPulls(baseNumber, deleteNumber, renameNumber, empty)
	h.check()
}

// appliesNothingBut allows writes to some names.
func (w *world) appliesNothingBut(since testenv.Mark, names ...string) {
	w.Helper()
	for _, request := range w.written(since) {
		if strings.HasPrefix(request, "patch fleets/status ") || strings.HasPrefix(request, "patch clusteroverlays/status ") ||
			slices.ContainsFunc(names, func(n string) bool { return strings.Contains(request, n) }) {
			continue
		}
		w.Errorf("the agent sent %q", request)
	}
}

// untilPulls waits until the Fleet remembers these pull requests.
func (h *host) untilPulls(numbers ...int) {
	h.Helper()
	slices.Sort(numbers)
	round := 0
	h.eventually(fmt.Sprint("known are ", numbers), func() string {
		if round%40 == 0 {
			h.request(h.getFleet())
		}
		round++
		known := h.knownPulls()
		if !slices.Equal(slices.Sorted(maps.Keys(known)), numbers) {
			return toJSON(known)
		}
		return ""
	})
}

func (h *host) knownPulls() map[int]v1alpha1.ReportedPullRequest {
	h.Helper()
	known := map[int]v1alpha1.ReportedPullRequest{}
	if forge := h.getFleet().Status.Forge; forge != nil {
		for _, p := range forge.PullRequests {
			known[int(p.Number)] = p
		}
	}
	return known
}

// Without a webhook: many pull requests cost one list a look, and nothing else if nothing
// is new. An agent that is started again finds those that were opened meanwhile, and tells
// the others nothing.
func TestPullRequestsPolled(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	p := newProxy(h)
	first := h.commit(merge(simple("a", "one"), simple("b", "one")))
	h.publish()
	h.fleet(p.through)
	running := h.start(withSandbox)
	h.untilApplied(revision(first), "clusters/a", "clusters/b")
	heads := map[int]string{}
	open := func(n int) {
		t.Helper()
		head, number := h.proposal(fmt.Sprint("change-", n), simple("a", fmt.Sprint("change ", n)))
		heads[number] = head
	}
	for n := range 12 {
		open(n)
	}
	h.look()
	// The forge lists the newest first, and the agent does one at a time.
	for _, number := range slices.Backward(slices.Sorted(maps.Keys(heads))) {
		h.untilPlanned(heads[number], "success: 1 overlay: 0 to create, 1 to update")
		h.untilComment(number, "change ")
	}
	h.untilPulls(slices.Collect(maps.Keys(heads))...)
	h.quiet(p)

	// What is planned last was asked for last: the agent does one at a time.
	running.stop()
	open(12)
	before := p.noted()
	h.start(withSandbox)
	for looks := 1; looks <= 13; looks++ { // one after the other: each renders in a process of its own
		h.eventually(fmt.Sprintf("%d of 13 are looked at again", looks), func() string {
			if n := count(p.since(before), "GET /pulls/N"); n < looks {
				return fmt.Sprint(n)
			}
			return ""
		})
	}
	h.eventually("what came meanwhile was found without a look being asked for", func() string {
		if len(h.knownPulls()) != 13 {
			return toJSON(h.getFleet().Status.Forge)
		}
		return ""
	})
	h.quiet(p)
	if told := count(p.since(before), "POST /issues/N/comments") + count(p.since(before), "PATCH /issues/comments/N"); told != 1 {
		t.Errorf("an agent that starts wrote %d comments: %q", told, writes(p.since(before)))
	}
	if told := count(p.since(before), "POST /statuses/ID"); told != 1 {
		t.Errorf("an agent that starts posted %d statuses: %q", told, writes(p.since(before)))
	}
}

// quiet checks that a look at what is known costs one ls-remote and one list.
func (h *host) quiet(p *proxy) {
	h.Helper()
	h.eventually("looks cost nothing more", func() string {
		before := p.noted()
		h.look()
		var list []string
		h.eventually("the list is read", func() string {
			if list = p.since(before); count(list, "GET /pulls") == 0 {
				return strings.Join(list, "\n")
			}
			return ""
		})
		slices.Sort(list)
		if want := []string{"GET .git/info/refs", "GET /pulls"}; !slices.Equal(list, want) {
			return fmt.Sprintf("a look at what is known cost %q", list)
		}
		return ""
	})
}

// An agent that is killed while it tells a pull request leaves one comment, and the right
// status, in the end. So does a forge that is away for a while.
func TestKilledWhileTelling(t *testing.T) {
	for _, test := range []struct {
		call string
		away bool
	}{{call: "/plan "}, {call: "comment created"}, {call: "comment answered"}, {call: "comment edited"}, {call: "comment", away: true}} {
		t.Run(test.call, func(t *testing.T) {
			h := newHost(t, giteatest.ForTest(t))
			p := newProxy(h)
			first := h.commit(simple("a", "one"))
			h.publish()
			h.fleet(p.through)
			var run *running
			ready := make(chan struct{})
			agentOf := func() *running { <-ready; return run }
			restart := func() {
				ready = make(chan struct{})
				run = h.start(withSandbox)
				close(ready)
			}
			restart()
			h.untilApplied(revision(first), "clusters/a")
			head, number := h.proposal("change", simple("a", "two"))
			if test.call == "comment edited" {
				h.untilPlanned(head, "success: ")
				h.untilComment(number, "two")
				head = h.branch("change", first, simple("a", "other"))
				h.send(h.address(), "change")
			}
			if test.away {
				p.answers(func(call string, w http.ResponseWriter) bool {
					if strings.Contains(call, "/comments") {
						w.WriteHeader(http.StatusBadGateway)
					}
					return strings.Contains(call, "/comments")
				})
				h.untilPlanned(head, "success: ")
				h.untilEvent("PullRequestNotPlanned", "502")
				p.answers(nil)
			} else {
				dead := h.killAt(1, func(call string) bool { return strings.Contains(call, test.call) }, agentOf)
				h.request(h.getFleet())
				round := 0
				h.eventually("the agent is killed", func() string {
					select {
					case <-dead:
						return ""
					default:
					}
					if round++; round%40 == 0 {
						h.request(h.getFleet())
					}
					return fmt.Sprint(h.forgeCalls())
				})
				run.stop()
				h.intercept(nil)
				restart()
			}
			want := "two"
			if test.call == "comment edited" {
				want = "other"
			}
			h.untilComment(number, want)
			h.eventually("it is on record", func() string {
				if known := h.knownPulls()[number]; known.Head != head || known.Comment == 0 {
					return toJSON(known)
				}
				return ""
			})
			h.untilComment(number, want) // one, still
			if got := h.untilPlanned(head, "success: "); !strings.Contains(got, "1 to update") {
				t.Errorf("status %q", got)
			}
		})
	}
}

// The comment is found again among many, and a forged one is left alone.
func TestForgedComment(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	first := h.commit(simple("a", "one"))
	h.publish()
	h.fleet(h.direct)
	run := h.start(withSandbox)
	h.untilApplied(revision(first), "clusters/a")
	stranger := h.gitea.NewUser(t)
	say := func(number int, text string) {
		t.Helper()
		h.must(h.gitea.API(t.Context(), http.MethodPost, fmt.Sprintf("/repos/%s/fleet/issues/%d/comments?sudo=%s", h.user.Name, number, stranger.Name), map[string]string{"body": text}, nil))
	}
	_, early := h.proposal("early", simple("a", "early"))
	h.look()
	marker, _, _ := strings.Cut(h.untilComment(early, "early"), "\n")
	if !strings.HasPrefix(marker, "<!--") || !strings.HasSuffix(marker, "-->") {
		t.Fatalf("no marker: %q", marker)
	}

	// The agent is away while the stranger copies the marker of another pull request and
	// makes up one of this, and talks a lot.
	run.stop()
	head, number := h.proposal("change", simple("a", "two"))
	forged := []string{marker + "\nforged", "<!-- capstan plan 000000000000000000000000 -->", "<!-- capstan plan -->"}
	for _, text := range forged {
		say(number, text)
	}
	for n := range 60 {
		say(number, fmt.Sprint("talk ", n))
	}
	restart := func() {
		run = h.start(withSandbox)
		h.untilPlanned(head, "success: 1 overlay")
	}
	restart()
	ours := func(want string) {
		t.Helper()
		h.eventually("one comment of ours: "+want, func() string {
			var found []string
			var all []struct {
				Body string
				User struct{ Login string }
			}
			h.must(h.gitea.API(t.Context(), http.MethodGet, fmt.Sprintf("/repos/%s/fleet/issues/%d/comments", h.user.Name, number), nil, &all))
			if len(all) < 63 {
				t.Fatalf("Gitea shows %d comments", len(all)) // it gives all of them, whatever limit is asked for
			}
			for i, c := range all {
				if c.User.Login != stranger.Name {
					found = append(found, c.Body)
				} else if i < len(forged) && c.Body != forged[i] {
					t.Fatalf("a stranger's comment was edited: %q", c.Body)
				}
			}
			if len(found) != 1 || !strings.Contains(found[0], want) {
				return fmt.Sprintf("%q", found)
			}
			return ""
		})
	}
	ours("two")

	// The Fleet forgets all, and finds its own again behind the others.
	run.stop()
	f := h.getFleet()
	f.Status.Forge = nil
	h.must(env.Client().Status().Update(t.Context(), f))
	head = h.branch("change", first, simple("a", "three"))
	h.send(h.address(), "change")
	restart()
	ours("three")
}

// What takes too long, and more than one pull request at a time.
func TestPullRequestTime(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	first := h.commit(simple("a", "one"))
	h.publish()
	h.fleet(h.direct)
	run := h.start(withSandbox, func(o *agent.Options) { o.PullTime = 1 })
	h.untilApplied(revision(first), "clusters/a")
	one, number := h.proposal("one", simple("a", "change-one"))
	h.untilPlanned(one, "failure: it takes longer than 1ns to plan")
	h.untilComment(number, "longer than 1ns")
	run.stop()
	h.start(withSandbox, func(o *agent.Options) { o.PullWorkers = 2 })
	two, second := h.proposal("two", simple("a", "change-two"))
	h.untilPlanned(two, "success: 1 overlay")
	h.untilPlanned(one, "success: 1 overlay")
	h.untilComment(number, "change-one")
	h.untilComment(second, "change-two")
}

// A forge that takes no comments is told the plan by the status, once, and comments when
// it takes them again.
func TestCommentsRefused(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	p := newProxy(h)
	first := h.commit(simple("a", "one"))
	h.publish()
	h.fleet(p.through)
	h.start(withSandbox)
	h.untilApplied(revision(first), "clusters/a")
	p.answers(func(call string, w http.ResponseWriter) bool {
		if !strings.Contains(call, "/comments") {
			return false
		}
		http.Error(w, `{"message":"token does not have at least one of required scope(s): [write:issue]"}`, http.StatusForbidden)
		return true
	})
	head, number := h.proposal("change", simple("a", "two"))
	h.untilPlanned(head, "success: 1 overlay")
	before := p.noted()
	h.untilEvent("PullRequestNotPlanned", "write:issue")
	h.eventually("it is tried again", func() string {
		if n := count(p.since(before), "GET /issues/N/comments"); n < 3 {
			return fmt.Sprint(n)
		}
		return ""
	})
	if posted := count(p.since(before), "POST /statuses/ID"); posted > 0 {
		t.Errorf("the status was posted %d times more", posted)
	}
	p.answers(nil)
	h.untilComment(number, "two")
}
