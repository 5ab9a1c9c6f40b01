package proxmox

import (
	"cmp"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

const (
	// templateNode is the Proxmox node that has the templates which are found by their tags.
	templateNode = "pve1"

	firstID = 100
	lastID  = 999_999_999
)

// errNoFreeID has the provider's words.
var errNoFreeID = errors.New("No free vmid found in vmIDRange")

// chooseNode returns the Proxmox node for a new machine: of those allowed the one with the fewest
// machines of its role, the first of equals; if all are, the one that has the template.
func chooseNode(cluster *ProxmoxCluster, machine *ProxmoxMachine, controlPlane bool) string {
	allowed := machine.Spec.AllowedNodes
	if len(allowed) == 0 {
		allowed = cluster.Spec.AllowedNodes
	}
	if len(allowed) == 0 {
		return cmp.Or(machine.Spec.SourceNode, templateNode)
	}
	load := map[string]int{}
	for _, location := range *locations(&cluster.Status, controlPlane) {
		load[location.Node]++
	}
	return slices.MinFunc(allowed, func(a, b string) int { return load[a] - load[b] })
}

// chooseID returns the lowest id of the range that is not used.
func chooseID(ids *IDRange, used map[int64]bool) (int64, error) {
	first, last := int64(firstID), int64(lastID)
	if ids != nil && ids.Start != 0 && ids.End != 0 {
		first, last = ids.Start, ids.End
	}
	for id := first; id <= last; id++ {
		if !used[id] {
			return id, nil
		}
	}
	return 0, errNoFreeID
}

// locations is where the machines of a role are recorded.
func locations(status *ClusterStatus, controlPlane bool) *[]NodeLocation {
	if status.NodeLocations == nil {
		status.NodeLocations = &NodeLocations{}
	}
	if controlPlane {
		return &status.NodeLocations.ControlPlane
	}
	return &status.NodeLocations.Workers
}

// locate returns where a machine is recorded to run. If it is not, it records the node.
func locate(status *ClusterStatus, machine, node string, controlPlane bool) string {
	where := locations(status, controlPlane)
	for _, l := range *where {
		if l.Machine.Name == machine {
			return l.Node
		}
	}
	*where = append(*where, NodeLocation{Machine: corev1.LocalObjectReference{Name: machine}, Node: node})
	return node
}

// forget removes the record of a machine.
func forget(status *ClusterStatus, machine string, controlPlane bool) {
	if status.NodeLocations == nil {
		return
	}
	where := locations(status, controlPlane)
	*where = slices.DeleteFunc(*where, func(l NodeLocation) bool { return l.Machine.Name == machine })
}
