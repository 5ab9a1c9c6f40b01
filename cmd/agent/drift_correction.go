package main

import (
	"fmt"
	"io"
	"strings"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
)

// printCorrection prints what the correction of an object would change, from live back to
// what was applied, in the words of `capstan diff`. It is made from the findings: what
// is applied isn't here to be compared.
func printCorrection(out io.Writer, s style, o *v1alpha1.DriftedObject) error {
	id := inventory.IDOf(o.ObjectReference)
	var lines []diffLine
	unknown := false
	for i := range o.Findings {
		switch f := &o.Findings[i]; f.Class {
		case v1alpha1.FindingMissing:
			_, err := fmt.Fprintf(out, "    as capstan diff shows it, with its content:\n      %s\n", s.paint(green, oneLine("+ "+id.String())))
			return err
		case v1alpha1.FindingChanged, v1alpha1.FindingRecreated:
			if f.Field != "" && f.From != f.To {
				lines = append(lines, s.changed(f))
			}
			unknown = unknown || f.Field == "" && f.Class == v1alpha1.FindingChanged
		case v1alpha1.FindingForeign, v1alpha1.FindingOwnershipLost: // to Git they make no difference
		}
	}
	if len(lines) == 0 && unknown { // the API server refuses to say, or Git does
		_, err := fmt.Fprintln(out, "    what the correction would change is not known")
		return err
	}
	if len(lines) == 0 {
		_, err := fmt.Fprintln(out, "    capstan diff shows nothing of it: no field that Git declares has another value")
		return err
	}
	fmt.Fprintln(out, "    as capstan diff shows it:")
	fmt.Fprintln(out, "      "+s.paint(yellow, oneLine("~ "+id.String())))
	for _, l := range lines {
		fmt.Fprintln(out, "          "+s.paint(l.color, oneLine(l.text)))
	}
	return nil
}

type diffLine struct {
	text  string
	color color
}

// changed is a field that would be written again.
func (s style) changed(f *v1alpha1.Finding) diffLine {
	path := planPath(f.Field)
	switch {
	case f.To == "":
		return diffLine{fmt.Sprintf("+ %s: %s", path, f.From), green}
	case f.From == "":
		return diffLine{fmt.Sprintf("- %s: %s", path, f.To), red}
	}
	return diffLine{fmt.Sprintf("%s: %s%s%s", path, f.To, s.arrow(), f.From), yellow}
}

// planPath writes a JSON pointer as plans name fields: with dots, and in brackets the
// elements of lists and keys that hold dots or slashes.
func planPath(pointer string) string {
	var b strings.Builder
	for element := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		key := strings.NewReplacer("~1", "/", "~0", "~").Replace(element)
		switch {
		case key != "" && strings.Trim(key, "0123456789") == "":
			b.WriteString("[" + key + "]")
		case key == "" || strings.ContainsAny(key, "./[]\" "):
			fmt.Fprintf(&b, "[%q]", key)
		case b.Len() == 0:
			b.WriteString(key)
		default:
			b.WriteString("." + key)
		}
	}
	return b.String()
}
