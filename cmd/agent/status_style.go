package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
)

// style is how status may print.
type style struct {
	// plain stands for no colors, and no characters beyond ASCII but those of names and
	// messages.
	plain bool
	// width is that of the terminal, 0 if there is none.
	width int
}

// style finds out what the output can show. NO_COLOR asks for plain text
// (https://no-color.org), and so does a terminal that says that it is dumb.
func (a *app) style(ascii bool) style {
	f, ok := a.out.(*os.File)
	if !ok {
		return style{plain: true}
	}
	width, _, err := term.GetSize(int(f.Fd())) //nolint:gosec // a file descriptor is a small number
	if err != nil {
		return style{plain: true}
	}
	return style{plain: ascii || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb", width: width}
}

// color is one of a terminal's own.
type color string

// The colors.
const (
	noColor color = ""
	red     color = "\x1b[31m"
	green   color = "\x1b[32m"
	yellow  color = "\x1b[33m"
	faint   color = "\x1b[2m"
)

// paint colors a text, if it may.
func (s style) paint(c color, text string) string {
	if s.plain || c == noColor || text == "" {
		return text
	}
	return string(c) + text + "\x1b[0m"
}

// stateColor marks the states that need somebody.
func stateColor(state agent.State) color {
	switch state {
	case agent.StateFailed, agent.StateStalled, agent.StateDegraded:
		return red
	case agent.StateWaiting, agent.StateSuspended, agent.StatePending:
		return yellow
	case agent.StateConverged:
		return green
	case agent.StateProgressing, agent.StateDeleting:
	}
	return noColor
}

// mark stands before what needs somebody, for those who see no colors.
func mark(c color) string {
	switch c {
	case red:
		return "!"
	case yellow:
		return "?"
	}
	return ""
}

// barWidth is the width of a bar, without what encloses it.
const barWidth = 12

// bar shows how much is done. It is full only if all is: as long as something is left to
// do, as a machine that has to go, so is a bit of the bar.
func (s style) bar(done, total int32, all bool) string {
	filled := barWidth
	if !all {
		filled = min(barWidth*int(max(done, 0))/max(int(total), 1), barWidth-1)
	}
	if s.plain {
		return "[" + strings.Repeat("#", filled) + strings.Repeat(".", barWidth-filled) + "]"
	}
	return strings.Repeat("█", filled) + strings.Repeat("░", barWidth-filled)
}

// progressText is the bar of an overlay with its machines: "[######......] 3/6 +1".
func (s style) progressText(p *v1alpha1.Progress) string {
	if p == nil {
		return "-"
	}
	all := v1alpha1.MachineCounts{
		Desired:  p.ControlPlane.Desired + p.Workers.Desired,
		Existing: p.ControlPlane.Existing + p.Workers.Existing,
		Done:     p.ControlPlane.Done + p.Workers.Done,
	}
	if all.Desired == 0 && all.Existing == 0 {
		return "-"
	}
	return s.bar(all.Done, all.Desired, p.Phase == v1alpha1.PhaseConverged) + " " + machinesText(all)
}

// machinesText is the machines that are as they should be of those wanted, and how many
// there are above the number wanted: "2/3 +1".
func machinesText(n v1alpha1.MachineCounts) string {
	if n.Desired == 0 && n.Existing == 0 {
		return "-"
	}
	text := fmt.Sprintf("%d/%d", n.Done, n.Desired)
	if n.Existing > n.Desired {
		text += fmt.Sprintf(" +%d", n.Existing-n.Desired)
	}
	return text
}

// leftText says how long it will take: "about 3m left", "" if there is no telling, as
// when nothing goes on. An estimate is none to the second.
func leftText(p *v1alpha1.Progress, now time.Time) string {
	if p == nil || p.Phase != v1alpha1.PhaseProgressing || p.EstimatedTime.IsZero() {
		return ""
	}
	left := p.EstimatedTime.Sub(now)
	switch {
	case left <= 0:
		return "any moment"
	case left < time.Minute:
		return "under 1m left"
	case left < 90*time.Minute:
		return fmt.Sprintf("about %.0fm left", left.Minutes())
	default:
		return fmt.Sprintf("about %.0fh left", left.Hours())
	}
}

// agoText is an age: "3m ago", "" if it isn't known.
func agoText(t *metav1.Time, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration.HumanDuration(max(0, now.Sub(t.Time))) + " ago"
}

// secondsText is a number of seconds for people.
func secondsText(seconds *int64) string {
	if seconds == nil {
		return "-"
	}
	return duration.HumanDuration(time.Duration(*seconds) * time.Second)
}

// shortRevision is main@1234abcd for main@sha1:1234abcd….
func shortRevision(revision string) string {
	ref, hash, ok := strings.Cut(revision, "sha1:")
	if !ok {
		return cmp.Or(revision, "-")
	}
	return ref + hash[:min(8, len(hash))]
}

// shortHash is 1234abcd for main@sha1:1234abcd….
func shortHash(revision string) string {
	_, hash, ok := strings.Cut(revision, "sha1:")
	if !ok {
		return shortRevision(revision)
	}
	return hash[:min(8, len(hash))]
}

// oneLine is a text that can't break a table.
func oneLine(text string) string {
	return strings.NewReplacer("\n", " ", "\t", " ").Replace(printable(text))
}

// cut is as much of a text as there is room for.
func cut(text string, room int) string {
	const ellipsis = " …"
	if utf8.RuneCountInString(text) <= room {
		return text
	}
	runes := []rune(text)
	return strings.TrimRight(string(runes[:max(0, room-len([]rune(ellipsis)))]), " ") + ellipsis
}

// cell is a text in a table.
type cell struct {
	text  string
	color color
}

// table is printed in columns that are as wide as they have to be; the last one is cut to
// the room that is left.
type table struct {
	header []string
	rows   [][]cell
	// spare are the columns that a narrow terminal goes without, the first ones first.
	spare [][]int
	// whole says that the last column isn't cut.
	whole bool
}

// The room for the last column of a table: if there is no terminal; how much is worth
// another column; and at least.
const (
	defaultRoom = 120
	enoughRoom  = 48
	leastRoom   = 24
)

// print prints the table, indented.
func (t *table) print(out io.Writer, s style, indent string) error {
	widths := make([]int, len(t.header))
	for i, text := range t.header {
		widths[i] = utf8.RuneCountInString(text)
	}
	for _, row := range t.rows {
		for i := range row {
			row[i].text = oneLine(row[i].text)
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	last, room := len(widths)-1, t.fit(s, indent, widths)
	var b strings.Builder
	line := func(cells []cell) {
		b.WriteString(indent)
		var text strings.Builder
		for i, c := range cells {
			if i == last {
				if !t.whole {
					c.text = cut(c.text, room)
				}
				text.WriteString(s.paint(c.color, c.text))
				break
			}
			if widths[i] == 0 {
				continue
			}
			text.WriteString(s.paint(c.color, c.text))
			text.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
	header := make([]cell, len(t.header))
	for i, text := range t.header {
		header[i] = cell{text, faint}
	}
	if strings.Join(t.header, "") != "" {
		line(header)
	}
	for _, row := range t.rows {
		line(row)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// fit returns the room for the last column. A column that is empty, or that there is no
// room for, has the width 0 after it.
func (t *table) fit(s style, indent string, widths []int) int {
	if s.width == 0 {
		return defaultRoom
	}
	room := func() int {
		left := s.width - len(indent)
		for _, w := range widths[:len(widths)-1] {
			if w > 0 {
				left -= w + 2
			}
		}
		return left
	}
	for _, columns := range t.spare {
		if room() >= min(enoughRoom, widths[len(widths)-1]) {
			break
		}
		for _, column := range columns {
			widths[column] = 0
		}
	}
	return max(room(), leastRoom)
}
