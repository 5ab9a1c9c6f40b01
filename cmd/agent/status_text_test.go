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

func TestStatusText(t *testing.T) {
	testPages(t, "testdata/status", func(input []byte) (page, time.Time, error) {
		var c statusCase
		err := yaml.UnmarshalStrict(input, &c)
		if err != nil || c.Tree == nil {
			return fleetViewOf(c.Fleets, c.Overlays), c.Now, err
		}
		one := overlayViewOf(&c.Overlays[0])
		one.Tree, one.Unread = c.Tree, c.Unread
		return one, c.Now, nil
	})
}

// testPages prints the pages of input.yaml of all archives in a folder: as plain text, on
// a terminal of 140 columns, and as JSON. go test -update writes what it prints.
func testPages(t *testing.T, dir string, read func(input []byte) (page, time.Time, error)) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.txtar")
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
			shown, now, err := read([]byte(want["input.yaml"]))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{"input.yaml": want["input.yaml"]}
			var plain, terminal, asJSON bytes.Buffer
			for _, err := range []error{
				shown.text(&plain, style{plain: true}, now), shown.text(&terminal, style{width: 140}, now), (&app{out: &asJSON}).printJSON(shown),
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
