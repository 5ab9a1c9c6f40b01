package dev

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	kubeadmconversion "sigs.k8s.io/cluster-api/controlplane/kubeadm/webhooks/conversion"
	coreconversion "sigs.k8s.io/cluster-api/core/webhooks/conversion"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/capi"
)

// A management cluster that is stopped and started again in its folder goes on with the same machines, at the
// same address.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	start := func() *Cluster {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		c, err := Start(ctx, Options{Dir: dir, BinDirs: binDirs(), Log: logr.Discard()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	shared, client1 := mgmt, admin
	defer func() {
		mgmt, admin = shared, client1
		restoreConversion()
	}()
	use := func(c *Cluster) {
		mgmt = c
		var err error
		if admin, err = client.New(c.RESTConfig(), client.Options{Scheme: client1.Scheme()}); err != nil {
			t.Fatal(err)
		}
	}

	first := start()
	use(first)
	e := sample(t, "dev", "again")
	e.awaitAvailable()
	before := names(e.machines())
	vms := first.datacenter.List()
	host := first.RESTConfig().Host
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("stopped, it says %v", err)
	}

	second := start()
	defer func() {
		if err := second.Stop(); err != nil {
			t.Error(err)
		}
	}()
	use(second)
	if second.RESTConfig().Host != host {
		t.Errorf("address %s, before %s", second.RESTConfig().Host, host)
	}
	e.Eventually(func() int { return len(second.datacenter.List()) }).Should(gomega.Equal(len(vms)))
	for i, vm := range second.datacenter.List() {
		if vm.ID != vms[i].ID || vm.UUID != vms[i].UUID {
			t.Errorf("virtual machine %+v was %+v", vm, vms[i])
		}
	}
	e.Eventually(e.ready).Should(gomega.Equal(2))
	e.Expect(names(e.machines())).To(gomega.Equal(before))
	md := e.object("MachineDeployment", "-workers")
	set(t, md, int64(2), "spec", "replicas")
	e.apply(md)
	e.Eventually(e.ready).Should(gomega.Equal(3))
	e.awaitAvailable()
}

// ready counts the nodes that the cluster's own API server shows as ready.
func (e *env) ready() int {
	nodes := &corev1.NodeList{}
	if err := mgmt.cloud.Cluster(e.key(e.namespace)).Client().List(e.ctx, nodes); err != nil {
		return -1
	}
	n := 0
	for _, node := range nodes.Items {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				n++
			}
		}
	}
	return n
}

// Where the port of the workload clusters is not to be had any more, one file is to be removed; the kubeconfigs
// in Secrets then follow.
func TestNewAddress(t *testing.T) {
	defer restoreConversion()
	dir := t.TempDir()
	start := func() (*Cluster, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		return Start(ctx, Options{Dir: dir, BinDirs: binDirs(), Log: logr.Discard()})
	}
	first, err := start()
	if err != nil {
		t.Fatal(err)
	}
	s := &corev1.Secret{}
	s.Namespace, s.Name = "default", "c-kubeconfig"
	s.Labels = map[string]string{clusterv1.ClusterNameLabel: "c"}
	s.Data = map[string][]byte{secret.KubeconfigDataName: []byte(
		`{"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"}}]}`)}
	expect := func(c *Cluster) {
		t.Helper()
		admin, err := client.New(c.RESTConfig(), client.Options{Scheme: admin.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		if s.UID == "" {
			err = admin.Create(t.Context(), s)
		} else {
			err = admin.Get(t.Context(), client.ObjectKeyFromObject(s), s)
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(s.Data[secret.KubeconfigDataName]), "server: https://"+c.cloud.Address()+"\n") {
			t.Errorf("it does not lead to %s:\n%s", c.cloud.Address(), s.Data[secret.KubeconfigDataName])
		}
	}
	expect(first)
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}

	other, err := net.Listen("tcp", first.cloud.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	file := filepath.Join(dir, "workload-address")
	if _, err := start(); err == nil || !strings.Contains(err.Error(), "remove "+file) {
		t.Fatalf("start with the port taken: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	second, err := start()
	if err != nil {
		t.Fatal(err)
	}
	expect(second)
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
}

// The version in the error messages and in the state folder is the one that go.mod requires.
func TestClusterAPIVersion(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "sigs.k8s.io/cluster-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != capi.Version {
		t.Errorf("go.mod requires %s, the constant says %s", got, capi.Version)
	}
}

// restoreConversion gives conversion back to the shared cluster after a test has started others: Cluster API
// keeps what it asks in global variables, and that of the cluster started last counts.
func restoreConversion() {
	coreconversion.SetAPIVersionGetter(capi.APIVersion(admin))
	kubeadmconversion.SetAPIVersionGetter(capi.APIVersion(admin))
}
