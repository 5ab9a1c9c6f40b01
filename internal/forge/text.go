package forge

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxServerText is the longest text of a forge that goes into an error, in characters.
const maxServerText = 300

// line makes one line of a text: what can't be printed, and what would change how the rest
// is read, becomes a space.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
	return strings.Join(strings.Fields(s), " ")
}

// cut shortens a text to n characters; the last of a shortened one says so.
func cut(s string, n int) string {
	if len(s) <= n || utf8.RuneCountInString(s) <= n {
		return s
	}
	count := 0
	for i := range s {
		if count == n-1 {
			return strings.TrimRightFunc(s[:i], unicode.IsSpace) + "…"
		}
		count++
	}
	return s
}

// scrub takes secrets out of a text that somebody else wrote.
func scrub(s string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "***")
		}
	}
	return s
}
