package bootstrap

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// patience is how long a test waits; it takes this long only to fail.
const patience = 2 * time.Minute

// startProvider runs an API server with the provider until the test ends, and returns a client past all caches.
func startProvider(t *testing.T) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, clusterv1.AddToScheme, api.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	webhooks := &admissionv1.ValidatingWebhookConfiguration{}
	if err := yaml.UnmarshalStrict(Webhooks, webhooks); err != nil {
		t.Fatal(err)
	}
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = "../../../../bin"
	}
	core := clusterAPIFolder(t)
	env := &envtest.Environment{
		Scheme:                scheme,
		BinaryAssetsDirectory: assets,
		ErrorIfCRDPathMissing: true,
		CRDDirectoryPaths: []string{
			"../../../crds/bootstrap.cluster.x-k8s.io_talosconfigs.yaml",
			"../../../crds/bootstrap.cluster.x-k8s.io_talosconfigtemplates.yaml",
			filepath.Join(core, "cluster.x-k8s.io_clusters.yaml"),
			filepath.Join(core, "cluster.x-k8s.io_machines.yaml"),
		},
		WebhookInstallOptions: envtest.WebhookInstallOptions{
			ValidatingWebhooks: []*admissionv1.ValidatingWebhookConfiguration{webhooks},
		},
		ControlPlaneStartTimeout: patience,
		ControlPlaneStopTimeout:  patience,
	}
	restConfig, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	startManager(t, restConfig, scheme, env.WebhookInstallOptions)
	c, err := client.New(restConfig, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func startManager(t *testing.T, restConfig *rest.Config, scheme *runtime.Scheme, hooks envtest.WebhookInstallOptions) {
	t.Helper()
	log := testr.New(t)
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme:     scheme,
		Logger:     log,
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Client:     client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		Controller: config.Controller{SkipNameValidation: ptr.To(true)}, // for go test -count
		WebhookServer: webhook.NewServer(webhook.Options{
			Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir,
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := Setup(ctx, mgr, Options{Log: log}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the manager ended: %v", err)
		}
	})
	eventually(t, func(g gomega.Gomega) { g.Expect(mgr.GetWebhookServer().StartedChecker()(nil)).To(gomega.Succeed()) })
}

// clusterAPIFolder is where the CRDs of Cluster API are, in the version of go.mod.
func clusterAPIFolder(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/cluster-api").Output()
	if err != nil {
		t.Fatalf("find Cluster API: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "core", "config", "crd", "bases")
}

// eventually repeats f until it is content.
func eventually(t *testing.T, f func(g gomega.Gomega)) {
	t.Helper()
	gomega.NewWithT(t).Eventually(f).WithTimeout(patience).WithPolling(20 * time.Millisecond).Should(gomega.Succeed())
}

// world is a namespace with one Cluster, for which the test plays Cluster API's core.
type world struct {
	t         *testing.T
	client    client.Client
	namespace string
	cluster   *clusterv1.Cluster
}

// newWorld makes a Cluster. Its infrastructure is not provisioned yet.
func newWorld(t *testing.T, c client.Client, mutate ...func(*clusterv1.Cluster)) *world {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	w := &world{t: t, client: c}
	w.create(namespace)
	w.namespace = namespace.Name
	w.cluster = &clusterv1.Cluster{
		ObjectMeta: w.meta("red"),
		Spec: clusterv1.ClusterSpec{
			ControlPlaneEndpoint: clusterv1.APIEndpoint{Host: "10.1.0.5", Port: 6443},
			ClusterNetwork: clusterv1.ClusterNetwork{
				Pods: clusterv1.NetworkRanges{CIDRBlocks: []string{"10.20.0.0/16"}},
			},
		},
	}
	for _, f := range mutate {
		f(w.cluster)
	}
	w.create(w.cluster)
	return w
}

// newProvisionedWorld makes a Cluster with its infrastructure.
func newProvisionedWorld(t *testing.T, c client.Client, mutate ...func(*clusterv1.Cluster)) *world {
	t.Helper()
	w := newWorld(t, c, mutate...)
	w.provision()
	return w
}

func (w *world) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: w.namespace, Name: name}
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	if err := w.client.Create(w.t.Context(), o); err != nil {
		w.t.Fatalf("create %T: %v", o, err)
	}
}

// change changes an object as it was read last.
func change[T client.Object](w *world, o T, mutate func(T)) {
	w.t.Helper()
	before := o.DeepCopyObject().(T)
	mutate(o)
	if err := w.client.Patch(w.t.Context(), o, client.MergeFrom(before)); err != nil {
		w.t.Fatalf("change %T %s: %v", o, o.GetName(), err)
	}
}

// changeStatus does the same to the status.
func changeStatus[T client.Object](w *world, o T, mutate func(T)) {
	w.t.Helper()
	before := o.DeepCopyObject().(T)
	mutate(o)
	if err := w.client.Status().Patch(w.t.Context(), o, client.MergeFrom(before)); err != nil {
		w.t.Fatalf("change the status of %T %s: %v", o, o.GetName(), err)
	}
}

// provision tells that the infrastructure of the Cluster is ready.
func (w *world) provision() {
	w.t.Helper()
	changeStatus(w, w.cluster, func(c *clusterv1.Cluster) {
		c.Status.Initialization.InfrastructureProvisioned = ptr.To(true)
	})
}

// config makes a TalosConfig that nobody owns yet.
func (w *world) config(name string, spec api.TalosConfigSpec) *api.TalosConfig {
	w.t.Helper()
	c := &api.TalosConfig{ObjectMeta: w.meta(name), Spec: spec}
	w.create(c)
	return c
}

// machine makes a Machine for a TalosConfig and lets it own that, as core's Machine controller does.
func (w *world) machine(c *api.TalosConfig, mutate ...func(*clusterv1.Machine)) *clusterv1.Machine {
	w.t.Helper()
	m := w.loneMachine(c.Name, c.Spec.GenerateType == "controlplane", mutate...)
	change(w, c, func(c *api.TalosConfig) { c.OwnerReferences = ownedBy(m) })
	return m
}

// loneMachine makes a Machine that names a TalosConfig and does not own it.
func (w *world) loneMachine(config string, controlPlane bool, mutate ...func(*clusterv1.Machine)) *clusterv1.Machine {
	w.t.Helper()
	m := &clusterv1.Machine{
		ObjectMeta: w.meta(config),
		Spec: clusterv1.MachineSpec{
			ClusterName: w.cluster.Name,
			Version:     "v1.32.4",
			Bootstrap: clusterv1.Bootstrap{ConfigRef: clusterv1.ContractVersionedObjectReference{
				APIGroup: api.BootstrapGroupVersion.Group, Kind: api.TalosConfigKind, Name: config,
			}},
			InfrastructureRef: clusterv1.ContractVersionedObjectReference{
				APIGroup: "infrastructure.cluster.x-k8s.io", Kind: "ProxmoxMachine", Name: config,
			},
		},
	}
	m.Labels = map[string]string{clusterv1.ClusterNameLabel: w.cluster.Name}
	if controlPlane {
		m.Labels[clusterv1.MachineControlPlaneLabel] = ""
	}
	for _, f := range mutate {
		f(m)
	}
	w.create(m)
	return m
}

func ownedBy(m *clusterv1.Machine) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(m, clusterv1.GroupVersion.WithKind("Machine"))}
}

// await waits until a TalosConfig is as f wants it, and leaves the last state in c.
func (w *world) await(c *api.TalosConfig, f func(g gomega.Gomega, c *api.TalosConfig)) {
	w.t.Helper()
	eventually(w.t, func(g gomega.Gomega) {
		fresh := &api.TalosConfig{}
		g.Expect(w.client.Get(w.t.Context(), client.ObjectKeyFromObject(c), fresh)).To(gomega.Succeed())
		*c = *fresh
		f(g, c)
	})
}

// awaitReady waits for the machine configuration.
func (w *world) awaitReady(c *api.TalosConfig) {
	w.t.Helper()
	w.await(c, func(g gomega.Gomega, c *api.TalosConfig) { g.Expect(c.Status.Ready).To(gomega.BeTrue()) })
}

// awaitSeen waits until the provider has worked on a TalosConfig without an error. As it writes the whole status at the
// end, what is not there then is not there because the provider decided so.
func (w *world) awaitSeen(c *api.TalosConfig) {
	w.t.Helper()
	w.await(c, func(g gomega.Gomega, c *api.TalosConfig) {
		g.Expect(c.Status.ObservedGeneration).To(gomega.Equal(c.Generation))
	})
}

// secret reads a Secret that must exist.
func (w *world) secret(name string) *corev1.Secret {
	w.t.Helper()
	s := &corev1.Secret{}
	if err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// secretNames lists all Secrets of the namespace.
func (w *world) secretNames() []string {
	w.t.Helper()
	var list corev1.SecretList
	if err := w.client.List(w.t.Context(), &list, client.InNamespace(w.namespace)); err != nil {
		w.t.Fatal(err)
	}
	names := []string{}
	for _, s := range list.Items {
		names = append(names, s.Name)
	}
	return names
}
