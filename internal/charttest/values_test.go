package charttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// map3 and list3 are parts of rendered objects.
func map3(m map[string]any, path ...string) map[string]any {
	part, _, _ := unstructured.NestedMap(m, path...)
	return part
}

func list3(m map[string]any, path ...string) []map[string]any {
	var parts []map[string]any
	items, _, _ := unstructured.NestedSlice(m, path...)
	for _, i := range items {
		if part, ok := i.(map[string]any); ok {
			parts = append(parts, part)
		}
	}
	return parts
}

// containerOf returns the container of the Deployment and the Pod it is in.
func containerOf(t *testing.T, all []*unstructured.Unstructured) (container, pod map[string]any) {
	t.Helper()
	deployments := pick(all, "Deployment")
	if len(deployments) != 1 {
		t.Fatalf("%d Deployments", len(deployments))
	}
	pod = map3(deployments[0].Object, "spec", "template", "spec")
	containers := list3(pod, "containers")
	if len(containers) != 1 {
		t.Fatalf("%d containers", len(containers))
	}
	return containers[0], pod
}

func argsOf(t *testing.T, all []*unstructured.Unstructured) []string {
	t.Helper()
	container, _ := containerOf(t, all)
	args, _, err := unstructured.NestedStringSlice(container, "args")
	must(t, err)
	return args
}

// TestValues renders the chart with each set of values and has the API server look at
// the result: the objects, the Pods under the strictest rules for Pods, and the agent
// at its arguments.
func TestValues(t *testing.T) {
	definitions(t, "prometheusrules.yaml", "servicemonitors.yaml")
	namespaces(t, "team-a", "team-b", "0123")
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			namespace := env.Namespace(t)
			file := filepath.Join("testdata", "values", name+".yaml")
			abs, err := filepath.Abs(file)
			must(t, err)
			_, err = helm(t, "lint", "--strict", "--quiet", chart(), "-n", namespace, "-f", abs)
			must(t, err)
			all := render(t, namespace, values)
			apply(t, all, client.DryRunAll)
			checkNames(t, all)
			checkPod(t, namespace, all)
			args := argsOf(t, all)
			if out, err := exec.CommandContext(t.Context(), binary, append(args, "--help")...).CombinedOutput(); err != nil {
				t.Errorf("capstan %q: %v\n%s", args, err, out)
			}
		})
	}
}

// TestLongRelease renders with the longest name that a release may have.
func TestLongRelease(t *testing.T) {
	namespace := env.Namespace(t)
	out, err := helm(t, "template", strings.Repeat("long-release-name-that-", 2)+"end.is7", chart(), "-n", namespace, "--set", "metrics.dashboard.enabled=true")
	must(t, err)
	all := decode(t, out)
	apply(t, all, client.DryRunAll)
	checkNames(t, all)
}

// checkNames checks that no object is rendered twice, and that what one refers to is
// there.
func checkNames(t *testing.T, all []*unstructured.Unstructured) {
	t.Helper()
	seen := map[string]bool{}
	for _, u := range all {
		id := fmt.Sprint(u.GetKind(), " ", client.ObjectKeyFromObject(u))
		if seen[id] {
			t.Errorf("%s is rendered twice", id)
		}
		seen[id] = true
	}
	labels := map3(pick(all, "Deployment")[0].Object, "spec", "template", "metadata", "labels")
	selects := func(what string, selector map[string]any) {
		t.Helper()
		if len(selector) == 0 {
			t.Errorf("%s selects everything", what)
		}
		for k, v := range selector {
			if labels[k] != v {
				t.Errorf("%s selects %s=%v, Pods have %v", what, k, v, labels[k])
			}
		}
	}
	for _, u := range all {
		switch u.GetKind() {
		case "Service":
			selects("the Service "+u.GetName(), map3(u.Object, "spec", "selector"))
		case "PodDisruptionBudget", "Deployment":
			selects(u.GetKind(), map3(u.Object, "spec", "selector", "matchLabels"))
		case "NetworkPolicy":
			selects(u.GetKind(), map3(u.Object, "spec", "podSelector", "matchLabels"))
		case "ServiceMonitor":
			found := 0
			for _, s := range pick(all, "Service") {
				match := true
				for k, v := range map3(u.Object, "spec", "selector", "matchLabels") {
					match = match && s.GetLabels()[k] == v
				}
				if match {
					found++
				}
			}
			if found != 1 {
				t.Errorf("the ServiceMonitor selects %d Services, want the one of metrics", found)
			}
		case "RoleBinding", "ClusterRoleBinding":
			ref := map3(u.Object, "roleRef")
			role := fmt.Sprintf("%s %s/%s", ref["kind"], u.GetNamespace(), ref["name"])
			if ref["kind"] == "ClusterRole" {
				role = fmt.Sprintf("ClusterRole /%s", ref["name"])
			}
			if !seen[role] {
				t.Errorf("the %s %s binds %s, which is not rendered", u.GetKind(), u.GetName(), role)
			}
		case "Ingress":
			for _, rule := range list3(u.Object, "spec", "rules") {
				for _, path := range list3(rule, "http", "paths") {
					if name := map3(path, "backend", "service")["name"]; !seen[fmt.Sprintf("Service %s/%s", u.GetNamespace(), name)] {
						t.Errorf("the Ingress leads to the Service %v, which is not rendered", name)
					}
				}
			}
		}
	}
}

// checkPod has the API server check the Pod where only restricted ones are allowed.
func checkPod(t *testing.T, namespace string, all []*unstructured.Unstructured) {
	t.Helper()
	apply(t, []*unstructured.Unstructured{{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
			"name": namespace, "labels": map[string]any{"pod-security.kubernetes.io/enforce": "restricted"},
		},
	}}})
	template := map3(pick(all, "Deployment")[0].Object, "spec", "template")
	pod := &unstructured.Unstructured{Object: template}
	pod.SetAPIVersion("v1")
	pod.SetKind("Pod")
	pod.SetNamespace(namespace)
	pod.SetName("pod")
	if name, _, _ := unstructured.NestedString(template, "spec", "priorityClassName"); name == "100" {
		unstructured.RemoveNestedField(template, "spec", "priorityClassName") // there is none of that name
	}
	if err := env.Client().Create(t.Context(), pod, client.DryRunAll); err != nil {
		t.Errorf("the Pod: %v", err)
	}
}

// TestDefaults compares what people get who say nothing.
func TestDefaults(t *testing.T) {
	out, err := helm(t, "template", "capstan", chart(), "-n", "capstan-system", "--set", "crds.install=false")
	must(t, err)
	golden := filepath.Join("testdata", "defaults.golden.yaml")
	if *update {
		must(t, os.WriteFile(golden, []byte(out), 0o600))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if d := cmp.Diff(string(want), out); d != "" {
		t.Errorf("go test ./internal/charttest -run TestDefaults -update writes it (-want +got):\n%s", d)
	}
}

// TestFlags checks that values reach every flag of the agent that is of use in a Pod.
func TestFlags(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), binary, "run", "--help").Output()
	must(t, err)
	set := map[string]bool{}
	for _, arg := range argsOf(t, render(t, "ns", valueSets(t)["everything"])) {
		name, _, _ := strings.Cut(arg, "=")
		set[name] = true
	}
	without := []string{
		"--help", "--version",
		"--kubeconfig", "--context", // the Pod has an account
		"--allow-local", // the Pod has no repositories; extraArgs, if it has
	}
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z-]+)`).FindAllStringSubmatch(string(out), -1) {
		if !set[m[1]] && !slices.Contains(without, m[1]) {
			t.Errorf("no value of the chart sets %s of capstan run", m[1])
		}
	}
}

// TestGoMemLimit checks the memory that is left to the agent beside the renders of pull
// requests.
func TestGoMemLimit(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{"", "724775731"},
		{"{resources: {limits: {memory: 4Gi}}}", "3110495846"},
		{"{resources: {limits: {memory: 4294967296}}}", "3110495846"},
		{"{resources: {limits: {memory: 4Gi}}, agent: {pullRequestWorkers: 2}}", "2355521126"},
		{"{resources: {limits: {memory: 512Mi}}}", "241591910"},
		{"{resources: {limits: {memory: 0.5G}}}", "225000000"},
		{"{resources: {limits: {memory: 1e9}}}", "450000000"},
		{"{resources: {limits: {memory: '1e9'}}}", ""},
		{"{resources: {limits: {memory: null}}}", ""},
		{"{resources: {limits: null}}", ""},
		{"{extraEnv: [{name: GOMEMLIMIT, value: 1GiB}]}", "1GiB"},
	} {
		container, _ := containerOf(t, render(t, "ns", c.values))
		got := ""
		for _, e := range list3(container, "env") {
			if e["name"] == "GOMEMLIMIT" {
				got += fmt.Sprint(e["value"])
			}
		}
		if got != c.want {
			t.Errorf("%s: GOMEMLIMIT=%s, want %s", c.values, got, c.want)
		}
	}
}

// TestRefused checks what values are refused, and that the message says which.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		values string
		want   []string
	}{
		{"{replica: 1}", []string{"replica"}},
		{"{agent: {watchNamespaces: [a]}}", []string{"/agent", "watchNamespaces"}},
		{"{replicas: two}", []string{"/replicas", "integer"}},
		{"{replicas: -1}", []string{"/replicas"}},
		{"{replicas: 2, leaderElection: false}", []string{"leaderElection: true"}},
		{"{leaderElection: 'false', replicas: 1}", []string{"/leaderElection", "boolean"}},
		{"{agent: {externalURL: capstan.example.com}}", []string{"/agent/externalURL"}},
		{"{agent: {externalURL: 'https://a.example.com'}, webhook: {enabled: false}}", []string{"webhook.enabled"}},
		{"{agent: {logLevel: trace}}", []string{"/agent/logLevel", "debug"}},
		{"{agent: {shutdownTimeoutSeconds: 20s}}", []string{"/agent/shutdownTimeoutSeconds", "integer"}},
		{"{extraArgs: {requests: 8}}", []string{"/extraArgs", "array"}},
		{"{extraArgs: [requests=8]}", []string{"/extraArgs/0"}},
		{"{podAnnotations: {a: 1}}", []string{"/podAnnotations/a", "string"}},
		{"{image: {tag: 1.10}}", []string{"/image/tag", "string"}},
		{"{image: {digest: abc}}", []string{"/image/digest"}},
		{"{resources: {limits: {memory: 1 Gi}}}", []string{"/resources/limits/memory"}},
		{"{serviceAccount: {create: false}}", []string{"serviceAccount.name"}},
		{"{ingress: {enabled: true}}", []string{"ingress.hosts", "agent.externalURL"}},
		{"{ingress: {enabled: true, hosts: [a]}, webhook: {enabled: false}}", []string{"webhook.enabled"}},
		{"{ingress: {hosts: [{host: a}]}}", []string{"/ingress/hosts/0", "string"}},
		{"{metrics: {enabled: false, serviceMonitor: {enabled: true}}}", []string{"metrics.enabled"}},
		{"{podDisruptionBudget: {maxUnavailable: 0}}", []string{"/podDisruptionBudget/maxUnavailable"}},
		{"{rbac: {managed: {groups: ['*']}}}", []string{"/rbac/managed/groups/0"}},
		{"{rbac: {impersonate: [{namespace: a}]}}", []string{"/rbac/impersonate/0", "names"}},
		{"{rbac: {impersonate: [{namespace: a, names: []}]}}", []string{"/rbac/impersonate/0/names"}},
		{"{rbac: {impersonate: [{namespace: a, names: [b]}, {namespace: a, names: [c]}]}}", []string{"rbac.impersonate", "namespace a"}},
		{"{podLabels: {app.kubernetes.io/name: a}}", []string{"podLabels", "app.kubernetes.io/name"}},
		{"{rbac: {extraRules: [{apiGroups: [''], resources: [users], verbs: [impersonate]}]}}", []string{"rbac.extraRules", "impersonate"}},
		{"{rbac: {extraRules: [{apiGroups: [''], resources: [pods], verbs: ['*']}]}}", []string{"rbac.extraRules", "*"}},
		{"{rbac: {extraRules: [{apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [get, escalate]}]}}", []string{"escalate"}},
		{"{networkPolicy: {egress: {apiServerPorts: ['443']}}}", []string{"/networkPolicy/egress/apiServerPorts/0"}},
	} {
		file := filepath.Join(t.TempDir(), "values.yaml")
		must(t, os.WriteFile(file, []byte(c.values), 0o600))
		out, err := helm(t, "template", "capstan", chart(), "-f", file)
		if err == nil {
			t.Errorf("%s is accepted: %.200s", c.values, out)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error doesn't say %q:\n%v", c.values, want, err)
			}
		}
	}
}
