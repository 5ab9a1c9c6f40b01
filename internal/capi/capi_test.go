package capi_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

func parse(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	content, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(content); err != nil {
		t.Fatal(err)
	}
	return u
}

func gk(s string) schema.GroupKind { return schema.ParseGroupKind(s) }

func TestStageOf(t *testing.T) {
	cases := map[string]capi.Stage{
		"Namespace": capi.StageDefinitions,
		"CustomResourceDefinition.apiextensions.k8s.io": capi.StageDefinitions,

		"Secret":                         capi.StageConfig,
		"ConfigMap":                      capi.StageConfig,
		"ServiceAccount":                 capi.StageConfig,
		"Role.rbac.authorization.k8s.io": capi.StageConfig,
		"Job.batch":                      capi.StageConfig,
		"Cluster.postgresql.cnpg.io":     capi.StageConfig,
		"PodTemplate":                    capi.StageConfig,
		"ExtensionConfig.runtime.cluster.x-k8s.io":                 capi.StageConfig,
		"AWSClusterStaticIdentity.infrastructure.cluster.x-k8s.io": capi.StageConfig,

		"InClusterIPPool.ipam.cluster.x-k8s.io":       capi.StagePools,
		"GlobalInClusterIPPool.ipam.cluster.x-k8s.io": capi.StagePools,
		"IPAddressClaim.ipam.cluster.x-k8s.io":        capi.StagePools,
		"IPPool.ipam.metal3.io":                       capi.StagePools,

		"ProxmoxMachineTemplate.infrastructure.cluster.x-k8s.io":        capi.StageTemplates,
		"ProxmoxClusterTemplate.infrastructure.cluster.x-k8s.io":        capi.StageTemplates,
		"VSphereMachineTemplate.vmware.infrastructure.cluster.x-k8s.io": capi.StageTemplates,
		"TalosConfigTemplate.bootstrap.cluster.x-k8s.io":                capi.StageTemplates,
		"KubeadmControlPlaneTemplate.controlplane.cluster.x-k8s.io":     capi.StageTemplates,
		"AWSMachinePool.infrastructure.cluster.x-k8s.io":                capi.StageTemplates,

		"ProxmoxCluster.infrastructure.cluster.x-k8s.io":        capi.StageInfraCluster,
		"VSphereCluster.vmware.infrastructure.cluster.x-k8s.io": capi.StageInfraCluster,
		"ClusterClass.cluster.x-k8s.io":                         capi.StageInfraCluster,

		"TalosControlPlane.controlplane.cluster.x-k8s.io":        capi.StageControlPlane,
		"KubeadmControlPlane.controlplane.cluster.x-k8s.io":      capi.StageControlPlane,
		"GCPManagedControlPlane.infrastructure.cluster.x-k8s.io": capi.StageControlPlane,
		"AWSManagedControlPlane.controlplane.cluster.x-k8s.io":   capi.StageControlPlane,

		"Cluster.cluster.x-k8s.io": capi.StageCluster,

		"MachineDeployment.cluster.x-k8s.io": capi.StageMachines,
		"MachinePool.cluster.x-k8s.io":       capi.StageMachines,
		"MachineSet.cluster.x-k8s.io":        capi.StageMachines,
		"Machine.cluster.x-k8s.io":           capi.StageMachines,

		"MachineHealthCheck.cluster.x-k8s.io":        capi.StageAddons,
		"MachineDrainRule.cluster.x-k8s.io":          capi.StageAddons,
		"ClusterResourceSet.addons.cluster.x-k8s.io": capi.StageAddons,
		"HelmChartProxy.addons.cluster.x-k8s.io":     capi.StageAddons,
	}
	for kind, want := range cases {
		if got := capi.StageOf(gk(kind)); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}

func TestGuard(t *testing.T) {
	deployment := func(content string) *unstructured.Unstructured {
		return parse(t, "apiVersion: cluster.x-k8s.io/v1beta2\nkind: MachineDeployment\n"+content)
	}
	cases := []struct {
		name string
		kind string
		live *unstructured.Unstructured
		want bool
	}{
		{"namespace", "Namespace", nil, true},
		{"secret", "Secret", nil, true},
		{"definition", "CustomResourceDefinition.apiextensions.k8s.io", nil, true},
		{"cluster", "Cluster.cluster.x-k8s.io", nil, true},
		{"control plane", "TalosControlPlane.controlplane.cluster.x-k8s.io", nil, true},
		{"any control plane", "K0sControlPlane.controlplane.cluster.x-k8s.io", nil, true},
		{"control plane of the infrastructure group", "GCPManagedControlPlane.infrastructure.cluster.x-k8s.io", nil, true},
		{"infra cluster", "ProxmoxCluster.infrastructure.cluster.x-k8s.io", nil, true},
		{"infra cluster of a lower group", "VSphereCluster.vmware.infrastructure.cluster.x-k8s.io", nil, true},
		{"identity", "AzureClusterIdentity.infrastructure.cluster.x-k8s.io", nil, true},
		{"pool", "InClusterIPPool.ipam.cluster.x-k8s.io", nil, true},
		{"global pool", "GlobalInClusterIPPool.ipam.cluster.x-k8s.io", nil, true},
		{"machine", "Machine.cluster.x-k8s.io", nil, true},
		{"kind only", "MachineDeployment.cluster.x-k8s.io", nil, true},
		{"pool, kind only", "MachinePool.cluster.x-k8s.io", nil, true},
		{"replicas", "MachineDeployment.cluster.x-k8s.io", deployment("spec: {replicas: 1}"), true},
		{"replicas unknown", "MachineDeployment.cluster.x-k8s.io", deployment("spec: {}"), true},
		{"scaling down", "MachineDeployment.cluster.x-k8s.io", deployment("spec: {replicas: 0}\nstatus: {replicas: 2}"), true},
		{"no machines", "MachineDeployment.cluster.x-k8s.io", deployment("spec: {replicas: 0}\nstatus: {replicas: 0}"), false},
		{"never had machines", "MachineDeployment.cluster.x-k8s.io", deployment("spec: {replicas: 0}"), false},

		{"config map", "ConfigMap", nil, false},
		{"machine template", "ProxmoxMachineTemplate.infrastructure.cluster.x-k8s.io", nil, false},
		{"control plane template", "KubeadmControlPlaneTemplate.controlplane.cluster.x-k8s.io", nil, false},
		{"health check", "MachineHealthCheck.cluster.x-k8s.io", nil, false},
		{"resource set", "ClusterResourceSet.addons.cluster.x-k8s.io", nil, false},
		{"somebody else's cluster", "Cluster.postgresql.cnpg.io", nil, false},
	}
	for _, c := range cases {
		why, got := capi.Guard(gk(c.kind), c.live)
		if got != c.want || (why != "") != got {
			t.Errorf("%s: %v (%q)", c.name, got, why)
		}
	}
}

func TestPausedAndBlocked(t *testing.T) {
	if !capi.Paused(parse(t, "{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, spec: {paused: true}}")) {
		t.Error("paused isn't")
	}
	for _, spec := range []string{"{}", "{paused: false}", `{paused: "true"}`} {
		if capi.Paused(parse(t, "{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, spec: "+spec+"}")) {
			t.Errorf("%s is paused", spec)
		}
	}
	for metadata, want := range map[string]bool{
		"{}": false,
		`{annotations: {clusterctl.cluster.x-k8s.io/block-move: ""}}`:      true,
		`{annotations: {clusterctl.cluster.x-k8s.io/delete-for-move: ""}}`: true,
		`{labels: {topology.cluster.x-k8s.io/owned: ""}}`:                  true,
	} {
		if _, got := capi.Blocked(parse(t, "{apiVersion: v1, kind: Secret, metadata: "+metadata+"}")); got != want {
			t.Errorf("%s: %v", metadata, got)
		}
	}
}

func TestOptOut(t *testing.T) {
	type m = map[string]string
	cases := []struct {
		annotations, labels m
		keep, skip          bool
	}{
		{nil, nil, false, false},
		{m{"capstan.dev/prune": "disabled"}, nil, true, false},
		{m{"capstan.dev/prune": "Disabled "}, nil, true, false},
		{m{"capstan.dev/prune": "enabled"}, nil, false, false},
		{m{"argocd.argoproj.io/sync-options": "ServerSideApply=true, Prune=false"}, nil, true, false},
		{m{"argocd.argoproj.io/sync-options": "Delete=false"}, nil, true, false},
		{m{"argocd.argoproj.io/sync-options": "Prune=true"}, nil, false, false},
		{m{"kustomize.toolkit.fluxcd.io/prune": "disabled"}, nil, true, false},
		{m{"client.lifecycle.config.k8s.io/deletion": "detach"}, nil, true, false},
		{m{"cli-utils.sigs.k8s.io/on-remove": "keep"}, nil, true, false},
		{m{"helm.sh/resource-policy": "keep"}, nil, true, false},
		{nil, m{"giantswarm.io/prevent-deletion": ""}, true, false},
		{m{"capstan.dev/reconcile": "disabled"}, nil, false, true},
		{m{"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}, nil, false, true},
		{m{"client.lifecycle.config.k8s.io/mutation": "ignore"}, nil, false, true},
	}
	for _, c := range cases {
		why, keep := capi.OptOut(c.annotations, c.labels)
		if keep != c.keep || (why != "") != keep {
			t.Errorf("%v %v: keep %v %q", c.annotations, c.labels, keep, why)
		}
		why, skip := capi.Unmanaged(c.annotations)
		if skip != c.skip || (why != "") != skip {
			t.Errorf("%v: skip %v %q", c.annotations, skip, why)
		}
	}
}

func TestClassifyManager(t *testing.T) {
	cases := map[string]capi.ManagerClass{
		"kubectl":                       capi.ManagerPerson,
		"kubectl-client-side-apply":     capi.ManagerPerson,
		"kubectl-edit":                  capi.ManagerPerson,
		"kubectl-scale":                 capi.ManagerPerson,
		"before-first-apply":            capi.ManagerPerson,
		"k9s":                           capi.ManagerPerson,
		"node-fetch":                    capi.ManagerPerson,
		"Mozilla":                       capi.ManagerPerson,
		"kustomize-controller":          capi.ManagerFormerOwner,
		"helm":                          capi.ManagerFormerOwner,
		"argocd-controller":             capi.ManagerFormerOwner,
		"argocd-application-controller": capi.ManagerFormerOwner,
		"fleetagent":                    capi.ManagerFormerOwner,
		"clusterctl":                    capi.ManagerFormerOwner,
		"manager":                       capi.ManagerController,
		"capi-topology":                 capi.ManagerController,
		"capi-machineset-metadata":      capi.ManagerController,
		"cluster-autoscaler":            capi.ManagerController,
		"kubectlx":                      capi.ManagerUnknown,
		"somebody":                      capi.ManagerUnknown,
		"":                              capi.ManagerUnknown,
	}
	for name, want := range cases {
		if got := capi.ClassifyManager(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

const template = "ProxmoxMachineTemplate.infrastructure.cluster.x-k8s.io"

func TestReferences(t *testing.T) {
	cases := []struct {
		name, manifest string
		want           map[string]string
	}{
		{"Cluster v1beta2", `
apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {name: dev, namespace: dev}
spec:
  infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: a}
  controlPlaneRef: {apiGroup: controlplane.cluster.x-k8s.io, kind: TalosControlPlane, name: b}
  topology: {classRef: {name: c, namespace: classes}}
`, map[string]string{
			"spec.infrastructureRef": "ProxmoxCluster.infrastructure.cluster.x-k8s.io dev/a",
			"spec.controlPlaneRef":   "TalosControlPlane.controlplane.cluster.x-k8s.io dev/b",
			"spec.topology.classRef": "ClusterClass.cluster.x-k8s.io classes/c",
		}},
		{"Cluster v1beta1", `
apiVersion: cluster.x-k8s.io/v1beta1
kind: Cluster
metadata: {name: dev, namespace: dev}
spec:
  infrastructureRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxCluster, name: a, namespace: dev}
  topology: {class: c}
`, map[string]string{
			"spec.infrastructureRef": "ProxmoxCluster.infrastructure.cluster.x-k8s.io dev/a",
			"spec.topology.class":    "ClusterClass.cluster.x-k8s.io dev/c",
		}},
		{"MachineDeployment", `
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata: {name: workers, namespace: dev}
spec:
  clusterName: dev
  template:
    spec:
      clusterName: dev
      bootstrap: {configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: TalosConfigTemplate, name: t}}
      infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: m}
`, map[string]string{
			"spec.clusterName":                       "Cluster.cluster.x-k8s.io dev/dev",
			"spec.template.spec.clusterName":         "Cluster.cluster.x-k8s.io dev/dev",
			"spec.template.spec.bootstrap.configRef": "TalosConfigTemplate.bootstrap.cluster.x-k8s.io dev/t",
			"spec.template.spec.infrastructureRef":   template + " dev/m",
		}},
		{"ProxmoxCluster", `
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2
kind: ProxmoxCluster
metadata: {name: dev, namespace: dev}
spec: {credentialsRef: {name: credentials}}
`, map[string]string{"spec.credentialsRef": "Secret dev/credentials"}},
		{"ClusterResourceSet", `
apiVersion: addons.cluster.x-k8s.io/v1beta2
kind: ClusterResourceSet
metadata: {name: cilium, namespace: dev}
spec: {resources: [{kind: ConfigMap, name: a}, {kind: Secret, name: b}]}
`, map[string]string{"spec.resources[0]": "ConfigMap dev/a", "spec.resources[1]": "Secret dev/b"}},
		{"not Cluster API", `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: a, namespace: dev}
spec: {ref: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: x}}
`, map[string]string{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := map[string]string{}
			for _, r := range capi.References(parse(t, c.manifest)) {
				got[r.Field] = r.To.String()
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTemplateUsers(t *testing.T) {
	id := object.ID{Group: "infrastructure.cluster.x-k8s.io", Kind: "ProxmoxMachineTemplate", Namespace: "dev", Name: "m"}
	const ref = "{apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: m}"
	const oldRef = "{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxMachineTemplate, name: m"
	cases := []struct{ name, manifest, want string }{
		{"deployment", "{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: a, namespace: dev}, spec: {replicas: 0, template: {spec: {infrastructureRef: " + ref + "}}}}", "MachineDeployment dev/a"},
		{"deployment v1beta1", "{apiVersion: cluster.x-k8s.io/v1beta1, kind: MachineDeployment, metadata: {name: a, namespace: dev}, spec: {template: {spec: {infrastructureRef: " + oldRef + ", namespace: dev}}}}}", "MachineDeployment dev/a"},
		{"machine pool", "{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachinePool, metadata: {name: a, namespace: dev}, spec: {template: {spec: {infrastructureRef: " + ref + "}}}}", "MachinePool dev/a"},
		{"old machine set with machines", "{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineSet, metadata: {name: a, namespace: dev}, spec: {replicas: 0, template: {spec: {infrastructureRef: " + ref + "}}}, status: {replicas: 1}}", "MachineSet dev/a"},
		{"old machine set without machines", "{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineSet, metadata: {name: a, namespace: dev}, spec: {replicas: 0, template: {spec: {infrastructureRef: " + ref + "}}}, status: {replicas: 0}}", ""},
		{"Talos control plane", "{apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, metadata: {name: cp, namespace: dev}, spec: {infrastructureTemplate: " + oldRef + "}}}", "TalosControlPlane dev/cp"},
		{"reference without group", "{apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, metadata: {name: cp, namespace: dev}, spec: {infrastructureTemplate: {kind: ProxmoxMachineTemplate, name: m}}}", "TalosControlPlane dev/cp"},
		{"kubeadm control plane", "{apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlane, metadata: {name: cp, namespace: dev}, spec: {machineTemplate: {spec: {infrastructureRef: " + ref + "}}}}", "KubeadmControlPlane dev/cp"},
		{"class", "{apiVersion: cluster.x-k8s.io/v1beta2, kind: ClusterClass, metadata: {name: c, namespace: dev}, spec: {workers: {machineDeployments: [{infrastructure: {templateRef: " + oldRef + "}}}]}}}", "ClusterClass dev/c"},
		{"class v1beta1", "{apiVersion: cluster.x-k8s.io/v1beta1, kind: ClusterClass, metadata: {name: c, namespace: dev}, spec: {controlPlane: {machineInfrastructure: {ref: " + oldRef + "}}}}}", "ClusterClass dev/c"},
		{"clone", "{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachine, metadata: {name: x, namespace: dev, annotations: {cluster.x-k8s.io/cloned-from-name: m, cluster.x-k8s.io/cloned-from-groupkind: " + template + "}}}", "ProxmoxMachine dev/x"},
		{"clone of another kind", "{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachine, metadata: {name: x, namespace: dev, annotations: {cluster.x-k8s.io/cloned-from-name: m, cluster.x-k8s.io/cloned-from-groupkind: Other.infrastructure.cluster.x-k8s.io}}}", ""},
		{"another namespace", "{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: a, namespace: prod}, spec: {template: {spec: {infrastructureRef: " + ref + "}}}}", ""},
		{"another name", "{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: a, namespace: dev}, spec: {template: {spec: {infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: n}}}}}", ""},
		{"itself", "{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachineTemplate, metadata: {name: m, namespace: dev}}", ""},
	}
	var all []*unstructured.Unstructured
	for _, c := range cases {
		u := parse(t, c.manifest)
		all = append(all, u)
		var want []string
		if c.want != "" {
			want = []string{c.want}
		}
		if diff := cmp.Diff(want, capi.TemplateUsers(id, []*unstructured.Unstructured{u})); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	want := []string{
		"ClusterClass dev/c", "KubeadmControlPlane dev/cp", "MachineDeployment dev/a", "MachinePool dev/a",
		"MachineSet dev/a", "ProxmoxMachine dev/x", "TalosControlPlane dev/cp",
	}
	if diff := cmp.Diff(want, capi.TemplateUsers(id, all)); diff != "" {
		t.Error(diff)
	}
}

func TestTemplateUserKinds(t *testing.T) {
	names := func(kinds []schema.GroupKind) []string {
		var all []string
		for _, k := range kinds {
			all = append(all, k.String())
		}
		return all
	}
	talos := gk("TalosControlPlane.controlplane.cluster.x-k8s.io")
	cases := map[string][]string{
		template: {
			"ClusterClass.cluster.x-k8s.io", "MachineDeployment.cluster.x-k8s.io", "MachinePool.cluster.x-k8s.io",
			"MachineSet.cluster.x-k8s.io", talos.String(), "ProxmoxMachine.infrastructure.cluster.x-k8s.io",
		},
		"TalosConfigTemplate.bootstrap.cluster.x-k8s.io": {
			"TalosConfig.bootstrap.cluster.x-k8s.io", "ClusterClass.cluster.x-k8s.io", "MachineDeployment.cluster.x-k8s.io",
			"MachinePool.cluster.x-k8s.io", "MachineSet.cluster.x-k8s.io", talos.String(),
		},
		"ClusterClass.cluster.x-k8s.io": {"Cluster.cluster.x-k8s.io"},
		"ConfigMap":                     nil,
	}
	for kind, want := range cases {
		if diff := cmp.Diff(want, names(capi.TemplateUserKinds(gk(kind), []schema.GroupKind{talos, talos}))); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
	}
}
