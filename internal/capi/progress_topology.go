package capi

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/internal/object"
)

// judgeTopology: what a Cluster of a ClusterClass is made of isn't declared, and of it only
// MachineSets and Machines are seen. As many Machines as are wanted are done, there is no
// other, and as many are wanted as the topology asks for.
func (o *overlay) judgeTopology(cluster *unstructured.Unstructured, v *verdict) {
	declared := o.declaredFor(cluster)
	declared[RoleWorker] += o.strangers(cluster)
	for _, role := range []Role{RoleControlPlane, RoleWorker} {
		want, known := desiredOf(cluster, role)
		if asked, asks := askedOf(cluster, role); asks && asked+declared[role] != want {
			v.add(own, "waits for its topology to be reconciled: %d of %d machines are wanted (%s)", want, asked+declared[role], role)
		}
		if !known || role == RoleControlPlane && !o.hasControlPlaneMachines(cluster) {
			continue
		}
		var done, others int64
		for _, m := range o.machines {
			if m.Role != role || ClusterID(m.Namespace, m.Cluster) != object.IDOf(cluster) {
				continue
			}
			if m.Done() {
				done++
			} else {
				others++
			}
			if m.Owner == (object.ID{}) && m.paused() {
				v.add(person, "Machine %s is paused", m.Name)
			}
		}
		// Workers may be of pools, of which there are no Machines.
		if done+others > want || done < want && !(role == RoleWorker && o.mayHavePools(cluster)) {
			v.add(derived, "%d of %d machines are done, %d exist (%s)", done, want, done+others, role)
		}
		if role == RoleWorker {
			o.topologySets(cluster, want, v)
		}
	}
}

// topologyReach is how long the topology controller is given to bring a change of a
// ClusterClass to its Clusters.
const topologyReach = 10 * time.Second

// settles is [Report.Settles].
func (o *overlay) settles() time.Duration {
	class, cluster := false, false
	for _, d := range o.declared {
		class = class || IsClusterClass(d.ID.GroupKind())
		cluster = cluster || IsCluster(d.ID.GroupKind()) && o.Live[d.ID] != nil && hasTopology(o.Live[d.ID])
	}
	if class && cluster {
		return topologyReach
	}
	return 0
}

// topologySets: what the MachineSets of a Cluster want is what the Cluster wants, and each
// has it.
func (o *overlay) topologySets(cluster *unstructured.Unstructured, want int64, v *verdict) {
	var have int64
	for _, set := range o.setsIn(cluster) {
		have += replicasOf(set) // none if it is being deleted
		if o.ownerOfSet(set, object.IDOf(set)) == (object.ID{}) {
			judgeSet(set, v)
		}
	}
	for _, m := range o.machines { // that are their own
		if m.Role == RoleWorker && m.set == nil && ClusterID(m.Namespace, m.Cluster) == object.IDOf(cluster) {
			have++
		}
	}
	if have > want || have < want && !o.mayHavePools(cluster) {
		v.add(derived, "its MachineSets have %d of %d replicas", have, want)
	}
}

// strangers is how many workers of a Cluster are wanted by MachineSets that are neither of
// its topology nor declared: somebody's, or another overlay's.
func (o *overlay) strangers(cluster *unstructured.Unstructured) (n int64) {
	for _, set := range o.setsIn(cluster) {
		if _, owned := set.GetLabels()[clusterv1.ClusterTopologyOwnedLabel]; !owned && o.ownerOfSet(set, object.IDOf(set)) == (object.ID{}) {
			n += replicasOf(set)
		}
	}
	return n
}

// setsIn are the MachineSets of a Cluster.
func (o *overlay) setsIn(cluster *unstructured.Unstructured) (out []*unstructured.Unstructured) {
	for _, set := range o.sets {
		if ClusterID(set.GetNamespace(), set.GetLabels()[ClusterLabel]) == object.IDOf(cluster) {
			out = append(out, set)
		}
	}
	return out
}

// mayHavePools tells whether workers of a Cluster may be of pools, of which there may be no
// Machines.
func (o *overlay) mayHavePools(cluster *unstructured.Unstructured) bool {
	return hasPools(cluster) || slices.ContainsFunc(o.declared, func(d Declared) bool {
		live := o.Live[d.ID]
		return live != nil && o.cluster(live) == cluster && o.isBarePool(d.ID)
	})
}

// isBarePool tells whether an object is a MachinePool of which there are no Machines.
func (o *overlay) isBarePool(id object.ID) bool {
	return id.Kind == "MachinePool" && IsMachineOwner(id.GroupKind()) && len(o.ownedBy(id)) == 0
}

// hasControlPlaneMachines tells whether the control plane of a Cluster is made of Machines:
// some are of pods, or somebody else's. If no Machine is seen it is known of a few kinds only.
func (o *overlay) hasControlPlaneMachines(cluster *unstructured.Unstructured) bool {
	for _, m := range o.machines {
		if m.Role == RoleControlPlane && ClusterID(m.Namespace, m.Cluster) == object.IDOf(cluster) {
			return true
		}
	}
	id, _ := reference(cluster, "spec", "controlPlaneRef")
	return id.Kind == kubeadmControlPlane || id.Kind == talosControlPlane
}

// declaredFor is how many machines of each role are declared for a Cluster.
func (o *overlay) declaredFor(cluster *unstructured.Unstructured) map[Role]int64 {
	declared := map[Role]int64{}
	for _, d := range o.declared {
		live := o.Live[d.ID]
		if live == nil || d.Leaving || o.cluster(live) != cluster {
			continue
		}
		for _, role := range []Role{RoleControlPlane, RoleWorker} {
			declared[role] += o.wants(d.ID, live, role)
		}
		if o.isBarePool(d.ID) {
			declared[RoleWorker] += replicasOf(live)
		}
	}
	return declared
}

// askedOf is how many machines a topology asks for; unless it leaves that to others, such as
// an autoscaler.
func askedOf(cluster *unstructured.Unstructured, role Role) (asked int64, asks bool) {
	if role == RoleControlPlane {
		return count(cluster, "spec", "topology", "controlPlane", "replicas")
	}
	if hasPools(cluster) {
		return 0, false
	}
	for _, each := range askedWorkers(cluster, "machineDeployments") {
		n, known := each["replicas"].(int64)
		if !known {
			return 0, false
		}
		asked, asks = asked+n, true
	}
	return asked, asks
}

func hasPools(cluster *unstructured.Unstructured) bool {
	return len(askedWorkers(cluster, "machinePools")) > 0
}

// askedWorkers lists the workers of a topology, of one kind.
func askedWorkers(cluster *unstructured.Unstructured, kind string) (out []map[string]any) {
	value, _, _ := unstructured.NestedFieldNoCopy(cluster.Object, "spec", "topology", "workers", kind)
	list, _ := value.([]any)
	for _, each := range list {
		m, _ := each.(map[string]any)
		out = append(out, m)
	}
	return out
}

// trimTopology keeps of a topology what progress depends on.
func trimTopology(cluster *unstructured.Unstructured) {
	value, _, _ := unstructured.NestedFieldNoCopy(cluster.Object, "spec", "topology")
	topology, ok := value.(map[string]any)
	if !ok {
		return
	}
	keepOnly(topology, "class", "classRef", "classNamespace", "version", "controlPlane", "workers")
	if controlPlane, ok := topology["controlPlane"].(map[string]any); ok {
		keepOnly(controlPlane, "replicas")
	}
	if workers, ok := topology["workers"].(map[string]any); ok {
		keepOnly(workers, "machineDeployments", "machinePools")
	}
	for _, kind := range []string{"machineDeployments", "machinePools"} {
		for _, each := range askedWorkers(cluster, kind) {
			keepOnly(each, "replicas")
		}
	}
}
