package object_test

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/object"
)

// Every manifest holds the word hunter2 where secret material may be, and public
// where it may not.
var secrets = map[string]string{
	"Secret": `
apiVersion: v1
kind: Secret
metadata:
  name: public
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: '{"stringData":{"a":"hunter2"}}'
    objectset.rio.cattle.io/applied: hunter2
    note: public
data: {a: hunter2}
stringData: {b: hunter2, c: "hunter2\nhunter2"}
type: public
`,
	"Secret, malformed": `
apiVersion: v1
kind: Secret
metadata: {name: public}
data: hunter2
stringData: [hunter2, {x: hunter2}]
type: public
`,
	"TalosControlPlane": `
apiVersion: controlplane.cluster.x-k8s.io/v1alpha3
kind: TalosControlPlane
metadata: {name: public}
spec:
  version: public
  controlPlaneConfig:
    init: {data: hunter2}
    controlplane:
      generateType: public
      data: hunter2
      configPatches: [{op: add, path: /machine, value: {token: hunter2}}]
      strategicPatches: ["machine: {token: hunter2}"]
`,
	"TalosControlPlaneTemplate": `
apiVersion: controlplane.cluster.x-k8s.io/v1alpha3
kind: TalosControlPlaneTemplate
spec: {template: {spec: {controlPlaneConfig: {controlplane: {talosVersion: public, strategicPatches: [hunter2]}}}}}
`,
	"TalosConfig": `
apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3
kind: TalosConfig
spec: {generateType: public, data: hunter2, strategicPatches: [hunter2]}
status: {dataSecretName: public, talosConfig: hunter2}
`,
	"TalosConfigTemplate": `
apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3
kind: TalosConfigTemplate
metadata: {annotations: {cluster.x-k8s.io/conversion-data: hunter2}}
spec: {template: {spec: {generateType: public, data: hunter2, configPatches: [{value: hunter2}], strategicPatches: [hunter2]}}}
`,
	"KubeadmControlPlane": `
apiVersion: controlplane.cluster.x-k8s.io/v1beta2
kind: KubeadmControlPlane
spec:
  version: public
  kubeadmConfigSpec:
    files: [{path: public, content: hunter2}, {path: public, contentFrom: {secret: {name: public}}}]
    users: [{name: public, passwd: hunter2}]
    preKubeadmCommands: [hunter2]
    postKubeadmCommands: [hunter2]
    bootCommands: [hunter2]
    joinConfiguration:
      discovery:
        bootstrapToken: {token: hunter2}
        tlsBootstrapToken: hunter2
        file: {kubeConfigPath: public, kubeConfig: {user: {exec: {env: [{value: hunter2}]}}}}
    initConfiguration: {bootstrapTokens: [{token: hunter2}]}
    clusterConfiguration: {apiServer: {extraArgs: [{name: oidc-client-secret, value: hunter2}]}}
`,
	"KubeadmConfigTemplate": `
apiVersion: bootstrap.cluster.x-k8s.io/v1beta2
kind: KubeadmConfigTemplate
spec: {template: {spec: {format: public, files: [{content: hunter2}]}}}
`,
}

func TestMaskLeavesNoSecret(t *testing.T) {
	for name, manifest := range secrets {
		t.Run(name, func(t *testing.T) {
			u := parse(t, manifest)
			before, _ := json.Marshal(u)
			masked := marshal(t, object.Mask(u))
			if strings.Contains(masked, "hunter2") {
				t.Errorf("secret shown: %s", masked)
			}
			if strings.Count(masked, "public") != strings.Count(manifest, "public") {
				t.Errorf("too much masked: %s", masked)
			}
			if after, _ := json.Marshal(u); string(before) != string(after) {
				t.Error("the object itself was changed")
			}
		})
	}
}

func TestMaskPairTellsChanges(t *testing.T) {
	before := parse(t, "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {same: eA==, changed: eA==, removed: eA==}}")
	after := parse(t, "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {same: eA==, changed: eQ==, added: eA==}}")
	b, a := object.MaskPair(before, after)
	for _, c := range []struct {
		u         *unstructured.Unstructured
		key, want string
	}{
		{b, "same", object.Masked},
		{a, "same", object.Masked},
		{b, "changed", object.MaskedBefore},
		{a, "changed", object.MaskedAfter},
		{b, "removed", object.Masked},
		{a, "removed", ""},
		{b, "added", ""},
		{a, "added", object.Masked},
	} {
		if got, _, _ := unstructured.NestedString(c.u.Object, "data", c.key); got != c.want {
			t.Errorf("%s: got %q, want %q", c.key, got, c.want)
		}
	}
}

func TestMaskPairOfLists(t *testing.T) {
	before := parse(t, "{apiVersion: bootstrap.cluster.x-k8s.io/v1beta2, kind: KubeadmConfig, spec: {files: [{path: a, content: x}]}}")
	after := parse(t, "{apiVersion: bootstrap.cluster.x-k8s.io/v1beta2, kind: KubeadmConfig, spec: {files: [{path: a, content: y}, {path: b, content: z}]}}")
	b, a := object.MaskPair(before, after)
	if got := marshal(t, b) + marshal(t, a); strings.Contains(got, `"x"`) || strings.Contains(got, `"y"`) || strings.Contains(got, `"z"`) {
		t.Errorf("secret shown: %s", got)
	}
}

func TestMaskPairOfOne(t *testing.T) {
	u := parse(t, secrets["Secret"])
	for _, pair := range [][2]*unstructured.Unstructured{{u, nil}, {nil, u}, {nil, nil}} {
		b, a := object.MaskPair(pair[0], pair[1])
		if (b == nil) != (pair[0] == nil) || (a == nil) != (pair[1] == nil) {
			t.Errorf("%v, %v", b, a)
		}
		for _, m := range []*unstructured.Unstructured{b, a} {
			if m != nil && strings.Contains(marshal(t, m), "hunter2") {
				t.Error("secret shown")
			}
		}
	}
}

func TestMaskLeavesOthersAlone(t *testing.T) {
	u := parse(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: hello}}")
	if got, want := marshal(t, object.Mask(u)), marshal(t, u); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func marshal(t *testing.T, u *unstructured.Unstructured) string {
	t.Helper()
	content, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
