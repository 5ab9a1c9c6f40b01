package capi

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestParsePointers(t *testing.T) {
	var many []string
	for i := range mostPointers + 2 {
		many = append(many, fmt.Sprintf("/spec/f%d", i))
	}
	for _, c := range []struct {
		text              string
		pointers, invalid []string
	}{
		{"", nil, nil},
		{" ,\n, ", nil, nil},
		{"/spec/replicas", []string{"/spec/replicas"}, nil},
		{"/spec/a,/spec/b /spec/c\n/spec/a", []string{"/spec/a", "/spec/b", "/spec/c"}, nil},
		{"/metadata/labels/a.b~1c", []string{"/metadata/labels/a.b~1c"}, nil},
		{"/a~0b/*", []string{"/a~0b/*"}, nil},
		{"spec/replicas .spec.b $.c", nil, []string{"spec/replicas", ".spec.b", "$.c"}},
		{"/ // /a/ /a//b", nil, []string{"/", "//", "/a/", "/a//b"}},
		{"/a~ /a~2 /~/b /ok", []string{"/ok"}, []string{"/a~", "/a~2", "/~/b"}},
		{"/a\xff", nil, []string{"/a\xff"}},
		{strings.Join(many, ","), many[:mostPointers], many[mostPointers:]},
	} {
		pointers, invalid := ParsePointers(c.text)
		if d := gocmp.Diff(c.pointers, pointers); d != "" {
			t.Errorf("%q: pointers -want +got:\n%s", c.text, d)
		}
		if d := gocmp.Diff(c.invalid, invalid); d != "" {
			t.Errorf("%q: invalid -want +got:\n%s", c.text, d)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		pattern, pointer string
		want             bool
	}{
		{"/spec/replicas", "/spec/replicas", true},
		{"/spec", "/spec/replicas", true},
		{"/spec/replicas", "/spec", false},
		{"/spec/rep", "/spec/replicas", false},
		{"/spec/replicas", "/spec/rep", false},
		{"/spec/*/a", "/spec/0/a/b", true},
		{"/spec/*/a", "/spec/a", false},
		{"/spec/*", "/spec", false},
		{"/*", "/spec/a", true},
		{"/metadata/labels/a.b~1*", "/metadata/labels/a.b~1c", true},
		{"/metadata/labels/a.b~1*", "/metadata/labels/a.b", false},
		{"/metadata/labels/a.b~1*", "/metadata/labels/a.b~1c/d", true},
		{"/a*b", "/axb", false}, // only at the end
		{"", "/spec", true},     // the whole object
		{"", "", true},
		{"/spec", "", false},
		{"spec", "/spec", false},
		{"/spec", "spec", false},
		{"/a~1b", "/a/b", false},
	} {
		if got := Covers(c.pattern, c.pointer); got != c.want {
			t.Errorf("Covers(%q, %q) = %v", c.pattern, c.pointer, got)
		}
	}
}

// coversPlainly is what Covers means, without a thought of speed.
func coversPlainly(pattern, pointer string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(pointer, "/")
	if len(want) > len(got) || want[0] != "" || got[0] != "" {
		return pattern == ""
	}
	for i, element := range want {
		if strings.HasSuffix(element, "*") {
			if !strings.HasPrefix(got[i], strings.TrimSuffix(element, "*")) {
				return false
			}
		} else if element != got[i] {
			return false
		}
	}
	return true
}

func TestCoversProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(6, 1))
	alphabet := []string{"a", "ab", "abc", "0", "a~1b", "a~0", "b"}
	var covered int
	for range 20_000 {
		var pointer, pattern []string
		for range 1 + random.IntN(4) {
			pointer = append(pointer, alphabet[random.IntN(len(alphabet))])
		}
		pattern = slices.Clone(pointer[:1+random.IntN(len(pointer))])
		for i := range pattern {
			switch random.IntN(6) {
			case 0:
				pattern[i] = "*"
			case 1:
				pattern[i] = pattern[i][:random.IntN(len(pattern[i])+1)] + "*"
			case 2:
				pattern[i] = alphabet[random.IntN(len(alphabet))]
			}
		}
		p, q := "/"+strings.Join(pattern, "/"), "/"+strings.Join(pointer, "/")
		got := Covers(p, q)
		if got != coversPlainly(p, q) {
			t.Fatalf("Covers(%q, %q) = %v", p, q, got)
		}
		if got != Covers(p, q+"/below") && got {
			t.Fatalf("%q covers %q, and not what is below", p, q)
		}
		if got {
			covered++
		}
		if !Covers(q, q) {
			t.Fatalf("%q does not cover itself", q)
		}
	}
	if covered < 1000 || covered > 19_000 {
		t.Errorf("%d of 20000 are covered: too many of the same", covered)
	}
}

func FuzzPointers(f *testing.F) {
	for _, seed := range []string{"/spec/replicas", "/a~1b,/c/*", " /x\t/y~", "~", "///", "/*"} {
		f.Add(seed, "/spec/replicas/x")
	}
	f.Fuzz(func(t *testing.T, text, pointer string) {
		pointers, invalid := ParsePointers(text)
		for _, p := range pointers {
			if !validPointer(p) || slices.Contains(invalid, p) || !Covers(p, p) || !Covers(p, p+"/x") {
				t.Errorf("%q of %q", p, text)
			}
			if Covers(p, pointer) != coversPlainly(p, pointer) {
				t.Errorf("Covers(%q, %q)", p, pointer)
			}
		}
		heads(pointer)
	})
}
