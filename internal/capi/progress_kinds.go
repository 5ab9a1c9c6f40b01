package capi

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/internal/object"
)

// A judgement adds to a verdict what keeps a live object from having converged.
type judgement func(o *overlay, u *unstructured.Unstructured, v *verdict)

// judgeOf finds how a kind is judged; nil if objects of it are as declared once they are
// applied.
func judgeOf(gk schema.GroupKind) judgement {
	if !IsFamily(gk) || IsTemplate(gk) {
		return nil
	}
	switch {
	case IsCluster(gk):
		return judgeCluster
	case IsControlPlane(gk):
		return judgeControlPlane
	case IsInfraCluster(gk):
		return judgeInfraCluster
	case IsClusterClass(gk):
		return judgeClusterClass
	case IsMachine(gk):
		return judgeMachine
	case IsIPPool(gk):
		return judgePool
	}
	switch {
	case IsMachineOwner(gk):
		return map[string]judgement{
			"MachineDeployment": judgeMachineDeployment, "MachineSet": judgeMachineSet, "MachinePool": judgeMachinePool,
		}[gk.Kind]
	case gk == schema.GroupKind{Group: family, Kind: "MachineHealthCheck"}:
		return judgeHealthCheck
	case gk == schema.GroupKind{Group: "addons." + family, Kind: "ClusterResourceSet"}:
		return judgeResourceSet
	case gk == schema.GroupKind{Group: "ipam." + family, Kind: "IPAddressClaim"}:
		return judgeAddressClaim
	case inGroup(gk, "bootstrap"):
		return judgeBootstrap
	}
	return nil
}

// lacksGeneration tells whether the status of an object doesn't say which generation it is
// of, or not of all that it is about: what a topology makes is not seen at once.
func lacksGeneration(u *unstructured.Unstructured) bool {
	gk := u.GroupVersionKind().GroupKind()
	switch {
	case IsInfraCluster(gk), IsIPPool(gk), gk.Kind == "IPAddressClaim" && IsIPAM(gk), IsClusterClass(gk):
		return true
	case IsCluster(gk):
		return hasTopology(u)
	case IsControlPlane(gk), inGroup(gk, "bootstrap"):
		_, reports := count(u, "status", "observedGeneration")
		return !reports && judgeOf(gk) != nil
	}
	return false
}

func judgeCluster(o *overlay, u *unstructured.Unstructured, v *verdict) {
	v.observed(u)
	if c := conditionOf(u, "RemoteConnectionProbe"); c.False() {
		v.add(own, "%s", c.quote())
	}
	v.later(0)
	if phase := nested(u, "status", "phase"); phase == "Failed" {
		v.add(stuck, "its phase is Failed")
	} else if phase != "Provisioned" {
		v.add(derived, "its phase is %s", orUnknown(phase))
	}
	// Nobody says of a control plane that the Cluster doesn't name that it is initialized, as
	// of one that is made of Machines of Git's or is managed elsewhere; and without both
	// references Available stays Unknown (cluster-api v1.14 core/reconcilers/cluster,
	// reconcileControlPlane, setControlPlaneAvailableCondition).
	topology, summed := hasTopology(u), o.sumsUp(u)
	_, controlPlane := reference(u, "spec", "controlPlaneRef")
	_, infrastructure := reference(u, "spec", "infrastructureRef")
	status := []string{"status"}
	if u.GroupVersionKind().Version == "v1beta1" {
		v.is(u, "status", "infrastructureReady")
		if controlPlane || topology {
			v.is(u, "status", "controlPlaneReady")
		}
		before := len(v.findings)
		if c := oldCondition(u, clusterv1.ReadyCondition); !c.True() {
			v.add(derived, "%s", quoteOr(c, clusterv1.ReadyCondition))
		}
		if summed && !oldCondition(u, "ControlPlaneReady").True() {
			v.sums(before)
		}
		status = []string{"status", "v1beta2"}
	} else {
		v.is(u, "status", "initialization", "infrastructureProvisioned")
		if controlPlane || topology {
			v.is(u, "status", "initialization", "controlPlaneInitialized")
		}
	}
	v.mustNot(u, clusterv1.DeletingCondition)
	before := len(v.findings)
	switch {
	case newStyle(u) && (controlPlane && infrastructure || topology):
		v.must(derived, u, clusterv1.AvailableCondition)
	case newStyle(u):
		v.notFalse(derived, u, clusterv1.AvailableCondition)
	}
	if summed && availableFollows(u) {
		v.sums(before)
	}
	before = len(v.findings)
	v.mustNot(u, clusterv1.MachineDeploymentRollingOutCondition, clusterv1.ScalingUpCondition, clusterv1.ScalingDownCondition,
		clusterv1.RemediatingCondition)
	if topology {
		v.must(own, u, clusterv1.ClusterTopologyReconciledCondition)
		// Another controller than that of status.observedGeneration says so.
		if c := conditionOf(u, clusterv1.ClusterTopologyReconciledCondition); c.True() && c.generation != 0 && c.generation < u.GetGeneration() {
			v.add(own, "waits for its topology to be reconciled")
		}
		o.judgeTopology(u, v)
	}
	for _, role := range []string{"controlPlane", "workers"} {
		of := func(counter string) []string { return slices.Concat(status, []string{role, counter}) }
		want, reported := count(u, of("desiredReplicas")...)
		if !reported {
			continue
		}
		// A control plane of Talos doesn't report which machines are up to date; what is
		// missing is for the Machines to say.
		lies := role == "controlPlane" && !o.reportsAvailable(u)
		for _, counter := range []string{"replicas", "readyReplicas", "availableReplicas", "upToDateReplicas"} {
			if lies && counter == "availableReplicas" || role == "workers" && counter == "upToDateReplicas" && o.standalone(u) {
				continue
			}
			if _, reported := count(u, of(counter)...); reported || counter == "replicas" || counter == "readyReplicas" {
				v.replicas(u, want, of(counter))
			}
		}
	}
	if summed {
		v.sums(before)
	}
}

// sumsUp tells whether what a Cluster adds up is declared, and so judged by itself: it wants
// as many machines as are declared.
func (o *overlay) sumsUp(cluster *unstructured.Unstructured) bool {
	if hasTopology(cluster) {
		return false
	}
	declared := o.declaredFor(cluster)
	for _, role := range []Role{RoleControlPlane, RoleWorker} {
		if n, known := desiredOf(cluster, role); !known || n != declared[role] {
			return false
		}
	}
	return true
}

// availableFollows tells whether a Cluster isn't Available for the sake of nothing but what
// it adds up: of its control plane or its workers (cluster-api v1.14 core/reconcilers/cluster,
// setAvailableCondition).
func availableFollows(cluster *unstructured.Unstructured) bool {
	if _, gates, _ := unstructured.NestedFieldNoCopy(cluster.Object, "spec", "availabilityGates"); gates {
		return false
	}
	for _, kind := range []string{clusterv1.ClusterInfrastructureReadyCondition, clusterv1.ClusterRemoteConnectionProbeCondition} {
		if !conditionOf(cluster, kind).True() {
			return false
		}
	}
	return !conditionOf(cluster, clusterv1.ClusterControlPlaneAvailableCondition).True() ||
		!conditionOf(cluster, clusterv1.ClusterWorkersAvailableCondition).True()
}

// standalone tells whether a Cluster has workers of no MachineDeployment: nobody, or only the
// provider of a MachinePool, says that those are up to date, and the Cluster doesn't count
// others (cluster-api v1.14 core/reconcilers/machine, setUpToDateCondition).
func (o *overlay) standalone(cluster *unstructured.Unstructured) bool {
	for _, m := range o.machines {
		if m.Role == RoleWorker && ClusterID(m.Namespace, m.Cluster) == object.IDOf(cluster) &&
			conditionOf(m.u, clusterv1.MachineUpToDateCondition) == nil {
			return true
		}
	}
	return false
}

// reportsAvailable tells whether the control plane of a Cluster itself says how many machines
// are available. From one of the contract v1beta1, the Cluster derives it from those that are
// said to be unavailable, and keeps the last number for ever once there is none, because the
// field is then left out (cluster-api v1.14 core/reconcilers/cluster, setControlPlaneReplicas).
func (o *overlay) reportsAvailable(cluster *unstructured.Unstructured) bool {
	id, ok := reference(cluster, "spec", "controlPlaneRef")
	live := o.Live[id]
	if !ok || live == nil {
		return false
	}
	for _, path := range [][]string{{"status", "availableReplicas"}, {"status", "v1beta2", "availableReplicas"}} {
		if _, reports := count(live, path...); reports {
			return true
		}
	}
	return false
}

func quoteOr(c *condition, kind string) string {
	if c == nil {
		return "has no condition " + kind + " yet"
	}
	return c.quote()
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// judgeInfraCluster judges the infrastructure of any provider. None has to report a
// generation, so its state is part of [Report.Unversioned].
func judgeInfraCluster(_ *overlay, u *unstructured.Unstructured, v *verdict) {
	if _, reports := count(u, "status", "observedGeneration"); reports {
		v.observed(u)
	}
	before := len(v.findings)
	v.mayBe(own, u, "ProxmoxAvailable", clusterv1.ReadyCondition, "ClusterReady")
	if _, newContract, _ := unstructured.NestedFieldNoCopy(u.Object, "status", "initialization"); newContract {
		v.is(u, "status", "initialization", "provisioned")
	} else {
		v.is(u, "status", "ready")
	}
	// Nothing else explains it, so it counts as at work.
	for i := before; i < len(v.findings); i++ {
		v.findings[i].weight = own
	}
}

func judgeClusterClass(_ *overlay, u *unstructured.Unstructured, v *verdict) {
	v.observed(u)
	for _, kind := range []string{clusterv1.ClusterClassVariablesReadyCondition, clusterv1.ClusterClassRefVersionsUpToDateCondition} {
		if newStyle(u) {
			v.must(own, u, kind)
		}
	}
}

func judgeMachine(o *overlay, u *unstructured.Unstructured, v *verdict) {
	v.observed(u)
	v.machines(o, object.IDOf(u), 1)
}

// judgeMachinePool: a pool has Machines only if its provider makes them; else its counters
// are all there is.
func judgeMachinePool(o *overlay, u *unstructured.Unstructured, v *verdict) {
	want := replicasOf(u)
	v.observed(u)
	if phase := nested(u, "status", "phase"); phase == "Failed" {
		v.add(stuck, "its phase is Failed")
	} else if phase != "Running" {
		v.add(own, "its phase is %s", orUnknown(phase))
	}
	if u.GroupVersionKind().Version == "v1beta1" {
		v.is(u, "status", "bootstrapReady")
		v.is(u, "status", "infrastructureReady")
	} else {
		v.is(u, "status", "initialization", "bootstrapDataSecretCreated")
		v.is(u, "status", "initialization", "infrastructureProvisioned")
	}
	v.replicas(u, want, []string{"status", "replicas"}, []string{"status", "readyReplicas"}, []string{"status", "availableReplicas"})
	owned := o.ownedBy(object.IDOf(u))
	// Counted are the Machines that are said to be up to date, which only some providers say of a
	// pool's (cluster-api v1.14 core/reconcilers/machinepool, setReplicas, and machine,
	// setUpToDateCondition).
	if _, reported := count(u, "status", "upToDateReplicas"); reported && !anyUnsaid(owned) {
		v.replicas(u, want, []string{"status", "upToDateReplicas"})
	}
	// What it says of other versions.
	if versions, _, _ := unstructured.NestedFieldNoCopy(u.Object, "status", "versions"); versions != nil {
		if list, ok := versions.([]any); ok {
			for _, each := range list {
				m, _ := each.(map[string]any)
				if declared := nested(u, "spec", "template", "spec", "version"); !isVersion(text(m, "version"), declared) {
					v.add(derived, "has machines of version %s", text(m, "version"))
				}
			}
		}
	}
	if len(owned) > 0 {
		v.machines(o, object.IDOf(u), want)
	} else {
		o.addPool(u, want)
		ready, _ := count(u, "status", "readyReplicas")
		if ready != want {
			v.findings = append(v.findings, finding{weight: own, machines: true, text: "waits for its machines"})
		}
	}
	v.mustNot(u, clusterv1.MachineDeploymentRollingOutCondition, clusterv1.ScalingUpCondition, clusterv1.ScalingDownCondition, clusterv1.DeletingCondition)
}

// anyUnsaid tells whether there is a Machine of which nobody says whether it is up to date.
func anyUnsaid(machines []*machine) bool {
	return slices.ContainsFunc(machines, func(m *machine) bool {
		return conditionOf(m.u, clusterv1.MachineUpToDateCondition) == nil
	})
}

// judgeHealthCheck: its controller looks once in 15 seconds (cluster-api v1.14
// core/reconcilers/machinehealthcheck, WithRateLimitInterval), so its counters say less than
// the Machines, and what it says of them is out of date once they are well. Its first look
// is not waited for: until then it does nothing, and a new machine doesn't need it.
func judgeHealthCheck(o *overlay, u *unstructured.Unstructured, v *verdict) {
	if _, looked := count(u, "status", "observedGeneration"); looked {
		v.observed(u)
		v.later(0)
		v.sums(0)
	}
	if c := conditionOf(u, clusterv1.MachineHealthCheckRemediationAllowedCondition); c.False() && !o.allDone() {
		v.add(own, "%s", c.quote())
	}
}

// judgeResourceSet: the condition is missing as long as no Cluster is selected.
func judgeResourceSet(_ *overlay, u *unstructured.Unstructured, v *verdict) {
	v.observed(u)
	v.mayBe(own, u, "ResourcesApplied")
	v.later(0)
}

// judgePool: every address that is in use is one of the pool's.
func judgePool(_ *overlay, u *unstructured.Unstructured, v *verdict) {
	if kind := u.GetKind(); kind != "InClusterIPPool" && kind != "GlobalInClusterIPPool" {
		v.mayBe(own, u, clusterv1.ReadyCondition)
		return
	}
	if _, known := count(u, "status", "ipAddresses", "total"); !known {
		v.add(own, "waits for its controller")
	}
	if n, _ := count(u, "status", "ipAddresses", "outOfRange"); n > 0 {
		v.add(person, "%d addresses in use are outside of the pool", n)
	}
}

func judgeAddressClaim(_ *overlay, u *unstructured.Unstructured, v *verdict) {
	if nested(u, "status", "addressRef", "name") == "" {
		v.add(own, "waits for an address")
	}
	v.mayBe(own, u, clusterv1.ReadyCondition)
}

// judgeBootstrap judges a bootstrap configuration that is declared itself.
func judgeBootstrap(_ *overlay, u *unstructured.Unstructured, v *verdict) {
	if _, reports := count(u, "status", "observedGeneration"); reports {
		v.observed(u)
	}
	if nested(u, "status", "dataSecretName") == "" {
		v.add(own, "waits for its bootstrap data")
	}
	v.mayBe(own, u, "DataSecretAvailable", clusterv1.ReadyCondition)
}
