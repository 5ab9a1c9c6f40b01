package capi

import (
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// Clusters that are made otherwise than with TalosControlPlanes and KubeadmControlPlanes,
// each from one of those and from what the source of Cluster API and of the provider
// writes. What is well must be called so, or an overlay would be on its way for ever.
func TestProgressOfOtherProviders(t *testing.T) {
	cluster := func(f *fixture) *unstructured.Unstructured { return f.of("Cluster")[0] }
	for _, test := range []struct {
		name, fixture string
		edit          func(f *fixture)
		phase         v1alpha1.Phase
		message       string // a part of it
	}{
		{"a managed control plane with no more than the contract", "kubeadm-converged", func(f *fixture) {
			managed(f, map[string]any{}, map[string]any{"ready": true, "initialized": true})
		}, v1alpha1.PhaseConverged, ""},
		{"whose version the provider chooses", "kubeadm-converged", func(f *fixture) {
			managed(f, map[string]any{}, map[string]any{"ready": true, "initialized": true, "version": "v1.33.1"})
		}, v1alpha1.PhaseConverged, ""},
		{"of which a minor version is declared", "kubeadm-converged", func(f *fixture) {
			managed(f, map[string]any{"version": "v1.33"}, map[string]any{"ready": true, "initialized": true, "version": "v1.33.1-eks-931bdca"})
		}, v1alpha1.PhaseConverged, ""},
		{"of which another minor version is declared", "kubeadm-converged", func(f *fixture) {
			managed(f, map[string]any{"version": "v1.3"}, map[string]any{"ready": true, "initialized": true, "version": "v1.33.1"})
		}, v1alpha1.PhaseProgressing, "status.version is v1.33.1 instead of v1.3"},
		{"that has nodes of several versions", "kubeadm-converged", func(f *fixture) {
			managed(f, map[string]any{"version": "v1.33.1"}, map[string]any{
				"initialization": map[string]any{"controlPlaneInitialized": true}, "versions": []any{map[string]any{"version": "v1.32.9"}},
			})
		}, v1alpha1.PhaseProgressing, "has machines of version v1.32.9"},
		{"an address for a paused Cluster", "kubeadm-converged", func(f *fixture) {
			put(cluster(f), "spec.paused", true)
			claim := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "ipam.cluster.x-k8s.io/v1beta2", "kind": "IPAddressClaim",
				"metadata": map[string]any{"name": "address", "namespace": cluster(f).GetNamespace()},
				"spec":     map[string]any{"clusterName": cluster(f).GetName()},
			}}
			f.Live[object.IDOf(claim)] = claim
			f.Declared = append(f.Declared, Declared{ID: object.IDOf(claim)})
		}, v1alpha1.PhaseWaiting, "IPAddressClaim address: Waiting its Cluster is paused"},
		{"that is not ready", "kubeadm-converged", func(f *fixture) {
			managed(f, map[string]any{}, map[string]any{"ready": false, "initialized": true})
		}, v1alpha1.PhaseProgressing, "status.ready is not true yet"},
		{"a control plane of pods", "kubeadm-converged", func(f *fixture) {
			managed(f, map[string]any{"version": "v1.33.1", "replicas": int64(2)}, map[string]any{
				"ready": true, "initialized": true, "version": "v1.33.1", "replicas": int64(2), "readyReplicas": int64(2),
			})
		}, v1alpha1.PhaseConverged, ""},
		{"a control plane of too few pods", "kubeadm-converged", func(f *fixture) {
			managed(f, map[string]any{"version": "v1.33.1", "replicas": int64(2)}, map[string]any{
				"ready": true, "initialized": true, "version": "v1.33.1", "replicas": int64(2), "readyReplicas": int64(1),
			})
		}, v1alpha1.PhaseProgressing, "status.readyReplicas is 1 of 2"},
		{"a control plane without its machines", "kubeadm-converged", func(f *fixture) {
			managed(f, map[string]any{
				"version": "v1.33.1", "replicas": int64(1),
				"infrastructureRef": map[string]any{"apiVersion": "infrastructure.cluster.x-k8s.io/v1beta1", "kind": "DockerMachineTemplate", "name": "cp"},
			}, map[string]any{
				"ready": true, "initialized": true, "replicas": int64(1), "readyReplicas": int64(1),
			})
		}, v1alpha1.PhaseProgressing, "control plane 0 of 1, 1 not made yet"},
		// What a provider leaves out when it is 0 says nothing: updatedReplicas of an
		// RKE2ControlPlane none of whose machines is as declared any more.
		{"machines that are outdated by their provider's words", "kubeadm-converged", func(f *fixture) {
			rename(f, "KubeadmControlPlane", "RKE2ControlPlane")
			u := f.of("RKE2ControlPlane")[0]
			drop(u, "status.upToDateReplicas")
			put(u, "status.conditions", []any{map[string]any{"type": "MachinesSpecUpToDate", "status": "False", "reason": "RollingUpdateInProgress"}})
		}, v1alpha1.PhaseProgressing, "MachinesSpecUpToDate is RollingUpdateInProgress"},
		// Infrastructure of a group that is nobody's here is not looked at.
		{"infrastructure of another family", "kubeadm-converged", func(f *fixture) {
			f.Made = slices.DeleteFunc(f.Made, func(u *unstructured.Unstructured) bool {
				return u.GetKind() == "DockerMachine" || u.GetKind() == "ProxmoxMachine"
			})
			for _, u := range f.of("Machine", "KubeadmControlPlane") {
				for _, at := range []string{"spec.infrastructureRef.apiGroup", "spec.machineTemplate.spec.infrastructureRef.apiGroup"} {
					if has(u, at) {
						put(u, at, "infrastructure.example.com")
					}
				}
			}
		}, v1alpha1.PhaseConverged, ""},

		// Cluster API 1.14 sets neither initialization.controlPlaneInitialized nor a known
		// Available for a Cluster that names no control plane.
		{"a control plane elsewhere", "kubeadm-converged", elsewhere, v1alpha1.PhaseConverged, ""},
		{"a control plane elsewhere, v1beta1", "kubeadm-converged-v1beta1", elsewhere, v1alpha1.PhaseConverged, ""},
		{"a control plane elsewhere, and something is wrong", "kubeadm-converged", func(f *fixture) {
			elsewhere(f)
			setCondition(cluster(f), "Available", "False", "NotAvailable", "WorkersAvailable: no")
		}, v1alpha1.PhaseProgressing, "WorkersAvailable: no"},
		{"no infrastructure of its own", "kubeadm-converged", func(f *fixture) {
			drop(cluster(f), "spec.infrastructureRef")
			setCondition(cluster(f), "Available", "Unknown", "AvailableUnknown", "* InfrastructureReady: Please check controller logs for errors")
		}, v1alpha1.PhaseConverged, ""},

		// A Machine of no MachineDeployment is never said to be up to date.
		{"a worker of its own", "kubeadm-converged", func(f *fixture) {
			lone := ownWorker(f)
			f.Live[object.IDOf(lone)] = lone
			f.Declared = append(f.Declared, Declared{ID: object.IDOf(lone)})
			for _, counter := range []string{"desiredReplicas", "replicas", "readyReplicas", "availableReplicas"} {
				n, _ := count(cluster(f), "status", "workers", counter)
				put(cluster(f), "status.workers."+counter, n+1)
			}
		}, v1alpha1.PhaseConverged, ""},

		{"a topology", "kubeadm-converged", func(f *fixture) { topology(f, 0) }, v1alpha1.PhaseConverged, ""},
		{"a topology that lacks a machine", "kubeadm-converged", func(f *fixture) {
			topology(f, 0)
			for _, u := range f.of("Machine") {
				if _, controlPlane := u.GetLabels()["cluster.x-k8s.io/control-plane"]; controlPlane {
					remove(f, u)
					return
				}
			}
		}, v1alpha1.PhaseProgressing, "control plane 2 of 3, 1 not made yet"},
		{"a topology that was not looked at since", "kubeadm-converged", func(f *fixture) { topology(f, -1) },
			v1alpha1.PhaseProgressing, "waits for its topology to be reconciled"},
		{"a topology of another version than its machines", "kubeadm-converged", func(f *fixture) {
			topology(f, 0)
			put(cluster(f), "spec.topology.version", "v1.99.0")
		}, v1alpha1.PhaseProgressing, "instead of v1.99.0"},

		{"a topology that asks for another worker", "topology-converged", func(f *fixture) {
			put(cluster(f), "spec.topology.workers.machineDeployments", []any{map[string]any{"class": "worker", "name": "workers", "replicas": int64(2)}})
		}, v1alpha1.PhaseProgressing, "waits for its topology to be reconciled: 1 of 2 machines are wanted (worker)"},
		{"a topology that asks for more of a control plane", "topology-converged", func(f *fixture) {
			put(cluster(f), "spec.topology.controlPlane.replicas", int64(3))
		}, v1alpha1.PhaseProgressing, "waits for its topology to be reconciled: 1 of 3 machines are wanted (control plane)"},
		{"a topology that leaves its workers to an autoscaler", "topology-converged", func(f *fixture) {
			put(cluster(f), "spec.topology.workers.machineDeployments", []any{map[string]any{"class": "worker", "name": "workers"}})
		}, v1alpha1.PhaseConverged, ""},
		{"a topology whose only control plane is gone", "topology-converged", func(f *fixture) {
			for _, u := range f.of("Machine") {
				if _, controlPlane := u.GetLabels()["cluster.x-k8s.io/control-plane"]; controlPlane {
					remove(f, u)
				}
			}
		}, v1alpha1.PhaseProgressing, "control plane 0 of 1, 1 not made yet"},
		{"a topology with pools", "topology-converged", func(f *fixture) {
			put(cluster(f), "spec.topology.workers.machinePools", []any{map[string]any{"class": "pool", "name": "pool", "replicas": int64(2)}})
			for _, counter := range []string{"desiredReplicas", "replicas", "readyReplicas", "availableReplicas", "upToDateReplicas"} {
				put(cluster(f), "status.workers."+counter, int64(3))
			}
		}, v1alpha1.PhaseConverged, ""},

		{"a topology beside somebody's MachineDeployment", "topology-converged", func(f *fixture) {
			for _, u := range f.of("Machine", "MachineSet") {
				if !strings.Contains(u.GetName(), "workers") {
					continue
				}
				other := u.DeepCopy()
				other.SetName("other-" + u.GetName())
				labels := other.GetLabels()
				delete(labels, "topology.cluster.x-k8s.io/owned")
				other.SetLabels(labels)
				owners := other.GetOwnerReferences()
				owners[0].Name = "other-" + owners[0].Name
				other.SetOwnerReferences(owners)
				f.Made = append(f.Made, other)
			}
			for _, counter := range []string{"desiredReplicas", "replicas", "readyReplicas", "availableReplicas", "upToDateReplicas"} {
				put(cluster(f), "status.workers."+counter, int64(2))
			}
		}, v1alpha1.PhaseConverged, ""},

		{"a pool of a managed provider", "kubeadm-converged", func(f *fixture) { pool(f, "v1.33.1", "v1.33.1-eks-931bdca") }, v1alpha1.PhaseConverged, ""},
		{"a pool of the version before", "kubeadm-converged", func(f *fixture) { pool(f, "v1.33.1", "v1.33.0-eks-931bdca") },
			v1alpha1.PhaseProgressing, "has machines of version v1.33.0-eks-931bdca"},
		// Cluster API sets UpToDate on no Machine of a pool, and counts those that have it.
		{"a pool of Machines", "kubeadm-converged", func(f *fixture) { poolOfMachines(f, "v1.33.1+k3s1") }, v1alpha1.PhaseConverged, ""},
		{"a pool of Machines of the version before", "kubeadm-converged", func(f *fixture) {
			poolOfMachines(f, "v1.33.0")
			drop(f.of("MachinePool")[0], "status.versions") // before Cluster API 1.14
		}, v1alpha1.PhaseProgressing, "pool-1: outdated: version v1.33.0 instead of v1.33.1"},
		{"a pool that lacks a Machine", "kubeadm-converged", func(f *fixture) {
			remove(f, poolOfMachines(f, "v1.33.1"))
		}, v1alpha1.PhaseProgressing, "1 of 2 machines"},
		{"a pool one of whose Machines is on its way", "kubeadm-converged", func(f *fixture) {
			u := poolOfMachines(f, "")
			put(u, "status.phase", "Provisioning")
			drop(u, "status.nodeRef")
			setCondition(u, "InfrastructureReady", "False", "NotReady", "DockerMachine is cloning")
		}, v1alpha1.PhaseProgressing, "pool-1: DockerMachine is cloning"},
		{"a pool whose provider says which Machines are up to date", "kubeadm-converged", func(f *fixture) {
			poolOfMachines(f, "v1.33.1")
			for _, u := range f.of("Machine") {
				if strings.HasPrefix(u.GetName(), "pool-") {
					conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
					put(u, "status.conditions", append(conditions, map[string]any{"type": "UpToDate", "status": "True", "reason": "UpToDate"}))
				}
			}
		}, v1alpha1.PhaseProgressing, "status.upToDateReplicas is 0 of 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := fixtureNamed(t, test.fixture)
			test.edit(&f)
			r := Progress(f.ProgressInput)
			if r.Phase != test.phase || !strings.Contains(render(r), test.message) || test.message == "" && r.Message != "" {
				t.Errorf("%s", render(r))
			}
			for _, u := range f.objects() {
				Trim(u)
			}
			if diff := gocmp.Diff(r, Progress(f.ProgressInput)); diff != "" {
				t.Errorf("trimmed: %s", diff)
			}
		})
	}
}

// managed replaces the control plane and its machines by one that has none.
func managed(f *fixture, spec, status map[string]any) {
	rename(f, "KubeadmControlPlane", "AWSManagedControlPlane")
	u := f.of("AWSManagedControlPlane")[0]
	u.Object["spec"], u.Object["status"] = spec, status
	withoutControlPlaneMachines(f)
	drop(f.of("Cluster")[0], "status.controlPlane")
}

func withoutControlPlaneMachines(f *fixture) {
	f.Made = slices.DeleteFunc(f.Made, func(u *unstructured.Unstructured) bool {
		_, is := u.GetLabels()["cluster.x-k8s.io/control-plane"]
		return is
	})
}

// elsewhere makes a Cluster whose control plane is nobody's here.
func elsewhere(f *fixture) {
	remove(f, f.of("KubeadmControlPlane")[0])
	f.Declared = slices.DeleteFunc(f.Declared, func(d Declared) bool { return d.ID.Kind == "KubeadmControlPlane" })
	withoutControlPlaneMachines(f)
	u := f.of("Cluster")[0]
	drop(u, "spec.controlPlaneRef")
	for _, at := range []string{"status.controlPlane", "status.v1beta2.controlPlane", "status.initialization.controlPlaneInitialized"} {
		drop(u, at)
	}
	if has(u, "status.controlPlaneReady") {
		put(u, "status.controlPlaneReady", false)
	}
	setCondition(u, "Available", "Unknown", "AvailableUnknown", "* ControlPlaneAvailable: Please check controller logs for errors")
}

// ownWorker makes a Machine that belongs to its Cluster alone.
func ownWorker(f *fixture) *unstructured.Unstructured {
	for _, u := range f.of("Machine") {
		if _, controlPlane := u.GetLabels()["cluster.x-k8s.io/control-plane"]; controlPlane {
			continue
		}
		lone := u.DeepCopy()
		lone.SetName("lone")
		lone.SetOwnerReferences(nil)
		lone.SetLabels(map[string]string{ClusterLabel: u.GetLabels()[ClusterLabel]})
		conditions, _, _ := unstructured.NestedSlice(lone.Object, "status", "conditions")
		put(lone, "status.conditions", slices.DeleteFunc(conditions, func(c any) bool { return text(c.(map[string]any), "type") == "UpToDate" }))
		return lone
	}
	panic("no worker")
}

// topology makes a Cluster of a ClusterClass, of whose topology a controller has seen a
// generation so much older; what it makes is not declared.
func topology(f *fixture, behind int64) {
	u := f.of("Cluster")[0]
	version := nested(f.of("KubeadmControlPlane")[0], "spec", "version")
	f.Declared = slices.DeleteFunc(f.Declared, func(d Declared) bool {
		made := slices.Contains([]string{"KubeadmControlPlane", "MachineDeployment"}, d.ID.Kind)
		if made {
			delete(f.Live, d.ID)
		}
		return made
	})
	put(u, "spec.topology", map[string]any{"classRef": map[string]any{"name": "class"}, "version": version})
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	put(u, "status.conditions", append(conditions, map[string]any{
		"type": "TopologyReconciled", "status": "True", "reason": "ReconcileSucceeded", "observedGeneration": u.GetGeneration() + behind,
	}))
	for _, m := range f.of("Machine") {
		labels := m.GetLabels()
		labels["topology.cluster.x-k8s.io/owned"] = ""
		m.SetLabels(labels)
	}
}

// pool adds a MachinePool without Machines, whose nodes are of a version.
func pool(f *fixture, declared, is string) {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachinePool",
		"metadata": map[string]any{"name": "pool", "namespace": f.of("Cluster")[0].GetNamespace(), "generation": int64(1)},
		"spec": map[string]any{
			"clusterName": f.of("Cluster")[0].GetName(), "replicas": int64(2),
			"template": map[string]any{"spec": map[string]any{"version": declared}},
		},
		"status": map[string]any{
			"phase": "Running", "observedGeneration": int64(1),
			"initialization": map[string]any{"bootstrapDataSecretCreated": true, "infrastructureProvisioned": true},
			"replicas":       int64(2), "readyReplicas": int64(2), "availableReplicas": int64(2), "upToDateReplicas": int64(2),
			"versions": []any{map[string]any{"version": is, "replicas": int64(2)}},
		},
	}}
	f.Live[object.IDOf(u)] = u
	f.Declared = append(f.Declared, Declared{ID: object.IDOf(u)})
}

// poolOfMachines adds a MachinePool with Machines, and returns the one that is of a version.
func poolOfMachines(f *fixture, version string) *unstructured.Unstructured {
	pool(f, "v1.33.1", "v1.33.1")
	put(f.of("MachinePool")[0], "status.upToDateReplicas", int64(0))
	var last *unstructured.Unstructured
	for name, is := range map[string]string{"pool-0": "v1.33.1", "pool-1": version} {
		u := ownWorker(f)
		u.SetName(name)
		u.SetOwnerReferences([]metav1.OwnerReference{{
			APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "MachinePool", Name: "pool", Controller: ptr.To(true),
		}})
		put(u, "spec.version", is)
		put(u, "spec.bootstrap", map[string]any{"dataSecretName": ""})
		drop(u, "spec.infrastructureRef")
		f.Made = append(f.Made, u)
		if name == "pool-1" {
			last = u
		}
	}
	return last
}

// A status that doesn't say which generation it is of is not believed at once.
func TestUnversioned(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(f *fixture)
		want bool
	}{
		"all say so": {func(*fixture) {}, false},
		"a managed control plane that doesn't": {func(f *fixture) {
			managed(f, map[string]any{}, map[string]any{"ready": true, "initialized": true})
		}, true},
		"one that does": {func(f *fixture) {
			managed(f, map[string]any{}, map[string]any{"ready": true, "initialized": true, "observedGeneration": int64(1)})
		}, false},
		"what a topology makes": {func(f *fixture) { topology(f, 0) }, true},
	} {
		f := fixtureNamed(t, "kubeadm-converged")
		f.Declared = slices.DeleteFunc(f.Declared, func(d Declared) bool { return IsInfraCluster(d.ID.GroupKind()) })
		test.edit(&f)
		if got := Progress(f.ProgressInput).Unversioned; (got != "") != test.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// What a ClusterClass says now reaches the Clusters beside it later, and nothing tells when.
func TestSettles(t *testing.T) {
	class := Declared{ID: object.ID{Group: family, Kind: "ClusterClass", Namespace: "default", Name: "c"}}
	for name, test := range map[string]struct {
		edit func(f *fixture)
		want bool
	}{
		"no class":                        {func(*fixture) {}, false},
		"a topology of a class elsewhere": {func(f *fixture) { topology(f, 0) }, false},
		"a class of other Clusters":       {func(f *fixture) { f.Declared = append(f.Declared, class) }, false},
		"both":                            {func(f *fixture) { topology(f, 0); f.Declared = append(f.Declared, class) }, true},
	} {
		f := fixtureNamed(t, "kubeadm-converged")
		test.edit(&f)
		if got := Progress(f.ProgressInput).Settles; (got > 0) != test.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
