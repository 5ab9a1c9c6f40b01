package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
)

func TestBar(t *testing.T) {
	for _, c := range []struct {
		done, total int32
		all         bool
		want        string
	}{
		{0, 6, false, "[............]"},
		{3, 6, false, "[######......]"},
		{1, 1000, false, "[............]"},
		{999, 1000, false, "[###########.]"},
		// All machines are there, and one more that has to go.
		{6, 6, false, "[###########.]"},
		{6, 6, true, "[############]"},
		{9, 6, false, "[###########.]"},
		{-1, 6, false, "[............]"},
		{0, 0, false, "[............]"},
		{0, 0, true, "[############]"},
	} {
		if got := (style{plain: true}).bar(c.done, c.total, c.all); got != c.want {
			t.Errorf("bar(%d, %d, %v) = %s, want %s", c.done, c.total, c.all, got, c.want)
		}
		if n := utf8.RuneCountInString((style{}).bar(c.done, c.total, c.all)); n != barWidth {
			t.Errorf("bar(%d, %d, %v) on a terminal is %d wide, want %d", c.done, c.total, c.all, n, barWidth)
		}
	}
}

func TestProgressText(t *testing.T) {
	for name, c := range map[string]struct {
		progress *v1alpha1.Progress
		want     string
	}{
		"not known":      {nil, "-"},
		"no machines":    {&v1alpha1.Progress{Phase: v1alpha1.PhaseConverged}, "-"},
		"some":           {&v1alpha1.Progress{Phase: v1alpha1.PhaseProgressing, ControlPlane: v1alpha1.MachineCounts{Desired: 3, Existing: 3, Done: 3}, Workers: v1alpha1.MachineCounts{Desired: 3, Existing: 2, Done: 1}}, "[########....] 4/6"},
		"surplus":        {&v1alpha1.Progress{Phase: v1alpha1.PhaseProgressing, Workers: v1alpha1.MachineCounts{Desired: 2, Existing: 3, Done: 2}}, "[###########.] 2/2 +1"},
		"none wanted":    {&v1alpha1.Progress{Phase: v1alpha1.PhaseProgressing, Workers: v1alpha1.MachineCounts{Existing: 2}}, "[............] 0/0 +2"},
		"all":            {&v1alpha1.Progress{Phase: v1alpha1.PhaseConverged, Workers: v1alpha1.MachineCounts{Desired: 2, Existing: 2, Done: 2}}, "[############] 2/2"},
		"stuck, all fit": {&v1alpha1.Progress{Phase: v1alpha1.PhaseStalled, Workers: v1alpha1.MachineCounts{Desired: 2, Existing: 2, Done: 2}}, "[###########.] 2/2"},
	} {
		if got := (style{plain: true}).progressText(c.progress); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestLeftText(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for left, want := range map[time.Duration]string{
		-time.Hour: "any moment", 0: "any moment", time.Second: "under 1m left", 59 * time.Second: "under 1m left",
		time.Minute: "about 1m left", 170 * time.Second: "about 3m left", 14*time.Minute + 40*time.Second: "about 15m left",
		59*time.Minute + 40*time.Second: "about 60m left", 64 * time.Minute: "about 64m left", 124 * time.Minute: "about 2h left",
	} {
		p := &v1alpha1.Progress{Phase: v1alpha1.PhaseProgressing, EstimatedTime: &metav1.Time{Time: now.Add(left)}}
		if got := leftText(p, now); got != want {
			t.Errorf("%s: %q, want %q", left, got, want)
		}
	}
	for name, p := range map[string]*v1alpha1.Progress{
		"no progress": nil, "no estimate": {Phase: v1alpha1.PhaseProgressing},
		"stalled": {Phase: v1alpha1.PhaseStalled, EstimatedTime: &metav1.Time{Time: now.Add(time.Hour)}},
	} {
		if got := leftText(p, now); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestAges(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(d)} }
	if got := agoText(at(-3*time.Minute), now); got != "3m ago" {
		t.Errorf("%q", got)
	}
	if got := agoText(at(time.Minute), now); got != "0s ago" { // our clock is behind
		t.Errorf("%q", got)
	}
	if got := agoText(nil, now); got != "" {
		t.Errorf("%q", got)
	}
	for _, c := range []struct {
		from, to *metav1.Time
		want     string
	}{
		{at(0), at(90 * time.Second), "90s"}, {at(0), at(-time.Second), "0s"}, {nil, at(0), "-"}, {at(0), nil, "-"},
		{at(0), at(10 * time.Minute), "10m"},
	} {
		if got := secondsText(secondsBetween(c.from, c.to)); got != c.want {
			t.Errorf("from %v to %v: %q, want %q", c.from, c.to, got, c.want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		text string
		room int
		want string
	}{
		{"abc", 3, "abc"}, {"abcdef", 5, "abc …"}, {"ab cdef", 5, "ab …"}, {"äöüßé", 5, "äöüßé"}, {"äöüßéè", 5, "äöü …"}, {"abc", 0, " …"}, {"", 0, ""},
	} {
		if got := cut(c.text, c.room); got != c.want {
			t.Errorf("cut(%q, %d) = %q, want %q", c.text, c.room, got, c.want)
		}
	}
}

// TestTableFits prints rows of all kinds at many widths: no line is wider than the
// terminal as long as there is room, each row is one line, and columns line up.
func TestTableFits(t *testing.T) {
	for width := range 120 {
		s := style{width: width}
		tab := table{header: []string{"", "NAME", "STATE", "WAITS FOR"}}
		tab.rows = append(tab.rows, []cell{{"!", red}, {text: "clusters/dev"}, {"Stalled", red}, {text: strings.Repeat("a long text\nin lines\twith tabs ", 9)}})
		tab.rows = append(tab.rows, []cell{{}, {text: "clusters/größer\x1b[2J"}, {"Converged", green}, {}})
		var out bytes.Buffer
		if err := tab.print(&out, s, "  "); err != nil {
			t.Fatal(err)
		}
		text := stripColors(out.String())
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if len(lines) != 3 || strings.Contains(text, "\x1b") {
			t.Fatalf("width %d:\n%q", width, out.String())
		}
		column := strings.Index(lines[0], "STATE")
		for i, line := range lines {
			if n := utf8.RuneCountInString(line); n > max(width, column+len("Converged")+2+leastRoom) && width > 0 {
				t.Errorf("width %d: line %d is %d wide: %q", width, i, n, line)
			}
			if !strings.Contains("STATE Stalled Converged", strings.Fields(string([]rune(line)[column:]))[0]) {
				t.Errorf("width %d: line %d is out of line: %q", width, i, line)
			}
		}
	}
}

// stripColors takes our own colors out.
func stripColors(text string) string {
	for _, c := range []color{red, green, yellow, faint, "\x1b[0m"} {
		text = strings.ReplaceAll(text, string(c), "")
	}
	return text
}
