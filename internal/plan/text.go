package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/internal/object"
)

// signs begin the line of an object.
var signs = map[Action]string{
	Create: "+", Update: "~", Delete: "-", PendingDeletion: "-", Retained: "=",
	Invalid: "!", Conflict: "!", NotChecked: "?", Skipped: "=",
}

// colors of a terminal, by sign.
var colors = map[string]string{"+": "\x1b[32m", "~": "\x1b[33m", "-": "\x1b[31m", "!": "\x1b[31;1m"}

const reset = "\x1b[0m"

// Text writes the plan for people: one block for each object that is not
// unchanged, and a summary. Secret material is masked.
func (p Plan) Text(w io.Writer, color bool) error {
	out := &writer{color: color}
	out.heading(p)
	for _, c := range p.sorted() {
		if c.Action != Unchanged || c.Error != "" {
			if err := out.change(c); err != nil {
				return err
			}
		}
	}
	out.line("", p.Summary())
	_, err := io.WriteString(w, object.Scrub(out.text.String(), p.Secrets))
	return err
}

// Summary counts the actions: "2 to create, 1 to update, 0 to delete, 7
// unchanged".
func (p Plan) Summary() string {
	var parts []string
	for _, a := range actions {
		if n := p.Count(a.action); n > 0 || a.always {
			parts = append(parts, fmt.Sprintf("%d %s", n, a.words))
		}
	}
	return strings.Join(parts, ", ")
}

type writer struct {
	text  strings.Builder
	color bool
}

// line writes a line in the color of a sign.
func (w *writer) line(sign, text string) {
	text = printable(text)
	if c := colors[sign]; w.color && c != "" {
		text = c + text + reset
	}
	w.text.WriteString(strings.TrimRight(text, " ") + "\n")
}

func (w *writer) heading(p Plan) {
	name := p.Path
	if p.Overlay != "" {
		name = strings.TrimSpace(p.Overlay + " " + p.Path)
	}
	if p.Revision != "" {
		name += " at " + p.Revision
	}
	if name != "" {
		w.line("", name)
	}
}

func (w *writer) change(c Change) error {
	sign := signs[c.Action]
	title := strings.TrimSpace(sign + " " + c.ID.String())
	if c.Action != Create && c.Action != Update && c.Action != Delete {
		title += " (" + wordsOf(c.Action) + ")"
	}
	if c.Note != "" {
		title += ": " + oneLine(c.scrub(c.Note))
	}
	w.line(sign, title)
	if c.Error != "" {
		for line := range strings.SplitSeq(strings.TrimSpace(c.message()), "\n") {
			w.line("!", "    "+line)
		}
	}
	for _, f := range c.Fields() {
		w.field(f)
	}
	return w.created(c.created())
}

// created shows a whole object.
func (w *writer) created(u *unstructured.Unstructured) error {
	if u == nil {
		return nil
	}
	content, err := yaml.Marshal(safe(u.Object))
	if err != nil {
		return fmt.Errorf("show %s: %w", u.GetName(), err)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(content)), "\n") {
		w.line("+", "    + "+line)
	}
	return nil
}

// field shows a changed field, on one line if both values fit, else as blocks.
func (w *writer) field(f FieldChange) {
	from, to := show(f.From), show(f.To)
	long := strings.Contains(from, "\n") || strings.Contains(to, "\n")
	switch {
	case f.Kind == Replace && !long:
		w.line("~", fmt.Sprintf("    %s: %s → %s", f.Path, from, to))
	case f.Kind == Add && !long:
		w.line("+", fmt.Sprintf("    + %s: %s", f.Path, to))
	case f.Kind == Remove && !long:
		w.line("-", fmt.Sprintf("    - %s: %s", f.Path, from))
	default:
		w.line("", fmt.Sprintf("    %s:", f.Path))
		if f.Kind != Add {
			w.block("-", from)
		}
		if f.Kind != Remove {
			w.block("+", to)
		}
	}
}

func (w *writer) block(sign, text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		w.line(sign, "      "+sign+" "+line)
	}
}

// show writes a value: text as it is if it has several lines, else as JSON, and
// large structures as YAML.
func show(value any) string {
	value = safe(value)
	if s, ok := value.(string); ok && strings.Contains(s, "\n") {
		return s
	}
	content, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	if s, ok := value.(string); ok && plain(s) {
		return s
	}
	if len(content) > 100 {
		if block, err := yaml.Marshal(value); err == nil {
			return string(block)
		}
	}
	return string(content)
}

// plain tells whether a text can stand without quotes and not be taken for
// something else.
func plain(s string) bool {
	if s == "" || s != strings.TrimSpace(s) || strings.ContainsAny(s, "\"'→{}[]") {
		return false
	}
	var other any
	return yaml.Unmarshal([]byte(s), &other) != nil || fmt.Sprintf("%T", other) == "string"
}

// printable takes control characters out, which a terminal would obey: what is
// shown comes from Git and from other people's objects.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '·'
		}
		return r
	}, text)
}

// safe returns a value whose texts are printable, line by line; YAML can't hold
// others.
func safe(value any) any {
	switch v := value.(type) {
	case string:
		lines := strings.Split(v, "\n")
		for i, line := range lines {
			lines[i] = printable(line)
		}
		return strings.Join(lines, "\n")
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, element := range v {
			m[printable(key)] = safe(element)
		}
		return m
	case []any:
		list := make([]any, 0, len(v))
		for _, element := range v {
			list = append(list, safe(element))
		}
		return list
	default:
		return value
	}
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func wordsOf(action Action) string {
	for _, a := range actions {
		if a.action == action {
			return a.words
		}
	}
	return string(action)
}
