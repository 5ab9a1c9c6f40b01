package plan_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files of testdata")

// manifest is one case: the changes of a plan, as a person would write them down.
type manifest struct {
	Overlay, Path, Revision string
	Changes                 []struct {
		Action        plan.Action
		Before, After map[string]any
		Error, Note   string
	}
}

func load(t *testing.T, path string) plan.Plan {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := yaml.UnmarshalStrict(content, &m); err != nil {
		t.Fatal(err)
	}
	p := plan.Plan{Overlay: m.Overlay, Path: m.Path, Revision: m.Revision}
	for _, c := range m.Changes {
		change := plan.Change{Action: c.Action, Error: c.Error, Note: c.Note}
		if c.Before != nil {
			change.Before = &unstructured.Unstructured{Object: c.Before}
			change.ID = object.IDOf(change.Before)
		}
		if c.After != nil {
			change.After = &unstructured.Unstructured{Object: c.After}
			change.ID = object.IDOf(change.After)
		}
		p.Changes = append(p.Changes, change)
	}
	return p
}

// TestGolden renders every case of testdata as text and as JSON. Whatever holds
// the word hunter2 is secret.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range cases {
		name := strings.TrimSuffix(path, ".in.yaml")
		t.Run(filepath.Base(name), func(t *testing.T) {
			p := load(t, path)
			var text, encoded bytes.Buffer
			if err := p.Text(&text, false); err != nil {
				t.Fatal(err)
			}
			if err := p.JSON(&encoded); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", text.Bytes())
			golden(t, name+".json", encoded.Bytes())
			change, err := json.Marshal(p.Changes)
			if err != nil {
				t.Fatal(err)
			}
			for _, shown := range []string{text.String(), encoded.String(), string(change)} {
				if strings.Contains(shown, "hunter2") || strings.Contains(shown, "aHVudGVyMg") {
					t.Errorf("secret shown:\n%s", shown)
				}
			}
		})
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (write it with -update): %s", path, diff)
	}
}

func TestColor(t *testing.T) {
	var text bytes.Buffer
	if err := load(t, "testdata/mixed.in.yaml").Text(&text, true); err != nil {
		t.Fatal(err)
	}
	if strings.Count(text.String(), "\x1b[0m") == 0 || strings.Count(text.String(), "\x1b[") != 2*strings.Count(text.String(), "\x1b[0m") {
		t.Errorf("colors: %q", text.String())
	}
}

// TestControlCharacters of foreign objects don't reach the terminal.
func TestControlCharacters(t *testing.T) {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a"},
		"data": map[string]any{"x": "\x1b[2Jgone\u009b", "y": "two\nlines\x1b]0;title\x07"},
	}}
	p := plan.Plan{Changes: []plan.Change{
		{ID: object.IDOf(u), Action: plan.Create, After: u, Note: "\x1b[2J"},
		{ID: object.IDOf(u), Action: plan.Invalid, After: u, Error: "bad\x1b[2J\nvalue"},
	}}
	var text bytes.Buffer
	if err := p.Text(&text, false); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(text.String(), "\x1b\x07\u009b") {
		t.Errorf("%q", text.String())
	}
}

func TestHasChanges(t *testing.T) {
	cases := map[plan.Action]bool{
		plan.Create: true, plan.Update: true, plan.Delete: true, plan.PendingDeletion: true, plan.Invalid: true,
		plan.Conflict: true, plan.NotChecked: true, plan.Retained: false, plan.Skipped: false, plan.Unchanged: false,
	}
	for action, want := range cases {
		p := plan.Plan{Changes: []plan.Change{{Action: plan.Unchanged}, {Action: action}}}
		if p.HasChanges() != want {
			t.Errorf("%s", action)
		}
		if p.HasErrors() != (action == plan.Invalid || action == plan.Conflict) {
			t.Errorf("%s: errors", action)
		}
	}
	if (plan.Plan{}).HasChanges() {
		t.Error("an empty plan changes something")
	}
}

func TestFields(t *testing.T) {
	cases := []struct{ name, before, after, want string }{
		{"equal", "{a: 1}", "{a: 1}", ""},
		{"scalar", "{spec: {replicas: 3}}", "{spec: {replicas: 5}}", "replace spec.replicas 3 5"},
		{"added", "{spec: {}}", "{spec: {a: {b: 1}}}", "add spec.a <nil> map[b:1]"},
		{"removed", "{spec: {a: 1}}", "{spec: {}}", "remove spec.a 1 <nil>"},
		{"type", "{a: 1}", `{a: "1"}`, "replace a 1 1"},
		{"keys with dots", "{labels: {a.b/c: u}}", "{labels: {a.b/c: w}}", `replace labels["a.b/c"] u w`},
		{"list, middle", "{a: [1, 2, 3]}", "{a: [1, 5, 3]}", "replace a[1] 2 5"},
		{"list, put in front", "{a: [1, 2]}", "{a: [0, 1, 2]}", "add a[0] <nil> 0"},
		{"list, shorter", "{a: [1, 2, 3]}", "{a: [1, 3]}", "remove a[1] 2 <nil>"},
		{"list, by name", "{a: [{name: x, v: 1}, {name: w, v: 1}]}", "{a: [{name: w, v: 2}, {name: z}]}",
			"remove a[x] map[name:x v:1] <nil>; replace a[w].v 1 2; add a[z] <nil> map[name:z]"},
		{"list, new order", "{a: [{name: x}, {name: w}]}", "{a: [{name: w}, {name: x}]}", "replace a [x w] [w x]"},
		{"list, same name twice", "{a: [{name: x, v: 1}, {name: x, v: 2}]}", "{a: [{name: x, v: 1}, {name: x, v: 3}]}", "replace a[1].v 2 3"},
		{"from nothing", "", "{a: 1}", "add  <nil> map[a:1]"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, f := range plan.Fields(value(t, c.before), value(t, c.after)) {
				got = append(got, fmt.Sprint(f.Kind, " ", f.Path, " ", f.From, " ", f.To))
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "; ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func value(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	if text == "" {
		return nil
	}
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// Without its objects a plan says what it said, but for their content, and nothing that
// was masked.
func TestDropObjects(t *testing.T) {
	talos := func(token string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "bootstrap.cluster.x-k8s.io/v1alpha3", "kind": "TalosConfig", "metadata": map[string]any{"name": "a"},
			"spec": map[string]any{"data": token},
		}}
	}
	id := object.IDOf(talos(""))
	p := plan.Plan{Changes: []plan.Change{
		{ID: id, Action: plan.Invalid, After: talos("hunter2-new"), Error: `spec.data: Invalid value: "hunter2-new"`},
		{ID: id, Action: plan.Update, Before: talos("hunter2-old"), After: talos("hunter2-new"), Note: "was hunter2-old"},
	}}
	if got := p.Weight(); got < 3*len("hunter2-old") {
		t.Errorf("weight %d", got)
	}
	p.DropObjects()
	var text bytes.Buffer
	if err := p.Text(&text, false); err != nil {
		t.Fatal(err)
	}
	want := `! TalosConfig.bootstrap.cluster.x-k8s.io a (invalid)
    spec.data: Invalid value: "***"
~ TalosConfig.bootstrap.cluster.x-k8s.io a: was ***
0 to create, 1 to update, 0 to delete, 1 invalid, 0 unchanged
`
	if diff := cmp.Diff(want, text.String()); diff != "" || p.Weight() != 0 {
		t.Errorf("weight %d, text (-want +got):\n%s", p.Weight(), diff)
	}
}
