package drift

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// How often somebody's change is written over before it is a fight, how long the next
// correction then waits, and when all is forgotten.
const (
	// PersonCorrections are made at once, one after another, against people, former
	// owners, and those of whom nothing is known; PersonEdits if the last correction was of
	// other fields: then somebody works on the object, and nobody insists.
	PersonCorrections = 3
	PersonEdits       = 10
	// PersonPause is how long the next one waits; it doubles up to PersonPauseMax.
	PersonPause    = 10 * time.Second
	PersonPauseMax = 10 * time.Minute
	// UnknownCorrections, UnknownPause and UnknownPauseMax are the same for managers that
	// are not known: they may be controllers.
	UnknownCorrections = 1
	UnknownPause       = 10 * time.Minute
	UnknownPauseMax    = 6 * time.Hour
	// Quiet is how long nothing has to be corrected, after the last pause is over, for
	// the count to start anew.
	Quiet = time.Hour
)

// maxRemembered is how many findings a Correction has room for.
const maxRemembered = 5

// pause is how long the next correction, of these findings, waits after the last one.
func pause(last *v1alpha1.Correction, findings []v1alpha1.Finding) time.Duration {
	free, first, most := int32(PersonCorrections), PersonPause, PersonPauseMax
	lost := last.Findings
	if len(lost) == 0 { // no longer known
		lost = findings
	}
	switch {
	case len(unknownWriters(lost)) > 0:
		free, first, most = UnknownCorrections, UnknownPause, UnknownPauseMax
	case !sameFields(lost, findings):
		free = PersonEdits
	}
	if last.Count < free {
		return 0
	}
	wait := first
	for range last.Count - free {
		if wait *= 2; wait >= most {
			return most
		}
	}
	return min(wait, most)
}

// sameFields tells whether two sets of findings are about a field that both have, what
// Git doesn't declare left aside.
func sameFields(a, b []v1alpha1.Finding) bool {
	return slices.ContainsFunc(a, func(x v1alpha1.Finding) bool {
		return x.Class != v1alpha1.FindingForeign && slices.ContainsFunc(b, func(y v1alpha1.Finding) bool {
			return y.Class != v1alpha1.FindingForeign && (within(x.Field, y.Field) || within(y.Field, x.Field))
		})
	})
}

// Forgotten tells whether the last correction is so long ago that it doesn't count.
func Forgotten(last *v1alpha1.Correction, now time.Time) bool {
	return last == nil || now.Sub(last.Time.Time) > pause(last, last.Findings)+Quiet
}

// Remember returns the list with a correction that was made now, at its head: each object
// once, the newest first. Last is the object's last correction, nil if there is none on
// record: the count goes on from it, or starts anew after a quiet time.
func Remember(list []v1alpha1.Correction, c v1alpha1.Correction, last *v1alpha1.Correction, now time.Time) []v1alpha1.Correction {
	c.Time, c.Count = metav1.NewTime(now).Rfc3339Copy(), 1
	if !Forgotten(last, now) {
		c.Count = last.Count + 1
	}
	c.Findings = slices.Clone(c.Findings[:min(len(c.Findings), maxRemembered)])
	kept := make([]v1alpha1.Correction, 1, len(list)+1)
	kept[0] = c
	for _, other := range list {
		if !sameObject(other.ObjectReference, c.ObjectReference) {
			kept = append(kept, other)
		}
	}
	return kept
}

// sameObject compares identities: an object that was made anew is the same to those who
// fight over it.
func sameObject(a, b v1alpha1.ObjectReference) bool {
	return a.Group == b.Group && a.Kind == b.Kind && a.Namespace == b.Namespace && a.Name == b.Name
}

// unknownWriters lists the managers that are not known and have changed what Git
// declares, each once, sorted.
func unknownWriters(findings []v1alpha1.Finding) []string {
	return managersOf(findings, capi.ManagerUnknown)
}

// managersOf lists the managers of a class that have changed what Git declares, each
// once, sorted.
func managersOf(findings []v1alpha1.Finding, class capi.ManagerClass) []string {
	var names []string
	for _, f := range findings {
		if f.Class != v1alpha1.FindingForeign && f.Writer.Manager != "" && f.Writer.Class == string(class) {
			names = append(names, f.Writer.Manager)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
