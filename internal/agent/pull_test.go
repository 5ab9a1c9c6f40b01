package agent_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/giteatest"
)

// plans starts an agent that plans pull requests.
func (h *host) plans() {
	h.Helper()
	h.start(func(o *agent.Options) { o.Sandbox = sandboxCommand() })
}

// propose commits to a branch that leaves main at a commit, pushes it and opens a pull
// request, or adds to the one that is open. It returns the head.
func (h *host) propose(branch, from string, files map[string]string) string {
	h.Helper()
	main := h.repo.Head()
	if from != "" {
		h.repo.Branch(branch, from)
	}
	h.repo.Checkout(branch)
	defer h.repo.Checkout("main")
	head := h.commit(files)
	if main == head {
		h.Fatal("nothing is proposed")
	}
	h.repo.Git("-c", "http.sslVerify=false", "push", "--quiet", "--force",
		h.gitea.GitURL(h.user.Name, h.token, h.user.Name, "fleet"), "refs/heads/"+branch+":refs/heads/"+branch)
	return head
}

// open opens a pull request, which Gitea allows a moment after the push, and serves it
// to the agent as Gitea would.
func (h *host) open(branch string) int {
	h.Helper()
	var pull struct{ Number int }
	h.eventually("a pull request is opened", func() string {
		err := h.gitea.API(h.Context(), http.MethodPost, "/repos/"+h.user.Name+"/fleet/pulls",
			map[string]string{"head": branch, "base": "main", "title": "a change"}, &pull)
		if err != nil {
			return err.Error()
		}
		return ""
	})
	h.serve(branch, pull.Number)
	return pull.Number
}

// serve makes the head of a pull request a reference of the repository that the agent
// reads.
func (h *host) serve(branch string, number int) {
	h.Helper()
	h.repo.SetRef(fmt.Sprintf("refs/pull/%d/head", number), strings.TrimSpace(h.repo.Git("rev-parse", branch)))
}

// comments of a pull request, by number of the comment.
func (h *host) comments(number int) []string {
	h.Helper()
	var all []struct{ Body string }
	h.must(h.gitea.API(h.Context(), http.MethodGet, fmt.Sprintf("/repos/%s/fleet/issues/%d/comments?limit=50", h.user.Name, number), nil, &all))
	var bodies []string
	for _, c := range all {
		bodies = append(bodies, c.Body)
	}
	return bodies
}

// untilComment waits until there is one comment, with these parts.
func (h *host) untilComment(number int, parts ...string) string {
	h.Helper()
	var body string
	h.eventually("the comment", func() string {
		all := h.comments(number)
		if len(all) != 1 {
			return fmt.Sprintf("%d comments: %q", len(all), all)
		}
		body = all[0]
		for _, part := range parts {
			if !strings.Contains(body, part) {
				return fmt.Sprintf("no %q in\n%s", part, body)
			}
		}
		return ""
	})
	return body
}

// A pull request is told what it would do, again when it changes, and nothing is done.
func TestPullRequest(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	first := h.commit(merge(clusterOf("a", "one"), clusterOf("b", "one")))
	h.publish()
	h.fleet()
	h.plans()
	h.untilApplied(revision(first), "clusters/a", "clusters/b")

	head := h.propose("change", first, clusterOf("a", "two"))
	number := h.open("change")
	h.look() // a look at the Fleet looks at the list too
	h.untilStatuses(head, map[string]string{"capstan/fleet/plan": "success: "})
	h.untilComment(number, "clusters/a", "two", "main@"+first[:7])
	if got := h.data("-a/settings"); got != "one" {
		t.Fatalf("a pull request was applied: %q", got)
	}

	head = h.propose("change", "", overlayOf("clusters/c", namespaceOf("-c"), cluster("-c", "c")))
	h.serve("change", number)
	h.look()
	h.untilStatuses(head, map[string]string{"capstan/fleet/plan": "success: "})
	h.untilComment(number, "clusters/a", "clusters/c")

	head = h.propose("change", "", map[string]string{"clusters/c/kustomization.yaml": "resources: [missing.yaml]"})
	h.serve("change", number)
	h.look()
	h.untilStatuses(head, map[string]string{"capstan/fleet/plan": "failure: "})
	h.untilComment(number, "missing.yaml")

	// The target changes the same file.
	second := h.push(clusterOf("a", "three"))
	h.untilApplied(revision(second), "clusters/a")
	h.untilStatuses(head, map[string]string{"capstan/fleet/plan": "failure: rebase needed: clusters/a/all.yaml"})
	h.untilComment(number, "Rebase needed")

	// Closed, it is forgotten.
	h.must(h.gitea.API(t.Context(), http.MethodPatch, fmt.Sprintf("/repos/%s/fleet/pulls/%d", h.user.Name, number), map[string]string{"state": "closed"}, nil))
	h.look()
	h.eventually("it is forgotten", func() string {
		if pulls := h.getFleet().Status.Forge.PullRequests; len(pulls) > 0 {
			return toJSON(pulls)
		}
		return ""
	})
}

// A change that no overlay reads is said to be none, without a comment.
func TestPullRequestOfNoConcern(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	first := h.commit(clusterOf("a", "one"))
	h.publish()
	h.fleet(func(f *v1alpha1.Fleet) { f.Spec.Forge.ContextPrefix = "lab" })
	h.plans()
	h.untilApplied(revision(first), "clusters/a")
	head := h.propose("words", first, map[string]string{"README.md": "words"})
	number := h.open("words")
	h.look()
	h.untilStatuses(head, map[string]string{"lab/fleet/plan": "success: no cluster affected"})
	if all := h.comments(number); len(all) > 0 {
		t.Errorf("comments: %q", all)
	}
	// A commit that no overlay reads either may be one that the pull request has to know.
	h.push(map[string]string{"README.md": "other words"})
	h.untilStatuses(head, map[string]string{"lab/fleet/plan": "failure: rebase needed: README.md"})
}

// Another branch is followed: pull requests for that are planned over it, also if it is
// at the same commit.
func TestPullRequestOtherBranch(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	first := h.commit(clusterOf("a", "one"))
	h.publish()
	h.repo.Branch("next", first)
	h.send(h.address(), "next")
	h.fleet()
	h.plans()
	h.untilApplied(revision(first), "clusters/a")
	head := h.propose("change", first, clusterOf("a", "two"))
	number := h.pull("", "change", "next", "a change")
	h.serve("change", number)
	h.patchFleet(func(f *v1alpha1.FleetSpec) { f.Git.Ref = v1alpha1.GitRef{Branch: "next"} })
	h.untilStatuses(head, map[string]string{"capstan/fleet/plan": "success: "})
	h.untilComment(number, "clusters/a", "next@"+first[:7])
}
