package proxmox

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/ipam"
)

func TestClusterBecomesAvailable(t *testing.T) {
	f := newFleet(t)
	f.infra.Spec.IPv6Config = &IPConfig{Addresses: []string{"fd00::100-fd00::1ff"}, Prefix: 64, Gateway: "fd00::1", Metric: ptr.To[int32](7)}
	f.infra.Spec.ZoneConfig = []ZoneConfig{{Zone: "b", IPv4Config: &IPConfig{Addresses: []string{"10.30.0.0/24"}, Prefix: 24, Gateway: "10.30.0.1"}}}
	create(t, f.secret, f.cluster)
	f.infra.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: clusterv1.GroupVersion.String(), Kind: "Cluster", Name: f.cluster.Name, UID: f.cluster.UID,
	}}
	u := complete(t, f.infra, map[string]any{"dnsServers": []any{"10.20.0.2"}})
	zones := u.Object["spec"].(map[string]any)["zoneConfig"].([]any)
	zones[0].(map[string]any)["dnsServers"] = []any{"10.20.0.2"}
	create(t, u)
	becomesProvisioned(t, f.infra)

	if c := conditions.Get(f.infra, ProxmoxAvailable); c.Status != metav1.ConditionTrue || c.Reason != "Provisioned" {
		t.Errorf("ProxmoxAvailable is %+v", c)
	}
	if !conditions.IsTrue(f.infra, "Ready") {
		t.Errorf("Ready is %+v", conditions.Get(f.infra, "Ready"))
	}
	ref := func(name string) *corev1.LocalObjectReference { return &corev1.LocalObjectReference{Name: name} }
	want := ClusterStatus{
		Conditions:         f.infra.Status.Conditions,
		Initialization:     &Initialization{Provisioned: ptr.To(true)},
		InClusterIPPoolRef: []corev1.LocalObjectReference{{Name: "infra-v4-icip"}, {Name: "infra-v6-icip"}, {Name: "infra-b-v4-icip"}},
		InClusterZoneRef: []ZoneRef{
			{Zone: "default", InClusterIPPoolRefV4: ref("infra-v4-icip"), InClusterIPPoolRefV6: ref("infra-v6-icip")},
			{Zone: "b", InClusterIPPoolRefV4: ref("infra-b-v4-icip")},
		},
	}
	if diff := cmp.Diff(want, f.infra.Status); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"proxmoxcluster.infrastructure.cluster.x-k8s.io"}, f.infra.Finalizers); diff != "" {
		t.Error(diff)
	}

	get(t, f.secret)
	owner := metav1.OwnerReference{APIVersion: "infrastructure.cluster.x-k8s.io/v1alpha2", Kind: "ProxmoxCluster", Name: "infra", UID: f.infra.UID}
	if diff := cmp.Diff([]metav1.OwnerReference{owner}, f.secret.OwnerReferences); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"proxmoxcluster.infrastructure.cluster.x-k8s.io/secret"}, f.secret.Finalizers); diff != "" {
		t.Error(diff)
	}

	pool := &ipam.InClusterIPPool{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "infra-v6-icip"}}
	get(t, pool)
	owner.Controller, owner.BlockOwnerDeletion = ptr.To(true), ptr.To(true)
	if diff := cmp.Diff([]metav1.OwnerReference{owner}, pool.OwnerReferences); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"topology.kubernetes.io/proxmox-zone": "default"}, pool.Labels); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{
		"ipam.capmox.cluster.x-k8s.io/ip-family": "ipv6", "ipam.capmox.cluster.x-k8s.io/gateway-metric": "7", "metric": "7",
	}, pool.Annotations); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(ipam.PoolSpec{
		Addresses: []string{"fd00::100-fd00::1ff"}, Prefix: 64, Gateway: "fd00::1", AddressReuseGracePeriodSeconds: ptr.To[int32](60),
	}, pool.Spec); diff != "" {
		t.Error(diff)
	}

	// A change of the addresses reaches the pool.
	change(t, f.infra, func() { f.infra.Spec.IPv6Config.Addresses = []string{"fd00::200"} })
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		if diff := cmp.Diff([]string{"fd00::200"}, pool.Spec.Addresses); diff != "" {
			return fmt.Errorf("addresses of the pool: %s", diff)
		}
		return nil
	})
}

func TestClusterWithoutCredentials(t *testing.T) {
	f := newFleet(t)
	create(t, f.cluster)
	f.createInfra(t)
	reaches(t, f.infra, ProxmoxAvailable, CredentialsNotFound)
	condition := conditions.Get(f.infra, ProxmoxAvailable)
	if condition.Status != metav1.ConditionFalse || !strings.HasPrefix(condition.Message, "credentials secret not found") {
		t.Errorf("ProxmoxAvailable is %+v", condition)
	}
	if f.infra.Status.Initialization.done() || len(f.infra.Finalizers) > 0 {
		t.Errorf("went on without credentials: %+v", f.infra)
	}

	url := f.secret.StringData["url"]
	f.secret.StringData["url"] = ""
	create(t, f.secret)
	reaches(t, f.infra, ProxmoxAvailable, ProxmoxUnreachable)
	change(t, f.secret, func() { f.secret.Data["url"] = []byte(url) })
	becomesProvisioned(t, f.infra)
}

func TestClusterWithTheProvidersCredentials(t *testing.T) {
	f := newFleet(t)
	f.infra.Spec.CredentialsRef = nil
	create(t, f.cluster)
	f.createInfra(t)
	becomesProvisioned(t, f.infra)
}

func TestClusterWaitsForAnEndpointManagedElsewhere(t *testing.T) {
	f := newFleet(t)
	f.infra.Spec.ExternalManagedControlPlane, f.infra.Spec.ControlPlaneEndpoint = true, nil
	create(t, f.secret, f.cluster)
	f.createInfra(t)
	reaches(t, f.infra, ProxmoxAvailable, MissingControlPlaneEndpoint)
	change(t, f.infra, func() { f.infra.Spec.ControlPlaneEndpoint = &Endpoint{Host: "10.20.30.10", Port: 6443} })
	becomesProvisioned(t, f.infra)
}

func TestUnownedOrPausedClusterIsLeftAlone(t *testing.T) {
	unowned, paused := newFleet(t), newFleet(t)
	create(t, unowned.secret, unowned.cluster, complete(t, unowned.infra, map[string]any{"dnsServers": []any{"10.20.0.2"}}))
	paused.cluster.Spec.Paused = ptr.To(true)
	create(t, paused.secret, paused.cluster)
	paused.createInfra(t)
	catchUp(t)
	for _, f := range []*fleet{unowned, paused} {
		get(t, f.infra)
		if len(f.infra.Finalizers) > 0 || len(f.infra.Status.Conditions) > 0 {
			t.Errorf("it was worked on: %+v", f.infra)
		}
	}
	change(t, paused.cluster, func() { paused.cluster.Spec.Paused = nil })
	becomesProvisioned(t, paused.infra)
}

func TestClusterIsDeletedWithItsOwner(t *testing.T) {
	f := newFleet(t).up(t)
	_, machine := f.machine(t, "m", cloudConfig, nil)
	becomesProvisioned(t, machine)

	// Not before its owner is.
	remove(t, f.infra)
	remove(t, f.cluster)
	catchUp(t)
	get(t, f.infra)
	remove(t, machine)
	gone(t, machine)
	gone(t, f.infra)
	get(t, f.secret)
	if len(f.secret.Finalizers) > 0 {
		t.Errorf("the credentials still have finalizers %v", f.secret.Finalizers)
	}
}

func TestClusterDeletedAloneStays(t *testing.T) {
	f := newFleet(t).up(t)
	remove(t, f.infra)
	catchUp(t)
	get(t, f.infra)
	if diff := cmp.Diff([]string{clusterFinalizer}, f.infra.Finalizers); diff != "" {
		t.Error(diff)
	}
}

func TestCredentialsSharedByClusters(t *testing.T) {
	one, other := newFleet(t), newFleet(t)
	for _, o := range []metav1.Object{other.cluster, other.infra} {
		o.SetNamespace(one.ns)
		o.SetName("other")
	}
	one.up(t)
	create(t, other.cluster)
	other.createInfra(t)
	becomesProvisioned(t, other.infra)

	remove(t, one.cluster)
	catchUp(t)
	remove(t, one.infra)
	gone(t, one.infra)
	get(t, one.secret)
	if len(one.secret.OwnerReferences) != 1 || one.secret.OwnerReferences[0].UID != other.infra.UID || len(one.secret.Finalizers) != 1 {
		t.Errorf("the credentials have owners %+v and finalizers %v", one.secret.OwnerReferences, one.secret.Finalizers)
	}
}
