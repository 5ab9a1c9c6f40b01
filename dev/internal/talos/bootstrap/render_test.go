package bootstrap

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/dev/internal/talos/api"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// testSecrets are made once, since an RSA key takes seconds. What depends on the contract here is only the key's kind.
var testSecrets = sync.OnceValues(func() (*secrets.Bundle, error) {
	return secrets.NewBundle(secrets.NewFixedClock(now), config.TalosVersionCurrent)
})

// input is a control plane machine of a cluster.
func input(t *testing.T, spec api.TalosConfigSpec) Input {
	t.Helper()
	bundle, err := testSecrets()
	if err != nil {
		t.Fatal(err)
	}
	return Input{
		Spec: spec,
		Machine: &clusterv1.Machine{
			ObjectMeta: metav1.ObjectMeta{Name: "red-cp-x7k2p"},
			Spec: clusterv1.MachineSpec{
				Version:           "v1.32.4",
				InfrastructureRef: clusterv1.ContractVersionedObjectReference{Name: "red-infra-q9w8e"},
			},
		},
		Cluster: &clusterv1.Cluster{
			ObjectMeta: metav1.ObjectMeta{Name: "red"},
			Spec: clusterv1.ClusterSpec{
				ControlPlaneEndpoint: clusterv1.APIEndpoint{Host: "10.1.0.5", Port: 6443},
				ClusterNetwork: clusterv1.ClusterNetwork{
					Pods:          clusterv1.NetworkRanges{CIDRBlocks: []string{"10.20.0.0/16", "fd00:20::/56"}},
					Services:      clusterv1.NetworkRanges{CIDRBlocks: []string{"10.21.0.0/16", "fd00:21::/112"}},
					ServiceDomain: "red.local",
				},
			},
		},
		Secrets: bundle,
		Now:     now,
	}
}

// mustRender renders and loads the result.
func mustRender(t *testing.T, in Input) config.Provider {
	t.Helper()
	machineConfig, _, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	return load(t, machineConfig)
}

func load(t *testing.T, machineConfig string) config.Provider {
	t.Helper()
	provider, err := configloader.NewFromBytes([]byte(machineConfig))
	if err != nil {
		t.Fatalf("%v\n%s", err, machineConfig)
	}
	return provider
}

// nocloud is the platform of Talos in Proxmox.
type nocloud struct{}

func (nocloud) String() string        { return "nocloud" }
func (nocloud) RequiresInstall() bool { return false }
func (nocloud) InContainer() bool     { return false }

func assertValid(t *testing.T, provider config.Provider) {
	t.Helper()
	if _, err := provider.Validate(nocloud{}); err != nil {
		t.Errorf("Talos refuses the configuration: %v", err)
	}
}

func kinds(provider config.Provider) []string {
	var kinds []string
	for _, document := range provider.Documents() {
		kinds = append(kinds, document.Kind())
	}
	return kinds
}

// legacyHostname is the host name in the field that Talos 1.12 replaced by a document.
func legacyHostname(provider config.Provider) string {
	n := provider.RawV1Alpha1().MachineConfig.MachineNetwork //nolint:staticcheck // old versions read nothing else
	if n != nil {
		return n.NetworkHostname //nolint:staticcheck // as above
	}
	return ""
}

func TestRenderContracts(t *testing.T) {
	for _, tc := range []struct {
		talosVersion string
		wantKinds    []string
	}{
		{"v1.9", []string{"v1alpha1"}},
		{"v1.9.5", []string{"v1alpha1"}},
		{"v1.10", []string{"v1alpha1"}},
		{"1.11", []string{"v1alpha1"}},
		{"v1.12.0", []string{"v1alpha1", "HostnameConfig"}},
		{"v1.13", []string{"v1alpha1", "HostnameConfig"}},
		{"", []string{"v1alpha1", "HostnameConfig"}},
	} {
		for generateType, wantType := range map[string]machine.Type{
			"controlplane": machine.TypeControlPlane,
			"init":         machine.TypeInit,
			"worker":       machine.TypeWorker,
			"join":         machine.TypeWorker,
			"":             machine.TypeWorker,
		} {
			t.Run(tc.talosVersion+"/"+generateType, func(t *testing.T) {
				provider := mustRender(t, input(t, api.TalosConfigSpec{
					GenerateType: generateType, TalosVersion: tc.talosVersion,
				}))
				assertValid(t, provider)
				if diff := cmp.Diff(tc.wantKinds, kinds(provider)); diff != "" {
					t.Errorf("documents (-want +got):\n%s", diff)
				}
				if got := provider.Machine().Type(); got != wantType {
					t.Errorf("machine type %s, want %s", got, wantType)
				}
			})
		}
	}
}

func TestRenderClusterAndMachine(t *testing.T) {
	provider := mustRender(t, input(t, api.TalosConfigSpec{GenerateType: "controlplane"}))
	network := provider.Cluster().Network()
	got := map[string]any{
		"name":       provider.Cluster().Name(),
		"endpoint":   provider.Cluster().Endpoint().String(),
		"domain":     network.DNSDomain(),
		"pods":       network.PodCIDRs(),
		"services":   network.ServiceCIDRs(),
		"kubelet":    provider.Machine().Kubelet().Image(),
		"apiserver":  provider.Cluster().APIServer().Image(),
		"kubernetes": string(provider.Cluster().IssuingCA().Crt),
		"talos":      string(provider.Machine().Security().IssuingCA().Crt),
	}
	bundle, err := testSecrets()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"name":       "red",
		"endpoint":   "https://10.1.0.5:6443",
		"domain":     "red.local",
		"pods":       []string{"10.20.0.0/16", "fd00:20::/56"},
		"services":   []string{"10.21.0.0/16", "fd00:21::/112"},
		"kubelet":    "ghcr.io/siderolabs/kubelet:v1.32.4",
		"apiserver":  "registry.k8s.io/kube-apiserver:v1.32.4",
		"kubernetes": string(bundle.Certs.K8s.Crt),
		"talos":      string(bundle.Certs.OS.Crt),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRenderDefaultsOfTheCluster(t *testing.T) {
	in := input(t, api.TalosConfigSpec{GenerateType: "worker"})
	in.Cluster.Spec.ClusterNetwork = clusterv1.ClusterNetwork{}
	in.Machine.Spec.Version = ""
	provider := mustRender(t, in)
	assertValid(t, provider)
	network := provider.Cluster().Network()
	got := []string{
		network.DNSDomain(), strings.Join(network.PodCIDRs(), ","), strings.Join(network.ServiceCIDRs(), ","),
		provider.Machine().Kubelet().Image(),
	}
	want := []string{"cluster.local", "10.244.0.0/16", "10.96.0.0/12", "ghcr.io/siderolabs/kubelet:v1.36.0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRenderIsStable(t *testing.T) {
	in := input(t, api.TalosConfigSpec{
		GenerateType: "controlplane", StrategicPatches: []string{"machine: {time: {servers: [a.b]}}"},
	})
	first, _, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("two renderings differ:\n%s", diff)
	}
}

func TestRenderHostname(t *testing.T) {
	const machineName, infraName = "red-cp-x7k2p", "red-infra-q9w8e"
	for _, tc := range []struct {
		name         string
		talosVersion string
		source       api.HostnameSource
		patch        string
		want         string
		wantDocument bool
		wantInvalid  string
	}{
		{name: "none", talosVersion: "v1.11"},
		{name: "old machine", talosVersion: "v1.11", source: api.HostnameSourceMachineName, want: machineName},
		{name: "old infrastructure", talosVersion: "v1.11.9", source: api.HostnameSourceInfrastructureName, want: infraName},
		{name: "alpha is old", talosVersion: "v1.12.0-alpha.2", source: api.HostnameSourceMachineName, want: machineName,
			wantDocument: true, wantInvalid: "static hostname is already set"},
		{name: "new machine", talosVersion: "v1.12", source: api.HostnameSourceMachineName,
			want: machineName, wantDocument: true},
		{name: "new infrastructure", talosVersion: "1.13.0", source: api.HostnameSourceInfrastructureName,
			want: infraName, wantDocument: true},
		{name: "beta is new", talosVersion: "v1.12.0-beta.0", source: api.HostnameSourceMachineName,
			want: machineName, wantDocument: true},
		{name: "source wins over a patch", talosVersion: "v1.12", source: api.HostnameSourceMachineName,
			patch: "apiVersion: v1alpha1\nkind: HostnameConfig\nauto: \"off\"\nhostname: other",
			want:  machineName, wantDocument: true},
		{name: "unset version sets the old field of a new configuration", source: api.HostnameSourceMachineName,
			want: machineName, wantDocument: true, wantInvalid: "static hostname is already set"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := api.TalosConfigSpec{
				GenerateType: "worker", TalosVersion: tc.talosVersion, Hostname: api.HostnameSpec{Source: tc.source},
			}
			if tc.patch != "" {
				spec.StrategicPatches = []string{tc.patch}
			}
			provider := mustRender(t, input(t, spec))
			_, err := provider.Validate(nocloud{})
			switch {
			case tc.wantInvalid == "" && err != nil:
				t.Errorf("Talos refuses the configuration: %v", err)
			case tc.wantInvalid != "" && (err == nil || !strings.Contains(err.Error(), tc.wantInvalid)):
				t.Errorf("Validate() = %v, want %q", err, tc.wantInvalid)
			}
			got := legacyHostname(provider)
			if tc.wantDocument && tc.wantInvalid == "" {
				got = provider.NetworkHostnameConfig().Hostname()
			}
			if got != tc.want {
				t.Errorf("host name %q, want %q", got, tc.want)
			}
			if hasDocument := len(kinds(provider)) > 1; hasDocument != tc.wantDocument {
				t.Errorf("documents %v", kinds(provider))
			}
		})
	}
}

func TestRenderPatches(t *testing.T) {
	timeServers := api.ConfigPatches{
		Op: "add", Path: "/machine/time", Value: apiextensionsv1.JSON{Raw: []byte(`{"servers":["json.example"]}`)},
	}
	for _, tc := range []struct {
		name      string
		version   string
		json      []api.ConfigPatches
		strategic []string
		wantTime  []string
		wantKinds []string
	}{
		{
			name: "merge", strategic: []string{"machine:\n  time:\n    servers: [a.example]\n"},
			wantTime: []string{"a.example"}, wantKinds: []string{"v1alpha1", "HostnameConfig"},
		},
		{
			name: "lists are appended to, in order",
			strategic: []string{
				"machine: {time: {servers: [a.example]}}", "machine: {time: {servers: [b.example]}}",
			},
			wantTime: []string{"a.example", "b.example"}, wantKinds: []string{"v1alpha1", "HostnameConfig"},
		},
		{
			name:      "new document",
			strategic: []string{"apiVersion: v1alpha1\nkind: TimeSyncConfig\nntp: {servers: [c.example]}\n"},
			wantTime:  []string{"c.example"}, wantKinds: []string{"v1alpha1", "HostnameConfig", "TimeSyncConfig"},
		},
		{
			name:      "document deleted",
			strategic: []string{"apiVersion: v1alpha1\nkind: HostnameConfig\n$patch: delete\n"},
			wantKinds: []string{"v1alpha1"},
		},
		{
			name: "JSON on one document", version: "v1.11", json: []api.ConfigPatches{timeServers},
			wantTime: []string{"json.example"}, wantKinds: []string{"v1alpha1"},
		},
		{
			name: "JSON before strategic", version: "v1.11", json: []api.ConfigPatches{timeServers},
			strategic: []string{"machine: {time: {servers: [a.example]}}"},
			wantTime:  []string{"json.example", "a.example"}, wantKinds: []string{"v1alpha1"},
		},
		{
			name: "JSON among strategic", version: "v1.11",
			strategic: []string{`[{"op":"add","path":"/machine/time","value":{"servers":["d.example"]}}]`},
			wantTime:  []string{"d.example"}, wantKinds: []string{"v1alpha1"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			provider := mustRender(t, input(t, api.TalosConfigSpec{
				GenerateType: "controlplane", TalosVersion: tc.version,
				ConfigPatches: tc.json, StrategicPatches: tc.strategic,
			}))
			assertValid(t, provider)
			var servers []string
			if c := provider.NetworkTimeSyncConfig(); c != nil {
				servers = c.Servers()
			}
			if diff := cmp.Diff(tc.wantTime, servers); diff != "" {
				t.Errorf("time servers (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantKinds, kinds(provider)); diff != "" {
				t.Errorf("documents (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderErrors(t *testing.T) {
	const multiDocument = "JSON6902 patches are not supported for multi-document machine configuration"
	remove := []api.ConfigPatches{{Op: "remove", Path: "/machine/nope"}}
	for _, tc := range []struct {
		name string
		spec api.TalosConfigSpec
		want string // the whole message, or its beginning if it ends in an ellipsis
	}{
		{"generate type", api.TalosConfigSpec{GenerateType: "control-plane"},
			`unknown generate type specified: "control-plane"`},
		{"generate type unknown", api.TalosConfigSpec{GenerateType: "unknown"}, `unknown generate type specified: "unknown"`},
		{"none without data", api.TalosConfigSpec{GenerateType: "none"},
			"failed to specify config data with none generate type"},
		{"data is no configuration", api.TalosConfigSpec{GenerateType: "none", Data: "machine: {instal: {}}"},
			"error decoding document /v1alpha1/ (line 1): unknown keys found during decoding:…"},
		{"data of another kind",
			api.TalosConfigSpec{GenerateType: "none", Data: "apiVersion: v1alpha1\nkind: HostnameConfig\nhostname: a\n"},
			"spec.data has no v1alpha1 machine configuration"},
		{"version", api.TalosConfigSpec{GenerateType: "worker", TalosVersion: "latest"},
			`invalid talos-version: error parsing version "vlatest"`},
		{"JSON patch, unset version", api.TalosConfigSpec{GenerateType: "worker", ConfigPatches: remove}, multiDocument},
		{"JSON patch, 1.12", api.TalosConfigSpec{GenerateType: "worker", TalosVersion: "v1.12", ConfigPatches: remove},
			multiDocument},
		{"JSON patch that does not apply",
			api.TalosConfigSpec{GenerateType: "worker", TalosVersion: "v1.11", ConfigPatches: remove},
			"failure applying rfc6902 patches to talos machine config:…"},
		{"JSON patch among strategic",
			api.TalosConfigSpec{GenerateType: "worker", StrategicPatches: []string{`[{"op":"remove","path":"/debug"}]`}},
			"failure applying StrategicPatches: " + multiDocument},
		{"unknown keys",
			api.TalosConfigSpec{GenerateType: "worker", StrategicPatches: []string{"machine: {instal: {disk: /dev/sda}}"}},
			"failure loading StrategicPatch: error decoding document /v1alpha1/ (line 1): unknown keys found during decoding:…"},
		{"unknown kind",
			api.TalosConfigSpec{GenerateType: "worker", StrategicPatches: []string{"apiVersion: v1alpha1\nkind: Nope\n"}},
			`failure loading StrategicPatch: error decoding document v1alpha1/Nope/ (line 1): "Nope" "v1alpha1": not registered`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			machineConfig, talosconfig, err := Render(input(t, tc.spec))
			if err == nil {
				t.Fatalf("no error, but\n%s", machineConfig)
			}
			if prefix, ok := strings.CutSuffix(tc.want, "…"); ok {
				if !strings.HasPrefix(err.Error(), prefix) {
					t.Errorf("error %q does not begin with %q", err, prefix)
				}
			} else if err.Error() != tc.want {
				t.Errorf("error %q, want %q", err, tc.want)
			}
			if machineConfig != "" || talosconfig != "" {
				t.Errorf("a result besides the error: %q, %q", machineConfig, talosconfig)
			}
		})
	}
}

// A configuration that nobody validated comes out without an error.
func TestRenderDoesNotValidate(t *testing.T) {
	provider := mustRender(t, input(t, api.TalosConfigSpec{
		GenerateType: "worker", StrategicPatches: []string{"cluster: {etcd: {advertisedSubnets: [nonsense]}}"},
	}))
	if _, err := provider.Validate(nocloud{}); err == nil {
		t.Error("the configuration is valid; the test needs a worse one")
	}
}

func TestRenderUserData(t *testing.T) {
	for _, tc := range []struct {
		generateType string
		wantCA       bool
	}{
		{"controlplane", true},
		{"worker", false},
	} {
		t.Run(tc.generateType, func(t *testing.T) {
			data, _, err := Render(input(t, api.TalosConfigSpec{GenerateType: tc.generateType, TalosVersion: "v1.11"}))
			if err != nil {
				t.Fatal(err)
			}
			in := input(t, api.TalosConfigSpec{
				GenerateType: "none", Data: "# by hand\n" + data,
				StrategicPatches: []string{"machine: {time: {servers: [a.example]}}"},
				Hostname:         api.HostnameSpec{Source: api.HostnameSourceMachineName}, // has no effect
			})
			bundle := in.Secrets
			in.Secrets = nil
			ca, err := in.authority()
			if err != nil {
				t.Fatal(err)
			}
			if (ca != nil) != tc.wantCA || ca != nil && string(ca.Crt) != string(bundle.Certs.K8s.Crt) {
				t.Errorf("authority is %v", ca)
			}
			machineConfig, talosconfig, err := Render(in)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(machineConfig, "by hand") {
				t.Error("a comment was kept")
			}
			provider := load(t, machineConfig)
			assertValid(t, provider)
			if diff := cmp.Diff([]string{"a.example"}, provider.NetworkTimeSyncConfig().Servers()); diff != "" {
				t.Errorf("time servers (-want +got):\n%s", diff)
			}
			if got := legacyHostname(provider); got != "" {
				t.Errorf("host name %q", got)
			}
			if (talosconfig != "") != tc.wantCA {
				t.Errorf("talosconfig %q", talosconfig)
			}
		})
	}
}

func TestRenderTalosconfig(t *testing.T) {
	in := input(t, api.TalosConfigSpec{GenerateType: "worker"})
	_, rendered, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	talosconfig, err := clientconfig.FromString(rendered)
	if err != nil {
		t.Fatal(err)
	}
	if talosconfig.Context != "red" || talosconfig.Contexts["red"] == nil {
		t.Fatalf("context is %q of %v", talosconfig.Context, talosconfig.Contexts)
	}
	if got := talosconfig.Contexts["red"]; len(got.Endpoints) > 0 || got.CA == "" || got.Crt == "" || got.Key == "" {
		t.Errorf("context: endpoints %v, CA %q, certificate %q, key of %d bytes", got.Endpoints, got.CA, got.Crt, len(got.Key))
	}
}
