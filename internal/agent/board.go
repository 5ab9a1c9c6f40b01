package agent

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

// view is what the fleet reconciler has found out about a fleet: one commit and
// everything else that overlays are rendered from. It never changes once
// published.
type view struct {
	// sequence numbers the views of a fleet.
	sequence int64
	revision source.Revision
	tree     tree.Tree
	// paths are the overlays of the commit.
	paths map[string]bool
	// substitution is nil if the Fleet declares none.
	substitution *render.Substitution
	// serviceAccount is the identity to act under; "" is the agent's own.
	serviceAccount string
	maxClusters    int
	suspended      bool
	// leaving are the overlays that own objects, have lost their directory and are
	// not approved to go, with what they own.
	leaving map[string][]object.ID
	// adopted are live objects that carry the labels of overlays whose inventory
	// was empty when the view was made, by name of the overlay.
	adopted map[string][]v1alpha1.ObjectReference
	// scanned and scannedNames say which overlays that look covered: those that
	// existed then, and those that did not.
	scanned      map[types.UID]bool
	scannedNames map[string]bool
}

// claim is an object that an overlay renders.
type claim struct {
	ref    v1alpha1.ObjectReference
	digest string
	// shareable marks a Namespace: overlays may render the same one.
	shareable bool
}

// rendering is what is remembered of an overlay's last render: what it read, and
// what it claims. The objects themselves are not kept.
type rendering struct {
	// sequence of the newest view that this rendering is known to hold for.
	sequence  int64
	closure   render.Closure
	variables []string
	// inputs is the digest of everything that was read.
	inputs string
	// err says why the overlay doesn't render; its claims are then unknown.
	err    error
	claims map[object.ID]claim
}

// board is the agent's memory of all fleets. Everything on it can be rebuilt from
// Git and the custom resources. It is safe for concurrent use.
type board struct {
	mu     sync.Mutex
	fleets map[types.NamespacedName]*fleetBoard
	// enqueue asks for a reconciliation of an overlay.
	enqueue func(overlay types.NamespacedName)
}

type fleetBoard struct {
	view       *view
	renderings map[string]*rendering
	// waiting are overlays whose prune waits until all others are rendered.
	waiting map[string]bool
}

func newBoard(enqueue func(types.NamespacedName)) *board {
	return &board{fleets: map[types.NamespacedName]*fleetBoard{}, enqueue: enqueue}
}

// view returns the published view of a fleet, nil before the first.
func (b *board) view(fleet types.NamespacedName) *view {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.fleets[fleet]; f != nil {
		return f.view
	}
	return nil
}

// forget drops a fleet that is no more.
func (b *board) forget(fleet types.NamespacedName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.fleets, fleet)
}

// publish replaces the view of a fleet and returns the paths whose overlays may be
// concerned: those whose inputs differ, those never rendered, and those that have
// come, gone, or are to be suspended or resumed. Overlays whose inputs are
// unchanged cost nothing. If an input can't be read nothing is published.
func (b *board) publish(fleet types.NamespacedName, next *view, digester object.Digester) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil {
		f = &fleetBoard{renderings: map[string]*rendering{}, waiting: map[string]bool{}}
	}
	previous := f.view
	next.sequence = 1
	if previous != nil {
		next.sequence = previous.sequence + 1
	}
	concerned := map[string]bool{}
	current := map[string]bool{}
	for path := range next.paths {
		r := f.renderings[path]
		if r == nil {
			concerned[path] = true
			continue
		}
		same, err := r.holdsFor(next, digester)
		if err != nil {
			return nil, fmt.Errorf("compare the inputs of %s with %s: %w", path, next.revision, err)
		}
		current[path] = same
		if !same {
			concerned[path] = true
		}
	}
	if previous != nil {
		all := previous.suspended != next.suspended || previous.serviceAccount != next.serviceAccount || previous.maxClusters != next.maxClusters
		for path := range previous.paths {
			if all || !next.paths[path] {
				concerned[path] = true
			}
		}
		for path := range next.paths {
			if all || !previous.paths[path] {
				concerned[path] = true
			}
		}
	}
	for path, same := range current {
		if same {
			f.renderings[path].sequence = next.sequence
		}
	}
	for path, r := range f.renderings {
		if next.paths[path] {
			continue
		}
		delete(f.renderings, path)
		for other, o := range f.renderings {
			if clash(path, r, other, o) != "" { // it may have its objects to itself now
				concerned[other] = true
			}
		}
	}
	f.view = next
	b.fleets[fleet] = f
	if _, unsettled := f.unsettled(""); len(unsettled) == 0 {
		maps.Copy(concerned, f.waiting)
		clear(f.waiting)
	}
	return slices.Sorted(maps.Keys(concerned)), nil
}

// holdsFor reports whether rendering at this view would read the same inputs.
func (r *rendering) holdsFor(v *view, digester object.Digester) (bool, error) {
	same, err := r.closure.Unchanged(v.tree)
	if err != nil || !same {
		return false, err
	}
	return inputsDigest(digester, r.closure, r.variables, v) == r.inputs, nil
}

// inputsDigest stands for all that a render read: the files, the values of the
// variables it names, and the version of the renderer.
func inputsDigest(digester object.Digester, closure render.Closure, variables []string, v *view) string {
	parts := []string{render.Version(), closure.Digest()}
	if v.substitution != nil {
		parts = append(parts, "substitute")
		for _, name := range slices.Sorted(slices.Values(variables)) {
			value, known := v.substitution.Values[name]
			parts = append(parts, name, fmt.Sprint(known), value)
		}
	}
	return digester.Strings(parts...)
}

// rendering returns what is remembered of an overlay if it holds for the view.
func (b *board) rendering(fleet types.NamespacedName, path string, v *view) *rendering {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil {
		return nil
	}
	if r := f.renderings[path]; r != nil && r.sequence == v.sequence {
		return r
	}
	return nil
}

// rendered records the outcome of a render. Overlays that claim one of the same
// objects, before or now, are asked to look again, and so are those whose prune
// waited for this one.
func (b *board) rendered(fleet types.NamespacedName, path string, r *rendering) {
	b.mu.Lock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil || !f.view.paths[path] {
		b.mu.Unlock()
		return
	}
	touched := map[string]bool{}
	previous := f.renderings[path]
	for other, o := range f.renderings {
		if other != path && clash(path, r, other, o) != clash(path, previous, other, o) {
			touched[other] = true
		}
	}
	f.renderings[path] = r
	if r.sequence != f.view.sequence {
		// A view was published meanwhile, and judged by the rendering before this.
		touched[path] = true
	}
	if _, unsettled := f.unsettled(path); len(unsettled) == 0 {
		for waiting := range f.waiting {
			touched[waiting] = true
		}
		clear(f.waiting)
	}
	b.mu.Unlock()
	for other := range touched {
		b.enqueue(types.NamespacedName{Namespace: fleet.Namespace, Name: OverlayName(fleet.Name, other)})
	}
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

// clashes lists what makes an overlay's render collide with others of the fleet.
func (b *board) clashes(fleet types.NamespacedName, path string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil {
		return nil
	}
	var all []string
	for other, o := range f.renderings {
		if other == path {
			continue
		}
		if c := clash(path, f.renderings[path], other, o); c != "" {
			all = append(all, c)
		}
	}
	slices.Sort(all)
	return all
}

// claimants maps each of the objects to another overlay of the fleet that renders
// it; objects that no other renders are left out.
func (b *board) claimants(fleet types.NamespacedName, path string, ids []object.ID) map[object.ID]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := map[object.ID]string{}
	f := b.fleets[fleet]
	if f == nil {
		return found
	}
	for other, o := range f.renderings {
		if other == path {
			continue
		}
		for _, id := range ids {
			if _, ok := o.claims[id]; ok && (found[id] == "" || other < found[id]) {
				found[id] = other
			}
		}
	}
	return found
}

// releasedBy reports whether an overlay's render at the present view is known not
// to hold an object, so that another may take it over.
func (b *board) releasedBy(fleet types.NamespacedName, path string, id object.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil {
		return false
	}
	if !f.view.paths[path] {
		return true
	}
	r := f.renderings[path]
	if r == nil || r.sequence != f.view.sequence || r.err != nil {
		return false
	}
	_, claimed := r.claims[id]
	return !claimed
}

// settle says whether every overlay of the fleet is rendered at the present view.
// If some are not yet, the overlay is asked again once they are; if some fail they
// are named.
func (b *board) settle(fleet types.NamespacedName, path string) (settled bool, failing []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil {
		return false, nil
	}
	failing, unsettled := f.unsettled("")
	if len(unsettled) > 0 || len(failing) > 0 {
		f.waiting[path] = true
	}
	return len(unsettled) == 0, failing
}

// unsettled lists the overlays that fail at the present view, and those that are
// not rendered at it yet. The overlay given counts as rendered.
func (f *fleetBoard) unsettled(rendered string) (failing, unsettled []string) {
	for path := range f.view.paths {
		r := f.renderings[path]
		switch {
		case path == rendered:
		case r == nil || r.sequence != f.view.sequence:
			unsettled = append(unsettled, path)
		case r.err != nil:
			failing = append(failing, path)
		}
	}
	slices.Sort(failing)
	slices.Sort(unsettled)
	return failing, unsettled
}

// pathOf returns the directory of an overlay of a fleet by the overlay's name.
func (v *view) pathOf(fleet, overlay string) string {
	for path := range v.paths {
		if OverlayName(fleet, path) == overlay {
			return path
		}
	}
	return ""
}

// claimed reports whether any overlay renders an object.
func (f *fleetBoard) claimed(id object.ID) bool {
	for _, r := range f.renderings {
		if _, ok := r.claims[id]; ok {
			return true
		}
	}
	return false
}

// leavingWhole counts the overlays of a fleet that are about to lose everything.
// A directory that was only renamed doesn't count: others render its objects.
func (b *board) leavingWhole(fleet types.NamespacedName) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil {
		return 0
	}
	n := 0
	for _, ids := range f.view.leaving {
		if slices.ContainsFunc(ids, func(id object.ID) bool { return !f.claimed(id) }) {
			n++
		}
	}
	for _, r := range f.renderings {
		if r.err == nil && len(r.claims) == 0 {
			n++
		}
	}
	return n
}

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
	for other, r := range f.renderings {
		if other == path {
			continue
		}
		for id := range r.claims {
			if id.Namespace != "" && (used[id.Namespace] == "" || other < used[id.Namespace]) {
				used[id.Namespace] = other
			}
		}
	}
	return used
}
