package drift

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// maxFindings is how many findings a comparison gives.
const maxFindings = 50

// Comparison is what [Compare] looks at.
type Comparison struct {
	// Before is the live object, nil if there is none.
	Before *unstructured.Unstructured
	// After is the answer to the forced dry-run of our apply, at the same API version.
	After *unstructured.Unstructured
	// UID is that of the object that was applied, as recorded.
	UID types.UID
	// Ignore lists what the Fleet leaves to others.
	Ignore []v1alpha1.DriftIgnore
}

// Compare says in what a live object differs from what was applied, the most urgent
// first: at most 50 findings, secret material masked. What an apply would change and Git
// says nothing about, such as a new default, is none of it.
func Compare(c Comparison) []v1alpha1.Finding {
	switch {
	case c.Before == nil && c.After == nil:
		return nil
	case c.Before == nil:
		return []v1alpha1.Finding{{Class: v1alpha1.FindingMissing}}
	case c.After == nil || object.IDOf(c.Before) != object.IDOf(c.After):
		return nil
	}
	w := newWork(c)
	findings := w.changed()
	if c.UID != "" && c.Before.GetUID() != "" && c.Before.GetUID() != c.UID {
		findings = append(findings, v1alpha1.Finding{Class: v1alpha1.FindingRecreated, Writer: w.writers.creator()})
	} else {
		findings = append(findings, w.lost()...)
	}
	findings = append(findings, w.foreign()...)
	slices.SortStableFunc(findings, compareFindings)
	return findings[:min(len(findings), maxFindings)]
}

// work is a comparison under way.
type work struct {
	Comparison
	entries   []entry
	ownership capi.Ownership
	rules     rules
	writers   writers
	// inBefore and inAfter are the fields that we have applied: those still ours, and
	// all. Declared is the set of the latter.
	inBefore, inAfter []owned
	declared          set
	// told are the fields of Before that findings are about.
	told []string
	// all is set if it isn't known what we have applied: everything counts.
	all bool
	// maskedBefore and maskedAfter are for showing.
	maskedBefore, maskedAfter *unstructured.Unstructured
}

func newWork(c Comparison) *work {
	w := &work{Comparison: c, entries: entriesOf(c.Before)}
	w.ownership = capi.OwnershipOf(c.Before)
	w.rules = rulesFor(c.Before.GroupVersionKind().GroupKind(), c.Ignore)
	w.writers = newWriters(c.Before, w.entries)
	if e := oursIn(w.entries, c.Before.GetAPIVersion()); e != nil {
		w.inBefore = resolve(e.fields, c.Before)
	}
	if e := oursIn(entriesOf(c.After), c.After.GetAPIVersion()); e != nil {
		w.inAfter, w.declared = resolve(e.fields, c.After), e.fields
	}
	w.all = w.declared == nil
	// From what was applied to what is live: the other way round than it would be
	// applied.
	w.maskedAfter, w.maskedBefore = object.MaskPair(c.After, c.Before)
	return w
}

// changed finds the fields that have other values than what was applied.
func (w *work) changed() []v1alpha1.Finding {
	var findings []v1alpha1.Finding
	for _, d := range differences(w.Before, w.After) {
		for _, d := range w.declaredParts(d) {
			f := w.finding(d)
			w.told = append(w.told, d.inBefore)
			if !slices.ContainsFunc(findings, func(other v1alpha1.Finding) bool { return other.Field == f.Field }) {
				findings = append(findings, f)
			}
		}
	}
	return findings
}

// declaredParts returns a difference, if it counts, as one or, if only a part of an
// object that was added or removed counts, in parts.
func (w *work) declaredParts(d difference) []difference {
	parts, whole := w.split(d)
	if whole && len(parts) > 0 {
		return []difference{d}
	}
	return parts
}

// split returns the parts of a difference that count; whole if nothing of it is left to
// others.
func (w *work) split(d difference) (parts []difference, whole bool) {
	before, isBefore := d.before.(map[string]any)
	after, isAfter := d.after.(map[string]any)
	if len(before)+len(after) == 0 || (!isBefore && d.before != nil) || (!isAfter && d.after != nil) {
		switch {
		case w.leftToOthers(d):
			return nil, false
		case !w.isDeclared(d):
			return nil, true
		}
		return []difference{d}, true
	}
	whole = true
	for _, name := range sortedKeys(sortedKeys(nil, before), after) {
		step := "/" + escape(name)
		some, all := w.split(difference{
			inBefore: d.inBefore + step, inAfter: d.inAfter + step, before: before[name], after: after[name],
		})
		parts, whole = append(parts, some...), whole && all
	}
	return parts, whole
}

// leftToOthers tells whether a field is none of our business though Git declares it.
func (w *work) leftToOthers(d difference) bool {
	pointer := d.pointer()
	return w.yields(pointer) || w.rules.ignore(pointer, w.writers.of(d.inBefore).Manager)
}

// yields tells whether a field is left to others by the map, or means nothing.
func (w *work) yields(pointer string) bool {
	_, yielded := w.ownership.Yielded(pointer)
	return yielded || w.ownership.Unstable(pointer)
}

// isDeclared tells whether we have applied a field, something in it, or what it is in.
func (w *work) isDeclared(d difference) bool {
	return w.all || declares(w.inAfter, d.inAfter) || declares(w.inBefore, d.inBefore)
}

func declares(fields []owned, pointer string) bool {
	return slices.ContainsFunc(fields, func(o owned) bool {
		return within(o.pointer, pointer) || o.whole && within(pointer, o.pointer)
	})
}

// finding shows a difference.
func (w *work) finding(d difference) v1alpha1.Finding {
	// Where secret material is masked as a whole, that is the field.
	inAfter, from := at(w.maskedAfter.Object, d.inAfter)
	pointer, to := at(w.maskedBefore.Object, d.inBefore)
	if d.before == nil && pointer == d.inBefore {
		pointer, to = inAfter, nil
	}
	if from == any(object.Masked) && to == any(object.Masked) {
		from, to = object.MaskedBefore, object.MaskedAfter // elements at other places
	}
	return v1alpha1.Finding{
		Class: v1alpha1.FindingChanged, Field: cutPointer(pointer), From: text(from), To: text(to),
		Writer: w.writers.of(d.inBefore),
	}
}

// lost finds the fields that have the value that was applied, and are not ours any more.
func (w *work) lost() []v1alpha1.Finding {
	ours := oursIn(w.entries, w.Before.GetAPIVersion())
	if ours != nil && ours.version != w.After.GetAPIVersion() {
		return nil // its fields have other names
	}
	var findings []v1alpha1.Finding
	kept := false
	for _, o := range w.inAfter {
		if _, still := lookup(w.mine(), o.path); still {
			kept = true
			continue
		}
		if !o.whole {
			continue // a list's element: its fields tell
		}
		pointer, value, found := follow(w.Before, o.path)
		if !found || !same(value, o.value) || w.yields(pointer) || w.isTold(pointer) {
			continue
		}
		writer := w.writers.of(pointer)
		if w.rules.ignore(pointer, writer.Manager) {
			continue
		}
		findings = append(findings, v1alpha1.Finding{
			Class: v1alpha1.FindingOwnershipLost, Field: cutPointer(pointer), Writer: writer,
		})
	}
	if len(findings) > 0 && !kept {
		return []v1alpha1.Finding{{Class: v1alpha1.FindingOwnershipLost, Writer: newest(findings)}}
	}
	return findings
}

// mine is what we have applied and still own.
func (w *work) mine() set {
	if e := oursIn(w.entries, w.Before.GetAPIVersion()); e != nil {
		return e.fields
	}
	return nil
}

// foreign finds the fields that somebody set and Git does not declare.
func (w *work) foreign() []v1alpha1.Finding {
	all, _ := foreign(w.Before, w.declared, w.entries, w.ownership, maxFindings)
	return slices.DeleteFunc(all, func(f v1alpha1.Finding) bool {
		return w.isTold(f.Field) || w.rules.ignoreFinding(f)
	})
}

// isTold tells whether one of the findings is about a field.
func (w *work) isTold(pointer string) bool {
	return slices.ContainsFunc(w.told, func(told string) bool { return within(pointer, told) })
}

// follow goes down a path of a set.
func follow(u *unstructured.Unstructured, path []string) (pointer string, value any, found bool) {
	value, found = u.Object, true
	for _, key := range path {
		var name string
		value, name, found = step(value, key)
		pointer += "/" + escape(name)
		if !found {
			return pointer, nil, false
		}
	}
	return pointer, value, found
}

// newest returns the writer that wrote last.
func newest(findings []v1alpha1.Finding) v1alpha1.Writer {
	var w v1alpha1.Writer
	for _, f := range findings {
		if w.Manager == "" || f.Writer.Time != nil && (w.Time == nil || w.Time.Before(f.Writer.Time)) {
			w = f.Writer
		}
	}
	return w
}
