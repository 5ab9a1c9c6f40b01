package capi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// outline is a tree as text: a line for a node, indented.
func outline(nodes []capi.Node) string {
	var b strings.Builder
	var walk func(nodes []capi.Node, indent string)
	walk = func(nodes []capi.Node, indent string) {
		for _, n := range nodes {
			ready := "?"
			if n.Ready != nil {
				ready = fmt.Sprint(*n.Ready)
			}
			words := []string{string(n.Part), n.Kind, strings.Join(n.Names, ","), n.Version, ready}
			for _, mark := range []struct {
				is   bool
				word string
			}{{n.Outdated, "outdated"}, {n.Leaving, "leaving"}, {n.Blocked, "blocked"}} {
				if mark.is {
					words = append(words, mark.word)
				}
			}
			b.WriteString(indent + strings.Join(strings.Fields(strings.Join(append(words, n.Message), " ")), " ") + "\n")
			walk(n.Children, indent+"  ")
		}
	}
	walk(nodes, "")
	return b.String()
}

func coreID(kind, name string) object.ID {
	return object.ID{Group: "cluster.x-k8s.io", Kind: kind, Namespace: "ns", Name: name}
}

func groupID(group, kind, name string) object.ID {
	return object.ID{Group: group + ".cluster.x-k8s.io", Kind: kind, Namespace: "ns", Name: name}
}

var (
	talosID   = groupID("controlplane", "TalosControlPlane", "dev-cp")
	proxmoxID = groupID("infrastructure", "ProxmoxCluster", "dev")
	workersID = coreID("MachineDeployment", "dev-md")
	healthID  = coreID("MachineHealthCheck", "dev-mhc")
	poolID    = groupID("ipam", "InClusterIPPool", "pool")
	devID     = capi.ClusterID("ns", "dev")
)

// treeLive are live objects in either version of Cluster's references.
func treeLive(t *testing.T, cluster string) map[object.ID]*unstructured.Unstructured {
	t.Helper()
	live := map[object.ID]*unstructured.Unstructured{}
	for _, manifest := range []string{
		cluster,
		`{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxCluster, metadata: {name: dev, namespace: ns, labels: {cluster.x-k8s.io/cluster-name: dev}}}`,
		`{apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, metadata: {name: dev-cp, namespace: ns}}`,
		`{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: dev-md, namespace: ns}, spec: {clusterName: dev}}`,
		`{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineHealthCheck, metadata: {name: dev-mhc, namespace: ns}, spec: {clusterName: dev}}`,
		`{apiVersion: ipam.cluster.x-k8s.io/v1alpha2, kind: InClusterIPPool, metadata: {name: pool, namespace: ns}}`,
	} {
		u := parse(t, manifest)
		live[object.IDOf(u)] = u
	}
	return live
}

const (
	clusterV1beta2 = `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: dev, namespace: ns}, spec: {
 infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: dev},
 controlPlaneRef: {apiGroup: controlplane.cluster.x-k8s.io, kind: TalosControlPlane, name: dev-cp}}}`
	clusterV1beta1 = `{apiVersion: cluster.x-k8s.io/v1beta1, kind: Cluster, metadata: {name: dev, namespace: ns}, spec: {
 infrastructureRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxCluster, name: dev},
 controlPlaneRef: {apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, name: dev-cp, namespace: ns}}}`
)

func machine(name string, role capi.Role, owner object.ID, change ...func(*capi.MachineReport)) capi.MachineReport {
	m := capi.MachineReport{
		Name: name, Namespace: "ns", Cluster: "dev", Role: role, Owner: owner, Version: "v1.36.0", UpToDate: true, Ready: true,
	}
	for _, c := range change {
		c(&m)
	}
	return m
}

func TestTree(t *testing.T) {
	converged := func(id object.ID) capi.ObjectReport {
		return capi.ObjectReport{ID: id, Phase: v1alpha1.PhaseConverged}
	}
	all := []capi.ObjectReport{
		converged(poolID), converged(proxmoxID), converged(talosID), converged(devID), converged(workersID), converged(healthID),
	}
	cases := map[string]struct {
		cluster string
		leaving object.ID
		absent  []object.ID
		report  capi.Report
		unread  map[object.ID]string
		want    string
	}{
		"nothing": {cluster: clusterV1beta2, want: ""},
		"converged": {
			cluster: clusterV1beta2,
			report: capi.Report{Objects: all, Machines: []capi.MachineReport{
				machine("cp-a", capi.RoleControlPlane, talosID), machine("cp-b", capi.RoleControlPlane, talosID),
				machine("w-a", capi.RoleWorker, workersID),
			}},
			want: `
Cluster dev true
  infrastructure ProxmoxCluster dev true
  control plane TalosControlPlane dev-cp true
    Machine cp-a,cp-b v1.36.0 true
  workers ?
    MachineDeployment dev-md true
      Machine w-a v1.36.0 true
  MachineHealthCheck dev-mhc true
InClusterIPPool pool true
`,
		},
		"rolling out, read as v1beta1": {
			cluster: clusterV1beta1,
			report: capi.Report{
				Objects: []capi.ObjectReport{
					converged(proxmoxID), converged(devID),
					{ID: talosID, Phase: v1alpha1.PhaseProgressing, Message: "1 of 3 machines is up to date"},
					{ID: workersID, Phase: v1alpha1.PhaseStalled, Message: "template not found"},
				},
				Machines: []capi.MachineReport{
					machine("cp-a", capi.RoleControlPlane, talosID, func(m *capi.MachineReport) { m.UpToDate, m.Version = false, "v1.35.0" }),
					machine("cp-b", capi.RoleControlPlane, talosID),
					machine("cp-c", capi.RoleControlPlane, talosID, func(m *capi.MachineReport) { m.UpToDate, m.Version = false, "v1.35.0" }),
					machine("cp-d", capi.RoleControlPlane, talosID, func(m *capi.MachineReport) { m.Ready, m.Message = false, "VM is cloned" }),
					machine("w-a", capi.RoleWorker, workersID, func(m *capi.MachineReport) { m.Leaving, m.Message = true, "drained" }),
					machine("w-b", capi.RoleWorker, workersID, func(m *capi.MachineReport) { m.Ready, m.Blocked, m.Message = false, true, "no quota" }),
				},
			},
			want: `
Cluster dev true
  infrastructure ProxmoxCluster dev true
  control plane TalosControlPlane dev-cp false 1 of 3 machines is up to date
    Machine cp-a,cp-c v1.35.0 true outdated
    Machine cp-b v1.36.0 true
    Machine cp-d v1.36.0 false VM is cloned
  workers ?
    MachineDeployment dev-md false blocked template not found
      Machine w-a v1.36.0 true leaving drained
      Machine w-b v1.36.0 false blocked no quota
`,
		},
		"an object leaves": {
			cluster: clusterV1beta2, leaving: workersID,
			report: capi.Report{Objects: []capi.ObjectReport{
				converged(devID), {ID: workersID, Phase: v1alpha1.PhaseWaiting, Message: "its deletion waits for an approval"},
			}},
			want: `
Cluster dev true
  workers ?
    MachineDeployment dev-md false leaving its deletion waits for an approval
`,
		},
		"what doesn't exist yet is where it will be": {
			cluster: clusterV1beta2, absent: []object.ID{workersID, talosID, proxmoxID, poolID},
			report: capi.Report{Objects: []capi.ObjectReport{
				{ID: poolID, Phase: v1alpha1.PhaseProgressing, Message: "is missing"},
				{ID: proxmoxID, Phase: v1alpha1.PhaseProgressing, Message: "is missing"},
				{ID: talosID, Phase: v1alpha1.PhaseProgressing, Message: "is missing"},
				converged(devID),
				{ID: workersID, Phase: v1alpha1.PhaseProgressing, Message: "is missing"},
			}},
			want: `
Cluster dev true
  infrastructure ProxmoxCluster dev false is missing
  control plane TalosControlPlane dev-cp false is missing
  workers ?
    MachineDeployment dev-md false is missing
InClusterIPPool pool false is missing
`,
		},
		"what can't be read is not absent, and nothing is claimed of it": {
			cluster: clusterV1beta2, absent: []object.ID{talosID, devID, workersID},
			report: capi.Report{
				Objects:  []capi.ObjectReport{converged(proxmoxID)},
				Machines: []capi.MachineReport{machine("w-a", capi.RoleWorker, workersID)},
			},
			unread: map[object.ID]string{
				talosID: "you may not get taloscontrolplanes", devID: "you may not get clusters", workersID: "timeout",
			},
			want: `
Cluster dev ? you may not get clusters
  infrastructure ProxmoxCluster dev true
  control plane TalosControlPlane dev-cp ? you may not get taloscontrolplanes
  workers ?
    MachineDeployment dev-md ? timeout
      Machine w-a v1.36.0 true
`,
		},
		"machines of what isn't declared": {
			cluster: clusterV1beta2,
			report: capi.Report{
				Objects: []capi.ObjectReport{converged(devID)},
				Machines: []capi.MachineReport{
					machine("cp-a", capi.RoleControlPlane, object.ID{}), machine("cp-b", capi.RoleControlPlane, object.ID{}),
					machine("w-a", capi.RoleWorker, coreID("MachineDeployment", "generated")),
					machine("other", capi.RoleWorker, object.ID{}, func(m *capi.MachineReport) { m.Cluster = "of another overlay" }),
				},
			},
			want: `
Cluster dev true
  control plane Machine cp-a,cp-b v1.36.0 true
  workers ?
    Machine w-a v1.36.0 true
Machine other v1.36.0 true
`,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			in := capi.ProgressInput{Live: treeLive(t, c.cluster)}
			for _, id := range c.absent {
				delete(in.Live, id)
			}
			for _, o := range c.report.Objects {
				in.Declared = append(in.Declared, capi.Declared{ID: o.ID, Leaving: o.ID == c.leaving})
			}
			got := outline(capi.Tree(in, c.report, c.unread))
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), got); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTreeLosesNothing counts: every object and every machine of a report is in its tree,
// once.
func TestTreeLosesNothing(t *testing.T) {
	in := capi.ProgressInput{Live: treeLive(t, clusterV1beta2)}
	var r capi.Report
	want := map[string]int{}
	for i := range 3 {
		for _, id := range []object.ID{
			capi.ClusterID("ns", fmt.Sprint("c", i)), groupID("infrastructure", "ProxmoxCluster", fmt.Sprint("c", i)),
			groupID("controlplane", "KubeadmControlPlane", fmt.Sprint("cp", i)), coreID("MachineDeployment", fmt.Sprint("md", i)),
			coreID("MachinePool", fmt.Sprint("mp", i)), coreID("MachineHealthCheck", fmt.Sprint("mhc", i)),
		} {
			r.Objects = append(r.Objects, capi.ObjectReport{ID: id, Phase: v1alpha1.PhaseProgressing})
			in.Declared = append(in.Declared, capi.Declared{ID: id})
			want[id.Kind+" "+id.Name]++
			for j := range 4 {
				m := machine(fmt.Sprint(id.Kind, "-", id.Name, "-", j), capi.RoleWorker, id, func(m *capi.MachineReport) { m.Ready = j%2 == 0 })
				r.Machines = append(r.Machines, m)
				want["Machine "+m.Name]++
			}
		}
	}
	got := map[string]int{}
	var count func([]capi.Node)
	count = func(nodes []capi.Node) {
		for _, n := range nodes {
			for _, name := range n.Names {
				got[n.Kind+" "+name]++
			}
			count(n.Children)
		}
	}
	count(capi.Tree(in, r, nil))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in the tree (-want +got):\n%s", diff)
	}
}
