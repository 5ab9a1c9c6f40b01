package inventory

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// fate is what a candidate's live state allows, before approvals and order are
// looked at.
type fate int

const (
	// ready: it may be deleted.
	ready fate = iota
	// unknown: its live state could not be read.
	unknown
	// forget: it leaves the inventory without a delete.
	forget
	// deleting: its deletion has begun; there is never a second delete.
	deleting
	// retained: something needs it, or people keep us away from it.
	retained
	// blocked: it must not be deleted now, whoever approves.
	blocked
)

// item is a candidate with its fate.
type item struct {
	Candidate
	id   object.ID
	ref  v1alpha1.ObjectReference // with the live UID
	fate fate
	// message says why.
	message string
	// orphaned marks an object that is let go alive.
	orphaned bool
	guarded  bool
	why      string
	wave     wave
	// chosen marks what is deleted in this round.
	chosen bool
}

func (it *item) key() approvalKey { return approvalKey{it.id, it.ref.UID} }

// name is how messages call the object.
func (it *item) name() string { return nameOf(it.ref) }

// alive tells whether the object lives, is ours and nobody deletes it.
func (it *item) alive() bool {
	return it.fate == ready || it.fate == retained || it.fate == blocked
}

// wave orders what an approval covers. A wave starts when all of the one before
// are gone: Cluster API needs the infrastructure to delete machines, and
// credentials to delete infrastructure.
type wave int

const (
	waveCluster wave = iota
	waveMachines
	waveControlPlane
	waveInfra
	waveConfig
	waveSecrets
	waveDefinitions
)

func waveOf(gk schema.GroupKind) wave {
	if capi.IsIdentity(gk) || gk == (schema.GroupKind{Kind: "Secret"}) {
		return waveSecrets
	}
	switch capi.StageOf(gk) {
	case capi.StageCluster:
		return waveCluster
	case capi.StageMachines, capi.StageAddons:
		return waveMachines
	case capi.StageControlPlane:
		return waveControlPlane
	case capi.StageInfraCluster:
		return waveInfra
	case capi.StageDefinitions:
		return waveDefinitions
	default:
		return waveConfig
	}
}

// judgeAll judges every candidate, in stable order, and then what follows from
// one for another.
func judgeAll(in PruneInput) []*item {
	items := make([]*item, 0, len(in.Candidates))
	seen := map[object.ID]bool{}
	for _, c := range in.Candidates {
		it := judge(c, in)
		if !seen[it.id] {
			seen[it.id] = true
			items = append(items, it)
		}
	}
	slices.SortFunc(items, func(a, b *item) int { return object.Compare(a.id, b.id) })
	orphanWithCluster(items)
	orphanNamespaces(items)
	return items
}

// judge looks at one candidate by itself.
func judge(c Candidate, in PruneInput) *item {
	it := &item{Candidate: c, id: IDOf(c.Entry.ObjectReference), ref: c.Entry.ObjectReference}
	gk := it.id.GroupKind()
	it.wave = waveOf(gk)
	it.why, it.guarded = capi.Guard(gk, c.Live)
	it.fate, it.message = fateOf(it, in)
	if c.Live != nil && it.fate != forget {
		it.ref.UID = c.Live.GetUID()
	}
	it.orphaned = it.fate == forget && (c.Live != nil || c.HandedTo != "")
	return it
}

// fateOf is the list of rules for one candidate; the first that fits decides.
func fateOf(it *item, in PruneInput) (fate, string) {
	live := it.Live
	switch {
	case stays(it, in.Staying):
		return forget, "is still in Git, under another namespace that its kind doesn't have"
	case it.HandedTo != "":
		return forget, "is handed over to overlay " + it.HandedTo
	case it.ReadError != nil:
		return unknown, fmt.Sprintf("nothing is deleted: the live state of %s could not be read: %s", it.name(), it.ReadError)
	case live == nil:
		return forget, "is gone"
	}
	if why := notOurs(it); why != "" {
		return forget, why
	}
	if live.GetUID() == "" {
		return blocked, "can't be deleted: its UID is unknown"
	}
	if live.GetDeletionTimestamp() != nil {
		return deleting, "is being deleted"
	}
	if why, keep := capi.OptOut(live.GetAnnotations(), live.GetLabels()); keep {
		return forget, "is left alone for good, not deleted: " + why
	}
	if why, skip := capi.Unmanaged(live.GetAnnotations()); skip {
		return retained, "is kept: " + why
	}
	if len(it.Users) > 0 {
		return retained, "is kept: in use by " + list(it.Users, 5)
	}
	if it.id.GroupKind() == (schema.GroupKind{Kind: "Namespace"}) {
		if who := in.NamespacesInUse[it.id.Name]; who != "" {
			return retained, "is kept: in use by " + who
		}
	}
	if why, is := capi.Blocked(live); is {
		return blocked, "can't be deleted now: " + why
	}
	return ready, ""
}

// stays tells whether a candidate is the same live object as an entry that Git
// still asks for. A manifest of a cluster-scoped kind may carry a namespace,
// because kustomize puts one on every kind that it doesn't know; the API server
// drops it, so two identities can mean one object.
func stays(it *item, staying []v1alpha1.InventoryEntry) bool {
	return slices.ContainsFunc(staying, func(e v1alpha1.InventoryEntry) bool {
		id := IDOf(e.ObjectReference)
		oneScope := id.Namespace == "" || it.id.Namespace == ""
		sameName := id.GroupKind() == it.id.GroupKind() && id.Name == it.id.Name
		sameUID := e.UID != "" && (e.UID == it.Entry.UID || it.Live != nil && e.UID == it.Live.GetUID())
		return sameUID || oneScope && sameName
	})
}

// notOurs says why a live object isn't this overlay's any more. The label alone
// decides for an entry without UID, which was about to be applied when the agent
// stopped. A different UID means that somebody recreated the object; it is still
// ours if we have applied to the new one, as after restoring a missing object and
// stopping before that was recorded.
func notOurs(it *item) string {
	label := it.Live.GetLabels()[v1alpha1.OverlayLabel]
	switch {
	case label == "":
		return "is not deleted: it has lost the label " + v1alpha1.OverlayLabel
	case label != it.OwnerLabel:
		return "is not deleted: its label " + v1alpha1.OverlayLabel + " names " + label
	case it.Entry.UID != "" && it.Entry.UID != it.Live.GetUID() && !appliedByUs(it.Live):
		return "is not deleted: somebody has recreated it"
	}
	return ""
}

func appliedByUs(live *unstructured.Unstructured) bool {
	return slices.ContainsFunc(live.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == v1alpha1.FieldManager && f.Operation == metav1.ManagedFieldsOperationApply
	})
}

// orphanWithCluster lets everything go that leaves together with a Cluster which
// opted out of pruning: a Cluster that is kept needs all of it.
func orphanWithCluster(items []*item) {
	for _, cluster := range items {
		if cluster.wave != waveCluster || !cluster.orphaned || cluster.HandedTo != "" {
			continue
		}
		if _, optedOut := capi.OptOut(cluster.Live.GetAnnotations(), cluster.Live.GetLabels()); !optedOut {
			continue
		}
		for _, it := range items {
			if it.alive() {
				it.fate, it.orphaned = forget, true
				it.message = "is left alone for good, not deleted: " + cluster.name() + " is"
			}
		}
	}
}

// orphanNamespaces lets a Namespace go when an object in it is let go alive: it
// would be deleted with the Namespace.
func orphanNamespaces(items []*item) {
	for _, ns := range items {
		if ns.id.GroupKind() != (schema.GroupKind{Kind: "Namespace"}) || !ns.alive() {
			continue
		}
		for _, it := range items {
			if it.orphaned && it.id.Namespace == ns.id.Name {
				ns.fate, ns.orphaned = forget, true
				ns.message = "is left alone for good, not deleted: it holds " + it.name() + ", which stays"
				break
			}
		}
	}
}

// list joins names, the first few in full.
func list(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
