package render

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"capstan.dev/capstan/internal/tree"
)

// TestClosure: which changes of the tree a closure notices.
func TestClosure(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"clusters/a/kustomization.yaml": "resources: [../../base]\n",
		"clusters/b/kustomization.yaml": "resources: [../../base]\n",
		"base/kustomization.yaml":       "resources: [cm.yaml]\nconfigMapGenerator: [{name: g, files: [data.txt]}]\n",
		"base/cm.yaml":                  "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}",
		"base/data.txt":                 "x",
		"base/unused.yaml":              "x",
	}
	r, err := Render(t.Context(), Input{Tree: tree.FromMap(files), Path: "clusters/a"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path, content string
		unchanged           bool
	}{
		{"nothing", "base/cm.yaml", files["base/cm.yaml"], true},
		{"a manifest", "base/cm.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}", false},
		{"data of a generator", "base/data.txt", "y", false},
		{"an unused file", "base/unused.yaml", "y", true},
		{"a new unused file", "base/new.yaml", "y", true},
		{"another overlay", "clusters/b/kustomization.yaml", "resources: []", true},
		{"a second kustomization file", "base/kustomization.yml", "resources: []", false},
		{"a second kustomization file in the overlay", "clusters/a/Kustomization", "resources: []", false},
		{"a manifest becomes a link", "base/cm.yaml", tree.LinkPrefix + "other", false},
		{"a manifest becomes a directory", "base/cm.yaml/kustomization.yaml", "", false},
		{"a manifest goes", "base/cm.yaml", "-", false},
		{"a base goes", "base/kustomization.yaml", "-", false},
	} {
		changed := maps.Clone(files)
		changed[test.path] = test.content
		switch {
		case test.content == "-":
			delete(changed, test.path)
		case filepath.Base(filepath.Dir(test.path)) == "cm.yaml":
			delete(changed, filepath.Dir(test.path))
		}
		got, err := r.Closure.Unchanged(tree.FromMap(changed))
		if err != nil || got != test.unchanged {
			t.Errorf("%s: unchanged %v, %v", test.name, got, err)
		}
		again, err := Render(t.Context(), Input{Tree: tree.FromMap(changed), Path: "clusters/a"})
		if same := again.Closure.Digest() == r.Closure.Digest() && err == nil; same != test.unchanged {
			t.Errorf("%s: same digest %v, %v", test.name, same, err)
		}
	}
}

// TestClosureOfFailure: a failed render names what it waits for.
func TestClosureOfFailure(t *testing.T) {
	t.Parallel()
	files := map[string]string{"o/kustomization.yaml": "resources: [gone.yaml]\n"}
	r, err := Render(t.Context(), Input{Tree: tree.FromMap(files), Path: "o"})
	if err == nil {
		t.Fatal("no error")
	}
	files["elsewhere"] = "x"
	if same, err := r.Closure.Unchanged(tree.FromMap(files)); err != nil || !same {
		t.Errorf("an unrelated file counts: %v %v", same, err)
	}
	files["o/gone.yaml"] = "x"
	if same, err := r.Closure.Unchanged(tree.FromMap(files)); err != nil || same {
		t.Errorf("the missing file doesn't count: %v %v", same, err)
	}
}

// TestWorkingCopy: a directory on disk renders to the same as its commit.
func TestWorkingCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := fleetFiles(1)
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	disk, err := Render(t.Context(), Input{Tree: tree.FromDir(dir), Path: "clusters/c0000"})
	if err != nil {
		t.Fatal(err)
	}
	commit, err := Render(t.Context(), Input{Tree: tree.FromMap(files), Path: "./clusters/c0000/"})
	if err != nil {
		t.Fatal(err)
	}
	if toYAML(t, disk.Objects) != toYAML(t, commit.Objects) || disk.Closure.Digest() != commit.Closure.Digest() {
		t.Error("they differ")
	}
}

// TestVariablesOfFailure: a render that lacks values names the variables it knows of.
func TestVariablesOfFailure(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"o/kustomization.yaml": "resources: [a.yaml]\n",
		"o/a.yaml":             "apiVersion: x/v1\nkind: X\nmetadata: {name: a}\nspec: {a: \"${B} ${A} ${C:=c}\"}\n",
	}
	for _, values := range []map[string]string{nil, {"A": "a", "B": "b"}} {
		r, err := Render(t.Context(), Input{Tree: tree.FromMap(files), Path: "o", Substitute: &Substitution{Values: values}})
		if (err == nil) != (values != nil) || (err != nil && r.Objects != nil) {
			t.Errorf("%v: %v", values, err)
		}
		if got := strings.Join(r.Variables, " "); got != "A B C" {
			t.Errorf("variables %q", got)
		}
	}
}
