package proxmox

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capstan.dev/capstan/dev/internal/ipam"
)

// wantedClaim is an address that a network device is to have.
type wantedClaim struct {
	name    string
	device  string
	pool    ipamv1.IPPoolReference
	offset  int
	gateway bool // the pool is the cluster's own, so the default route goes through it
}

func (w wantedClaim) annotations() map[string]string {
	out := map[string]string{offsetAnnotation: fmt.Sprint(w.offset)}
	if w.gateway {
		out[defaultGatewayAnnotation] = "true"
	}
	return out
}

// wantedClaims returns the claims of a machine: for each network device one per pool, the cluster's
// pools first.
func wantedClaims(cluster *ProxmoxCluster, machine *ProxmoxMachine) ([]wantedClaim, error) {
	if machine.Spec.Network == nil {
		return nil, nil
	}
	zone := defaultZone
	if z := machine.Spec.Network.Zone; z != nil {
		zone = *z
	}
	i := slices.IndexFunc(cluster.Status.InClusterZoneRef, func(r ZoneRef) bool { return r.Zone == zone })
	if i < 0 {
		return nil, fmt.Errorf("zone %s not found", zone)
	}
	refs := cluster.Status.InClusterZoneRef[i]

	var claims []wantedClaim
	for _, device := range machine.Spec.Network.NetworkDevices {
		var own []corev1.TypedLocalObjectReference
		if device.DefaultIPv4 && refs.InClusterIPPoolRefV4 != nil {
			own = append(own, corev1.TypedLocalObjectReference{Kind: ipam.PoolKind, Name: refs.InClusterIPPoolRefV4.Name})
		}
		if device.DefaultIPv6 && refs.InClusterIPPoolRefV6 != nil {
			own = append(own, corev1.TypedLocalObjectReference{Kind: ipam.PoolKind, Name: refs.InClusterIPPoolRefV6.Name})
		}
		for offset, pool := range slices.Concat(own, device.IPPoolRef) {
			claims = append(claims, wantedClaim{
				name:    fmt.Sprintf("%s-%s-%02d-inet", machine.Name, device.Name, offset),
				device:  device.Name,
				pool:    ipamv1.IPPoolReference{APIGroup: ipam.GroupVersion.Group, Kind: pool.Kind, Name: pool.Name},
				offset:  offset,
				gateway: offset < len(own),
			})
		}
	}
	return claims, nil
}

// addresses returns the addresses of a machine's claims, by name of the claim. A claim that is not
// there is created. Blocked says what a person has to see to.
func (r *machineReconciler) addresses(ctx context.Context, s *machineScope, claims []wantedClaim) (got map[string]string, blocked string, err error) {
	got = map[string]string{}
	for _, want := range claims {
		claim := &ipamv1.IPAddressClaim{}
		err := r.Get(ctx, client.ObjectKey{Namespace: s.machine.Namespace, Name: want.name}, claim)
		if apierrors.IsNotFound(err) {
			if err := r.createClaim(ctx, s, want); err != nil {
				return nil, "", fmt.Errorf("create IPAddressClaim %s/%s: %w", s.machine.Namespace, want.name, err)
			}
			continue
		}
		if err != nil {
			return nil, "", err
		}
		address, problem, err := r.address(ctx, s.machine, claim, want)
		switch {
		case err != nil:
			return nil, "", err
		case problem != "":
			blocked = problem
		case address != "":
			got[want.name] = address
		}
	}
	return got, blocked, nil
}

func (r *machineReconciler) address(ctx context.Context, machine *ProxmoxMachine, claim *ipamv1.IPAddressClaim, want wantedClaim) (address, problem string, err error) {
	conflict := func(reason string) string {
		return fmt.Sprintf("Static IP claim %q is conflicting (%s); inspect the IPAddressClaim ownership, poolRef, "+
			"and referenced IPAddress before provisioning can continue.", claim.Name, reason)
	}
	owned := slices.ContainsFunc(claim.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == machine.UID })
	switch {
	case !owned:
		return "", conflict("OwnerMismatch"), nil
	case claim.Spec.PoolRef != want.pool:
		return "", conflict("PoolMismatch"), nil
	case claim.Status.AddressRef.Name == "":
		return "", "", nil
	}
	found := &ipamv1.IPAddress{}
	err = r.Get(ctx, client.ObjectKey{Namespace: claim.Namespace, Name: claim.Status.AddressRef.Name}, found)
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Sprintf("Static IP claim %q references a missing IPAddress %q; delete the stale IPAddressClaim to allow recovery.",
			claim.Name, claim.Status.AddressRef.Name), nil
	case err != nil:
		return "", "", err
	case found.Spec.PoolRef != want.pool:
		return "", conflict("AddressPoolRef"), nil
	}
	return found.Spec.Address, "", nil
}

func (r *machineReconciler) createClaim(ctx context.Context, s *machineScope, want wantedClaim) error {
	labels := map[string]string{clusterv1.ClusterNameLabel: s.cluster.Name}
	var pool client.Object = &ipam.InClusterIPPool{}
	key := client.ObjectKey{Namespace: s.machine.Namespace, Name: want.pool.Name}
	if want.pool.Kind == ipam.GlobalPoolKind {
		pool, key.Namespace = &ipam.GlobalInClusterIPPool{}, ""
	}
	if err := r.Get(ctx, key, pool); err != nil {
		return fmt.Errorf("unable to find %s %s for cluster %s: %w", want.pool.Kind, want.pool.Name, s.machine.Name, err)
	}
	if zone, ok := pool.GetLabels()[zoneLabel]; ok {
		labels[zoneLabel] = zone
	}
	claim := &ipamv1.IPAddressClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   s.machine.Namespace,
			Name:        want.name,
			Labels:      labels,
			Annotations: want.annotations(),
		},
		Spec: ipamv1.IPAddressClaimSpec{PoolRef: want.pool},
	}
	if err := controllerutil.SetControllerReference(s.machine, claim, r.Scheme()); err != nil {
		return err
	}
	// It may be there already, only not in the cache yet. Then its event wakes us.
	if err := r.Create(ctx, claim); !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// ipAddresses is status.ipAddresses for the addresses of the claims: those from the cluster's own
// pools as "default", then each device's.
func ipAddresses(claims []wantedClaim, addresses map[string]string) []IPAddresses {
	out := []IPAddresses{{Net: "default"}}
	add := func(net, address string) {
		i := slices.IndexFunc(out, func(a IPAddresses) bool { return a.Net == net })
		if i < 0 {
			i = len(out)
			out = append(out, IPAddresses{Net: net})
		}
		if ip, err := netip.ParseAddr(address); err == nil && ip.Is6() {
			out[i].IPv6 = append(out[i].IPv6, address)
		} else {
			out[i].IPv4 = append(out[i].IPv4, address)
		}
	}
	for _, claim := range claims {
		if claim.gateway {
			add("default", addresses[claim.name])
		}
		add(claim.device, addresses[claim.name])
	}
	slices.SortStableFunc(out[1:], func(a, b IPAddresses) int { return strings.Compare(a.Net, b.Net) })
	return out
}

// machineAddresses is status.addresses, and guestAddresses what the guest is given: the addresses of
// "default" or, without any, all there are.
func machineAddresses(machine *ProxmoxMachine) []clusterv1.MachineAddress {
	out := []clusterv1.MachineAddress{{Type: clusterv1.MachineHostName, Address: machine.Name}}
	for _, a := range machine.Status.IPAddresses {
		if a.Net == "default" {
			for _, address := range slices.Concat(a.IPv4, a.IPv6) {
				out = append(out, clusterv1.MachineAddress{Type: clusterv1.MachineInternalIP, Address: address})
			}
		}
	}
	return out
}

func guestAddresses(machine *ProxmoxMachine) []string {
	var own, all []string
	for _, a := range machine.Status.IPAddresses {
		if a.Net == "default" {
			own = slices.Concat(a.IPv4, a.IPv6)
		} else {
			all = slices.Concat(all, a.IPv4, a.IPv6)
		}
	}
	if len(own) > 0 {
		return own
	}
	return all
}
