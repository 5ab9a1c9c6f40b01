package inventory

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// maxMessage is the size of a message in the status.
const maxMessage = 1024

// clip cuts a text to what a message may hold.
func clip(text string) string { return clipTo(text, maxMessage) }

func clipTo(text string, most int) string {
	const mark = "…"
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len(mark)], "") + mark
}

// nameOf is how messages call an object: kind and namespace/name.
func nameOf(ref v1alpha1.ObjectReference) string {
	if ref.Namespace == "" {
		return ref.Kind + " " + ref.Name
	}
	return ref.Kind + " " + ref.Namespace + "/" + ref.Name
}

// Describe says in words what a deletion of these objects is: "Cluster dev/dev
// and its machines, 9 more objects: 1 Namespace, 8 Secret".
func Describe(objects []v1alpha1.ObjectReference) string {
	const most = 5
	var parts []string
	var rest []v1alpha1.ObjectReference
	for _, ref := range sortedRefs(objects) {
		if capi.IsCluster(IDOf(ref).GroupKind()) {
			parts = append(parts, nameOf(ref)+" and its machines")
		} else {
			rest = append(rest, ref)
		}
	}
	warning := ""
	if len(parts) == 0 && slices.ContainsFunc(rest, partOfCluster) {
		warning = " (parts of a cluster, whose Cluster is not among them)"
	}
	if len(rest) <= most {
		for _, ref := range rest {
			parts = append(parts, nameOf(ref))
		}
		return clip(strings.Join(parts, ", ") + warning)
	}
	counts := map[string]int{}
	for _, ref := range rest {
		counts[ref.Kind]++
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		kinds = append(kinds, fmt.Sprintf("%d %s", counts[kind], kind))
	}
	more := ""
	if len(parts) > 0 {
		more = "more "
	}
	parts = append(parts, fmt.Sprintf("%d %sobjects: %s", len(rest), more, strings.Join(kinds, ", ")))
	return clip(strings.Join(parts, ", ") + warning)
}

// partOfCluster tells whether an object is what a Cluster consists of, so that
// its deletion without the Cluster deserves a second look.
func partOfCluster(ref v1alpha1.ObjectReference) bool {
	gk := IDOf(ref).GroupKind()
	return capi.IsControlPlane(gk) || capi.IsInfraCluster(gk)
}

// kept is the entry of an object that stays in the inventory.
func (p *planner) kept(it *item) v1alpha1.InventoryEntry {
	entry := it.Entry
	entry.ObjectReference = it.ref
	entry.State = v1alpha1.EntryLeaving
	if it.fate == retained {
		entry.State = v1alpha1.EntryRetained
	}
	entry.Message = clip(p.why(it))
	return entry
}

// why says why an object is still there.
func (p *planner) why(it *item) string {
	switch {
	case it.fate == deleting:
		return it.message
	case p.hold != "":
		return p.hold
	case it.fate == retained, it.fate == blocked:
		return it.message
	case it.chosen:
		return "is being deleted"
	case p.approved[it.key()] || p.plan.AcceptedApproval && (p.in.Whole || it.guarded):
		if front := p.front(); len(front) > 0 && !slices.Contains(front, it) {
			return "waits until " + front[0].name() + " is gone"
		}
		return "is about to be deleted"
	case p.in.Whole:
		return "waits for an approval: the whole overlay is gone from Git"
	case it.guarded && p.approved != nil:
		return "waits until the approved deletion is done, and then for an approval of its own: " + it.why
	case it.guarded:
		return "waits for an approval: " + it.why
	default:
		if front := p.front(); len(front) > 0 {
			return "waits until " + front[0].name() + " is gone"
		}
		return "is about to be deleted"
	}
}

// waiting says what has to happen before anything more does.
func (p *planner) waiting() string {
	if len(p.items) == 0 {
		return ""
	}
	if p.hold != "" {
		return p.hold
	}
	if p.plan.AcceptedApproval {
		return ""
	}
	if p.plan.Pending != nil && !p.plan.Pending.Approved {
		return "approval of deletion " + p.plan.Pending.Hash
	}
	front := p.front()
	for _, it := range front {
		if it.fate == deleting || it.chosen {
			return it.name() + " is being deleted"
		}
	}
	for _, it := range append(front, p.items...) {
		if it.fate == retained || it.fate == blocked {
			return it.name() + " " + it.message
		}
	}
	return ""
}
