package agent

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/source"
)

// outlook is what is known of a fleet's newest commit, for the forge to be told.
type outlook struct {
	// tip is the commit of the tracked ref that was read last; "" before the first.
	tip string
	// problem says why the tip can't be looked at, "" if it can.
	problem string
	// paths are the overlays of the tip, or of the commit before while there is a
	// problem.
	paths map[string]bool
	// rendered says that all of them are rendered at the tip; desired has, by name of
	// the overlay, the commit that changed it last, as far as rendered.
	rendered bool
	desired  map[string]string
}

// settled says that it is known which overlays the tip touches.
func (o *outlook) settled(fleet string, overlays []v1alpha1.ClusterOverlay) bool {
	if !o.rendered {
		return false
	}
	there := 0
	for i := range overlays {
		overlay := &overlays[i]
		switch {
		case overlay.Name != planner.OverlayName(fleet, overlay.Spec.Path):
		case o.paths[overlay.Spec.Path]:
			there++
		case overlay.Status.InputsDigest != "":
			return false // its directory is gone, and it has not taken note of that yet
		}
	}
	return there == len(o.paths) // else the cache doesn't show one that was made just now
}

// current says that it is known which overlays the tip touches, and that the overlays
// given say so, too.
func (o *outlook) current(fleet string, overlays []v1alpha1.ClusterOverlay) bool {
	for i := range overlays {
		if hash := o.desired[overlays[i].Name]; hash != "" && hash != commitstatus.Hash(overlays[i].Status.DesiredRevision) {
			return false
		}
	}
	return o.settled(fleet, overlays)
}

// fleet returns what is known of a fleet, of which nothing may be known yet. The board is
// locked.
func (b *board) fleet(name types.NamespacedName) *fleetBoard {
	f := b.fleets[name]
	if f == nil {
		f = newFleetBoard()
		b.fleets[name] = f
	}
	return f
}

// observed notes the commit that the tracked ref names, and why it can't be looked
// at.
func (b *board) observed(fleet types.NamespacedName, revision source.Revision, problem string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleet(fleet)
	f.tip, f.problem = revision.Hash, problem
}

// announce notes the newest commit that changed an input of any overlay.
func (b *board) announce(fleet types.NamespacedName, revision source.Revision) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fleet(fleet).announced = revision.String()
}

// announced returns the commit that was announced last; "" if none was since the start.
func (b *board) announced(fleet types.NamespacedName) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.fleets[fleet]; f != nil {
		return f.announced
	}
	return ""
}

// sightings bound when a tip can have come into Git.
type sightings struct {
	// tip is the commit that was found last, since when it can have been there.
	tip   string
	since time.Time
	// looked is when the last look began.
	looked time.Time
}

// sight notes a look at Git that began at looked, and returns when the commit that it
// found can have come there at the earliest: the commit's own time, but not before the
// last look that found another, and not after this one. Before the first look since the
// start of the agent, made is the bound: the Fleet's own age.
func (b *board) sight(fleet types.NamespacedName, s *source.Snapshot, made, looked, now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := &b.fleet(fleet).sightings
	if last.tip != s.Revision.Hash {
		earliest := last.looked
		if earliest.IsZero() {
			earliest = made
		}
		last.tip, last.since = s.Revision.Hash, s.Time
		if last.since.Before(earliest) {
			last.since = earliest
		}
		if last.since.After(now) {
			last.since = now
		}
	}
	last.looked = looked
	return last.since
}

// outlook returns what is known of a fleet's newest commit.
func (b *board) outlook(fleet types.NamespacedName) outlook {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil {
		return outlook{}
	}
	o := outlook{tip: f.tip, problem: f.problem, desired: map[string]string{}}
	if f.view == nil {
		return o
	}
	o.paths = f.view.paths
	o.rendered = f.settled() && f.view.revision.Hash == f.tip && f.problem == ""
	for path, r := range f.renderings {
		if r != nil && r.desired != "" {
			o.desired[planner.OverlayName(fleet.Name, path)] = r.desired
		}
	}
	return o
}

// allRendered reports whether a view is the present one, and all its overlays are
// rendered at it or fail to.
func (b *board) allRendered(fleet types.NamespacedName, v *view) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view != v {
		return false
	}
	return f.settled()
}
