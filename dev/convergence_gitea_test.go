package dev

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/gitea"
	"capstan.dev/capstan/internal/giteatest"
)

// Commit statuses on a real Gitea follow the machines: pending with counts, a failure when they are stuck, and
// success when they are there, which stays.
func TestConvergenceOnGitea(t *testing.T) {
	t.Parallel()
	var r *gitea.Repository
	c := converging(t, "conv-gi", "dev", extra{published: func(c *convergence, x *extra) {
		r = c.onGitea(giteatest.ForTest(t))
		c.git(c.dir, "remote", "add", "origin", r.PushURL())
		c.push = func() { c.git(c.dir, "push", "-q", "origin", "main") }
		c.push()
		x.flags = []string{"--webhook-address", strings.TrimPrefix(r.Receiver, "http://"), "--external-url", r.Receiver}
		x.spec = r.Spec()
		x.spec["git"].(map[string]any)["interval"] = "1s" //nolint:forcetypeassert // see Spec
		x.spec["stallAfter"] = "2m"
		x.needs = r.Secrets()
	}})
	const context = "capstan/fleet/clusters/conv-gi"
	says := func(expected ...string) {
		t.Helper()
		var texts []any
		for _, e := range expected {
			texts = append(texts, gomega.ContainSubstring(e))
		}
		c.Eventually(func() (string, error) {
			all, err := c.statuses(r, c.dir)
			return all[context], err
		}).Should(gomega.And(matchers(texts)...), c.dump)
	}
	c.await("Converged")
	says("success: converged")

	c.setChaos("never-boots=" + c.namespace + "/conv-gi-workers*:all")
	c.commit("another machine", func() { workersRotate.edit(c) })
	says("pending", "1 of 2 machines", "workers 0 of 1") // texts that say no more than this are half a minute apart
	c.changeFleet("5s", "spec", "stallAfter")
	says("failure: stalled", "workers", "conv-gi-workers")
	c.setChaos()
	c.await("Converged")
	says("success: converged")
	c.judge()

	// All that was said of the last commit, oldest first.
	said := c.posted(r, context)
	if len(said) < 3 || !strings.HasPrefix(said[0], "pending") || !strings.HasPrefix(said[len(said)-1], "success") {
		t.Errorf("posted: %q", said)
	}
	success := slices.IndexFunc(said, func(s string) bool { return strings.HasPrefix(s, "success") })
	if success != len(said)-1 {
		t.Errorf("something is posted after a success: %q", said)
	}
	if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "failure") }) {
		t.Errorf("no failure in %q", said)
	}
	if !slices.ContainsFunc(said, func(s string) bool {
		return strings.HasPrefix(s, "pending") && strings.Contains(s, "workers 0 of 1")
	}) {
		t.Errorf("no counts in %q", said)
	}
}

func matchers(all []any) (out []gomega.OmegaMatcher) {
	for _, m := range all {
		out = append(out, m.(gomega.OmegaMatcher)) //nolint:forcetypeassert // they are
	}
	return out
}

// posted are the statuses of the commit that is checked out in one context, oldest first.
func (c *convergence) posted(r *gitea.Repository, context string) []string {
	c.Helper()
	var all []struct {
		ID                           int
		Context, Status, Description string
	}
	path := fmt.Sprintf("/repos/%s/%s/commits/%s/statuses?limit=50", r.Owner, r.Name, c.head(c.dir))
	if err := r.Server.API(c.ctx, http.MethodGet, path, nil, &all); err != nil {
		c.Fatal(err)
	}
	slices.SortFunc(all, func(a, b struct {
		ID                           int
		Context, Status, Description string
	}) int {
		return a.ID - b.ID
	})
	var out []string
	for _, s := range all {
		if s.Context == context {
			out = append(out, s.Status+": "+s.Description)
		}
	}
	c.Logf("posted: %q", out)
	return out
}

// changeFleet sets a field of the Fleet.
func (c *convergence) changeFleet(value any, path ...string) {
	c.Helper()
	fleet := &unstructured.Unstructured{}
	fleet.SetAPIVersion("capstan.dev/v1alpha1")
	fleet.SetKind("Fleet")
	c.Expect(admin.Get(c.ctx, types.NamespacedName{Namespace: c.name + "-system", Name: "fleet"}, fleet)).To(gomega.Succeed())
	before := fleet.DeepCopy()
	set(c.T, fleet, value, path...)
	c.Expect(admin.Patch(c.ctx, fleet, client.MergeFrom(before))).To(gomega.Succeed())
}
