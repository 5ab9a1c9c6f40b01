package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// liveCluster are the objects of a cluster in NS: what an overlay declares, and what
// controllers made of it. The names of kinds are read from the API server: ProxmoxMachine
// and TalosConfig are named by Machines without a version.
const liveCluster = `
{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: dev, namespace: NS}, spec: {
 infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: dev},
 controlPlaneRef: {apiGroup: controlplane.cluster.x-k8s.io, kind: TalosControlPlane, name: dev-cp}}}
---
{apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, metadata: {name: dev-cp, namespace: NS}, spec: {
 replicas: 1, version: v1.36.0, infrastructureTemplate: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachineTemplate, name: t},
 controlPlaneConfig: {controlplane: {generateType: controlplane}}}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: dev-md, namespace: NS}, spec: {
 clusterName: dev, replicas: 2, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {clusterName: dev, bootstrap: {dataSecretName: none},
  infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: t}}}}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: Machine, metadata: {name: dev-md-1, namespace: NS, labels: {cluster.x-k8s.io/cluster-name: dev, cluster.x-k8s.io/deployment-name: dev-md}}, spec: {
 clusterName: dev, version: v1.36.0, bootstrap: {configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: TalosConfig, name: dev-md-1}},
 infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachine, name: dev-md-1}}}
---
{apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3, kind: TalosConfig, metadata: {name: dev-md-1, namespace: NS, labels: {cluster.x-k8s.io/cluster-name: dev}}, spec: {
 generateType: worker, data: "a-secret-of-talos"}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: Machine, metadata: {name: of-another, namespace: NS, labels: {cluster.x-k8s.io/cluster-name: another}}, spec: {
 clusterName: another, bootstrap: {dataSecretName: none}, infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachine, name: of-another}}}
`

// liveOverlay records an overlay that declares the cluster, and an infrastructure that
// doesn't exist.
func (w *world) liveOverlay() *v1alpha1.ClusterOverlay {
	w.Helper()
	for _, u := range w.decode(strings.ReplaceAll(strings.TrimSpace(liveCluster), "NS", w.ns)) {
		if u.GetKind() == "TalosConfig" { // at the version that is served
			mapping, err := env.Client().RESTMapper().RESTMapping(u.GroupVersionKind().GroupKind())
			w.must(err)
			u.SetGroupVersionKind(mapping.GroupVersionKind)
		}
		w.must(env.Client().Create(w.Context(), u))
	}
	entry := func(group, version, kind, name string, state v1alpha1.EntryState) v1alpha1.InventoryEntry {
		return v1alpha1.InventoryEntry{State: state, ObjectReference: v1alpha1.ObjectReference{
			Group: group, Version: version, Kind: kind, Namespace: w.ns, Name: name,
		}}
	}
	o := overlayAt("clusters/dev", revision2, func(o *v1alpha1.ClusterOverlay) {
		o.Namespace = w.ns
		o.Status.Cluster = w.ns + "/dev"
		o.Status.Inventory = []v1alpha1.InventoryEntry{
			entry("", "v1", "Secret", "credentials", v1alpha1.EntryApplied),
			entry("infrastructure.cluster.x-k8s.io", "v1alpha2", "ProxmoxCluster", "dev", v1alpha1.EntryApplied),
			entry("infrastructure.cluster.x-k8s.io", "v1alpha2", "ProxmoxMachineTemplate", "t", v1alpha1.EntryApplied),
			entry("controlplane.cluster.x-k8s.io", "v1alpha3", "TalosControlPlane", "dev-cp", v1alpha1.EntryApplied),
			entry("cluster.x-k8s.io", "v1beta2", "Cluster", "dev", v1alpha1.EntryApplied),
			entry("cluster.x-k8s.io", "v1beta2", "MachineDeployment", "dev-md", v1alpha1.EntryLeaving),
		}
	})
	w.record(o)
	w.record(fleetAt(revision2, revision2))
	return o
}

// TestStatusOverlay shows an overlay's live objects.
func TestStatusOverlay(t *testing.T) {
	w := newWorld(t)
	w.liveOverlay()
	for _, name := range []string{"clusters/dev", "home-dev"} {
		r := w.run("", "status", name)
		if r.code != 0 || r.err != "" {
			t.Fatal(r)
		}
		for _, part := range []string{
			"clusters/dev\n", "converged  main@sha1:" + commit2, "Cluster dev", "control plane: TalosControlPlane dev-cp",
			"infrastructure: ProxmoxCluster dev", "MachineDeployment dev-md", "leaving", "Machine dev-md-1", "v1.36.0",
		} {
			if !strings.Contains(r.out, part) {
				t.Errorf("no %q in\n%s", part, r.out)
			}
		}
		for _, part := range []string{"of-another", "a-secret-of-talos", "credentials", "Template"} {
			if strings.Contains(r.out, part) {
				t.Errorf("%q in\n%s", part, r.out)
			}
		}
	}
	r := w.run("", "status", "clusters/dev", "-o", "json")
	var v struct {
		Path   string
		Tree   []capi.Node
		Unread []string
	}
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || r.code != 0 {
		t.Fatalf("%v\n%s", err, r)
	}
	if v.Path != "clusters/dev" || len(v.Tree) != 1 || len(v.Unread) != 0 || strings.Contains(r.out, "a-secret-of-talos") {
		t.Errorf("%s", r.out)
	}
	if r := w.run("", "status", "fleet/home"); r.code != 0 || !strings.Contains(r.out, "clusters/dev") {
		t.Errorf("fleet/home: %s", r)
	}
	if r := w.run("", "status", "clusters/none"); r.code != 2 || !strings.Contains(r.err, `no overlay "clusters/none"`) {
		t.Errorf("clusters/none: %s", r)
	}
}

// TestReadLiveWithoutRights reads live objects as users with less and less rights: what
// they may not read is named, with the right that is missing, and never taken for absent.
func TestReadLiveWithoutRights(t *testing.T) {
	w := newWorld(t)
	o := w.liveOverlay()
	family := []string{"cluster.x-k8s.io", "controlplane.cluster.x-k8s.io", "infrastructure.cluster.x-k8s.io", "bootstrap.cluster.x-k8s.io"}
	for name, c := range map[string]struct {
		rules    []rbacv1.PolicyRule
		problems []string
		machines int
		unread   int
	}{
		"all": {
			rules:    []rbacv1.PolicyRule{{APIGroups: family, Resources: []string{"*"}, Verbs: []string{"get", "list"}}},
			machines: 1,
		},
		"no-infrastructure": {
			rules: []rbacv1.PolicyRule{{APIGroups: []string{family[0], family[1], family[3]}, Resources: []string{"*"}, Verbs: []string{"get", "list"}}},
			problems: []string{
				"you may not get proxmoxclusters.infrastructure.cluster.x-k8s.io in namespace " + w.ns,
				"you may not list proxmoxmachines.infrastructure.cluster.x-k8s.io in namespace " + w.ns,
			},
			machines: 1, unread: 1,
		},
		"no-list": {
			rules: []rbacv1.PolicyRule{{APIGroups: family, Resources: []string{"*"}, Verbs: []string{"get"}}},
			problems: []string{
				"you may not list machines.cluster.x-k8s.io in namespace " + w.ns, "you may not list machinesets.cluster.x-k8s.io in namespace " + w.ns,
			},
		},
		"nothing": {
			problems: []string{
				"you may not get clusters.cluster.x-k8s.io in namespace " + w.ns,
				"you may not get machinedeployments.cluster.x-k8s.io in namespace " + w.ns,
				"you may not get proxmoxclusters.infrastructure.cluster.x-k8s.io in namespace " + w.ns,
				"you may not get taloscontrolplanes.controlplane.cluster.x-k8s.io in namespace " + w.ns,
				"you may not list machines.cluster.x-k8s.io in namespace " + w.ns, "you may not list machinesets.cluster.x-k8s.io in namespace " + w.ns,
			},
			unread: 4,
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := env.Restricted(t, name+"-in-"+w.ns, w.ns, c.rules...)
			reader, err := client.New(config, client.Options{Scheme: newScheme()})
			w.must(err)
			var v liveView
			// The authorizer sees the rights a moment later.
			w.eventually("the rights are as granted", func() string {
				v, err = readLive(t.Context(), reader, o, time.Now())
				w.must(err)
				if strings.Join(v.problems, "\n") != strings.Join(c.problems, "\n") {
					return "problems:\n" + strings.Join(v.problems, "\n")
				}
				return ""
			})
			machines := 0
			for _, u := range v.input.Made {
				if u.GetKind() == "Machine" {
					machines++
				}
			}
			if machines != c.machines || len(v.unread) != c.unread {
				t.Errorf("%d machines and %d unread, want %d and %d", machines, len(v.unread), c.machines, c.unread)
			}
			for _, d := range v.input.Declared {
				if v.unread[d.ID] != "" {
					t.Errorf("%s counts as read", d.ID)
				}
			}
			page := overlayView{
				overlayStatus: overlayStatusOf(o), Unread: v.problems, Tree: capi.Tree(v.input, capi.Report{}, v.unread),
			}
			var out strings.Builder
			w.must(page.text(&out, style{plain: true}, time.Now()))
			for id, why := range v.unread {
				if !strings.Contains(out.String(), why) || !strings.Contains(out.String(), id.Name) {
					t.Errorf("%s isn't shown with %q:\n%s", id, why, out.String())
				}
			}
			if n := len(page.warnings()); n != len(c.problems) {
				t.Errorf("%d warnings, want %d", n, len(c.problems))
			}
		})
	}
}

// TestReadLiveWithoutKinds has an inventory with a kind that the API server doesn't know.
func TestReadLiveWithoutKinds(t *testing.T) {
	w := newWorld(t)
	o := overlayAt("clusters/dev", revision1)
	o.Status.Inventory = []v1alpha1.InventoryEntry{{State: v1alpha1.EntryApplied, ObjectReference: v1alpha1.ObjectReference{
		Group: "infrastructure.cluster.x-k8s.io", Version: "v1", Kind: "NowhereCluster", Namespace: w.ns, Name: "dev",
	}}}
	v, err := readLive(t.Context(), env.Client(), o, time.Now())
	w.must(err)
	if want := "the API server has no kind NowhereCluster.infrastructure.cluster.x-k8s.io"; len(v.unread) != 1 || len(v.problems) != 1 || v.problems[0] != want {
		t.Errorf("%+v", v)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readLive(ctx, env.Client(), o, time.Now()); err == nil {
		t.Error("an interrupted read is taken for a good one")
	}
}

// What waits for an approval is not said to be pruned soon.
func TestReadLiveHeld(t *testing.T) {
	w := newWorld(t)
	ref := v1alpha1.ObjectReference{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "MachineDeployment", Namespace: w.ns, Name: "dev-md"}
	o := overlayAt("clusters/dev", revision1)
	o.Status.Inventory = []v1alpha1.InventoryEntry{{State: v1alpha1.EntryLeaving, ObjectReference: ref}}
	for approved, want := range map[bool]string{false: "has left Git; its deletion waits for an approval", true: "has left Git and is not pruned yet"} {
		o.Status.PendingDeletion = &v1alpha1.PendingDeletion{Approved: approved, Objects: []v1alpha1.ObjectReference{ref}}
		v, err := readLive(t.Context(), env.Client(), o, time.Now())
		w.must(err)
		if r := capi.Progress(v.input); len(r.Objects) != 1 || r.Objects[0].Message != want {
			t.Errorf("approved is %t: %+v", approved, r.Objects)
		}
	}
}
