package drift

import (
	"cmp"
	"strconv"
	"strings"
	"unicode/utf8"

	"capstan.dev/capstan/api/v1alpha1"
)

// What a Finding has room for, in bytes: the API counts characters, which are no more.
const (
	maxValue   = 256
	maxField   = 512
	maxManager = 128
)

// at returns the value at a JSON pointer. Where a text is in the way, as where secret
// material is masked as a whole, it is that, with the pointer to it.
func at(value any, pointer string) (string, any) {
	for end := 0; end < len(pointer); {
		name, _, _ := strings.Cut(pointer[end+1:], "/")
		switch v := value.(type) {
		case map[string]any:
			value = v[unescaper.Replace(name)]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(v) {
				return pointer, nil
			}
			value = v[i]
		case nil:
			return pointer, nil
		default:
			return pointer[:end], value
		}
		end += 1 + len(name)
	}
	return pointer, value
}

var unescaper = strings.NewReplacer("~1", "/", "~0", "~")

// text is a value as JSON, as long as a Finding has room for; empty for none.
func text(value any) string {
	if value == nil {
		return ""
	}
	return cut(strings.ToValidUTF8(encode(value), "\uFFFD"), maxValue)
}

// cut shortens a text to a number of bytes, between characters, and shows that it did.
func cut(s string, limit int) string {
	const ellipsis = "…"
	if len(s) <= limit {
		return s
	}
	end := limit - len(ellipsis)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}

// cutPointer shortens a JSON pointer to one that has room: to the field that it is in.
func cutPointer(pointer string) string {
	for len(pointer) > maxField {
		pointer = pointer[:strings.LastIndexByte(pointer, '/')]
	}
	return pointer
}

// comparePointers orders JSON pointers by their elements, indexes by number.
func comparePointers(a, b string) int {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(x), len(y)) {
		if x[i] == y[i] {
			continue
		}
		m, errM := strconv.Atoi(x[i])
		n, errN := strconv.Atoi(y[i])
		if errM == nil && errN == nil && m != n {
			return cmp.Compare(m, n)
		}
		return cmp.Compare(x[i], y[i])
	}
	return cmp.Compare(len(x), len(y))
}

// compareFindings orders findings: the most urgent class first, then by field.
func compareFindings(a, b v1alpha1.Finding) int {
	return cmp.Or(cmp.Compare(urgency(a.Class), urgency(b.Class)), comparePointers(a.Field, b.Field))
}

func urgency(class v1alpha1.FindingClass) int {
	switch class {
	case v1alpha1.FindingMissing:
		return 0
	case v1alpha1.FindingRecreated:
		return 1
	case v1alpha1.FindingChanged:
		return 2
	case v1alpha1.FindingOwnershipLost:
		return 3
	case v1alpha1.FindingForeign:
	}
	return 4
}
