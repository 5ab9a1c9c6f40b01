package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// store replaces what is remembered of an overlay's render; nil forgets it.
func (f *fleetBoard) store(path string, r *rendering) {
	if old := f.renderings[path]; old != nil {
		for id := range old.claims {
			left := slices.DeleteFunc(f.claimedBy[id], func(p string) bool { return p == path })
			if len(left) == 0 {
				delete(f.claimedBy, id)
			} else {
				f.claimedBy[id] = left
			}
		}
	}
	if r == nil {
		delete(f.renderings, path)
		return
	}
	f.renderings[path] = r
	for id := range r.claims {
		f.claimedBy[id] = append(f.claimedBy[id], path)
	}
}

// neighbours lists the other overlays that claim an object of these renderings of
// an overlay. In a big fleet they are few.
func (f *fleetBoard) neighbours(path string, renderings ...*rendering) []string {
	found := map[string]bool{}
	for _, r := range renderings {
		if r == nil {
			continue
		}
		for id := range r.claims {
			for _, other := range f.claimedBy[id] {
				if other != path {
					found[other] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// clash describes the first object that two renderings both claim and may not
// share; "" if there is none.
func clash(path string, r *rendering, other string, o *rendering) string {
	if r == nil || o == nil || len(r.claims) == 0 || len(o.claims) == 0 {
		return ""
	}
	var ids []object.ID
	for id, c := range r.claims {
		if d, ok := o.claims[id]; ok && !(c.shareable && d.shareable && c.digest == d.digest) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return ""
	}
	id := slices.MinFunc(ids, object.Compare)
	first, second := min(path, other), max(path, other)
	return fmt.Sprintf("%s is rendered by two overlays, %s and %s; remove it from one of them", id, first, second)
}

// relation says how two renderings bear on each other: they collide, or share
// Namespaces, or, if it is "", neither.
func relation(path string, r *rendering, other string, o *rendering) string {
	if c := clash(path, r, other, o); c != "" || r == nil || o == nil {
		return c
	}
	var shared []string
	for id, c := range r.claims {
		if _, both := o.claims[id]; both && c.shareable {
			shared = append(shared, id.String())
		}
	}
	slices.Sort(shared)
	return strings.Join(shared, "\n")
}

// clashes lists what makes an overlay's render collide with others of the fleet.
// undecided says that one of them collided at an earlier view and is not rendered
// at this one yet, as when an object moves between the two; the overlay is asked
// again when it is.
func (b *board) clashes(fleet types.NamespacedName, path string) (all []string, undecided bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil {
		return nil, true
	}
	for _, other := range f.neighbours(path, f.renderings[path]) {
		o := f.renderings[other]
		c := clash(path, f.renderings[path], other, o)
		switch {
		case c == "":
		case o.sequence != f.view.sequence:
			undecided = true
		default:
			all = append(all, c)
		}
	}
	if undecided {
		f.waiting[path] = true
	}
	slices.Sort(all)
	return all, undecided
}

// claimants maps each of the objects to another overlay of the fleet that renders
// it; objects that no other renders are left out.
func (b *board) claimants(fleet types.NamespacedName, path string, ids []object.ID) map[object.ID]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.fleets[fleet]; f != nil {
		return f.claimants(path, ids)
	}
	return nil
}

func (f *fleetBoard) claimants(path string, ids []object.ID) map[object.ID]string {
	found := map[object.ID]string{}
	for _, id := range ids {
		for _, other := range f.claimedBy[id] {
			if other != path && (found[id] == "" || other < found[id]) {
				found[id] = other
			}
		}
	}
	return found
}

// tends reports whether an overlay is the one of those sharing a Namespace that looks
// after it: the first of them. known is false while some overlay has not been rendered
// since the start; the overlay is asked again once all are. None does while one of them
// renders something else than what the digest stands for: it is about to be applied, or
// Git has to be mended.
func (b *board) tends(fleet types.NamespacedName, path string, id object.ID, digest string) (tends, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil {
		return false, false
	}
	for other := range f.view.paths {
		if f.renderings[other] == nil {
			f.waiting[path] = true
			return false, false
		}
	}
	for _, other := range f.claimedBy[id] {
		if f.renderings[other].claims[id].digest != digest {
			return false, true
		}
	}
	return len(f.claimedBy[id]) > 0 && slices.Min(f.claimedBy[id]) == path, true
}

// handed is claimants. If there are any the overlay is asked again when others have been
// rendered: Git may take the objects from the other again.
func (b *board) handed(fleet types.NamespacedName, path string, ids []object.ID) map[object.ID]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil {
		return nil
	}
	found := f.claimants(path, ids)
	if len(found) > 0 {
		f.waiting[path] = true
	}
	return found
}

// releasedBy reports whether an overlay, given by name, is known not to render an
// object at the present view, so that another may take it over.
func (b *board) releasedBy(fleet types.NamespacedName, overlay string, id object.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil {
		return false
	}
	path := f.view.pathOf(fleet.Name, overlay)
	if path == "" {
		return true // its directory is gone
	}
	r := f.renderings[path]
	if r == nil || r.sequence != f.view.sequence || r.err != nil {
		return false
	}
	_, claimed := r.claims[id]
	return !claimed
}

// tooMany counts the overlays of a fleet that are about to lose everything, or their
// Cluster, if they are more than these: else it is 0. What was only moved doesn't count:
// others render it. The overlay that asks is asked again when there may be fewer.
func (b *board) tooMany(fleet types.NamespacedName, path string, most int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil {
		return most + 1 // it isn't known
	}
	n := 0
	for path := range f.owned {
		if f.leavesWhole(path) {
			n++
		}
	}
	if n <= most {
		return 0
	}
	f.waiting[path] = true
	return n
}

// leavesWhole reports whether an overlay is about to lose everything, or its Cluster.
func (f *fleetBoard) leavesWhole(path string) bool {
	everything := slices.ContainsFunc(f.owned[path], f.unclaimed)
	if !f.view.paths[path] {
		return everything
	}
	r := f.renderings[path]
	if r == nil || r.err != nil {
		return false
	}
	return len(r.claims) == 0 && everything || f.losesCluster(path)
}

// losesCluster reports whether an overlay owns a Cluster that none renders any more.
func (b *board) losesCluster(fleet types.NamespacedName, path string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	return f != nil && f.losesCluster(path)
}

func (f *fleetBoard) losesCluster(path string) bool {
	return slices.ContainsFunc(f.owned[path], func(id object.ID) bool { return capi.IsCluster(id.GroupKind()) && f.unclaimed(id) })
}

// unclaimed reports whether no overlay renders an object.
func (f *fleetBoard) unclaimed(id object.ID) bool { return len(f.claimedBy[id]) == 0 }

// namespaces says, by namespace, which other overlay of the fleet renders objects
// into it.
func (b *board) namespaces(fleet types.NamespacedName, path string) map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	used := map[string]string{}
	f := b.fleets[fleet]
	if f == nil {
		return used
	}
	for id, others := range f.claimedBy {
		for _, other := range others {
			if other != path && id.Namespace != "" && (used[id.Namespace] == "" || other < used[id.Namespace]) {
				used[id.Namespace] = other
			}
		}
	}
	return used
}
