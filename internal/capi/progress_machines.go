package capi

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/internal/object"
)

// machine is one, with what belongs to it.
type machine struct {
	MachineReport
	u *unstructured.Unstructured
	// infra and config are its infrastructure machine and its bootstrap configuration; nil
	// if they aren't seen.
	infra, config *unstructured.Unstructured
	// set is its MachineSet.
	set *unstructured.Unstructured
	// stray says that nothing declared, and nothing else that makes machines, wants it.
	stray bool
	// steps is how far it is, from 1 to maxSteps.
	steps int64
}

// examine looks at one Machine.
func (o *overlay) examine(u *unstructured.Unstructured) *machine {
	m := &machine{u: u}
	m.Name, m.Namespace, m.Role = u.GetName(), u.GetNamespace(), RoleWorker
	m.Cluster = cmp.Or(nested(u, "spec", "clusterName"), u.GetLabels()[ClusterLabel])
	m.Version = nested(u, "spec", "version")
	m.Leaving = u.GetDeletionTimestamp() != nil
	if _, is := u.GetLabels()[clusterv1.MachineControlPlaneLabel]; is {
		m.Role = RoleControlPlane
	}
	if id, ok := reference(u, "spec", "infrastructureRef"); ok {
		m.infra = o.made[id]
	}
	if id, ok := reference(u, "spec", "bootstrap", "configRef"); ok {
		m.config = o.made[id]
	}
	o.findOwner(m)
	m.Ready = isReady(u)
	if m.Ready {
		m.Since = availableSince(u)
	}
	outdated := o.outdated(m)
	m.UpToDate = outdated == ""
	m.steps = m.progress()
	failed := failure(u)
	if failed == "" && nested(u, "status", "phase") == "Failed" {
		failed = "its phase is Failed"
	}
	if failed == "" && m.infra != nil {
		failed = failure(m.infra)
	}
	if failed == "" && m.config != nil {
		failed = failure(m.config)
	}
	m.Blocked = failed != "" && !m.Leaving && !m.Ready
	m.Message = m.waitsFor(failed, outdated)
	return m
}

// findOwner finds what a Machine is made for. A control-plane Machine is its Cluster's
// control plane's, as providers see it; any other is whose MachineSet or pool it is.
func (o *overlay) findOwner(m *machine) {
	if id := object.IDOf(m.u); o.isDeclared(id) {
		m.Owner = id
		return
	}
	controller := metav1.GetControllerOf(m.u)
	if m.Role == RoleControlPlane {
		named := object.ID{}
		if cluster := o.Live[ClusterID(m.Namespace, m.Cluster)]; cluster != nil {
			named, _ = reference(cluster, "spec", "controlPlaneRef")
		}
		if m.Owner = o.ifDeclared(named); m.Owner != (object.ID{}) {
			return
		}
		if controller != nil {
			m.Owner = o.ifDeclared(ownerID(*controller, m.Namespace))
		}
		// Of a control plane that the Cluster doesn't name any more, or of none.
		m.stray = controller == nil || named != (object.ID{}) && named != ownerID(*controller, m.Namespace)
		return
	}
	if name := m.u.GetLabels()[clusterv1.MachineSetNameLabel]; name != "" || controller != nil && controller.Kind == "MachineSet" {
		if controller != nil && controller.Kind == "MachineSet" {
			name = controller.Name
		}
		id := object.ID{Group: family, Kind: "MachineSet", Namespace: m.Namespace, Name: name}
		m.set = cmp.Or(o.made[id], o.Live[id])
		m.Owner = o.ownerOfSet(m.set, id)
		// Without its MachineSet there is no telling what it is for.
		m.stray = m.set == nil
		return
	}
	for _, r := range m.u.GetOwnerReferences() {
		if r.Kind == "MachinePool" {
			m.Owner = o.ifDeclared(ownerID(r, m.Namespace))
		}
	}
	m.stray = controller == nil && m.Owner == (object.ID{})
}

// ownerOfSet is the declared MachineDeployment of a MachineSet, or the MachineSet itself.
func (o *overlay) ownerOfSet(set *unstructured.Unstructured, id object.ID) object.ID {
	if o.isDeclared(id) {
		return id
	}
	if set == nil {
		return object.ID{}
	}
	if r := metav1.GetControllerOf(set); r != nil && r.Kind == "MachineDeployment" {
		return o.ifDeclared(ownerID(*r, id.Namespace))
	}
	return object.ID{}
}

func ownerID(r metav1.OwnerReference, namespace string) object.ID {
	group, _, _ := strings.Cut(r.APIVersion, "/")
	return object.ID{Group: group, Kind: r.Kind, Namespace: namespace, Name: r.Name}
}

func (o *overlay) isDeclared(id object.ID) bool {
	_, is := o.byID[id]
	return is
}

func (o *overlay) ifDeclared(id object.ID) object.ID {
	if o.isDeclared(id) {
		return id
	}
	return object.ID{}
}

// ownedBy are the Machines of a declared object.
func (o *overlay) ownedBy(id object.ID) []*machine {
	var out []*machine
	for _, m := range o.machines {
		if m.Owner == id {
			out = append(out, m)
		}
	}
	return out
}

// isReady: the Machine runs, is known to be a node, is ready and available.
func isReady(u *unstructured.Unstructured) bool {
	if u.GetDeletionTimestamp() != nil || nested(u, "status", "phase") != "Running" || !observed(u) ||
		nested(u, "status", "nodeRef", "name") == "" {
		return false
	}
	if !conditionOf(u, clusterv1.ReadyCondition).True() {
		return false
	}
	available := conditionOf(u, clusterv1.AvailableCondition)
	return available.True() || available == nil && !newStyle(u)
}

// availableSince is when a Machine became available.
func availableSince(u *unstructured.Unstructured) (since time.Time) {
	for _, kind := range []string{clusterv1.AvailableCondition, clusterv1.ReadyCondition} {
		if c := conditionOf(u, kind); c.True() {
			return c.since
		}
	}
	return since
}

// outdated says why a Machine isn't as declared; empty if it is.
func (o *overlay) outdated(m *machine) string {
	if why := o.differs(m); why != "" {
		return why
	}
	if c := conditionOf(m.u, clusterv1.MachineUpToDateCondition); c.False() {
		return cmp.Or(plain(c.message), "its controller says so")
	}
	return ""
}

// differs compares a Machine with what it was made for.
func (o *overlay) differs(m *machine) string {
	owner := o.Live[m.Owner]
	switch {
	case m.stray:
		return "nothing that is declared wants it"
	case owner == nil && m.Owner != (object.ID{}):
		return "what it was made for is gone"
	case owner == nil:
		return o.otherTopology(m)
	case owner == m.u:
		return ""
	case m.Role == RoleControlPlane:
		return m.outdatedControlPlane(owner)
	case m.Owner.Kind == "MachineDeployment":
		return m.outdatedWorker(owner, o.Now)
	case m.Owner.Kind == "MachinePool":
		// It is the kubelet's, as it is known.
		is, want := m.Version, nested(owner, "spec", "template", "spec", "version")
		if is == "" || isVersion(is, want) {
			return ""
		}
		return "version " + is + " instead of " + want
	}
	return otherVersion(m.u, nested(owner, "spec", "template", "spec", "version"))
}

// otherTopology compares the version of a Machine with that of its Cluster's topology: what
// the topology makes is not declared, and conditions say so late.
func (o *overlay) otherTopology(m *machine) string {
	cluster := o.Live[ClusterID(m.Namespace, m.Cluster)]
	if cluster == nil || m.Role == RoleWorker && m.set == nil {
		return ""
	}
	if _, owned := m.u.GetLabels()[clusterv1.ClusterTopologyOwnedLabel]; !owned {
		return ""
	}
	if id, named := reference(m.u, "spec", "infrastructureRef"); named && m.Role == RoleControlPlane && m.infra == nil && IsFamily(id.GroupKind()) {
		return "its infrastructure is not seen"
	}
	return otherVersion(m.u, nested(cluster, "spec", "topology", "version"))
}

// otherVersion says that a Machine has another version than that, if one is declared.
func otherVersion(u *unstructured.Unstructured, want string) string {
	if has := nested(u, "spec", "version"); want != "" && has != want {
		return "version " + cmp.Or(has, "unknown") + " instead of " + want
	}
	return ""
}

// maxSteps is what progress gives for a Machine that is available.
const maxSteps = 10

// vmSteps are the reasons of Proxmox' condition VirtualMachineProvisioned in the order in
// which a virtual machine goes through them (cluster-api-provider-proxmox v0.9
// api/v1alpha2/conditions_consts.go).
var vmSteps = []string{
	"Cloning", "WaitingForDiskReconciliation", "WaitingForStaticIPAllocation", "WaitingForBootstrapDataReconciliation",
	"WaitingForVMPowerUp", "WaitingForClusterAPIMachineAddresses", "WaitingForCloudInit", "WaitingForBootstrapReady",
}

// progress counts the steps that a Machine has made towards being available.
func (m *machine) progress() int64 {
	switch {
	case m.Ready:
		return maxSteps
	case conditionOf(m.u, clusterv1.ReadyCondition).True():
		return 9
	case nested(m.u, "status", "nodeRef", "name") != "":
		return 8
	case nested(m.u, "spec", "providerID") != "":
		return 7
	case !hasData(m.u):
		return 1
	}
	if m.infra != nil {
		if c := infraCondition(m.infra); c != nil {
			return 3 + int64(slices.Index(vmSteps, c.reason)+1)/3
		}
	}
	return 2
}

// deletionSteps are the reasons of the condition Deleting of a Machine, in their order.
var deletionSteps = []string{
	clusterv1.MachineDeletingWaitingForPreDrainHookReason, clusterv1.MachineDeletingDrainingNodeReason,
	clusterv1.MachineDeletingWaitingForVolumeDetachReason, clusterv1.MachineDeletingWaitingForPreTerminateHookReason,
	clusterv1.MachineDeletingWaitingForInfrastructureDeletionReason, clusterv1.MachineDeletingWaitingForBootstrapDeletionReason,
	clusterv1.MachineDeletingDeletingNodeReason, clusterv1.MachineDeletingDeletionCompletedReason,
}

// departure counts the steps that a Machine has made towards being gone.
func (m *machine) departure() int64 {
	if !m.Leaving {
		return 0
	}
	steps := int64(1)
	if c := conditionOf(m.u, clusterv1.MachineDeletingCondition); c.True() {
		steps += int64(slices.Index(deletionSteps, c.reason) + 1)
	}
	return steps
}

// waitsFor quotes what a Machine waits for, the nearest cause.
func (m *machine) waitsFor(failed, outdated string) string {
	healthy := conditionOf(m.u, clusterv1.MachineHealthCheckSucceededCondition)
	switch {
	case m.Leaving && healthy.False():
		return join(": ", "unhealthy and being deleted", stage(m.u))
	case m.Leaving:
		return join(": ", "being deleted", stage(m.u))
	case m.Blocked:
		return "failed: " + failed
	case m.Ready && outdated != "":
		return "outdated: " + outdated
	case m.Ready:
		return ""
	case healthy.False():
		return join("; ", join(": ", "unhealthy", healthy.explain()), remediation(m.u))
	case conditionOf(m.u, clusterv1.MachineUpdatingCondition).True():
		return join(": ", "being updated", conditionOf(m.u, clusterv1.MachineUpdatingCondition).explain())
	case m.paused():
		return "paused"
	}
	return m.startsWith()
}

// paused tells whether controllers leave the Machine alone.
func (m *machine) paused() bool {
	_, annotated := m.u.GetAnnotations()[clusterv1.PausedAnnotation]
	return annotated || conditionOf(m.u, clusterv1.PausedCondition).True()
}

// allDone tells whether there is no Machine that isn't as it should be.
func (o *overlay) allDone() bool {
	for _, m := range o.machines {
		if !m.Done() {
			return false
		}
	}
	return true
}

// remediation says what becomes of an unhealthy Machine.
func remediation(u *unstructured.Unstructured) string {
	c := conditionOf(u, clusterv1.MachineOwnerRemediatedCondition)
	if c == nil || c.True() {
		return ""
	}
	return c.explain()
}

// startsWith says what a Machine on its way needs next.
func (m *machine) startsWith() string {
	if !hasData(m.u) {
		why := ""
		if m.config != nil {
			for _, kind := range []string{"DataSecretAvailable", clusterv1.ReadyCondition} {
				if c := conditionOf(m.config, kind); c != nil && !c.True() {
					why = c.explain()
					break
				}
			}
		}
		return join(": ", "waits for bootstrap data", cmp.Or(why, notTrue(m.u, clusterv1.BootstrapConfigReadyCondition)))
	}
	if m.infra != nil && nested(m.u, "status", "nodeRef", "name") == "" {
		if c := infraCondition(m.infra); c != nil {
			return c.quote()
		}
	}
	for _, kind := range []string{
		clusterv1.InfrastructureReadyCondition, clusterv1.MachineNodeHealthyCondition, clusterv1.ReadyCondition,
	} {
		if why := notTrue(m.u, kind); why != "" {
			return why
		}
	}
	if c := conditionOf(m.u, clusterv1.AvailableCondition); c != nil && !c.True() {
		if c.reason == clusterv1.MachineWaitingForMinReadySecondsReason {
			return "ready, waits for minReadySeconds"
		}
		return c.quote()
	}
	return join(" ", "in phase", cmp.Or(nested(m.u, "status", "phase"), "Pending"))
}

// hasData tells whether a Machine has its bootstrap data. The name is there and empty if it
// gets them from its MachinePool.
func hasData(u *unstructured.Unstructured) bool {
	_, is, _ := unstructured.NestedString(u.Object, "spec", "bootstrap", "dataSecretName")
	return is
}

// notTrue quotes a condition that is there and isn't True.
func notTrue(u *unstructured.Unstructured, kind string) string {
	c := conditionOf(u, kind)
	if c == nil || c.True() {
		return ""
	}
	return cmp.Or(plain(c.message), c.quote())
}

// infraCondition is the condition of an infrastructure machine that says best what it waits
// for: the provider's own, of Proxmox in either version, before the general one.
func infraCondition(infra *unstructured.Unstructured) *condition {
	for _, kind := range []string{"VirtualMachineProvisioned", "VMProvisioned", clusterv1.ReadyCondition} {
		if c := conditionOf(infra, kind); c != nil && !c.True() {
			return c
		}
	}
	return nil
}
