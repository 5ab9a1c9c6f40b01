package dev

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// kubeadmEnv is a cluster of the real KubeadmControlPlane on simulated Proxmox. It is called like its
// namespace.
type kubeadmEnv struct {
	*env
	begun time.Time
}

// newKubeadmCluster applies a cluster with as many machines.
func newKubeadmCluster(t *testing.T, name, controlPlanes, workers string) *kubeadmEnv {
	t.Helper()
	return newClusterOf(t, "cluster.yaml", name, controlPlanes, workers)
}

// newClusterOf is newKubeadmCluster with manifests of that name.
func newClusterOf(t *testing.T, file, name, controlPlanes, workers string) *kubeadmEnv {
	t.Helper()
	e := newEnv(t, name)
	e.namespace = name
	// The real controller looks again at what it waits for after 5, 15 or 20 seconds, whatever it is.
	e.SetDefaultEventuallyTimeout(4 * time.Minute)
	manifest, err := os.ReadFile(filepath.Join("internal", "kubeadm", "testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	variables := map[string]string{
		"NAMESPACE": e.namespace, "CLUSTER_NAME": e.namespace, "KUBERNETES_VERSION": "v1.34.4", "CONTROL_PLANE_ENDPOINT_IP": "10.0.0.4",
		"CONTROL_PLANE_MACHINE_COUNT": controlPlanes, "WORKER_MACHINE_COUNT": workers,
	}
	e.objects = parse(t, os.Expand(string(manifest), func(name string) string { return variables[name] }))
	e.createCredentials()
	e.apply(e.objects...)
	return &kubeadmEnv{env: e, begun: time.Now()}
}

func (k *kubeadmEnv) controlPlane() *controlplanev1.KubeadmControlPlane {
	kcp := &controlplanev1.KubeadmControlPlane{}
	if err := admin.Get(k.ctx, k.key(k.namespace+"-control-plane"), kcp); err != nil {
		k.Fatal(err)
	}
	return kcp
}

// change edits the specification of the control plane.
func (k *kubeadmEnv) change(edit func(*controlplanev1.KubeadmControlPlaneSpec)) error {
	kcp := k.controlPlane()
	before := kcp.DeepCopy()
	edit(&kcp.Spec)
	return admin.Patch(k.ctx, kcp, client.MergeFrom(before))
}

// guest is a client with the kubeconfig that the control plane has written for users.
func (k *kubeadmEnv) guest() client.Client {
	k.Helper()
	s := &corev1.Secret{}
	k.Expect(admin.Get(k.ctx, k.key(secret.Name(k.namespace, secret.Kubeconfig)), s)).To(gomega.Succeed())
	config, err := clientcmd.RESTConfigFromKubeConfig(s.Data[secret.KubeconfigDataName])
	k.Expect(err).NotTo(gomega.HaveOccurred())
	c, err := client.New(config, client.Options{})
	k.Expect(err).NotTo(gomega.HaveOccurred())
	return c
}

// await waits until f holds and logs how long it took.
func (k *kubeadmEnv) await(what string, f func(g gomega.Gomega)) {
	k.Helper()
	k.Eventually(f).Should(gomega.Succeed(), what)
	k.Logf("%s after %s", what, time.Since(k.begun).Round(time.Second/10))
	k.begun = time.Now()
}

// settled expects the control plane and its etcd at a size and version, all healthy.
func (k *kubeadmEnv) settled(g gomega.Gomega, replicas int32, version string) {
	kcp := k.controlPlane()
	g.Expect(kcp.Status.ObservedGeneration).To(gomega.Equal(kcp.Generation))
	for _, n := range []*int32{kcp.Status.Replicas, kcp.Status.ReadyReplicas, kcp.Status.AvailableReplicas, kcp.Status.UpToDateReplicas} {
		g.Expect(n).To(gomega.HaveValue(gomega.Equal(replicas)))
	}
	g.Expect(kcp.Status.Version).To(gomega.Equal(version)) //nolint:staticcheck // what kubectl shows
	for _, c := range []string{
		controlplanev1.KubeadmControlPlaneAvailableCondition, controlplanev1.KubeadmControlPlaneEtcdClusterHealthyCondition,
		controlplanev1.KubeadmControlPlaneControlPlaneComponentsHealthyCondition, controlplanev1.KubeadmControlPlaneMachinesUpToDateCondition,
	} {
		g.Expect(conditions.IsTrue(kcp, c)).To(gomega.BeTrue(), "%s: %s", c, conditions.GetMessage(kcp, c))
	}
	members := mgmt.datacenter.Etcd(k.key(k.namespace))
	g.Expect(members).To(gomega.HaveLen(int(replicas)))
	for _, m := range members {
		g.Expect(m.Healthy).To(gomega.BeTrue(), "etcd member %s", m.Hostname)
	}
	g.Expect(k.available()).To(gomega.BeEmpty())
}

// The whole life of a cluster.
func TestKubeadmCluster(t *testing.T) {
	t.Parallel()
	k := newKubeadmCluster(t, "kubeadm-life", "3", "2")
	k.await("available", func(g gomega.Gomega) { k.settled(g, 3, "v1.34.4") })
	k.expectWorkersToHaveJoined()

	k.Expect(k.change(func(s *controlplanev1.KubeadmControlPlaneSpec) { s.Version = "v1.35.1" })).To(gomega.Succeed())
	k.await("upgraded", func(g gomega.Gomega) {
		k.settled(g, 3, "v1.35.1")
		proxy := &appsv1.DaemonSet{}
		g.Expect(k.guest().Get(k.ctx, types.NamespacedName{Namespace: "kube-system", Name: "kube-proxy"}, proxy)).To(gomega.Succeed())
		g.Expect(proxy.Spec.Template.Spec.Containers[0].Image).To(gomega.HaveSuffix(":v1.35.1"))
	})

	even := k.change(func(s *controlplanev1.KubeadmControlPlaneSpec) { s.Replicas = ptr.To[int32](2) })
	k.Expect(even).To(gomega.MatchError(gomega.ContainSubstring("cannot be an even number")))
	k.Expect(k.change(func(s *controlplanev1.KubeadmControlPlaneSpec) { s.Replicas = ptr.To[int32](1) })).To(gomega.Succeed())
	k.await("scaled down", func(g gomega.Gomega) { k.settled(g, 1, "v1.35.1") })

	k.Expect(admin.Delete(k.ctx, k.cluster())).To(gomega.Succeed())
	k.await("deleted", func(g gomega.Gomega) {
		g.Expect(apierrors.IsNotFound(admin.Get(k.ctx, k.key(k.namespace), &clusterv1.Cluster{}))).To(gomega.BeTrue())
		// What only the garbage collector removes.
		secrets := &corev1.SecretList{}
		g.Expect(admin.List(k.ctx, secrets, client.InNamespace(k.namespace), client.HasLabels{clusterv1.ClusterNameLabel})).To(gomega.Succeed())
		g.Expect(secrets.Items).To(gomega.BeEmpty())
	})
	for _, vm := range mgmt.datacenter.List() {
		if vm.Cluster == k.key(k.namespace) {
			t.Errorf("virtual machine %s is left", vm.Key)
		}
	}
}

// expectWorkersToHaveJoined looks at what the real KubeadmConfig controller has made for them.
func (k *kubeadmEnv) expectWorkersToHaveJoined() {
	k.Helper()
	guest := k.guest()
	nodes := &corev1.NodeList{}
	k.Expect(guest.List(k.ctx, nodes)).To(gomega.Succeed())
	k.Expect(nodes.Items).To(gomega.HaveLen(5))

	secrets := &corev1.SecretList{}
	k.Expect(guest.List(k.ctx, secrets, client.InNamespace("kube-system"))).To(gomega.Succeed())
	var tokens []string
	for _, s := range secrets.Items {
		if s.Type == "bootstrap.kubernetes.io/token" {
			tokens = append(tokens, string(s.Data["token-id"])+"."+string(s.Data["token-secret"]))
		}
	}
	workers := k.machines(clusterv1.MachineDeploymentNameLabel)
	k.Expect(workers).To(gomega.HaveLen(2))
	for _, m := range workers {
		data := &corev1.Secret{}
		k.Expect(admin.Get(k.ctx, k.key(ptr.Deref(m.Spec.Bootstrap.DataSecretName, "")), data)).To(gomega.Succeed())
		cloudInit := string(data.Data["value"])
		k.Expect(cloudInit).To(gomega.And(gomega.ContainSubstring("#cloud-config"), gomega.ContainSubstring("kubeadm join")))
		if !slices.ContainsFunc(tokens, func(token string) bool { return strings.Contains(cloudInit, token) }) {
			k.Errorf("%s joins with none of the %d tokens that the workload cluster knows", m.Name, len(tokens))
		}
	}
}

// A control-plane machine whose node does not get well is replaced, its etcd member with it.
func TestKubeadmRemediation(t *testing.T) {
	t.Parallel()
	k := newKubeadmCluster(t, "kubeadm-heal", "3", "0")
	k.await("available", func(g gomega.Gomega) { k.settled(g, 3, "v1.34.4") })
	sick := k.machines(clusterv1.MachineControlPlaneLabel)[0]

	check := &clusterv1.MachineHealthCheck{ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: "control-plane"}}
	check.Spec.ClusterName = k.namespace
	check.Spec.Selector.MatchLabels = map[string]string{clusterv1.MachineControlPlaneLabel: ""}
	check.Spec.Checks.UnhealthyNodeConditions = []clusterv1.UnhealthyNodeCondition{
		{Type: "Sick", Status: corev1.ConditionTrue, TimeoutSeconds: ptr.To[int32](1)},
	}
	k.Expect(admin.Create(k.ctx, check)).To(gomega.Succeed())
	// As a node problem detector reports it. Chaos could make it not ready, but is the same for all tests.
	guest := k.guest()
	node := &corev1.Node{}
	k.Expect(guest.Get(k.ctx, types.NamespacedName{Name: sick.Status.NodeRef.Name}, node)).To(gomega.Succeed())
	before := node.DeepCopy()
	node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
		Type: "Sick", Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
	})
	k.Expect(guest.Status().Patch(k.ctx, node, client.MergeFrom(before))).To(gomega.Succeed())

	k.await("replaced", func(g gomega.Gomega) {
		machines := k.machines(clusterv1.MachineControlPlaneLabel)
		g.Expect(machines).To(gomega.HaveLen(3))
		for _, m := range machines {
			g.Expect(m.Name).NotTo(gomega.Equal(sick.Name))
		}
		k.settled(g, 3, "v1.34.4")
	})
}
