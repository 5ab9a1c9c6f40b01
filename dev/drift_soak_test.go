package dev

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1" //nolint:staticcheck // it is still served
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// A stock fleet is left alone: nobody but controllers, the autoscaler and, through Git, its owners change
// anything. Then nothing is ever said to have drifted, and nothing is written, not even tried.
//
// A day is counted in what happens in it, not in hours: a resync of all controllers every ten minutes, and
// more rollouts, scalings, lost machines and interruptions than a day has.

// stockMembers are clusters of every make: Talos as in the sample fleet, kubeadm, and manifests of v1beta1.
func stockMembers() map[string]member {
	return map[string]member{
		"talos": {sample: "dev", edit: func(c *convergence) {
			c.patch("MachineHealthCheck", "workers", "/spec/checks/unhealthyNodeConditions",
				[]any{map[string]any{"type": "Ready", "status": "False", "timeoutSeconds": 1}})
			c.autoscaled("workers") // with replicas in Git, which the autoscaler takes over
		}},
		"kubeadm": {write: writeKubeadm, edit: func(c *convergence) {
			c.autoscaled(c.name + "-workers")
			c.remove("MachineDeployment", c.name+"-workers", "/spec/replicas")
		}},
		"v1": {write: writeV1beta1},
	}
}

// autoscaled gives a MachineDeployment to the autoscaler.
func (c *convergence) autoscaled(md string) {
	c.patch("MachineDeployment", md, "/metadata/annotations", map[string]any{
		clusterv1.AutoscalerMinSizeAnnotation: "1", clusterv1.AutoscalerMaxSizeAnnotation: "5",
	})
}

// remove removes a field by a JSON patch.
func (c *convergence) remove(kind, name, path string) {
	c.Helper()
	text := fmt.Sprintf("\n  - target:\n      kind: %s\n      name: %s\n    patch: |\n      - {op: remove, path: %s}\n", kind, name, path)
	file, err := os.OpenFile(c.overlayFile("kustomization.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(text)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		c.Fatal(err)
	}
}

// soakRun counts what happens.
type soakRun struct {
	*driftFleet
	happened map[string]int
	begun    time.Time
	// templates is the number in the name of the workers' template; version the last digit of the version.
	templates, version int
	// checkedAudit and checkedReports are the marks of the last check.
	checkedAudit   int64
	checkedReports int
}

// happen has something happen that is none of the agent's business, and looks at what it makes of it.
func (s *soakRun) happen(what string, do func()) {
	s.Helper()
	begun := time.Now()
	do()
	s.settle()
	s.check(what)
	s.happened[what]++
	s.Logf("%s: %s", what, time.Since(begun).Round(100*time.Millisecond))
}

// check looks at what the agent has sent and said since the last check.
func (s *soakRun) check(what string, may ...string) {
	s.Helper()
	audit, mark := s.checkedAudit, s.checkedReports
	s.checkedAudit, s.checkedReports = s.mark(), s.now()
	for _, wrote := range s.touched(audit) {
		if !slices.ContainsFunc(may, func(m string) bool { return strings.Contains(wrote, m) }) {
			s.Errorf("%s: the agent wrote: %s", what, wrote)
		}
	}
	s.noFindings(what, mark)
}

// noFindings fails if anything was said to have drifted since a mark.
func (s *soakRun) noFindings(during string, mark int) {
	s.Helper()
	told := map[string]bool{}
	for _, r := range s.said(mark) {
		for _, d := range r.overlay.Status.Drift {
			if text := describe(d); !told[text] {
				told[text] = true
				s.Errorf("%s: false alarm in %s: %s", during, r.path, text)
			}
		}
		if len(r.overlay.Status.Corrections) > 0 {
			s.Errorf("%s: something was corrected in %s: %+v", during, r.path, r.overlay.Status.Corrections)
			return
		}
	}
}

// rollout changes Git; only what the commit changes is written.
func (s *soakRun) rollout(what string, edit func(), may ...string) {
	s.Helper()
	begun := time.Now()
	s.commit(what, edit)
	s.check(what, may...)
	s.happened["rollout through Git"]++
	s.Logf("%s: %s", what, time.Since(begun).Round(100*time.Millisecond))
}

// look has every controller look at everything: their own annotation comes to each object.
func (s *soakRun) look() {
	s.Helper()
	stamp := fmt.Sprintf(`{"metadata":{"annotations":{"test.example.org/seen":"%d"}}}`, s.happened["resync"])
	for _, m := range s.members {
		for resource, kind := range recorded {
			if resource == overlays {
				continue
			}
			list := &unstructured.UnstructuredList{}
			list.SetAPIVersion(resource.GroupVersion().String())
			list.SetKind(kind + "List")
			if err := admin.List(s.ctx, list, client.InNamespace(m.namespace)); err != nil {
				s.Fatal(err)
			}
			for i := range list.Items {
				err := admin.Patch(s.ctx, &list.Items[i], client.RawPatch(types.MergePatchType, []byte(stamp)), client.FieldOwner("manager"))
				if client.IgnoreNotFound(err) != nil {
					s.Fatal(err)
				}
			}
		}
	}
}

// scale sets replicas as the cluster autoscaler does, and waits for the machines.
func (s *soakRun) scale(m *convergence, md string, replicas int) {
	s.Helper()
	u := &clusterv1beta1.MachineDeployment{} // the version it uses
	u.Namespace, u.Name = m.namespace, md
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error { // with who writes the status
		scale := &autoscalingv1.Scale{}
		if err := admin.SubResource("scale").Get(s.ctx, u, scale); err != nil {
			return err
		}
		scale.Spec.Replicas = int32(replicas) //nolint:gosec // a few
		return admin.SubResource("scale").Update(s.ctx, u, client.WithSubResourceBody(scale), client.FieldOwner("cluster-autoscaler"))
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Eventually(func() int { return len(m.machines(clusterv1.MachineDeploymentNameLabel)) }).Should(gomega.Equal(replicas), m.dump)
}

// lose waits until a machine is replaced.
func (s *soakRun) lose(m *convergence, do func(name string)) {
	s.Helper()
	lost := m.worker().Name
	before := len(m.machines())
	do(lost)
	s.Eventually(func() map[string]bool { return names(m.machines()) }).ShouldNot(gomega.HaveKey(lost), m.dump)
	s.Eventually(func() int { return len(m.machines()) }).Should(gomega.Equal(before), m.dump)
}

// round is a part of a day.
func (s *soakRun) round() {
	talos, kubeadm, v1 := s.members["talos"], s.members["kubeadm"], s.members["v1"]
	s.happen("resync", s.look)
	s.happen("autoscaler up", func() {
		s.scale(talos, talos.name+"-workers", 2)
		s.scale(kubeadm, kubeadm.name+"-workers", 2)
	})
	s.happen("resync", s.look)
	s.happen("unhealthy node replaced by MachineHealthCheck", func() {
		s.lose(talos, func(name string) { talos.setChaos("node-unhealthy=" + talos.namespace + "/" + name) })
		talos.setChaos()
	})
	s.version++
	bump := func(m *convergence, md string) {
		m.patch("MachineDeployment", md, "/spec/template/spec/version", fmt.Sprintf("v1.35.%d", s.version))
	}
	workers := len(talos.machines(clusterv1.MachineDeploymentNameLabel))
	s.rollout("templates and versions", func() {
		talos.replace("machines-workers.yaml", fmt.Sprintf("workers-v%d", s.templates), fmt.Sprintf("workers-v%d", s.templates+1))
		s.templates++
		bump(v1, v1.name+"-workers")
		kubeadm.patch("MachineDeployment", kubeadm.name+"-workers", "/spec/template/metadata",
			map[string]any{"labels": map[string]any{"node.cluster.x-k8s.io/round": fmt.Sprint(s.version)}})
	}, talos.name+"-workers", v1.name+"-workers", kubeadm.name+"-workers")
	s.Expect(talos.machines(clusterv1.MachineDeploymentNameLabel)).To(gomega.HaveLen(workers), "a commit leaves replicas to the autoscaler")
	s.happen("agent killed", s.kill)
	s.happen("machine deleted", func() {
		s.lose(kubeadm, func(name string) {
			gone := &clusterv1.Machine{}
			gone.Namespace, gone.Name = kubeadm.namespace, name
			s.Expect(admin.Delete(s.ctx, gone)).To(gomega.Succeed())
		})
	})
	s.happen("API server out of the agent's reach", func() {
		s.Expect(s.wire.SetDown(true)).To(gomega.Succeed())
		s.look() // what it misses
		s.Expect(s.wire.SetDown(false)).To(gomega.Succeed())
	})
	s.happen("autoscaler down", func() {
		s.scale(talos, talos.name+"-workers", 1)
		s.scale(kubeadm, kubeadm.name+"-workers", 1)
	})
}

func (s *soakRun) finish() {
	s.Helper()
	s.noFindings("from the first apply on", 0)
	s.Logf("in %s: %v; reports %d", time.Since(s.begun).Round(time.Second), s.happened, len(s.said(0)))
	tally := map[string]int{}
	for _, r := range s.requests(0) {
		if r.verb == "list" || r.verb == "watch" {
			continue
		}
		tally[r.verb+" "+r.group+"/"+r.resource]++
	}
	for _, what := range slices.Sorted(maps.Keys(tally)) {
		s.Logf("the agent sent: %4d %s", tally[what], what)
	}
}

func newSoakRun(t *testing.T, name string, members map[string]member) *soakRun {
	t.Helper()
	s := &soakRun{happened: map[string]int{}, begun: time.Now(), templates: 1, version: 4}
	s.driftFleet = newDriftFleet(t, name, members)
	s.Logf("converged after %s", time.Since(s.begun).Round(time.Second))
	s.checkedAudit, s.checkedReports = s.mark(), s.now()
	s.noFindings("until it converged", 0)
	return s
}

// An hour of it.
func TestStockFleet(t *testing.T) {
	t.Parallel()
	s := newSoakRun(t, "stock", stockMembers())
	s.round()
	s.finish()
}

// The day: the whole sample fleet beside the others, in a management cluster of its own whose controllers look
// at everything every few seconds, as often as in 24 hours; and which is stopped and started again.
func TestSoakStockFleet(t *testing.T) {
	soak(t)
	const resync, resyncs = 3 * time.Second, 24 * 6
	dir := t.TempDir()
	log := filepath.Join(dir, "audit.log")
	start := func() *Cluster {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		c, err := Start(ctx, Options{
			Dir: filepath.Join(dir, "state"), BinDirs: binDirs(), Audit: log, Resync: resync, Log: logr.Discard(),
		})
		if err != nil {
			t.Fatal(err)
		}
		mgmt = c
		if admin, err = client.New(c.RESTConfig(), client.Options{Scheme: admin.Scheme()}); err != nil {
			t.Fatal(err)
		}
		return c
	}
	shared, sharedClient, sharedLog := mgmt, admin, auditLog
	auditLog = log
	start()
	t.Cleanup(func() { // after the agent has ended
		if err := mgmt.Stop(); err != nil {
			t.Error(err)
		}
		mgmt, admin, auditLog = shared, sharedClient, sharedLog
		restoreConversion()
	})
	members := stockMembers()
	members["staging"], members["prod"] = member{sample: "staging"}, member{sample: "prod"}
	if err := applyShared(t.Context()); err != nil { // what prod needs
		t.Fatal(err)
	}
	s := newSoakRun(t, "day", members)
	begun := time.Now()
	for time.Since(begun) < resyncs*resync {
		s.round()
		s.happen("management cluster restarted", func() {
			if err := mgmt.Stop(); err != nil {
				t.Fatal(err)
			}
			start()
			s.settle()
		})
	}
	s.happened["resync by itself"] = int(time.Since(begun) / resync)
	s.finish()
}
