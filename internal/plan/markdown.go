package plan

import (
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/internal/object"
)

// Markdown writes the plan as one block of a diff, for a forge: the sign of a line
// is its first character, so that it is shown in color. Secret material is masked,
// and nothing in the block is read as Markdown, whatever the objects hold.
func (p Plan) Markdown(w io.Writer) error {
	lines, err := p.diff()
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, fenced("diff", append(lines, p.Summary())))
	return err
}

// diff is the plan line by line, masked and harmless within a fenced block.
func (p Plan) diff() ([]string, error) {
	d := &diffLines{}
	for _, c := range p.sorted() {
		if c.Action == Unchanged && c.Error == "" {
			continue
		}
		if err := d.change(c, c.entry().without(p.Secrets)); err != nil {
			return nil, err
		}
	}
	if len(d.lines) == 0 {
		return nil, nil
	}
	// At once: there can be very many lines.
	lines := strings.Split(object.Scrub(strings.Join(d.lines, "\n"), p.Secrets), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(harmless(line), " ")
	}
	return lines, nil
}

// diffLines are the lines of a diff, each behind its sign.
type diffLines struct{ lines []string }

// add adds a text, which may have several lines.
func (d *diffLines) add(sign, text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		d.lines = append(d.lines, sign+" "+line)
	}
}

// change shows one object from what may be seen of it.
func (d *diffLines) change(c Change, seen entry) error {
	title := c.ID.String()
	if c.Action != Create && c.Action != Update && c.Action != Delete {
		title += " (" + wordsOf(c.Action) + ")"
	}
	if seen.Note != "" {
		title += ": " + seen.Note
	}
	d.add(signs[c.Action], oneLine(title))
	for line := range strings.SplitSeq(strings.TrimSpace(seen.Error), "\n") {
		if line != "" {
			d.add("!", "  "+line)
		}
	}
	for _, f := range seen.Fields {
		if f.Kind != Add {
			d.value("-", f.Path, f.From)
		}
		if f.Kind != Remove {
			d.value("+", f.Path, f.To)
		}
	}
	if seen.Object == nil {
		return nil
	}
	content, err := yaml.Marshal(safe(seen.Object))
	if err != nil {
		return fmt.Errorf("show %s: %w", c.ID, err)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(content)), "\n") {
		d.add("+", "  "+line)
	}
	return nil
}

// value shows one side of a changed field.
func (d *diffLines) value(sign, path string, value any) {
	text := show(value)
	if !strings.Contains(text, "\n") {
		d.add(sign, fmt.Sprintf("  %s: %s", oneLine(path), text))
		return
	}
	d.add(sign, fmt.Sprintf("  %s:", oneLine(path)))
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		d.add(sign, "    "+line)
	}
}
