package proxmox

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"capstan.dev/capstan/dev/internal/ipam"
)

// Labels and annotations by which pools and claims are told apart.
const (
	zoneLabel                = "topology.kubernetes.io/proxmox-zone"
	familyAnnotation         = "ipam.capmox.cluster.x-k8s.io/ip-family"
	metricAnnotation         = "ipam.capmox.cluster.x-k8s.io/gateway-metric"
	oldMetricAnnotation      = "metric"
	offsetAnnotation         = "ipam.capmox.cluster.x-k8s.io/pool-ref-counter"
	defaultGatewayAnnotation = "ipam.capmox.cluster.x-k8s.io/default-gateway"

	defaultZone = "default"
	ipv4        = "ipv4"
	ipv6        = "ipv6"

	// reuseGracePeriod is what the provider asks for in every pool of its own.
	reuseGracePeriod = 60
)

// wantedPools returns the pools that a ProxmoxCluster is to have: one per family, for itself and for
// each of its zones.
func wantedPools(cluster *ProxmoxCluster) ([]*ipam.InClusterIPPool, error) {
	zones := append([]ZoneConfig{{IPv4Config: cluster.Spec.IPv4Config, IPv6Config: cluster.Spec.IPv6Config}}, cluster.Spec.ZoneConfig...)
	var pools []*ipam.InClusterIPPool
	for _, zone := range zones {
		for _, config := range []*IPConfig{zone.IPv4Config, zone.IPv6Config} {
			if config == nil || len(config.Addresses) == 0 {
				continue
			}
			pool, err := wantedPool(cluster, zone.Zone, config)
			if err != nil {
				return nil, err
			}
			pools = append(pools, pool)
		}
	}
	return pools, nil
}

func wantedPool(cluster *ProxmoxCluster, zone string, config *IPConfig) (*ipam.InClusterIPPool, error) {
	// The family is that of the addresses, in whichever of the two fields they are.
	first, err := ipam.ParseSpan(config.Addresses[0])
	if err != nil {
		return nil, fmt.Errorf("addresses of ProxmoxCluster %s/%s: %w", cluster.Namespace, cluster.Name, err)
	}
	family, suffix := ipv4, "v4-icip"
	if first.From.Is6() {
		family, suffix = ipv6, "v6-icip"
	}
	name, label := cluster.Name+"-"+suffix, defaultZone
	if zone != "" {
		name, label = cluster.Name+"-"+zone+"-"+suffix, zone
	}
	metric := ""
	if config.Metric != nil && *config.Metric >= 0 {
		metric = fmt.Sprint(*config.Metric)
	}
	return &ipam.InClusterIPPool{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   cluster.Namespace,
			Name:        name,
			Labels:      map[string]string{zoneLabel: label},
			Annotations: map[string]string{familyAnnotation: family, metricAnnotation: metric, oldMetricAnnotation: metric},
		},
		Spec: ipam.PoolSpec{
			Addresses:                      config.Addresses,
			Prefix:                         int(config.Prefix),
			Gateway:                        config.Gateway,
			AddressReuseGracePeriodSeconds: ptr.To[int32](reuseGracePeriod),
		},
	}, nil
}

// notePool records a pool in the status. Pools of earlier specs stay in it, as they stay themselves.
func notePool(status *ClusterStatus, pool *ipam.InClusterIPPool) {
	ref := corev1.LocalObjectReference{Name: pool.Name}
	if !slices.Contains(status.InClusterIPPoolRef, ref) {
		status.InClusterIPPoolRef = append(status.InClusterIPPoolRef, ref)
	}
	zone, ok := pool.Labels[zoneLabel]
	if !ok {
		zone = defaultZone
	}
	i := slices.IndexFunc(status.InClusterZoneRef, func(r ZoneRef) bool { return r.Zone == zone })
	if i < 0 {
		i = len(status.InClusterZoneRef)
		status.InClusterZoneRef = append(status.InClusterZoneRef, ZoneRef{Zone: zone})
	}
	switch pool.Annotations[familyAnnotation] {
	case ipv4:
		status.InClusterZoneRef[i].InClusterIPPoolRefV4 = &ref
	case ipv6:
		status.InClusterZoneRef[i].InClusterIPPoolRefV6 = &ref
	}
}
