package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/api/v1alpha1"
)

// driftCase is what a file of testdata/drift has as input.yaml.
type driftCase struct {
	Now      time.Time                 `json:"now"`
	Overlays []v1alpha1.ClusterOverlay `json:"overlays"`
	// One makes the page of the first overlay, Corrections that with the corrections.
	One         bool `json:"one"`
	Corrections bool `json:"corrections"`
	// Verdict is the exit code.
	Verdict int `json:"verdict"`
}

func TestDriftText(t *testing.T) {
	testPages(t, "testdata/drift", func(input []byte) (page, time.Time, error) {
		var c driftCase
		if err := yaml.UnmarshalStrict(input, &c); err != nil {
			return nil, c.Now, err
		}
		view := driftViewOf(c.Overlays, "")
		view.corrected = c.Corrections
		var shown driftPage = view
		if c.One {
			shown = overlayDriftOf(&c.Overlays[0])
		}
		if got := shown.verdict(); got != c.Verdict {
			t.Errorf("exit code %d, want %d", got, c.Verdict)
		}
		return shown, c.Now, nil
	})
}

// TestDriftHostile shows what others have written, in all places that are theirs.
func TestDriftHostile(t *testing.T) {
	const evil = "a\x1b[2J\u009b31mb\r\nTORN\td\x00"
	ref := v1alpha1.ObjectReference{Group: evil, Kind: evil, Namespace: evil, Name: evil}
	findings := []v1alpha1.Finding{
		{Class: v1alpha1.FindingChanged, Field: "/" + evil, From: evil, To: evil + "2", Writer: v1alpha1.Writer{Manager: evil, Class: evil, Operation: evil, Subresource: evil}},
		{Class: v1alpha1.FindingChanged, Field: "/added", From: evil},
		{Class: v1alpha1.FindingChanged, Field: "/removed", To: evil},
		{Class: evil, Field: evil},
	}
	o := v1alpha1.ClusterOverlay{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "home-dev"},
		Spec:       v1alpha1.ClusterOverlaySpec{FleetRef: v1alpha1.LocalReference{Name: "home"}, Path: evil},
		Status: v1alpha1.ClusterOverlayStatus{
			Drift:       []v1alpha1.DriftedObject{{ObjectReference: ref, Action: v1alpha1.DriftHeld, Message: evil, Hash: evil, Findings: findings}},
			Corrections: []v1alpha1.Correction{{ObjectReference: ref, Count: 1, Findings: findings}},
			Conditions:  []metav1.Condition{{Type: v1alpha1.InSyncCondition, Status: metav1.ConditionUnknown, Reason: evil, Message: evil}},
		},
	}
	missing := o
	missing.Status.Drift = []v1alpha1.DriftedObject{{
		ObjectReference: ref, Action: evil, Findings: []v1alpha1.Finding{{Class: v1alpha1.FindingMissing}},
	}}
	for name, shown := range map[string]page{
		"all": driftView{Overlays: []overlayDrift{overlayDriftOf(&o)}, corrected: true}, "one": overlayDriftOf(&o), "missing": overlayDriftOf(&missing),
		"status": overlayViewOf(&o),
	} {
		var text, asJSON bytes.Buffer
		if err := shown.text(&text, style{plain: true}, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := (&app{out: &asJSON}).printJSON(shown); err != nil {
			t.Fatal(err)
		}
		for _, out := range []string{text.String(), asJSON.String()} {
			if bad := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) }); bad >= 0 {
				t.Errorf("%s: control character %q in\n%s", name, out[bad:min(bad+10, len(out))], out)
			}
			for line := range strings.Lines(out) {
				if strings.HasPrefix(strings.TrimSpace(line), "TORN") {
					t.Errorf("%s: a torn line %q in\n%s", name, line, out)
				}
			}
		}
	}
}

// TestDriftStrangeStatus shows statuses that the agent doesn't write.
func TestDriftStrangeStatus(t *testing.T) {
	for name, c := range map[string]struct {
		status v1alpha1.ClusterOverlayStatus
		want   string // in the text
		code   int
	}{
		"nothing": {v1alpha1.ClusterOverlayStatus{}, "not looked at it yet", exitNotJudged},
		"drift of which nothing is said": {v1alpha1.ClusterOverlayStatus{Conditions: []metav1.Condition{
			{Type: v1alpha1.InSyncCondition, Status: metav1.ConditionFalse, Reason: "Drifted", Message: "something"},
		}}, "something", exitChanges},
		"an object without findings": {v1alpha1.ClusterOverlayStatus{Drift: []v1alpha1.DriftedObject{
			{ObjectReference: v1alpha1.ObjectReference{Kind: "Cluster", Name: "dev"}, Action: "New"},
		}}, "Cluster dev", exitChanges},
		"a change that can't be compared": {v1alpha1.ClusterOverlayStatus{Drift: []v1alpha1.DriftedObject{
			{Action: v1alpha1.DriftBlocked, Findings: []v1alpha1.Finding{{Class: v1alpha1.FindingChanged}}},
		}}, "Changed", exitChanges},
		"no row for it": {v1alpha1.ClusterOverlayStatus{DriftedObjects: 3}, "3", exitChanges},
	} {
		o := overlayDriftOf(&v1alpha1.ClusterOverlay{Spec: v1alpha1.ClusterOverlaySpec{Path: "clusters/dev"}, Status: c.status})
		for _, shown := range []driftPage{o, driftView{Overlays: []overlayDrift{o}}} {
			var text bytes.Buffer
			if err := shown.text(&text, style{plain: true}, time.Now()); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text.String(), c.want) || strings.Contains(text.String(), "nothing has drifted") && c.code == exitChanges {
				t.Errorf("%s: want %q in\n%s", name, c.want, text.String())
			}
			if got := shown.verdict(); got != c.code {
				t.Errorf("%s: exit code %d, want %d", name, got, c.code)
			}
		}
	}
}

// TestDriftUnknownChange doesn't say that nothing would change if that isn't known.
func TestDriftUnknownChange(t *testing.T) {
	var text bytes.Buffer
	o := v1alpha1.DriftedObject{Action: v1alpha1.DriftBlocked, Findings: []v1alpha1.Finding{{Class: v1alpha1.FindingChanged}}}
	if err := printDrifted(&text, style{plain: true}, &o, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := text.String(); !strings.Contains(got, "is not known") || strings.Contains(got, "shows nothing") {
		t.Error(got)
	}
}

func TestPlanPath(t *testing.T) {
	for pointer, want := range map[string]string{
		"/spec/replicas": "spec.replicas", "/spec/template/spec/taints/0/key": "spec.template.spec.taints[0].key",
		"/metadata/labels/example.com~1team": `metadata.labels["example.com/team"]`, "/data/a~0b": "data.a~b", "/": `[""]`,
		"/data/~01": "data.~1",
	} {
		if got := planPath(pointer); got != want {
			t.Errorf("%s: %s, want %s", pointer, got, want)
		}
	}
}

func TestDriftOptions(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"yaml":                {[]string{"drift", "-o", "yaml"}, "want table or json"},
		"interval":            {[]string{"drift", "-w", "--interval", "0s"}, "must be positive"},
		"all and one":         {[]string{"drift", "-A", "clusters/dev"}, "-A shows all"},
		"all and a Fleet":     {[]string{"drift", "-A", "--fleet", "home"}, "-A shows all"},
		"a Fleet and one":     {[]string{"drift", "--fleet", "home", "clusters/dev"}, "without an argument"},
		"two":                 {[]string{"drift", "a", "b"}, "at most 1 arg"},
		"approve both":        {[]string{"approve", "a", "--deletion", "--correction"}, "none of the others can be"},
		"approve two at once": {[]string{"approve", "a", "b"}, "accepts 1 arg"},
	} {
		var out, errOut bytes.Buffer
		if code := execute(t.Context(), strings.NewReader(""), &out, &errOut, c.args); code != exitFailure || !strings.Contains(errOut.String(), c.want) {
			t.Errorf("%s: exit code %d, %q, want %q", name, code, errOut.String(), c.want)
		}
	}
}
