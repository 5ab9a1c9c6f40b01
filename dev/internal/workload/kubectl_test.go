package workload

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// findKubectl looks for the kubectl that the repository builds or downloads.
func findKubectl(t *testing.T) string {
	t.Helper()
	path := os.Getenv("KUBECTL")
	if path == "" {
		path = filepath.Join("..", "..", "..", "bin", "kubectl")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("NO KUBECTL: %v; set KUBECTL to its path, or put it into bin/ at the root of the repository", err)
	}
	return path
}

// kubectl is one kubectl with its own configuration and caches.
type kubectl struct {
	path string
	dir  string
}

func newKubectl(t *testing.T, config *rest.Config) kubectl {
	t.Helper()
	k := kubectl{path: findKubectl(t), dir: t.TempDir()}
	file := clientcmdapi.NewConfig()
	file.Clusters["demo"] = &clientcmdapi.Cluster{
		Server: config.Host, TLSServerName: config.ServerName, CertificateAuthorityData: config.CAData,
	}
	file.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	file.Contexts["demo"] = &clientcmdapi.Context{Cluster: "demo", AuthInfo: "admin"}
	file.CurrentContext = "demo"
	if err := clientcmd.WriteToFile(*file, filepath.Join(k.dir, "kubeconfig")); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k kubectl) command(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), k.path, append([]string{"--cache-dir", filepath.Join(k.dir, "cache")}, args...)...)
	cmd.Env = []string{"KUBECONFIG=" + filepath.Join(k.dir, "kubeconfig"), "HOME=" + k.dir, "PATH=" + os.Getenv("PATH")}
	return cmd
}

// run returns what kubectl prints; it must succeed.
func (k kubectl) run(t *testing.T, input string, args ...string) string {
	t.Helper()
	out, err := k.try(t, input, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (k kubectl) try(t *testing.T, input string, args ...string) (string, error) {
	t.Helper()
	cmd := k.command(t, args...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

const manifests = `
apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data:
  color: red
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: web:1}
      - {name: side, image: side:1}
`

const crdManifest = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: gadgets, kind: Gadget, shortNames: [gg]}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

func TestKubectl(t *testing.T) {
	_, cluster, config := startCluster(t)
	k := newKubectl(t, config)
	if err := cluster.Client().Create(t.Context(), node("node-a")); err != nil {
		t.Fatal(err)
	}
	// Each step builds on those before.
	for _, step := range []struct {
		args, input string
		want        string // a regular expression
	}{
		{args: "version", want: `Server Version: v1\.34\.4`},
		{args: "cluster-info", want: `(?i)control plane.* is running`},
		{args: "auth can-i delete nodes", want: `yes`},
		{args: "api-resources", want: `(?m)^nodes +no +v1 +false +Node$`},
		{args: "api-resources", want: `(?m)^deployments +deploy +apps/v1 +true +Deployment$`},
		{args: "get nodes", want: `^NAME +STATUS +ROLES +AGE +VERSION\nnode-a +Ready +control-plane +\d+s +v1\.34\.4\n$`},
		{args: "get no -o wide", want: `INTERNAL-IP.*\nnode-a .* 10\.0\.0\.5 `},
		{args: "get node node-a -o yaml", want: `(?m)^apiVersion: v1\nkind: Node\n(.*\n)*  name: node-a$`},
		{args: "get nodes -o yaml", want: `(?m)^- apiVersion: v1\n  kind: Node\n`},
		{args: "get nodes -o jsonpath={.items[*].spec.providerID}", want: `^proxmox://node-a$`},
		{args: "describe node node-a", want: `Name: +node-a`},
		{args: "wait --for=condition=Ready node/node-a --timeout=20s", want: `condition met`},
		{args: "label node node-a zone=one", want: `labeled`},
		{args: "get nodes -l zone=one --no-headers", want: `node-a`},
		{args: "annotate node node-a note=x", want: `annotated`},
		{args: "cordon node-a", want: `cordoned`},
		{args: "get nodes", want: `Ready,SchedulingDisabled`},
		{args: "get ns", want: `(?m)^kube-system +Active +\d+s$`},

		{args: "create -f -", input: manifests, want: `configmap/settings created\ndeployment.apps/web created`},
		{args: "get all -A", want: `default +deployment.apps/web`},
		{args: "apply -f -", input: manifests, want: `configured`},
		{args: "apply -f -", input: manifests, want: `configmap/settings unchanged\ndeployment.apps/web unchanged`},
		{args: "diff -f -", input: manifests, want: `^$`},
		{args: "apply -f -", input: strings.ReplaceAll(manifests, "web:1", "web:2"), want: `settings unchanged\ndeployment.apps/web configured`},
		{args: "get deploy web -o jsonpath={.spec.template.spec.containers[*].image}", want: `^web:2 side:1$`},
		{args: "apply -f - --server-side --force-conflicts", input: manifests, want: `serverside-applied`},
		{args: "get deploy web -o jsonpath={.spec.template.spec.containers[*].image}", want: `^web:1 side:1$`},
		{args: "apply -f - --server-side", input: strings.ReplaceAll(manifests, "settings", "others"), want: `configmap/others serverside-applied`},
		{args: "get cm -o name", want: `configmap/others\nconfigmap/settings`},
		{args: "patch deploy web -p {\"spec\":{\"replicas\":3}}", want: `patched`},
		{args: "delete cm settings others", want: `"settings" deleted`},
		{args: "get cm", want: `No resources found`},

		{args: "apply -f -", input: crdManifest, want: `created`},
		{args: "wait --for=condition=Established crd/gadgets.example.com --timeout=20s", want: `condition met`},
		{args: "apply -f -", input: "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: g}, spec: {a: 1}}", want: `gadget.example.com/g created`},
		{args: "apply -f -", input: "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: g}, spec: {b: 1}}", want: `configured`},
		{args: "get gg g -o jsonpath={.spec}", want: `^{"b":1}$`},

		{args: "create ns gone", want: `created`},
		{args: "delete ns gone", want: `deleted`},
		{args: "uncordon node-a", want: `uncordoned`},
		{args: "drain node-a", want: `drained`},
		{args: "delete node node-a", want: `deleted`},
		{args: "get nodes", want: `No resources found`},
	} {
		if out := k.run(t, step.input, strings.Fields(step.args)...); !regexp.MustCompile(step.want).MatchString(out) {
			t.Errorf("kubectl %s prints\n%s\nwant %s", step.args, out, step.want)
		}
	}
	for _, refused := range []struct{ args, input, want string }{
		{"create -f -", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dataa: {}}", `unknown field "dataa"`},
		{"apply -f -", "{apiVersion: example.org/v1, kind: Gizmo, metadata: {name: x}}", `no matches for kind "Gizmo" in version "example.org/v1"`},
		{"explain pods", "", "not found in OpenAPI schema"},
	} {
		out, err := k.try(t, refused.input, strings.Fields(refused.args)...)
		if err == nil || !strings.Contains(out, refused.want) {
			t.Errorf("kubectl %s of %q: %v, want %s\n%s", refused.args, refused.input, err, refused.want, out)
		}
	}
}

func TestKubectlWatch(t *testing.T) {
	_, cluster, config := startCluster(t)
	k := newKubectl(t, config)
	c, ctx := cluster.Client(), t.Context()
	n := node("node-a")
	if err := c.Create(ctx, n); err != nil {
		t.Fatal(err)
	}
	cmd := k.command(t, "get", "nodes", "--watch")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || !regexp.MustCompile(want).MatchString(lines.Text()) {
			t.Fatalf("kubectl prints %q, want %s", lines.Text(), want)
		}
	}
	next(`^NAME +STATUS`)
	next(`^node-a +Ready `)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}
	if err := c.Status().Update(ctx, n); err != nil {
		t.Fatal(err)
	}
	next(`^node-a +NotReady `)
	if err := c.Create(ctx, node("node-b")); err != nil {
		t.Fatal(err)
	}
	next(`^node-b +Ready `)
}
