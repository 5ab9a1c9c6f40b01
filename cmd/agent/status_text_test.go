package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// statusCase is what a file of testdata/status has as input.yaml.
type statusCase struct {
	Now      time.Time                 `json:"now"`
	Fleets   []v1alpha1.Fleet          `json:"fleets"`
	Overlays []v1alpha1.ClusterOverlay `json:"overlays"`
	// Tree and Unread, with the first overlay, make the page of one overlay.
	Tree   []capi.Node `json:"tree"`
	Unread []string    `json:"unread"`
}

// TestStatusText prints what is in testdata/status: as plain text, on a terminal of 140
// columns, and as JSON. go test -update writes what it prints.
func TestStatusText(t *testing.T) {
	files, err := filepath.Glob("testdata/status/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for _, f := range archive.Files {
				want[f.Name] = string(f.Data)
			}
			var c statusCase
			if err := yaml.UnmarshalStrict([]byte(want["input.yaml"]), &c); err != nil {
				t.Fatal(err)
			}
			var shown page = fleetViewOf(c.Fleets, c.Overlays)
			if c.Tree != nil {
				o := &c.Overlays[0]
				shown = overlayView{
					overlayStatus: overlayStatusOf(o), Suspended: o.Spec.Suspend, Conditions: o.Status.Conditions, Tree: c.Tree, Unread: c.Unread,
				}
			}
			got := map[string]string{"input.yaml": want["input.yaml"]}
			var plain, terminal, asJSON bytes.Buffer
			for _, err := range []error{
				shown.text(&plain, style{plain: true}, c.Now), shown.text(&terminal, style{width: 140}, c.Now), (&app{out: &asJSON}).printJSON(shown),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			got["plain"], got["json"] = plain.String(), asJSON.String()
			got["terminal"] = strings.NewReplacer(
				string(red), "<red>", string(green), "<green>", string(yellow), "<yellow>", string(faint), "<faint>", "\x1b[0m", "</>",
			).Replace(terminal.String())
			if *update {
				archive.Files = archive.Files[:0]
				for _, name := range []string{"input.yaml", "plain", "terminal", "json"} {
					archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(got[name])})
				}
				if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("printed (-want +got):\n%s", diff)
			}
		})
	}
}
