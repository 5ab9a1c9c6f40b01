package agent

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

// view is what the fleet reconciler has found out about a fleet: one commit and
// everything else that overlays are rendered from. It never changes once
// published.
type view struct {
	// sequence numbers the views: two of the same number render alike.
	sequence int64
	revision source.Revision
	tree     tree.Tree
	// paths are the overlays of the commit, which was searched with search. unfollowed
	// says that there would be others, which can't be overlays.
	paths      map[string]bool
	search     render.DiscoverInput
	unfollowed bool
	// substitution is nil if the Fleet declares none.
	substitution *render.Substitution
	// serviceAccount is the identity to act under; "" is the agent's own.
	serviceAccount string
	maxClusters    int
	suspended      bool
	// leaving are the overlays that have lost their directory and are not approved to
	// go, with what they own, as far as the cache knows.
	leaving map[string][]object.ID
	// adopted are live objects that carry the labels of overlays whose inventory
	// was empty when the view was made, by name of the overlay.
	adopted map[string][]v1alpha1.ObjectReference
	// scanned are the overlays that such a look has covered.
	scanned map[types.UID]bool
	// since is when the commit can have come into Git at the earliest.
	since time.Time
	// secrets holds the values of variables that come from Secrets, nil if none do.
	secrets *unstructured.Unstructured
}

// sameInputs reports whether overlays render and are handled alike at two views.
func (v *view) sameInputs(next *view) bool {
	if v == nil || v.revision != next.revision || !v.sameSettings(next) || !maps.Equal(v.paths, next.paths) {
		return false
	}
	if v.substitution == nil || next.substitution == nil {
		return v.substitution == next.substitution
	}
	return maps.Equal(v.substitution.Values, next.substitution.Values)
}

// sameSettings reports whether two views differ in nothing that concerns every
// overlay, whatever it renders.
func (v *view) sameSettings(next *view) bool {
	return v.suspended == next.suspended && v.serviceAccount == next.serviceAccount && v.maxClusters == next.maxClusters
}

// claim is an object that an overlay renders.
type claim struct {
	ref    v1alpha1.ObjectReference
	digest string
	// shareable marks a Namespace: overlays may render the same one.
	shareable bool
}

// cluster returns the Cluster that an overlay renders, nil if there is none or it
// isn't known.
func (r *rendering) cluster() *object.ID {
	if r == nil {
		return nil
	}
	for id := range r.claims {
		if capi.IsCluster(id.GroupKind()) {
			return &id
		}
	}
	return nil
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
	// digest stands for all rendered objects.
	digest string
	// desired is the commit that the overlay names as its newest change.
	desired string
}

// same reports whether a rendering is no news to anybody.
func (r *rendering) same(next *rendering) bool {
	return r != nil && r.sequence == next.sequence && r.digest == next.digest && (r.err == nil) == (next.err == nil)
}

// board is the agent's memory of all fleets. Everything on it can be rebuilt from
// Git and the custom resources. It is safe for concurrent use.
type board struct {
	mu     sync.Mutex
	fleets map[types.NamespacedName]*fleetBoard
	// sequence is that of the newest view of any fleet. A fleet that is deleted and
	// made anew must not get the numbers of its former life.
	sequence int64
	// enqueue asks for a reconciliation of an overlay.
	enqueue func(overlay types.NamespacedName)
	// settled, if set, is told of a fleet whose overlays are all rendered now.
	settled func(fleet types.NamespacedName)
}

type fleetBoard struct {
	view *view
	// tip is the commit that the tracked ref named last; problem says why there is no
	// view of it, "" if there is.
	tip, problem string
	// announced is the newest commit that changed an input of any overlay, "" before the
	// first view. A Fleet's record may be read too old, or fail to be written; this is not.
	announced string
	// sightings bound when the tip can have come into Git.
	sightings sightings

	renderings map[string]*rendering
	// claimedBy lists, by object, the overlays whose renderings claim it.
	claimedBy map[object.ID][]string
	// waiting are overlays that wait until all others are rendered; since says from
	// when on those of them do that have something to delete.
	waiting map[string]bool
	since   map[string]time.Time
	// created are the overlays that the agent has made itself, by path. What they
	// owned before is in the view that was published just before.
	created map[string]types.UID
	// owned lists, by path, what overlays own and are not approved to lose, also those
	// that have lost their directory. Who has said nothing of that yet may lack.
	owned map[string][]object.ID
}

func newFleetBoard() *fleetBoard {
	return &fleetBoard{
		renderings: map[string]*rendering{}, claimedBy: map[object.ID][]string{}, waiting: map[string]bool{},
		since: map[string]time.Time{}, created: map[string]types.UID{}, owned: map[string][]object.ID{},
	}
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
		f = newFleetBoard()
	}
	previous := f.view
	same := previous.sameInputs(next)
	concerned := map[string]bool{}
	var held []*rendering
	for path := range next.paths {
		r := f.renderings[path]
		if r == nil || r.sequence != previous.sequence {
			// Never rendered, or a render of an older view may be under way: it would
			// be applied although this view says something else.
			concerned[path] = true
			continue
		}
		holds := same
		if !same {
			var err error
			if holds, err = r.holdsFor(next, digester); err != nil {
				return nil, fmt.Errorf("compare the inputs of %s with %s: %w", path, next.revision, err)
			}
		}
		if !holds {
			concerned[path] = true
			continue
		}
		held = append(held, r)
	}
	if previous != nil {
		all := !previous.sameSettings(next)
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
	if same {
		next.sequence = previous.sequence
	} else {
		b.sequence++
		next.sequence = b.sequence
	}
	for _, r := range held {
		r.sequence = next.sequence
	}
	f.view = next
	f.dropGone(concerned)
	b.fleets[fleet] = f
	return slices.Sorted(maps.Keys(concerned)), nil
}

// dropGone forgets the overlays whose directories are gone. Who collided or shared
// with one is concerned, and who waited for one if that was the last.
func (f *fleetBoard) dropGone(concerned map[string]bool) {
	gone := func(path string) bool { return !f.view.paths[path] }
	maps.DeleteFunc(f.owned, func(path string, _ []object.ID) bool {
		_, leaving := f.view.leaving[path]
		return gone(path) && !leaving
	})
	for path, ids := range f.view.leaving {
		if _, told := f.owned[path]; !told { // what an overlay has told is newer than the cache
			f.owned[path] = ids
		}
	}
	for path, r := range f.renderings {
		if !gone(path) {
			continue
		}
		for _, other := range f.neighbours(path, r) {
			concerned[other] = true
		}
		f.store(path, nil)
	}
	f.wake(concerned)
}

// wake adds those that wait until all overlays are rendered, if they are.
func (f *fleetBoard) wake(concerned map[string]bool) {
	if len(f.waiting) == 0 {
		return
	}
	if !f.settled() {
		return
	}
	for path := range f.waiting {
		concerned[path] = true
	}
	clear(f.waiting)
	clear(f.since)
}

// covered reports whether the agent has made an overlay itself.
func (b *board) covered(fleet types.NamespacedName, path string, overlay types.UID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	return f != nil && f.created[path] == overlay
}

// cover notes that the agent has made an overlay.
func (b *board) cover(fleet types.NamespacedName, path string, overlay types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.fleets[fleet]; f != nil {
		f.created[path] = overlay
	}
}

// uncover forgets the overlays that the agent has made for other paths than these.
func (b *board) uncover(fleet types.NamespacedName, paths map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.fleets[fleet]; f != nil {
		maps.DeleteFunc(f.created, func(path string, _ types.UID) bool { return !paths[path] })
	}
}

// own notes what an overlay owns and is not approved to lose. If that makes one less
// that is about to lose everything, those that wait are asked again: it may have been
// one too many.
func (b *board) own(fleet types.NamespacedName, path string, ids []object.ID) {
	woken := map[string]bool{}
	defer b.ask(fleet, woken) // once unlocked
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil {
		return
	}
	before := f.leavesWhole(path)
	f.owned[path] = ids
	if before && !f.leavesWhole(path) {
		f.wake(woken)
	}
}

// ask asks for a reconciliation of overlays of a fleet.
func (b *board) ask(fleet types.NamespacedName, paths map[string]bool) {
	for path := range paths {
		b.enqueue(types.NamespacedName{Namespace: fleet.Namespace, Name: planner.OverlayName(fleet.Name, path)})
	}
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
// objects, before or now, are asked to look again, and so are those that waited
// for this one. If the view has changed meanwhile, and the render doesn't hold for
// it, so is this one.
func (b *board) rendered(fleet types.NamespacedName, path string, r *rendering, digester object.Digester) {
	b.mu.Lock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil || !f.view.paths[path] {
		b.mu.Unlock()
		return
	}
	touched := map[string]bool{}
	if r.sequence != f.view.sequence {
		if holds, err := r.holdsFor(f.view, digester); err == nil && holds {
			r.sequence = f.view.sequence
		} else {
			touched[path] = true
		}
	}
	previous := f.renderings[path]
	for _, other := range f.neighbours(path, previous, r) {
		if o := f.renderings[other]; relation(path, r, other, o) != relation(path, previous, other, o) {
			touched[other] = true
		}
	}
	f.store(path, r)
	if !previous.same(r) { // else those who wait and render each time would wake each other for ever
		f.wake(touched)
	}
	settled := f.settled()
	b.mu.Unlock()
	if settled && b.settled != nil {
		b.settled(fleet)
	}
	b.ask(fleet, touched)
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
	failing, unsettled := f.unsettled()
	if len(unsettled) > 0 || len(failing) > 0 {
		f.waiting[path] = true
	}
	return len(unsettled) == 0, failing
}

// waits says which overlays have not been rendered at the present view yet, and for
// how long an overlay with something to delete has waited for that.
func (b *board) waits(fleet types.NamespacedName, path string, now time.Time) (time.Duration, []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil {
		return 0, nil
	}
	_, unsettled := f.unsettled()
	if len(unsettled) == 0 {
		return 0, nil
	}
	if f.since[path].IsZero() {
		f.since[path] = now
	}
	return now.Sub(f.since[path]), unsettled
}

// settled reports whether all overlays are rendered at the present view, or fail to.
func (f *fleetBoard) settled() bool {
	for path := range f.view.paths {
		if r := f.renderings[path]; r == nil || r.sequence != f.view.sequence {
			return false
		}
	}
	return true
}

// unsettled lists the overlays that fail at the present view, and those that are
// not rendered at it yet.
func (f *fleetBoard) unsettled() (failing, unsettled []string) {
	for path := range f.view.paths {
		r := f.renderings[path]
		switch {
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
		if planner.OverlayName(fleet, path) == overlay {
			return path
		}
	}
	return ""
}
