package capi

import (
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// Declared is an object that an overlay has applied.
type Declared struct {
	ID object.ID
	// UID and Generation of the live object after it was applied last. A live object
	// of a lesser generation is an old view of it; 0 if it isn't known.
	UID        types.UID
	Generation int64
	// Leaving says that the object has left Git and is still to be pruned, Held that a
	// person has to approve of it first.
	Leaving, Held bool
}

// ProgressInput is all that progress depends on.
type ProgressInput struct {
	// Declared are the objects of the overlay. Those of kinds that make no progress,
	// such as templates, ConfigMaps and Secrets, count as there.
	Declared []Declared
	// Live has the live objects of Declared, as trimmed by [Trim]; one that is not in
	// it doesn't exist.
	Live map[object.ID]*unstructured.Unstructured
	// Made are the objects that controllers have made for the overlay's Clusters:
	// Machines, MachineSets, and the infrastructure machines and bootstrap
	// configurations of Machines, as trimmed by Trim.
	Made []*unstructured.Unstructured
	// Now tells whether the time of a scheduled rollout has come.
	Now time.Time
}

// Role is what a machine is for.
type Role string

// The roles.
const (
	RoleControlPlane Role = "control plane"
	RoleWorker       Role = "worker"
)

// Report says how far an overlay is.
type Report struct {
	// Phase is Converged, Progressing, Waiting, or Stalled if a controller says that it
	// can't go on. Whether something takes too long is for [Follow] to say.
	Phase v1alpha1.Phase
	// Message says what is waited for, the most blocking first, and quotes the condition
	// that blocks. Empty if converged. It holds no times, and is the same for the same
	// input in any order.
	Message               string
	ControlPlane, Workers v1alpha1.MachineCounts
	// Objects are the declared objects that make progress, in the order of applying.
	Objects []ObjectReport
	// Machines are those of the overlay's Clusters, by role, owner and name.
	Machines []MachineReport
	// Score grows with every step of a machine that is to be there, and shrinks with
	// every machine that is to go.
	Score int64
	// Unversioned stands for the state of those declared objects whose status doesn't say
	// which generation it is of, such as a ProxmoxCluster; empty if there are none. After
	// something was applied, Converged holds only once it was the same for a moment: their
	// controllers may not have looked yet.
	Unversioned string
	// Settles is how long after an apply Converged holds at the earliest: what a ClusterClass
	// says now reaches its Clusters when the topology controller gets to them, and nothing
	// tells when it has. It looks at each once a second, and has more to do in a large fleet.
	Settles time.Duration
	// Partial says that a declared object is missing or on its way out: less is desired then
	// than is declared.
	Partial bool
	// Trails says that everything is there, Machine for Machine, and that controllers have
	// only still to add it up, which takes a second for each level: MachineSets and control
	// planes, MachineDeployments, the Cluster. Phase is not Converged then.
	Trails bool
	// Until is when the passing of time alone will change the report, as the time of a
	// scheduled rollout does; zero if never.
	Until time.Time
}

// ObjectReport says how far one declared object is.
type ObjectReport struct {
	ID    object.ID
	Phase v1alpha1.Phase
	// Message says what it waits for, without its own name; empty if for nothing.
	Message string
}

// MachineReport says how far one Machine is.
type MachineReport struct {
	Name      string
	Namespace string
	// Cluster is the name of its Cluster.
	Cluster string
	Role    Role
	// Owner is the declared object that it is made for: a control plane, a
	// MachineDeployment, a MachinePool; the zero ID if there is none.
	Owner object.ID
	// Version is that of Kubernetes.
	Version string
	// UpToDate says that it is as declared, Ready that it is ready and available,
	// Leaving that it is on its way out.
	UpToDate, Ready, Leaving bool
	// Message says what it waits for, quoted from what blocks it; empty if for nothing.
	Message string
	// Blocked says that a controller has given up on it.
	Blocked bool
	// Since is when it became available; zero if it isn't.
	Since time.Time
}

// Done says that a machine is as it should be.
func (m MachineReport) Done() bool { return m.UpToDate && m.Ready && !m.Leaving }

// MakesProgress tells whether objects of a kind become what they declare over time, and
// so have to be watched once they are applied.
func MakesProgress(gk schema.GroupKind) bool {
	return judgeOf(gk) != nil
}

// Progress says how far an overlay is. It trusts specs and Machines more than counters and
// conditions: the views of different kinds may be of different moments, and a counter may
// not know of a change yet. So everything has to agree before an overlay has converged.
func Progress(in ProgressInput) Report {
	o := survey(in)
	r := Report{Unversioned: o.unversioned(), Settles: o.settles(), Until: o.until}
	var all []reported
	for _, d := range o.declared {
		judge := judgeOf(d.ID.GroupKind())
		if judge == nil && !d.Leaving {
			continue
		}
		v := o.verdict(d, judge)
		if u := o.Live[d.ID]; judge != nil && (u == nil || u.GetDeletionTimestamp() != nil) {
			r.Partial = true
		}
		if judge != nil {
			r.Objects = append(r.Objects, ObjectReport{ID: d.ID, Phase: v.phase(), Message: clip1024(v.message())})
		}
		all = append(all, reported{id: d.ID, verdict: v})
	}
	all = append(all, o.unowned()...)
	r.ControlPlane, r.Workers = o.counts(RoleControlPlane), o.counts(RoleWorker)
	for _, m := range o.machines {
		r.Machines = append(r.Machines, m.MachineReport)
	}
	r.Phase, r.Trails = overall(all), trails(all)
	r.Score = o.score(all, r.Trails)
	if r.Phase != v1alpha1.PhaseConverged {
		r.Message = clip1024(o.summary(r, all))
	}
	return r
}
