package charttest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// TestRelease installs, upgrades and uninstalls a release with helm itself. Definitions
// follow upgrades, and stay when the release goes, with what is of their kinds.
func TestRelease(t *testing.T) {
	ns := env.Namespace(t)
	namespaces(t, "team-a")
	kubeconfig := env.Kubeconfig(t, "helm-of-"+ns)
	run := func(args ...string) string {
		t.Helper()
		out, err := helm(t, append(args, "--kubeconfig", kubeconfig, "-n", ns)...)
		must(t, err)
		return out
	}
	deployment := func() *appsv1.Deployment {
		t.Helper()
		var d appsv1.Deployment
		must(t, env.Client().Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "capstan"}, &d))
		return &d
	}
	definition := func() *apiextensionsv1.CustomResourceDefinition {
		t.Helper()
		var d apiextensionsv1.CustomResourceDefinition
		must(t, env.Client().Get(t.Context(), client.ObjectKey{Name: "fleets.capstan.dev"}, &d))
		return &d
	}

	// The definitions are there, as in a cluster where somebody had applied them by hand.
	notes := run("install", "capstan", chart(), "--take-ownership")
	if !strings.Contains(notes, "kind: Fleet") || !strings.Contains(notes, "Service capstan-webhook") {
		t.Errorf("the notes don't say how to go on:\n%s", notes)
	}
	if got := definition().Annotations["helm.sh/resource-policy"]; got != "keep" {
		t.Errorf("the definitions would go with the release: helm.sh/resource-policy is %q", got)
	}
	fleet := &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "home"}, Spec: v1alpha1.FleetSpec{Git: v1alpha1.GitSpec{URL: "https://git.example.com/a/b.git"}}}
	must(t, env.Client().Create(t.Context(), fleet))

	// The same again changes nothing.
	before := deployment()
	run("upgrade", "capstan", chart())
	if after := deployment(); after.Generation != before.Generation {
		t.Errorf("an upgrade that changes nothing makes new Pods: %+v, then %+v", before.Spec, after.Spec)
	}

	// Another version of the chart, and other values.
	next := filepath.Join(t.TempDir(), "capstan")
	must(t, os.CopyFS(next, os.DirFS(chart())))
	file := filepath.Join(next, "files", "crds", "capstan.dev_fleets.yaml")
	content, err := os.ReadFile(file)
	must(t, err)
	changed := strings.Replace(string(content), "    kind: Fleet\n", "    kind: Fleet\n    shortNames: [nextfleet]\n", 1)
	must(t, os.WriteFile(file, []byte(changed), 0o600))
	run("upgrade", "capstan", next, "--set", "replicas=1,webhook.enabled=false,agent.watchNamespace=team-a,rbac.managed.write=false")
	if got := definition().Spec.Names.ShortNames; len(got) != 1 {
		t.Error("an upgrade does not upgrade the definitions")
	}
	if *deployment().Spec.Replicas != 1 {
		t.Error("an upgrade does not change the Deployment")
	}
	var role rbacv1.Role
	must(t, env.Client().Get(t.Context(), client.ObjectKey{Namespace: "team-a", Name: ns + ":capstan"}, &role))
	for _, gone := range []client.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: ns + ":capstan"}},
		&unstructured.Unstructured{Object: map[string]any{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": map[string]any{"namespace": ns, "name": "capstan"}}},
		&unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"namespace": ns, "name": "capstan-webhook"}}},
	} {
		if err := env.Client().Get(t.Context(), client.ObjectKeyFromObject(gone), gone); !apierrors.IsNotFound(err) {
			t.Errorf("%s is still there: %v", client.ObjectKeyFromObject(gone), err)
		}
	}
	run("rollback", "capstan", "1")
	if *deployment().Spec.Replicas != 2 || len(definition().Spec.Names.ShortNames) != 0 {
		t.Error("a rollback does not bring everything back")
	}

	run("uninstall", "capstan")
	eventually(t, "the Deployment is gone", func(ctx context.Context) string {
		var d appsv1.Deployment
		if err := env.Client().Get(ctx, client.ObjectKey{Namespace: ns, Name: "capstan"}, &d); !apierrors.IsNotFound(err) {
			return "not yet"
		}
		return ""
	})
	if d := definition(); d.DeletionTimestamp != nil {
		t.Error("the definitions go with the release")
	}
	must(t, env.Client().Get(t.Context(), client.ObjectKeyFromObject(fleet), fleet))

	// And comes back, to definitions that it left behind.
	run("install", "capstan", chart())
	run("uninstall", "capstan")
	must(t, env.Client().Get(t.Context(), client.ObjectKeyFromObject(fleet), fleet))
	must(t, env.Client().Delete(t.Context(), fleet))
}

// TestExtraRules checks the example of the reference: with it the agent can apply the
// ClusterRole of the sample fleet and watch it for drift, and apply nothing that gives
// more than it has.
func TestExtraRules(t *testing.T) {
	text := document(t, "permissions.md")
	_, text, _ = strings.Cut(text, "```yaml\n")
	values, _, found := strings.Cut(text, "```")
	if !found {
		t.Fatal("docs/reference/permissions.md has no example of extraRules")
	}
	i := install(t, env.Namespace(t), values)
	c, err := client.NewWithWatch(env.Restricted(t, i.user, ""), client.Options{})
	must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "clusters", "shared", "viewer-role.yaml"))
	must(t, err)
	role := decode(t, string(content))[0]
	try := func(u *unstructured.Unstructured) error {
		return c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u.DeepCopy()), client.FieldOwner("capstan"))
	}
	eventually(t, "the role is applied", func(context.Context) string {
		if err := try(role); err != nil {
			return err.Error()
		}
		return ""
	})
	t.Cleanup(func() { _ = env.Client().Delete(context.Background(), role) })
	var all rbacv1.ClusterRoleList
	must(t, c.List(t.Context(), &all))
	watching, err := c.Watch(t.Context(), &all)
	must(t, err)
	watching.Stop()
	other := role.DeepCopy()
	other.SetName("another")
	if err := try(other); !apierrors.IsForbidden(err) {
		t.Errorf("a role of another name: %v, want it forbidden", err)
	}
	more := role.DeepCopy()
	must(t, unstructured.SetNestedSlice(more.Object, []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"pods"}, "verbs": []any{"get"}}}, "rules"))
	if err := try(more); !apierrors.IsForbidden(err) {
		t.Errorf("a role with rights that the agent lacks: %v, want it forbidden", err)
	}
}

// TestMonitoring checks what becomes of the files of alerts and of the dashboard.
func TestMonitoring(t *testing.T) {
	all := render(t, "ns", "{metrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true, runbookURL: 'https://wiki.example.com/r'}, dashboard: {enabled: true}}}")
	urls := 0
	for _, group := range list3(pick(all, "PrometheusRule")[0].Object, "spec", "groups") {
		for _, rule := range list3(group, "rules") {
			if rule["alert"] == nil {
				continue
			}
			urls++
			url, _, _ := unstructured.NestedString(rule, "annotations", "runbook_url")
			if !strings.HasPrefix(url, "https://wiki.example.com/r#") {
				t.Errorf("the runbook of %v is at %q", rule["alert"], url)
			}
		}
	}
	if urls == 0 {
		t.Error("there are no alerts")
	}
	found := false
	for _, u := range pick(all, "ConfigMap") {
		text, _, _ := unstructured.NestedString(u.Object, "data", "capstan.json")
		file, err := os.ReadFile(filepath.Join(chart(), "files", "dashboard.json"))
		must(t, err)
		found = true
		if strings.TrimSpace(text) != strings.TrimSpace(string(file)) {
			t.Error("the dashboard is not that of the file")
		}
	}
	if !found {
		t.Error("there is no dashboard")
	}
}
