package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
)

// text prints the drifted objects of all overlays, what isn't known, and the corrections.
func (v driftView) text(out io.Writer, s style, now time.Time) error {
	if err := v.objects(out, s, now); err != nil {
		return err
	}
	if err := v.unjudged(out, s); err != nil {
		return err
	}
	if !v.corrected {
		return nil
	}
	fmt.Fprintln(out)
	return v.corrections(out, s, now)
}

// objects prints a row for each object.
func (v driftView) objects(out io.Writer, s style, now time.Time) error {
	t := table{
		header: []string{"", v.fleetHeader(), "OVERLAY", "OBJECT", "CLASS", "WHO", "ACTION", "AGE", "FIELD"},
		spare:  [][]int{{7}},
	}
	drifted, watched, judged := 0, 0, 0
	for i := range v.Overlays {
		o := &v.Overlays[i]
		if o.InSync != metav1.ConditionUnknown {
			judged++
		}
		watched += o.Watched
		drifted += o.DriftedObjects
		for j := range o.Drift {
			d := &o.Drift[j]
			paint := actionColor(d.Action)
			t.rows = append(t.rows, []cell{
				{mark(paint), paint}, {text: v.fleetCell(o)}, {text: o.Path}, {text: objectText(d.ObjectReference)},
				{text: classesText(d.Findings)}, {text: writersText(d.Findings)}, {string(d.Action), paint},
				{text: ageText(d.DetectedTime, now)}, {text: s.fieldText(d.Findings, int(d.MoreFindings))},
			})
		}
		if more := o.DriftedObjects - len(o.Drift); more > 0 {
			t.rows = append(t.rows, []cell{{}, {text: v.fleetCell(o)}, {text: o.Path}, {text: fmt.Sprintf("and %d more", more)}, {}, {}, {}, {}, {}})
		}
	}
	of := fmt.Sprintf("%s of %s", counted(watched, "object"), counted(judged, "overlay"))
	if drifted == 0 {
		found := "nothing has drifted"
		switch v.verdict() {
		case exitChanges: // a condition says so, and what follows
			return nil
		case exitNotJudged:
			found = "nothing is known to have drifted"
		}
		_, err := fmt.Fprintf(out, "%s: %s watched\n", found, of)
		return err
	}
	if err := t.print(out, s, ""); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%d drifted; %s watched; for more: capstan drift OVERLAY\n", drifted, of)
	return err
}

// fleetHeader names the column of Fleets if there is more than one.
func (v driftView) fleetHeader() string {
	for i := range v.Overlays {
		if v.Overlays[i].Namespace != v.Overlays[0].Namespace || v.Overlays[i].Fleet != v.Overlays[0].Fleet {
			return "FLEET"
		}
	}
	return ""
}

func (v driftView) fleetCell(o *overlayDrift) string {
	if v.fleetHeader() == "" {
		return ""
	}
	return o.Namespace + "/" + o.Fleet
}

// unjudged prints the overlays of which it isn't known whether something has drifted, or
// what.
func (v driftView) unjudged(out io.Writer, s style) error {
	t := table{header: []string{"", "", "", ""}}
	for i := range v.Overlays {
		o := &v.Overlays[i]
		if o.InSync == metav1.ConditionUnknown || o.verdict() == exitChanges && o.DriftedObjects == 0 {
			t.rows = append(t.rows, []cell{{"?", yellow}, {text: v.fleetCell(o)}, {text: o.Path}, {text: because(o.Reason, o.Message)}})
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintf(out, "\n%s can't be judged:\n", counted(len(t.rows), "overlay"))
	return t.print(out, s, "")
}

// because is a reason with its message.
func because(reason, message string) string {
	return strings.TrimSuffix(strings.TrimPrefix(reason+": "+message, ": "), ": ")
}

// corrections prints who lost which change.
func (v driftView) corrections(out io.Writer, s style, now time.Time) error {
	t := table{header: []string{v.fleetHeader(), "OVERLAY", "OBJECT", "CORRECTED", "TIMES", "WHO LOST IT", "FIELD"}, spare: [][]int{{4}}}
	for i := range v.Overlays {
		o := &v.Overlays[i]
		for j := range o.Corrections {
			c := &o.Corrections[j]
			t.rows = append(t.rows, []cell{
				{text: v.fleetCell(o)}, {text: o.Path}, {text: objectText(c.ObjectReference)}, {text: agoText(&c.Time, now)},
				{text: fmt.Sprint(c.Count)}, {text: writersText(c.Findings)}, {text: s.fieldText(c.Findings, 0)},
			})
		}
	}
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(out, "nothing was corrected lately")
		return err
	}
	return t.print(out, s, "")
}

// text prints one overlay: each drifted object in full, and what was corrected.
func (d overlayDrift) text(out io.Writer, s style, now time.Time) error {
	fmt.Fprintln(out, oneLine(d.Path))
	facts := table{header: []string{"", ""}, whole: true}
	add := func(name, text string) {
		if text != "" {
			facts.rows = append(facts.rows, []cell{{name, faint}, {text: text}})
		}
	}
	add("overlay", d.Name+" of Fleet "+d.Namespace+"/"+d.Fleet)
	add("cluster", d.Cluster)
	add("in sync", strings.TrimSuffix(string(d.InSync)+", "+because(d.Reason, d.Message), ", "))
	add("watched", counted(d.Watched, "object"))
	if err := facts.print(out, s, "  "); err != nil {
		return err
	}
	if d.verdict() == 0 {
		fmt.Fprintln(out, "\nnothing has drifted")
	}
	for i := range d.Drift {
		fmt.Fprintln(out)
		if err := printDrifted(out, s, &d.Drift[i], now); err != nil {
			return err
		}
		if o := &d.Drift[i]; o.Action == v1alpha1.DriftHeld && o.Hash != "" {
			fmt.Fprintf(out, "    approve with: capstan approve -n %s %s --correction --hash %s\n", d.Namespace, d.Name, oneLine(o.Hash))
		}
	}
	if more := d.DriftedObjects - len(d.Drift); more > 0 {
		fmt.Fprintf(out, "\nand %s more, which the status has no room for\n", counted(more, "object"))
	}
	if len(d.Corrections) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	return driftView{Overlays: []overlayDrift{d}}.corrections(out, s, now)
}

// printDrifted prints a drifted object: what is done about it, all findings, and what the
// correction would change.
func printDrifted(out io.Writer, s style, o *v1alpha1.DriftedObject, now time.Time) error {
	title := strings.TrimSpace(mark(actionColor(o.Action)) + " " + inventory.IDOf(o.ObjectReference).String())
	fmt.Fprintln(out, s.paint(actionColor(o.Action), oneLine(title)))
	facts := table{header: []string{"", ""}, whole: true}
	action := string(o.Action)
	switch {
	case o.Approved:
		action += ", approved"
	case o.NextTime != nil:
		action += ", tried again " + inText(o.NextTime, now)
	}
	facts.rows = append(facts.rows, []cell{{"action", faint}, {action, actionColor(o.Action)}})
	for _, fact := range [][2]string{{"why", o.Message}, {"since", agoText(&o.DetectedTime, now)}, {"hash", o.Hash}} {
		if fact[1] != "" {
			facts.rows = append(facts.rows, []cell{{fact[0], faint}, {text: fact[1]}})
		}
	}
	if err := facts.print(out, s, "    "); err != nil {
		return err
	}
	findings := table{header: []string{"CLASS", "FIELD", "WHO", "HOW", "WHEN", "APPLIED" + s.arrow() + "LIVE"}, whole: true}
	for i := range o.Findings {
		f := &o.Findings[i]
		findings.rows = append(findings.rows, []cell{
			{text: string(f.Class)}, {text: cmp.Or(f.Field, "-")}, {text: cmp.Or(whoText(f.Writer), "-")},
			{text: cmp.Or(viaText(f.Writer), "-")}, {text: cmp.Or(agoText(f.Writer.Time, now), "-")}, {text: s.valuesText(*f)},
		})
	}
	if err := findings.print(out, s, "    "); err != nil {
		return err
	}
	if o.MoreFindings > 0 {
		fmt.Fprintf(out, "    and %d more\n", o.MoreFindings)
	}
	return printCorrection(out, s, o)
}

// inText says when something will be: "in 3m".
func inText(t *metav1.Time, now time.Time) string {
	if left := t.Sub(now); left > 0 {
		return "in " + ageText(metav1.Time{Time: now.Add(-left)}, now)
	}
	return "any moment"
}
