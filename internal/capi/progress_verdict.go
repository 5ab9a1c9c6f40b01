package capi

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// weight is how much a finding blocks.
type weight int

const (
	// stuck: a controller says that it can't go on.
	stuck weight = iota
	// own: controllers are at work on it.
	own
	// person: nothing happens until a person acts.
	person
	// derived: it follows from something else, which usually is found as well.
	derived
)

// A finding is a reason why an object has not converged.
type finding struct {
	weight weight
	text   string
	// machines says that it is about the object's machines, which are reported by role.
	machines bool
	// late says that it can't be otherwise until the machines are there.
	late bool
	// sum says that it is what Machines say, or others say of them, added up by a controller
	// that looks at them once a second: it is out of date once they say something else.
	sum bool
}

// A verdict is all that keeps an object from having converged.
type verdict struct {
	findings []finding
}

// reported is a verdict with what it is about.
type reported struct {
	id object.ID
	*verdict
}

func (v *verdict) add(w weight, format string, args ...any) {
	v.findings = append(v.findings, finding{weight: w, text: fmt.Sprintf(format, args...)})
}

// phase of an object.
func (v *verdict) phase() v1alpha1.Phase { return phaseOf(v.findings) }

// phaseOf: what a controller gives up on comes first, then what is at work, then what waits
// for a person; what only follows from something else says the least.
func phaseOf(findings []finding) v1alpha1.Phase {
	if len(findings) == 0 {
		return v1alpha1.PhaseConverged
	}
	switch slices.MinFunc(findings, func(a, b finding) int { return int(a.weight - b.weight) }).weight {
	case stuck:
		return v1alpha1.PhaseStalled
	case person:
		return v1alpha1.PhaseWaiting
	default:
		return v1alpha1.PhaseProgressing
	}
}

// overall is the phase of all verdicts together.
func overall(all []reported) v1alpha1.Phase {
	var findings []finding
	for _, r := range all {
		findings = append(findings, r.findings...)
	}
	return phaseOf(findings)
}

// trails tells whether there is something that keeps an overlay from having converged, and
// it is sums alone.
func trails(all []reported) bool {
	found := false
	for _, r := range all {
		for _, f := range r.findings {
			if !f.sum {
				return false
			}
			found = true
		}
	}
	return found
}

// sorted are the findings, the most blocking first.
func (v *verdict) sorted() []finding {
	return slices.SortedStableFunc(slices.Values(v.findings), func(a, b finding) int { return int(a.weight - b.weight) })
}

// message quotes the most blocking finding, with all of the same weight.
func (v *verdict) message() string {
	var texts []string
	for _, f := range v.sorted() {
		if f.weight != v.sorted()[0].weight || f.weight == derived && len(texts) > 0 {
			break
		}
		texts = append(texts, f.text)
	}
	return strings.Join(texts, "; ")
}

// softened makes what is at work wait for a person, as in a paused Cluster.
func (v *verdict) softened(why string) {
	if len(v.findings) == 0 {
		return
	}
	v.findings = slices.DeleteFunc(v.findings, func(f finding) bool {
		return f.weight == own && !f.machines || f.weight == person
	})
	for i := range v.findings {
		if v.findings[i].weight == own {
			v.findings[i].weight = derived
		}
	}
	v.findings = append(v.findings, finding{weight: person, text: why, machines: why != selfPaused})
}

// later marks what was found since as late.
func (v *verdict) later(since int) {
	for i := since; i < len(v.findings); i++ {
		v.findings[i].late = true
	}
}

// sums marks what was found since as sums.
func (v *verdict) sums(since int) {
	for i := since; i < len(v.findings); i++ {
		v.findings[i].sum = true
	}
}

// observed: a controller has looked at the present specification.
func (v *verdict) observed(u *unstructured.Unstructured) {
	if !observed(u) {
		v.add(own, "waits for its controller")
	}
}

func observed(u *unstructured.Unstructured) bool {
	generation, known := count(u, "status", "observedGeneration")
	return known && generation >= u.GetGeneration()
}

// must: the condition is True.
func (v *verdict) must(w weight, u *unstructured.Unstructured, kind string) {
	c := conditionOf(u, kind)
	switch {
	case c == nil:
		v.add(derived, "has no condition %s yet", kind)
	case c.status != "True":
		v.add(w, "%s", c.quote())
	}
}

// mayBe: the condition is True or missing.
func (v *verdict) mayBe(w weight, u *unstructured.Unstructured, kinds ...string) {
	for _, kind := range kinds {
		if c := conditionOf(u, kind); c != nil && c.status != "True" {
			v.add(w, "%s", c.quote())
		}
	}
}

// notFalse: the condition may be missing or Unknown.
func (v *verdict) notFalse(w weight, u *unstructured.Unstructured, kinds ...string) {
	for _, kind := range kinds {
		if c := conditionOf(u, kind); c != nil && c.status == "False" {
			v.add(w, "%s", c.quote())
		}
	}
}

// mustNot: the conditions are not True.
func (v *verdict) mustNot(u *unstructured.Unstructured, kinds ...string) {
	for _, kind := range kinds {
		if c := conditionOf(u, kind); c != nil && c.status == "True" {
			v.add(derived, "%s", c.quote())
		}
	}
}

// replicas: the counters have reached the number; one that is missing counts as 0.
func (v *verdict) replicas(u *unstructured.Unstructured, want int64, counters ...[]string) {
	for _, path := range counters {
		if n, _ := count(u, path...); n != want {
			v.add(derived, "%s is %d of %d", strings.Join(path, "."), n, want)
		}
	}
}

// is: the field is true.
func (v *verdict) is(u *unstructured.Unstructured, path ...string) {
	if is, _, err := unstructured.NestedBool(u.Object, path...); err != nil || !is {
		v.add(derived, "%s is not true yet", strings.Join(path, "."))
	}
}

// failed: a controller has written down that it has given up.
func (v *verdict) failed(u *unstructured.Unstructured) {
	if text := failure(u); text != "" {
		v.add(stuck, "has failed: %s", text)
	}
}

// failure is what the fields failureReason and failureMessage of the contract v1beta1 say,
// and where v1beta2 keeps them.
func failure(u *unstructured.Unstructured) string {
	for _, path := range [][]string{{"status"}, {"status", "deprecated", "v1beta1"}} {
		reason := plain(nested(u, append(slices.Clone(path), "failureReason")...))
		message := plain(nested(u, append(slices.Clone(path), "failureMessage")...))
		switch {
		case reason != "" && message != "":
			return reason + ": " + message
		case reason+message != "":
			return reason + message
		}
	}
	return ""
}
