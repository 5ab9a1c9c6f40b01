package dev

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/dev/internal/gitea"
	"capstan.dev/capstan/internal/giteatest"
)

// converged is what a commit status says once the machines are there.
const converged = "success: converged"

// The product on the real controllers and a real Gitea, which tells it of everything: polls are an hour apart. A
// push changes machines and its commit says so; a pull request is told what it would do, and nothing is done.
func TestPushToGitea(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "forge")
	r := e.onGitea(giteatest.ForTest(t))
	dir := e.repository("dev")
	e.git(dir, "remote", "add", "origin", r.PushURL())
	e.git(dir, "push", "-q", "origin", "main")
	if err := r.CreateHook(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.createCredentials()
	e.installCapstan()
	e.startAgent("--webhook-address", strings.TrimPrefix(r.Receiver, "http://"), "--external-url", r.Receiver)
	spec := r.Spec()
	spec["git"].(map[string]any)["interval"] = "1h"
	spec["forge"].(map[string]any)["pullRequests"] = map[string]any{"interval": "1h"}
	e.createFleet(spec, r.Secrets()...)
	all := map[string]string{"capstan/fleet": converged, "capstan/fleet/clusters/forge": converged}
	e.Eventually(func() (map[string]string, error) { return e.statuses(r, dir) }).Should(gomega.Equal(all), e.dump)
	e.Expect(counts(e.machines())).To(gomega.Equal(map[string]int{"cp v1.35.4": 1, "worker v1.35.4": 1}))

	workers := func(n int) string { return fmt.Sprintf("name: workers\nspec:\n  replicas: %d\n", n) }
	edit(t, filepath.Join(dir, "clusters", "forge", "cluster.yaml"), workers(1), workers(2))
	e.git(dir, "commit", "-qam", "forge: 2 workers")
	e.git(dir, "push", "-q", "origin", "main")
	e.Eventually(func() (map[string]string, error) { return e.statuses(r, dir) }).Should(gomega.Equal(all), e.dump)
	e.Expect(counts(e.machines())).To(gomega.Equal(map[string]int{"cp v1.35.4": 1, "worker v1.35.4": 2}))

	e.git(dir, "switch", "-qc", "newer")
	edit(t, filepath.Join(dir, "clusters", "forge", "cluster.yaml"), "v1.35.4", "v1.35.5")
	e.git(dir, "commit", "-qam", "forge: v1.35.5")
	e.git(dir, "push", "-q", "origin", "newer")
	number, err := r.OpenPullRequest(t.Context(), "newer", "forge: v1.35.5")
	if err != nil {
		t.Fatal(err)
	}
	e.Eventually(func() (map[string]string, error) { return e.statuses(r, dir) }).
		Should(gomega.Equal(map[string]string{"capstan/fleet/plan": "success: 1 overlay: 0 to create, 2 to update, 0 to delete"}))
	e.Eventually(func() ([]string, error) { return r.Comments(t.Context(), number) }).
		Should(gomega.ConsistOf(gomega.And(gomega.ContainSubstring("clusters/forge"), gomega.ContainSubstring("v1.35.5"))))
	e.Expect(counts(e.machines())).To(gomega.Equal(map[string]int{"cp v1.35.4": 1, "worker v1.35.4": 2}), "a proposal changes nothing")
}

// onGitea makes a repository for the test's Fleet.
func (e *env) onGitea(server *giteatest.Server) *gitea.Repository {
	e.Helper()
	port, err := giteatest.FreePort()
	if err != nil {
		e.Fatal(err)
	}
	r, err := gitea.Create(e.ctx, gitea.Options{
		Server: server, Owner: e.name, Agent: e.name + "-capstan", Name: "fleet",
		Fleet:    types.NamespacedName{Namespace: e.name + "-system", Name: "fleet"},
		Receiver: fmt.Sprintf("http://127.0.0.1:%d", port),
	})
	if err != nil {
		e.Fatal(err)
	}
	return r
}

// statuses reads what Gitea shows beside the commit that is checked out: context → "state: description". Each
// must lead to the status page.
func (e *env) statuses(r *gitea.Repository, dir string) (map[string]string, error) {
	all, err := r.Statuses(e.ctx, e.head(dir))
	shown := map[string]string{}
	for _, s := range all {
		shown[s.Context] = s.State + ": " + s.Description
		if !strings.HasPrefix(s.URL, r.Receiver+"/fleets/") {
			return nil, fmt.Errorf("%s leads to %q", s.Context, s.URL)
		}
	}
	return shown, err
}

// head is the commit that is checked out.
func (e *env) head(dir string) string {
	e.Helper()
	out, err := exec.Command("git", "-C", dir, "rev-parse", "HEAD").Output()
	if err != nil {
		e.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
