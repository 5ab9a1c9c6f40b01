package bootstrap

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/onsi/gomega"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// TestProvider runs the provider on one API server, with a namespace for each case.
func TestProvider(t *testing.T) {
	c := startProvider(t)
	for name, test := range map[string]func(*testing.T, client.Client){
		"life of a control plane machine": testLife,
		"several machines of a cluster":   testSeveralMachines,
		"status lost":                     testStatusLost,
		"data Secret exists":              testDataExists,
		"secrets lost":                    testSecretsLost,
		"paused Cluster":                  testPausedCluster,
		"paused TalosConfig":              testPausedConfig,
		"configuration in spec.data":      testUserData,
		"configurations that fail":        testFailures,
		"old finalizer":                   testFinalizer,
		"webhook of TalosConfig":          testConfigWebhook,
		"webhook of TalosConfigTemplate":  testTemplateWebhook,
	} {
		t.Run(name, func(t *testing.T) { test(t, c) })
	}
}

// state is the conditions of a TalosConfig in one line each, with Ready first as Cluster API sorts them.
func state(c *api.TalosConfig) []string {
	var lines []string
	for _, cond := range c.Status.Conditions {
		line := fmt.Sprintf("%s=%s %s %s %s", cond.Type, cond.Status, cond.Severity, cond.Reason, cond.Message)
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

func assertState(t *testing.T, c *api.TalosConfig, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, state(c)); diff != "" {
		t.Errorf("conditions of %s (-want +got):\n%s", c.Name, diff)
	}
}

func testLife(t *testing.T, c client.Client) {
	w := newWorld(t, c)
	config := w.config("red-cp-1", api.TalosConfigSpec{
		GenerateType: "controlplane", TalosVersion: "v1.12",
		Hostname: api.HostnameSpec{Source: api.HostnameSourceMachineName},
	})

	// Nobody owns it: nothing happens.
	w.awaitSeen(config)
	assertState(t, config)

	// The infrastructure is not ready: it waits.
	machine := w.machine(config)
	w.await(config, func(g gomega.Gomega, c *api.TalosConfig) { g.Expect(state(c)).NotTo(gomega.BeEmpty()) })
	assertState(t, config,
		"Ready=False Info WaitingForClusterInfrastructure",
		"DataSecretAvailable=False Info WaitingForClusterInfrastructure")
	if names := w.secretNames(); len(names) > 0 {
		t.Errorf("Secrets %v before the infrastructure is ready", names)
	}

	// It is generated. The talosconfig comes with the next event, here the provider's own change of the status.
	w.provision()
	w.await(config, func(g gomega.Gomega, c *api.TalosConfig) { g.Expect(state(c)).To(gomega.HaveLen(3)) })
	assertState(t, config, "Ready=True", "ClientConfigAvailable=True", "DataSecretAvailable=True")
	if got := config.Status; !got.Ready || ptr.Deref(got.DataSecretName, "") != "red-cp-1-bootstrap-data" ||
		got.ObservedGeneration != 1 || got.TalosConfig == "" {
		t.Errorf("status %+v", got)
	}
	assertLifeSecrets(w, config)

	provider := load(t, string(w.secret("red-cp-1-bootstrap-data").Data["value"]))
	assertValid(t, provider)
	if got := provider.NetworkHostnameConfig().Hostname(); got != machine.Name {
		t.Errorf("host name %q, want %q", got, machine.Name)
	}
	if got, want := provider.Cluster().IssuingCA().Crt, w.secret("red-ca").Data["tls.crt"]; string(got) != string(want) {
		t.Errorf("the machine's Kubernetes CA is not the one of Secret red-ca")
	}

	// Addresses of the Machine come into the cluster's talosconfig.
	assertEndpoints(w)
	changeStatus(w, machine, func(m *clusterv1.Machine) {
		m.Status.Addresses = clusterv1.MachineAddresses{
			{Type: clusterv1.MachineInternalIP, Address: "10.1.0.12"},
			{Type: clusterv1.MachineHostName, Address: "red-cp-1"},
			{Type: clusterv1.MachineExternalIP, Address: "10.1.0.11"},
		}
	})
	assertEndpoints(w, "10.1.0.11", "10.1.0.12")
}

// assertLifeSecrets checks all about the Secrets except what the values say.
func assertLifeSecrets(w *world, config *api.TalosConfig) {
	w.t.Helper()
	type shape struct {
		Type   corev1.SecretType
		Labels map[string]string
		Owners []metav1.OwnerReference
		Keys   []string
	}
	labels := map[string]string{"cluster.x-k8s.io/cluster-name": "red"}
	owner := func(apiVersion, kind string, o client.Object) []metav1.OwnerReference {
		return []metav1.OwnerReference{{
			APIVersion: apiVersion, Kind: kind, Name: o.GetName(), UID: o.GetUID(),
			Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
		}}
	}
	ofCluster := owner("cluster.x-k8s.io/v1beta1", "Cluster", w.cluster)
	ofConfig := owner("bootstrap.cluster.x-k8s.io/v1alpha3", "TalosConfig", config)
	want := map[string]shape{
		"red-talos":               {corev1.SecretTypeOpaque, labels, ofCluster, []string{"bundle"}},
		"red-ca":                  {corev1.SecretTypeOpaque, labels, ofCluster, []string{"tls.crt", "tls.key"}},
		"red-talosconfig":         {corev1.SecretTypeOpaque, labels, ofCluster, []string{"talosconfig"}},
		"red-cp-1-bootstrap-data": {corev1.SecretTypeOpaque, labels, ofConfig, []string{"value"}},
	}
	got := map[string]shape{}
	for _, name := range w.secretNames() {
		s := w.secret(name)
		var keys []string
		for _, key := range []string{"bundle", "talosconfig", "tls.crt", "tls.key", "value"} {
			if len(s.Data[key]) > 0 {
				keys = append(keys, key)
			}
		}
		if len(keys) != len(s.Data) {
			w.t.Errorf("Secret %s has more keys than %v", name, keys)
		}
		got[name] = shape{s.Type, s.Labels, s.OwnerReferences, keys}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("Secrets (-want +got):\n%s", diff)
	}
}

// assertEndpoints waits for the endpoints in the cluster's talosconfig.
func assertEndpoints(w *world, want ...string) {
	w.t.Helper()
	eventually(w.t, func(g gomega.Gomega) {
		s := &corev1.Secret{}
		key := client.ObjectKey{Namespace: w.namespace, Name: "red-talosconfig"}
		g.Expect(w.client.Get(w.t.Context(), key, s)).To(gomega.Succeed())
		talosconfig, err := clientconfig.FromBytes(s.Data["talosconfig"])
		g.Expect(err).NotTo(gomega.HaveOccurred())
		g.Expect(talosconfig.Context).To(gomega.Equal("red"))
		g.Expect(strings.Join(talosconfig.Contexts["red"].Endpoints, " ")).To(gomega.Equal(strings.Join(want, " ")))
	})
}

func testSeveralMachines(t *testing.T, c client.Client) {
	w := newProvisionedWorld(t, c)
	var configs []*api.TalosConfig
	for i, generateType := range []string{"controlplane", "controlplane", "worker", "worker"} {
		config := w.config(fmt.Sprintf("red-%d", i), api.TalosConfigSpec{GenerateType: generateType})
		w.machine(config)
		configs = append(configs, config)
	}
	for _, config := range configs {
		w.awaitReady(config)
		provider := load(t, string(w.secret(config.Name + "-bootstrap-data").Data["value"]))
		assertValid(t, provider)
		if got, want := provider.Cluster().IssuingCA().Crt, w.secret("red-ca").Data["tls.crt"]; string(got) != string(want) {
			t.Errorf("%s has a Kubernetes CA of its own", config.Name)
		}
	}
}

func testStatusLost(t *testing.T, c client.Client) {
	w := newProvisionedWorld(t, c)
	config := w.config("red-0", api.TalosConfigSpec{GenerateType: "worker"})
	w.machine(config, func(m *clusterv1.Machine) { m.Spec.Bootstrap.DataSecretName = ptr.To("from-a-backup") })
	w.awaitReady(config)
	if got := ptr.Deref(config.Status.DataSecretName, ""); got != "from-a-backup" {
		t.Errorf("dataSecretName %q", got)
	}
	w.await(config, func(g gomega.Gomega, c *api.TalosConfig) { g.Expect(state(c)).To(gomega.HaveLen(3)) })
	assertState(t, config, "Ready=True", "ClientConfigAvailable=True", "DataSecretAvailable=True")
	if names := w.secretNames(); len(names) > 0 {
		t.Errorf("Secrets %v were made", names)
	}
}

func testDataExists(t *testing.T, c client.Client) {
	w := newProvisionedWorld(t, c)
	w.create(&corev1.Secret{ObjectMeta: w.meta("red-0-bootstrap-data"), Data: map[string][]byte{"value": []byte("mine")}})
	config := w.config("red-0", api.TalosConfigSpec{GenerateType: "worker"})
	w.machine(config)
	w.awaitReady(config)
	if got := ptr.Deref(config.Status.DataSecretName, ""); got != "red-0-bootstrap-data" {
		t.Errorf("dataSecretName %q", got)
	}
	if got := w.secret("red-0-bootstrap-data"); string(got.Data["value"]) != "mine" || len(got.OwnerReferences) > 0 {
		t.Errorf("the Secret was changed: %+v", got)
	}
}

func testSecretsLost(t *testing.T, c client.Client) {
	w := newProvisionedWorld(t, c)
	first := w.config("red-0", api.TalosConfigSpec{GenerateType: "controlplane"})
	machine := w.machine(first)
	w.await(first, func(g gomega.Gomega, c *api.TalosConfig) { g.Expect(state(c)).To(gomega.HaveLen(3)) })
	if err := c.Delete(t.Context(), w.secret("red-talos")); err != nil {
		t.Fatal(err)
	}

	// Only the talosconfig misses the secrets, and only if something happens.
	changeStatus(w, machine, func(m *clusterv1.Machine) {
		m.Status.Addresses = clusterv1.MachineAddresses{{Type: clusterv1.MachineInternalIP, Address: "10.1.0.11"}}
	})
	failed := "ClientConfigAvailable=False Error ClientConfigGenerationFailed " +
		"talosconfig generation failure: secrets bundle is missing"
	w.await(first, func(g gomega.Gomega, c *api.TalosConfig) { g.Expect(state(c)).To(gomega.ContainElement(failed)) })
	assertState(t, first, "Ready=True", failed, "DataSecretAvailable=True")

	// The next machine gets a new PKI, and nobody says so.
	second := w.config("red-1", api.TalosConfigSpec{GenerateType: "worker"})
	w.machine(second)
	w.awaitReady(second)
	old := load(t, string(w.secret("red-0-bootstrap-data").Data["value"]))
	fresh := load(t, string(w.secret("red-1-bootstrap-data").Data["value"]))
	if string(old.Cluster().IssuingCA().Crt) == string(fresh.Cluster().IssuingCA().Crt) {
		t.Error("the new machine has the old Kubernetes CA")
	}
	if string(old.Cluster().IssuingCA().Crt) != string(w.secret("red-ca").Data["tls.crt"]) {
		t.Error("Secret red-ca was replaced")
	}
	// The first one is well again, with secrets that are not its own.
	w.await(first, func(g gomega.Gomega, c *api.TalosConfig) {
		g.Expect(state(c)).To(gomega.ContainElement("ClientConfigAvailable=True"))
	})
}

// Both tests of pausing make the TalosConfig with its owner, so that nothing but the pause holds the provider back.

func testPausedCluster(t *testing.T, c client.Client) {
	w := newProvisionedWorld(t, c, func(c *clusterv1.Cluster) { c.Spec.Paused = ptr.To(true) })
	machine := w.loneMachine("red-0", false)
	config := &api.TalosConfig{ObjectMeta: w.meta("red-0"), Spec: api.TalosConfigSpec{GenerateType: "worker"}}
	config.OwnerReferences = ownedBy(machine)
	w.create(config)
	w.awaitSeen(config)
	assertState(t, config)
	change(w, w.cluster, func(c *clusterv1.Cluster) { c.Spec.Paused = nil })
	w.awaitReady(config)
}

func testPausedConfig(t *testing.T, c client.Client) {
	w := newProvisionedWorld(t, c)
	machine := w.loneMachine("red-0", false)
	config := &api.TalosConfig{ObjectMeta: w.meta("red-0"), Spec: api.TalosConfigSpec{GenerateType: "worker"}}
	config.OwnerReferences = ownedBy(machine)
	config.Annotations = map[string]string{clusterv1.PausedAnnotation: ""}
	w.create(config)
	// Events of the TalosConfig are dropped; those of the Machine, which is not paused, are not.
	nudges := 0
	w.await(config, func(g gomega.Gomega, c *api.TalosConfig) {
		nudges++
		change(w, machine, func(m *clusterv1.Machine) { m.Labels["nudge"] = strconv.Itoa(nudges) })
		g.Expect(c.Status.ObservedGeneration).To(gomega.Equal(c.Generation))
	})
	assertState(t, config)
	change(w, config, func(c *api.TalosConfig) { c.Annotations = nil })
	w.awaitReady(config)
}

func testUserData(t *testing.T, c client.Client) {
	data, _, err := Render(input(t, api.TalosConfigSpec{GenerateType: "controlplane"}))
	if err != nil {
		t.Fatal(err)
	}
	w := newProvisionedWorld(t, c)
	config := w.config("red-0", api.TalosConfigSpec{GenerateType: "none", Data: data})
	w.machine(config)
	w.await(config, func(g gomega.Gomega, c *api.TalosConfig) { g.Expect(state(c)).To(gomega.HaveLen(3)) })
	assertState(t, config, "Ready=True", "ClientConfigAvailable=True", "DataSecretAvailable=True")
	if diff := cmp.Diff([]string{"red-0-bootstrap-data", "red-ca"}, w.secretNames()); diff != "" {
		t.Errorf("Secrets (-want +got):\n%s", diff)
	}
	ca := w.secret("red-ca").Data["tls.crt"]
	if block, _ := pem.Decode(ca); block == nil || !strings.Contains(config.Status.TalosConfig, "context: red") {
		t.Errorf("CA %q, talosconfig %q", ca, config.Status.TalosConfig)
	}
}

func testFailures(t *testing.T, c client.Client) {
	patch := []api.ConfigPatches{{Op: "add", Path: "/machine/time", Value: apiextensionsv1.JSON{Raw: []byte(`{}`)}}}
	for _, tc := range []struct {
		name    string
		spec    api.TalosConfigSpec
		want    string
		secrets []string
	}{
		{"generate type", api.TalosConfigSpec{GenerateType: "nope"}, `unknown generate type specified: "nope"`, []string{}},
		{"version", api.TalosConfigSpec{GenerateType: "worker", TalosVersion: "x"},
			`invalid talos-version: error parsing version "vx"`, []string{}},
		// The cluster's secrets are made before the mistake is found.
		{"JSON patch", api.TalosConfigSpec{GenerateType: "worker", ConfigPatches: patch},
			"JSON6902 patches are not supported for multi-document machine configuration", []string{"red-ca", "red-talos"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newProvisionedWorld(t, c)
			config := w.config("red-0", tc.spec)
			w.machine(config)
			failed := "=False Error DataSecretGenerationFailed " + tc.want
			w.await(config, func(g gomega.Gomega, c *api.TalosConfig) { g.Expect(state(c)).To(gomega.HaveLen(2)) })
			assertState(t, config, "Ready"+failed, "DataSecretAvailable"+failed)
			if config.Status.Ready || config.Status.DataSecretName != nil {
				t.Errorf("status %+v", config.Status)
			}
			if diff := cmp.Diff(tc.secrets, w.secretNames()); diff != "" {
				t.Errorf("Secrets (-want +got):\n%s", diff)
			}
		})
	}
}

func testFinalizer(t *testing.T, c client.Client) {
	w := newWorld(t, c)
	config := &api.TalosConfig{ObjectMeta: w.meta("red-0"), Spec: api.TalosConfigSpec{GenerateType: "worker"}}
	config.Finalizers = []string{api.TalosConfigFinalizer}
	w.create(config)
	if err := c.Delete(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(g gomega.Gomega) {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(config), config)
		g.Expect(apierrors.IsNotFound(err)).To(gomega.BeTrue(), "%v", err)
	})
}

// assertDenied checks the code and a part of the message of an API error.
func assertDenied(t *testing.T, err error, code int, message string) {
	t.Helper()
	status, ok := err.(apierrors.APIStatus)
	if !ok || int(status.Status().Code) != code || !strings.Contains(err.Error(), message) {
		t.Errorf("error %v, want code %d and %q", err, code, message)
	}
}

func testConfigWebhook(t *testing.T, c client.Client) {
	w := newWorld(t, c)
	bad := &api.TalosConfig{ObjectMeta: w.meta("bad"), Spec: api.TalosConfigSpec{GenerateType: "worker"}}
	bad.Spec.Hostname.Source = "DNS"
	assertDenied(t, c.Create(t.Context(), bad), http.StatusUnprocessableEntity,
		`TalosConfig.bootstrap.cluster.x-k8s.io "bad" is invalid: spec.hostname.source: Invalid value: "DNS": `+
			`valid values are: ["MachineName" "InfrastructureName"]`)

	config := w.config("good", api.TalosConfigSpec{GenerateType: "worker"})
	change(w, config, func(c *api.TalosConfig) { c.Labels = map[string]string{"may": "change"} })
	before := config.DeepCopy()
	config.Spec.TalosVersion = "v1.12"
	assertDenied(t, c.Patch(t.Context(), config, client.MergeFrom(before)), http.StatusBadRequest,
		"TalosConfig.Spec is immutable")
}

func testTemplateWebhook(t *testing.T, c client.Client) {
	w := newWorld(t, c)
	template := &api.TalosConfigTemplate{ObjectMeta: w.meta("red")}
	template.Spec.Template.Spec.GenerateType = "worker"
	template.Spec.Template.Spec.Hostname.Source = "unchecked"
	w.create(template)
	change(w, template, func(t *api.TalosConfigTemplate) { t.Labels = map[string]string{"may": "change"} })
	before := template.DeepCopy()
	template.Spec.Template.Spec.StrategicPatches = []string{"machine: {}"}
	assertDenied(t, c.Patch(t.Context(), template, client.MergeFrom(before)), http.StatusBadRequest,
		"TalosConfigTemplate.Spec is immutable")
}
