package dev

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// set changes fields of a rendered object, and of none that is live.
func set(t *testing.T, o *unstructured.Unstructured, value any, path ...string) {
	t.Helper()
	if err := unstructured.SetNestedField(o.Object, value, path...); err != nil {
		t.Fatal(err)
	}
}

func (e *env) tcp() *api.TalosControlPlane {
	e.Helper()
	tcp := &api.TalosControlPlane{}
	if err := admin.Get(e.ctx, e.key(e.name+"-cp"), tcp); err != nil {
		e.Fatal(err)
	}
	return tcp
}

// counts are control-plane machines and workers by version, without those being deleted.
func counts(machines []clusterv1.Machine) map[string]int {
	out := map[string]int{}
	for _, m := range machines {
		out[role(m)+" "+m.Spec.Version]++
	}
	return out
}

func role(m clusterv1.Machine) string {
	if _, ok := m.Labels[clusterv1.MachineControlPlaneLabel]; ok {
		return "cp"
	}
	return "worker"
}

// workloadClient connects with the cluster's own kubeconfig Secret.
func (e *env) workloadClient() client.Client {
	e.Helper()
	s := &corev1.Secret{}
	if err := admin.Get(e.ctx, e.key(secret.Name(e.namespace, secret.Kubeconfig)), s); err != nil {
		e.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(s.Data[secret.KubeconfigDataName])
	if err != nil {
		e.Fatal(err)
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		e.Fatal(err)
	}
	return c
}

// nodeVersions counts the nodes of the workload cluster by the version of their kubelets.
func (e *env) nodeVersions() map[string]int {
	nodes := &corev1.NodeList{}
	if err := e.workloadClient().List(e.ctx, nodes); err != nil {
		return map[string]int{err.Error(): 1}
	}
	out := map[string]int{}
	for _, n := range nodes.Items {
		out[n.Status.NodeInfo.KubeletVersion]++
	}
	return out
}

// record watches the Machines of the cluster and calls check with all of them after every event, until
// the returned function is called, which gives what check complained about.
func (e *env) record(check func(machines map[string]clusterv1.Machine) string) (stop func() []string) {
	e.Helper()
	watching, err := client.NewWithWatch(mgmt.RESTConfig(), client.Options{Scheme: admin.Scheme()})
	if err != nil {
		e.Fatal(err)
	}
	list := &clusterv1.MachineList{}
	w, err := watching.Watch(e.ctx, list, client.InNamespace(e.namespace))
	if err != nil {
		e.Fatal(err)
	}
	var complaints []string
	var stopped atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		machines := map[string]clusterv1.Machine{}
		for event := range w.ResultChan() {
			m, ok := event.Object.(*clusterv1.Machine)
			if !ok && stopped.Load() {
				return // the stop tore it off
			}
			if !ok {
				complaints = append(complaints, fmt.Sprintf("the watch ended: %v", event.Object))
				return
			}
			if event.Type == watch.Deleted {
				delete(machines, m.Name)
			} else {
				machines[m.Name] = *m
			}
			if c := check(machines); c != "" && !slices.Contains(complaints, c) {
				complaints = append(complaints, c)
			}
		}
		if !stopped.Load() {
			complaints = append(complaints, "the watch ended too early")
		}
	})
	return func() []string {
		stopped.Store(true)
		w.Stop()
		done.Wait()
		return complaints
	}
}

// A version bump of control plane and workers in one commit: the control plane rolls first, one machine at a
// time, and the workers wait for it.
func TestVersionBump(t *testing.T) {
	t.Parallel()
	e := sample(t, "staging", "bump")
	e.awaitAvailable()
	before := slices.Sorted(maps.Keys(names(e.machines())))
	stop := e.record(func(machines map[string]clusterv1.Machine) string {
		n := counts(slices.Collect(maps.Values(machines)))
		if n["cp v1.34.4"]+n["cp v1.35.1"] > 4 {
			return fmt.Sprintf("more than one machine above the control plane's three: %v", n)
		}
		if n["worker v1.35.1"] > 0 && n["cp v1.34.4"] > 0 {
			return fmt.Sprintf("a worker is ahead of the control plane: %v", n)
		}
		if n["worker v1.34.4"]+n["worker v1.35.1"] > 3 {
			return fmt.Sprintf("more than one worker above the two: %v", n)
		}
		return ""
	})
	cp, md := e.object("TalosControlPlane", "-cp"), e.object("MachineDeployment", "-workers")
	set(t, cp, "v1.35.1", "spec", "version")
	set(t, md, "v1.35.1", "spec", "template", "spec", "version")
	e.apply(cp, md)

	e.Eventually(func() map[string]int { return counts(e.machines()) }).Should(gomega.Equal(map[string]int{"cp v1.35.1": 3, "worker v1.35.1": 2}))
	e.awaitAvailable()
	for _, c := range stop() {
		t.Error(c)
	}
	for _, name := range before {
		if _, still := names(e.machines())[name]; still {
			t.Errorf("machine %s was not replaced", name)
		}
	}
	e.Eventually(e.nodeVersions).Should(gomega.Equal(map[string]int{"v1.35.1": 5}))
	e.Eventually(func() string {
		tcp := e.tcp()
		return fmt.Sprintf("%s: %d, ready %d, unavailable %d; observed: %v", *tcp.Status.Version, tcp.Status.Replicas,
			tcp.Status.ReadyReplicas, tcp.Status.UnavailableReplicas, tcp.Status.ObservedGeneration == tcp.Generation)
	}).Should(gomega.Equal("v1.35.1: 3, ready 3, unavailable 0; observed: true"))
}

func names(machines []clusterv1.Machine) map[string]bool {
	out := map[string]bool{}
	for _, m := range machines {
		out[m.Name] = true
	}
	return out
}

// Templates are immutable; a new name rolls the machines, and only those that use it.
func TestTemplateRotation(t *testing.T) {
	t.Parallel()
	e := sample(t, "dev", "rotate")
	e.awaitAvailable()
	before := names(e.machines())

	template := e.object("ProxmoxMachineTemplate", "-workers-v1")
	set(t, template, int64(6144), "spec", "template", "spec", "memoryMiB")
	if err := e.tryApply(template); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "immutable") {
		t.Errorf("edit of a ProxmoxMachineTemplate: %v", err)
	}
	config := e.object("TalosConfigTemplate", "-workers-v1")
	set(t, config, "v1.11", "spec", "template", "spec", "talosVersion")
	if err := e.tryApply(config); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "immutable") {
		t.Errorf("edit of a TalosConfigTemplate: %v", err)
	}

	template.SetName("rotate-workers-v2")
	md := e.object("MachineDeployment", "-workers")
	set(t, md, "rotate-workers-v2", "spec", "template", "spec", "infrastructureRef", "name")
	e.apply(template, md)
	e.Eventually(func() map[string]string { return e.clonedFrom("ProxmoxMachine") }).Should(gomega.Equal(map[string]string{
		"cp": "rotate-cp-v1", "worker": "rotate-workers-v2",
	}))
	e.Eventually(func() int { return len(e.machines()) }).Should(gomega.Equal(2))
	e.awaitAvailable()
	after := names(e.machines())
	kept := 0
	for name := range before {
		if after[name] {
			kept++
		}
	}
	if kept != 1 || len(after) != 2 {
		t.Errorf("machines before %v, after %v: only the worker is to be replaced", before, after)
	}

	// The control plane's: any change in its Talos configuration, be it a space.
	cp := e.object("TalosControlPlane", "-cp")
	patches, _, err := unstructured.NestedStringSlice(cp.Object, "spec", "controlPlaneConfig", "controlplane", "strategicPatches")
	if err != nil {
		t.Fatal(err)
	}
	patches[0] += "# only a comment\n"
	if err := unstructured.SetNestedStringSlice(cp.Object, patches, "spec", "controlPlaneConfig", "controlplane", "strategicPatches"); err != nil {
		t.Fatal(err)
	}
	cpBefore := names(e.machines(clusterv1.MachineControlPlaneLabel))
	e.apply(cp)
	e.Eventually(func() bool {
		now := names(e.machines(clusterv1.MachineControlPlaneLabel))
		return len(now) == 1 && !maps.Equal(now, cpBefore)
	}).Should(gomega.BeTrue())
	e.awaitAvailable()
}

// clonedFrom gives the template of the infrastructure of each role's machines.
func (e *env) clonedFrom(kind string) map[string]string {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("infrastructure.cluster.x-k8s.io/v1alpha2")
	list.SetKind(kind + "List")
	if err := admin.List(e.ctx, list, client.InNamespace(e.namespace)); err != nil {
		e.Fatal(err)
	}
	out := map[string]string{}
	for _, o := range list.Items {
		role := "worker"
		if _, ok := o.GetLabels()[clusterv1.MachineControlPlaneLabel]; ok {
			role = "cp"
		}
		template := o.GetAnnotations()[clusterv1.TemplateClonedFromNameAnnotation]
		if other, ok := out[role]; ok && other != template {
			template = other + " and " + template
		}
		out[role] = template
	}
	return out
}

// Scaling up and down, of workers and of the control plane; the last control-plane machine stays.
func TestScale(t *testing.T) {
	t.Parallel()
	e := sample(t, "dev", "scale")
	e.awaitAvailable()
	cp, md := e.object("TalosControlPlane", "-cp"), e.object("MachineDeployment", "-workers")
	for _, n := range []struct{ cp, workers int64 }{{3, 3}, {1, 1}} {
		set(t, cp, n.cp, "spec", "replicas")
		set(t, md, n.workers, "spec", "replicas")
		e.apply(cp, md)
		want := map[string]int{"cp v1.35.4": int(n.cp), "worker v1.35.4": int(n.workers)}
		e.Eventually(func() map[string]int { return counts(e.machines()) }).Should(gomega.Equal(want))
		e.awaitAvailable()
		e.Eventually(e.nodeVersions).Should(gomega.Equal(map[string]int{"v1.35.4": int(n.cp + n.workers)}))
	}
	set(t, cp, int64(0), "spec", "replicas")
	e.apply(cp)
	e.Eventually(func() string {
		for _, c := range e.tcp().Status.Conditions {
			if c.Type == api.ResizedCondition {
				return string(c.Severity) + ": " + c.Message
			}
		}
		return ""
	}).Should(gomega.Equal("Error: Cannot scale down control plane nodes to 0"))
	e.Expect(e.machines(clusterv1.MachineControlPlaneLabel)).To(gomega.HaveLen(1))
}

// Deleting the Cluster takes everything with it that Cluster API made, in order, and by garbage collection the
// templates, and the credentials: the Proxmox provider makes the ProxmoxCluster their owner. Then the
// namespace can go.
func TestDeletion(t *testing.T) {
	t.Parallel()
	e := sample(t, "dev", "delete")
	e.awaitAvailable()
	e.awaitOwned()
	e.Expect(admin.Delete(e.ctx, e.cluster())).To(gomega.Succeed())
	e.Eventually(e.left).Should(gomega.BeEmpty())
	e.deleteNamespace()
	e.Eventually(func() bool {
		return apierrors.IsNotFound(admin.Get(e.ctx, client.ObjectKey{Name: e.namespace}, &corev1.Namespace{}))
	}).Should(gomega.BeTrue())
}

func (e *env) deleteNamespace() {
	e.Helper()
	ns := &corev1.Namespace{}
	ns.Name = e.namespace
	e.Expect(admin.Delete(e.ctx, ns)).To(gomega.Succeed())
}

// left lists what is in the namespace, as Kind/name, without what every namespace has.
func (e *env) left() []string {
	var out []string
	for _, gvk := range []string{
		"v1 Secret", "cluster.x-k8s.io/v1beta2 Cluster", "cluster.x-k8s.io/v1beta2 Machine", "cluster.x-k8s.io/v1beta2 MachineSet",
		"cluster.x-k8s.io/v1beta2 MachineDeployment", "cluster.x-k8s.io/v1beta2 MachineHealthCheck",
		"controlplane.cluster.x-k8s.io/v1alpha3 TalosControlPlane", "bootstrap.cluster.x-k8s.io/v1alpha3 TalosConfig",
		"bootstrap.cluster.x-k8s.io/v1alpha3 TalosConfigTemplate", "infrastructure.cluster.x-k8s.io/v1alpha2 ProxmoxCluster",
		"infrastructure.cluster.x-k8s.io/v1alpha2 ProxmoxMachine", "infrastructure.cluster.x-k8s.io/v1alpha2 ProxmoxMachineTemplate",
		"ipam.cluster.x-k8s.io/v1alpha2 InClusterIPPool", "ipam.cluster.x-k8s.io/v1beta2 IPAddressClaim", "ipam.cluster.x-k8s.io/v1beta2 IPAddress",
	} {
		version, kind, _ := strings.Cut(gvk, " ")
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion(version)
		list.SetKind(kind + "List")
		if err := admin.List(e.ctx, list, client.InNamespace(e.namespace)); err != nil {
			return []string{err.Error()}
		}
		for _, o := range list.Items {
			out = append(out, kind+"/"+o.GetName())
		}
	}
	slices.Sort(out)
	return out
}
