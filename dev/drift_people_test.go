package dev

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/drift"
)

// What people do to live objects with a real kubectl, past real webhooks and beside the real controllers.

// secretText is what a Secret of the fleet says, and othersText what a person makes of it: neither is ever told.
const secretText, othersText = "from-git-and-secret", "of-a-person-and-secret"

// peoplesMembers are clusters in which every kind declares a field that can be changed without a rollout.
func peoplesMembers() map[string]member {
	return map[string]member{
		"talos": {sample: "dev", edit: func(c *convergence) {
			manifest := "apiVersion: v1\nkind: Secret\nmetadata:\n  name: registry\nstringData:\n  password: " + secretText + "\n"
			c.Expect(os.WriteFile(c.overlayFile("secret.yaml"), []byte(manifest), 0o600)).To(gomega.Succeed())
			c.replace("kustomization.yaml", "  - ../base\n", "  - ../base\n  - secret.yaml\n")
		}},
		"kubeadm": {write: writeKubeadm, edit: func(c *convergence) {
			c.patch("KubeadmControlPlane", c.name+"-control-plane", "/spec/machineTemplate/spec/deletion", map[string]any{"nodeDrainTimeoutSeconds": 600})
		}},
		"v1": {write: writeV1beta1},
	}
}

// kubectl runs the real one.
func (e *env) kubectl(stdin string, args ...string) {
	e.Helper()
	e.runKubectl(stdin, "", args)
}

// kubectlEdit runs kubectl edit with a sed script in the place of a person.
func (e *env) kubectlEdit(script string, args ...string) {
	e.Helper()
	e.runKubectl("", "sed -i "+script, append([]string{"edit"}, args...))
}

func (e *env) runKubectl(stdin, editor string, args []string) {
	e.Helper()
	path := ""
	for _, dir := range binDirs() {
		if _, err := os.Stat(filepath.Join(dir, "kubectl")); err == nil {
			path = filepath.Join(dir, "kubectl")
			break
		}
	}
	if path == "" {
		e.Fatal("no kubectl: run `make assets`")
	}
	cmd := exec.Command(path, append(args, "-n", e.namespace)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+mgmt.Kubeconfig(), "HOME="+e.TempDir(), "KUBE_EDITOR="+editor)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		e.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// A deed is what somebody does to one object, and what is to come of it.
type deed struct {
	name         string
	kind, object string
	do           func()
	// class, field, from, to and manager are those of the finding; from and to are JSON, * for any.
	class          v1alpha1.FindingClass
	field          string
	from, to       string
	manager        string
	then           outcome
	approvalSaying string // in the message of what is held
	undo           func() // what the person then takes back
}

// outcome is what becomes of a deed.
type outcome int

const (
	corrected  outcome = iota
	reported           // and stays, until undo
	held               // until it is approved
	heldUndone         // until undo
)

// hold sees that one deed is found, said, and what is to come of it comes.
func (f *driftFleet) hold(c *convergence, d deed) {
	c.Helper()
	before, mark, audit := names(c.machines()), f.now(), f.mark()
	d.do()
	begun := time.Now()
	found := f.awaitFinding(c, d, mark)
	latency := time.Since(begun)
	switch d.then {
	case corrected:
		f.awaitCorrection(c, d, mark)
		c.Logf("%s: found after %s, corrected after %s", d.name, latency.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
		if d.undo != nil {
			d.undo()
		}
	case reported:
		if found.Action != v1alpha1.DriftReported {
			c.Errorf("%s: %s", d.name, describe(found))
		}
		d.undo()
	case held, heldUndone:
		c.Eventually(func() string { return describe(f.drifted(c, d)) }).Should(gomega.ContainSubstring("Held"))
		now := f.drifted(c, d)
		if now.Hash == "" || !strings.Contains(now.Message, d.approvalSaying) {
			c.Errorf("%s: %s", d.name, describe(now))
		}
		if wrote := f.written(audit, d.object); len(wrote) > 0 {
			c.Errorf("%s: it is held, and the agent wrote: %q", d.name, wrote)
		}
		if d.then == held {
			f.capstan("approve", "--yes", "--correction", "clusters/"+c.name)
			f.awaitCorrection(c, d, mark)
		} else {
			d.undo()
		}
	}
	c.Eventually(func() []string {
		why, after := unsettledOverlay(f.state(c)), names(c.machines())
		if d.then == held || d.then == heldUndone {
			if len(after) != len(before) { // which of them go is Cluster API's choice
				why = append(why, fmt.Sprintf("machines before %v, now %v", before, after))
			}
			why = append(why, c.unobserved()...) // who has still to look may still make one
		}
		return why
	}).Should(gomega.BeEmpty(), c.dump)
	if after := names(c.machines()); d.then != held && d.then != heldUndone && !maps.Equal(before, after) {
		c.Errorf("%s: machines before %v, after %v", d.name, before, after)
	}
	wrote := f.written(audit, d.object)
	if want := map[outcome]int{corrected: 1, held: 1}[d.then]; d.then != heldUndone && len(wrote) != want {
		c.Errorf("%s: %d writes, want %d: %q", d.name, len(wrote), want, wrote)
	}
}

// unobserved are those who make machines and have not looked at what they are to make now.
func (e *env) unobserved() (behind []string) {
	e.Helper()
	for apiVersion, kinds := range map[string][]string{
		"cluster.x-k8s.io/v1beta2": {"MachineDeployment", "MachineSet"}, "controlplane.cluster.x-k8s.io/v1beta2": {"KubeadmControlPlane"},
	} {
		for _, kind := range kinds {
			var all unstructured.UnstructuredList
			all.SetAPIVersion(apiVersion)
			all.SetKind(kind + "List")
			e.Expect(admin.List(e.ctx, &all, client.InNamespace(e.namespace))).To(gomega.Succeed())
			for _, u := range all.Items {
				if number(&u, "status", "observedGeneration") != u.GetGeneration() {
					behind = append(behind, kind+" "+u.GetName())
				}
			}
		}
	}
	return behind
}

// is tells whether a finding is that of the deed.
func (d deed) is(f v1alpha1.Finding) bool {
	return f.Class == d.class && f.Field == d.field && (d.from == "*" || f.From == d.from) && (d.to == "*" || f.To == d.to) && f.Writer.Manager == d.manager
}

// written are the writes of the agent to objects of a name, without those that were refused: it asks first
// without force, so that it learns who owns what.
func (f *driftFleet) written(since int64, name string) (out []string) {
	f.Helper()
	for _, s := range f.requests(since) {
		if s.name == name && s.group != "capstan.dev" && !s.dryRun && s.code < 300 && !slices.Contains([]string{"get", "list", "watch"}, s.verb) {
			out = append(out, s.String())
		}
	}
	return out
}

// drifted is what is said now of the object of a deed.
func (f *driftFleet) drifted(c *convergence, d deed) v1alpha1.DriftedObject {
	for _, o := range f.state(c).Status.Drift {
		if o.Kind == d.kind && o.Name == d.object {
			return o
		}
	}
	return v1alpha1.DriftedObject{}
}

// awaitFinding waits until what was done is said, and returns how it was said first.
func (f *driftFleet) awaitFinding(c *convergence, d deed, mark int) (found v1alpha1.DriftedObject) {
	c.Helper()
	var told []string
	c.Eventually(func() bool {
		told = nil
		for _, r := range f.said(mark) {
			for _, o := range r.overlay.Status.Drift {
				if !strings.HasSuffix(r.path, "/"+c.name) {
					continue
				}
				told = append(told, describe(o))
				if o.Kind != d.kind || o.Name != d.object {
					continue
				}
				for _, finding := range o.Findings {
					if d.is(finding) {
						found = o
						return true
					}
				}
			}
		}
		return false
	}, "60s", "20ms").Should(gomega.BeTrue(), func() string { return d.name + " was not told; said: " + strings.Join(slices.Compact(told), "\n") })
	return found
}

// awaitCorrection waits until the object is as it was, and that it was corrected is on record.
func (f *driftFleet) awaitCorrection(c *convergence, d deed, mark int) {
	c.Helper()
	c.Eventually(func() bool {
		all := f.said(mark)
		for _, r := range slices.Backward(all) {
			if !strings.HasSuffix(r.path, "/"+c.name) {
				continue
			}
			for _, correction := range r.overlay.Status.Corrections {
				if correction.Kind != d.kind || correction.Name != d.object {
					continue
				}
				for _, lost := range correction.Findings {
					if lost.Class == d.class && lost.Field == d.field && (d.to == "*" || lost.To == d.to) {
						return true
					}
				}
			}
			return false
		}
		return false
	}, "60s", "20ms").Should(gomega.BeTrue(), func() string {
		return fmt.Sprintf("%s is not corrected: %s; corrections %+v", d.name, describe(f.drifted(c, d)), f.state(c).Status.Corrections)
	})
}

// merge is kubectl patch --type merge.
func (c *convergence) merge(resource, name, patch string) func() {
	return func() { c.kubectl("", "patch", resource, name, "--type", "merge", "-p", patch) }
}

// manifest is a live object as a person has it in a file, changed.
func (c *convergence) manifest(apiVersion, kind, name string, change func(u *unstructured.Unstructured)) string {
	u := c.live(apiVersion, kind, name)
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	u.SetUID("")
	delete(u.Object, "status")
	change(u)
	out, err := json.Marshal(u)
	if err != nil {
		c.Fatal(err)
	}
	return string(out)
}

const (
	infraVersion = "infrastructure.cluster.x-k8s.io/v1alpha2"
	coreVersion  = "cluster.x-k8s.io/v1beta2"
)

func (f *driftFleet) onTalos(c *convergence) {
	md, mhc, cluster, cp := c.name+"-workers", c.name+"-workers", c.namespace, c.name+"-cp"
	template := c.name + "-workers-v1"
	for _, d := range []deed{
		{name: "edit", kind: "MachineDeployment", object: md,
			do: func() {
				c.kubectlEdit("s/nodeDrainTimeoutSeconds:.900/nodeDrainTimeoutSeconds:\\ 60/", "machinedeployment", md)
			},
			class: v1alpha1.FindingChanged, field: "/spec/template/spec/deletion/nodeDrainTimeoutSeconds", from: "900", to: "60", manager: "kubectl-edit"},
		{name: "edit in the other version", kind: "MachineDeployment", object: md,
			do: func() {
				c.kubectlEdit("s/nodeVolumeDetachTimeout:.10m0s/nodeVolumeDetachTimeout:\\ 1m0s/", "machinedeployments.v1beta1.cluster.x-k8s.io", md)
			},
			class: v1alpha1.FindingChanged, field: "/spec/template/spec/deletion/nodeVolumeDetachTimeoutSeconds", from: "600", to: "60", manager: "kubectl-edit"},
		{name: "scale", kind: "MachineDeployment", object: md,
			do:    func() { c.kubectl("", "scale", "machinedeployment", md, "--replicas=2") },
			class: v1alpha1.FindingChanged, field: "/spec/replicas", from: "1", to: "2", manager: "kubectl", then: held},
		{name: "patch", kind: "MachineHealthCheck", object: mhc,
			do:    c.merge("machinehealthcheck", mhc, `{"spec":{"remediation":{"triggerIf":{"unhealthyLessThanOrEqualTo":"10%"}}}}`),
			class: v1alpha1.FindingChanged, field: "/spec/remediation/triggerIf/unhealthyLessThanOrEqualTo", from: `"100%"`, to: `"10%"`, manager: "kubectl-patch"},
		{name: "apply --force-conflicts", kind: "MachineHealthCheck", object: mhc,
			do: func() {
				c.kubectl(fmt.Sprintf(`{"apiVersion":%q,"kind":"MachineHealthCheck","metadata":{"name":%q},"spec":{"checks":{"nodeStartupTimeoutSeconds":60}}}`, coreVersion, mhc),
					"apply", "--server-side", "--force-conflicts", "--validate=false", "-f", "-")
			},
			class: v1alpha1.FindingChanged, field: "/spec/checks/nodeStartupTimeoutSeconds", from: "1200", to: "60", manager: "kubectl"},
		{name: "delete", kind: "MachineHealthCheck", object: mhc,
			do:    func() { c.kubectl("", "delete", "machinehealthcheck", mhc) },
			class: v1alpha1.FindingMissing},
		{name: "replace", kind: "ProxmoxCluster", object: cluster,
			do: func() {
				c.kubectl(c.manifest(infraVersion, "ProxmoxCluster", cluster, func(u *unstructured.Unstructured) {
					set(c.T, u, []any{"10.20.0.9", "10.20.0.3"}, "spec", "dnsServers")
				}), "replace", "-f", "-")
			},
			// The list is a set: what was taken out of it comes back, what was put into it is not Git's.
			undo: func() {
				c.kubectl("", "patch", "proxmoxcluster", cluster, "--type=json", "-p", `[{"op":"replace","path":"/spec/dnsServers","value":["10.20.0.2","10.20.0.3"]}]`)
			},
			class: v1alpha1.FindingChanged, field: "/spec/dnsServers/1", from: `"10.20.0.2"`, manager: "kubectl-replace"},
		{name: "label", kind: "Cluster", object: cluster,
			do:    func() { c.kubectl("", "label", "cluster", cluster, "--overwrite", "environment=prod") },
			class: v1alpha1.FindingChanged, field: "/metadata/labels/environment", from: `"dev"`, to: `"prod"`, manager: "kubectl-label"},
		{name: "label removed", kind: "Cluster", object: cluster,
			do:    func() { c.kubectl("", "label", "cluster", cluster, "environment-") },
			class: v1alpha1.FindingChanged, field: "/metadata/labels/environment", from: `"dev"`},
		{name: "label that Git doesn't know", kind: "Cluster", object: cluster, then: reported,
			do:    func() { c.kubectl("", "label", "cluster", cluster, "owner=somebody") },
			undo:  func() { c.kubectl("", "label", "cluster", cluster, "owner-") },
			class: v1alpha1.FindingForeign, field: "/metadata/labels/owner", to: `"somebody"`, manager: "kubectl-label"},
		{name: "annotation that Git doesn't know", kind: "ProxmoxMachineTemplate", object: template, then: reported,
			do:    func() { c.kubectl("", "annotate", "proxmoxmachinetemplate", template, "note=mine") },
			undo:  func() { c.kubectl("", "annotate", "proxmoxmachinetemplate", template, "note-") },
			class: v1alpha1.FindingForeign, field: "/metadata/annotations/note", to: `"mine"`, manager: "kubectl-annotate"},
		{name: "template deleted", kind: "ProxmoxMachineTemplate", object: template,
			do:    func() { c.kubectl("", "delete", "proxmoxmachinetemplate", template) },
			class: v1alpha1.FindingMissing},
		{name: "Secret", kind: "Secret", object: c.name + "-registry",
			do:    c.merge("secret", c.name+"-registry", `{"stringData":{"password":"`+othersText+`"}}`),
			class: v1alpha1.FindingChanged, field: "/data/password", from: "*", to: "*", manager: "kubectl-patch"},
		{name: "ConfigMap", kind: "ConfigMap", object: c.name + "-cilium-install",
			do:    c.merge("configmap", c.name+"-cilium-install", `{"data":{"install.yaml":"nothing"}}`),
			class: v1alpha1.FindingChanged, field: "/data/install.yaml", from: "*", to: "*", manager: "kubectl-patch"},
		{name: "another version of the control plane", kind: "TalosControlPlane", object: cp, then: heldUndone, approvalSaying: "machine",
			do:    c.merge("taloscontrolplane", cp, `{"spec":{"version":"v1.35.5"}}`),
			undo:  c.merge("taloscontrolplane", cp, `{"spec":{"version":"v1.35.4"}}`),
			class: v1alpha1.FindingChanged, field: "/spec/version", from: `"v1.35.4"`, to: `"v1.35.5"`, manager: "kubectl-patch"},
	} {
		f.hold(c, d)
	}
	for _, r := range f.said(0) {
		said, err := json.Marshal(r.overlay)
		if err != nil {
			c.Fatal(err)
		}
		if strings.Contains(string(said), secretText) || strings.Contains(string(said), othersText) {
			c.Fatalf("a secret is told: %s", said)
		}
	}
	// The control plane deleted: its machines go, as the provider has it, and none is made without an approval.
	mark, audit := f.now(), f.mark()
	c.kubectl("", "delete", "taloscontrolplane", cp, "--wait=false")
	d := deed{name: "control plane deleted", kind: "TalosControlPlane", object: cp, class: v1alpha1.FindingMissing, to: "*"} // or still going
	f.awaitFinding(c, d, mark)
	c.Eventually(func() string { return describe(f.drifted(c, d)) }).Should(gomega.ContainSubstring("Held"))
	c.Expect(f.written(audit, cp)).To(gomega.BeEmpty())
}

func (f *driftFleet) onKubeadm(c *convergence) {
	kcp, md := c.name+"-control-plane", c.name+"-workers"
	const drain = "/spec/machineTemplate/spec/deletion/nodeDrainTimeoutSeconds"
	for _, d := range []deed{
		{name: "KubeadmControlPlane edited", kind: "KubeadmControlPlane", object: kcp,
			do: func() {
				c.kubectlEdit("s/nodeDrainTimeoutSeconds:.600/nodeDrainTimeoutSeconds:\\ 60/", "kubeadmcontrolplane", kcp)
			},
			class: v1alpha1.FindingChanged, field: drain, from: "600", to: "60", manager: "kubectl-edit"},
		{name: "KubeadmControlPlane patched in the other version", kind: "KubeadmControlPlane", object: kcp,
			do:    c.merge("kubeadmcontrolplanes.v1beta1.controlplane.cluster.x-k8s.io", kcp, `{"spec":{"machineTemplate":{"nodeDrainTimeout":"2m0s"}}}`),
			class: v1alpha1.FindingChanged, field: drain, from: "600", to: "120", manager: "kubectl-patch"},
		{name: "KubeadmControlPlane scaled", kind: "KubeadmControlPlane", object: kcp, then: held,
			do:    func() { c.kubectl("", "scale", "kubeadmcontrolplane", kcp, "--replicas=3") },
			class: v1alpha1.FindingChanged, field: "/spec/replicas", from: "1", to: "3", manager: "kubectl"},
		{name: "KubeadmConfigTemplate", kind: "KubeadmConfigTemplate", object: c.name + "-worker", then: reported,
			do: c.merge("kubeadmconfigtemplate", c.name+"-worker", `{"spec":{"template":{"spec":{"preKubeadmCommands":["true"]}}}}`),
			undo: func() {
				c.kubectl("", "patch", "kubeadmconfigtemplate", c.name+"-worker", "--type=json", "-p", `[{"op":"remove","path":"/spec/template/spec/preKubeadmCommands"}]`)
			},
			class: v1alpha1.FindingForeign, field: "/spec/template/spec/preKubeadmCommands", to: "*", manager: "kubectl-patch"},
		{name: "our label removed", kind: "MachineDeployment", object: md,
			do:    func() { c.kubectl("", "label", "machinedeployment", md, v1alpha1.OverlayLabel+"-") },
			class: v1alpha1.FindingChanged, field: "/metadata/labels/capstan.dev~1overlay", from: "*"},
	} {
		f.hold(c, d)
	}
	f.move(c)
}

// move does what clusterctl move does to the source: it pauses, and deletes what it has made elsewhere.
func (f *driftFleet) move(c *convergence) {
	audit := f.mark()
	pause := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"paused":true}}`))
	cluster := c.live(coreVersion, "Cluster", c.namespace)
	c.Expect(admin.Patch(c.ctx, cluster, pause, client.FieldOwner("clusterctl"))).To(gomega.Succeed())
	var moved []string
	for _, kind := range []struct{ apiVersion, kind string }{
		{coreVersion, "Machine"}, {coreVersion, "MachineSet"}, {coreVersion, "MachineDeployment"},
		{"bootstrap.cluster.x-k8s.io/v1beta2", "KubeadmConfigTemplate"}, {infraVersion, "ProxmoxMachine"}, {infraVersion, "ProxmoxMachineTemplate"},
		{"controlplane.cluster.x-k8s.io/v1beta2", "KubeadmControlPlane"}, {infraVersion, "ProxmoxCluster"}, {coreVersion, "Cluster"},
	} {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion(kind.apiVersion)
		list.SetKind(kind.kind + "List")
		c.Expect(admin.List(c.ctx, list, client.InNamespace(c.namespace))).To(gomega.Succeed())
		for i := range list.Items {
			u := &list.Items[i]
			// mover.go, deleteSourceObject. Here until it is gone: a controller may put its finalizer back between
			// the two, before it looks whether the Cluster is paused.
			patch := `{"metadata":{"annotations":{"clusterctl.cluster.x-k8s.io/delete-for-move":""},"finalizers":null}}`
			c.Eventually(func() error {
				err := admin.Patch(c.ctx, u, client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner("clusterctl"))
				if err == nil {
					err = admin.Delete(c.ctx, u)
				}
				return err
			}).Should(gomega.MatchError(apierrors.IsNotFound, "NotFound"))
			moved = append(moved, kind.kind+"/"+u.GetName())
		}
	}
	d := deed{kind: "Cluster", object: c.namespace}
	c.Eventually(func() string { return describe(f.drifted(c, d)) }).Should(gomega.ContainSubstring("Held"), "what builds a cluster anew waits")
	for _, r := range f.requests(audit) {
		if strings.HasPrefix(r.name, c.name) && r.group != "capstan.dev" && !r.dryRun && !slices.Contains([]string{"get", "list", "watch"}, r.verb) {
			c.Errorf("while and after the move the agent sent %s", r)
		}
	}
	if c.live(coreVersion, "Cluster", c.namespace) != nil || c.live(infraVersion, "ProxmoxCluster", c.namespace) != nil {
		c.Errorf("something was made again of %q", moved)
	}
}

func (f *driftFleet) onV1beta1(c *convergence) {
	md := c.name + "-workers"
	for _, d := range []deed{
		{name: "edit in the manifest's version", kind: "MachineDeployment", object: md,
			do: func() {
				c.kubectlEdit("s/nodeDrainTimeout:.15m0s/nodeDrainTimeout:\\ 1m0s/", "machinedeployments.v1beta1.cluster.x-k8s.io", md)
			},
			class: v1alpha1.FindingChanged, field: "/spec/template/spec/nodeDrainTimeout", from: `"15m0s"`, to: `"1m0s"`, manager: "kubectl-edit"},
		{name: "edit in the stored version", kind: "MachineDeployment", object: md,
			do: func() {
				c.kubectlEdit("s/nodeDrainTimeoutSeconds:.900/nodeDrainTimeoutSeconds:\\ 30/", "machinedeployments.v1beta2.cluster.x-k8s.io", md)
			},
			class: v1alpha1.FindingChanged, field: "/spec/template/spec/nodeDrainTimeout", from: `"15m0s"`, to: `"30s"`, manager: "kubectl-edit"},
		{name: "a foreign field in the stored version", kind: "MachineDeployment", object: md, then: reported,
			do:    c.merge("machinedeployments.v1beta2.cluster.x-k8s.io", md, `{"metadata":{"annotations":{"note":"mine"}}}`),
			undo:  func() { c.kubectl("", "annotate", "machinedeployments.v1beta2.cluster.x-k8s.io", md, "note-") },
			class: v1alpha1.FindingForeign, field: "/metadata/annotations/note", to: `"mine"`, manager: "kubectl-patch"},
	} {
		f.hold(c, d)
	}
	f.fights(c)
	// Deleted: the cascade takes all, and nothing is made again without an approval.
	mark, audit := f.now(), f.mark()
	c.kubectl("", "delete", "cluster", c.namespace, "--wait=false")
	d := deed{name: "cluster deleted", kind: "Cluster", object: c.namespace, class: v1alpha1.FindingMissing, to: "*"} // or still going
	f.awaitFinding(c, d, mark)
	c.Eventually(func() bool {
		return apierrors.IsNotFound(admin.Get(c.ctx, c.key(c.namespace), &clusterv1.Cluster{}))
	}).Should(gomega.BeTrue(), c.dump)
	c.Eventually(func() string { return describe(f.drifted(c, d)) }).Should(gomega.ContainSubstring("Held"))
	for _, name := range []string{c.namespace, c.name + "-cp", md} {
		c.Expect(f.written(audit, name)).To(gomega.BeEmpty())
	}
}

// fights has somebody write a field back every 200 ms: the agent gives way soon, and says to whom.
func (f *driftFleet) fights(c *convergence) {
	for _, opponent := range []struct {
		manager, kind string
		action        v1alpha1.DriftAction
		free          int // corrections before the first pause
		pause         time.Duration
	}{
		{"adversary", "MachineDeployment", v1alpha1.DriftFight, drift.UnknownCorrections, drift.UnknownPause},
		{"kubectl-patch", "Cluster", v1alpha1.DriftFight, drift.PersonCorrections, drift.PersonPause},
		{"manager", "TalosControlPlane", v1alpha1.DriftBlocked, 0, 0},
	} {
		name, apiVersion, patch := c.name+"-workers", coreVersion, `{"metadata":{"labels":{"environment":"theirs"}}}`
		switch opponent.kind {
		case "Cluster":
			name, patch = c.namespace, `{"metadata":{"labels":{"test":"theirs"}}}`
		case "TalosControlPlane":
			apiVersion, name = "controlplane.cluster.x-k8s.io/v1alpha3", c.name+"-cp"
		}
		audit, d := f.mark(), deed{kind: opponent.kind, object: name}
		said := func() bool {
			now := f.drifted(c, d)
			return now.Action == opponent.action && strings.Contains(now.Message, opponent.manager)
		}
		begun := time.Now()
		const more = 10 // writes after it was said
		writes, saidAt := 0, 0
		for ; (saidAt == 0 || writes < saidAt+more) && time.Since(begun) < 2*time.Minute; writes++ {
			u := c.live(apiVersion, opponent.kind, name)
			c.Expect(admin.Patch(c.ctx, u, client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner(opponent.manager))).To(gomega.Succeed())
			time.Sleep(200 * time.Millisecond) // it is the adversary's pace
			if saidAt == 0 && said() {
				saidAt = writes
			}
		}
		wrote := f.written(audit, name) // before it is reckoned how long there was time to
		most := opponent.free
		for left, pause := time.Since(begun)-opponent.pause, opponent.pause; pause > 0 && left > 0; most++ {
			pause *= 2
			left -= pause
		}
		c.Logf("against %s, which wrote %d times in %s: %d writes; %s", opponent.manager, writes, time.Since(begun).Round(time.Second), len(wrote), describe(f.drifted(c, d)))
		if saidAt == 0 {
			c.Errorf("against %s: %s was not said: %s", opponent.manager, opponent.action, describe(f.drifted(c, d)))
		}
		if len(wrote) > most || opponent.free > 0 && len(wrote) == 0 {
			c.Errorf("against %s: %d writes, at most %d are meant: %q", opponent.manager, len(wrote), most, wrote)
		}
	}
}

// All of it, each on a cluster of the make that it is about.
func TestDriftPeople(t *testing.T) {
	t.Parallel()
	f := newDriftFleet(t, "drp", peoplesMembers())
	f.away()
	t.Run("on", func(t *testing.T) {
		for name, on := range map[string]func(*convergence){"talos": f.onTalos, "kubeadm": f.onKubeadm, "v1": f.onV1beta1} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := *f.members[name]
				e := *c.env
				e.T, e.WithT, e.ctx = t, gomega.NewWithT(t), t.Context()
				e.SetDefaultEventuallyTimeout(4 * time.Minute)
				e.SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
				c.env = &e
				on(&c)
			})
		}
	})
}

// away has people at work while the agent is down: it finds everything when it starts, and writes nothing else.
func (f *driftFleet) away() {
	f.Helper()
	var deeds []deed
	var on []*convergence
	for name, c := range f.members {
		if name == "kubeadm" { // which has no such label
			continue
		}
		on = append(on, c)
		deeds = append(deeds, deed{name: "while the agent was down", kind: "MachineDeployment", object: c.name + "-workers",
			do:    c.merge("machinedeployments.v1beta2.cluster.x-k8s.io", c.name+"-workers", `{"metadata":{"labels":{"environment":"gone"}}}`),
			class: v1alpha1.FindingChanged, field: "/metadata/labels/environment", from: `"dev"`, to: `"gone"`, manager: "kubectl-patch"})
	}
	kubeadm, talos := f.members["kubeadm"], f.members["talos"]
	template := talos.name + "-workers-v1"
	on = append(on, kubeadm, talos)
	deeds = append(deeds, deed{name: "while the agent was down", kind: "KubeadmControlPlane", object: kubeadm.name + "-control-plane",
		do:    kubeadm.merge("kubeadmcontrolplane", kubeadm.name+"-control-plane", `{"spec":{"machineTemplate":{"spec":{"deletion":{"nodeDrainTimeoutSeconds":30}}}}}`),
		class: v1alpha1.FindingChanged, field: "/spec/machineTemplate/spec/deletion/nodeDrainTimeoutSeconds", from: "600", to: "30", manager: "kubectl-patch"},
		deed{name: "deleted and made again while the agent was down", kind: "TalosConfigTemplate", object: template,
			do: func() {
				talos.kubectl(talos.manifest("bootstrap.cluster.x-k8s.io/v1alpha3", "TalosConfigTemplate", template, func(u *unstructured.Unstructured) {
					u.SetLabels(nil)
					u.SetOwnerReferences(nil)
				}), "replace", "--force", "-f", "-")
			},
			class: v1alpha1.FindingRecreated, manager: "kubectl-replace"})
	_ = f.agent.cmd.Process.Signal(syscall.SIGTERM)
	_ = f.agent.cmd.Wait()
	mark, audit := f.now(), f.mark()
	for _, d := range deeds {
		d.do()
	}
	f.startProcess()
	for i, d := range deeds {
		f.awaitFinding(on[i], d, mark)
		f.awaitCorrection(on[i], d, mark)
	}
	f.settle()
	var writes []string
	for _, wrote := range f.touched(audit) {
		if !strings.HasPrefix(wrote, "dry-run") && !strings.HasSuffix(wrote, ": 409") {
			writes = append(writes, wrote)
		}
	}
	if len(writes) != len(deeds) {
		f.Errorf("%d writes for %d objects: %q", len(writes), len(deeds), writes)
	}
}
