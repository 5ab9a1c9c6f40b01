package agent

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/drift"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/live"
	"capstan.dev/capstan/internal/object"
)

// drifted is an object that doesn't say what was applied, or may not.
type drifted struct {
	id    object.ID
	entry *v1alpha1.InventoryEntry // in the status to be recorded
	seen  live.Seen
	was   *v1alpha1.DriftedObject // what is recorded of it, nil for news

	// suspect is true until the object was read.
	suspect bool
	examination
	// obstacle says why it can't be written now.
	obstacle string
	decision drift.Decision
	approved bool
	// recalled is true if the hash is the one on record, because it can't be examined now.
	recalled bool
}

// examination is what a look at an object has found.
type examination struct {
	findings     []v1alpha1.Finding
	consequences []capi.Consequence
	hash         string
	// refused says why the API server, or we, would not write it.
	refused string
	// of stands for the object that was looked at, version is its resource version, and at
	// is when that was.
	of, version string
	at          time.Time
}

// takenRetry is how often an object is looked at that a controller has taken a field of.
// What it says there next is no news that a watch tells: Git's value may be back.
const takenRetry = 10 * time.Minute

// taken tells whether a controller has changed what Git declares.
func (x examination) taken() bool {
	return slices.ContainsFunc(x.findings, func(f v1alpha1.Finding) bool {
		return f.Class == v1alpha1.FindingChanged && f.Writer.Class == string(capi.ManagerController)
	})
}

// stale tells whether an examination is too old to be gone by.
func (run *driftRun) stale(d *drifted, x examination) bool {
	if !x.taken() {
		return false
	}
	rest := x.at.Add(takenRetry).Sub(run.clock.Now())
	if rest <= 0 && d.seen.ResourceVersion != x.version {
		return true
	}
	if rest <= 0 {
		rest = takenRetry
	}
	run.again(rest)
	return false
}

// judgeDriftStep compares what the watches have seen with what is recorded. It sends
// nothing.
func judgeDriftStep(_ context.Context, run *driftRun) error {
	was := map[object.ID]*v1alpha1.DriftedObject{}
	for i := range run.status.Drift {
		was[inventory.IDOf(run.status.Drift[i].ObjectReference)] = &run.status.Drift[i]
	}
	for _, d := range run.examined.unlisted(run.name) {
		was[inventory.IDOf(d.ObjectReference)] = &d
	}
	seen := run.objects.Seen(run.name)
	for i := range run.status.Inventory {
		e := &run.status.Inventory[i]
		id := inventory.IDOf(e.ObjectReference)
		d := &drifted{id: id, entry: e, seen: seen[id], was: was[id]}
		ours, known := run.ours(e)
		switch {
		case !ours:
		case !known:
			run.keep(d) // what tells asks for another look
		case !d.seen.Known:
			if why := d.seen.Why; why == "" {
				run.late = true
			} else if run.blind == "" || why < run.blind {
				run.blind = why
			}
			run.keep(d)
		case older(d.seen.ResourceVersion, e.ResourceVersion):
			run.late = true
			run.again(clusterRetry) // of a newer version that looks the same nothing is told
			run.keep(d)
		case d.seen.Deleting:
			d.findings = []v1alpha1.Finding{{Class: v1alpha1.FindingMissing, To: `"being deleted"`}}
			d.obstacle = "it is being deleted; it can be applied again when it is gone"
			run.drifted = append(run.drifted, d)
		case d.seen.Present && run.remade(d, d.seen.Sight):
			run.overwrote(e, d.was.Findings)
			e.UID, e.ResourceVersion = d.seen.UID, d.seen.ResourceVersion
		case !d.seen.Present || d.seen.UID != e.UID || !d.seen.Sight.Is(e.StateDigest, run.digester, id.GroupKind(), run.fleet.Spec.Drift.Ignore):
			d.suspect = true
			run.drifted = append(run.drifted, d)
		default:
			if interrupted(d) {
				run.overwrote(e, d.was.Findings)
			}
			if d.findings = drift.Foreign(id.GroupKind(), d.seen.Sight, run.fleet.Spec.Drift.Ignore); len(d.findings) > 0 {
				run.drifted = append(run.drifted, d)
			}
		}
	}
	return nil
}

// ours tells whether an object is one to look at: applied, and not on its way in or out.
// One of the overlays that share a Namespace looks at it; known is false if that may be
// this one.
func (run *driftRun) ours(e *v1alpha1.InventoryEntry) (ours, known bool) {
	id := inventory.IDOf(e.ObjectReference)
	switch e.State {
	case v1alpha1.EntryApplied:
		// It may come to be shared just now.
		return true, !isNamespace(*e) || len(run.board.claimants(run.fleetName, run.overlay.Spec.Path, []object.ID{id})) == 0
	case v1alpha1.EntryShared:
		tends, known := run.board.tends(run.fleetName, run.overlay.Spec.Path, id, e.Digest)
		return tends || !known, known
	case v1alpha1.EntryIntent, v1alpha1.EntryLeaving, v1alpha1.EntryRetained:
	}
	return false, true
}

// remade tells whether an object that was missing is there again as it was applied, by an
// interrupted correction.
func (run *driftRun) remade(d *drifted, now drift.Sight) bool {
	return interrupted(d) && isMissing(d.was.Findings) &&
		d.entry.StateDigest != "" && now.Is(d.entry.StateDigest, run.digester, d.id.GroupKind(), run.fleet.Spec.Drift.Ignore)
}

// isMissing tells whether findings are those of an object that isn't there.
func isMissing(findings []v1alpha1.Finding) bool {
	return slices.ContainsFunc(findings, func(f v1alpha1.Finding) bool { return f.Class == v1alpha1.FindingMissing })
}

// interrupted tells whether what became of a correction is not on record: the agent was
// killed, or lost a race for the status. It may have been made.
func interrupted(d *drifted) bool {
	return d.was != nil && d.was.Action == v1alpha1.DriftCorrecting
}

// keep leaves what is recorded of an object that can't be judged now.
func (run *driftRun) keep(d *drifted) {
	if d.was != nil {
		d.findings = d.was.Findings
		d.obstacle = "it can't be seen now"
		run.drifted = append(run.drifted, d)
	}
}

// older reports whether one version of an object is before another. It is false if
// either is unknown.
func older(version, than string) bool {
	a, errA := strconv.ParseUint(version, 10, 64)
	b, errB := strconv.ParseUint(than, 10, 64)
	return errA == nil && errB == nil && a < b
}

// examinations remembers what was found of objects that stay drifted, so that each
// state of theirs is read once.
type examinations struct {
	mu    sync.Mutex
	found map[types.NamespacedName]map[object.ID]remembered
	// beyond has the records that a status has no room for.
	beyond map[types.NamespacedName][]v1alpha1.DriftedObject
}

func newExaminations() *examinations {
	return &examinations{
		found:  map[types.NamespacedName]map[object.ID]remembered{},
		beyond: map[types.NamespacedName][]v1alpha1.DriftedObject{},
	}
}

type remembered struct {
	state string
	examination
}

// state stands for everything that a look at an object depends on.
func (run *driftRun) state(d *drifted) string {
	foreign, err := json.Marshal(d.seen.Sight.Foreign)
	if err != nil {
		return "" // it holds nothing but texts
	}
	return run.digester.Strings(string(d.seen.UID), strconv.FormatBool(d.seen.Present), d.seen.Sight.Digest(run.digester), string(d.seen.Sight.Others[:]), string(d.seen.Sight.Said[:]), string(foreign),
		d.entry.Digest, d.entry.StateDigest, string(d.entry.UID), strconv.FormatInt(run.fleet.Generation, 10))
}

func (x *examinations) get(overlay types.NamespacedName, id object.ID, state string) (examination, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r, found := x.found[overlay][id]
	return r.examination, found && r.state == state
}

// drop forgets what was found of an object.
func (x *examinations) drop(overlay types.NamespacedName, id object.ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.found[overlay], id)
}

// set remembers what was found of an overlay's objects, and nothing of others.
func (x *examinations) set(overlay types.NamespacedName, found map[object.ID]remembered) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(found) == 0 {
		delete(x.found, overlay)
		return
	}
	x.found[overlay] = found
}

// unlist remembers the records that an overlay's status has no room for, so that what was
// told of them is not told again.
func (x *examinations) unlist(overlay types.NamespacedName, list []v1alpha1.DriftedObject) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(list) == 0 {
		delete(x.beyond, overlay)
		return
	}
	x.beyond[overlay] = list
}

// unlisted returns what unlist was given last.
func (x *examinations) unlisted(overlay types.NamespacedName) []v1alpha1.DriftedObject {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.beyond[overlay])
}

func (x *examinations) forget(overlay types.NamespacedName) {
	x.set(overlay, nil)
	x.unlist(overlay, nil)
}
