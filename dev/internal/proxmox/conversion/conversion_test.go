package conversion

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, kind, version, content string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": "x"}}}
	full, err := json.Marshal(object.Object)
	if err != nil {
		t.Fatal(err)
	}
	joined := strings.TrimSuffix(string(full), "}") + "," + strings.TrimPrefix(string(raw), "{")
	if err := object.UnmarshalJSON([]byte(joined)); err != nil {
		t.Fatal(err)
	}
	return object
}

// What either version says, in both.
var same = map[string]struct{ kind, older, newer string }{
	"machine": {"ProxmoxMachine", `
spec:
  templateID: 9000
  network:
    default: {bridge: vmbr0, vlan: 30, ipv4PoolRef: {kind: InClusterIPPool, name: a}, ipv6PoolRef: {kind: InClusterIPPool, name: b}}
    additionalDevices: [{name: net1, bridge: vmbr1, routes: [{to: 0.0.0.0/0, via: 10.0.0.1}]}]
    vrfs: [{name: vrf, table: 500}]
status:
  ready: true
  ipAddresses: {net0: {ipv4: 10.0.0.2, ipv6: "fd00::2"}, net1: {ipv4: 10.1.0.2}}
`, `
spec:
  templateID: 9000
  network:
    networkDevices:
    - {name: net0, bridge: vmbr0, vlan: 30, defaultIPv4: true, defaultIPv6: true, ipPoolRef: [{kind: InClusterIPPool, name: a}, {kind: InClusterIPPool, name: b}]}
    - {name: net1, bridge: vmbr1, routes: [{to: 0.0.0.0/0, via: 10.0.0.1}]}
    vrfs: [{name: vrf, table: 500}]
status:
  initialization: {provisioned: true}
  ipAddresses: [{net: net0, ipv4: [10.0.0.2], ipv6: ["fd00::2"]}, {net: net1, ipv4: [10.1.0.2]}]
`},
	"machine template": {"ProxmoxMachineTemplate",
		`spec: {template: {spec: {network: {default: {bridge: vmbr0}}}}}`,
		`spec: {template: {spec: {network: {networkDevices: [{name: net0, bridge: vmbr0, defaultIPv4: true, defaultIPv6: true}]}}}}`,
	},
	"cluster": {"ProxmoxCluster", `
spec: {dnsServers: [10.0.0.1], controlPlaneEndpoint: {host: 10.0.0.9, port: 6443}}
status: {ready: true, inClusterIpPoolRef: [{name: x-v4-icip}]}
`, `
spec: {dnsServers: [10.0.0.1], controlPlaneEndpoint: {host: 10.0.0.9, port: 6443}}
status: {initialization: {provisioned: true}, inClusterIPPoolRef: [{name: x-v4-icip}]}
`},
	"cluster template": {"ProxmoxClusterTemplate",
		`spec: {template: {spec: {dnsServers: [10.0.0.1]}}}`,
		`spec: {template: {spec: {dnsServers: [10.0.0.1]}}}`,
	},
}

func TestConvert(t *testing.T) {
	for name, tt := range same {
		t.Run(name, func(t *testing.T) {
			got, want := parse(t, tt.kind, older, tt.older), parse(t, tt.kind, newer, tt.newer)
			if err := convert(got, newer); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.Object, got.Object); diff != "" {
				t.Errorf("up: %s", diff)
			}
			if err := convert(got, older); err != nil {
				t.Fatal(err)
			}
			unstructured.RemoveNestedField(got.Object, "metadata", "annotations")
			if diff := cmp.Diff(parse(t, tt.kind, older, tt.older).Object, got.Object); diff != "" {
				t.Errorf("down: %s", diff)
			}
		})
	}
}

// What v1alpha1 had and nobody needs any more is dropped.
func TestDropped(t *testing.T) {
	machine := parse(t, "ProxmoxMachine", older, `{spec: {target: pve2, numCores: 2}, status: {failureReason: r, conditions: [{type: Ready, severity: Info}]}}`)
	cluster := parse(t, "ProxmoxCluster", older, `spec: {cloneSpec: {sshAuthorizedKeys: [k]}, dnsServers: [d]}`)
	for object, want := range map[*unstructured.Unstructured]string{
		machine: `{spec: {numCores: 2}, status: {}}`,
		cluster: `spec: {dnsServers: [d]}`,
	} {
		if err := convert(object, newer); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(parse(t, object.GetKind(), newer, want).Object, object.Object); diff != "" {
			t.Error(diff)
		}
	}
}

// What only v1alpha2 can say survives a reader, and a writer who changes something else.
func TestRoundTrip(t *testing.T) {
	const content = `
spec:
  dnsServers: [10.0.0.1]
  zoneConfig: [{zone: a, dnsServers: [10.0.0.2]}]
status:
  initialization: {provisioned: true}
  inClusterZoneRef: [{zone: a}]
  conditions: [{type: Ready, status: "True", reason: r, observedGeneration: 3}]
`
	want := parse(t, "ProxmoxCluster", newer, content)
	there := func() *unstructured.Unstructured {
		t.Helper()
		object := parse(t, "ProxmoxCluster", newer, content)
		if err := convert(object, older); err != nil {
			t.Fatal(err)
		}
		return object
	}
	back := func(object *unstructured.Unstructured) {
		t.Helper()
		if err := convert(object, newer); err != nil {
			t.Fatal(err)
		}
	}

	read := there()
	back(read)
	unstructured.RemoveNestedField(read.Object, "metadata", "annotations")
	if diff := cmp.Diff(want.Object, read.Object); diff != "" {
		t.Errorf("read: %s", diff)
	}

	changed := there()
	changed.SetLabels(map[string]string{"a": "b"})
	if err := unstructured.SetNestedStringSlice(changed.Object, []string{"10.0.0.7"}, "spec", "dnsServers"); err != nil {
		t.Fatal(err)
	}
	back(changed)
	servers, _, _ := unstructured.NestedStringSlice(changed.Object, "spec", "dnsServers")
	if diff := cmp.Diff([]string{"10.0.0.7"}, servers); diff != "" {
		t.Errorf("changed: %s", diff)
	}
	if diff := cmp.Diff(want.Object["status"], changed.Object["status"]); diff != "" {
		t.Errorf("the status beside a changed spec: %s", diff)
	}

	broken := there()
	broken.SetAnnotations(map[string]string{kept: "{"})
	if err := convert(broken, newer); err == nil || !strings.Contains(err.Error(), kept) {
		t.Errorf("error %v for an annotation that is no JSON", err)
	}
}

func TestWebhook(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(Webhook))
	t.Cleanup(server.Close)
	ask := func(version string) *apiextensionsv1.ConversionResponse {
		t.Helper()
		body, err := json.Marshal(apiextensionsv1.ConversionReview{Request: &apiextensionsv1.ConversionRequest{
			UID: "u", DesiredAPIVersion: version,
			Objects: []runtime.RawExtension{{Object: parse(t, "ProxmoxCluster", older, "spec: {cloneSpec: {}}")}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.Post(server.URL, "application/json", bytes.NewReader(body)) //nolint:noctx // a test's own server
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		review := apiextensionsv1.ConversionReview{}
		if err := json.NewDecoder(answer.Body).Decode(&review); err != nil {
			t.Fatal(err)
		}
		return review.Response
	}
	if got := ask(newer); got.UID != "u" || got.Result.Status != "Success" || len(got.ConvertedObjects) != 1 {
		t.Errorf("got %+v", got)
	}
	if got := ask("infrastructure.cluster.x-k8s.io/v1"); got.Result.Status != "Failure" || !strings.Contains(got.Result.Message, "ProxmoxCluster x") {
		t.Errorf("got %+v", got)
	}
	answer, err := http.Post(server.URL, "application/json", strings.NewReader("{}")) //nolint:noctx // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusBadRequest {
		t.Errorf("status %s for no review", answer.Status)
	}
}
