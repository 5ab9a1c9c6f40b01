package install

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/dev/crds"
)

// release wraps a definition in what else a provider's release manifest holds.
const release = `---
# Copyright
---
apiVersion: v1
kind: Namespace
metadata: {name: cabpt-system}
---
%s
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cabpt-controller-manager, namespace: cabpt-system}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: cabpt-validating-webhook-configuration}
`

// A provider's manifests are read as they come: alone, in a release, or as kubectl prints them.
func TestReadCRDs(t *testing.T) {
	const name = "bootstrap.cluster.x-k8s.io_talosconfigtemplates.yaml"
	content, err := fs.ReadFile(crds.FS, name)
	if err != nil {
		t.Fatal(err)
	}
	one := strings.TrimPrefix(string(content), "---\n")
	list := "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(one), "\n", "\n  ")
	for _, tt := range []struct {
		name, manifest, wantErr string
	}{
		{name: "one", manifest: one},
		{name: "release", manifest: fmt.Sprintf(release, one)},
		{name: "list", manifest: list},
		{name: "none", manifest: fmt.Sprintf(release, ""), wantErr: "holds no CustomResourceDefinition"},
		{name: "older API", manifest: strings.Replace(one, "apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1", 1), wantErr: "does not serve any more"},
		{name: "other release", manifest: strings.ReplaceAll(one, "v1alpha3", "v1beta1"), wantErr: "stores v1beta1, but the simulator works with v1alpha3"},
		{name: "no YAML", manifest: "kind: [", wantErr: "manifest.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "manifest.yaml")
			if err := os.WriteFile(path, []byte(tt.manifest), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{path, filepath.Dir(path)} {
				got, err := ReadCRDs(path)
				if tt.wantErr != "" {
					if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
						t.Errorf("error %v, want %q", err, tt.wantErr)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(got) != 1 || got[0].Name != "talosconfigtemplates.bootstrap.cluster.x-k8s.io" {
					t.Errorf("got %v", got)
				}
			}
		})
	}
	if _, err := ReadCRDs(filepath.Join(t.TempDir(), "nothing")); !os.IsNotExist(err) {
		t.Errorf("error %v for a path that is not there", err)
	}
}

// Our own definitions are of the versions that the simulators work with, and all kinds are known.
func TestSimulatedVersions(t *testing.T) {
	all, err := ReadCRDsFS(crds.FS)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, crd := range all {
		for _, v := range crd.Spec.Versions {
			if v.Storage {
				got[crd.Name] = v.Name
			}
		}
	}
	if diff := cmp.Diff(simulated, got); diff != "" {
		t.Error(diff)
	}
}

// Prepare adds the labels that are missing, keeps those that are there, leads conversion here where it is
// done, and serves only what is stored elsewhere.
func TestPrepare(t *testing.T) {
	const given = `
metadata:
  name: %s
  uid: 07f1b7a1-8a3c-4b1f-9f43-0c1f0e6f3f0a
  resourceVersion: "12"
  annotations: {cert-manager.io/inject-ca-from: x/y, kept: "yes"}
  labels: {cluster.x-k8s.io/provider: p, cluster.x-k8s.io/v1beta1: theirs}
spec:
  group: %s
  names: {kind: %s}
  conversion: {strategy: Webhook, webhook: {clientConfig: {service: {name: s, namespace: n}}}}
  versions: [{name: v1alpha1, served: true}, {name: v1alpha2, served: true, storage: true}]
`
	endpoint := Endpoint{URL: "https://127.0.0.1:1", CABundle: []byte("ca")}
	for _, tt := range []struct {
		name, group, kind string
		labels            map[string]string
		url               string
		served            []bool
	}{
		{
			name: "proxmoxclusters.infrastructure.cluster.x-k8s.io", group: "infrastructure.cluster.x-k8s.io", kind: "ProxmoxCluster",
			labels: map[string]string{"cluster.x-k8s.io/v1beta2": "v1alpha2"}, served: []bool{true, true}, url: "https://127.0.0.1:1/convert-proxmox",
		},
		{
			name: "dockerclusters.infrastructure.cluster.x-k8s.io", group: "infrastructure.cluster.x-k8s.io", kind: "DockerCluster",
			served: []bool{false, true},
		},
		{
			name: "machines.cluster.x-k8s.io", group: "cluster.x-k8s.io", kind: "Machine",
			labels: map[string]string{"cluster.x-k8s.io/v1beta2": "v1beta2"}, served: []bool{true, true}, url: "https://127.0.0.1:1/convert",
		},
		{
			name: "ipaddresses.ipam.cluster.x-k8s.io", group: "ipam.cluster.x-k8s.io", kind: "IPAddress",
			served: []bool{true, true}, url: "https://127.0.0.1:1/convert",
		},
		{
			name: "inclusterippools.ipam.cluster.x-k8s.io", group: "ipam.cluster.x-k8s.io", kind: "InClusterIPPool",
			served: []bool{false, true},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			crd := &apiextensionsv1.CustomResourceDefinition{}
			if err := yaml.Unmarshal(fmt.Appendf(nil, given, tt.name, tt.group, tt.kind), crd); err != nil {
				t.Fatal(err)
			}
			Prepare(crd, endpoint)
			labels := map[string]string{"cluster.x-k8s.io/provider": "p", "cluster.x-k8s.io/v1beta1": "theirs"}
			for k, v := range tt.labels {
				labels[k] = v
			}
			if diff := cmp.Diff(labels, crd.Labels); diff != "" {
				t.Errorf("labels: %s", diff)
			}
			if diff := cmp.Diff(map[string]string{"kept": "yes"}, crd.Annotations); diff != "" {
				t.Errorf("annotations: %s", diff)
			}
			if crd.UID != "" || crd.ResourceVersion != "" {
				t.Errorf("it remembers another API server: %s, %s", crd.UID, crd.ResourceVersion)
			}
			url := ""
			if w := crd.Spec.Conversion.Webhook; w != nil {
				url = *w.ClientConfig.URL
			}
			if url != tt.url {
				t.Errorf("conversion at %q, want %q", url, tt.url)
			}
			var served []bool
			for _, v := range crd.Spec.Versions {
				served = append(served, v.Served)
			}
			if diff := cmp.Diff(tt.served, served); diff != "" {
				t.Errorf("served: %s", diff)
			}
		})
	}
}
