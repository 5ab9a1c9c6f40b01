package dev

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

var recordTo = flag.String("record-progress", "",
	"folder to write the states of clusters to, from which the tests of internal/capi learn what progress looks like")

// A state is what progress is judged by: the objects of an overlay, and what was made for its Cluster.
type state struct {
	Now      string     `json:"now"`
	Declared []declared `json:"declared"`
	live     []*unstructured.Unstructured
	made     []*unstructured.Unstructured
}

type declared struct {
	Group      string `json:"group"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Generation int64  `json:"generation,omitempty"`
}

// of gives the live and made objects of a kind.
func (s state) of(kind string) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, u := range slices.Concat(s.live, s.made) {
		if u.GetKind() == kind {
			out = append(out, u)
		}
	}
	return out
}

// read reads the state. Cluster API's own kinds are read as that version of its API.
func (e *env) read(version string) (state, error) {
	s := state{Now: time.Now().UTC().Format(time.RFC3339)}
	for _, o := range e.objects {
		gvk := o.GroupVersionKind()
		if !strings.HasSuffix(gvk.Group, "cluster.x-k8s.io") || strings.HasSuffix(gvk.Kind, "Template") {
			continue
		}
		u, err := e.get(at(gvk, version), o.GetName())
		if err != nil {
			return state{}, err
		}
		s.live = append(s.live, u)
		s.Declared = append(s.Declared, declared{gvk.Group, gvk.Kind, u.GetNamespace(), u.GetName(), string(u.GetUID()), u.GetGeneration()})
	}
	for _, kind := range []string{"Machine", "MachineSet"} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(schema.GroupVersionKind{Group: clusterv1.GroupVersion.Group, Version: version, Kind: kind + "List"})
		if err := admin.List(e.ctx, list, client.InNamespace(e.namespace), client.HasLabels{clusterv1.ClusterNameLabel}); err != nil {
			return state{}, err
		}
		slices.SortFunc(list.Items, func(a, b unstructured.Unstructured) int { return cmp.Compare(a.GetName(), b.GetName()) })
		for i := range list.Items {
			s.made = append(s.made, &list.Items[i])
		}
	}
	for _, m := range s.of("Machine") {
		for _, path := range [][]string{{"spec", "infrastructureRef"}, {"spec", "bootstrap", "configRef"}} {
			ref, _, _ := unstructured.NestedStringMap(m.Object, path...)
			group := ref["apiGroup"]
			if group == "" {
				group, _, _ = strings.Cut(ref["apiVersion"], "/")
			}
			served := map[string]string{"ProxmoxMachine": "v1alpha2", "TalosConfig": "v1alpha3", "KubeadmConfig": version}[ref["kind"]]
			u, err := e.get(schema.GroupVersionKind{Group: group, Version: served, Kind: ref["kind"]}, ref["name"])
			if client.IgnoreNotFound(err) != nil {
				return state{}, err
			}
			if err == nil {
				s.made = append(s.made, u)
			}
		}
	}
	return s, nil
}

// at is a kind as it is read: Cluster API's own ones at that version.
func at(gvk schema.GroupVersionKind, version string) schema.GroupVersionKind {
	if gvk.Version == "v1beta2" && gvk.Group != "infrastructure.cluster.x-k8s.io" {
		gvk.Version = version
	}
	return gvk
}

func (e *env) get(gvk schema.GroupVersionKind, name string) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	return u, admin.Get(e.ctx, e.key(name), u)
}

// versions of everything in the state: two reads in a row with the same were of one moment.
func (s state) versions() string {
	var out strings.Builder
	for _, u := range slices.Concat(s.live, s.made) {
		fmt.Fprintln(&out, u.GetUID(), u.GetResourceVersion())
	}
	return out.String()
}

// record waits until the state is reached and has not changed for a while, and writes it down.
func (e *env) recordState(name, about string, reached func(s state) bool) {
	e.Helper()
	e.recordAt(name, about, "v1beta2", 2*time.Second, reached)
}

func (e *env) recordAt(name, about, version string, rest time.Duration, reached func(s state) bool) {
	e.Helper()
	var s state
	var since time.Time
	versions := ""
	e.Eventually(func() bool {
		now, err := e.read(version)
		if err != nil || !reached(now) {
			since, versions = time.Time{}, ""
			return false
		}
		if now.versions() != versions || since.IsZero() {
			since, versions = time.Now(), now.versions()
		}
		s = now
		return time.Since(since) >= rest
	}, 3*time.Minute).Should(gomega.BeTrue(), func() string { return name + "\n" + e.dump() })
	out := &strings.Builder{}
	fmt.Fprintf(out, "%s\nRecorded in the local management cluster.\n-- input.yaml --\n%s", about, text(e.T, s))
	for _, part := range []struct {
		name    string
		objects []*unstructured.Unstructured
	}{{"live.yaml", s.live}, {"made.yaml", s.made}} {
		fmt.Fprintf(out, "-- %s --\n", part.name)
		for i, u := range part.objects {
			if i > 0 {
				out.WriteString("---\n")
			}
			forPublic(u)
			out.WriteString(text(e.T, u.Object))
		}
	}
	if err := os.WriteFile(filepath.Join(*recordTo, name+".txtar"), []byte(out.String()), 0o600); err != nil {
		e.Fatal(err)
	}
	e.Logf("recorded %s", name)
}

func text(t *testing.T, value any) string {
	t.Helper()
	content, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// forPublic drops what nobody reads, and what would be a secret if the machines were real.
func forPublic(u *unstructured.Unstructured) {
	u.SetManagedFields(nil)
	u.SetSelfLink("")
	unstructured.RemoveNestedField(u.Object, "status", "deprecated")
	unstructured.RemoveNestedField(u.Object, "status", "talosConfig")
	u.SetFinalizers(nil)
	if version, ok, _ := unstructured.NestedString(u.Object, "status", "nodeInfo", "kubeletVersion"); ok {
		_ = unstructured.SetNestedMap(u.Object, map[string]any{"kubeletVersion": version}, "status", "nodeInfo")
	}
	if u.GetKind() == "KubeadmConfig" {
		unstructured.RemoveNestedField(u.Object, "spec", "joinConfiguration", "discovery")
	}
}

// cond reads the status, reason and message of a condition.
func cond(u *unstructured.Unstructured, kind string) (status, reason, message string) {
	for _, path := range [][]string{{"status", "v1beta2", "conditions"}, {"status", "conditions"}} {
		conditions, _, _ := unstructured.NestedSlice(u.Object, path...)
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == kind {
				status, _ = c["status"].(string)
				reason, _ = c["reason"].(string)
				message, _ = c["message"].(string)
				return status, reason, message
			}
		}
	}
	return "", "", ""
}

// machinesBooting counts machines whose virtual machine is there and gets no further.
func (s state) machinesBooting() int {
	n := 0
	for _, u := range s.of("ProxmoxMachine") {
		if status, reason, _ := cond(u, "VirtualMachineProvisioned"); status == "False" && strings.HasPrefix(reason, "WaitingFor") {
			n++
		}
	}
	return n
}

// available counts machines that are.
func (s state) available() int {
	n := 0
	for _, u := range s.of("Machine") {
		if status, _, _ := cond(u, "Available"); status == "True" {
			n++
		}
	}
	return n
}

func (s state) clusterAvailable() bool {
	for _, u := range s.of("Cluster") {
		if status, _, _ := cond(u, "Available"); status != "True" {
			return false
		}
	}
	return true
}

func (s state) deleting() int {
	n := 0
	for _, u := range s.of("Machine") {
		if _, reason, _ := cond(u, "Deleting"); u.GetDeletionTimestamp() != nil && strings.HasPrefix(reason, "WaitingFor") {
			n++
		}
	}
	return n
}

// says tells whether a condition of an object of a kind has such a message.
func (s state) says(kind, condition, message string) bool {
	for _, u := range s.of(kind) {
		if _, _, m := cond(u, condition); strings.Contains(m, message) {
			return true
		}
	}
	return false
}

// hold keeps Machines from going for good once they are deleted; free lets go.
const hold = clusterv1.PreTerminateDeleteHookAnnotationPrefix + "/hold"

func (e *env) hold(on bool) {
	e.Helper()
	for _, m := range e.machines() {
		before := m.DeepCopy()
		if on {
			m.SetAnnotations(map[string]string{hold: "test"})
			maps.Insert(m.Annotations, maps.All(before.Annotations))
		} else {
			delete(m.Annotations, hold)
		}
		e.Expect(client.IgnoreNotFound(admin.Patch(e.ctx, &m, client.MergeFrom(before)))).To(gomega.Succeed())
	}
}

func (e *env) settledWith(machines int) func(state) bool {
	return func(s state) bool {
		return len(s.of("Machine")) == machines && s.available() == machines && s.clusterAvailable()
	}
}

// TestRecordProgress drives clusters through their states and writes each down. It is run by hand:
//
//	go test -C dev -run TestRecordProgress -record-progress $PWD/internal/capi/testdata/progress
func TestRecordProgress(t *testing.T) {
	if *recordTo == "" {
		t.Skip("nowhere to write to: see -record-progress")
	}
	t.Run("talos", recordTalos)
	t.Run("addresses", recordAddresses)
	t.Run("kubeadm", recordKubeadm)
	t.Run("topology", recordTopology)
}

//nolint:funlen // one cluster's life, in order
func recordTalos(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "rec")
	e.objects = render(t, filepath.Join("..", "clusters", "dev"), "dev", "rec")
	e.createCredentials()
	all, workers := "never-boots="+e.namespace+"/*:all", "never-boots="+e.namespace+"/rec-workers*:all"
	e.setChaos(all)
	e.apply(e.objects...)
	e.recordState("talos-creating", "The first control-plane machine boots; nothing else can start before it.",
		func(s state) bool { return s.machinesBooting() >= 1 && len(s.of("Machine")) >= 1 })
	e.setChaos(workers)
	e.recordState("talos-workers-booting", "The control plane is up, the worker's virtual machine boots.",
		func(s state) bool { return s.available() == 1 && s.machinesBooting() == 1 })
	e.setChaos()
	e.recordState("talos-converged", "All is there.", e.settledWith(2))
	e.recordAt("talos-converged-v1beta1", "All is there, read as v1beta1.", "v1beta1", 0, e.settledWith(2))

	cluster, cp, md := e.object("Cluster", "-talos"), e.object("TalosControlPlane", "-cp"), e.object("MachineDeployment", "-workers")
	template := e.object("ProxmoxMachineTemplate", "-workers-v1").DeepCopy()
	template.SetName("rec-workers-v2")
	set(t, md, "rec-workers-v2", "spec", "template", "spec", "infrastructureRef", "name")
	e.setChaos(workers)
	e.apply(template, md)
	rolling := func(s state) bool {
		return len(s.of("Machine")) == 3 && s.machinesBooting() == 1 && len(s.of("MachineSet")) == 2
	}
	e.recordState("talos-workers-rolling", "A new template: the new worker boots beside the old one.", rolling)
	e.recordAt("talos-workers-rolling-v1beta1", "The same, read as v1beta1.", "v1beta1", 0, rolling)
	e.setChaos()
	e.recordState("talos-converged-after-rollout", "All is there; the MachineSet of before is left, without machines.", e.settledWith(2))

	set(t, md, int64(3), "spec", "replicas")
	e.setChaos(workers)
	e.apply(md)
	e.recordState("talos-scaling-up", "Two more workers boot.", func(s state) bool { return len(s.of("Machine")) == 4 && s.machinesBooting() == 2 })
	e.setChaos()
	e.Eventually(func() bool { s, err := e.read("v1beta2"); return err == nil && e.settledWith(4)(s) }).Should(gomega.BeTrue(), e.dump)
	e.hold(true)
	set(t, md, int64(2), "spec", "replicas")
	e.apply(md)
	e.recordState("talos-scaling-down", "One worker goes, and a hook holds its deletion.",
		func(s state) bool { return len(s.of("Machine")) == 4 && s.deleting() == 1 })
	e.hold(false)
	set(t, md, int64(1), "spec", "replicas")
	e.apply(md)
	e.Eventually(func() bool { s, err := e.read("v1beta2"); return err == nil && e.settledWith(2)(s) }).Should(gomega.BeTrue(), e.dump)

	set(t, md, "v1.36.0", "spec", "template", "spec", "version")
	e.apply(md)
	e.recordState("talos-workers-ahead", "The workers' version is ahead of the control plane's: Cluster API holds them.",
		func(s state) bool { return s.says("MachineSet", "ScalingUp", "blocked") })
	set(t, md, "v1.35.4", "spec", "template", "spec", "version")
	set(t, md, "rec-missing", "spec", "template", "spec", "infrastructureRef", "name")
	e.apply(md)
	e.recordState("talos-template-missing", "The workers' template does not exist.",
		func(s state) bool { return s.says("MachineDeployment", "ScalingUp", "not exist") })
	set(t, md, "rec-workers-v2", "spec", "template", "spec", "infrastructureRef", "name")
	e.apply(md)
	e.Eventually(func() bool { s, err := e.read("v1beta2"); return err == nil && e.settledWith(2)(s) }).Should(gomega.BeTrue(), e.dump)

	set(t, md, map[string]any{"type": "OnDelete"}, "spec", "rollout", "strategy")
	set(t, md, "rec-workers-v1", "spec", "template", "spec", "infrastructureRef", "name")
	e.apply(md)
	e.recordState("talos-workers-ondelete", "The worker is outdated and stays: strategy OnDelete.",
		func(s state) bool { return s.says("Machine", "UpToDate", "not up-to-date") })
	set(t, md, map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": int64(1), "maxUnavailable": int64(0)}}, "spec", "rollout", "strategy")
	set(t, md, "rec-workers-v2", "spec", "template", "spec", "infrastructureRef", "name")
	e.apply(md)
	e.Eventually(func() bool { s, err := e.read("v1beta2"); return err == nil && e.settledWith(2)(s) }).Should(gomega.BeTrue(), e.dump)

	set(t, cp, map[string]any{"type": "OnDelete"}, "spec", "rolloutStrategy")
	patches, _, _ := unstructured.NestedStringSlice(cp.Object, "spec", "controlPlaneConfig", "controlplane", "strategicPatches")
	patches[0] += "# only a comment\n"
	e.Expect(unstructured.SetNestedStringSlice(cp.Object, patches, "spec", "controlPlaneConfig", "controlplane", "strategicPatches")).To(gomega.Succeed())
	e.apply(cp)
	observed := func(s state) bool {
		u := s.of("TalosControlPlane")[0]
		n, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
		return n == u.GetGeneration()
	}
	e.recordState("talos-control-plane-ondelete", "The control-plane machine has another Talos configuration and stays: strategy OnDelete.", observed)
	set(t, cp, map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": int64(1)}}, "spec", "rolloutStrategy")
	e.setChaos(all)
	e.apply(cp)
	e.recordState("talos-control-plane-rolling", "A new control-plane machine boots beside the old one.",
		func(s state) bool { return len(s.of("Machine")) == 3 && s.machinesBooting() == 1 })
	e.setChaos()
	e.Eventually(func() bool { s, err := e.read("v1beta2"); return err == nil && e.settledWith(2)(s) }).Should(gomega.BeTrue(), e.dump)

	set(t, cluster, true, "spec", "paused")
	e.apply(cluster)
	set(t, md, int64(2), "spec", "replicas")
	e.apply(md)
	paused := func(kind string) func(state) bool {
		return func(s state) bool { status, _, _ := cond(s.of(kind)[0], "Paused"); return status == "True" }
	}
	e.recordState("talos-paused", "The Cluster is paused, and the workers are to be two.", paused("MachineDeployment"))
	set(t, cluster, false, "spec", "paused")
	e.apply(cluster)
	e.Eventually(func() bool { s, err := e.read("v1beta2"); return err == nil && e.settledWith(3)(s) }).Should(gomega.BeTrue(), e.dump)

	mhc := e.object("MachineHealthCheck", "-workers")
	set(t, mhc, []any{map[string]any{"type": "Ready", "status": "False", "timeoutSeconds": int64(1)}}, "spec", "checks", "unhealthyNodeConditions")
	set(t, mhc, "40%", "spec", "remediation", "triggerIf", "unhealthyLessThanOrEqualTo")
	e.apply(mhc)
	e.setChaos("node-unhealthy=" + e.namespace + "/" + e.worker().Name)
	e.recordState("talos-remediation-held", "A worker is unhealthy, and the health check may not replace so many.",
		func(s state) bool {
			status, _, _ := cond(s.of("MachineHealthCheck")[0], "RemediationAllowed")
			return status == "False" && s.available() == 2
		})
	e.hold(true)
	set(t, mhc, "100%", "spec", "remediation", "triggerIf", "unhealthyLessThanOrEqualTo")
	e.apply(mhc)
	e.recordState("talos-remediating", "The unhealthy worker is being replaced, and a hook holds its deletion.",
		func(s state) bool { return s.deleting() == 1 && s.available() >= 2 })
	e.setChaos()
	e.hold(false)
	e.Eventually(func() bool { s, err := e.read("v1beta2"); return err == nil && e.settledWith(3)(s) }).Should(gomega.BeTrue(), e.dump)

	e.hold(true)
	e.Expect(admin.Delete(e.ctx, e.cluster())).To(gomega.Succeed())
	e.recordState("talos-deleting", "The Cluster is being deleted, and a hook holds the machines.",
		func(s state) bool { return s.deleting() == 2 })
	e.hold(false)
}

// recordAddresses has one address for two machines.
func recordAddresses(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "few")
	e.objects = render(t, filepath.Join("..", "clusters", "dev"), "dev", "few")
	infra := e.object("ProxmoxCluster", "-talos")
	addresses, _, _ := unstructured.NestedStringSlice(infra.Object, "spec", "ipv4Config", "addresses")
	first, _, _ := strings.Cut(addresses[0], "-")
	e.Expect(unstructured.SetNestedStringSlice(infra.Object, []string{first}, "spec", "ipv4Config", "addresses")).To(gomega.Succeed())
	e.createCredentials()
	e.apply(e.objects...)
	e.recordState("talos-addresses-used-up", "The pool has one address for two machines.", func(s state) bool {
		waiting := 0
		for _, u := range s.of("ProxmoxMachine") {
			if _, reason, _ := cond(u, "VirtualMachineProvisioned"); reason == "WaitingForStaticIPAllocation" {
				waiting++
			}
		}
		return len(s.of("ProxmoxMachine")) == 2 && waiting == 1
	})
}

func recordKubeadm(t *testing.T) {
	t.Parallel()
	k := newKubeadmCluster(t, "kubeadm-rec", "3", "1")
	k.recordState("kubeadm-converged", "All is there.", k.settledWith(4))
	k.recordAt("kubeadm-converged-v1beta1", "All is there, read as v1beta1.", "v1beta1", 0, k.settledWith(4))
	k.setChaos("never-boots=" + k.namespace + "/*:all")
	k.Expect(k.change(func(s *controlplanev1.KubeadmControlPlaneSpec) { s.Version = "v1.35.1" })).To(gomega.Succeed())
	rolling := func(s state) bool { return len(s.of("Machine")) == 5 && s.machinesBooting() == 1 }
	k.recordState("kubeadm-rolling", "The control plane gets a new version, and its new machine boots.", rolling)
	k.recordAt("kubeadm-rolling-v1beta1", "The same, read as v1beta1.", "v1beta1", 0, rolling)
}

// recordTopology is a Cluster of a ClusterClass: what it is made of isn't declared.
func recordTopology(t *testing.T) {
	t.Parallel()
	k := newClusterOf(t, "topology.yaml", "topology-rec", "1", "1")
	k.recordState("topology-converged", "A ClusterClass and a Cluster of it: all is there.", k.settledWith(2))
	k.recordAt("topology-converged-v1beta1", "The same, read as v1beta1.", "v1beta1", 0, k.settledWith(2))

	topology := func(value any, path ...string) {
		t.Helper()
		cluster := k.object("Cluster", "")
		set(t, cluster, value, append([]string{"spec", "topology"}, path...)...)
		k.apply(cluster)
	}
	k.setChaos("never-boots=" + k.namespace + "/*:all")
	topology("v1.35.1", "version")
	k.recordState("topology-control-plane-rolling", "A new version: the new machine of the control plane boots, the worker waits its turn.",
		func(s state) bool { return len(s.of("Machine")) == 3 && s.machinesBooting() == 1 })
	k.setChaos("never-boots=" + k.namespace + "/*workers*:all")
	k.recordState("topology-workers-rolling", "The control plane is there at the new version, the new worker boots.", func(s state) bool {
		return len(s.of("Machine")) == 3 && s.machinesBooting() == 1 && len(s.of("MachineSet")) == 2
	})
	k.setChaos()
	k.recordState("topology-converged-after-rollout", "All is there at the new version.", k.settledWith(2))

	k.setChaos("never-boots=" + k.namespace + "/*workers*:all")
	topology([]any{map[string]any{"class": "worker", "name": "workers", "replicas": int64(2)}}, "workers", "machineDeployments")
	k.recordState("topology-scaling-up", "One more worker boots.", func(s state) bool { return len(s.of("Machine")) == 3 && s.machinesBooting() == 1 })
}
