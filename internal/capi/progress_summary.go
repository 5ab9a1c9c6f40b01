package capi

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// poolCounts are the machines of MachinePools that have no Machine objects.
type poolCounts struct{ desired, existing, ready, upToDate int64 }

func (o *overlay) addPool(pool *unstructured.Unstructured, want int64) {
	c := o.pools[RoleWorker]
	existing, _ := count(pool, "status", "replicas")
	ready, _ := count(pool, "status", "readyReplicas")
	upToDate, known := count(pool, "status", "upToDateReplicas")
	if !known {
		upToDate = existing
	}
	o.pools[RoleWorker] = poolCounts{c.desired + want, c.existing + existing, c.ready + ready, c.upToDate + upToDate}
}

// counts counts the machines of a role.
func (o *overlay) counts(role Role) v1alpha1.MachineCounts {
	pool := o.pools[role]
	c := v1alpha1.MachineCounts{
		Desired: int32Of(pool.desired + o.desired(role)), Existing: int32Of(pool.existing), Ready: int32Of(pool.ready),
		UpToDate: int32Of(pool.upToDate), Done: int32Of(min(pool.ready, pool.upToDate)),
	}
	for _, m := range o.machines {
		if m.Role != role {
			continue
		}
		c.Existing++
		if m.Ready && !m.Leaving {
			c.Ready++
		}
		if m.UpToDate && !m.Leaving {
			c.UpToDate++
		}
		if m.Done() {
			c.Done++
		}
	}
	return c
}

func int32Of(n int64) int32 { return int32(max(0, min(n, 1<<30))) } //nolint:gosec // within bounds

// desired is how many machines of a role are declared.
func (o *overlay) desired(role Role) int64 {
	var n int64
	declared := map[*unstructured.Unstructured]int64{} // by Cluster
	for _, d := range o.declared {
		if live := o.Live[d.ID]; live != nil && !d.Leaving {
			want := o.wants(d.ID, live, role)
			n += want
			declared[o.cluster(live)] += want
		}
	}
	// What is neither declared nor stray belongs to somebody who knows how many.
	others := map[object.ID]int64{} // by Cluster
	for _, m := range o.machines {
		if m.Role == role && m.Owner == (object.ID{}) && !m.stray && !m.Leaving {
			others[ClusterID(m.Namespace, m.Cluster)]++
		}
	}
	for _, d := range o.declared {
		if live := o.Live[d.ID]; live != nil && !d.Leaving && live.GetDeletionTimestamp() == nil && hasTopology(live) {
			if all, known := desiredOf(live, role); known {
				others[d.ID] = max(0, all-declared[live])
			}
		}
	}
	for _, each := range others {
		n += each
	}
	return n
}

// hasTopology tells whether an object is a Cluster that is made of a ClusterClass.
func hasTopology(u *unstructured.Unstructured) bool {
	_, topology, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "topology")
	return topology && IsCluster(u.GroupVersionKind().GroupKind())
}

// desiredOf is how many machines of a role a Cluster says are wanted.
func desiredOf(cluster *unstructured.Unstructured, role Role) (int64, bool) {
	field := map[Role]string{RoleControlPlane: "controlPlane", RoleWorker: "workers"}[role]
	for _, path := range [][]string{{"status", field, "desiredReplicas"}, {"status", "v1beta2", field, "desiredReplicas"}} {
		if n, known := count(cluster, path...); known {
			return n, true
		}
	}
	return 0, false
}

// wants is how many machines of a role a declared object wants.
func (o *overlay) wants(id object.ID, live *unstructured.Unstructured, role Role) int64 {
	gk := id.GroupKind()
	switch {
	case IsMachine(gk):
		_, controlPlane := live.GetLabels()[clusterv1.MachineControlPlaneLabel]
		if controlPlane == (role == RoleControlPlane) && live.GetDeletionTimestamp() == nil {
			return 1
		}
	case IsControlPlane(gk) && !IsTemplate(gk) && role == RoleControlPlane:
		if o.makesMachines(id, live) {
			return replicasOf(live)
		}
	case IsMachineOwner(gk) && role == RoleWorker:
		if gk.Kind == "MachinePool" && len(o.ownedBy(id)) == 0 {
			return 0 // counted as a pool
		}
		return replicasOf(live)
	}
	return 0
}

// unowned are verdicts on the Machines that nothing declared is answerable for.
func (o *overlay) unowned() []reported {
	var out []reported
	for _, m := range o.machines {
		if m.Owner != (object.ID{}) || m.Done() {
			continue
		}
		w := own
		if m.Blocked {
			w = stuck
		}
		out = append(out, reported{object.IDOf(m.u), &verdict{findings: []finding{{weight: w, text: m.Message, machines: true}}}})
	}
	return out
}

// score sums up how far everything is; nothing more comes of sums that trail.
func (o *overlay) score(all []reported, trails bool) int64 {
	var score int64
	for _, r := range all {
		switch phase := r.phase(); {
		case phase == v1alpha1.PhaseConverged || trails:
			score += 2
		case phase != v1alpha1.PhaseStalled:
			score++
		}
	}
	byOwner := map[object.ID][]int64{}
	for _, m := range o.machines {
		switch {
		case m.Leaving:
			score += m.departure() - maxSteps
		case !m.UpToDate:
			score -= maxSteps
		default:
			byOwner[m.Owner] = append(byOwner[m.Owner], m.steps)
		}
	}
	for id, steps := range byOwner {
		slices.Sort(steps)
		slices.Reverse(steps)
		want := int64(len(steps))
		if live := o.Live[id]; live != nil {
			want = o.wants(id, live, RoleControlPlane) + o.wants(id, live, RoleWorker)
		}
		for i, n := range steps {
			if int64(i) < want {
				score += n
			} else {
				score -= maxSteps
			}
		}
	}
	return score
}

// summary says what an overlay waits for: what is stuck, how many machines of each role are
// done and what the others need, and what else there is.
func (o *overlay) summary(r Report, all []reported) string {
	var parts []string
	lines := 0
	quote := func(w weight, limit int) {
		for _, each := range all {
			for _, f := range each.sorted() {
				if f.weight == w && !f.machines && !(f.late && lines > 0) && limit > 0 {
					parts = append(parts, about(each.id, f.text))
					limit--
				}
			}
		}
	}
	const many = 5
	quote(stuck, many)
	for _, each := range all {
		if live := o.Live[each.id]; IsCluster(each.id.GroupKind()) && live != nil && live.GetDeletionTimestamp() != nil {
			parts = append(parts, about(each.id, each.message()))
			each.findings[0].machines = true
		}
	}
	if r.Phase == v1alpha1.PhaseWaiting {
		quote(person, many)
	}
	for _, role := range []struct {
		Role
		name   string
		counts v1alpha1.MachineCounts
	}{{RoleControlPlane, "control plane", r.ControlPlane}, {RoleWorker, "workers", r.Workers}} {
		line := o.line(role.Role, role.name, role.counts)
		lines += len(line)
		parts = append(parts, line...)
	}
	quote(own, many)
	if r.Phase != v1alpha1.PhaseWaiting {
		quote(person, many)
	}
	if len(parts) == 0 {
		quote(derived, 3)
	}
	return strings.Join(parts, "; ")
}

// about puts a text behind the name of an object.
func about(id object.ID, text string) string {
	separator := ": "
	for _, verb := range []string{"is ", "has ", "waits ", "can't ", "its "} {
		if strings.HasPrefix(text, verb) && verb != "its " {
			separator = " "
		}
	}
	return id.Kind + " " + id.Name + separator + text
}

// line is what there is to say about a role; nothing if its machines are done.
func (o *overlay) line(role Role, name string, c v1alpha1.MachineCounts) []string {
	if c.Done == c.Desired && c.Existing == c.Desired {
		return nil
	}
	var of []*machine
	for _, m := range o.machines {
		if m.Role == role {
			of = append(of, m)
		}
	}
	text := fmt.Sprintf("%s %d of %d", name, c.Done, c.Desired)
	switch {
	case c.Existing > c.Desired:
		text += fmt.Sprintf(", %d to go", c.Existing-c.Desired)
	case c.Existing < c.Desired:
		text += fmt.Sprintf(", %d not made yet", c.Desired-c.Existing)
	}
	return []string{join(": ", text, waiting(of))}
}

// order of what machines wait for: what blocks others first. Outdated ones wait their turn.
func (m *machine) order() int {
	switch {
	case m.Blocked:
		return 0
	case m.Leaving:
		return 1
	case !m.Ready:
		return 2
	default:
		return 3
	}
}

// waiting lists what machines wait for, with those together that wait for the same.
func waiting(machines []*machine) string {
	const most = 3
	left := slices.DeleteFunc(slices.Clone(machines), func(m *machine) bool { return m.Done() })
	slices.SortStableFunc(left, func(a, b *machine) int {
		return cmp.Or(cmp.Compare(a.order(), b.order()), cmp.Compare(a.Name, b.Name))
	})
	var messages []string
	names := map[string][]string{}
	for _, m := range left {
		if len(names[m.Message]) == 0 {
			messages = append(messages, m.Message)
		}
		names[m.Message] = append(names[m.Message], m.Name)
	}
	var parts []string
	rest := 0
	for i, message := range messages {
		who := names[message]
		if i >= most {
			rest += len(who)
			continue
		}
		if len(who) > most {
			who = append(slices.Clone(who[:most]), fmt.Sprintf("%d more", len(who)-most))
		}
		parts = append(parts, join(": ", strings.Join(who, ", "), message))
	}
	if rest > 0 {
		parts = append(parts, fmt.Sprintf("%d more", rest))
	}
	return strings.Join(parts, "; ")
}
