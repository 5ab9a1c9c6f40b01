package kubeadm

import (
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capstan.dev/capstan/dev/internal/datacenter"
)

// manage gives the world a management cluster with these objects beside the Cluster and its control plane.
func (w *world) manage(t *testing.T, objects ...client.Object) {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, clusterv1.AddToScheme, AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: testCluster.Namespace, Name: testCluster.Name, UID: "1"}}
	cluster.Spec.ControlPlaneRef = clusterv1.ContractVersionedObjectReference{
		APIGroup: "controlplane.cluster.x-k8s.io", Kind: "KubeadmControlPlane", Name: "cp",
	}
	kcp := &controlplanev1.KubeadmControlPlane{ObjectMeta: metav1.ObjectMeta{Namespace: testCluster.Namespace, Name: "cp"}}
	kcp.Spec.Version, kcp.Spec.Replicas = "v1.34.4", ptr.To[int32](3)
	w.guests.client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(append(objects, cluster, kcp)...).Build()
}

func (w *world) reconcile(t *testing.T) {
	t.Helper()
	if _, err := w.guests.Reconcile(t.Context(), reconcile.Request{NamespacedName: testCluster}); err != nil {
		t.Fatal(err)
	}
}

// pods are the static Pods of the control plane, by whether they are ready.
func (w *world) pods(t *testing.T) map[string]bool {
	t.Helper()
	list := &corev1.PodList{}
	if err := w.cloud.Cluster(testCluster).Client().List(t.Context(), list, client.MatchingLabels(controlPlaneTier)); err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for i := range list.Items {
		out[list.Items[i].Name] = ready(&list.Items[i])
	}
	return out
}

func powerOn(t *testing.T, dc *datacenter.Datacenter, name string) {
	t.Helper()
	key := types.NamespacedName{Namespace: testCluster.Namespace, Name: name}
	dc.Create(datacenter.Spec{Key: key, Cluster: testCluster, Machine: name, ControlPlane: true, Addresses: []string{"10.0.0.10"}})
	if err := dc.PowerOn(key, datacenter.Boot{UserData: []byte("#cloud-config\nruncmd: [kubeadm init --config /run/kubeadm/kubeadm.yaml]\n"), KubernetesVersion: "v1.34.4"}); err != nil {
		t.Fatal(err)
	}
}

// The API server of a cluster must not answer before there is all that KubeadmControlPlane looks for:
// it would look again only after 20 s.
func TestInitializedBeforeItAnswers(t *testing.T) {
	w := newWorld(t)
	g := NewWithT(t)
	api, etcdCA := secretOf(t, secret.ClusterCA), secretOf(t, secret.EtcdCA)
	w.manage(t, etcdCA)
	powerOn(t, w.datacenter, "cp-0")
	g.Eventually(func() []datacenter.Member { return w.datacenter.Etcd(testCluster) }, time.Minute, time.Millisecond).Should(HaveLen(1))

	w.reconcile(t)
	if w.datacenter.APIServerUp(testCluster) || len(w.pods(t)) > 0 {
		t.Error("without a certificate authority the API server answers")
	}
	if err := w.guests.client.Create(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	w.reconcile(t)
	g.Eventually(func() bool { return w.datacenter.APIServerUp(testCluster) }, time.Minute, time.Millisecond).Should(BeTrue())
	guest := w.cloud.Cluster(testCluster).Client()
	key := types.NamespacedName{Namespace: "kube-system", Name: kubeadmConfig}
	if err := guest.Get(t.Context(), key, &corev1.ConfigMap{}); err != nil {
		t.Error(err)
	}
	want := map[string]bool{
		"etcd-cp-0": true, "kube-apiserver-cp-0": true, "kube-controller-manager-cp-0": true, "kube-scheduler-cp-0": true,
	}
	if diff := gocmp.Diff(want, w.pods(t)); diff != "" {
		t.Errorf("static Pods (-want +got):\n%s", diff)
	}

	// What a user deletes stays deleted.
	proxy := configMap("kube-proxy", "", "")
	if err := guest.Delete(t.Context(), proxy); err != nil {
		t.Fatal(err)
	}
	w.reconcile(t)
	if err := guest.Get(t.Context(), client.ObjectKeyFromObject(proxy), proxy); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the ConfigMap that was deleted: %v", err)
	}
}

// A member that leaves takes etcd and the API server of its machine along; the machine, all of it.
func TestStaticPodsFollowMachines(t *testing.T) {
	w := newWorld(t, "cp-0", "cp-1")
	of, _ := w.authorities.get(testCluster)
	of.uid = "1"
	w.authorities.set(testCluster, of)
	w.manage(t)
	w.reconcile(t)
	if pods := w.pods(t); len(pods) != 8 {
		t.Fatalf("static Pods of two machines: %v", pods)
	}
	if err := w.datacenter.RemoveMember(testCluster, w.datacenter.Etcd(testCluster)[1].ID); err != nil {
		t.Fatal(err)
	}
	w.reconcile(t)
	pods := w.pods(t)
	for name, want := range map[string]bool{"etcd-cp-1": false, "kube-apiserver-cp-1": false, "kube-scheduler-cp-1": true, "etcd-cp-0": true} {
		if got, ok := pods[name]; !ok || got != want {
			t.Errorf("%s is ready: %v (there: %v), want %v", name, got, ok, want)
		}
	}
	w.datacenter.Delete(types.NamespacedName{Namespace: testCluster.Namespace, Name: "cp-1"})
	w.reconcile(t)
	for name := range w.pods(t) {
		if slices.Contains([]string{"etcd-cp-1", "kube-apiserver-cp-1", "kube-controller-manager-cp-1", "kube-scheduler-cp-1"}, name) {
			t.Errorf("%s is there without its machine", name)
		}
	}
}
