package kubeadm

import (
	"bytes"
	"cmp"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	kubeadmtypes "sigs.k8s.io/cluster-api/bootstrap/kubeadm/pkg/types"
	"sigs.k8s.io/cluster-api/util/conditions"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"capstan.dev/capstan/dev/internal/capi"
	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/endpoint"
	"capstan.dev/capstan/dev/internal/install"
	"capstan.dev/capstan/dev/internal/workload"
)

// management is a management cluster with the real controllers, on a real API server.
type management struct {
	client.Client
	cloud      *workload.Cloud
	datacenter *datacenter.Datacenter
}

func newManagement(t *testing.T) *management {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	klog.SetLogger(logr.Discard())
	ctrl.SetLogger(logr.Discard())

	env := &envtest.Environment{BinaryAssetsDirectory: cmp.Or(os.Getenv("KUBEBUILDER_ASSETS"), filepath.Join("..", "..", "..", "bin"))}
	config, err := env.Start()
	must(err)
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	must(env.WebhookInstallOptions.PrepWithoutInstalling())
	hooks := env.WebhookInstallOptions
	at := install.Endpoint{URL: "https://" + net.JoinHostPort(hooks.LocalServingHost, strconv.Itoa(hooks.LocalServingPort)), CABundle: hooks.LocalServingCAData}

	scheme := runtime.NewScheme()
	must(capi.AddToScheme(scheme))
	must(AddToScheme(scheme))
	moduleDir, err := install.ModuleDir()
	must(err)
	c, err := client.New(capi.Config(config), client.Options{Scheme: scheme})
	must(err)
	for _, dir := range append(CRDPaths(moduleDir), filepath.Join(moduleDir, "core", "config", "crd", "bases"), filepath.Join("..", "..", "crds")) {
		crds, err := install.ReadCRDs(dir)
		must(err)
		for _, crd := range crds {
			install.Prepare(crd, at)
		}
		must(install.CRDs(ctx, c, crds))
	}

	cloud, err := workload.New(workload.Options{})
	must(err)
	dc := datacenter.New(datacenter.Options{Cloud: cloud, Chaos: chaos.New(chaos.Knobs{})})
	mgr, err := capi.NewManager(capi.Config(config), scheme, webhook.NewServer(webhook.Options{
		Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir,
	}), logr.Discard())
	must(err)
	must(mgr.Add(cloud))
	must(mgr.Add(dc))
	core, err := capi.Setup(ctx, mgr, func(ctx context.Context, cluster client.ObjectKey) {
		for ctx.Err() == nil && !dc.APIServerUp(cluster) {
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	must(err)
	endpoint.Setup(mgr, cloud.Address())
	must(Setup(ctx, mgr, Options{
		ClusterCache: core.ClusterCache, Cloud: cloud, Datacenter: dc, Concurrency: capi.Concurrency,
		APIVersion: func(_ context.Context, gk schema.GroupKind) (string, error) { return gk.Group + "/v1alpha2", nil },
	}))
	must(setupInfrastructure(mgr, dc))

	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	NewWithT(t).Eventually(func() error { return mgr.GetWebhookServer().StartedChecker()(nil) }, time.Minute).Should(Succeed())
	must(install.Webhooks(ctx, c, "kubeconfig-", endpoint.Webhooks, at))
	manifests := WebhookPaths(moduleDir)
	manifests["capi-"] = filepath.Join(moduleDir, "core", "config", "webhook", "manifests.yaml")
	for prefix, file := range manifests {
		manifest, err := os.ReadFile(file)
		must(err)
		must(install.Webhooks(ctx, c, prefix, manifest, at))
	}
	return &management{Client: c, cloud: cloud, datacenter: dc}
}

// apply creates the objects of a manifest, with variables in the form of clusterctl filled in.
func (m *management) apply(t *testing.T, file string, variables map[string]string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	manifest := os.Expand(string(content), func(name string) string { return variables[name] })
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(manifest)), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); err != nil {
			break
		}
		if err := m.Create(t.Context(), object); err != nil {
			t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}

// setupInfrastructure adds the least that a provider of infrastructure has to do, on the datacenter.
func setupInfrastructure(mgr ctrl.Manager, dc *datacenter.Datacenter) error {
	kind := func(kind string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(schema.GroupVersionKind{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Kind: kind})
		return u
	}
	c := mgr.GetClient()
	provisioned := func(ctx context.Context, u *unstructured.Unstructured) error {
		before := u.DeepCopy()
		if err := unstructured.SetNestedField(u.Object, true, "status", "initialization", "provisioned"); err != nil {
			return err
		}
		return c.Status().Patch(ctx, u, client.MergeFrom(before))
	}
	if err := ctrl.NewControllerManagedBy(mgr).For(kind("ProxmoxCluster")).Complete(
		reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
			u := kind("ProxmoxCluster")
			if err := c.Get(ctx, req.NamespacedName, u); err != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
			return reconcile.Result{}, provisioned(ctx, u)
		})); err != nil {
		return err
	}
	const finalizer = "test.capstan.dev/vm"
	soon := reconcile.Result{RequeueAfter: 50 * time.Millisecond}
	return ctrl.NewControllerManagedBy(mgr).For(kind("ProxmoxMachine")).Complete(
		reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
			u := kind("ProxmoxMachine")
			if err := c.Get(ctx, req.NamespacedName, u); err != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
			before := u.DeepCopy()
			if u.GetDeletionTimestamp() != nil {
				dc.Delete(req.NamespacedName)
				controllerutil.RemoveFinalizer(u, finalizer)
				return reconcile.Result{}, client.IgnoreNotFound(c.Patch(ctx, u, client.MergeFrom(before)))
			}
			i := slices.IndexFunc(u.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.Kind == "Machine" })
			if i < 0 {
				return soon, nil
			}
			machine := &clusterv1.Machine{}
			if err := c.Get(ctx, types.NamespacedName{Namespace: req.Namespace, Name: u.GetOwnerReferences()[i].Name}, machine); err != nil {
				return reconcile.Result{}, err
			}
			if machine.Spec.Bootstrap.DataSecretName == nil {
				return soon, nil
			}
			data := &corev1.Secret{}
			if err := c.Get(ctx, types.NamespacedName{Namespace: req.Namespace, Name: *machine.Spec.Bootstrap.DataSecretName}, data); err != nil {
				return reconcile.Result{}, err
			}
			_, controlPlane := machine.Labels[clusterv1.MachineControlPlaneLabel]
			vm := dc.Create(datacenter.Spec{
				Key: req.NamespacedName, Cluster: types.NamespacedName{Namespace: req.Namespace, Name: machine.Spec.ClusterName},
				Machine: machine.Name, ControlPlane: controlPlane, Addresses: []string{"10.0.0.10"},
			})
			if err := dc.PowerOn(vm.Key, datacenter.Boot{UserData: data.Data["value"], KubernetesVersion: machine.Spec.Version}); err != nil {
				return reconcile.Result{}, err
			}
			if vm, _ = dc.Get(vm.Key); vm.Phase != datacenter.Running {
				return soon, nil
			}
			controllerutil.AddFinalizer(u, finalizer)
			if err := unstructured.SetNestedField(u.Object, "proxmox://"+vm.UUID, "spec", "providerID"); err != nil {
				return reconcile.Result{}, err
			}
			if err := c.Patch(ctx, u, client.MergeFrom(before)); err != nil {
				return reconcile.Result{}, err
			}
			return reconcile.Result{}, provisioned(ctx, u)
		}))
}

const patience = 3 * time.Minute

// The whole life of a cluster under the real controllers.
func TestLife(t *testing.T) {
	m := newManagement(t)
	ctx, g := t.Context(), NewWithT(t)
	key := types.NamespacedName{Namespace: "default", Name: "one"}
	kcpKey := types.NamespacedName{Namespace: "default", Name: "one-control-plane"}
	m.apply(t, filepath.Join("testdata", "cluster.yaml"), map[string]string{
		"CLUSTER_NAME": "one", "KUBERNETES_VERSION": "v1.34.4", "CONTROL_PLANE_MACHINE_COUNT": "3", "WORKER_MACHINE_COUNT": "2",
		"CONTROL_PLANE_ENDPOINT_IP": "10.0.0.4",
	})
	guest := m.cloud.Cluster(key).Client()

	begun := time.Now()
	lap := func(what string) {
		t.Helper()
		t.Logf("%s after %s", what, time.Since(begun).Round(time.Second/10))
		begun = time.Now()
	}
	kcp := &controlplanev1.KubeadmControlPlane{}
	// converged tells whether the control plane has settled at that size and version.
	converged := func(g Gomega, replicas int32, version string) {
		g.Expect(m.Get(ctx, kcpKey, kcp)).To(Succeed())
		g.Expect(kcp.Status.ObservedGeneration).To(Equal(kcp.Generation))
		for _, n := range []*int32{kcp.Status.Replicas, kcp.Status.ReadyReplicas, kcp.Status.AvailableReplicas, kcp.Status.UpToDateReplicas} {
			g.Expect(n).To(HaveValue(Equal(replicas)))
		}
		g.Expect(kcp.Status.Version).To(Equal(version))
		for _, c := range []string{
			controlplanev1.KubeadmControlPlaneAvailableCondition, controlplanev1.KubeadmControlPlaneEtcdClusterHealthyCondition,
			controlplanev1.KubeadmControlPlaneControlPlaneComponentsHealthyCondition, controlplanev1.KubeadmControlPlaneMachinesUpToDateCondition,
		} {
			g.Expect(conditions.IsTrue(kcp, c)).To(BeTrue(), "%s: %s", c, conditions.GetMessage(kcp, c))
		}
		g.Expect(m.datacenter.Etcd(key)).To(HaveLen(int(replicas)))
	}
	available := func(g Gomega) {
		cluster := &clusterv1.Cluster{}
		g.Expect(m.Get(ctx, key, cluster)).To(Succeed())
		g.Expect(conditions.IsTrue(cluster, clusterv1.ClusterAvailableCondition)).To(BeTrue(),
			conditions.GetMessage(cluster, clusterv1.ClusterAvailableCondition))
	}

	g.Eventually(func(g Gomega) { converged(g, 3, "v1.34.4"); available(g) }, patience, time.Second/10).Should(Succeed())
	lap("available")
	workerJoins(t, m, guest)

	before := kcp.DeepCopy()
	kcp.Spec.Version = "v1.35.1"
	g.Expect(m.Patch(ctx, kcp, client.MergeFrom(before))).To(Succeed())
	g.Eventually(func(g Gomega) { converged(g, 3, "v1.35.1") }, patience, time.Second/10).Should(Succeed())
	lap("upgraded")
	proxy := &appsv1.DaemonSet{}
	g.Eventually(func(g Gomega) {
		g.Expect(guest.Get(ctx, types.NamespacedName{Namespace: "kube-system", Name: "kube-proxy"}, proxy)).To(Succeed())
		g.Expect(proxy.Spec.Template.Spec.Containers[0].Image).To(HaveSuffix(":v1.35.1"))
	}, patience).Should(Succeed())
	config := &corev1.ConfigMap{}
	g.Expect(guest.Get(ctx, types.NamespacedName{Namespace: "kube-system", Name: kubeadmConfig}, config)).To(Succeed())
	_, data, err := kubeadmtypes.UnmarshalClusterConfiguration(config.Data["ClusterConfiguration"])
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(data.KubernetesVersion).To(HaveValue(Equal("v1.35.1")))

	before = kcp.DeepCopy()
	kcp.Spec.Replicas = ptr.To[int32](2)
	g.Expect(m.Patch(ctx, kcp, client.MergeFrom(before))).To(MatchError(ContainSubstring("cannot be an even number")))
	kcp = before.DeepCopy()
	kcp.Spec.Replicas = ptr.To[int32](1)
	g.Expect(m.Patch(ctx, kcp, client.MergeFrom(before))).To(Succeed())
	g.Eventually(func(g Gomega) { converged(g, 1, "v1.35.1") }, patience, time.Second/10).Should(Succeed())
	lap("scaled down")

	g.Expect(m.Delete(ctx, &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}})).To(Succeed())
	g.Eventually(func(g Gomega) {
		g.Expect(apierrors.IsNotFound(m.Get(ctx, key, &clusterv1.Cluster{}))).To(BeTrue())
	}, patience, time.Second/10).Should(Succeed())
	lap("deleted")
	if vms := m.datacenter.List(); len(vms) > 0 {
		t.Errorf("machines are left: %v", vms)
	}
}

// workerJoins looks at what KubeadmConfig has made for a worker.
func workerJoins(t *testing.T, m *management, guest client.Client) {
	t.Helper()
	tokens := &corev1.SecretList{}
	if err := guest.List(t.Context(), tokens, client.InNamespace("kube-system")); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, s := range tokens.Items {
		if s.Type == "bootstrap.kubernetes.io/token" {
			ids = append(ids, string(s.Data["token-id"])+"."+string(s.Data["token-secret"]))
		}
	}
	machines := &clusterv1.MachineList{}
	if err := m.List(t.Context(), machines, client.HasLabels{clusterv1.MachineDeploymentNameLabel}); err != nil {
		t.Fatal(err)
	}
	for _, machine := range machines.Items {
		data := &corev1.Secret{}
		if err := m.Get(t.Context(), types.NamespacedName{Namespace: machine.Namespace, Name: ptr.Deref(machine.Spec.Bootstrap.DataSecretName, "")}, data); err != nil {
			t.Errorf("bootstrap data of %s: %v", machine.Name, err)
			continue
		}
		cloudInit := string(data.Data["value"])
		if !strings.Contains(cloudInit, "#cloud-config") || !strings.Contains(cloudInit, "kubeadm join") {
			t.Errorf("bootstrap data of %s do not make it join:\n%s", machine.Name, cloudInit)
		}
		if !slices.ContainsFunc(ids, func(token string) bool { return strings.Contains(cloudInit, token) }) {
			t.Errorf("bootstrap data of %s hold none of the %d tokens of the workload cluster", machine.Name, len(ids))
		}
	}
	if len(machines.Items) != 2 {
		t.Errorf("there are %d workers, not 2", len(machines.Items))
	}
}
