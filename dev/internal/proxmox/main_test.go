package proxmox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/ipam"
	"capstan.dev/capstan/dev/internal/ipam/testenv"
	"capstan.dev/capstan/dev/internal/workload"
)

var (
	c      client.Client
	dc     *datacenter.Datacenter
	monkey = chaos.New(chaos.Knobs{NeverBoots: chaos.Picks{{Pattern: "*/never-boots*"}}})
)

func TestMain(m *testing.M) {
	var stop func() error
	var err error
	c, stop, err = testenv.Start(testenv.Options{
		AddToScheme: []func(*apiruntime.Scheme) error{ipam.AddToScheme, AddToScheme},
		Webhooks:    [][]byte{ipam.Webhooks, Webhooks},
		Setup: func(ctx context.Context, mgr ctrl.Manager) error {
			cloud, err := workload.New(workload.Options{Log: logr.Discard()})
			if err != nil {
				return err
			}
			dc = datacenter.New(datacenter.Options{Cloud: cloud, Chaos: monkey, Log: logr.Discard()})
			return errors.Join(
				mgr.Add(cloud), mgr.Add(dc),
				ipam.Setup(ctx, mgr, ipam.Options{Log: logr.Discard()}),
				Setup(ctx, mgr, Options{Datacenter: dc, Log: logr.Discard()}),
			)
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func eventually(t *testing.T, what func() error) {
	t.Helper()
	gomega.NewWithT(t).Eventually(what, 30*time.Second, 20*time.Millisecond).Should(gomega.Succeed())
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		// The webhook server may not listen yet when the first test starts.
		var err error
		eventually(t, func() error {
			if err = c.Create(t.Context(), o); err != nil && strings.Contains(err.Error(), "failed calling webhook") {
				return err
			}
			return nil
		})
		if err != nil {
			t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

func get(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.Delete(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// change patches o as it is now.
func change[T client.Object](t *testing.T, o T, f func()) {
	t.Helper()
	get(t, o)
	before := o.DeepCopyObject().(client.Object)
	f()
	if err := c.Patch(t.Context(), o, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

func changeStatus[T client.Object](t *testing.T, o T, f func()) {
	t.Helper()
	get(t, o)
	before := o.DeepCopyObject().(client.Object)
	f()
	if err := c.Status().Patch(t.Context(), o, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

func gone(t *testing.T, o client.Object) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%T %s is still there: %v", o, o.GetName(), o)
		}
		return nil
	})
}

// object is what has conditions.
type object interface {
	client.Object
	conditions.Getter
}

// reaches waits until the condition of o has that reason.
func reaches(t *testing.T, o object, condition, reason string) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		if got := conditions.Get(o, condition); got == nil || got.Reason != reason {
			return fmt.Errorf("condition %s of %T %s is %+v", condition, o, o.GetName(), got)
		}
		return nil
	})
}

// becomesProvisioned waits until the provider is done. The status is the last thing it writes.
func becomesProvisioned(t *testing.T, o object) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		var initialization *Initialization
		switch o := o.(type) {
		case *ProxmoxCluster:
			initialization = o.Status.Initialization
		case *ProxmoxMachine:
			initialization = o.Status.Initialization
		}
		if !initialization.done() {
			return fmt.Errorf("%T %s is not provisioned: %+v", o, o.GetName(), o.GetConditions())
		}
		return nil
	})
}

// fleet is a cluster as Cluster API's own controllers leave it to the provider.
type fleet struct {
	ns      string
	cluster *clusterv1.Cluster
	infra   *ProxmoxCluster
	secret  *corev1.Secret
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	ns := testenv.Namespace(t, c)
	return &fleet{
		ns: ns,
		cluster: &clusterv1.Cluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "talos", Finalizers: []string{clusterv1.ClusterFinalizer}},
			Spec: clusterv1.ClusterSpec{InfrastructureRef: clusterv1.ContractVersionedObjectReference{
				APIGroup: GroupVersion.Group, Kind: "ProxmoxCluster", Name: "infra",
			}},
		},
		infra: &ProxmoxCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "infra", Labels: map[string]string{clusterv1.ClusterNameLabel: "talos"}},
			Spec: ClusterSpec{
				ControlPlaneEndpoint: &Endpoint{Host: "10.20.30.10", Port: 6443},
				IPv4Config:           &IPConfig{Addresses: []string{"10.20.30.20-10.20.30.29"}, Prefix: 24, Gateway: "10.20.30.1"},
				AllowedNodes:         []string{"pve1", "pve2"},
				CredentialsRef:       &corev1.SecretReference{Name: "credentials"},
			},
		},
		secret: &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "credentials"},
			StringData: map[string]string{"url": "https://pve.example.internal:8006/", "token": "capi@pve!capi", "secret": "s"},
		},
	}
}

// createInfra creates the ProxmoxCluster, owned by the Cluster.
func (f *fleet) createInfra(t *testing.T) {
	t.Helper()
	f.infra.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: clusterv1.GroupVersion.String(), Kind: "Cluster", Name: f.cluster.Name, UID: f.cluster.UID,
	}}
	create(t, complete(t, f.infra, map[string]any{"dnsServers": []any{"10.20.0.2"}}))
	get(t, f.infra)
}

// up creates everything and waits until the infrastructure is there.
func (f *fleet) up(t *testing.T) *fleet {
	t.Helper()
	create(t, f.secret, f.cluster)
	f.createInfra(t)
	becomesProvisioned(t, f.infra)
	changeStatus(t, f.cluster, func() { f.cluster.Status.Initialization.InfrastructureProvisioned = ptr.To(true) })
	return f
}

// catchUp waits until the provider knows what has become of Clusters and ProxmoxClusters so far: it hears of those
// of one kind in order, and here it works on later ones. Of different kinds it hears in any order, and a ProxmoxCluster
// whose Cluster it does not know to be deleted, or paused, it treats as if it were not; nothing wakes it again.
func catchUp(t *testing.T) {
	t.Helper()
	newFleet(t).up(t)
}

// complete adds the required fields of the spec that our types lack.
func complete(t *testing.T, o client.Object, spec map[string]any) *unstructured.Unstructured {
	t.Helper()
	content, err := apiruntime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: content}
	gvk, err := c.GroupVersionKindFor(o)
	if err != nil {
		t.Fatal(err)
	}
	u.SetGroupVersionKind(gvk)
	delete(u.Object, "status")
	for key, value := range spec {
		if err := unstructured.SetNestedField(u.Object, value, "spec", key); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

var machineDefaults = map[string]any{
	"full":             true,
	"templateSelector": map[string]any{"matchTags": []any{"talos-1.12.7"}},
}

// machine creates a Machine and its ProxmoxMachine, with bootstrap data unless they are nil.
func (f *fleet) machine(t *testing.T, name string, userData []byte, edit func(*ProxmoxMachine)) (*clusterv1.Machine, *ProxmoxMachine) {
	t.Helper()
	labels := map[string]string{clusterv1.ClusterNameLabel: f.cluster.Name}
	owner := &clusterv1.Machine{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name, Labels: labels},
		Spec: clusterv1.MachineSpec{
			ClusterName: f.cluster.Name,
			Version:     "v1.34.4",
			Bootstrap:   clusterv1.Bootstrap{ConfigRef: clusterv1.ContractVersionedObjectReference{APIGroup: "bootstrap.cluster.x-k8s.io", Kind: "KubeadmConfig", Name: name}},
			InfrastructureRef: clusterv1.ContractVersionedObjectReference{
				APIGroup: GroupVersion.Group, Kind: "ProxmoxMachine", Name: name,
			},
		},
	}
	create(t, owner)
	machine := &ProxmoxMachine{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name, Labels: labels, OwnerReferences: []metav1.OwnerReference{{
			APIVersion: clusterv1.GroupVersion.String(), Kind: "Machine", Name: name, UID: owner.UID, Controller: ptr.To(true),
		}}},
		Spec: MachineSpec{Network: &Network{NetworkDevices: []NetworkDevice{{Name: "net0", DefaultIPv4: true}}}},
	}
	if edit != nil {
		edit(machine)
	}
	spec := maps.Clone(machineDefaults)
	if len(machine.Spec.Network.NetworkDevices) == 0 { // required, but may be empty
		spec["network"] = map[string]any{"networkDevices": []any{}}
	}
	create(t, complete(t, machine, spec))
	get(t, machine)
	if userData != nil {
		f.bootstrap(t, owner, userData)
	}
	return owner, machine
}

func (f *fleet) bootstrap(t *testing.T, owner *clusterv1.Machine, userData []byte) {
	t.Helper()
	create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: owner.Name + "-bootstrap"},
		Data:       map[string][]byte{"value": userData},
	})
	change(t, owner, func() { owner.Spec.Bootstrap.DataSecretName = ptr.To(owner.Name + "-bootstrap") })
}

var cloudConfig = []byte("#cloud-config\n")
