package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
)

// waitFor is what a wait is for.
type waitFor struct {
	// targets are fleet/NAME, or overlays by path or name; none stands for all Fleets.
	targets []string
	// revision is the beginning of a commit that has to be reached; "" for what is desired.
	revision string
	// early says that the agent may not have come yet to what was observed just before the
	// wait began: a failure of another revision may be one of before.
	early bool
}

// fleetWorld is what a wait sees: Fleets and overlays.
type fleetWorld struct {
	fleets   map[client.ObjectKey]*v1alpha1.Fleet
	overlays map[client.ObjectKey]*v1alpha1.ClusterOverlay
	// gone are the overlays and Fleets that were deleted during the wait, by all names that
	// a target may have.
	gone map[string]bool
}

func newFleetWorld() fleetWorld {
	return fleetWorld{
		fleets: map[client.ObjectKey]*v1alpha1.Fleet{}, overlays: map[client.ObjectKey]*v1alpha1.ClusterOverlay{}, gone: map[string]bool{},
	}
}

// verdict is what a wait makes of what it sees.
type verdict struct {
	// lines say how everything that was chosen stands: first what is missing, then Fleets,
	// then overlays in the order of the tables.
	lines []verdictLine
	// waiting, failed and done count the lines by what they mean.
	waiting, failed, done int
}

type verdictLine struct {
	key, text string
	outcome   outcome
}

type outcome int

// The outcomes.
const (
	outcomeWaiting outcome = iota
	outcomeDone
	// outcomeFailed: it won't converge unless somebody does something.
	outcomeFailed
)

// judge says how far the targets are.
func (f waitFor) judge(w fleetWorld) verdict {
	var v verdict
	add := func(key string, is outcome, text string) {
		v.lines = append(v.lines, verdictLine{key: key, text: key + ": " + text, outcome: is})
		switch is {
		case outcomeWaiting:
			v.waiting++
		case outcomeDone:
			v.done++
		case outcomeFailed:
			v.failed++
		}
	}
	fleets, overlays, missing := f.chosen(w)
	for _, target := range missing {
		switch {
		case w.gone[overlayTarget(target)]:
			add(target, outcomeFailed, "deleted meanwhile")
		case f.revision != "":
			add(target, outcomeWaiting, "there is no such overlay or Fleet yet")
		default:
			add(target, outcomeFailed, "there is no such overlay or Fleet")
		}
	}
	several := len(w.fleets) > 1
	for _, key := range fleets {
		is, text := f.judgeFleet(w.fleets[key], w)
		if text != "" {
			add("fleet/"+nameOf(key, several), is, text)
		}
	}
	for _, key := range overlays {
		o := w.overlays[key]
		is, text := f.judgeOverlay(o, w.fleets[fleetOf(o)])
		name := o.Spec.Path
		if several {
			name = nameOf(fleetOf(o), true) + " " + name
		}
		add(name, is, text)
	}
	return v
}

func nameOf(key client.ObjectKey, full bool) string {
	if full {
		return key.String()
	}
	return key.Name
}

// anyFleet stands for the Fleet that a wait without targets needs.
const anyFleet = "(no Fleet)"

// overlayTarget is a path without what doesn't count.
func overlayTarget(arg string) string {
	return strings.TrimSuffix(strings.TrimPrefix(arg, "./"), "/")
}

// chosen are the Fleets and overlays that the targets name, and the targets that name
// none.
func (f waitFor) chosen(w fleetWorld) (fleets, overlays []client.ObjectKey, missing []string) {
	byKey := func(a, b client.ObjectKey) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}
	wanted := map[client.ObjectKey]bool{}
	whole := map[client.ObjectKey]bool{}
	if len(f.targets) == 0 {
		for key := range w.fleets {
			whole[key] = true
		}
		if len(whole) == 0 {
			missing = append(missing, anyFleet)
		}
	}
	for _, target := range f.targets {
		found := false
		if name, ok := strings.CutPrefix(target, fleetPrefix); ok {
			for key := range w.fleets {
				if key.Name == name {
					whole[key], found = true, true
				}
			}
		} else {
			for key, o := range w.overlays {
				if o.Name == target || o.Spec.Path == overlayTarget(target) {
					wanted[key], found = true, true
				}
			}
		}
		if !found {
			missing = append(missing, target)
		}
	}
	for key, o := range w.overlays {
		if wanted[key] || whole[fleetOf(o)] {
			overlays = append(overlays, key)
		}
	}
	for key := range whole {
		fleets = append(fleets, key)
	}
	slices.SortFunc(fleets, byKey)
	slices.SortFunc(overlays, func(a, b client.ObjectKey) int {
		x, y := w.overlays[a], w.overlays[b]
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Spec.FleetRef.Name, y.Spec.FleetRef.Name),
			cmp.Compare(x.Spec.Path, y.Spec.Path), byKey(a, b))
	})
	return fleets, overlays, missing
}

// judgeFleet says whether the list of a Fleet's overlays, and what they are to be, can be
// relied on. Empty text: nothing to say of it.
func (f waitFor) judgeFleet(fleet *v1alpha1.Fleet, w fleetWorld) (outcome, string) {
	switch {
	case fleet.Spec.Suspend:
		return outcomeFailed, "suspended: Git is not looked at"
	case fleet.Status.ObservedGeneration != fleet.Generation:
		return outcomeWaiting, "the agent has not looked at it yet"
	}
	for _, kind := range []string{v1alpha1.FetchedCondition, v1alpha1.DiscoveredCondition} {
		c := meta.FindStatusCondition(fleet.Status.Conditions, kind)
		switch {
		case c == nil || c.Status == metav1.ConditionUnknown:
			return outcomeWaiting, "not " + strings.ToLower(kind) + " yet"
		case c.Status == metav1.ConditionTrue:
		case kind == v1alpha1.FetchedCondition || c.Reason == v1alpha1.TransientReason:
			return outcomeWaiting, c.Reason + ": " + c.Message // the agent goes on trying
		default:
			return outcomeFailed, c.Reason + ": " + c.Message
		}
	}
	if f.revision != "" && !f.fleetKnows(fleet) {
		for _, o := range w.overlays {
			if fleetOf(o) == client.ObjectKeyFromObject(fleet) && f.overlayKnows(o) {
				return f.judgeSettled(fleet)
			}
		}
		return outcomeWaiting, fmt.Sprintf("commit %s is not observed yet; at %s", f.revision, shortRevision(fleet.Status.ObservedRevision))
	}
	return f.judgeSettled(fleet)
}

// judgeSettled waits for the Fleet to say that every overlay has reached what was
// observed: an overlay that hasn't been looked at since still says that it is at what it
// was to be before.
func (f waitFor) judgeSettled(fleet *v1alpha1.Fleet) (outcome, string) {
	if fleet.Status.ConvergedRevision != fleet.Status.ObservedRevision {
		return outcomeWaiting, fmt.Sprintf("observed %s, converged %s",
			shortRevision(fleet.Status.ObservedRevision), shortRevision(fleet.Status.ConvergedRevision))
	}
	return outcomeDone, "converged at " + shortRevision(fleet.Status.ConvergedRevision)
}

// judgeOverlay says how far an overlay is.
func (f waitFor) judgeOverlay(o *v1alpha1.ClusterOverlay, fleet *v1alpha1.Fleet) (outcome, string) {
	state := agent.StateOf(o)
	if state == agent.StateSuspended { // by the spec, so it is so at once
		return outcomeFailed, "Suspended: nothing is written to its objects"
	}
	if fleet == nil {
		return outcomeFailed, fmt.Sprintf("there is no Fleet %s; nothing is done to its objects", fleetOf(o))
	}
	if f.revision != "" && !f.overlayKnows(o) && !f.fleetKnows(fleet) {
		return outcomeWaiting, fmt.Sprintf("commit %s has not come to it yet; it wants %s", f.revision, shortRevision(o.Status.DesiredRevision))
	}
	text := string(state)
	if p := o.Status.Progress; p != nil {
		if machines := strings.TrimPrefix(machinesText(total(p)), "-"); machines != "" {
			text += " " + machines
		}
	}
	if message := messageOf(o); message != "" {
		text += ": " + oneLine(message)
	}
	switch {
	case o.Status.ObservedGeneration != o.Generation || o.Status.DesiredRevision == "":
		return outcomeWaiting, "the agent has not looked at it yet"
	case converged(o):
		return outcomeDone, fmt.Sprintf("%s %s", state, shortRevision(o.Status.ConvergedRevision))
	case needsSomebody(o, state) && !(f.early && o.Status.DesiredRevision != fleet.Status.ObservedRevision):
		return outcomeFailed, text
	}
	return outcomeWaiting, text
}

// converged says whether an overlay is at what it is to be at, and nothing is wrong.
func converged(o *v1alpha1.ClusterOverlay) bool {
	p := o.Status.Progress
	return agent.StateOf(o) == agent.StateConverged && p != nil && p.Phase == v1alpha1.PhaseConverged &&
		o.Status.ConvergedRevision == o.Status.DesiredRevision && o.Status.ObservedGeneration == o.Generation
}

// needsSomebody says whether an overlay won't converge by itself. A failure that the
// agent takes for transient it gets over by trying again, and so do machines that have
// become worse since they had converged.
func needsSomebody(o *v1alpha1.ClusterOverlay, state agent.State) bool {
	switch state {
	case agent.StateFailed:
		for _, c := range o.Status.Conditions {
			if c.Type != v1alpha1.ReadyCondition && c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.TransientReason {
				return false
			}
		}
		return true
	case agent.StateStalled, agent.StateWaiting, agent.StatePending, agent.StateSuspended:
		return true
	case agent.StateConverged, agent.StateProgressing, agent.StateDegraded, agent.StateDeleting:
	}
	return false
}

// fleetKnows says whether it is on record that every overlay has been looked at since the
// commit came.
func (f waitFor) fleetKnows(fleet *v1alpha1.Fleet) bool {
	if f.is(fleet.Status.AppliedRevision) || f.is(fleet.Status.ConvergedRevision) {
		return true
	}
	if fleet.Status.Forge == nil {
		return false
	}
	return slices.ContainsFunc(fleet.Status.Forge.Commits, func(c v1alpha1.ReportedCommit) bool {
		return c.Overlays != nil && strings.HasPrefix(c.Commit, f.revision)
	})
}

// overlayKnows says whether the commit has been desired of an overlay.
func (f waitFor) overlayKnows(o *v1alpha1.ClusterOverlay) bool {
	return f.is(o.Status.DesiredRevision) ||
		slices.ContainsFunc(o.Status.History, func(h v1alpha1.HistoryEntry) bool { return f.is(h.Revision) })
}

// is says whether a revision is the commit that is waited for.
func (f waitFor) is(revision string) bool {
	_, hash, ok := strings.Cut(revision, "sha1:")
	return ok && strings.HasPrefix(hash, f.revision)
}

// total is the machines of both roles.
func total(p *v1alpha1.Progress) v1alpha1.MachineCounts {
	a, b := p.ControlPlane, p.Workers
	return v1alpha1.MachineCounts{
		Desired: a.Desired + b.Desired, Existing: a.Existing + b.Existing, Ready: a.Ready + b.Ready,
		UpToDate: a.UpToDate + b.UpToDate, Done: a.Done + b.Done,
	}
}
