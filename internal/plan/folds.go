package plan

import (
	"fmt"
	"strings"

	"capstan.dev/capstan/internal/object"
)

// fold is the diff of one overlay in a comment, closed until somebody opens it.
type fold struct {
	path, summary string
	// language is that of the block of code.
	language string
	// about are lines before the diff.
	about []string
	lines []string
	// whole and least are the lengths with all lines and with none.
	whole, least int
}

// foldsOf has a fold for each overlay that there is something to show of.
func foldsOf(overlays []OverlayPlan) []fold {
	var folds []fold
	for _, o := range overlays {
		f := fold{path: o.Path, language: "diff", summary: o.Plan.Summary(), about: scrubAll(o.Consequences, o)}
		var err error
		if o.Err == "" {
			f.lines, err = o.Plan.diff()
		}
		if o.Err != "" || err != nil {
			text := o.Err
			if err != nil {
				text = err.Error()
			}
			f.language, f.summary, f.lines = "", "no plan", nil
			for line := range strings.SplitSeq(strings.TrimSpace(object.Scrub(text, o.Plan.Secrets)), "\n") {
				f.lines = append(f.lines, harmless(line))
			}
		}
		if len(f.lines)+len(f.about) == 0 {
			continue
		}
		for i, line := range f.lines {
			f.lines[i] = clip(line, mostLine)
		}
		f.whole, f.least = len(f.text(len(f.lines))), len(f.text(0))
		folds = append(folds, f)
	}
	return folds
}

// text is the fold with the first n lines.
func (f fold) text(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n<details><summary>%s: %s</summary>\n\n", htmlCode(f.path, mostName), f.summary)
	for _, text := range f.about {
		b.WriteString("- " + code(text, mostText) + "\n")
	}
	if len(f.about) > 0 {
		b.WriteString("\n")
	}
	if n > 0 {
		b.WriteString(fenced(f.language, f.lines[:n]))
	}
	if more := len(f.lines) - n; more > 0 {
		fmt.Fprintf(&b, "\n%s left out: %s\n", plural(more, "line"), code("capstan diff "+f.path, mostName))
	}
	b.WriteString("\n</details>\n")
	return b.String()
}

// size is the length of the fold if it may have so many bytes.
func (f fold) size(most int) int { return min(f.whole, max(most, f.least)) }

// within is the fold with as many lines as there is room for.
func (f fold) within(most int) string {
	if f.size(most) == f.whole {
		return f.text(len(f.lines))
	}
	return f.text(largest(len(f.lines), func(n int) bool { return len(f.text(n)) <= most }))
}

// foldAll shows the folds within a number of bytes: whole, or cut, each to the same
// length at most, or, if too little were left of each, the first ones only.
func foldAll(folds []fold, most int) string {
	for shown := len(folds); shown >= 0; shown-- {
		missing := leftOut(folds[shown:], most)
		share, fits := shareOf(folds[:shown], most-len(missing))
		if !fits {
			continue
		}
		var b strings.Builder
		for _, f := range folds[:shown] {
			b.WriteString(f.within(share))
		}
		return b.String() + missing
	}
	return ""
}

// shareOf is the length for each fold with which all of them fit; false if they
// don't, or if it is too short to show anything.
func shareOf(folds []fold, most int) (share int, fits bool) {
	if len(folds) == 0 {
		return 0, most >= 0
	}
	enough := func(share int) bool {
		total := 0
		for _, f := range folds {
			total += f.size(share)
		}
		return total <= most
	}
	share = largest(max(most, 0), enough)
	for _, f := range folds {
		if f.size(share) < min(f.whole, f.least+leastDiff) {
			return share, false
		}
	}
	return share, enough(share)
}

// leftOut says which overlays' diffs are missing, if there is room for it.
func leftOut(folds []fold, most int) string {
	if len(folds) == 0 {
		return ""
	}
	text := fmt.Sprintf("\nThe diffs of %s are left out.\n", plural(len(folds), "overlay"))
	list := strings.TrimSuffix(text, "\n") + " To see them:\n\n"
	for _, f := range folds[:min(mostNamed, len(folds))] {
		list += "- " + code("capstan diff "+f.path, mostName) + "\n"
	}
	if more := len(folds) - mostNamed; more > 0 {
		list += fmt.Sprintf("- and %d more\n", more)
	}
	for _, t := range []string{list, text} {
		if len(t) <= most {
			return t
		}
	}
	return ""
}
