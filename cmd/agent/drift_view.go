package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
)

// driftView is all that drift shows of several overlays.
type driftView struct {
	Overlays []overlayDrift `json:"overlays"`

	// corrected says that the text has the corrections too.
	corrected bool
}

// overlayDrift is one overlay as `drift -o json` prints it, and all that drift shows of
// one.
type overlayDrift struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Fleet     string `json:"fleet"`
	Path      string `json:"path"`
	Cluster   string `json:"cluster,omitempty"`
	// InSync, Reason and Message are those of the condition InSync.
	InSync  metav1.ConditionStatus `json:"inSync"`
	Reason  string                 `json:"reason,omitempty"`
	Message string                 `json:"message,omitempty"`
	// Watched is the number of objects that are compared.
	Watched int `json:"watched"`
	// DriftedObjects counts all; Drift has the most urgent ones.
	DriftedObjects int                      `json:"driftedObjects"`
	Drift          []v1alpha1.DriftedObject `json:"drift"`
	Corrections    []v1alpha1.Correction    `json:"corrections"`
}

func overlayDriftOf(o *v1alpha1.ClusterOverlay) overlayDrift {
	d := overlayDrift{
		Namespace: o.Namespace, Name: o.Name, Fleet: o.Spec.FleetRef.Name, Path: o.Spec.Path, Cluster: o.Status.Cluster,
		InSync: metav1.ConditionUnknown, Message: "the agent has not looked at it yet",
		DriftedObjects: max(int(o.Status.DriftedObjects), len(o.Status.Drift)),
		Drift:          o.Status.Drift, Corrections: o.Status.Corrections,
	}
	if d.Drift == nil {
		d.Drift = []v1alpha1.DriftedObject{}
	}
	if d.Corrections == nil {
		d.Corrections = []v1alpha1.Correction{}
	}
	if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.InSyncCondition); c != nil {
		d.InSync, d.Reason, d.Message = c.Status, c.Reason, c.Message
	}
	if d.InSync != metav1.ConditionUnknown {
		d.Watched = watchedObjects(o)
	}
	return d
}

// watchedObjects counts the objects that are declared, were applied and are this overlay's
// alone: what has left Git, is about to be applied or is shared is compared with nothing.
func watchedObjects(o *v1alpha1.ClusterOverlay) int {
	n := 0
	for i := range o.Status.Inventory {
		if o.Status.Inventory[i].State == v1alpha1.EntryApplied {
			n++
		}
	}
	return n
}

func (driftView) warnings() []string    { return nil }
func (overlayDrift) warnings() []string { return nil }

func (d overlayDrift) verdict() int {
	switch {
	case d.DriftedObjects > 0 || d.InSync == metav1.ConditionFalse:
		return exitChanges
	case d.InSync != metav1.ConditionTrue:
		return exitNotJudged
	}
	return 0
}

func (v driftView) verdict() int {
	worst := 0
	for i := range v.Overlays {
		switch code := v.Overlays[i].verdict(); code {
		case exitChanges:
			return code
		case 0:
		default:
			worst = code
		}
	}
	return worst
}

// heldCorrections are the corrections that wait for an approval.
func heldCorrections(o *v1alpha1.ClusterOverlay) []v1alpha1.DriftedObject {
	var held []v1alpha1.DriftedObject
	for i := range o.Status.Drift {
		if d := o.Status.Drift[i]; d.Action == v1alpha1.DriftHeld && !d.Approved && d.Hash != "" {
			held = append(held, d)
		}
	}
	return held
}

// actionWords say what is done about drifted objects, the most urgent first.
var actionWords = []struct {
	action v1alpha1.DriftAction
	words  string
}{
	{v1alpha1.DriftHeld, "held"}, {v1alpha1.DriftFight, "in a fight"}, {v1alpha1.DriftBlocked, "blocked"},
	{v1alpha1.DriftCorrecting, "being corrected"}, {v1alpha1.DriftReported, "only reported"},
}

// driftText counts the drifted objects of an overlay by what is done about them: "2
// objects (1 held, 1 only reported)"; "" if there are none.
func driftText(list []v1alpha1.DriftedObject, total int32) string {
	n := max(int(total), len(list))
	if n == 0 {
		return ""
	}
	var parts []string
	for _, a := range actionWords {
		count := 0
		for i := range list {
			if list[i].Action == a.action {
				count++
			}
		}
		if count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count, a.words))
		}
	}
	if more := n - len(list); more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf("%s (%s)", counted(n, "object"), strings.Join(parts, ", "))
}

// actionColor marks what needs somebody.
func actionColor(action v1alpha1.DriftAction) color {
	switch action {
	case v1alpha1.DriftFight, v1alpha1.DriftBlocked:
		return red
	case v1alpha1.DriftHeld:
		return yellow
	case v1alpha1.DriftCorrecting, v1alpha1.DriftReported:
	}
	return noColor
}

// counted is "1 object", "2 objects".
func counted(n int, word string) string {
	if n != 1 {
		word += "s"
	}
	return fmt.Sprintf("%d %s", n, word)
}

// objectText names an object in a table: its kind without the group.
func objectText(ref v1alpha1.ObjectReference) string {
	ref.Group = ""
	return inventory.IDOf(ref).String()
}

// whoText names who wrote a field: "kubectl-edit (person)", "" if it isn't known.
func whoText(w v1alpha1.Writer) string {
	if w.Class == "" {
		return w.Manager
	}
	return strings.TrimSpace(w.Manager + " (" + w.Class + ")")
}

// viaText says in what way it was written: "Update scale".
func viaText(w v1alpha1.Writer) string {
	return strings.TrimSpace(w.Operation + " " + w.Subresource)
}

// each lists a text of all findings, once, in their order.
func each(findings []v1alpha1.Finding, text func(v1alpha1.Finding) string) string {
	var all []string
	for i := range findings {
		if t := text(findings[i]); t != "" && !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return cmp.Or(strings.Join(all, ", "), "-")
}

func classesText(findings []v1alpha1.Finding) string {
	return each(findings, func(f v1alpha1.Finding) string { return string(f.Class) })
}

func writersText(findings []v1alpha1.Finding) string {
	return each(findings, func(f v1alpha1.Finding) string { return whoText(f.Writer) })
}

// fieldText is the first field that is different, with how many more findings there are:
// "/spec/replicas (+1): 3 -> 5".
func (s style) fieldText(findings []v1alpha1.Finding, more int) string {
	first := slices.IndexFunc(findings, func(f v1alpha1.Finding) bool { return f.Field != "" || s.valuesText(f) != "" })
	if first < 0 {
		return "-"
	}
	f := findings[first]
	text := f.Field
	if more += len(findings) - 1; more > 0 {
		text += fmt.Sprintf(" (+%d)", more)
	}
	if values := s.valuesText(f); values != "" {
		text += ": " + values
	}
	return strings.TrimLeft(text, ": ")
}

// valuesText is what was applied and what is live: "3 -> 5". It is one value if they are
// the same, and of a whole object.
func (s style) valuesText(f v1alpha1.Finding) string {
	if f.From == f.To || f.Field == "" && f.From == "" {
		return f.To
	}
	return cmp.Or(f.From, "(none)") + s.arrow() + cmp.Or(f.To, "(none)")
}

func (s style) arrow() string {
	if s.plain {
		return " -> "
	}
	return " → "
}

// ageText is an age: "3m".
func ageText(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(max(0, now.Sub(t.Time)))
}
