package dev

import (
	"strings"
	"sync"
	"testing"

	"github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/chaos"
)

var (
	knobsMu sync.Mutex
	knobs   = map[string][]string{} // by namespace
)

// setChaos turns this test's knobs, and leaves those of tests that run beside it. Knobs that are for everyone
// are for tests with nobody beside them.
func (e *env) setChaos(settings ...string) {
	e.Helper()
	knobsMu.Lock()
	defer knobsMu.Unlock()
	if _, cleans := knobs[e.namespace]; !cleans && len(settings) > 0 {
		e.Cleanup(func() { e.setChaos() })
	}
	knobs[e.namespace] = settings
	var all chaos.Knobs
	for _, settings := range knobs {
		for _, s := range settings {
			if err := all.Parse(s); err != nil {
				e.Fatal(err)
			}
		}
	}
	mgmt.SetChaos(all)
}

// A worker whose node is unhealthy, and later one that never boots, are replaced by the health check; the
// replacements are well.
func TestRemediation(t *testing.T) {
	t.Parallel()
	e := sample(t, "staging", "heal")
	mhc := e.object("MachineHealthCheck", "-workers")
	set(t, mhc, []any{map[string]any{"type": "Ready", "status": "False", "timeoutSeconds": int64(1)}}, "spec", "checks", "unhealthyNodeConditions")
	set(t, mhc, int64(30), "spec", "checks", "nodeStartupTimeoutSeconds") // the least that is allowed
	e.apply(mhc)
	e.awaitAvailable()

	sick := e.worker().Name
	e.setChaos("node-unhealthy=" + e.namespace + "/" + sick)
	e.Eventually(func() map[string]bool { return names(e.machines()) }).ShouldNot(gomega.HaveKey(sick))
	e.Eventually(func() int { return len(e.machines()) }).Should(gomega.Equal(5))
	e.awaitAvailable()

	e.setChaos("never-boots=" + e.namespace + "/heal-workers-*")
	lost := e.worker()
	e.Expect(admin.Delete(e.ctx, &lost)).To(gomega.Succeed())
	var stuck string
	e.Eventually(func() string {
		for _, vm := range mgmt.datacenter.List() {
			if vm.Key.Namespace == e.namespace && vm.Problem != "" {
				stuck = vm.Machine
			}
		}
		return stuck
	}).ShouldNot(gomega.BeEmpty())
	e.Eventually(func() map[string]bool { return names(e.machines()) }).ShouldNot(gomega.HaveKey(stuck))
	e.awaitAvailable()
	e.Eventually(func() int { return len(e.machines()) }).Should(gomega.Equal(5))
}

func (e *env) worker() clusterv1.Machine {
	for _, m := range e.machines() {
		if role(m) == "worker" && m.DeletionTimestamp.IsZero() {
			return m
		}
	}
	e.Fatal("no worker")
	return clusterv1.Machine{}
}

// With the webhooks down, objects of Cluster API and of the providers are refused, and others are not.
// Afterwards everything goes on.
func TestWebhookDown(t *testing.T) {
	e := sample(t, "dev", "hooks")
	e.awaitAvailable()
	e.setChaos("webhook-down")
	md := e.object("MachineDeployment", "-workers")
	set(t, md, int64(2), "spec", "replicas")
	if err := e.tryApply(md); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "failed calling webhook") {
		t.Errorf("apply with the webhooks down: %v", err)
	}
	if err := e.tryApply(e.object("Namespace", "")); err != nil {
		t.Errorf("a Namespace has no webhook: %v", err)
	}
	e.setChaos()
	e.apply(md)
	e.Eventually(func() int { return len(e.machines()) }).Should(gomega.Equal(3))
	e.awaitAvailable()
}

// A slow API server is slow for everyone, and nobody breaks.
func TestSlowAPIServer(t *testing.T) {
	e := sample(t, "dev", "slow")
	e.setChaos("api-delay=150ms")
	e.awaitAvailable()
}

// Deleted in the wrong order, things hang where they hang with the real providers, and go on when the way is
// free.
func TestWrongOrder(t *testing.T) {
	t.Run("infrastructure first", func(t *testing.T) {
		t.Parallel()
		e := sample(t, "dev", "infra")
		e.awaitAvailable()
		e.awaitOwned()
		infra := e.object("ProxmoxCluster", "-talos")
		e.Expect(admin.Delete(e.ctx, infra.DeepCopy())).To(gomega.Succeed())
		// It waits for a Cluster that nobody deletes; the machines stay.
		e.Consistently(func() error { return admin.Get(e.ctx, e.key(infra.GetName()), infra.DeepCopy()) }, "3s").Should(gomega.Succeed())
		e.Expect(e.machines()).To(gomega.HaveLen(2))
		e.Expect(admin.Delete(e.ctx, e.cluster())).To(gomega.Succeed())
		e.Eventually(e.left).Should(gomega.BeEmpty())
	})
	t.Run("credentials first", func(t *testing.T) {
		t.Parallel()
		e := sample(t, "dev", "creds")
		e.awaitAvailable()
		e.awaitOwned()
		credentials := &metav1.PartialObjectMetadata{}
		credentials.SetGroupVersionKind(secretKind)
		e.Expect(admin.Get(e.ctx, e.key("proxmox-credentials"), credentials)).To(gomega.Succeed())
		e.Expect(admin.Delete(e.ctx, credentials)).To(gomega.Succeed())
		// The provider holds on to it …
		e.Expect(admin.Get(e.ctx, e.key("proxmox-credentials"), credentials)).To(gomega.Succeed())
		e.Expect(credentials.Finalizers).NotTo(gomega.BeEmpty())
		// … unless somebody breaks its hold.
		before := credentials.DeepCopy()
		credentials.Finalizers = nil
		e.Expect(admin.Patch(e.ctx, credentials, client.MergeFrom(before))).To(gomega.Succeed())
		e.Expect(admin.Delete(e.ctx, e.cluster())).To(gomega.Succeed())
		// The machines cannot be deleted without credentials: VMs stay.
		e.Consistently(func() int { return e.vms() }, "5s").Should(gomega.BeNumerically(">", 0))
		e.Expect(e.left()).To(gomega.ContainElement(gomega.HavePrefix("ProxmoxMachine/")))
		e.createCredentials()
		e.Eventually(e.left).Should(gomega.BeEmpty())
		e.Expect(e.vms()).To(gomega.Equal(0))
	})
	t.Run("control plane alone", func(t *testing.T) {
		t.Parallel()
		e := sample(t, "staging", "headless")
		e.awaitAvailable()
		e.Expect(admin.Delete(e.ctx, e.tcp())).To(gomega.Succeed())
		// All its machines at once, without a thought for the workers; etcd and the API server with them.
		e.Eventually(func() int { return len(e.machines(clusterv1.MachineControlPlaneLabel)) }).Should(gomega.Equal(0))
		e.Expect(e.machines()).To(gomega.HaveLen(2))
		e.Eventually(func() bool { return mgmt.datacenter.APIServerUp(e.key(e.namespace)) }).Should(gomega.BeFalse())
	})
	t.Run("paused", func(t *testing.T) {
		t.Parallel()
		e := sample(t, "dev", "pause")
		e.awaitAvailable()
		e.awaitOwned()
		c := e.object("Cluster", "-talos")
		set(t, c, true, "spec", "paused")
		e.apply(c)
		e.Expect(admin.Delete(e.ctx, e.cluster())).To(gomega.Succeed())
		e.Consistently(func() int { return len(e.machines()) }, "3s").Should(gomega.Equal(2))
		set(t, c, false, "spec", "paused")
		e.apply(c)
		e.Eventually(e.left).Should(gomega.BeEmpty())
	})
}

// vms counts the virtual machines of the cluster.
func (e *env) vms() int {
	n := 0
	for _, vm := range mgmt.datacenter.List() {
		if vm.Key.Namespace == e.namespace {
			n++
		}
	}
	return n
}
