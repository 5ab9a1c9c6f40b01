package main

import (
	"bytes"
	"testing"
)

func TestPages(t *testing.T) {
	const one, two = "\nFLEET  X\na\n\nb\n", "\nFLEET  X\nc\n"
	line := func(text string) string { return "\x1b[?7l" + text + "\x1b[?7h\n" }
	// The empty line above the first page is replaced with it.
	inPlace := line("") + "\x1b[1A\x1b[J" + line("FLEET  X") + line("a") + line("") + line("b") +
		line("") + "\x1b[5A\x1b[J" + line("FLEET  X") + line("c")
	for name, c := range map[string]struct {
		inPlace bool
		chunks  []string
		want    string
	}{
		"no terminal":            {false, []string{one, two}, one + two},
		"page by page":           {true, []string{one, two}, inPlace},
		"all at once":            {true, []string{one + two}, inPlace},
		"in the middle of lines": {true, []string{one[:4], one[4:] + two[:3], two[3:]}, inPlace},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			p := &pages{out: &out, inPlace: c.inPlace}
			for _, chunk := range c.chunks {
				if n, err := p.Write([]byte(chunk)); n != len(chunk) || err != nil {
					t.Fatalf("%d, %v", n, err)
				}
			}
			if got := out.String(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestQuote(t *testing.T) {
	for path, want := range map[string]string{
		"/tmp/capstan-demo-1/fleet": "/tmp/capstan-demo-1/fleet",
		"/home/a b/it's":            `'/home/a b/it'\''s'`,
	} {
		if got := quote(path); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
