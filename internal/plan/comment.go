package plan

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	"capstan.dev/capstan/internal/object"
)

// DefaultLimit is what the strictest forge takes: GitHub, 65,536 characters.
const DefaultLimit = 65536

// Lengths, in bytes, to which a comment cuts a stranger's texts.
const (
	mostName = 200  // a path, a branch
	mostCell = 160  // a text in the table
	mostText = 500  // a note
	mostLine = 1000 // a line of a diff
	// leastDiff is the room below which a diff is left out.
	leastDiff = 400
	// mostNamed is how many of them are named.
	mostNamed = 10
)

// OverlayPlan is what a pull request does to one overlay.
type OverlayPlan struct {
	// Path is the directory.
	Path string
	// Plan is empty if there is an error.
	Plan Plan
	// Err is why there is no plan, such as an error of the renderer.
	Err string
	// Consequences say what happens to machines. Optional.
	Consequences []string
}

// CommentInput is what a comment on a pull request says.
type CommentInput struct {
	// Marker is how the comment is found again: one HTML comment, as it is written.
	Marker string
	// Fleet is the name of the Fleet.
	Fleet string
	// Target is what the changes are laid over, such as main@0a1b2c3; Head is the
	// commit with the changes.
	Target, Head string
	// Overlays are those that the changes concern, in any order.
	Overlays []OverlayPlan
	// Notes say what holds for all of it.
	Notes []string
	// Limit is the greatest length in bytes. Default: DefaultLimit.
	Limit int
}

// Comment composes a comment on a pull request: the marker, a headline, a table with
// a row for each overlay, their diffs, folded, and a footer. If it gets too long
// diffs are cut, then left out, then rows are; what is missing is said. The same
// input gives the same text. Only with a limit that has no room for the headline
// is the marker all, and without room for that, nothing.
func Comment(c CommentInput) string {
	limit := cmp.Or(max(c.Limit, 0), DefaultLimit)
	overlays := byImportance(c.Overlays)
	head := c.Marker + "\n" + c.headline()
	if len(head) > limit {
		if len(c.Marker) > limit {
			return ""
		}
		return c.Marker
	}
	b := &room{left: limit - len(head)}
	footer := b.take("\nNothing was applied. `capstan diff PATH` in a working copy shows the whole diff of an overlay. Secret values are masked.\n")
	notes := b.fit(len(c.Notes), b.left/4, c.notes)
	folds := foldsOf(overlays)
	all := 0
	for _, f := range folds {
		all += f.whole
	}
	forTable := b.left - all
	if len(folds) > 0 {
		forTable = max(forTable, b.left/2)
	}
	table := b.fit(len(overlays), min(forTable, b.left), func(n int) string { return tableOf(overlays, n) })
	return head + notes + table + foldAll(folds, b.left) + footer
}

// room is what is left of a limit.
type room struct{ left int }

// take returns a text if there is room for it, and else nothing.
func (r *room) take(text string) string {
	if len(text) > r.left {
		return ""
	}
	r.left -= len(text)
	return text
}

// fit takes the text with as many parts as there is room for, of n at most.
func (r *room) fit(n, most int, text func(parts int) string) string {
	if n == 0 {
		return ""
	}
	return r.take(text(largest(n, func(parts int) bool { return len(text(parts)) <= most })))
}

// largest is the largest number up to n that fits, and 0 if none does. n itself may
// be shorter than what comes before it: it leaves out nothing and says so.
func largest(n int, fits func(int) bool) int {
	if fits(n) {
		return n
	}
	return max(sort.Search(n, func(i int) bool { return !fits(i) })-1, 0)
}

func (c CommentInput) headline() string {
	return fmt.Sprintf("### Capstan: what this would change in fleet %s\n\nWith %s merged into %s: %s.\n",
		code(c.Fleet, mostName), code(c.Head, mostName), code(c.Target, mostName), counts(c.Overlays))
}

func (c CommentInput) notes(n int) string {
	var b strings.Builder
	b.WriteString("\n")
	for _, note := range c.Notes[:n] {
		b.WriteString("- " + code(note, mostText) + "\n")
	}
	if more := len(c.Notes) - n; more > 0 {
		fmt.Fprintf(&b, "- and %d more\n", more)
	}
	return b.String()
}

// byImportance puts first what doesn't work, then what changes.
func byImportance(overlays []OverlayPlan) []OverlayPlan {
	rank := func(o OverlayPlan) int {
		switch {
		case o.hasProblems():
			return 0
		case o.Plan.HasChanges() || len(o.Consequences) > 0:
			return 1
		}
		return 2
	}
	sorted := slices.Clone(overlays)
	slices.SortStableFunc(sorted, func(a, b OverlayPlan) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Path, b.Path))
	})
	return sorted
}

// hasProblems reports whether there are problems, which costs less than to word them.
func (o OverlayPlan) hasProblems() bool { return o.Err != "" || o.Plan.HasErrors() }

// problems returns the first error of an overlay, in one line, masked, and how many
// there are: a comment has no room for more, and there can be very many.
func (o OverlayPlan) problems() (first string, n int) {
	if o.Err != "" {
		return oneLine(object.Scrub(o.Err, o.Plan.Secrets)), 1
	}
	var c Change
	for _, other := range o.Plan.Changes {
		if !other.isProblem() {
			continue
		}
		if n++; n == 1 || object.Compare(other.ID, c.ID) < 0 {
			c = other
		}
	}
	if n == 0 {
		return "", 0
	}
	text := c.ID.String() + ": " + cmp.Or(c.message(), wordsOf(c.Action))
	return oneLine(object.Scrub(text, o.Plan.Secrets)), n
}

// tableOf is the table with the first n overlays.
func tableOf(overlays []OverlayPlan, n int) string {
	machines := slices.ContainsFunc(overlays, func(o OverlayPlan) bool { return len(o.Consequences) > 0 })
	columns := []string{"Overlay", "Create", "Update", "Delete", "After approval"}
	align := []string{"---", "--:", "--:", "--:", "--:"}
	counted := []Action{Create, Update, Delete, PendingDeletion}
	// A new cluster in a Namespace of its own: all in it can be checked only later.
	if slices.ContainsFunc(overlays, func(o OverlayPlan) bool { return o.Plan.Count(NotChecked) > 0 }) {
		columns, align, counted = append(columns, "Not checked"), append(align, "--:"), append(counted, NotChecked)
	}
	columns, align = append(columns, "Problems"), append(align, "---")
	if machines {
		columns, align = append(columns, "Machines"), append(align, "---")
	}
	var b strings.Builder
	row := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	b.WriteString("\n")
	row(columns)
	row(align)
	for _, o := range overlays[:n] {
		cells := []string{code(o.Path, mostName)}
		for _, action := range counted {
			if o.Err != "" {
				cells = append(cells, "?")
			} else {
				cells = append(cells, fmt.Sprint(o.Plan.Count(action)))
			}
		}
		cells = append(cells, cell(o.problems()))
		if machines {
			first := slices.Concat(o.Consequences, []string{""})[0]
			cells = append(cells, cell(object.Scrub(first, o.Plan.Secrets), len(o.Consequences)))
		}
		row(cells)
	}
	if more := len(overlays) - n; more > 0 {
		cells := make([]string, len(columns))
		cells[0] = fmt.Sprintf("and %d more", more)
		row(cells)
	}
	return b.String()
}

// cell shows the first of n texts, and how many there are besides.
func cell(first string, n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return code(first, mostCell)
	}
	return fmt.Sprintf("%s and %d more", code(first, mostCell), n-1)
}

func scrubAll(texts []string, o OverlayPlan) []string {
	scrubbed := make([]string, 0, len(texts))
	for _, text := range texts {
		scrubbed = append(scrubbed, object.Scrub(text, o.Plan.Secrets))
	}
	return scrubbed
}

// counts sums up what happens to overlays.
func counts(overlays []OverlayPlan) string {
	if len(overlays) == 0 {
		return "no cluster affected"
	}
	count := map[Action]int{}
	failed := 0
	for _, o := range overlays {
		for _, c := range o.Plan.Changes {
			count[c.Action]++
		}
		if o.hasProblems() {
			failed++
		}
	}
	text := fmt.Sprintf("%s: %d to create, %d to update, %d to delete", plural(len(overlays), "overlay"),
		count[Create], count[Update], count[Delete])
	if n := count[PendingDeletion]; n > 0 {
		text += fmt.Sprintf(", %d to delete after approval", n)
	}
	if n := count[NotChecked]; n > 0 {
		text += fmt.Sprintf(", %d not checked", n)
	}
	if failed > 0 {
		text += fmt.Sprintf("; %s with problems", plural(failed, "overlay"))
	}
	return text
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// Verdict is the commit status of a pull request: whether it could be merged and
// applied, and in at most 140 characters what it would do, or the first error.
func Verdict(overlays []OverlayPlan) (ok bool, description string) {
	const most = 140
	sorted := byImportance(overlays)
	if len(sorted) > 0 {
		if first, n := sorted[0].problems(); n > 0 {
			return false, clip(harmless(sorted[0].Path+": "+first), most)
		}
	}
	return true, clip(counts(overlays), most)
}
