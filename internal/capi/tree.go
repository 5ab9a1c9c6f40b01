package capi

import (
	"cmp"
	"maps"
	"slices"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// Node is what a [Tree] is made of: a declared object that makes progress, Machines
// that are all in the same way, or a heading.
type Node struct {
	// Part says what it is to the node above; empty if that is plain.
	Part Part `json:"part,omitempty"`
	// Kind and Names are those of the objects; both are empty for a heading.
	Kind      string   `json:"kind,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	Names     []string `json:"names,omitempty"`
	// Version of Kubernetes, of Machines.
	Version string `json:"version,omitempty"`
	// Ready of an object says that it waits for nothing; of a Machine, that it is ready
	// and available. Nil if it isn't known, and of a heading.
	Ready *bool `json:"ready,omitempty"`
	// Outdated Machines are not as declared. What is Leaving has left Git, or, if it is a
	// Machine, is on its way out. A Blocked one can't go on.
	Outdated bool `json:"outdated,omitempty"`
	Leaving  bool `json:"leaving,omitempty"`
	Blocked  bool `json:"blocked,omitempty"`
	// Message says what it waits for, or why it can't be read.
	Message  string `json:"message,omitempty"`
	Children []Node `json:"children,omitempty"`
}

// Part is what an object is to the one above it.
type Part string

// The parts.
const (
	PartInfrastructure Part = "infrastructure"
	PartControlPlane   Part = "control plane"
	PartWorkers        Part = "workers"
)

// Tree arranges a report as people think of clusters: each Cluster with its
// infrastructure, its control plane and its workers, down to Machines; then what belongs
// to no Cluster. in is what the report was made of. unread says of declared objects why
// they couldn't be read: they are in the tree, and nothing is claimed of them.
func Tree(in ProgressInput, r Report, unread map[object.ID]string) []Node {
	b := treeBuilder{in: in, machines: map[object.ID][]MachineReport{}, leaving: map[object.ID]bool{}}
	for _, d := range in.Declared {
		b.leaving[d.ID] = d.Leaving
	}
	reports := slices.Clone(r.Objects)
	for _, id := range slices.SortedFunc(maps.Keys(unread), object.Compare) {
		reports = slices.DeleteFunc(reports, func(o ObjectReport) bool { return o.ID == id })
		reports = append(reports, ObjectReport{ID: id, Phase: v1alpha1.PhaseUnknown, Message: unread[id]})
	}
	// Those that couldn't be read are at their place in the order of applying too.
	slices.SortStableFunc(reports, func(x, y ObjectReport) int {
		return cmp.Compare(StageOf(x.ID.GroupKind()), StageOf(y.ID.GroupKind()))
	})
	known := map[object.ID]bool{}
	for _, o := range reports {
		known[o.ID] = true
		if IsCluster(o.ID.GroupKind()) {
			b.clusters = append(b.clusters, o)
		}
	}
	var stray []MachineReport
	for _, m := range r.Machines {
		if known[m.Owner] {
			b.machines[m.Owner] = append(b.machines[m.Owner], m)
		} else {
			stray = append(stray, m)
		}
	}
	return b.build(reports, stray)
}

// treeBuilder has what the nodes are made of.
type treeBuilder struct {
	in       ProgressInput
	clusters []ObjectReport
	machines map[object.ID][]MachineReport // by declared owner
	leaving  map[object.ID]bool
}

// branch is a Cluster under construction.
type branch struct {
	infrastructure, controlPlanes, workers, others []Node
}

func (b *treeBuilder) build(reports []ObjectReport, stray []MachineReport) []Node {
	branches := map[object.ID]*branch{}
	for _, c := range b.clusters {
		branches[c.ID] = &branch{}
	}
	var roots []Node
	for _, o := range reports {
		gk := o.ID.GroupKind()
		if IsCluster(gk) {
			continue
		}
		cluster, part := b.place(o.ID)
		at := branches[cluster]
		node := b.node(o, part)
		switch {
		case at == nil:
			roots = append(roots, node)
		case part == PartInfrastructure:
			at.infrastructure = append(at.infrastructure, node)
		case part == PartControlPlane:
			at.controlPlanes = append(at.controlPlanes, node)
		case part == PartWorkers:
			node.Part = "" // the heading says it
			at.workers = append(at.workers, node)
		default:
			at.others = append(at.others, node)
		}
	}
	// Machines of what isn't declared, as with a ClusterClass, or of no owner at all.
	for _, cluster := range b.clusters {
		at := branches[cluster.ID]
		of := func(role Role) []MachineReport {
			return slices.DeleteFunc(slices.Clone(stray), func(m MachineReport) bool {
				return ClusterID(m.Namespace, m.Cluster) != cluster.ID || m.Role != role
			})
		}
		for _, node := range fold(of(RoleControlPlane)) {
			node.Part = PartControlPlane
			at.controlPlanes = append(at.controlPlanes, node)
		}
		at.workers = append(at.workers, fold(of(RoleWorker))...)
		stray = slices.DeleteFunc(stray, func(m MachineReport) bool { return ClusterID(m.Namespace, m.Cluster) == cluster.ID })
	}
	var top []Node
	for _, cluster := range b.clusters {
		at := branches[cluster.ID]
		node := b.node(cluster, "")
		node.Children = slices.Concat(at.infrastructure, at.controlPlanes, node.Children)
		if len(at.workers) > 0 {
			node.Children = append(node.Children, Node{Part: PartWorkers, Children: at.workers})
		}
		node.Children = append(node.Children, at.others...)
		top = append(top, node)
	}
	return slices.Concat(top, roots, fold(stray))
}

// place finds the Cluster that a declared object belongs to, and as what. The Cluster's
// own references count more than what the object is: one that the Cluster doesn't name
// any more is no part of it.
func (b *treeBuilder) place(id object.ID) (cluster object.ID, part Part) {
	for _, c := range b.clusters {
		if live := b.in.Live[c.ID]; live != nil {
			for _, ref := range References(live) {
				switch {
				case ref.To != id:
				case ref.Field == "spec.infrastructureRef":
					return c.ID, PartInfrastructure
				case ref.Field == "spec.controlPlaneRef":
					return c.ID, PartControlPlane
				}
			}
		}
	}
	cluster = b.clusterOf(id)
	gk := id.GroupKind()
	switch {
	case IsMachineOwner(gk) || IsMachine(gk):
		part = PartWorkers
	case b.in.Live[cluster] != nil: // it would have named it
	case IsControlPlane(gk):
		part = PartControlPlane
	case IsInfraCluster(gk):
		part = PartInfrastructure
	}
	return cluster, part
}

// clusterOf finds the Cluster that an object says it belongs to. One that doesn't exist
// yet, or can't be read, says nothing; most overlays have just one Cluster that it can
// belong to.
func (b *treeBuilder) clusterOf(id object.ID) object.ID {
	if u := b.in.Live[id]; u != nil {
		if name := cmp.Or(nested(u, "spec", "clusterName"), u.GetLabels()[ClusterLabel]); name != "" {
			return ClusterID(id.Namespace, name)
		}
		return object.ID{}
	}
	var candidates []object.ID
	for _, c := range b.clusters {
		if c.ID.Namespace == id.Namespace {
			candidates = append(candidates, c.ID)
		}
	}
	gk := id.GroupKind()
	if len(candidates) != 1 || !(IsMachineOwner(gk) || IsControlPlane(gk) || IsInfraCluster(gk) || gk.Kind == "MachineHealthCheck") {
		return object.ID{}
	}
	return candidates[0]
}

// node is a declared object with its Machines.
func (b *treeBuilder) node(o ObjectReport, part Part) Node {
	n := Node{
		Part: part, Kind: o.ID.Kind, Namespace: o.ID.Namespace, Names: []string{o.ID.Name},
		Leaving: b.leaving[o.ID], Blocked: o.Phase == v1alpha1.PhaseStalled, Message: o.Message,
		Children: fold(b.machines[o.ID]),
	}
	if o.Phase != v1alpha1.PhaseUnknown {
		ready := o.Phase == v1alpha1.PhaseConverged
		n.Ready = &ready
	}
	return n
}

// fold makes nodes of Machines, one of all that are in the same way; in the order in
// which each first appears.
func fold(machines []MachineReport) []Node {
	type way struct {
		namespace, version, message       string
		upToDate, ready, leaving, blocked bool
	}
	var nodes []Node
	at := map[way]int{}
	for _, m := range machines {
		w := way{m.Namespace, m.Version, m.Message, m.UpToDate, m.Ready, m.Leaving, m.Blocked}
		if i, ok := at[w]; ok {
			nodes[i].Names = append(nodes[i].Names, m.Name)
			continue
		}
		at[w] = len(nodes)
		nodes = append(nodes, Node{
			Kind: "Machine", Namespace: m.Namespace, Names: []string{m.Name}, Version: m.Version, Ready: &m.Ready,
			Outdated: !m.UpToDate, Leaving: m.Leaving, Blocked: m.Blocked, Message: m.Message,
		})
	}
	return nodes
}
