package agent_test

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/planner"
)

// A second Fleet that renders an object of the first is refused; the first goes on.
func TestTwoFleets(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(simple("a", "of the first")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	other := gittest.NewRepo(t)
	files := map[string]string{}
	for path, content := range merge(overlayOf("clusters/a", configMap("-a", "settings", "of the second")), overlayOf("clusters/b", configMap("-a", "own", "x"))) {
		files[path] = strings.ReplaceAll(content, "NS", w.ns)
	}
	other.Commit(files, "a second fleet")
	w.must(env.Client().Create(w.Context(), &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "other"}, Spec: v1alpha1.FleetSpec{Git: v1alpha1.GitSpec{URL: other.URL()}},
	}))
	w.eventually("the newcomer is refused", func() string {
		o := w.overlays()[planner.OverlayName("other", "clusters/a")]
		if o == nil || !has(o.Status.Conditions, v1alpha1.AppliedCondition, v1alpha1.OwnedByOtherReason, "clusters/a", "Fleet "+w.ns+"/fleet") {
			return toJSON(o)
		}
		return ""
	})
	w.eventually("its other overlay is applied", func() string {
		if w.data("-a/own") != "x" {
			return "not yet"
		}
		return ""
	})
	second := w.push(simple("a", "still of the first"))
	w.untilApplied(second, "clusters/a")
	if got := w.data("-a/settings"); got != "still of the first" {
		t.Errorf("settings: %q", got)
	}
	w.check()
}

// A Fleet that is deleted leaves everything as it is. One of the same name goes on
// where it was, with what Git says then.
func TestFleetDeleted(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(clusterOf("a", "one"), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	mark := w.mark()
	w.must(env.Client().Delete(w.Context(), w.getFleet()))
	w.commit(simple("b", "two"))
	second := revision(w.repo.Remove("remove", "clusters/a"))
	w.fleet()
	w.untilApplied(second, "clusters/b")
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	w.wantLive("Cluster", "-a/a")
	for _, request := range w.written(mark) {
		if strings.HasPrefix(request, "delete") || strings.Contains(request, "NS-a/") {
			t.Errorf("written: %s", request)
		}
	}
	w.check()
}

// A Fleet with a ServiceAccount acts with its rights only, and says what it lacks.
func TestServiceAccount(t *testing.T) {
	w := newWorld(t)
	account := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: w.ns, Name: "deployer"}
	env.Grant(t, account, w.ns, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"*"}})
	first := revision(w.commit(merge(
		overlayOf("clusters/a", configMap("", "allowed", "x")), overlayOf("clusters/b", secret("", "denied", "a-denied-secret")))))
	w.secrets = []string{"a-denied-secret"}
	w.fleet(func(f *v1alpha1.Fleet) { f.Spec.ServiceAccountName = "deployer" })
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilCondition("clusters/b", v1alpha1.AppliedCondition, v1alpha1.ForbiddenReason, "system:serviceaccount:"+w.ns+":deployer", "denied")
	env.Grant(t, account, w.ns, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"*"}})
	w.untilApplied(first, "clusters/b") // it is tried again, with a back-off
	w.check()
}

// The root of a repository can't be an overlay; that keeps nothing else from
// working.
func TestRootOverlay(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(
		overlayOf("clusters/a", configMap("", "a", "x"), configMap("", "extra", "x")),
		map[string]string{"kustomization.yaml": "resources: [root.yaml]\n", "root.yaml": configMap("", "root", "x")})))
	w.fleet(func(f *v1alpha1.Fleet) { f.Spec.Overlays.Paths = []string{".", "clusters/*"} })
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilFleet(v1alpha1.DiscoveredCondition, v1alpha1.SucceededReason, "1 overlays, 1 directories skipped")
	w.push(overlayOf("clusters/a", configMap("", "a", "x")))
	w.untilGone("ConfigMap", "/extra")
	w.check()
}

// Credentials for Git that are missing, wrong and right.
func TestGitCredentials(t *testing.T) {
	w := newWorld(t)
	w.secrets = []string{"the-git-password", "a-wrong-password"}
	server := gittest.NewHTTP(t, gittest.HTTPOptions{Username: "me", Password: "the-git-password"})
	first := revision(w.commit(simple("a", "one")))
	w.fleet(func(f *v1alpha1.Fleet) {
		f.Spec.Git.URL = server.URL(w.repo)
		f.Spec.Git.SecretRef = &v1alpha1.LocalReference{Name: "git"}
	})
	w.start()
	w.untilFleet(v1alpha1.FetchedCondition, v1alpha1.CredentialsReason, "Secret "+w.ns+"/git", "does not exist")
	s := w.object("Secret", "/git")
	s.Object["stringData"] = map[string]any{"username": "me", "password": "a-wrong-password"}
	w.must(env.Client().Create(w.Context(), s.DeepCopy()))
	w.untilFleet(v1alpha1.FetchedCondition, "AuthenticationFailed")
	s.Object["stringData"] = map[string]any{"password": "the-git-password"}
	w.must(env.Client().Patch(w.Context(), s, client.Merge))
	w.untilApplied(first, "clusters/a")
	w.untilFleet(v1alpha1.FetchedCondition, v1alpha1.SucceededReason)
	w.check()
}

// Whether a Namespace is shared still is not known while the other overlay doesn't render,
// and is found out once that does.
func TestSharedWithBroken(t *testing.T) {
	w := newWorld(t)
	ns := namespaceOf("-shared")
	a, b := overlayOf("clusters/a", ns, configMap("-shared", "of-a", "one")), overlayOf("clusters/b", ns, configMap("-shared", "of-b", "one"))
	first := revision(w.commit(merge(a, b)))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.untilNamespace("clusters/a", "-shared", v1alpha1.EntryShared)
	w.push(overlayOf("clusters/b", "{kind: ["))
	w.untilCondition("clusters/b", v1alpha1.RenderedCondition, v1alpha1.RenderFailedReason)
	w.reconcile("clusters/a")
	w.untilNamespace("clusters/a", "-shared", v1alpha1.EntryShared)
	w.push(overlayOf("clusters/b", configMap("-shared", "of-b", "one")))
	w.untilNamespace("clusters/a", "-shared", v1alpha1.EntryApplied)
	w.check()
}
