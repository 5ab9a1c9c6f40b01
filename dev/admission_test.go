package dev

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1" //nolint:staticcheck // served as long as Cluster API serves it
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var secretKind = schema.GroupVersionKind{Version: "v1", Kind: "Secret"}

// Objects can be written and read as v1beta1: conversion answers, and gives references the version of the
// provider's kind.
func TestConversion(t *testing.T) {
	e := newEnv(t, "convert")
	e.createCredentials()
	old := &clusterv1beta1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: e.namespace},
		Spec: clusterv1beta1.ClusterSpec{
			Paused: true,
			InfrastructureRef: &corev1.ObjectReference{
				APIVersion: "infrastructure.cluster.x-k8s.io/v1alpha2", Kind: "ProxmoxCluster", Name: "old",
			},
			ControlPlaneRef: &corev1.ObjectReference{
				APIVersion: "controlplane.cluster.x-k8s.io/v1alpha3", Kind: "TalosControlPlane", Name: "old",
			},
		},
	}
	e.Expect(admin.Create(e.ctx, old)).To(gomega.Succeed())
	now := &clusterv1.Cluster{}
	e.Expect(admin.Get(e.ctx, e.key("old"), now)).To(gomega.Succeed())
	e.Expect(now.Spec.InfrastructureRef.APIGroup).To(gomega.Equal("infrastructure.cluster.x-k8s.io"))
	back := &clusterv1beta1.Cluster{}
	e.Expect(admin.Get(e.ctx, e.key("old"), back)).To(gomega.Succeed())
	e.Expect(back.Spec.InfrastructureRef.APIVersion).To(gomega.Equal("infrastructure.cluster.x-k8s.io/v1alpha2"))
	e.Expect(back.Spec.ControlPlaneRef.APIVersion).To(gomega.Equal("controlplane.cluster.x-k8s.io/v1alpha3"))
}

// Admission fills in and refuses what the real webhooks do.
func TestAdmission(t *testing.T) {
	e := newEnv(t, "admit")
	e.createCredentials()
	objects := render(t, filepath.Join("..", "clusters", "dev"), "dev", "admit")
	e.objects = objects
	for name, tt := range map[string]struct {
		kind, suffix string
		path         []string
		value        any
		want         string // of the error
	}{
		"version that is none":          {"MachineDeployment", "-workers", []string{"spec", "template", "spec", "version"}, "latest", "must be a valid semantic version"},
		"selector without labels":       {"MachineDeployment", "-workers", []string{"spec", "selector", "matchLabels"}, map[string]any{"a": "b"}, "must match"},
		"health check of nobody":        {"MachineHealthCheck", "-workers", []string{"spec", "selector", "matchLabels"}, map[string]any{}, "selector"},
		"rollout strategy of TCP":       {"TalosControlPlane", "-cp", []string{"spec", "rolloutStrategy", "type"}, "Recreate", "valid values are"},
		"endpoint among the addresses":  {"ProxmoxCluster", "-talos", []string{"spec", "controlPlaneEndpoint", "host"}, "10.20.10.20", "10.20.10.20"},
		"provider id in a template":     {"ProxmoxMachineTemplate", "-cp-v1", []string{"spec", "template", "spec", "providerID"}, "proxmox://00000000-0000-0000-0000-000000000000", "providerID"},
		"memory that is no multiple":    {"ProxmoxMachineTemplate", "-cp-v1", []string{"spec", "template", "spec", "memoryMiB"}, int64(2047), "multiple"},
		"cluster network with bad CIDR": {"Cluster", "-talos", []string{"spec", "clusterNetwork", "pods", "cidrBlocks"}, []any{"10.0.0.0/99"}, "10.0.0.0/99"},
	} {
		t.Run(name, func(t *testing.T) {
			o := e.object(tt.kind, tt.suffix).DeepCopy()
			set(t, o, tt.value, tt.path...)
			err := e.tryApply(o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) && !apierrors.IsBadRequest(err) {
				t.Errorf("reason %s", apierrors.ReasonForError(err))
			}
		})
	}

	tcp := e.object("TalosControlPlane", "-cp").DeepCopy()
	for _, field := range []string{"replicas", "rolloutStrategy"} {
		unstructured.RemoveNestedField(tcp.Object, "spec", field)
	}
	e.apply(tcp)
	got := e.tcp()
	e.Expect(*got.Spec.Replicas).To(gomega.Equal(int32(1)))
	e.Expect(got.Spec.InfrastructureTemplate.Namespace).To(gomega.Equal(e.namespace))
	e.Expect(got.Spec.RolloutStrategy.RollingUpdate.MaxSurge.IntValue()).To(gomega.Equal(1))
}

// Controllers write with the field managers, finalizers and owners of the originals.
func TestWhoWrites(t *testing.T) {
	t.Parallel()
	e := sample(t, "dev", "writer")
	e.awaitAvailable()
	for _, tt := range []struct {
		kind, suffix string
		finalizers   []string
		owners       []string
		managers     []string
	}{
		{"Cluster", "-talos", []string{"cluster.cluster.x-k8s.io"}, nil, []string{"capstan", "manager"}},
		{"ProxmoxCluster", "-talos", []string{"proxmoxcluster.infrastructure.cluster.x-k8s.io"}, []string{"Cluster/writer-talos"}, []string{"capstan", "manager"}},
		{"TalosControlPlane", "-cp", []string{"talos.controlplane.cluster.x-k8s.io"}, []string{"Cluster/writer-talos"}, []string{"capstan", "manager"}},
		{"MachineDeployment", "-workers", []string{"cluster.x-k8s.io/machinedeployment"}, []string{"Cluster/writer-talos"}, []string{"capstan", "manager"}},
		{"ProxmoxMachineTemplate", "-cp-v1", nil, []string{"Cluster/writer-talos"}, []string{"capstan", "manager"}},
		{"TalosConfigTemplate", "-workers-v1", nil, []string{"Cluster/writer-talos"}, []string{"capstan", "manager"}},
	} {
		o := e.object(tt.kind, tt.suffix).DeepCopy()
		e.Expect(admin.Get(e.ctx, client.ObjectKeyFromObject(o), o)).To(gomega.Succeed())
		var owners, managers []string
		for _, owner := range o.GetOwnerReferences() {
			owners = append(owners, owner.Kind+"/"+owner.Name)
		}
		for _, m := range o.GetManagedFields() {
			if !slices.Contains(managers, m.Manager) {
				managers = append(managers, m.Manager)
			}
		}
		slices.Sort(managers)
		e.Expect(o.GetFinalizers()).To(gomega.Equal(tt.finalizers), "finalizers of %s", tt.kind)
		e.Expect(owners).To(gomega.Equal(tt.owners), "owners of %s", tt.kind)
		e.Expect(managers).To(gomega.Equal(tt.managers), "managers of %s", tt.kind)
	}
}

// kubectl works with the kubeconfig Secret of a cluster: its nodes, and what its ClusterResourceSet has
// created there.
func TestWorkloadKubeconfig(t *testing.T) {
	t.Parallel()
	kubectl := binary(t, "kubectl")
	e := sample(t, "dev", "kube")
	e.awaitAvailable()
	s := &corev1.Secret{}
	e.Expect(admin.Get(e.ctx, e.key(secret.Name(e.namespace, secret.Kubeconfig)), s)).To(gomega.Succeed())
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, s.Data[secret.KubeconfigDataName], 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		cmd := exec.Command(kubectl, append([]string{"--kubeconfig", path}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return err.Error() + ": " + string(out)
		}
		return string(out)
	}
	nodes := run("get", "nodes")
	for _, want := range []string{"STATUS", "kube-cp-v1-", "kube-workers-", "Ready", "control-plane", "v1.35.4"} {
		if !strings.Contains(nodes, want) {
			t.Errorf("kubectl get nodes has no %q:\n%s", want, nodes)
		}
	}
	e.Eventually(func() string { return run("get", "job", "-n", "kube-system", "cilium-install") }).Should(gomega.ContainSubstring("cilium-install"))
	// Nodes of workload clusters are none of the management cluster's.
	list := &corev1.NodeList{}
	e.Expect(admin.List(e.ctx, list)).To(gomega.Succeed())
	e.Expect(list.Items).To(gomega.BeEmpty())
}

func binary(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range binDirs() {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("no %s in %q: build it with `make envtest`", name, binDirs())
	return ""
}
