package chaos

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for setting, want := range map[string]string{
		"never-boots=ns/m":           "never-boots=ns/m:1",
		"never-boots=ns/m-*:3":       "never-boots=ns/m-*:3",
		"node-unhealthy=*/*:all":     "node-unhealthy=*/*:all",
		"api-delay=200ms":            "api-delay=200ms",
		"api-delay=0s":               "",
		"webhook-down":               "webhook-down",
		"webhook-down=false":         "",
		"never-boots=m":              `error: "m" is not of the form`,
		"never-boots=":               `error: "" is not of the form`,
		"never-boots=a/b/c":          `error: "a/b/c" is not of the form`,
		"never-boots=ns/[":           "error: syntax error",
		"never-boots=ns/m:0":         `error: "0" after the colon`,
		"never-boots=ns/m:-1":        `error: "-1" after the colon`,
		"node-unhealthy=ns/m:":       `error: "" after the colon`,
		"api-delay=soon":             `error: "soon" is not a duration`,
		"api-delay=-1s":              `error: "-1s" is not a duration`,
		"webhook-down=perhaps":       `error: "perhaps" is neither`,
		"earthquake":                 `error: unknown knob "earthquake"`,
		"never-boot=ns/m":            `error: unknown knob "never-boot"`,
		"node-unhealthy=ns/m:1:more": `error: "1:more" after the colon`,
	} {
		var k Knobs
		err := k.Parse(setting)
		problem, isError := strings.CutPrefix(want, "error: ")
		switch {
		case isError && (err == nil || !strings.Contains(err.Error(), problem)):
			t.Errorf("%s: error %v, want %s", setting, err, problem)
		case !isError && err != nil:
			t.Errorf("%s: %v", setting, err)
		case !isError && k.String() != want:
			t.Errorf("%s: is %q, want %q", setting, k, want)
		}
	}
}

// What String writes, Parse reads.
func TestRoundTrip(t *testing.T) {
	knobs := Knobs{
		NeverBoots:    Picks{{"a/b", 2}, {"a/*", 0}},
		NodeUnhealthy: Picks{{"x/y-*", 1}},
		APIDelay:      time.Second, WebhookDown: true,
	}
	var got Knobs
	for setting := range strings.FieldsSeq(knobs.String()) {
		if err := got.Parse(setting); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(knobs.String(), got.String()); diff != "" {
		t.Error(diff)
	}
}

// A pick strikes the first machines that it is asked about, sticks to them, and lets them go when it is gone.
func TestMonkey(t *testing.T) {
	m := New(Knobs{NeverBoots: Picks{{"ns/w-*", 2}}})
	asked := func() (out []string) {
		for _, machine := range []string{"cp-0", "w-0", "w-1", "w-2"} {
			if m.NeverBoots("ns", machine) {
				out = append(out, machine)
			}
		}
		return out
	}
	want := func(machines ...string) {
		t.Helper()
		if diff := cmp.Diff(machines, asked()); diff != "" {
			t.Error(diff)
		}
	}
	want("w-0", "w-1")
	want("w-0", "w-1")
	if m.NodeUnhealthy("ns", "w-0") || m.NeverBoots("other", "w-0") {
		t.Error("it strikes whom it was not set on")
	}
	var told []string
	m.OnChange(func(k Knobs) { told = append(told, k.String()); m.NeverBoots("ns", "cp-0") })
	m.Set(Knobs{NeverBoots: Picks{{"ns/w-*", 2}}, APIDelay: time.Second})
	want("w-0", "w-1")
	m.Set(Knobs{})
	want()
	m.Set(Knobs{NeverBoots: Picks{{"ns/*", 0}}})
	want("cp-0", "w-0", "w-1", "w-2")
	if diff := cmp.Diff([]string{"never-boots=ns/w-*:2", "api-delay=1s never-boots=ns/w-*:2", "", "never-boots=ns/*:all"}, told); diff != "" {
		t.Error(diff)
	}
}
