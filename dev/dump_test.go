package dev

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// dumped are the kinds that tell where a cluster is stuck, in the order of what waits for what.
var dumped = []struct{ apiVersion, kind string }{
	{"cluster.x-k8s.io/v1beta2", "Cluster"},
	{"infrastructure.cluster.x-k8s.io/v1alpha2", "ProxmoxCluster"},
	{"controlplane.cluster.x-k8s.io/v1alpha3", "TalosControlPlane"},
	{"controlplane.cluster.x-k8s.io/v1beta2", "KubeadmControlPlane"},
	{"cluster.x-k8s.io/v1beta2", "MachineDeployment"},
	{"cluster.x-k8s.io/v1beta2", "MachineSet"},
	{"cluster.x-k8s.io/v1beta2", "Machine"},
	{"bootstrap.cluster.x-k8s.io/v1alpha3", "TalosConfig"},
	{"bootstrap.cluster.x-k8s.io/v1beta2", "KubeadmConfig"},
	{"infrastructure.cluster.x-k8s.io/v1alpha2", "ProxmoxMachine"},
	{"ipam.cluster.x-k8s.io/v1beta2", "IPAddressClaim"},
}

// dump says where everything of the cluster is: what a failed test leaves of it is gone with the process.
func (e *env) dump() string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 30*time.Second)
	defer cancel()
	out := &strings.Builder{}
	fmt.Fprintf(out, "namespace %s at %s:\n", e.namespace, time.Now().UTC().Format(time.RFC3339))
	for _, kind := range dumped {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion(kind.apiVersion)
		list.SetKind(kind.kind + "List")
		if err := admin.List(ctx, list, client.InNamespace(e.namespace)); err != nil {
			fmt.Fprintf(out, "%s: %v\n", kind.kind, err)
			continue
		}
		for i := range list.Items {
			dumpObject(out, &list.Items[i])
		}
	}
	for _, vm := range mgmt.datacenter.List() {
		if vm.Key.Namespace == e.namespace {
			fmt.Fprintf(out, "virtual machine %s of Machine %s, %s, hostname %q, addresses %q, proxmox://%s, problem %q\n",
				vm.Key.Name, vm.Machine, vm.Phase, vm.Hostname, vm.Addresses, vm.UUID, vm.Problem)
		}
	}
	workload := mgmt.cloud.Cluster(e.key(e.namespace))
	fmt.Fprintf(out, "its API server answers: %t\n", workload.Serving())
	nodes := &corev1.NodeList{}
	if err := workload.Client().List(ctx, nodes); err != nil {
		fmt.Fprintf(out, "Nodes: %v\n", err)
	}
	for _, node := range nodes.Items {
		fmt.Fprintf(out, "Node %s, provider id %q, created %s\n", node.Name, node.Spec.ProviderID, node.CreationTimestamp.UTC().Format(time.RFC3339))
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				fmt.Fprintf(out, "  %s %s (%s) %s\n", c.Status, c.Type, c.Reason, c.Message)
			}
		}
	}
	return out.String()
}

// dumpObject writes an object with its conditions, which are alike enough in all contracts.
func dumpObject(out *strings.Builder, o *unstructured.Unstructured) {
	fmt.Fprintf(out, "%s %s, created %s", o.GetKind(), o.GetName(), o.GetCreationTimestamp().UTC().Format(time.RFC3339))
	if t := o.GetDeletionTimestamp(); t != nil {
		fmt.Fprintf(out, ", being deleted since %s, finalizers %q", t.UTC().Format(time.RFC3339), o.GetFinalizers())
	}
	fmt.Fprintf(out, ", generation %d", o.GetGeneration())
	if observed, ok, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration"); ok {
		fmt.Fprintf(out, " (observed %d)", observed)
	}
	for _, path := range []string{"spec.providerID", "spec.bootstrap.dataSecretName", "status.nodeRef.name", "status.phase"} {
		if value, ok, _ := unstructured.NestedString(o.Object, strings.Split(path, ".")...); ok {
			fmt.Fprintf(out, ", %s %s", path, value)
		}
	}
	fmt.Fprintln(out)
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok {
			message, _ := c["message"].(string)
			fmt.Fprintf(out, "  %v %v since %v (%v) %s\n", c["status"], c["type"], c["lastTransitionTime"], c["reason"],
				strings.ReplaceAll(message, "\n", "\n    "))
		}
	}
}
