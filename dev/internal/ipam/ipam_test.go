package ipam_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/ipam"
	"capstan.dev/capstan/dev/internal/ipam/testenv"
)

var c client.Client

func TestMain(m *testing.M) {
	var stop func() error
	var err error
	c, stop, err = testenv.Start(testenv.Options{
		AddToScheme: []func(*apiruntime.Scheme) error{ipam.AddToScheme},
		Webhooks:    [][]byte{ipam.Webhooks},
		Setup: func(ctx context.Context, mgr ctrl.Manager) error {
			return ipam.Setup(ctx, mgr, ipam.Options{Log: logr.Discard()})
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

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		// The webhook server may not listen yet when the first test starts.
		gomega.NewWithT(t).Eventually(func() error {
			err := c.Create(t.Context(), o)
			if err != nil && strings.Contains(err.Error(), "failed calling webhook") {
				return err
			}
			if err != nil {
				t.Fatalf("create %T %s: %v", o, o.GetName(), err)
			}
			return nil
		}, 30*time.Second, 50*time.Millisecond).Should(gomega.Succeed())
	}
}

func eventually(t *testing.T, what func() error) {
	t.Helper()
	gomega.NewWithT(t).Eventually(what, 30*time.Second, 20*time.Millisecond).Should(gomega.Succeed())
}

func pool(ns, name string, addresses ...string) *ipam.InClusterIPPool {
	return &ipam.InClusterIPPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       ipam.PoolSpec{Addresses: addresses, Prefix: 24, Gateway: "10.0.0.1"},
	}
}

func claim(ns, name, kind, poolName string) *ipamv1.IPAddressClaim {
	return &ipamv1.IPAddressClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       ipamv1.IPAddressClaimSpec{PoolRef: ipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: kind, Name: poolName}},
	}
}

// address waits until the claim is fulfilled.
func address(t *testing.T, cl *ipamv1.IPAddressClaim) *ipamv1.IPAddress {
	t.Helper()
	a := &ipamv1.IPAddress{}
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(cl), cl); err != nil {
			return err
		}
		if cl.Status.AddressRef.Name == "" {
			return fmt.Errorf("claim %s has no address", cl.Name)
		}
		return c.Get(t.Context(), client.ObjectKey{Namespace: cl.Namespace, Name: cl.Status.AddressRef.Name}, a)
	})
	return a
}

func gone(t *testing.T, o client.Object) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%T %s is still there (%w)", o, o.GetName(), err)
		}
		return nil
	})
}

func counts(t *testing.T, p *ipam.InClusterIPPool, want ipam.Counts) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if diff := cmp.Diff(&want, p.Status.IPAddresses); diff != "" {
			return fmt.Errorf("counts of pool %s: %s", p.Name, diff)
		}
		return nil
	})
}

func TestClaimsAreFulfilled(t *testing.T) {
	ns := testenv.Namespace(t, c)
	p := pool(ns, "p", "10.0.0.1-10.0.0.20")
	first := claim(ns, "first", "InClusterIPPool", "p")
	first.Labels = map[string]string{clusterv1.ClusterNameLabel: "cluster"}
	// The claim comes before the pool and before its cluster.
	create(t, first, p, &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "cluster"},
		Spec:       clusterv1.ClusterSpec{InfrastructureRef: clusterv1.ContractVersionedObjectReference{APIGroup: "infrastructure.cluster.x-k8s.io", Kind: "ProxmoxCluster", Name: "cluster"}},
	})

	got := address(t, first)
	want := ipamv1.IPAddressSpec{
		ClaimRef: ipamv1.IPAddressClaimReference{Name: "first"},
		PoolRef:  first.Spec.PoolRef,
		Address:  "10.0.0.2", // the first is the gateway
		Prefix:   ptr.To[int32](24),
		Gateway:  "10.0.0.1",
	}
	if diff := cmp.Diff(want, got.Spec); diff != "" {
		t.Error(diff)
	}
	wantMeta := metav1.ObjectMeta{
		Labels:     map[string]string{clusterv1.ClusterNameLabel: "cluster"},
		Finalizers: []string{ipam.ProtectAddress},
		OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "ipam.cluster.x-k8s.io/v1beta2", Kind: "IPAddressClaim", Name: "first", UID: first.UID, Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true)},
			{APIVersion: "ipam.cluster.x-k8s.io/v1alpha2", Kind: "InClusterIPPool", Name: "p", UID: p.UID, Controller: ptr.To(false), BlockOwnerDeletion: ptr.To(true)},
		},
	}
	if diff := cmp.Diff(wantMeta, metav1.ObjectMeta{Labels: got.Labels, Finalizers: got.Finalizers, OwnerReferences: got.OwnerReferences}); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{ipam.ReleaseAddress}, first.Finalizers); diff != "" {
		t.Error(diff)
	}
	counts(t, p, ipam.Counts{Total: 19, Used: 1, Free: 18})
	if diff := cmp.Diff([]string{ipam.ProtectPool}, p.Finalizers); diff != "" {
		t.Error(diff)
	}

	// Claimed together, they still differ.
	seen := map[string]bool{got.Spec.Address: true}
	var claims []*ipamv1.IPAddressClaim
	for i := range 10 {
		cl := claim(ns, fmt.Sprintf("more-%d", i), "InClusterIPPool", "p")
		create(t, cl)
		claims = append(claims, cl)
	}
	for _, cl := range claims {
		a := address(t, cl).Spec.Address
		if seen[a] {
			t.Errorf("%s was given out twice", a)
		}
		seen[a] = true
	}
}

func TestExhaustedPoolServesWhatIsReleased(t *testing.T) {
	ns := testenv.Namespace(t, c)
	p := pool(ns, "p", "10.0.0.7")
	p.Spec.AddressReuseGracePeriodSeconds = ptr.To[int32](3600) // not honoured unless asked for
	first, second := claim(ns, "first", "InClusterIPPool", "p"), claim(ns, "second", "InClusterIPPool", "p")
	create(t, p, first)
	held := address(t, first)
	counts(t, p, ipam.Counts{Total: 1, Used: 1})
	create(t, second)
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(second), second); err != nil {
			return err
		}
		if len(second.Finalizers) == 0 {
			return fmt.Errorf("the second claim has not been looked at")
		}
		return nil
	})
	if second.Status.AddressRef.Name != "" {
		t.Fatalf("the second claim got an address from an exhausted pool")
	}

	// An address outlives its own deletion while it is claimed.
	if err := c.Delete(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(held), held); err != nil {
		t.Fatalf("the address is gone while it is claimed: %v", err)
	}
	if err := c.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	gone(t, first)
	gone(t, held)
	if got := address(t, second).Spec.Address; got != "10.0.0.7" {
		t.Errorf("the second claim got %s", got)
	}
}

func TestGlobalPoolServesAllNamespaces(t *testing.T) {
	one, other := testenv.Namespace(t, c), testenv.Namespace(t, c)
	p := &ipam.GlobalInClusterIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "global-" + one},
		Spec:       ipam.PoolSpec{Addresses: []string{"10.9.0.0/24"}, Prefix: 24},
	}
	a, b := claim(one, "a", "GlobalInClusterIPPool", p.Name), claim(other, "b", "GlobalInClusterIPPool", p.Name)
	create(t, p, a, b)
	got := map[string]bool{address(t, a).Spec.Address: true, address(t, b).Spec.Address: true}
	if diff := cmp.Diff(map[string]bool{"10.9.0.1": true, "10.9.0.2": true}, got); diff != "" {
		t.Error(diff)
	}
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if diff := cmp.Diff(&ipam.Counts{Total: 254, Used: 2, Free: 252}, p.Status.IPAddresses); diff != "" {
			return fmt.Errorf("counts: %s", diff)
		}
		return nil
	})
}

func TestPausedClusterGetsNoAddress(t *testing.T) {
	ns := testenv.Namespace(t, c)
	cluster := &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "cluster"},
		Spec: clusterv1.ClusterSpec{
			Paused:            ptr.To(true),
			InfrastructureRef: clusterv1.ContractVersionedObjectReference{APIGroup: "infrastructure.cluster.x-k8s.io", Kind: "ProxmoxCluster", Name: "cluster"},
		},
	}
	paused, control := claim(ns, "paused", "InClusterIPPool", "p"), claim(ns, "running", "InClusterIPPool", "p")
	paused.Labels = map[string]string{clusterv1.ClusterNameLabel: "cluster"}
	create(t, cluster, pool(ns, "p", "10.0.0.0/24"), paused, control)
	address(t, control) // one worker: the other claim has been looked at, and passed over
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(paused), paused); err != nil {
		t.Fatal(err)
	}
	if paused.Status.AddressRef.Name != "" || len(paused.Finalizers) > 0 {
		t.Fatalf("the claim of a paused cluster was worked on: %+v", paused)
	}
	before := cluster.DeepCopy()
	cluster.Spec.Paused = nil
	if err := c.Patch(t.Context(), cluster, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	address(t, paused)
}

func TestPoolsInUseAreProtected(t *testing.T) {
	ns := testenv.Namespace(t, c)
	p := pool(ns, "p", "10.0.0.20-10.0.0.29")
	cl := claim(ns, "claim", "InClusterIPPool", "p")
	create(t, p, cl)
	address(t, cl)
	counts(t, p, ipam.Counts{Total: 10, Used: 1, Free: 9})

	shrunk := p.DeepCopy()
	shrunk.Spec.Addresses = []string{"10.0.0.25-10.0.0.29"}
	refused(t, c.Patch(t.Context(), shrunk, client.MergeFrom(p)), "pool addresses do not contain allocated addresses: [10.0.0.20-10.0.0.20]")
	wider := p.DeepCopy()
	wider.Spec.Addresses = []string{"10.0.0.20-10.0.0.39"}
	if err := c.Patch(t.Context(), wider, client.MergeFrom(p)); err != nil {
		t.Error(err)
	}
	refused(t, c.Delete(t.Context(), p), "Pool has IPAddresses allocated. Cannot delete Pool until all IPAddresses have been removed.")

	skipping := wider.DeepCopy()
	metav1.SetMetaDataAnnotation(&skipping.ObjectMeta, "ipam.cluster.x-k8s.io/skip-validate-delete-webhook", "")
	if err := c.Patch(t.Context(), skipping, client.MergeFrom(wider)); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
		t.Fatalf("the pool is gone while an address is in use: %v", err)
	}
	if err := c.Delete(t.Context(), cl); err != nil {
		t.Fatal(err)
	}
	gone(t, cl)
	gone(t, p)
}

func TestBadPoolsAreRefused(t *testing.T) {
	ns := testenv.Namespace(t, c)
	create(t, pool(ns, "good", "10.0.0.20-10.0.0.29"))
	refused(t, c.Create(t.Context(), pool(ns, "bad", "10.0.0.1", "10.0.1.1")),
		`InClusterIPPool.ipam.cluster.x-k8s.io "bad" is invalid: spec.addresses: Invalid value: "10.0.1.1": provided address belongs to a different subnet`)
}

func refused(t *testing.T, err error, because string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), because) {
		t.Errorf("got %v, not a refusal because %s", err, because)
	}
}
