package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
)

// TestWatchShowsNews shows pages as time goes by: off a terminal an estimate that comes
// nearer is no news, on one it is; a change is on both.
func TestWatchShowsNews(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	dev := overlayAt("clusters/dev", revision1, at(v1alpha1.PhaseProgressing, metav1.ConditionUnknown, "a VM is cloned"))
	dev.Status.Progress.EstimatedTime = &metav1.Time{Time: now.Add(10 * time.Minute)}
	view := func() page { return fleetViewOf(nil, []v1alpha1.ClusterOverlay{*dev}) }
	for _, c := range []struct {
		clear, json bool
		want        []int // pages after each step
	}{
		{clear: false, want: []int{1, 1, 2, 3, 3, 4}}, {clear: true, want: []int{1, 2, 3, 4, 4, 5}}, {json: true, want: []int{1, 1, 2, 3, 3, 4}},
	} {
		var out, errOut bytes.Buffer
		w := statusWatch{app: &app{out: &out, err: &errOut}, style: style{plain: true}, clear: c.clear, json: c.json}
		dev.Status.Progress.Workers.Done = 1
		pages := 0
		seen := 0
		show := func(p page, problem error, now time.Time) {
			t.Helper()
			if err := w.show(p, problem, now); err != nil {
				t.Fatal(err)
			}
			if out.Len() > seen {
				pages++
			}
			seen = out.Len()
		}
		var got []int
		for step := range c.want {
			switch step {
			case 0:
				show(view(), nil, now)
			case 1: // it is 8 minutes later
				show(view(), nil, now.Add(8*time.Minute))
			case 2:
				dev.Status.Progress.Workers.Done = 2
				show(view(), nil, now.Add(8*time.Minute))
			case 3, 4:
				show(nil, errors.New("nobody is there\x1b[2J"), now.Add(8*time.Minute))
			case 5:
				show(view(), nil, now.Add(8*time.Minute))
			}
			got = append(got, pages)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%+v: %v pages, want %v:\n%s", c, got, c.want, out.String())
		}
		if c.clear != strings.Contains(out.String(), "\x1b[H\x1b[2J") || strings.Contains(out.String(), "there\x1b") || errOut.Len() > 0 {
			t.Errorf("%+v: %q %q", c, out.String(), errOut.String())
		}
	}
}

// TestWatchWarns says once what can't be read, and again if it is something else; on a
// terminal below the page.
func TestWatchWarns(t *testing.T) {
	view := func(unread ...string) page {
		return overlayView{overlayStatus: overlayStatusOf(overlayAt("clusters/dev", revision1)), Unread: unread}
	}
	var out, errOut bytes.Buffer
	w := statusWatch{app: &app{out: &out, err: &errOut}, style: style{plain: true}}
	for _, p := range []page{view("a"), view("a"), view("a", "b"), view("b"), view()} {
		if err := w.show(p, nil, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if want := "warning: not all is shown: a\nwarning: not all is shown: b\n"; errOut.String() != want {
		t.Errorf("stderr %q, want %q", errOut.String(), want)
	}
	out.Reset()
	w.clear = true
	if err := w.show(view("c"), nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "not all is shown: c") || strings.Contains(errOut.String(), "c\n") {
		t.Errorf("stdout %q, stderr %q", out.String(), errOut.String())
	}
}

// TestManyOverlays prints hundreds of overlays: each is one line, in order, and those that
// need somebody are marked.
func TestManyOverlays(t *testing.T) {
	const count = 500
	var overlays []v1alpha1.ClusterOverlay
	for i := range count {
		o := overlayAt(fmt.Sprintf("clusters/c%03d", count-1-i), revision1)
		if i%100 == 0 {
			at(v1alpha1.PhaseStalled, metav1.ConditionFalse, strings.Repeat("no quota ", 50))(o)
		}
		overlays = append(overlays, *o)
	}
	var out bytes.Buffer
	if err := fleetViewOf([]v1alpha1.Fleet{*fleetAt(revision1, "")}, overlays).text(&out, style{plain: true, width: 130}, time.Now()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if !strings.Contains(lines[1], "495/500") || !strings.Contains(lines[1], "5 stalled, 495 converged") {
		t.Errorf("Fleet: %s", lines[1])
	}
	lines = lines[4:]
	if len(lines) != count {
		t.Fatalf("%d lines, want %d", len(lines), count)
	}
	for i, line := range lines {
		if !strings.Contains(line, fmt.Sprintf(" clusters/c%03d ", i)) || len([]rune(line)) > 130 {
			t.Fatalf("line %d: %q", i, line)
		}
		if marked := strings.HasPrefix(line, "!"); marked != (i%100 == 99) {
			t.Fatalf("line %d: marked is %v", i, marked)
		}
	}
}
