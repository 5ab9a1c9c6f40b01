package capi

import (
	"strings"
	"unicode/utf8"
)

// mostPointers is how many pointers one annotation may hold: they are looked at for
// every field of the object.
const mostPointers = 100

// ParsePointers reads JSON pointers that are separated by commas or spaces, each
// once, in their order. Those that could never be meant are returned apart: without a
// leading slash, with an empty element, with a wrong escape, or one too many.
func ParsePointers(text string) (pointers, invalid []string) {
	seen := map[string]bool{}
	for p := range strings.FieldsFuncSeq(text, separates) {
		switch {
		case seen[p]:
		case len(pointers) < mostPointers && validPointer(p):
			pointers = append(pointers, p)
		case len(invalid) < mostPointers:
			invalid = append(invalid, p)
		}
		seen[p] = true
	}
	return pointers, invalid
}

func separates(r rune) bool {
	return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r'
}

// validPointer tells whether a text is a JSON pointer (RFC 6901) of at least one
// element, none of them empty: no key of an object is.
func validPointer(p string) bool {
	if !strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") || strings.Contains(p, "//") || !utf8.ValidString(p) {
		return false
	}
	for i := range len(p) {
		if p[i] == '~' && (i+1 == len(p) || p[i+1] != '0' && p[i+1] != '1') {
			return false
		}
	}
	return true
}

// Covers tells whether a pattern covers a field: both are JSON pointers, and a pattern
// covers all below it. In a pattern an element * stands for any one, and a * at an
// element's end for any rest of it, as in /metadata/annotations/example.com~1*.
func Covers(pattern, pointer string) bool {
	for pattern != "" {
		if pattern[0] != '/' || pointer == "" || pointer[0] != '/' {
			return false
		}
		var want, got string
		want, pattern = firstElement(pattern)
		got, pointer = firstElement(pointer)
		if start, open := strings.CutSuffix(want, "*"); want != got && !(open && strings.HasPrefix(got, start)) {
			return false
		}
	}
	return true
}

// firstElement takes the first element off a JSON pointer, which isn't empty.
func firstElement(pointer string) (element, rest string) {
	if end := strings.IndexByte(pointer[1:], '/'); end >= 0 {
		return pointer[1 : 1+end], pointer[1+end:]
	}
	return pointer[1:], ""
}

// escape writes a key as an element of a JSON pointer.
func escape(key string) string {
	if !strings.ContainsAny(key, "~/") {
		return key
	}
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
