package proxmox

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

func TestChooseNode(t *testing.T) {
	at := func(nodes ...string) []NodeLocation {
		var out []NodeLocation
		for i, node := range nodes {
			out = append(out, NodeLocation{Machine: corev1.LocalObjectReference{Name: fmt.Sprint(i)}, Node: node})
		}
		return out
	}
	tests := map[string]struct {
		clusterNodes, machineNodes []string
		source                     string
		locations                  *NodeLocations
		controlPlane               bool
		want                       string
	}{
		"first of equals":            {clusterNodes: []string{"a", "b"}, want: "a"},
		"fewest":                     {clusterNodes: []string{"a", "b", "c"}, locations: &NodeLocations{Workers: at("a", "b", "a")}, want: "c"},
		"roles count apart":          {clusterNodes: []string{"a", "b"}, locations: &NodeLocations{Workers: at("a")}, controlPlane: true, want: "a"},
		"control plane":              {clusterNodes: []string{"a", "b"}, locations: &NodeLocations{ControlPlane: at("a")}, controlPlane: true, want: "b"},
		"machine's nodes go first":   {clusterNodes: []string{"a", "b"}, machineNodes: []string{"c"}, want: "c"},
		"machines elsewhere":         {clusterNodes: []string{"a", "b"}, locations: &NodeLocations{Workers: at("x", "x", "a")}, want: "b"},
		"any: that of the template":  {source: "s", want: "s"},
		"any: template by its tags":  {want: "pve1"},
		"allowed goes before source": {clusterNodes: []string{"a"}, source: "s", want: "a"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cluster := &ProxmoxCluster{Spec: ClusterSpec{AllowedNodes: tt.clusterNodes}, Status: ClusterStatus{NodeLocations: tt.locations}}
			machine := &ProxmoxMachine{Spec: MachineSpec{AllowedNodes: tt.machineNodes, SourceNode: tt.source}}
			if got := chooseNode(cluster, machine, tt.controlPlane); got != tt.want {
				t.Errorf("got %s, not %s", got, tt.want)
			}
		})
	}
}

func TestChooseID(t *testing.T) {
	tests := map[string]struct {
		ids  *IDRange
		used map[int64]bool
		want int64
		err  error
	}{
		"first of all":    {want: 100},
		"next free":       {used: map[int64]bool{100: true, 101: true, 103: true}, want: 102},
		"range":           {ids: &IDRange{Start: 500, End: 502}, used: map[int64]bool{500: true}, want: 501},
		"last of a range": {ids: &IDRange{Start: 500, End: 501}, used: map[int64]bool{500: true}, want: 501},
		"full range":      {ids: &IDRange{Start: 500, End: 501}, used: map[int64]bool{500: true, 501: true}, err: errNoFreeID},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := chooseID(tt.ids, tt.used)
			if got != tt.want || err != tt.err { //nolint:errorlint // it is returned as it is
				t.Errorf("got %d, %v, not %d, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestLocateAndForget(t *testing.T) {
	status := &ClusterStatus{}
	forget(status, "a", false) // of nothing
	if status.NodeLocations != nil {
		t.Errorf("forgetting recorded %+v", status.NodeLocations)
	}
	for _, tt := range []struct{ machine, node, want string }{{"a", "n1", "n1"}, {"b", "n2", "n2"}, {"a", "n2", "n1"}} {
		if got := locate(status, tt.machine, tt.node, false); got != tt.want {
			t.Errorf("%s is on %s, not %s", tt.machine, got, tt.want)
		}
	}
	forget(status, "a", true) // of the other role
	forget(status, "a", false)
	want := &NodeLocations{Workers: []NodeLocation{{Machine: corev1.LocalObjectReference{Name: "b"}, Node: "n2"}}}
	if diff := cmp.Diff(want, status.NodeLocations); diff != "" {
		t.Error(diff)
	}
}

func TestWantedClaims(t *testing.T) {
	storage := corev1.TypedLocalObjectReference{APIGroup: ptr.To("ipam.cluster.x-k8s.io"), Kind: "GlobalInClusterIPPool", Name: "storage"}
	cluster := &ProxmoxCluster{Status: ClusterStatus{InClusterZoneRef: []ZoneRef{
		{Zone: "default", InClusterIPPoolRefV4: &corev1.LocalObjectReference{Name: "v4"}, InClusterIPPoolRefV6: &corev1.LocalObjectReference{Name: "v6"}},
		{Zone: "b", InClusterIPPoolRefV4: &corev1.LocalObjectReference{Name: "b-v4"}},
	}}}
	tests := map[string]struct {
		network *Network
		want    []string
	}{
		"both families": {
			&Network{NetworkDevices: []NetworkDevice{{Name: "net0", DefaultIPv4: true, DefaultIPv6: true}}},
			[]string{"m-net0-00-inet InClusterIPPool/v4 gateway", "m-net0-01-inet InClusterIPPool/v6 gateway"},
		},
		"own pools first": {
			&Network{NetworkDevices: []NetworkDevice{
				{Name: "net0", IPPoolRef: []corev1.TypedLocalObjectReference{storage}, DefaultIPv4: true},
				{Name: "net1", IPPoolRef: []corev1.TypedLocalObjectReference{storage}},
				{Name: "net2"},
			}},
			[]string{"m-net0-00-inet InClusterIPPool/v4 gateway", "m-net0-01-inet GlobalInClusterIPPool/storage", "m-net1-00-inet GlobalInClusterIPPool/storage"},
		},
		"zone without IPv6": {
			&Network{Zone: ptr.To("b"), NetworkDevices: []NetworkDevice{{Name: "net0", DefaultIPv4: true, DefaultIPv6: true}}},
			[]string{"m-net0-00-inet InClusterIPPool/b-v4 gateway"},
		},
		"no such zone": {&Network{Zone: ptr.To("c")}, []string{"zone c not found"}},
		"no network":   {nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			claims, err := wantedClaims(cluster, &ProxmoxMachine{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: MachineSpec{Network: tt.network}})
			var got []string
			if err != nil {
				got = []string{err.Error()}
			}
			for _, claim := range claims {
				s := fmt.Sprintf("%s %s/%s", claim.name, claim.pool.Kind, claim.pool.Name)
				if claim.gateway {
					s += " gateway"
				}
				got = append(got, s)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	claims := []wantedClaim{
		{name: "a", device: "net1"},
		{name: "b", device: "net0", gateway: true},
		{name: "c", device: "net0", gateway: true, offset: 1},
	}
	got := ipAddresses(claims, map[string]string{"a": "10.99.0.1", "b": "10.0.0.1", "c": "fd00::1"})
	want := []IPAddresses{
		{Net: "default", IPv4: []string{"10.0.0.1"}, IPv6: []string{"fd00::1"}},
		{Net: "net0", IPv4: []string{"10.0.0.1"}, IPv6: []string{"fd00::1"}},
		{Net: "net1", IPv4: []string{"10.99.0.1"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	machine := &ProxmoxMachine{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Status: MachineStatus{IPAddresses: got}}
	if diff := cmp.Diff([]clusterv1.MachineAddress{
		{Type: "Hostname", Address: "m"}, {Type: "InternalIP", Address: "10.0.0.1"}, {Type: "InternalIP", Address: "fd00::1"},
	}, machineAddresses(machine)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"10.0.0.1", "fd00::1"}, guestAddresses(machine)); diff != "" {
		t.Error(diff)
	}
	machine.Status.IPAddresses = ipAddresses(claims[:1], map[string]string{"a": "10.99.0.1"})
	if diff := cmp.Diff([]string{"10.99.0.1"}, guestAddresses(machine)); diff != "" {
		t.Error(diff)
	}
}
