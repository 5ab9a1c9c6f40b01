package dev

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// These tests hold the claim that convergence is true: everything that becomes of a cluster is recorded, and
// whenever Capstan reports success, a judge of its own looks whether the machines were there at that moment.

// convergence is a cluster that is changed by commits, with the agent at work and a recorder beside it.
type convergence struct {
	*env
	dir      string // the repository
	agent    *process
	recorder *recorder
	// order has the revisions as they were committed, declared what each of them renders.
	order    []string
	declared map[string][]*unstructured.Unstructured
	push     func() // after a commit; may be nil
	slow     bool   // on purpose, so that it counts for nothing how long things take
}

// process is the agent, which may be killed.
type process struct {
	cmd  *exec.Cmd
	args []string
	log  bytes.Buffer
}

// extra are what a test may want to be different, before the agent starts.
type extra struct {
	spec       map[string]any // of the Fleet
	write      func(e *env, dir string)
	kubeconfig string // of the agent
	flags      []string
	needs      []client.Object
	// published is called once there is a repository.
	published func(c *convergence, x *extra)
}

// converging starts everything for one cluster: a sample overlay under the test's name, unless overlay is
// empty; then write puts the overlay's files into a folder.
func converging(t *testing.T, name, overlay string, x extra) *convergence {
	t.Helper()
	c := &convergence{env: newEnv(t, name), declared: map[string][]*unstructured.Unstructured{}}
	if overlay != "" {
		c.dir = c.repository(overlay)
	} else {
		c.dir = filepath.Join(c.TempDir(), "fleet")
		at := filepath.Join(c.dir, "clusters", name)
		c.Expect(os.MkdirAll(at, 0o700)).To(gomega.Succeed())
		x.write(c.env, at)
		c.git(c.dir, "init", "-q", "-b", "main")
		c.git(c.dir, "add", ".")
		c.git(c.dir, "commit", "-qm", "One cluster")
	}
	c.note()
	if x.published != nil {
		x.published(c, &x)
	}
	c.createCredentials()
	c.installCapstan()
	c.recorder = startRecorder(c.env)
	c.agent = &process{args: append([]string{
		"run", "--kubeconfig", cmp.Or(x.kubeconfig, c.kubeconfig), "--watch-namespace", c.name + "-system", "-n", c.name + "-system",
		"--allow-local", "--leader-elect=false", "--cache-dir", c.TempDir(), "--metrics-address", "0", "--health-address", "0", "--webhook-address", "0",
	}, x.flags...)}
	c.startProcess()
	c.Cleanup(c.stopProcess)
	all := map[string]any{"git": map[string]any{"url": c.dir, "interval": "1s"}}
	maps.Copy(all, x.spec)
	c.createFleet(all, x.needs...)
	return c
}

func (c *convergence) startProcess() {
	c.Helper()
	c.agent.cmd = exec.Command(capstan, c.agent.args...)
	c.agent.cmd.Stdout, c.agent.cmd.Stderr = &c.agent.log, &c.agent.log
	if err := c.agent.cmd.Start(); err != nil {
		c.Fatal(err)
	}
}

// kill ends the agent at once, and it starts again.
func (c *convergence) kill() {
	c.Helper()
	_ = c.agent.cmd.Process.Kill()
	_ = c.agent.cmd.Wait()
	c.startProcess()
}

func (c *convergence) stopProcess() {
	_ = c.agent.cmd.Process.Signal(syscall.SIGTERM)
	err := c.agent.cmd.Wait()
	if c.Failed() || err != nil {
		c.Errorf("the agent ended with %v and said:\n%s", err, c.agent.log.String())
	}
}

// overlayFile is a file of the overlay.
func (c *convergence) overlayFile(name string) string {
	return filepath.Join(c.dir, "clusters", c.name, name)
}

// note keeps what the commit that is checked out declares.
func (c *convergence) note() {
	c.Helper()
	revision := "main@sha1:" + c.head(c.dir)
	c.order = append(c.order, revision)
	c.declared[revision] = render(c.T, filepath.Join(c.dir, "clusters", c.name), "", "")
}

// commit commits what edit does to the repository.
func (c *convergence) commit(message string, edit func()) {
	c.Helper()
	edit()
	c.git(c.dir, "add", ".")
	c.git(c.dir, "commit", "-qm", message)
	c.note()
	if c.push != nil {
		c.push()
	}
}

// replace changes a text in a file of the overlay, where it must be.
func (c *convergence) replace(file, from, to string) {
	c.Helper()
	content, err := os.ReadFile(c.overlayFile(file))
	if err != nil || !bytes.Contains(content, []byte(from)) {
		c.Fatalf("%s has no %q (%v)", file, from, err)
	}
	edit(c.T, c.overlayFile(file), from, to)
}

// patch adds a JSON patch of one field to the end of the kustomization, where its patches are.
func (c *convergence) patch(kind, name, path string, value any) {
	c.Helper()
	v, err := yaml.Marshal([]any{map[string]any{"op": "add", "path": path, "value": value}})
	if err != nil {
		c.Fatal(err)
	}
	text := fmt.Sprintf("\n  - target:\n      kind: %s\n      name: %s\n    patch: |\n", kind, name)
	for line := range strings.Lines(string(v)) {
		text += "      " + line
	}
	file, err := os.OpenFile(c.overlayFile("kustomization.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		c.Fatal(err)
	}
	_, err = file.WriteString(text)
	if closeErr := file.Close(); err != nil || closeErr != nil {
		c.Fatal(err, closeErr)
	}
}

// await waits until Capstan says that of the newest commit, and returns what it says.
func (c *convergence) await(phase string) said {
	c.Helper()
	revision := c.order[len(c.order)-1]
	c.Eventually(func() string {
		s := c.recorder.now()
		switch {
		case s.applied != revision:
			return "not applied: " + s.String()
		case phase == "Converged" && s.converged != revision:
			return "not converged: " + s.String()
		case s.phase != phase:
			return s.String()
		}
		return ""
	}).Should(gomega.BeEmpty(), func() string { return "waiting for " + phase + " of " + short(revision) + "\n" + c.dump() })
	return c.recorder.now()
}

// judge holds what was said against what was.
func (c *convergence) judge() verdict {
	c.Helper()
	v := judge(c.recorder.history(c.env), c.order, c.declared)
	for _, complaint := range v.complaints {
		c.Error(complaint)
	}
	for _, note := range v.notes {
		c.Log(note)
	}
	c.Logf("phases: %v", v.phases)
	if !c.slow {
		noteLatencies(c.T, v.latencies)
	}
	return v
}

// A step is one commit of the table of consequences.
type step struct {
	name string
	edit func(c *convergence)
	// waits says that nothing happens after it until a person acts, and act does so. The message must have it.
	waits string
	act   func(c *convergence)
	// rolls tells whether Machines are to be replaced or scaled: then it must have been seen to be Progressing.
	rolls bool
}

// walk commits one step after the other, each once the machines are there.
func (c *convergence) walk(steps []step) {
	c.Helper()
	c.await("Converged")
	for _, s := range steps {
		begun := time.Now()
		before := names(c.machines())
		c.commit(s.name, func() { s.edit(c) })
		if s.waits != "" {
			if said := c.await("Waiting"); !strings.Contains(said.message, s.waits) {
				c.Errorf("%s: it waits, and says %q", s.name, said.message)
			}
			if s.act != nil {
				s.act(c)
			}
		}
		if s.waits == "" || s.act != nil {
			c.await("Converged")
		}
		changed := 0
		for name := range names(c.machines()) {
			if !before[name] {
				changed++
			}
		}
		if len(names(c.machines())) != len(before) || changed > 0 {
			changed = max(changed, 1)
		}
		if s.rolls != (changed > 0) {
			c.Errorf("%s: machines before %v, after %v", s.name, before, names(c.machines()))
		}
		c.Logf("%s: %s, %s", s.name, short(c.order[len(c.order)-1]), time.Since(begun).Round(100*time.Millisecond))
	}
	v := c.judge()
	if len(v.latencies) < 1+len(steps) {
		n := 0
		for _, s := range steps {
			if s.waits == "" || s.act != nil {
				n++
			}
		}
		c.Expect(v.latencies).To(gomega.HaveLen(1+n), "each commit converges once")
	}
}

// deleteMachines deletes Machines as a person does under the strategy OnDelete.
func (c *convergence) deleteMachines(label string) {
	c.Helper()
	for _, m := range c.machines(label) {
		c.Expect(admin.Delete(c.ctx, &m)).To(gomega.Succeed())
	}
}

// field is a step that changes one field.
func field(name, kind, object, path string, value any) step {
	return step{name: name, edit: func(c *convergence) { c.patch(kind, object, path, value) }}
}

func (s step) rolling() step { s.rolls = true; return s }

func (s step) waiting(why string, act func(c *convergence)) step {
	s.waits, s.act = why, act
	return s
}

// rotation gives a template a new name and another content.
func rotation(name, file, from, to, was, is string) step {
	return step{name: name, rolls: true, edit: func(c *convergence) {
		c.replace(file, from, to)
		c.replace(file, was, is)
	}}
}

var (
	workersUp     = field("workers up", "MachineDeployment", "workers", "/spec/replicas", 3).rolling()
	workersDown   = field("workers down", "MachineDeployment", "workers", "/spec/replicas", 1).rolling()
	workersRotate = rotation("workers' machines", "machines-workers.yaml", "workers-v1", "workers-v2", "memoryMiB: 4096", "memoryMiB: 6144")
	nothing       = step{name: "a comment", edit: func(c *convergence) { c.replace("cluster.yaml", "# How many", "# So many") }}
	workersBump   = field("workers' version", "MachineDeployment", "workers", "/spec/template/spec/version", "v1.35.5").rolling()

	paused          = field("paused", "Cluster", "talos", "/spec/paused", true).waiting("paused", nil)
	workersUpInVain = step{name: "workers up while paused", waits: "paused", edit: func(c *convergence) {
		// In the same commit the controller might hear of the replicas before it hears that the Cluster is paused.
		c.Eventually(func() bool {
			status, _, _ := cond(c.live(coreVersion, "MachineDeployment", c.name+"-workers"), "Paused")
			return status == "True"
		}).Should(gomega.BeTrue(), c.dump)
		c.patch("MachineDeployment", "workers", "/spec/replicas", 2)
	}}
	resumed = field("resumed", "Cluster", "talos", "/spec/paused", false).rolling()

	workersOnDelete = step{name: "workers on delete", rolls: true, waits: "OnDelete", edit: func(c *convergence) {
		c.patch("MachineDeployment", "workers", "/spec/rollout/strategy", map[string]any{"type": "OnDelete"})
		c.replace("machines-workers.yaml", "name: workers-v2", "name: workers-v3")
	}, act: func(c *convergence) { c.deleteMachines(clusterv1.MachineDeploymentNameLabel) }}

	controlPlaneBump   = field("control plane's version", "TalosControlPlane", "cp", "/spec/version", "v1.35.6").rolling()
	controlPlaneConfig = field("control plane's configuration", "TalosControlPlane", "cp",
		"/spec/controlPlaneConfig/controlplane/strategicPatches/-", "machine:\n  nodeLabels:\n    rack: a1\n").rolling()
	controlPlaneOnDelete = step{name: "control plane on delete", rolls: true, waits: "OnDelete", edit: func(c *convergence) {
		c.patch("TalosControlPlane", "cp", "/spec/rolloutStrategy", map[string]any{"type": "OnDelete"})
		c.patch("TalosControlPlane", "cp", "/spec/controlPlaneConfig/controlplane/strategicPatches/-", "machine:\n  nodeLabels:\n    rack: a2 # a comment\n")
	}}
	controlPlaneUp     = field("control plane up", "TalosControlPlane", "cp", "/spec/replicas", 3).rolling()
	controlPlaneDown   = field("control plane down", "TalosControlPlane", "cp", "/spec/replicas", 1).rolling()
	controlPlaneRotate = rotation("control plane's machines", "machines-control-plane.yaml", "cp-v1", "cp-v2", "memoryMiB: 4096", "memoryMiB: 6144")
	bothBump           = step{name: "both versions", rolls: true, edit: func(c *convergence) {
		c.patch("TalosControlPlane", "cp", "/spec/version", "v1.36.0")
		c.patch("MachineDeployment", "workers", "/spec/template/spec/version", "v1.36.0")
	}}
)

// soak skips what takes too long for every day.
func soak(t *testing.T) {
	t.Helper()
	if os.Getenv("CAPSTAN_SOAK") == "" {
		t.Skip("set CAPSTAN_SOAK=1")
	}
}

// The workers' half of the table of consequences.
func TestConvergenceWorkers(t *testing.T) {
	t.Parallel()
	c := converging(t, "conv-w", "dev", extra{})
	c.walk([]step{nothing, workersUp, workersDown, workersRotate, paused, workersUpInVain, resumed, workersOnDelete})
}

// The control plane's.
func TestConvergenceControlPlane(t *testing.T) {
	t.Parallel()
	c := converging(t, "conv-cp", "dev", extra{})
	c.walk([]step{controlPlaneBump, controlPlaneUp, controlPlaneDown})
}

// The rest of the table.
func TestConvergenceMore(t *testing.T) {
	soak(t)
	t.Run("workers", func(t *testing.T) {
		t.Parallel()
		c := converging(t, "conv-mw", "dev", extra{})
		c.walk([]step{
			workersUp,
			field("labels", "MachineDeployment", "workers", "/spec/template/metadata/labels/node.cluster.x-k8s.io~1rack", "a1"),
			field("drain timeout", "MachineDeployment", "workers", "/spec/template/spec/deletion/nodeDrainTimeoutSeconds", 600),
			field("strategy", "MachineDeployment", "workers", "/spec/rollout/strategy/rollingUpdate", map[string]any{"maxSurge": 0, "maxUnavailable": 1}),
			rotation("workers' Talos", "talos-workers.yaml", "workers-v1", "workers-v2", "machine:", "machine: # again").rolling(),
			field("DNS", "ProxmoxCluster", "talos", "/spec/dnsServers", []string{"10.20.0.4"}),
			field("health check", "MachineHealthCheck", "workers", "/spec/checks/nodeStartupTimeoutSeconds", 900),
			{name: "another pool", rolls: true, edit: func(c *convergence) { c.addPool() }},
			{name: "the other pool is gone", edit: func(c *convergence) { c.replace("kustomization.yaml", "  - pool.yaml\n", "") },
				rolls: true, waits: "approv", act: func(c *convergence) { c.capstan("approve", "--yes", "clusters/"+c.name) }},
			workersDown,
		})
	})
	t.Run("control plane", func(t *testing.T) {
		t.Parallel()
		c := converging(t, "conv-mcp", "dev", extra{})
		c.walk([]step{
			controlPlaneRotate, controlPlaneConfig, bothBump,
			controlPlaneOnDelete.replacing(),
		})
	})
	t.Run("three", func(t *testing.T) {
		t.Parallel()
		c := converging(t, "conv-3", "staging", extra{})
		c.walk([]step{
			{name: "both versions", rolls: true, edit: func(c *convergence) { c.replace("cluster.yaml", "v1.34.4", "v1.35.1") }},
			controlPlaneOnDelete.replacing(),
		})
	})
	t.Run("kubeadm", func(t *testing.T) {
		t.Parallel()
		c := converging(t, "conv-kubeadm", "", extra{write: writeKubeadm})
		cp, workers := c.name+"-control-plane", c.name+"-workers"
		c.walk([]step{
			field("KubeadmConfigTemplate", "KubeadmConfigTemplate", c.name+"-worker", "/spec/template/spec/preKubeadmCommands", []string{"true"}),
			field("version", "KubeadmControlPlane", cp, "/spec/version", "v1.34.5").rolling(),
			field("workers' version", "MachineDeployment", workers, "/spec/template/spec/version", "v1.34.5").rolling(),
			field("up", "KubeadmControlPlane", cp, "/spec/replicas", 3).rolling(),
			field("kubeadm", "KubeadmControlPlane", cp, "/spec/kubeadmConfigSpec/preKubeadmCommands", []string{"true"}).rolling(),
			field("labels", "KubeadmControlPlane", cp, "/spec/machineTemplate/metadata", map[string]any{"labels": map[string]any{"rack": "a1"}}),
			field("down", "KubeadmControlPlane", cp, "/spec/replicas", 1).rolling(),
		})
	})
	t.Run("v1beta1", func(t *testing.T) {
		t.Parallel()
		c := converging(t, "conv-v1", "", extra{write: writeV1beta1})
		c.walk([]step{
			field("version", "TalosControlPlane", c.name+"-cp", "/spec/version", "v1.35.6").rolling(),
			field("up", "MachineDeployment", c.name+"-workers", "/spec/replicas", 3).rolling(),
			field("workers' version", "MachineDeployment", c.name+"-workers", "/spec/template/spec/version", "v1.35.6").rolling(),
			field("drain timeout", "MachineDeployment", c.name+"-workers", "/spec/template/spec/nodeDrainTimeout", "10m0s"),
			field("down", "MachineDeployment", c.name+"-workers", "/spec/replicas", 1).rolling(),
			step{name: "on delete", rolls: true, waits: "OnDelete", edit: func(c *convergence) {
				c.patch("MachineDeployment", c.name+"-workers", "/spec/strategy", map[string]any{"type": "OnDelete"})
				c.patch("MachineDeployment", c.name+"-workers", "/spec/template/spec/version", "v1.35.5")
			}, act: func(c *convergence) { c.deleteMachines(clusterv1.MachineDeploymentNameLabel) }},
			field("paused", "Cluster", c.name+"-talos", "/spec/paused", true).waiting("paused", nil),
			field("resumed", "Cluster", c.name+"-talos", "/spec/paused", false),
		})
	})
}

// replacing has a person replace control-plane machines one by one.
func (s step) replacing() step {
	s.act = func(c *convergence) {
		machines := c.machines(clusterv1.MachineControlPlaneLabel)
		if len(machines) == 1 { // the only one can't be deleted without losing etcd
			c.commit("rolling again", func() {
				c.patch("TalosControlPlane", "cp", "/spec/rolloutStrategy", map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": 1}})
			})
			return
		}
		for _, m := range machines {
			c.Expect(admin.Delete(c.ctx, &m)).To(gomega.Succeed())
			c.Eventually(func() (n int) {
				for _, other := range c.machines(clusterv1.MachineControlPlaneLabel) {
					if other.Name != m.Name && other.Status.NodeRef.IsDefined() {
						n++
					}
				}
				return n
			}).Should(gomega.Equal(len(machines)), c.dump)
		}
	}
	return s
}

// addPool declares a second MachineDeployment.
func (c *convergence) addPool() {
	c.Helper()
	content, err := os.ReadFile(filepath.Join(c.dir, "clusters", "base", "workers.yaml"))
	if err != nil {
		c.Fatal(err)
	}
	pool, _, _ := strings.Cut(string(content), "\n---\n")
	pool = strings.NewReplacer("name: workers\nspec", "name: pool\nspec", "pool: workers", "pool: pool", "v1.34.4", "v1.35.4").Replace(pool)
	c.Expect(os.WriteFile(c.overlayFile("pool.yaml"), []byte(pool), 0o600)).To(gomega.Succeed())
	c.replace("kustomization.yaml", "  - ../base\n", "  - ../base\n  - pool.yaml\n")
}

const kustomization = "resources: [cluster.yaml]\npatches:\n"

func writeOverlay(e *env, dir, manifests, target string) {
	e.Helper()
	first := fmt.Sprintf("  - target:\n      kind: Cluster\n      name: %s\n    patch: |\n      - {op: add, path: /metadata/labels, value: {test: convergence}}\n", target)
	e.Expect(os.WriteFile(filepath.Join(dir, "cluster.yaml"), []byte(manifests), 0o600)).To(gomega.Succeed())
	e.Expect(os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization+first), 0o600)).To(gomega.Succeed())
}

// writeKubeadm writes a cluster of the real KubeadmControlPlane.
func writeKubeadm(e *env, dir string) {
	e.Helper()
	e.namespace = e.name
	manifest, err := os.ReadFile(filepath.Join("internal", "kubeadm", "testdata", "cluster.yaml"))
	if err != nil {
		e.Fatal(err)
	}
	variables := map[string]string{
		"NAMESPACE": e.namespace, "CLUSTER_NAME": e.namespace, "KUBERNETES_VERSION": "v1.34.4", "CONTROL_PLANE_ENDPOINT_IP": "10.0.0.4",
		"CONTROL_PLANE_MACHINE_COUNT": "1", "WORKER_MACHINE_COUNT": "1",
	}
	writeOverlay(e, dir, os.Expand(string(manifest), func(name string) string { return variables[name] }), e.name)
}

// writeV1beta1 writes the sample dev with Cluster and MachineDeployment as people wrote them before v1beta2.
func writeV1beta1(e *env, dir string) {
	e.Helper()
	var out []string
	for _, o := range render(e.T, filepath.Join("..", "clusters", "dev"), "dev", e.name) {
		ref := func(group, kind, name string) map[string]any {
			return map[string]any{"apiVersion": group, "kind": kind, "name": name}
		}
		const infra = "infrastructure.cluster.x-k8s.io/v1alpha2"
		switch o.GetKind() {
		case "Cluster":
			o.SetAPIVersion("cluster.x-k8s.io/v1beta1")
			set(e.T, o, ref(infra, "ProxmoxCluster", e.namespace), "spec", "infrastructureRef")
			set(e.T, o, ref("controlplane.cluster.x-k8s.io/v1alpha3", "TalosControlPlane", e.name+"-cp"), "spec", "controlPlaneRef")
		case "MachineDeployment":
			o.SetAPIVersion("cluster.x-k8s.io/v1beta1")
			unstructured.RemoveNestedField(o.Object, "spec", "rollout")
			unstructured.RemoveNestedField(o.Object, "spec", "template", "spec", "deletion")
			set(e.T, o, map[string]any{"type": "RollingUpdate"}, "spec", "strategy")
			set(e.T, o, "15m0s", "spec", "template", "spec", "nodeDrainTimeout")
			set(e.T, o, ref(infra, "ProxmoxMachineTemplate", e.name+"-workers-v1"), "spec", "template", "spec", "infrastructureRef")
			set(e.T, o, ref("bootstrap.cluster.x-k8s.io/v1alpha3", "TalosConfigTemplate", e.name+"-workers-v1"), "spec", "template", "spec", "bootstrap", "configRef")
		case "ClusterResourceSet", "ConfigMap", "MachineHealthCheck":
			continue
		}
		out = append(out, text(e.T, o.Object))
	}
	writeOverlay(e, dir, strings.Join(out, "---\n"), e.namespace)
}

// A commit whose machine never boots stalls, and says what it waits for; once it boots, all is well.
func TestConvergenceStalls(t *testing.T) {
	t.Parallel()
	c := converging(t, "conv-st", "dev", extra{spec: map[string]any{"stallAfter": "5s"}})
	c.await("Converged")
	c.setChaos("never-boots=" + c.namespace + "/conv-st-workers*:all")
	c.commit("another machine", func() { workersRotate.edit(c) })
	c.await("Stalled")
	c.Eventually(func() string { return c.recorder.now().message }).Should(gomega.ContainSubstring("WaitingFor"), "the state of the virtual machine")
	s := c.await("Stalled")
	c.Expect(s.outcomes[0]).To(gomega.HaveSuffix("Stalled"))
	c.Expect(s.converged).To(gomega.Equal(c.order[0]))
	c.setChaos()
	c.await("Converged")
	c.judge()
}

// A node that isn't ready for a while is never part of a success, and one that fails after it degrades it.
func TestConvergenceFlaps(t *testing.T) {
	t.Parallel()
	c := converging(t, "conv-fl", "dev", extra{spec: map[string]any{"stallAfter": "5s"}})
	c.await("Converged")
	// After the success.
	c.setChaos("node-unhealthy=" + c.namespace + "/conv-fl-workers*:all")
	s := c.await0("Degraded")
	c.Expect(s.message).To(gomega.ContainSubstring("conv-fl-workers"))
	c.setChaos()
	c.await("Converged")
	// On the way there: the node comes and goes, and the new control-plane machine doesn't boot.
	c.setChaos("never-boots="+c.namespace+"/conv-fl-cp*:all", "node-unhealthy="+c.namespace+"/conv-fl-workers*:all")
	c.commit("another control plane", func() { controlPlaneBump.edit(c) })
	stop := c.flap("never-boots="+c.namespace+"/conv-fl-cp*:all", "node-unhealthy="+c.namespace+"/conv-fl-workers*:all")
	c.await("Stalled")
	c.Eventually(func() string { return c.recorder.now().phase + " " + c.recorder.now().message }).
		Should(gomega.And(gomega.HavePrefix("Stalled"), gomega.ContainSubstring("conv-fl-cp")), "one that flaps hides nothing")
	stop()
	c.setChaos()
	c.await("Converged")
	c.judge()
}

// flap turns a knob off and on again until it is stopped; others stay.
func (c *convergence) flap(always, sometimes string) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for on := true; ; on = !on {
			if on {
				c.setChaos(always, sometimes)
			} else {
				c.setChaos(always)
			}
			select {
			case <-done:
				return
			case <-time.After(700 * time.Millisecond):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// await0 waits for a phase at the revision that converged last.
func (c *convergence) await0(phase string) said {
	c.Helper()
	c.Eventually(func() string { return c.recorder.now().phase }).Should(gomega.Equal(phase), c.dump)
	return c.recorder.now()
}

// The agent is killed again and again while the machines roll.
func TestConvergenceKilled(t *testing.T) {
	t.Parallel()
	c := converging(t, "conv-ki", "dev", extra{})
	c.await("Converged")
	steps, kills := []step{workersRotate, controlPlaneBump}, 3
	if os.Getenv("CAPSTAN_SOAK") != "" {
		steps, kills = []step{workersUp, workersRotate, controlPlaneBump, workersDown, controlPlaneUp, controlPlaneDown}, 8
	}
	for i, s := range steps {
		c.commit(s.name, func() { s.edit(c) })
		revision := c.order[len(c.order)-1]
		for n := 0; n < kills && c.recorder.now().converged != revision; n++ {
			time.Sleep(time.Duration(150+(i*7+n*13)%11*170) * time.Millisecond) // any moment will do
			c.kill()
		}
		c.await("Converged")
	}
	c.judge()
}

// Commits come faster than machines: what was passed over is Superseded.
func TestConvergenceSuperseded(t *testing.T) {
	t.Parallel()
	c := converging(t, "conv-su", "dev", extra{})
	c.await("Converged")
	c.setChaos("never-boots=" + c.namespace + "/*:all")
	c.commit(workersUp.name, func() { workersUp.edit(c) })
	c.await("Progressing")
	c.commit(controlPlaneBump.name, func() { controlPlaneBump.edit(c) })
	c.await("Progressing")
	c.commit(workersDown.name, func() { workersDown.edit(c) })
	c.setChaos()
	s := c.await("Converged")
	c.Expect(s.outcomes).To(gomega.Equal([]string{
		c.order[3] + ": Converged", c.order[2] + ": Superseded", c.order[1] + ": Superseded", c.order[0] + ": Converged",
	}))
	c.judge()
}

// What goes is waited for, too: a machine that something holds back.
func TestConvergenceHeld(t *testing.T) {
	soak(t)
	t.Parallel()
	c := converging(t, "conv-he", "dev", extra{spec: map[string]any{"stallAfter": "5s"}})
	c.walk([]step{workersBump, workersUp})
	c.hold(true)
	c.commit(workersDown.name, func() { workersDown.edit(c) })
	s := c.await("Stalled")
	c.Expect(s.message).To(gomega.ContainSubstring("hook"))
	c.hold(false)
	c.await("Converged")
	c.judge()
}
