package charttest

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/testenv"
)

// atom is the smallest part of a permission that can be taken away.
type atom struct {
	// namespace is where it counts, everywhere if empty.
	namespace             string
	group, resource, verb string
	// name is the only object that it is for, if set.
	name string
}

func (a atom) String() string {
	s := a.verb + " " + a.resource
	if a.group != "" {
		s += "." + a.group
	}
	if a.name != "" {
		s += " " + a.name
	}
	if a.namespace != "" {
		s += " in " + a.namespace
	}
	return s
}

func (a atom) rule() rbacv1.PolicyRule {
	r := rbacv1.PolicyRule{APIGroups: []string{a.group}, Resources: []string{a.resource}, Verbs: []string{a.verb}}
	if a.name != "" {
		r.ResourceNames = []string{a.name}
	}
	return r
}

// allows tells whether it covers a request, which must be no impersonated one.
func (a atom) allows(r testenv.Request) bool {
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	return a.group == r.Group && (a.resource == "*" || a.resource == resource) && a.verb == r.Verb &&
		(a.namespace == "" || a.namespace == r.Namespace) && (a.name == "" || a.name == r.Name)
}

// atoms are all that the rendered roles grant.
func atoms(t *testing.T, all []*unstructured.Unstructured) []atom {
	t.Helper()
	var granted []atom
	for _, u := range pick(all, "Role", "ClusterRole") {
		var role rbacv1.ClusterRole
		must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &role))
		for _, rule := range role.Rules {
			names := rule.ResourceNames
			if len(names) == 0 {
				names = []string{""}
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						for _, name := range names {
							granted = append(granted, atom{u.GetNamespace(), group, resource, verb, name})
						}
					}
				}
			}
		}
	}
	slices.SortFunc(granted, func(a, b atom) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.resource, b.resource), cmp.Compare(a.verb, b.verb), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	return granted
}

const (
	webhookSecret = "the-webhook-secret"
	gitPassword   = "the-git-password"
)

// TestPermissions has agents do all that agents do with the permissions of the chart and
// no others. Nothing that they need is refused, and everything that they may do was
// needed: without it, the same request would have been refused.
func TestPermissions(t *testing.T) {
	definitions(t, "operator.yaml")
	namespaces(t, "team-a")
	i := install(t, env.Namespace(t), "{rbac: {impersonate: [{namespace: team-a, names: [deployer]}]}}", nil)
	i.work("")
	i.judge()
}

// work goes through everything that an agent does.
func (i *installation) work(in string) {
	t := i.T
	first := i.run()
	i.ready(first)
	leads := func(r *replica) {
		eventually(t, "a replica leads", func(ctx context.Context) string {
			u := &unstructured.Unstructured{}
			u.SetAPIVersion("coordination.k8s.io/v1")
			u.SetKind("Lease")
			if err := env.Client().Get(ctx, client.ObjectKey{Namespace: i.ns, Name: "capstan.capstan.dev"}, u); err != nil {
				return err.Error()
			}
			if holder, _, _ := unstructured.NestedString(u.Object, "spec", "holderIdentity"); holder == "" {
				return "nobody"
			}
			return ""
		})
	}
	leads(first)
	second := i.run()
	i.ready(second)

	ns := in
	if ns == "" {
		ns = env.Namespace(t)
	}
	for name, data := range map[string]map[string]string{
		"git": {"username": "someone", "password": gitPassword}, "webhook": {"secret": webhookSecret},
	} {
		must(t, env.Client().Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, StringData: data}))
	}
	variables := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "variables"}, Data: map[string]string{"VALUE": "one"}}
	must(t, env.Client().Create(t.Context(), variables))
	b := i.fleet(ns, "home", func(f *v1alpha1.Fleet) {
		f.Spec.Git.SecretRef = &v1alpha1.LocalReference{Name: "git"}
		f.Spec.Substitute = &v1alpha1.SubstituteSpec{From: []v1alpha1.SubstituteSource{{Kind: "ConfigMap", Name: "variables"}}}
		f.Spec.Forge = &v1alpha1.ForgeSpec{Kind: v1alpha1.ForgeGitHub, Repository: "owner/name", WebhookSecretRef: &v1alpha1.LocalReference{Name: "webhook"}}
	})
	x := ns + "-x"
	namespace := "{apiVersion: v1, kind: Namespace, metadata: {name: " + x + "}}"
	pool := "{apiVersion: ipam.cluster.x-k8s.io/v1alpha2, kind: InClusterIPPool, metadata: {name: pool, namespace: " + x + "}, spec: {addresses: [%s], prefix: 24, gateway: 10.9.0.1}}"
	settings := "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: " + x + "}, data: {v: \"${VALUE}\"}}"
	other := "{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: " + x + "}}"
	secret := "{apiVersion: v1, kind: Secret, metadata: {name: secret, namespace: " + x + "}, stringData: {v: %s}}"
	stays := directory("clusters/stays", "{apiVersion: v1, kind: ConfigMap, metadata: {name: stays, namespace: "+ns+"}}")

	// Everything is new.
	hash := b.push(merged(sample(t, "base", "dev"), stays,
		directory("clusters/extra", namespace, fmt.Sprintf(pool, "10.9.0.10-10.9.0.20"), settings, other, fmt.Sprintf(secret, "one"))))
	b.applied(hash, "clusters/dev", "clusters/extra", "clusters/stays")

	// Machines come.
	apply(t, machines())

	// An edit, a prune, a variable.
	dev := sample(t, "dev")
	dev["clusters/dev/cluster.yaml"] = strings.ReplaceAll(dev["clusters/dev/cluster.yaml"], "replicas: 1", "replicas: 2")
	hash = b.push(merged(dev, directory("clusters/extra", namespace, fmt.Sprintf(pool, "10.9.0.10-10.9.0.30"), settings, fmt.Sprintf(secret, "two"))))
	b.applied(hash, "clusters/dev", "clusters/extra")
	variables.Data["VALUE"] = "two"
	must(t, env.Client().Update(t.Context(), variables))
	eventually(t, "the variable arrives", func(ctx context.Context) string {
		var live corev1.ConfigMap
		if err := env.Client().Get(ctx, client.ObjectKey{Namespace: x, Name: "settings"}, &live); err != nil {
			return err.Error()
		}
		if live.Data["v"] != "two" {
			return live.Data["v"]
		}
		return ""
	})

	// A person asks for a comparison of everything.
	for _, path := range []string{"clusters/dev", "clusters/extra"} {
		value := b.request(b.overlay(path))
		b.until(path, "is compared", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.LastHandledRequest == value })
	}

	// An overlay's inventory is lost.
	lost, err := b.get(t.Context(), "clusters/extra")
	must(t, err)
	must(t, env.Client().Delete(t.Context(), lost))
	b.until("clusters/extra", "is found again", func(o *v1alpha1.ClusterOverlay) bool { return o.UID != lost.UID && len(o.Status.Inventory) == 4 })

	// A webhook reaches the replica that doesn't lead.
	next := b.repo.Commit(directory("clusters/stays", "{apiVersion: v1, kind: ConfigMap, metadata: {name: stays, namespace: "+ns+"}, data: {v: two}}"), "by webhook")
	eventually(t, "the webhook is taken", func(ctx context.Context) string {
		code, answer := b.deliver(ctx, second, webhookSecret, "push", fmt.Sprintf(
			`{"ref":"refs/heads/main","before":%q,"after":%q,"repository":{"full_name":"owner/name"},"commits":[{"modified":["clusters/stays/all.yaml"]}]}`, hash, next))
		if code != http.StatusAccepted && code != http.StatusOK {
			return fmt.Sprint(code, " ", answer)
		}
		return ""
	})
	b.applied(next, "clusters/stays")

	// Others write meanwhile.
	i.collide(b)

	// A Fleet that acts as somebody else.
	i.impersonated()

	// The other replica takes over.
	first.stop()
	hash = b.push(directory("clusters/stays", "{apiVersion: v1, kind: ConfigMap, metadata: {name: stays, namespace: "+ns+"}, data: {v: three}}"))
	b.applied(hash, "clusters/stays")

	// Clusters go.
	b.repo.Remove("remove", "clusters/dev", "clusters/extra")
	b.look()
	b.approve("clusters/extra", x)
	b.approve("clusters/dev", "dev-talos")
	second.stop()
}

// machines are what Cluster API would make.
func machines() []*unstructured.Unstructured {
	labels := map[string]any{"cluster.x-k8s.io/cluster-name": "dev-talos", "cluster.x-k8s.io/deployment-name": "dev-workers"}
	object := func(apiVersion, kind string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": "m", "namespace": "dev-talos", "labels": labels}, "spec": spec,
		}}
	}
	ref := func(group, kind string) map[string]any {
		return map[string]any{"apiGroup": group, "kind": kind, "name": "m"}
	}
	return []*unstructured.Unstructured{
		object("cluster.x-k8s.io/v1beta2", "Machine", map[string]any{
			"clusterName": "dev-talos", "version": "v1.35.4",
			"bootstrap":         map[string]any{"configRef": ref("bootstrap.cluster.x-k8s.io", "TalosConfig")},
			"infrastructureRef": ref("infrastructure.cluster.x-k8s.io", "ProxmoxMachine"),
		}),
	}
}

// collide has somebody else write the statuses' objects all the time, until the agent
// was seen to read again what it could not write.
func (i *installation) collide(b *bed) {
	i.Helper()
	n := 0
	for _, o := range []client.Object{&v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: b.name}}, b.overlay("clusters/stays")} {
		resource := "fleets"
		if _, ok := o.(*v1alpha1.ClusterOverlay); ok {
			resource = "clusteroverlays"
		}
		eventually(i.T, "a write meets another, of "+resource, func(context.Context) string {
			for range 20 {
				n++
				b.request(o)
				b.annotate(o, "example.com/touched", fmt.Sprint(n))
			}
			for _, r := range env.Requests(i.T, i.user, 0) {
				if r.Verb == "get" && r.Resource == resource {
					return ""
				}
			}
			return "not yet"
		})
	}
}

// impersonated has a Fleet in team-a act as its ServiceAccount "deployer".
func (i *installation) impersonated() {
	i.Helper()
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "team-a", Name: "deployer"}
	env.Grant(i.T, subject, "", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "create", "patch", "delete"}})
	b := i.fleet("team-a", "team", func(f *v1alpha1.Fleet) { f.Spec.ServiceAccountName = "deployer" })
	b.applied(b.push(directory("clusters/a", "{apiVersion: v1, kind: ConfigMap, metadata: {name: of-team, namespace: team-a}}")), "clusters/a")
}

// judge compares what was done with what was allowed.
func (i *installation) judge() {
	i.Helper()
	granted := atoms(i.T, i.all)
	used := map[atom]testenv.Request{}
	for _, r := range env.Requests(i.T, i.user, 0) {
		switch {
		case r.Resource == "": // discovery, open to everyone
		case r.As != "":
			for _, a := range granted {
				if a.verb == "impersonate" && r.As == "system:serviceaccount:"+a.namespace+":"+a.name {
					used[a] = r
				}
			}
			if r.Code == http.StatusForbidden {
				i.Errorf("forbidden: %s as %s", r, r.As)
			}
		case r.Code == http.StatusForbidden:
			if r.Verb == "list" && r.Namespace == "" && !strings.HasSuffix(r.Group, "cluster.x-k8s.io") {
				continue // the search for labels finds kinds that are none of its business
			}
			i.Errorf("forbidden: %s", r)
		default:
			covered := false
			for _, a := range granted {
				if a.allows(r) {
					covered = true
					used[a] = r
				}
			}
			if !covered {
				i.Errorf("allowed by no rule of the chart: %s", r)
			}
		}
	}
	for _, a := range granted {
		if _, ok := used[a]; !ok {
			i.Errorf("granted and never used: %s", a)
		}
	}
}
