package proxmox

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// refused checks that err is nil if because is empty, and has it in its text otherwise.
func refused(t *testing.T, err error, because string) {
	t.Helper()
	if because == "" && err != nil || because != "" && (err == nil || !strings.Contains(err.Error(), because)) {
		t.Errorf("got %v, wanted a refusal because of %q", err, because)
	}
}

func TestValidateCluster(t *testing.T) {
	v4 := func(addresses ...string) *IPConfig {
		return &IPConfig{Addresses: addresses, Prefix: 24, Gateway: "10.0.0.1"}
	}
	at := func(host string) *Endpoint { return &Endpoint{Host: host, Port: 6443} }
	const noHost = "provided endpoint address is not a valid IP or FQDN"
	tests := map[string]struct {
		spec ClusterSpec
		want string
	}{
		"address":             {ClusterSpec{ControlPlaneEndpoint: at("10.0.0.2"), IPv4Config: v4("10.0.0.10-10.0.0.20")}, ""},
		"domain":              {ClusterSpec{ControlPlaneEndpoint: at("API.example.com"), IPv4Config: v4("10.0.0.10")}, ""},
		"short name":          {ClusterSpec{ControlPlaneEndpoint: at("api"), IPv4Config: v4("10.0.0.10")}, ""},
		"no pool":             {ClusterSpec{ControlPlaneEndpoint: at("10.0.0.2")}, "proxmox cluster must define at least one IP pool config"},
		"no endpoint":         {ClusterSpec{IPv4Config: v4("10.0.0.10")}, `spec.controlplaneEndpoint: Invalid value: "": ` + noHost},
		"underscore":          {ClusterSpec{ControlPlaneEndpoint: at("_api.example.com"), IPv4Config: v4("10.0.0.10")}, noHost},
		"managed elsewhere":   {ClusterSpec{ExternalManagedControlPlane: true, IPv4Config: v4("10.0.0.10")}, ""},
		"bad addresses":       {ClusterSpec{ControlPlaneEndpoint: at("10.0.0.2"), IPv4Config: v4("ten")}, "spec.IPv4Config.addresses: Invalid value: [\"ten\"]: provided addresses are not valid IP addresses, ranges or CIDRs"},
		"endpoint in a range": {ClusterSpec{ControlPlaneEndpoint: at("10.0.0.12"), IPv4Config: v4("10.0.0.10-10.0.0.20")}, "spec.IPv4Config.addresses: Invalid value: [\"10.0.0.10-10.0.0.20\"]: addresses may not contain the endpoint IP"},
		"endpoint in IPv6":    {ClusterSpec{ControlPlaneEndpoint: at("fd00::1"), IPv6Config: v4("fd00::/64")}, "spec.IPv6Config.addresses"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := newCluster(&ProxmoxCluster{Spec: tt.spec})
			refused(t, err, tt.want)
			_, err = newClusterTemplate(&ProxmoxClusterTemplate{Spec: ClusterTemplateSpec{Template: ClusterTemplateResource{Spec: tt.spec}}})
			refused(t, err, tt.want)
		})
	}
}

func TestValidateNetwork(t *testing.T) {
	devices := func(d ...NetworkDevice) Network { return Network{NetworkDevices: d} }
	routing := func(r Routing) Network { return devices(NetworkDevice{Name: "net0", Routing: r}) }
	table := ptr.To[int32](200)
	tests := map[string]struct {
		network Network
		want    string
	}{
		"good":              {devices(NetworkDevice{Name: "net1", MTU: ptr.To[int32](1)}, NetworkDevice{Name: "net0", DefaultIPv4: true, MTU: ptr.To[int32](9000)}), ""},
		"gap in the names":  {devices(NetworkDevice{Name: "net0"}, NetworkDevice{Name: "net2"}), `spec.network.networkDevices.1.name: Invalid value: "net2": Non-consecutive proxmox interface name`},
		"two defaults":      {devices(NetworkDevice{Name: "net0", DefaultIPv4: true}, NetworkDevice{Name: "net1", DefaultIPv4: true}), "More than one default IPv4/IPv6 interface in NetworkDevices"},
		"one of each":       {devices(NetworkDevice{Name: "net0", DefaultIPv4: true}, NetworkDevice{Name: "net1", DefaultIPv6: true}), ""},
		"MTU":               {devices(NetworkDevice{Name: "net0", MTU: ptr.To[int32](1279)}), "mtu must be at least 1280 or 1, but was 1279"},
		"link MTU":          {devices(NetworkDevice{Name: "net0", LinkMTU: ptr.To[int32](1)}), "mtu must be at least 1280, but was 1"},
		"policy, no table":  {routing(Routing{RoutingPolicy: []RoutingPolicy{{To: "10.0.0.0/8"}}}), "routing policy [0] requires a table"},
		"policy, no family": {routing(Routing{RoutingPolicy: []RoutingPolicy{{To: "default", Table: table}}}), "routing policy [0]: is6 must be set"},
		"policy":            {routing(Routing{RoutingPolicy: []RoutingPolicy{{To: "all", From: "10.0.0.0/8", Table: table}, {To: "all", Is6: ptr.To(true), Table: table}}}), ""},
		"route, no family":  {routing(Routing{Routes: []Route{{To: "10.0.0.0/8"}, {To: "default"}}}), "route [1]: is6 must be set when 'to' is a placeholder and 'via' is unset"},
		"route":             {routing(Routing{Routes: []Route{{To: "default", Via: "10.0.0.1"}}}), ""},
		"VRF, other table":  {Network{VRFs: []VRF{{Name: "blue", Table: 500, Routing: Routing{RoutingPolicy: []RoutingPolicy{{Table: table}}}}}}, "VRF blue: device/rule routing table mismatch 500 != 200"},
		"VRF, route":        {Network{VRFs: []VRF{{Name: "blue", Table: 500, Routing: Routing{Routes: []Route{{To: "all"}}}}}}, "VRF blue: route [0]: is6 must be set"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := newMachine(&ProxmoxMachine{Spec: MachineSpec{Network: &tt.network}})
			refused(t, err, tt.want)
		})
	}
}

func TestDefaultRoutes(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"none":              {`[{"name":"net0","unknown":1},{"name":"net1"}]`, `[{"defaultIPv4":true,"defaultIPv6":true,"name":"net0","unknown":1},{"name":"net1"}]`},
		"one on the second": {`[{"name":"net0"},{"name":"net1","defaultIPv4":true}]`, `[{"defaultIPv6":true,"name":"net0"},{"defaultIPv4":true,"name":"net1"}]`},
		"false is not set":  {`[{"name":"net0","defaultIPv4":false,"defaultIPv6":true}]`, `[{"defaultIPv4":true,"defaultIPv6":true,"name":"net0"}]`},
		"both":              {`[{"name":"net0","defaultIPv4":true,"defaultIPv6":true}]`, ""},
		"no devices":        {`[]`, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var devices []any
			if err := json.Unmarshal([]byte(tt.in), &devices); err != nil {
				t.Fatal(err)
			}
			machine := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"network": map[string]any{"networkDevices": devices}}}}
			got := ""
			if defaultRoutes(machine) {
				devices, _, _ := unstructured.NestedSlice(machine.Object, "spec", "network", "networkDevices")
				data, err := json.Marshal(devices)
				if err != nil {
					t.Fatal(err)
				}
				got = string(data)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The webhooks as the API server calls them.
func TestAdmission(t *testing.T) {
	f := newFleet(t).up(t)

	moved := f.infra.DeepCopy()
	moved.Spec.ControlPlaneEndpoint.Host = "10.20.30.22"
	refused(t, c.Patch(t.Context(), moved, client.MergeFrom(f.infra)), "addresses may not contain the endpoint IP")

	_, machine := f.machine(t, "m", nil, func(m *ProxmoxMachine) {
		m.Spec.Tags = []string{"capi"}
		m.Spec.Network.NetworkDevices = []NetworkDevice{{Name: "net0"}}
	})
	if d := machine.Spec.Network.NetworkDevices[0]; !d.DefaultIPv4 || !d.DefaultIPv6 {
		t.Errorf("the only network device is not the default one: %+v", d)
	}
	tagged := machine.DeepCopy()
	tagged.Spec.Tags = []string{"other"}
	refused(t, c.Patch(t.Context(), tagged, client.MergeFrom(machine)), "tags are immutable")
	bad := &ProxmoxMachine{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "bad"},
		Spec:       MachineSpec{Network: &Network{NetworkDevices: []NetworkDevice{{Name: "net1"}}}},
	}
	refused(t, c.Create(t.Context(), complete(t, bad, machineDefaults)),
		`ProxmoxMachine.infrastructure.cluster.x-k8s.io "bad" is invalid: spec.network.networkDevices.0.name`)

	template := func(name string, edit func(spec map[string]any)) *unstructured.Unstructured {
		spec := map[string]any{
			"network":  map[string]any{"networkDevices": []any{map[string]any{"name": "net0"}}},
			"numCores": int64(4),
		}
		for key, value := range machineDefaults {
			spec[key] = value
		}
		if edit != nil {
			edit(spec)
		}
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": GroupVersion.String(),
			"kind":       "ProxmoxMachineTemplate",
			"metadata":   map[string]any{"namespace": f.ns, "name": name},
			"spec":       map[string]any{"template": map[string]any{"spec": spec}},
		}}
	}
	refused(t, c.Create(t.Context(), template("bad", func(spec map[string]any) {
		spec["providerID"] = "proxmox://6c3fa683-bef9-4425-b413-eaa45a9d6191"
	})), "spec.template.spec.providerID: Forbidden: cannot be set in templates")
	good := template("good", nil)
	create(t, good)
	edited := good.DeepCopy()
	if err := unstructured.SetNestedField(edited.Object, int64(8), "spec", "template", "spec", "numCores"); err != nil {
		t.Fatal(err)
	}
	refused(t, c.Patch(t.Context(), edited, client.MergeFrom(good)),
		`ProxmoxMachineTemplate.infrastructure.cluster.x-k8s.io "good" is invalid: spec: Forbidden: ProxmoxMachineTemplate is immutable`)
	labelled := good.DeepCopy()
	labelled.SetLabels(map[string]string{"a": "b"})
	refused(t, c.Patch(t.Context(), labelled, client.MergeFrom(good)), "")

	clusterTemplate := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": GroupVersion.String(),
		"kind":       "ProxmoxClusterTemplate",
		"metadata":   map[string]any{"namespace": f.ns, "name": "bad"},
		"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
			"dnsServers":           []any{"10.20.0.2"},
			"controlPlaneEndpoint": map[string]any{"host": "10.20.30.20", "port": int64(6443)},
			"ipv4Config":           map[string]any{"addresses": []any{"10.20.30.0/24"}, "prefix": int64(24), "gateway": "10.20.30.1"},
		}}},
	}}
	refused(t, c.Create(t.Context(), clusterTemplate), "addresses may not contain the endpoint IP")
}
