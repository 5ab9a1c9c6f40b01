package capi

import (
	"fmt"
	"maps"
	"math/rand"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// The helpers below change objects of a fixture; paths are given with dots.

func path(dotted string) []string { return strings.Split(dotted, ".") }

func put(u *unstructured.Unstructured, dotted string, value any) {
	if err := unstructured.SetNestedField(u.Object, value, path(dotted)...); err != nil {
		panic(err)
	}
}

func drop(u *unstructured.Unstructured, dotted string) {
	unstructured.RemoveNestedField(u.Object, path(dotted)...)
}

func has(u *unstructured.Unstructured, dotted string) bool {
	_, found, _ := unstructured.NestedFieldNoCopy(u.Object, path(dotted)...)
	return found
}

// setCondition changes a condition of either style, wherever it is.
func setCondition(u *unstructured.Unstructured, kind, status, reason, message string) bool {
	found := false
	for _, at := range [][]string{{"status", "conditions"}, {"status", "v1beta2", "conditions"}} {
		value, _, _ := unstructured.NestedFieldNoCopy(u.Object, at...)
		list, _ := value.([]any)
		for _, c := range list {
			if m, ok := c.(map[string]any); ok && m["type"] == kind {
				m["status"], m["reason"], m["message"] = status, reason, message
				found = true
			}
		}
	}
	return found
}

func (f fixture) of(kinds ...string) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, u := range f.objects() {
		if slices.Contains(kinds, u.GetKind()) {
			out = append(out, u)
		}
	}
	return out
}

// A mutation changes one thing in an object of a state that has converged. It tells whether
// there was something to change.
type mutation struct {
	name  string
	kinds string
	apply func(f *fixture, u *unstructured.Unstructured) bool
}

// field is a mutation of one field, if the object has it.
func field(kinds, dotted string, value any) mutation {
	return mutation{fmt.Sprintf("%s = %v", dotted, value), kinds, func(_ *fixture, u *unstructured.Unstructured) bool {
		if !has(u, dotted) {
			return false
		}
		put(u, dotted, value)
		return true
	}}
}

// more adds to a counter, if the object has it.
func more(kinds, dotted string, n int64) mutation {
	return mutation{fmt.Sprintf("%s %+d", dotted, n), kinds, func(_ *fixture, u *unstructured.Unstructured) bool {
		is, known := count(u, path(dotted)...)
		if known {
			put(u, dotted, is+n)
		}
		return known
	}}
}

// not makes conditions False (True for those that are bad if they are).
func not(kinds string, conditions ...string) []mutation {
	var out []mutation
	for _, kind := range conditions {
		status := "False"
		if kind, bad := strings.CutPrefix(kind, "!"); bad {
			out = append(out, mutation{kind + " True", kinds, func(_ *fixture, u *unstructured.Unstructured) bool {
				return setCondition(u, kind, "True", kind, "")
			}})
			continue
		}
		out = append(out, mutation{kind + " " + status, kinds, func(_ *fixture, u *unstructured.Unstructured) bool {
			return setCondition(u, kind, status, "Test", "")
		}})
	}
	return out
}

func remove(f *fixture, u *unstructured.Unstructured) bool {
	if _, live := f.Live[object.IDOf(u)]; live {
		delete(f.Live, object.IDOf(u))
		return true
	}
	f.Made = slices.DeleteFunc(f.Made, func(m *unstructured.Unstructured) bool { return m == u })
	return true
}

func mutations() []mutation {
	const declared = "Cluster TalosControlPlane KubeadmControlPlane MachineDeployment ProxmoxCluster MachineHealthCheck ClusterResourceSet"
	const observing = "Cluster TalosControlPlane KubeadmControlPlane MachineDeployment MachineHealthCheck ClusterResourceSet Machine"
	const controlPlanes = "TalosControlPlane KubeadmControlPlane"
	always := func(name, kinds string, apply func(*unstructured.Unstructured)) mutation {
		return mutation{name, kinds, func(_ *fixture, u *unstructured.Unstructured) bool { apply(u); return true }}
	}
	// Of workers, the MachineSet tells what they were made from.
	ofControlPlane := func(u *unstructured.Unstructured) bool { return !strings.Contains(u.GetName(), "workers") }
	out := []mutation{
		{"removed", declared + " Machine", remove},
		{"removed", "MachineSet", func(f *fixture, u *unstructured.Unstructured) bool {
			return replicasOf(u) > 0 && remove(f, u)
		}},
		{"removed", "ProxmoxMachine TalosConfig", func(f *fixture, u *unstructured.Unstructured) bool {
			return ofControlPlane(u) && remove(f, u)
		}},
		{"one more", "Machine", func(f *fixture, u *unstructured.Unstructured) bool {
			stray := u.DeepCopy()
			stray.SetName("stray")
			f.Made = append(f.Made, stray)
			return true
		}},
		{"one of nobody", "Machine", func(f *fixture, u *unstructured.Unstructured) bool {
			stray := u.DeepCopy()
			stray.SetName("stray")
			stray.SetOwnerReferences(nil)
			f.Made = append(f.Made, stray)
			return true
		}},
		always("being deleted", declared+" Machine", func(u *unstructured.Unstructured) {
			put(u, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z")
		}),
		{"being deleted", "MachineSet", func(_ *fixture, u *unstructured.Unstructured) bool {
			used := replicasOf(u) > 0
			put(u, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z")
			return used
		}},
		always("paused", declared+" Machine", func(u *unstructured.Unstructured) {
			u.SetAnnotations(map[string]string{"cluster.x-k8s.io/paused": ""})
		}),
		always("edited", observing, func(u *unstructured.Unstructured) { u.SetGeneration(u.GetGeneration() + 1) }),
		{"an old view", declared, func(f *fixture, u *unstructured.Unstructured) bool {
			for i := range f.Declared {
				if f.Declared[i].ID == object.IDOf(u) {
					f.Declared[i].Generation++
				}
			}
			return true
		}},
		{"another object of the name", declared, func(_ *fixture, u *unstructured.Unstructured) bool { u.SetUID("other"); return true }},
		{"has left Git", declared, func(f *fixture, u *unstructured.Unstructured) bool {
			for i := range f.Declared {
				if f.Declared[i].ID == object.IDOf(u) {
					f.Declared[i].Leaving = true
				}
			}
			return true
		}},
		more(observing, "status.observedGeneration", -1),
		always("no status", declared+" Machine", func(u *unstructured.Unstructured) {
			if u.GetKind() == "MachineHealthCheck" {
				u.SetGeneration(100) // see judgeHealthCheck
				return
			}
			drop(u, "status")
		}),
		more(controlPlanes+" MachineDeployment", "spec.replicas", 1),
		more(controlPlanes+" MachineDeployment", "spec.replicas", -1),
		more(controlPlanes+" MachineDeployment MachineSet", "status.replicas", 1),
		more(controlPlanes+" MachineDeployment MachineSet", "status.readyReplicas", -1),
		more("MachineDeployment MachineSet", "status.availableReplicas", -1),
		more("MachineDeployment", "status.upToDateReplicas", -1),
		more("MachineDeployment", "status.updatedReplicas", -1),
		more("MachineSet", "spec.replicas", 1),
		more("Cluster", "status.workers.readyReplicas", -1),
		more("Cluster", "status.v1beta2.workers.readyReplicas", -1),
		field("Machine", "status.phase", "Provisioned"),
		field("Machine", "status.phase", "Failed"),
		field("Cluster", "status.phase", "Provisioning"),
		field("Cluster", "spec.controlPlaneRef.name", "other"),
		field("Machine", "spec.version", "v1.0.0"),
		field("MachineDeployment", "spec.template.spec.version", "v1.99.0"),
		field("MachineDeployment", "spec.template.spec.infrastructureRef.name", "other"),
		field("MachineDeployment", "spec.template.spec.bootstrap.configRef.name", "other"),
		field("MachineDeployment", "spec.template.spec.infrastructureRef.kind", "OtherMachineTemplate"),
		always("failure domain", "MachineDeployment", func(u *unstructured.Unstructured) {
			put(u, "spec.template.spec.failureDomain", "other")
		}),
		{"rollout after", "MachineDeployment", func(f *fixture, u *unstructured.Unstructured) bool {
			after := f.Now.Format(time.RFC3339) // all that was recorded is older
			if u.GroupVersionKind().Version == "v1beta1" {
				put(u, "spec.rolloutAfter", after)
			} else {
				put(u, "spec.rollout.after", after)
			}
			return true
		}},
		field(controlPlanes, "spec.version", "v1.99.0"),
		field("TalosControlPlane", "spec.infrastructureTemplate.name", "other"),
		field("TalosControlPlane", "spec.infrastructureTemplate.kind", "Other"),
		field("KubeadmControlPlane", "spec.machineTemplate.spec.infrastructureRef.name", "other"),
		field("KubeadmControlPlane", "spec.machineTemplate.infrastructureRef.name", "other"),
		field("TalosControlPlane", "spec.controlPlaneConfig.controlplane.talosVersion", "v1.99"),
		always("an empty list", "TalosControlPlane", func(u *unstructured.Unstructured) {
			put(u, "spec.controlPlaneConfig.controlplane.configPatches", []any{})
		}),
		{"talosVersion", "TalosConfig", func(_ *fixture, u *unstructured.Unstructured) bool {
			put(u, "spec.talosVersion", "v1.99")
			return ofControlPlane(u)
		}},
		{"cloned from another", "ProxmoxMachine", func(_ *fixture, u *unstructured.Unstructured) bool {
			annotations := u.GetAnnotations()
			annotations["cluster.x-k8s.io/cloned-from-name"] = "other"
			u.SetAnnotations(annotations)
			return ofControlPlane(u)
		}},
		{"no node", "Machine", func(_ *fixture, u *unstructured.Unstructured) bool { drop(u, "status.nodeRef"); return true }},
		field("ProxmoxCluster", "status.initialization.provisioned", false),
		field("Cluster", "status.initialization.controlPlaneInitialized", false),
		field("Cluster", "status.controlPlaneReady", false),
		field("TalosControlPlane", "status.ready", false),
		field("TalosControlPlane", "status.bootstrapped", false),
		field("TalosControlPlane", "status.version", "v1.0.0"),
		always("failed", "TalosControlPlane Machine", func(u *unstructured.Unstructured) {
			put(u, "status.failureReason", "UpdateError")
			if u.GetKind() == "Machine" {
				setCondition(u, "Ready", "False", "NotReady", "")
			}
		}),
	}
	out = slices.Concat(out,
		not("Machine", "Ready", "Available", "UpToDate"),
		not("Cluster", "Available", "!RollingOut", "!ScalingUp", "!ScalingDown", "!Remediating", "!Deleting"),
		not("MachineDeployment", "Available", "MachinesUpToDate", "!RollingOut", "!ScalingUp", "!ScalingDown", "!Remediating", "!Deleting"),
		not("KubeadmControlPlane", "Available", "EtcdClusterHealthy", "ControlPlaneComponentsHealthy", "CertificatesAvailable", "MachinesUpToDate", "!RollingOut"),
		not("TalosControlPlane", "Ready", "EtcdClusterHealthyCondition"),
		not("ProxmoxCluster", "Ready", "ProxmoxAvailable"),
		not("ClusterResourceSet", "ResourcesApplied"),
	)
	return out
}

// sums are the mutations of what is added up from others or looks at them, by kind. All others are more than trailing.
var sums = map[string][]string{
	"MachineDeployment": {
		"status.replicas +1", "status.readyReplicas -1", "status.availableReplicas -1", "status.upToDateReplicas -1", "status.updatedReplicas -1",
		"Available False", "MachinesUpToDate False", "RollingOut True", "ScalingUp True", "ScalingDown True", "Remediating True",
	},
	"Cluster": {
		"status.workers.readyReplicas -1", "status.v1beta2.workers.readyReplicas -1",
		"RollingOut True", "ScalingUp True", "ScalingDown True", "Remediating True",
	},
	"MachineSet":         {"status.replicas +1", "status.readyReplicas -1", "status.availableReplicas -1"},
	"MachineHealthCheck": {"edited", "status.observedGeneration -1", "no status"},
	"TalosControlPlane":  {"status.replicas +1", "status.readyReplicas -1", "status.version = v1.0.0"},
	"KubeadmControlPlane": {
		"status.replicas +1", "status.readyReplicas -1", "RollingOut True",
	},
}

// Nothing that has converged is anything but wrong in a single point and still converged.
func TestAnyMutationIsSeen(t *testing.T) {
	tried := map[string]int{}
	for _, f := range fixtures(t) {
		if !strings.Contains(f.name, "converged") {
			continue
		}
		for _, m := range mutations() {
			tried[m.name+" of "+m.kinds] += 0
			for i, u := range f.objects() {
				if !slices.Contains(strings.Fields(m.kinds), u.GetKind()) {
					continue
				}
				changed := f.clone()
				if !m.apply(&changed, changed.objects()[i]) {
					continue
				}
				if f.ofTopology() && m.name == "cloned from another" {
					continue // from what it should be isn't declared
				}
				tried[m.name+" of "+m.kinds]++
				r := Progress(changed.ProgressInput)
				// Of a topology there is nothing but the sum.
				if want := slices.Contains(sums[u.GetKind()], m.name) && !hasTopology(u); r.Trails != want {
					t.Errorf("%s: %s of %s %s: trails is %t: %q", f.name, m.name, u.GetKind(), u.GetName(), r.Trails, r.Message)
				}
				if r.Phase == v1alpha1.PhaseConverged || r.Message == "" {
					t.Errorf("%s: %s of %s %s: %s %q", f.name, m.name, u.GetKind(), u.GetName(), r.Phase, r.Message)
				}
				for _, u := range changed.objects() {
					Trim(u)
				}
				if trimmed := Progress(changed.ProgressInput); render(trimmed) != render(r) {
					t.Errorf("%s: %s of %s %s: trimmed it is %s", f.name, m.name, u.GetKind(), u.GetName(), render(trimmed))
				}
			}
		}
	}
	for name, n := range tried {
		if n == 0 {
			t.Errorf("nothing to change for %s", name)
		}
	}
}

// Caches of different kinds are of different moments: with any mixture of what was before,
// during and after a rollout, it is never called done while a Machine of before is seen.
func TestMixedViews(t *testing.T) {
	views := []fixture{
		fixtureNamed(t, "talos-converged-after-rollout"), fixtureNamed(t, "talos-workers-rolling"), fixtureNamed(t, "talos-converged"),
	}
	old := oldWorker(views[1])
	random := rand.New(rand.NewSource(2)) //nolint:gosec // the same each time
	converged, withOld := 0, 0
	for range 300 {
		mixed := views[0].clone()
		for id := range mixed.Live {
			if u := views[random.Intn(len(views))].Live[id]; u != nil {
				mixed.Live[id] = u
			}
		}
		mixed.Made = nil
		of := map[string]fixture{} // each cache is of one moment
		for _, kind := range []string{"Machine", "MachineSet", "ProxmoxMachine", "TalosConfig"} {
			of[kind] = views[random.Intn(len(views))]
			for _, u := range of[kind].Made {
				if u.GetKind() == kind {
					mixed.Made = append(mixed.Made, u)
				}
			}
		}
		r := Progress(mixed.ProgressInput)
		seen := slices.ContainsFunc(mixed.Made, func(u *unstructured.Unstructured) bool {
			return u.GetKind() == "Machine" && u.GetName() == old
		})
		if r.Phase == v1alpha1.PhaseConverged {
			converged++
		}
		if seen {
			withOld++
			if r.Phase == v1alpha1.PhaseConverged {
				t.Fatalf("converged with a Machine of before:\n%s", render(r))
			}
		}
	}
	if converged == 0 || withOld == 0 {
		t.Errorf("%d views have converged, %d have a Machine of before: nothing was tested", converged, withOld)
	}
}

func oldWorker(f fixture) string {
	for _, m := range Progress(f.ProgressInput).Machines {
		if m.Role == RoleWorker && !m.UpToDate {
			return m.Name
		}
	}
	return ""
}

// States that the local management cluster can't be driven into, each made from one that it
// was in and what the controllers' source writes.
func TestProgressAfterEdits(t *testing.T) {
	one := func(f *fixture, kind string) *unstructured.Unstructured { return f.of(kind)[0] }
	worker := func(f *fixture) *unstructured.Unstructured {
		for _, u := range f.of("Machine") {
			if strings.Contains(u.GetName(), "workers") {
				return u
			}
		}
		t.Fatal("no worker")
		return nil
	}
	for _, test := range []struct {
		name, fixture string
		edit          func(f *fixture)
		phase         v1alpha1.Phase
		message       string // a part of it
	}{
		{"a missing object", "talos-converged", func(f *fixture) { remove(f, one(f, "MachineDeployment")) },
			v1alpha1.PhaseProgressing, "MachineDeployment rec-workers is missing"},
		{"an old view", "talos-converged", func(f *fixture) { f.Declared[2].Generation += 5 },
			v1alpha1.PhaseProgressing, "has been applied, and is not seen yet"},
		{"an object that left Git", "talos-converged", func(f *fixture) { f.Declared[0].Leaving = true },
			v1alpha1.PhaseProgressing, "has left Git and is not pruned yet"},
		{"a ConfigMap that left Git", "talos-converged", func(f *fixture) {
			f.Declared = append(f.Declared, Declared{ID: object.ID{Kind: "ConfigMap", Namespace: "rec-talos", Name: "old"}, Leaving: true})
		}, v1alpha1.PhaseProgressing, "ConfigMap old has left Git and is not pruned yet"},
		// cluster-api v1.14 core/reconcilers/machine/drain/drain.go, ConditionMessage.
		{"a PodDisruptionBudget", "talos-scaling-down", func(f *fixture) {
			for _, u := range f.of("Machine") {
				if u.GetDeletionTimestamp() != nil {
					setCondition(u, "Deleting", "True", "DrainingNode", "Drain not completed yet (started at 2026-11-22T18:01:30Z):\n"+
						"* Pod default/web-0: cannot evict pod as it would violate the pod's disruption budget. "+
						"The disruption budget web needs 2 healthy pods and has 2 currently\n"+
						"After above Pods have been removed from the Node, the following Pods will be evicted: default/other")
				}
			}
		}, v1alpha1.PhaseProgressing, "being deleted: DrainingNode: Drain not completed yet: Pod default/web-0: cannot evict pod as it would " +
			"violate the pod's disruption budget. The disruption budget web needs 2 healthy pods and has 2 currently; After above"},
		{"a failed machine", "talos-scaling-up", func(f *fixture) {
			for _, u := range f.of("ProxmoxMachine") {
				put(u, "status.failureReason", "CreateError")
				put(u, "status.failureMessage", "no storage left")
			}
		}, v1alpha1.PhaseStalled, "failed: CreateError: no storage left"},
		{"replicas 0 of Talos", "talos-converged", func(f *fixture) { put(one(f, "TalosControlPlane"), "spec.replicas", int64(0)) },
			v1alpha1.PhaseStalled, "TalosControlPlane rec-cp: spec.replicas is 0, and its controller keeps the last machine"},
		{"no surge for the only machine", "talos-converged", func(f *fixture) {
			put(one(f, "TalosControlPlane"), "spec.version", "v1.36.0")
			put(one(f, "TalosControlPlane"), "spec.rolloutStrategy.rollingUpdate.maxSurge", int64(0))
		}, v1alpha1.PhaseStalled, "TalosControlPlane rec-cp can't replace its only machine: maxSurge is 0"},
		{"no template for Talos", "talos-converged", func(f *fixture) {
			put(one(f, "TalosControlPlane"), "spec.infrastructureTemplate.name", "rec-none")
			setCondition(one(f, "TalosControlPlane"), "MachinesCreated", "False", "InfrastructureTemplateCloningFailed",
				`proxmoxmachinetemplates.infrastructure.cluster.x-k8s.io "rec-none" not found`)
			for _, c := range one(f, "TalosControlPlane").Object["status"].(map[string]any)["conditions"].([]any) {
				c.(map[string]any)["severity"] = "Error"
			}
		}, v1alpha1.PhaseStalled, `TalosControlPlane rec-cp: MachinesCreated is InfrastructureTemplateCloningFailed: proxmox`},
		{"Talos has failed", "talos-converged", func(f *fixture) { put(one(f, "TalosControlPlane"), "status.failureMessage", "bad") },
			v1alpha1.PhaseStalled, "TalosControlPlane rec-cp has failed: bad"},
		{"minReadySeconds", "talos-converged", func(f *fixture) {
			setCondition(worker(f), "Available", "False", "WaitingForMinReadySeconds", "")
		}, v1alpha1.PhaseProgressing, "workers 0 of 1: WORKER: ready, waits for minReadySeconds"},
		{"no bootstrap data", "talos-workers-booting", func(f *fixture) {
			drop(worker(f), "spec.bootstrap.dataSecretName")
			for _, u := range f.of("TalosConfig") {
				setCondition(u, "DataSecretAvailable", "False", "DataSecretGenerationFailed", "bad patch")
			}
		}, v1alpha1.PhaseProgressing, "workers 0 of 1: WORKER: waits for bootstrap data: bad patch"},
		{"a v1alpha1 virtual machine", "talos-workers-booting", func(f *fixture) {
			for _, u := range f.of("ProxmoxMachine") {
				put(u, "status.conditions", []any{map[string]any{
					"type": "VMProvisioned", "status": "False", "severity": "Warning", "reason": "PoweringOnFailed", "message": "out of memory on pve1",
				}})
			}
		}, v1alpha1.PhaseProgressing, "VMProvisioned is PoweringOnFailed: out of memory on pve1"},
		{"a template that Git has", "talos-template-missing", func(f *fixture) {
			f.Declared = append(f.Declared, Declared{ID: object.ID{
				Group: "infrastructure.cluster.x-k8s.io", Kind: "ProxmoxMachineTemplate", Namespace: "rec-talos", Name: "rec-missing",
			}})
		}, v1alpha1.PhaseProgressing, "waits for its controller to see ProxmoxMachineTemplate rec-missing"},
		{"a rollout to come", "talos-converged", func(f *fixture) {
			put(one(f, "MachineDeployment"), "spec.rollout.after", f.Now.Add(time.Hour).Format(time.RFC3339))
		}, v1alpha1.PhaseConverged, ""},
		{"an unhealthy pool", "talos-converged", func(f *fixture) {
			pool := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool",
				"metadata": map[string]any{"name": "pool", "namespace": "rec-talos"},
				"status":   map[string]any{"ipAddresses": map[string]any{"total": int64(3), "outOfRange": int64(2)}},
			}}
			f.Live[object.IDOf(pool)] = pool
			f.Declared = append(f.Declared, Declared{ID: object.IDOf(pool)})
		}, v1alpha1.PhaseWaiting, "2 addresses in use are outside of the pool"},
		{"another provider's control plane", "kubeadm-converged", func(f *fixture) { rename(f, "KubeadmControlPlane", "KThreesControlPlane") },
			v1alpha1.PhaseConverged, ""},
		{"another provider's control plane, outdated", "kubeadm-converged", func(f *fixture) {
			rename(f, "KubeadmControlPlane", "KThreesControlPlane")
			put(one(f, "KThreesControlPlane"), "spec.version", "v1.99.0")
		}, v1alpha1.PhaseProgressing, "control plane 0 of 3: "},
		{"what others made is well", "talos-converged", func(f *fixture) { foreign(f) }, v1alpha1.PhaseConverged, ""},
		{"what others made is not well", "talos-converged", func(f *fixture) {
			setCondition(foreign(f), "Ready", "False", "NotReady", "* NodeHealthy: disk full")
		}, v1alpha1.PhaseProgressing, "workers 1 of 2: other-1: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := fixtureNamed(t, test.fixture)
			test.message = strings.ReplaceAll(test.message, "WORKER", worker(&f).GetName())
			test.edit(&f)
			r := Progress(f.ProgressInput)
			if r.Phase != test.phase || !strings.Contains(r.Message, test.message) || test.message == "" && r.Message != "" {
				t.Errorf("%s", render(r))
			}
			if regexp.MustCompile(`\d\d:\d\d`).MatchString(r.Message) {
				t.Errorf("a time is in the message: %s", r.Message)
			}
		})
	}
}

// What controllers add up is not waited for once everything in the sum is there; but only of what has been looked at.
func TestTrails(t *testing.T) {
	one := func(f *fixture, kind string) *unstructured.Unstructured { return f.of(kind)[0] }
	set := func(f *fixture, kind, condition, status string) {
		if !setCondition(one(f, kind), condition, status, "Test", "") {
			panic(kind + " has no " + condition)
		}
	}
	says := func(f *fixture, message string) {
		if !setCondition(one(f, "TalosControlPlane"), "ControlPlaneComponentsHealthy", "False", "ControlPlaneComponentsInspectionFailed", message) {
			panic("no condition")
		}
	}
	// behind is how a Cluster is before the controllers have seen that the last worker is there.
	behind := func(f *fixture) {
		put(one(f, "MachineDeployment"), "status.availableReplicas", int64(0))
		set(f, "MachineDeployment", "Available", "False")
		set(f, "MachineDeployment", "RollingOut", "True")
		set(f, "Cluster", "WorkersAvailable", "False")
		set(f, "Cluster", "Available", "False")
		set(f, "Cluster", "RollingOut", "True")
	}
	for name, test := range map[string]struct {
		fixture string
		edit    func(f *fixture)
		want    bool
	}{
		"nothing":               {"talos-converged", func(*fixture) {}, false},
		"a worker was the last": {"talos-converged", behind, true},
		"kubeadm":               {"kubeadm-converged", behind, true},
		"v1beta1": {"talos-converged-v1beta1", func(f *fixture) {
			behind(f)
			set(f, "Cluster", "ControlPlaneReady", "False")
			set(f, "Cluster", "Ready", "False")
		}, true},
		"a control plane was the last": {"talos-converged", func(f *fixture) {
			put(one(f, "Cluster"), "status.controlPlane.readyReplicas", int64(0))
			set(f, "Cluster", "ControlPlaneAvailable", "Unknown")
			set(f, "Cluster", "Available", "Unknown")
		}, true},
		"their MachineSet": {"talos-converged", func(f *fixture) {
			behind(f)
			put(one(f, "MachineSet"), "status.availableReplicas", int64(0))
		}, true},
		"a MachineSet that nobody has looked at": {"talos-converged", func(f *fixture) {
			behind(f)
			one(f, "MachineSet").SetGeneration(100)
		}, false},
		"a control plane's last machine has just gone": {"talos-converged", func(f *fixture) {
			put(one(f, "TalosControlPlane"), "status.replicas", int64(2))
			set(f, "TalosControlPlane", "Resized", "False")
			set(f, "TalosControlPlane", "Ready", "False")
		}, true},
		"a control plane has something to say of its own": {"talos-converged", func(f *fixture) {
			set(f, "TalosControlPlane", "Available", "False")
			set(f, "TalosControlPlane", "Resized", "False")
			set(f, "TalosControlPlane", "Ready", "False")
		}, false},
		"the machine that has gone could not be asked": {"talos-converged", func(f *fixture) {
			put(one(f, "TalosControlPlane"), "status.replicas", int64(2))
			says(f, `machine "rec-cp-gone": connection refused`)
		}, true},
		"a machine could not be asked": {"talos-converged", func(f *fixture) {
			put(one(f, "TalosControlPlane"), "status.replicas", int64(2))
			says(f, `machine "rec-cp-gone": connection refused, machine "`+one(f, "Machine").GetName()+`": connection refused`)
		}, false},
		"nothing could be asked": {"talos-converged", func(f *fixture) { says(f, "connection refused") }, false},
		"etcd": {"talos-converged", func(f *fixture) {
			behind(f)
			set(f, "TalosControlPlane", "EtcdClusterHealthyCondition", "False")
		}, false},
		"what only a KubeadmControlPlane knows": {"kubeadm-converged", func(f *fixture) {
			behind(f)
			put(one(f, "KubeadmControlPlane"), "status.upToDateReplicas", int64(0))
		}, false},
		"a machine is missing": {"talos-converged", func(f *fixture) {
			behind(f)
			remove(f, one(f, "Machine"))
		}, false},
		"an edit that nobody has looked at": {"talos-converged", func(f *fixture) {
			behind(f)
			one(f, "MachineDeployment").SetGeneration(100)
		}, false},
		"the infrastructure": {"talos-converged", func(f *fixture) {
			behind(f)
			set(f, "Cluster", "InfrastructureReady", "False")
		}, false},
		"out of reach": {"talos-converged", func(f *fixture) {
			behind(f)
			set(f, "Cluster", "RemoteConnectionProbe", "Unknown")
		}, false},
		"a gate of the Cluster's own": {"talos-converged", func(f *fixture) {
			behind(f)
			put(one(f, "Cluster"), "spec.availabilityGates", []any{map[string]any{"conditionType": "Paid"}})
		}, false},
		"something else than its parts": {"talos-converged", func(f *fixture) { set(f, "Cluster", "Available", "False") }, false},
		"workers that aren't declared": {"talos-converged", func(f *fixture) {
			behind(f)
			put(one(f, "Cluster"), "status.workers.desiredReplicas", int64(2))
		}, false},
		"a Cluster that doesn't count": {"talos-converged", func(f *fixture) {
			behind(f)
			drop(one(f, "Cluster"), "status.workers")
		}, false},
		"specifications of Machines that are looked at": {"talos-converged", specNotUpToDate, true},
		"specifications of Machines of somebody else's infrastructure": {"talos-converged", func(f *fixture) {
			specNotUpToDate(f)
			f.Made = slices.DeleteFunc(f.Made, func(u *unstructured.Unstructured) bool { return u.GetKind() == "ProxmoxMachine" })
			for _, u := range f.of("Machine") {
				put(u, "spec.infrastructureRef.apiGroup", "infrastructure.example.com")
			}
			put(one(f, "TalosControlPlane"), "spec.infrastructureTemplate.apiVersion", "infrastructure.example.com/v1")
		}, false},
		"a topology": {"kubeadm-converged", func(f *fixture) {
			topology(f, 0)
			set(f, "Cluster", "WorkersAvailable", "False")
			set(f, "Cluster", "Available", "False")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := fixtureNamed(t, test.fixture)
			best := Progress(f.ProgressInput).Score
			test.edit(&f)
			r := Progress(f.ProgressInput)
			if r.Trails != test.want || test.want && r.Phase == v1alpha1.PhaseConverged {
				t.Errorf("trails is %t\n%s", r.Trails, render(r))
			}
			if r.Trails && r.Score != best {
				t.Errorf("score %d, %d when it is through: one more status for nothing", r.Score, best)
			}
		})
	}
}

// specNotUpToDate has a TalosControlPlane say that its Machines are outdated.
func specNotUpToDate(f *fixture) {
	u := f.of("TalosControlPlane")[0]
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	put(u, "status.conditions", append(conditions, map[string]any{"type": "MachinesSpecUpToDate", "status": "False", "reason": "RollingUpdateInProgress"}))
}

// rename makes objects of another kind, and what refers to them.
func rename(f *fixture, from, to string) {
	for i := range f.Declared {
		if f.Declared[i].ID.Kind == from {
			f.Declared[i].ID.Kind = to
		}
	}
	for _, u := range f.objects() {
		if u.GetKind() == from {
			delete(f.Live, object.IDOf(u))
			u.SetKind(to)
			f.Live[object.IDOf(u)] = u
		}
		if u.GetKind() == "Cluster" {
			put(u, "spec.controlPlaneRef.kind", to)
		}
	}
}

// foreign adds a worker of a MachineDeployment that the overlay doesn't declare.
func foreign(f *fixture) *unstructured.Unstructured {
	var machine *unstructured.Unstructured
	for _, u := range f.of("Machine", "MachineSet") {
		if !strings.Contains(u.GetName(), "workers") {
			continue
		}
		other := u.DeepCopy()
		owners := other.GetOwnerReferences()
		if u.GetKind() == "Machine" {
			machine = other
			other.SetName("other-1")
			owners[0].Name = "other"
		} else {
			other.SetName("other")
			owners[0].Name = "other-deployment"
		}
		other.SetOwnerReferences(owners)
		f.Made = append(f.Made, other)
	}
	return machine
}

// The report is complete: the command line draws a tree from it.
func TestReportIsComplete(t *testing.T) {
	for _, f := range fixtures(t) {
		r := Progress(f.ProgressInput)
		declared := 0
		for _, d := range f.Declared {
			if MakesProgress(d.ID.GroupKind()) {
				declared++
			}
		}
		if len(r.Objects) != declared || len(r.Machines) != len(f.of("Machine")) {
			t.Errorf("%s: %d of %d objects, %d of %d machines", f.name, len(r.Objects), declared, len(r.Machines), len(f.of("Machine")))
		}
		for _, o := range r.Objects {
			if (o.Phase == v1alpha1.PhaseConverged) != (o.Message == "") {
				t.Errorf("%s: %s is %s and says %q", f.name, o.ID, o.Phase, o.Message)
			}
		}
		for _, m := range r.Machines {
			if m.Done() != (m.Message == "") || m.Ready == m.Since.IsZero() || (m.Owner == (object.ID{})) != f.ofTopology() {
				t.Errorf("%s: machine %+v", f.name, m)
			}
		}
		if r.Unversioned == "" {
			t.Errorf("%s: a ProxmoxCluster has no generation", f.name)
		}
	}
}

// Whatever objects look like, they are judged.
func FuzzProgress(f *testing.F) {
	for seed := range int64(20) {
		f.Add(seed)
	}
	all := fixtures(f)
	f.Fuzz(func(t *testing.T, seed int64) {
		random := rand.New(rand.NewSource(seed)) //nolint:gosec // repeatable
		chosen := all[random.Intn(len(all))].clone()
		for _, u := range chosen.objects() {
			id := object.IDOf(u)
			garble(random, u.Object, 0)
			u.Object["kind"], u.Object["apiVersion"] = id.Kind, id.Group+"/v1beta2"
		}
		r := Progress(chosen.ProgressInput)
		if len(r.Message) > maxMessage {
			t.Errorf("a message of %d bytes", len(r.Message))
		}
		for _, u := range chosen.objects() {
			Trim(u)
		}
		Progress(chosen.ProgressInput)
	})
}

// garble replaces values by others, now and then.
func garble(random *rand.Rand, m map[string]any, depth int) {
	values := []any{nil, "", "x", int64(-1), 1.5, true, []any{}, []any{nil, "a", map[string]any{}}, map[string]any{}, map[string]any{"name": int64(3)}, strings.Repeat("ä", 3000)}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if random.Intn(12) == 0 && depth > 0 {
			m[key] = values[random.Intn(len(values))]
			continue
		}
		switch v := m[key].(type) {
		case map[string]any:
			garble(random, v, depth+1)
		case []any:
			for i := range v {
				if inner, ok := v[i].(map[string]any); ok {
					garble(random, inner, depth+1)
				}
				if random.Intn(20) == 0 {
					v[i] = values[random.Intn(len(values))]
				}
			}
		}
	}
}
