package capi

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/internal/object"
)

// overlay is what is known of one, sorted out.
type overlay struct {
	ProgressInput
	// declared are sorted in the order of applying.
	declared []Declared
	byID     map[object.ID]Declared
	made     map[object.ID]*unstructured.Unstructured
	sets     []*unstructured.Unstructured
	machines []*machine
	// extra are machines wanted by objects that have no Machines for them, or that aren't
	// declared.
	pools map[Role]poolCounts
	until time.Time
}

// survey sorts the input out.
func survey(in ProgressInput) *overlay {
	o := &overlay{
		ProgressInput: in, declared: slices.Clone(in.Declared), byID: map[object.ID]Declared{},
		made: map[object.ID]*unstructured.Unstructured{}, pools: map[Role]poolCounts{},
	}
	slices.SortStableFunc(o.declared, func(a, b Declared) int {
		return cmp.Or(cmp.Compare(StageOf(a.ID.GroupKind()), StageOf(b.ID.GroupKind())), object.Compare(a.ID, b.ID))
	})
	for _, d := range o.declared {
		o.byID[d.ID] = d
	}
	var machines []*unstructured.Unstructured
	for _, u := range in.Made {
		id := object.IDOf(u)
		// A Machine may be declared as well as made; one look at it is enough.
		if _, seen := o.made[id]; seen {
			continue
		}
		o.made[id] = u
		switch {
		case IsMachine(id.GroupKind()):
			machines = append(machines, u)
		case id.Group == family && id.Kind == "MachineSet":
			o.sets = append(o.sets, u)
		}
	}
	for _, d := range o.declared {
		live := in.Live[d.ID]
		if live == nil || o.made[d.ID] != nil {
			continue
		}
		if IsMachine(d.ID.GroupKind()) {
			machines = append(machines, live)
		}
	}
	object.Sort(o.sets)
	for _, u := range machines {
		o.machines = append(o.machines, o.examine(u))
	}
	slices.SortFunc(o.machines, func(a, b *machine) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), object.Compare(a.Owner, b.Owner), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return o
}

// verdict judges one declared object.
func (o *overlay) verdict(d Declared, judge judgement) *verdict {
	v := &verdict{}
	switch {
	case d.Leaving && d.Held:
		v.add(person, "has left Git; its deletion waits for an approval")
		return v
	case d.Leaving:
		v.add(own, "has left Git and is not pruned yet")
		return v
	}
	u := o.Live[d.ID]
	switch {
	case u == nil:
		v.add(own, "is missing")
		return v
	case d.UID != "" && u.GetUID() != d.UID, u.GetGeneration() < d.Generation:
		v.add(own, "has been applied, and is not seen yet")
		return v
	case u.GetDeletionTimestamp() != nil:
		v.add(own, "%s", join(": ", "is being deleted", stage(u)))
		return v
	}
	v.failed(u)
	judge(o, u, v)
	switch why := o.paused(u); {
	case why == "":
	case why == selfPaused:
		v.softened(why)
		if len(v.findings) == 0 {
			v.add(person, "%s", why)
		}
	default:
		v.softened(why)
	}
	return v
}

// stage says how far a deletion is.
func stage(u *unstructured.Unstructured) string {
	c := conditionOf(u, clusterv1.DeletingCondition)
	if !c.True() {
		return ""
	}
	return join(": ", c.reason, plain(c.message))
}

const selfPaused = "is paused"

// paused says by what an object is paused; empty if it isn't.
func (o *overlay) paused(u *unstructured.Unstructured) string {
	if _, annotated := u.GetAnnotations()[clusterv1.PausedAnnotation]; annotated || Paused(u) || conditionOf(u, clusterv1.PausedCondition).True() && o.cluster(u) == nil {
		return selfPaused
	}
	if cluster := o.cluster(u); cluster != nil && Paused(cluster) {
		return "its Cluster is paused"
	}
	if conditionOf(u, clusterv1.PausedCondition).True() {
		return selfPaused
	}
	return ""
}

// cluster is the live Cluster of an object, if it is declared.
func (o *overlay) cluster(u *unstructured.Unstructured) *unstructured.Unstructured {
	if IsCluster(u.GroupVersionKind().GroupKind()) {
		return u
	}
	name := cmp.Or(nested(u, "spec", "clusterName"), u.GetLabels()[ClusterLabel])
	if name != "" {
		return o.Live[ClusterID(u.GetNamespace(), name)]
	}
	for _, r := range u.GetOwnerReferences() {
		if r.Kind == "Cluster" {
			return o.Live[ClusterID(u.GetNamespace(), r.Name)]
		}
	}
	return nil
}

// templateDeclared tells whether Git has a template; then it is there, whatever a condition
// says that was written before.
func (o *overlay) templateDeclared(id object.ID) bool {
	d, found := o.byID[id]
	return found && !d.Leaving
}

// reference reads a reference of either version to an object in the same namespace.
func reference(u *unstructured.Unstructured, path ...string) (object.ID, bool) {
	ref, _, err := unstructured.NestedFieldNoCopy(u.Object, path...)
	m, ok := ref.(map[string]any)
	if err != nil || !ok || text(m, "kind") == "" && text(m, "name") == "" {
		return object.ID{}, false
	}
	group := groupOf(m)
	if group == unknownGroup {
		group = ""
	}
	return object.ID{Group: group, Kind: text(m, "kind"), Namespace: u.GetNamespace(), Name: text(m, "name")}, true
}

// replicasOf is spec.replicas; the webhooks of all kinds make it 1 where it isn't set. An
// object that goes wants none.
func replicasOf(u *unstructured.Unstructured) int64 {
	if u.GetDeletionTimestamp() != nil {
		return 0
	}
	if n, known := count(u, "spec", "replicas"); known {
		return n
	}
	return 1
}

// unversioned stands for the declared objects whose status has no generation.
func (o *overlay) unversioned() string {
	var out strings.Builder
	for _, d := range o.declared {
		u := o.Live[d.ID]
		if u == nil || !lacksGeneration(u) {
			continue
		}
		fmt.Fprintln(&out, d.ID, u.GetUID(), u.GetResourceVersion())
	}
	if out.Len() == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(out.String()))
	return hex.EncodeToString(sum[:8])
}
