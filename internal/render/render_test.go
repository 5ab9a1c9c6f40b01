package render

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"capstan.dev/capstan/internal/tree"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the results of the cases in testdata that expect a result")

// archive is a case of testdata: the files of a tree, and beside them
//
//	path            the overlay, default "overlay"
//	values          values for substitution, NAME=value by line; none: nil
//	want.yaml       the expected objects, or
//	want.error      texts that the error must hold, by line
//	want.warnings   the expected warnings, by line
//	want.paths      paths that the closure must hold, by line
type archive struct {
	file  string
	txtar *txtar.Archive
	files map[string]string
}

func readArchive(t testing.TB, file string) *archive {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := &archive{file: file, txtar: a, files: map[string]string{}}
	for _, f := range a.Files {
		c.files[f.Name] = string(f.Data)
	}
	return c
}

// take removes a file that isn't part of the tree and returns it.
func (a *archive) take(name string) (string, bool) {
	s, ok := a.files[name]
	delete(a.files, name)
	return s, ok
}

func (a *archive) input() Input {
	in := Input{Path: "overlay"}
	if p, ok := a.take("path"); ok {
		in.Path = strings.TrimSpace(p)
	}
	if values, ok := a.take("values"); ok {
		in.Substitute = &Substitution{Values: map[string]string{}}
		for line := range strings.Lines(values) {
			if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
				in.Substitute.Values[name] = value
			}
		}
	}
	for name, content := range a.files { // a link is written as a file with one line
		if strings.HasPrefix(content, tree.LinkPrefix) {
			a.files[name] = strings.TrimSpace(content)
		}
	}
	return in
}

func toYAML(t testing.TB, objects []*unstructured.Unstructured) string {
	t.Helper()
	var b bytes.Buffer
	for i, u := range objects {
		if i > 0 {
			b.WriteString("---\n")
		}
		y, err := yaml.Marshal(u.Object)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(y)
	}
	return b.String()
}

func lines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}

func TestRender(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/render/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a := readArchive(t, file)
			want, wantsObjects := a.take("want.yaml")
			wantError, wantsError := a.take("want.error")
			wantWarnings, _ := a.take("want.warnings")
			wantPaths, _ := a.take("want.paths")
			in := a.input()
			in.Tree = tree.FromMap(a.files)
			r, err := Render(context.Background(), in)
			if r == nil {
				t.Fatal("no result")
			}
			checkClosure(t, in.Tree, r.Closure, lines(wantPaths))
			if wantsError {
				if err == nil {
					t.Fatalf("no error; want %s", wantError)
				}
				for _, text := range lines(wantError) {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("error doesn't say %q:\n%v", text, err)
					}
				}
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error shows a secret: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := toYAML(t, r.Objects)
			if *update && wantsObjects {
				writeWant(t, a, got)
			} else if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(lines(wantWarnings), r.Warnings); diff != "" && len(lines(wantWarnings))+len(r.Warnings) > 0 {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func writeWant(t *testing.T, a *archive, got string) {
	t.Helper()
	for i := range a.txtar.Files {
		if a.txtar.Files[i].Name == "want.yaml" {
			a.txtar.Files[i].Data = []byte(got)
		}
	}
	if err := os.WriteFile(a.file, txtar.Format(a.txtar), 0o644); err != nil {
		t.Fatal(err)
	}
}

func checkClosure(t *testing.T, tr tree.Tree, c Closure, want []string) {
	t.Helper()
	if same, err := c.Unchanged(tr); err != nil || !same {
		t.Errorf("closure changed in the same tree: %v %v", same, err)
	}
	have := map[string]bool{}
	for _, p := range c.Paths() {
		have[p] = true
	}
	for _, p := range want {
		if !have[p] {
			t.Errorf("closure lacks %q: %q", p, c.Paths())
		}
	}
}
