package apply_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
)

const inventoried = configMap + `
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: NS}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: NS-x}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineHealthCheck, metadata: {name: m, namespace: NS-x}, spec: {clusterName: x, selector: {matchLabels: {a: b}}}}
---
{apiVersion: ipam.cluster.x-k8s.io/v1alpha2, kind: GlobalInClusterIPPool, metadata: {name: NS-pool}, spec: {addresses: [10.0.0.1-10.0.0.9], prefix: 24, gateway: 10.0.0.254}}`

// An inventory can be rebuilt from what is live: what carries the labels and was
// applied, of this overlay and no other.
func TestOwned(t *testing.T) {
	ctx := context.Background()
	b := newBed(t)
	var want []v1alpha1.ObjectReference
	for _, o := range b.run(b.request(inventoried)).Outcomes {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		want = append(want, o.Ref)
	}
	// The same labels on what we have not applied; another overlay; a child that
	// has inherited nothing.
	copied := b.request(replace(configMap, "name: c", "name: copied")).Objects[0]
	if err := env.Client().Create(ctx, copied); err != nil {
		t.Fatal(err)
	}
	owner := b.owner
	b.owner.Overlay = "other"
	b.must(b.request(replace(configMap, "name: c", "name: others")))

	also := []schema.GroupVersionKind{
		{Version: "v1", Kind: "ServiceAccount"}, {Group: "example.com", Version: "v1", Kind: "Widget"},
		{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "MachineHealthCheck"},
	}
	got, err := b.apply.Owned(ctx, owner, also)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if again, err := b.apply.Owned(ctx, owner, nil); err != nil || len(again) != len(got) {
		t.Errorf("without naming kinds: %v, %v", again, err)
	}
}

// Objects of any kind are found, with one list per kind, whatever group it is of.
func TestOwnedAllKinds(t *testing.T) {
	ctx := context.Background()
	b := newBed(t)
	report := b.run(b.request(`{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: NS}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: NS}, rules: []}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: NS-p}, value: 7}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: j, namespace: NS}, spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}
---
` + definition("size: {type: integer}") + "\n---\n" + widget))
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	mark := env.Mark(t)
	found, err := b.apply.OwnedByFleet(ctx, b.owner.FleetNamespace, b.owner.FleetName)
	if err != nil || len(found[b.owner.Overlay]) != len(report.Outcomes) {
		t.Errorf("%v, %v", found, err)
	}
	lists := map[string]int{}
	for _, r := range env.Requests(t, b.user, mark) {
		if r.Verb == "list" {
			lists[r.Group+"/"+r.Resource]++
		}
	}
	for resource, n := range lists {
		if n > 1 || resource == "/events" || resource == "coordination.k8s.io/leases" {
			t.Errorf("%d lists of %s", n, resource)
		}
	}
}

// An error of any kind's list but a missing right is one, and names the kind: of
// several always the same.
func TestOwnedIncomplete(t *testing.T) {
	b := newBed(t)
	f := b.faulty()
	fail := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/apis/scheduling.k8s.io/") }
	f.fail.Store(&fail)
	if got, err := b.apply.Owned(context.Background(), b.owner, nil); err == nil || !contains(err.Error(), "PriorityClass") {
		t.Errorf("%v, %v", got, err)
	}
	all := func(r *http.Request) bool { return r.URL.Query().Get("labelSelector") != "" }
	f.fail.Store(&all)
	_, first := b.apply.Owned(context.Background(), b.owner, nil)
	for range 20 {
		if _, err := b.apply.Owned(context.Background(), b.owner, nil); err == nil || err.Error() != first.Error() {
			t.Errorf("%v, then %v", first, err)
		}
	}
}

// Without the right to list everywhere the given namespaces are looked at; with no
// right at all there is an error and not an empty inventory.
func TestOwnedRestricted(t *testing.T) {
	ctx := context.Background()
	b := newBed(t)
	b.must(b.request(configMap))
	user := "restricted-" + b.ns
	config := env.Restricted(t, user, b.ns, rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}})
	env.Grant(t, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}, "", rbacv1.PolicyRule{
		APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"list"},
	}, rbacv1.PolicyRule{
		APIGroups: []string{"runtime.cluster.x-k8s.io", "ipam.cluster.x-k8s.io"}, Resources: []string{"extensionconfigs", "globalinclusterippools"}, Verbs: []string{"list"},
	})
	a := newApplier(t, config)
	var got []v1alpha1.ObjectReference
	eventually(t, func() bool {
		var err error
		got, err = a.Owned(ctx, b.owner, nil, b.ns)
		return err == nil
	})
	if len(got) != 1 {
		t.Errorf("found %v", got)
	}
	var e *apply.Error
	if got, err := a.Owned(ctx, b.owner, nil); !errors.As(err, &e) || e.Reason != v1alpha1.ForbiddenReason || len(got) > 0 {
		t.Errorf("without the right: %v, %v", got, err)
	}
}

// A template is in use while anything live names it or was made from it.
func TestTemplateUsers(t *testing.T) {
	ctx := context.Background()
	b := newBed(t)
	const group = "infrastructure.cluster.x-k8s.io"
	b.as("someone", true, `{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: workers, namespace: NS}, spec: {clusterName: k, replicas: 1,
 selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {clusterName: k, version: v1.30.0, bootstrap: {configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: TalosConfigTemplate, name: boot}},
 infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: used}}}}}
---
{apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, metadata: {name: cp, namespace: NS}, spec: {version: v1.30.0, infrastructureTemplate: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachineTemplate, name: used, namespace: NS}, controlPlaneConfig: {controlplane: {generateType: controlplane}}}}
---
{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachine, metadata: {name: vm, namespace: NS, annotations: {cluster.x-k8s.io/cloned-from-name: old, cluster.x-k8s.io/cloned-from-groupkind: ProxmoxMachineTemplate.infrastructure.cluster.x-k8s.io}},
 spec: {sourceNode: pve, templateID: 100, network: {networkDevices: [{bridge: vmbr0}]}}}`)
	for name, want := range map[string][]string{
		"used":   {"MachineDeployment " + b.ns + "/workers", "TalosControlPlane " + b.ns + "/cp"},
		"old":    {"ProxmoxMachine " + b.ns + "/vm"},
		"unused": nil,
	} {
		got, err := b.apply.TemplateUsers(ctx, v1alpha1.ObjectReference{Group: group, Version: "v1alpha2", Kind: "ProxmoxMachineTemplate", Namespace: b.ns, Name: name})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, want)
		}
	}
	// A kind that nobody serves has no objects; one that may not be read has unknown
	// ones.
	got, err := b.apply.TemplateUsers(ctx, v1alpha1.ObjectReference{Group: group, Version: "v1", Kind: "NoSuchMachineTemplate", Namespace: b.ns, Name: "x"})
	if err != nil || len(got) > 0 {
		t.Errorf("kind without clones: %v, %v", got, err)
	}
	a := newApplier(t, env.Restricted(t, "nobody-"+b.ns, b.ns))
	if got, err := a.TemplateUsers(ctx, v1alpha1.ObjectReference{Group: group, Version: "v1alpha2", Kind: "ProxmoxMachineTemplate", Namespace: b.ns, Name: "unused"}); err == nil {
		t.Errorf("without the right to look: %v", got)
	}
}
