package capi

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// consequenceTable says what changes of one sort of objects do.
type consequenceTable struct {
	// title names the kinds.
	title string
	// of tells whether a kind is meant.
	of func(gk schema.GroupKind) bool
	// machines is how many machines a live object has; nil if that can't be known
	// from it.
	machines func(live *unstructured.Unstructured) int32
	// onDelete tells whether an object leaves outdated machines alone until somebody
	// deletes them; nil if its kind never does.
	onDelete func(u *unstructured.Unstructured) bool
	// rules are asked in their order: the first that covers a field says what its
	// change does. The last one covers everything.
	rules []consequenceRule
}

// consequenceRule says what a change of some fields does.
type consequenceRule struct {
	// fields are JSON pointers; an element * stands for any one.
	fields []string
	// kinds are what it may be: exactly one if the values don't matter.
	kinds []ConsequenceKind
	// says is the sentence of a message, in which {machines} stands for how many
	// machines the object has. Weighing may say something else.
	says string
	// why is for the documentation, where the sentence isn't all.
	why string
	// source is where it is from.
	source string
	// tells: the message has the values. They are a version or a name.
	tells bool
	// weigh says what a change does where that depends on the values; nil if it
	// doesn't.
	weigh func(e *edit, c change, r *consequenceRule) []outcome
}

// tableOf finds the table of a kind; nil if there is none.
func tableOf(gk schema.GroupKind) *consequenceTable {
	for i := range consequenceTables {
		if consequenceTables[i].of(gk) {
			return &consequenceTables[i]
		}
	}
	return nil
}

// edit is an object before and after, of one table.
type edit struct {
	before, after *unstructured.Unstructured
	table         *consequenceTable
}

// outcomesOf says what one of its changes does.
func (e *edit) outcomesOf(c change) []outcome {
	for _, rules := range [][]consequenceRule{pauseConsequences, e.table.rules, labelConsequences} {
		for i := range rules {
			r := &rules[i]
			for _, pattern := range r.fields {
				if Covers(pattern, c.field) {
					return e.ask(c, r)
				}
			}
		}
	}
	return nil
}

func (e *edit) ask(c change, r *consequenceRule) []outcome {
	if r.weigh == nil {
		return e.held(e.says(c, r, r.kinds[0], r.says))
	}
	return r.weigh(e, c, r)
}

// says makes the outcome of a change that a rule knows.
func (e *edit) says(c change, r *consequenceRule, kind ConsequenceKind, what string) outcome {
	o := outcome{kind: kind, says: what, field: c.field, detail: dotted(c.field), rule: r}
	if r.tells {
		o.detail += valuesOf(c.from, c.to)
	}
	if kind == ConsequenceRollout || kind == ConsequenceControlPlaneRollout {
		o.machines = e.machines(c)
	}
	if c.element != nil {
		o.pool = prefix(c.field, 5)
	}
	return o
}

// machines is how many machines the object has that the change is about.
func (e *edit) machines(c change) int32 {
	switch {
	case c.element != nil:
		n, _ := replicas(c.element["replicas"])
		return n
	case e.table.machines != nil:
		return e.table.machines(e.before)
	}
	return 0
}

// held turns replacements into what they are for an object that replaces nothing
// by itself.
func (e *edit) held(outcomes ...outcome) []outcome {
	if e.table.onDelete == nil || !e.table.onDelete(e.after) {
		return outcomes
	}
	for i, o := range outcomes {
		if o.kind == ConsequenceRollout || o.kind == ConsequenceControlPlaneRollout {
			outcomes[i].kind, outcomes[i].machines = ConsequenceLatent, 0
			outcomes[i].says = "applies to a machine when somebody deletes it (strategy OnDelete)"
		}
	}
	return outcomes
}
