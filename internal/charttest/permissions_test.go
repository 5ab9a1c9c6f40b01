package charttest

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/gittest"
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

// allows tells whether a request needed it. An apply that creates is a patch, and needs
// both rights.
func (a atom) allows(r testenv.Request) bool {
	if r.As != "" {
		return a.verb == "impersonate" && r.As == "system:serviceaccount:"+a.namespace+":"+a.name
	}
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	return a.group == r.Group && (a.resource == "*" || a.resource == resource) && (a.verb == r.Verb || a.verb == "create" && r.Verb == "patch" && r.Code == http.StatusCreated) &&
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
	team := env.Namespace(t)
	i := install(t, env.Namespace(t), "{rbac: {impersonate: [{namespace: "+team+", names: [deployer]}]}}")
	i.work(env.Namespace(t), "", func() { i.impersonated(team) })
	i.judge()
}

// TestPermissionsOfOthers does the same where Fleets act as ServiceAccounts, in the one
// namespace that is watched.
func TestPermissionsOfOthers(t *testing.T) {
	definitions(t, "operator.yaml")
	ns := env.Namespace(t)
	i := install(t, env.Namespace(t), "{agent: {watchNamespace: "+ns+"}, rbac: {managed: {write: false}, impersonate: [{namespace: "+ns+", names: [deployer]}]}}")
	rights := []string{"get", "list", "create", "patch", "delete"}
	env.Grant(t, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "deployer"}, "",
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"namespaces", "configmaps", "secrets"}, Verbs: rights},
		rbacv1.PolicyRule{
			APIGroups: []string{
				"cluster.x-k8s.io", "controlplane.cluster.x-k8s.io", "bootstrap.cluster.x-k8s.io",
				"infrastructure.cluster.x-k8s.io", "ipam.cluster.x-k8s.io", "addons.cluster.x-k8s.io",
			},
			Resources: []string{"*"}, Verbs: rights,
		})
	i.work(ns, "deployer", func() {})
	i.judge()
}

// work goes through everything that an agent does, for a Fleet in a namespace.
func (i *installation) work(ns, account string, meanwhile func()) {
	t := i.T
	// Two ways to fill a cache: API servers before Kubernetes 1.34 know only lists.
	first := i.run("KUBE_FEATURE_WatchListClient=false")
	i.ready(first)
	i.leads(first)
	second := i.run("KUBE_FEATURE_WatchListClient=true")
	i.ready(second)

	for name, data := range map[string]map[string]string{
		"git": {"username": "someone", "password": gitPassword}, "webhook": {"secret": webhookSecret},
	} {
		must(t, env.Client().Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, StringData: data}))
	}
	variables := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "variables"}, Data: map[string]string{"VALUE": "one"}}
	must(t, env.Client().Create(t.Context(), variables))
	b := i.fleet(ns, "home", func(f *v1alpha1.Fleet) {
		f.Spec.ServiceAccountName = account
		f.Spec.Git.SecretRef = &v1alpha1.LocalReference{Name: "git"}
		f.Spec.Substitute = &v1alpha1.SubstituteSpec{From: []v1alpha1.SubstituteSource{{Kind: "ConfigMap", Name: "variables"}}}
		f.Spec.Forge = &v1alpha1.ForgeSpec{Kind: v1alpha1.ForgeGitHub, Repository: "owner/name", WebhookSecretRef: &v1alpha1.LocalReference{Name: "webhook"}}
	})
	x, machines := ns+"-x", ns+"-dev"
	base, dev := sample(t, "base"), sample(t, "dev")
	dev["clusters/dev/kustomization.yaml"] = strings.ReplaceAll(dev["clusters/dev/kustomization.yaml"], "dev-talos", machines)
	extra := func(secret, addresses string, more ...string) map[string]string {
		return directory("clusters/extra", append(more,
			"{apiVersion: v1, kind: Namespace, metadata: {name: "+x+"}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: "+x+"}, data: {v: \"${VALUE}\"}}",
			"{apiVersion: v1, kind: Secret, metadata: {name: secret, namespace: "+x+"}, stringData: {v: "+secret+"}}",
			"{apiVersion: ipam.cluster.x-k8s.io/v1alpha2, kind: InClusterIPPool, metadata: {name: pool, namespace: "+x+"},"+
				" spec: {addresses: ["+addresses+"], prefix: 24, gateway: 10.9.0.1}}")...)
	}
	stays := func(value string) map[string]string {
		return directory("clusters/stays", "{apiVersion: v1, kind: ConfigMap, metadata: {name: stays, namespace: "+ns+"}, data: {v: "+value+"}}")
	}

	// Everything is new.
	hash := b.push(merged(base, dev, stays("one"), extra("one", "10.9.0.10-10.9.0.20", "{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: "+x+"}}")))
	b.applied(hash, "clusters/dev", "clusters/extra", "clusters/stays")

	// Machines come.
	apply(t, []*unstructured.Unstructured{machineIn(machines)})

	// An edit, a prune, a variable.
	dev["clusters/dev/cluster.yaml"] = strings.ReplaceAll(dev["clusters/dev/cluster.yaml"], "replicas: 1", "replicas: 2")
	hash = b.push(merged(dev, extra("two", "10.9.0.10-10.9.0.30")))
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

	i.drift(b, x, machines)

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
	next := b.repo.Commit(stays("two"), "by webhook")
	eventually(t, "the webhook is taken", func(ctx context.Context) string {
		code, answer := b.deliver(ctx, second, webhookSecret, "push", fmt.Sprintf(
			`{"ref":"refs/heads/main","before":%q,"after":%q,"repository":{"full_name":"owner/name"},"commits":[{"modified":["clusters/stays/all.yaml"]}]}`, hash, next))
		if code != http.StatusAccepted && code != http.StatusOK {
			return fmt.Sprint(code, " ", answer)
		}
		return ""
	})
	b.applied(next, "clusters/stays")

	i.collide(b)
	b.breakTwice()
	meanwhile()

	// The other replica takes over.
	first.stop()
	b.applied(b.push(stays("three")), "clusters/stays")

	// Clusters go.
	b.repo.Remove("remove", "clusters/dev", "clusters/extra")
	b.look()
	b.approve("clusters/extra", x)
	b.approve("clusters/dev", machines)
	second.stop()
}

// drift has somebody change and delete what is live, and add machines. The first two are
// put back, the last once that is approved.
func (i *installation) drift(b *bed, x, machines string) {
	i.Helper()
	by := client.FieldOwner("kubectl-edit")
	settings := func() *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: x, Name: "settings"}}
	}
	for what, does := range map[string]func() error{
		"a change": func() error {
			return env.Client().Patch(i.Context(), settings(), client.RawPatch(types.MergePatchType, []byte(`{"data":{"v":"mine"}}`)), by)
		},
		"a deletion": func() error { return env.Client().Delete(i.Context(), settings()) },
	} {
		must(i.T, does())
		eventually(i.T, what+" is corrected", func(ctx context.Context) string {
			live := settings()
			if err := env.Client().Get(ctx, client.ObjectKeyFromObject(live), live); err != nil {
				return err.Error()
			}
			if live.Data["v"] != "two" {
				return live.Data["v"]
			}
			return ""
		})
	}
	workers := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment",
		"metadata": map[string]any{"namespace": machines, "name": "dev-workers"},
	}}
	must(i.T, env.Client().Patch(i.Context(), workers, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":3}}`)), by))
	held := b.until("clusters/dev", "holds the correction", func(o *v1alpha1.ClusterOverlay) bool {
		return len(o.Status.Drift) > 0 && o.Status.Drift[0].Action == v1alpha1.DriftHeld
	})
	b.annotate(b.overlay("clusters/dev"), v1alpha1.ApproveCorrectionAnnotation, held.Status.Drift[0].Hash)
	b.until("clusters/dev", "is corrected, and the approval used", func(o *v1alpha1.ClusterOverlay) bool {
		return len(o.Status.Drift) == 0 && o.Annotations[v1alpha1.ApproveCorrectionAnnotation] == ""
	})
}

// leads waits until a replica leads, of one that runs.
func (i *installation) leads(*replica) {
	i.Helper()
	eventually(i.T, "a replica leads", func(ctx context.Context) string {
		var lease coordinationv1.Lease
		if err := env.Client().Get(ctx, client.ObjectKey{Namespace: i.ns, Name: "capstan.capstan.dev"}, &lease); err != nil {
			return err.Error()
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
			return "nobody"
		}
		return ""
	})
}

// machineIn is a Machine as Cluster API would make it for the sample's Cluster.
func machineIn(namespace string) *unstructured.Unstructured {
	ref := func(group, kind string) map[string]any {
		return map[string]any{"apiGroup": group, "kind": kind, "name": "m"}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
		"metadata": map[string]any{"name": "m", "namespace": namespace, "labels": map[string]any{
			"cluster.x-k8s.io/cluster-name": "dev-talos", "cluster.x-k8s.io/deployment-name": "dev-workers",
		}},
		"spec": map[string]any{
			"clusterName": "dev-talos", "version": "v1.35.4",
			"bootstrap":         map[string]any{"configRef": ref("bootstrap.cluster.x-k8s.io", "TalosConfig")},
			"infrastructureRef": ref("infrastructure.cluster.x-k8s.io", "ProxmoxMachine"),
		},
	}}
}

// breakTwice has the Git server fail, work and fail in the same way: one event, counted
// to two.
func (b *bed) breakTwice() {
	b.Helper()
	fetched := func(status metav1.ConditionStatus) {
		b.Helper()
		b.look()
		eventually(b.T, "Fetched is "+string(status), func(ctx context.Context) string {
			var f v1alpha1.Fleet
			if err := env.Client().Get(ctx, client.ObjectKey{Namespace: b.ns, Name: b.name}, &f); err != nil {
				return err.Error()
			}
			if c := meta.FindStatusCondition(f.Status.Conditions, v1alpha1.FetchedCondition); c == nil || c.Status != status {
				return fmt.Sprint(f.Status.Conditions)
			}
			return ""
		})
	}
	for range 2 {
		b.repo.HTTP().SetFault(gittest.InfoRefs, gittest.Status(http.StatusForbidden))
		fetched(metav1.ConditionFalse)
		b.repo.HTTP().SetFault(gittest.InfoRefs, nil)
		fetched(metav1.ConditionTrue)
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

// impersonated has a Fleet act as its ServiceAccount "deployer".
func (i *installation) impersonated(team string) {
	i.Helper()
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: team, Name: "deployer"}
	env.Grant(i.T, subject, "", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "create", "patch", "delete"}})
	b := i.fleet(team, "team", func(f *v1alpha1.Fleet) { f.Spec.ServiceAccountName = "deployer" })
	b.applied(b.push(directory("clusters/a", "{apiVersion: v1, kind: ConfigMap, metadata: {name: of-team, namespace: "+team+"}}")), "clusters/a")
}

// judge compares what was done with what was allowed.
func (i *installation) judge() {
	i.Helper()
	granted := atoms(i.T, i.all)
	used := map[atom]testenv.Request{}
	for _, r := range env.Requests(i.T, i.user, 0) {
		covered := r.Resource == "" // discovery, which is open to all
		for _, a := range granted {
			if a.allows(r) {
				covered, used[a] = true, r
			}
		}
		switch {
		case r.Code == http.StatusForbidden && r.As == "" && r.Verb == "list" && r.Namespace == "" && !capi(r.Group) && !covered:
			// The search for labels finds kinds that are none of its business.
		case r.Code == http.StatusForbidden:
			i.Errorf("forbidden: %s, as %q", r, r.As)
		case !covered:
			i.Errorf("allowed by no rule of the chart: %s", r)
		}
	}
	for _, a := range granted {
		if _, ok := used[a]; !ok {
			i.Errorf("granted and never used: %s", a)
		}
	}
	i.judgeWithout(granted, used)
}

func capi(group string) bool {
	return group == "cluster.x-k8s.io" || strings.HasSuffix(group, ".cluster.x-k8s.io")
}

// judgeWithout makes, for each permission, a user who has all others, and asks the API
// server whether that user may do what the permission was used for.
func (i *installation) judgeWithout(granted []atom, used map[atom]testenv.Request) {
	i.Helper()
	user := func(n int) string { return fmt.Sprintf("without-%d-of-%s", n, i.ns) }
	for n, a := range granted {
		var others []rbacv1.Subject
		for m := range granted {
			if m != n {
				others = append(others, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user(m)})
			}
		}
		grant(i.T, a, others)
	}
	may := func(n int, what atom) string {
		r := used[what]
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user(n), Groups: []string{"system:authenticated"}, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: r.Namespace, Verb: what.verb, Group: r.Group, Resource: r.Resource, Subresource: r.Subresource, Name: r.Name,
			},
		}}
		if what.verb == "impersonate" {
			review.Spec.ResourceAttributes = &authorizationv1.ResourceAttributes{Namespace: what.namespace, Verb: what.verb, Resource: what.resource, Name: what.name}
		}
		if err := env.Client().Create(i.Context(), review); err != nil {
			return err.Error()
		}
		if review.Status.Allowed {
			return "allowed"
		}
		return "refused"
	}
	// All must have arrived before what somebody lacks says anything: who lacks the first
	// sees the others, who lacks another one sees the first.
	for m, other := range granted {
		if _, ok := used[other]; !ok || len(granted) < 2 {
			continue // is reported
		}
		n := 0
		if m == 0 {
			n = 1
		}
		eventually(i.T, fmt.Sprintf("%s is granted to %s", other, user(n)), func(context.Context) string {
			if got := may(n, other); got != "allowed" {
				return got
			}
			return ""
		})
	}
	for n, a := range granted {
		if _, ok := used[a]; !ok {
			continue
		}
		if got := may(n, a); got != "refused" {
			i.Errorf("without %s, %s is %s: another rule says the same", a, used[a], got)
		}
	}
}

// grant gives one permission to users.
func grant(t *testing.T, a atom, to []rbacv1.Subject) {
	t.Helper()
	meta := metav1.ObjectMeta{GenerateName: "t-", Namespace: a.namespace}
	var role, binding client.Object
	if a.namespace == "" {
		role = &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{a.rule()}}
	} else {
		role = &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{a.rule()}}
	}
	must(t, env.Client().Create(t.Context(), role))
	meta = metav1.ObjectMeta{Name: role.GetName(), Namespace: a.namespace}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.GetName()}
	if a.namespace == "" {
		ref.Kind = "ClusterRole"
		binding = &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: to}
	} else {
		binding = &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: to}
	}
	must(t, env.Client().Create(t.Context(), binding))
}
