package apply_test

import (
	"context"
	"errors"
	"slices"
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
	if got, err = b.apply.Owned(ctx, owner, nil); err != nil || len(got) != len(want)-1 {
		t.Errorf("without the kind ServiceAccount: %v, %v", got, err)
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
