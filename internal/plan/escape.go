package plan

import (
	"html"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Whatever comes from manifests, from the cluster and from Git is a stranger's text.
// On a forge it stands in code only, in blocks or spans, because there nothing is a
// link, a mention, a reference or a tag.

// harmless makes a text one line of valid UTF-8 that shows as it is: without control
// characters, without those that turn the direction of writing or have no width, and
// without the beginning of a comment, by which comments are found again.
func harmless(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co), unicode.Is(unicode.Variation_Selector, r),
			unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r):
			return '·'
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
	return strings.ReplaceAll(text, "<!--", "<! --")
}

// code is a text as a code span. It can stand in a table.
func code(text string, most int) string {
	text = clip(strings.ReplaceAll(harmless(oneLine(text)), "|", "¦"), most)
	if text == "" {
		text = "-"
	}
	ticks := strings.Repeat("`", longestRun(text)+1)
	pad := ""
	if strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") {
		pad = " "
	}
	return ticks + pad + text + pad + ticks
}

// htmlCode is a text as code within HTML.
func htmlCode(text string, most int) string {
	return "<code>" + html.EscapeString(clip(harmless(oneLine(text)), most)) + "</code>"
}

// fenced is a block of code; lines are harmless.
func fenced(language string, lines []string) string {
	fence := 3
	for _, line := range lines {
		fence = max(fence, longestRun(line)+1)
	}
	ticks := strings.Repeat("`", fence)
	return ticks + language + "\n" + strings.Join(append(lines[:len(lines):len(lines)], ticks), "\n") + "\n"
}

// longestRun is the number of backticks in the longest row of them.
func longestRun(text string) int {
	longest, run := 0, 0
	for _, r := range text {
		if r != '`' {
			run = 0
			continue
		}
		run++
		longest = max(longest, run)
	}
	return longest
}

// clip cuts a text to a number of bytes, between characters.
func clip(text string, most int) string {
	const more = "…"
	if len(text) <= most {
		return text
	}
	end := max(most-len(more), 0)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}
