package capi

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/internal/object"
)

// The kinds of control planes whose own rules are known.
const (
	talosControlPlane   = "TalosControlPlane"
	kubeadmControlPlane = "KubeadmControlPlane"
)

// templateOf is the machine template of a control plane, where the kinds have it.
func templateOf(controlPlane *unstructured.Unstructured) (object.ID, bool) {
	for _, path := range [][]string{
		{"spec", "infrastructureTemplate"}, {"spec", "machineTemplate", "spec", "infrastructureRef"},
		{"spec", "machineTemplate", "infrastructureRef"}, {"spec", "machineTemplate", "infrastructureTemplate"},
		{"spec", "infrastructureRef"},
	} {
		if id, ok := reference(controlPlane, path...); ok {
			return id, true
		}
	}
	return object.ID{}, false
}

// outdatedControlPlane says why a control-plane Machine isn't as declared, by the rules
// that control planes roll by (cluster-api-control-plane-provider-talos v0.5
// controllers/controlplane.go; cluster-api v1.14 controlplane/kubeadm/pkg). What the
// providers take for a match if it is missing has to be seen here: a Machine without its
// infrastructure or configuration isn't ready either.
func (m *machine) outdatedControlPlane(owner *unstructured.Unstructured) string {
	if why := otherVersion(m.u, nested(owner, "spec", "version")); why != "" {
		return why
	}
	if why := m.clonedFromOther(owner); why != "" {
		return why
	}
	switch owner.GetKind() {
	case talosControlPlane:
		return m.otherTalosConfig(owner)
	case kubeadmControlPlane:
		// Only its controller can compare kubeadm configurations.
		if newStyle(m.u) && !conditionOf(m.u, clusterv1.MachineUpToDateCondition).True() {
			return "its control plane has not said that it is up to date"
		}
	}
	return ""
}

// clonedFromOther compares the template that the infrastructure was cloned from.
func (m *machine) clonedFromOther(owner *unstructured.Unstructured) string {
	template, ok := templateOf(owner)
	if !ok {
		return ""
	}
	id, named := reference(m.u, "spec", "infrastructureRef")
	switch {
	case !named || !IsFamily(id.GroupKind()): // what is not looked at, see MadeOf
		return ""
	case m.infra == nil:
		return "its infrastructure is not seen"
	}
	name, hasName := m.infra.GetAnnotations()[clusterv1.TemplateClonedFromNameAnnotation]
	kind, hasKind := m.infra.GetAnnotations()[clusterv1.TemplateClonedFromGroupKindAnnotation]
	if !hasName || !hasKind || name == template.Name && kind == template.GroupKind().String() {
		return ""
	}
	return fmt.Sprintf("%s %s instead of %s", template.Kind, name, template.Name)
}

// otherTalosConfig compares the Talos configuration.
func (m *machine) otherTalosConfig(owner *unstructured.Unstructured) string {
	if _, named := reference(m.u, "spec", "bootstrap", "configRef"); !named {
		return ""
	}
	if m.config == nil {
		return "its Talos configuration is not seen"
	}
	if talosDigest(m.config, "spec") != talosDigest(owner, "spec", "controlPlaneConfig", "controlplane") {
		return "another Talos configuration"
	}
	return ""
}

func judgeControlPlane(o *overlay, u *unstructured.Unstructured, v *verdict) {
	switch u.GetKind() {
	case talosControlPlane:
		judgeTalos(o, u, v)
	case kubeadmControlPlane:
		judgeKubeadm(o, u, v)
	default:
		judgeContract(o, u, v)
	}
}

func judgeTalos(o *overlay, u *unstructured.Unstructured, v *verdict) {
	id, want := object.IDOf(u), replicasOf(u)
	v.observed(u)
	done := v.machines(o, id, want)
	strategy := nested(u, "spec", "rolloutStrategy", "type")
	v.onDelete(o, id, want, strategy == "OnDelete")
	switch {
	case want == 0:
		v.add(stuck, "spec.replicas is 0, and its controller keeps the last machine")
	case !done && want == 1 && strategy != "OnDelete" && noSurge(u) && o.anyOutdated(id):
		v.add(stuck, "can't replace its only machine: maxSurge is 0")
	}
	if !done {
		// Why a template can't be cloned, or a machine can't be taken out.
		for _, kind := range []string{"MachinesCreated", "Resized"} {
			c := oldCondition(u, kind)
			if !c.False() || c.severity != "Error" {
				continue
			}
			w := own
			if id, ok := templateOf(u); ok && strings.Contains(c.message, "not found") && strings.Contains(c.message, id.Name) && !o.templateDeclared(id) {
				w = stuck
			}
			v.add(w, "%s", c.quote())
		}
	}
	v.is(u, "status", "initialized")
	v.is(u, "status", "bootstrapped")
	v.is(u, "status", "ready")
	v.must(o.unlessBooting(id), u, "EtcdClusterHealthyCondition")
	before := len(v.findings)
	v.notFalse(derived, u, "ControlPlaneComponentsHealthy")
	if o.aboutGone(conditionOf(u, "ControlPlaneComponentsHealthy")) {
		v.sums(before)
	}
	before = len(v.findings)
	v.replicas(u, want, []string{"status", "replicas"}, []string{"status", "readyReplicas"})
	v.replicas(u, 0, []string{"status", "unavailableReplicas"})
	v.version(u)
	v.sums(before)
	before = len(v.findings)
	// It tells the truth only when it is False: see the strategy OnDelete.
	v.notFalse(derived, u, "MachinesSpecUpToDate")
	if !slices.ContainsFunc(o.ownedBy(id), func(m *machine) bool { return m.infra == nil }) {
		v.sums(before) // else it may know of what is not looked at: see MadeOf
	}
	before = len(v.findings)
	v.must(derived, u, clusterv1.ReadyCondition)
	if readyFollows(u) {
		v.sums(before)
	}
	if deleting := conditionOf(u, clusterv1.DeletingCondition); deleting.True() {
		v.add(derived, "%s", deleting.quote())
	}
}

// quotedMachine is how a control plane names the machine that it could not ask.
var quotedMachine = regexp.MustCompile(`machine "([^"]+)"`)

// aboutGone tells whether all that a condition says is about Machines that are gone.
func (o *overlay) aboutGone(c *condition) bool {
	if c == nil {
		return false
	}
	quoted := quotedMachine.FindAllStringSubmatch(c.message, -1)
	for _, each := range quoted {
		if slices.ContainsFunc(o.machines, func(m *machine) bool { return m.Name == each[1] }) {
			return false
		}
	}
	return len(quoted) > 0
}

// readyFollows tells whether a TalosControlPlane isn't Ready for the sake of nothing but what
// it says of its Machines (cluster-api-control-plane-provider-talos v0.5
// controllers/taloscontrolplane_controller.go, patchTalosControlPlane).
func readyFollows(u *unstructured.Unstructured) bool {
	for _, kind := range []string{"MachinesCreated", clusterv1.AvailableCondition, "MachinesBootstrapped"} {
		if !oldCondition(u, kind).True() {
			return false
		}
	}
	return !oldCondition(u, "Resized").True() || !oldCondition(u, "MachinesReady").True()
}

// unlessBooting is how much etcd's state says: little while machines of its come or go.
func (o *overlay) unlessBooting(id object.ID) weight {
	for _, m := range o.ownedBy(id) {
		if !m.Ready {
			return derived
		}
	}
	return own
}

// noSurge tells whether a TalosControlPlane may have no machine more than declared.
func noSurge(u *unstructured.Unstructured) bool {
	surge, known := count(u, "spec", "rolloutStrategy", "rollingUpdate", "maxSurge")
	return known && surge == 0 || nested(u, "spec", "rolloutStrategy", "rollingUpdate", "maxSurge") == "0"
}

func (o *overlay) anyOutdated(id object.ID) bool {
	for _, m := range o.ownedBy(id) {
		if !m.UpToDate && !m.Leaving {
			return true
		}
	}
	return false
}

// isVersion tells whether a version that is reported is the one that is declared. Managed
// control planes and pools declare as much of it as they like, v1.33 or 1.33.1, or nothing,
// and report what they got, as v1.33.1-eks-931bdca.
func isVersion(is, declared string) bool {
	is, declared = strings.TrimPrefix(is, "v"), strings.TrimPrefix(declared, "v")
	rest, begins := strings.CutPrefix(is, declared)
	return begins && (declared == "" || rest == "" || strings.ContainsAny(rest[:1], ".-+"))
}

// version: status.version is that declared.
func (v *verdict) version(u *unstructured.Unstructured) {
	if is, want := nested(u, "status", "version"), nested(u, "spec", "version"); !isVersion(is, want) {
		v.add(derived, "status.version is %s instead of %s", cmp.Or(is, "unknown"), want)
	}
}

func judgeKubeadm(o *overlay, u *unstructured.Unstructured, v *verdict) {
	want := replicasOf(u)
	v.observed(u)
	if !v.machines(o, object.IDOf(u), want) {
		if c := conditionOf(u, clusterv1.ScalingUpCondition); c.True() {
			if id, ok := templateOf(u); ok && !o.quoteTemplate(c, id, v) {
				o.quoteBlocked(c, v)
			}
		}
		if c := conditionOf(u, clusterv1.ScalingDownCondition); c.True() {
			o.quoteBlocked(c, v)
		}
	}
	before := len(v.findings)
	v.replicas(u, want, []string{"status", "replicas"}, []string{"status", "readyReplicas"})
	v.sums(before)
	if u.GroupVersionKind().Version == "v1beta1" {
		v.is(u, "status", "initialized")
		v.is(u, "status", "ready")
		v.replicas(u, want, []string{"status", "updatedReplicas"})
		v.replicas(u, 0, []string{"status", "unavailableReplicas"})
		for _, kind := range []string{"MachinesSpecUpToDate", "Resized", "MachinesCreated", clusterv1.ReadyCondition} {
			if c := oldCondition(u, kind); c != nil && !c.True() {
				v.add(derived, "%s", c.quote())
			}
		}
	} else {
		v.is(u, "status", "initialization", "controlPlaneInitialized")
		before := len(v.findings)
		v.replicas(u, want, []string{"status", "availableReplicas"})
		v.sums(before)
		// Only its controller can tell, and says so in one go with which generation it has looked at.
		v.replicas(u, want, []string{"status", "upToDateReplicas"})
	}
	if newStyle(u) {
		w := o.unlessBooting(object.IDOf(u))
		v.must(w, u, "ControlPlaneComponentsHealthy")
		v.must(own, u, "CertificatesAvailable")
		if _, external, _ := unstructured.NestedFieldNoCopy(u.Object, externalEtcd...); !external {
			v.must(w, u, "EtcdClusterHealthy")
		}
		v.must(derived, u, clusterv1.AvailableCondition)
		v.must(derived, u, clusterv1.MachinesUpToDateCondition)
	}
	v.mustNot(u, clusterv1.DeletingCondition)
	before = len(v.findings)
	v.mustNot(u, clusterv1.MachineDeploymentRollingOutCondition, clusterv1.ScalingUpCondition, clusterv1.ScalingDownCondition,
		clusterv1.RemediatingCondition)
	v.versions(u)
	v.sums(before)
}

// externalEtcd is where a KubeadmControlPlane has an etcd of somebody else.
var externalEtcd = []string{"spec", "kubeadmConfigSpec", "clusterConfiguration", "etcd", "external"}

// versions: status.versions is the declared version alone; before Cluster API 1.14 there is
// only status.version.
func (v *verdict) versions(u *unstructured.Unstructured) {
	value, _, _ := unstructured.NestedFieldNoCopy(u.Object, "status", "versions")
	list, _ := value.([]any)
	if len(list) == 0 {
		v.version(u)
		return
	}
	want := nested(u, "spec", "version")
	for _, each := range list {
		if m, ok := each.(map[string]any); ok && !isVersion(text(m, "version"), want) {
			v.add(derived, "has machines of version %s", text(m, "version"))
		}
	}
}

// quoteTemplate says that a control plane's template doesn't exist, if a condition does.
func (o *overlay) quoteTemplate(c *condition, id object.ID, v *verdict) bool {
	missing := id.Kind + " does not exist"
	if !strings.Contains(c.message, missing) {
		return false
	}
	if o.templateDeclared(id) {
		v.add(own, "waits for its controller to see %s %s", id.Kind, id.Name)
	} else {
		v.add(stuck, "%s %s does not exist", id.Kind, id.Name)
	}
	return true
}

// quoteBlocked quotes by what scaling is blocked, if it is.
func (o *overlay) quoteBlocked(c *condition, v *verdict) {
	if strings.Contains(c.message, "blocked") {
		v.add(own, "%s", plain(c.message))
	}
}

// makesMachines tells whether a control plane has Machines. Those that run as pods have
// replicas, but neither Machines nor anything that Machines could be made from; managed ones
// don't even have replicas.
func (o *overlay) makesMachines(id object.ID, u *unstructured.Unstructured) bool {
	switch {
	case len(o.ownedBy(id)) > 0, u.GetKind() == talosControlPlane, u.GetKind() == kubeadmControlPlane:
		return true
	}
	_, template := templateOf(u)
	return template
}

// judgeContract judges a control plane of any other provider by what the contract of either
// version asks of them.
func judgeContract(o *overlay, u *unstructured.Unstructured, v *verdict) {
	if _, reports := count(u, "status", "observedGeneration"); reports {
		v.observed(u)
	}
	_, newContract, _ := unstructured.NestedFieldNoCopy(u.Object, "status", "initialization")
	if newContract {
		v.is(u, "status", "initialization", "controlPlaneInitialized")
	} else {
		v.is(u, "status", "initialized")
		v.is(u, "status", "ready")
	}
	id, want := object.IDOf(u), replicasOf(u)
	machines := o.makesMachines(id, u)
	if machines {
		v.machines(o, id, want)
	}
	if _, declares := count(u, "spec", "replicas"); declares || machines {
		v.replicas(u, want, []string{"status", "replicas"}, []string{"status", "readyReplicas"})
		for _, counter := range []string{"availableReplicas", "upToDateReplicas", "updatedReplicas"} {
			if _, reported := count(u, "status", counter); reported {
				v.replicas(u, want, []string{"status", counter})
			}
		}
		v.replicas(u, 0, []string{"status", "unavailableReplicas"})
	}
	if _, several, _ := unstructured.NestedFieldNoCopy(u.Object, "status", "versions"); several || nested(u, "status", "version") != "" {
		v.versions(u)
	}
	v.mayBe(own, u, clusterv1.ReadyCondition, clusterv1.AvailableCondition)
	v.notFalse(derived, u, "MachinesSpecUpToDate", clusterv1.MachinesUpToDateCondition)
	v.mustNot(u, clusterv1.MachineDeploymentRollingOutCondition, clusterv1.ScalingUpCondition, clusterv1.ScalingDownCondition,
		clusterv1.RemediatingCondition, clusterv1.DeletingCondition)
}
