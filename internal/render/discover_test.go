package render

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"capstan.dev/capstan/internal/tree"
	"github.com/google/go-cmp/cmp"
)

// TestDiscover runs the cases of testdata/discover: the files of a tree, the globs
// in "paths" and "exclude", and "want", where each line is an overlay, or a skipped
// directory with its reason after a colon.
func TestDiscover(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/discover/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a := readArchive(t, file)
			want, _ := a.take("want")
			paths, _ := a.take("paths")
			exclude, _ := a.take("exclude")
			a.input()
			overlays, skipped, err := Discover(DiscoverInput{Tree: tree.FromMap(a.files), Paths: lines(paths), Exclude: lines(exclude)})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range overlays {
				got = append(got, o.Path)
			}
			for _, s := range skipped {
				got = append(got, fmt.Sprintf("%s: %s", s.Path, s.Reason))
			}
			if diff := cmp.Diff(lines(want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// faultyTree fails to read one path.
type faultyTree struct {
	tree.Tree
	path string
}

var errFault = errors.New("object not found")

func (f faultyTree) Stat(p string) (tree.Entry, error) {
	if p == f.path {
		return tree.Entry{}, errFault
	}
	return f.Tree.Stat(p)
}

func (f faultyTree) ReadDir(p string) ([]tree.Entry, error) {
	if p == f.path {
		return nil, errFault
	}
	return f.Tree.ReadDir(p)
}

func (f faultyTree) ReadFile(p string) ([]byte, error) {
	if p == f.path {
		return nil, errFault
	}
	return f.Tree.ReadFile(p)
}

// TestReadErrors: whatever can't be read, nobody concludes that it isn't there.
func TestReadErrors(t *testing.T) {
	t.Parallel()
	good := tree.FromMap(map[string]string{
		"clusters/a/kustomization.yaml": "resources: [../../base]",
		"base/kustomization.yaml":       "resources: [cm.yaml]",
		"base/cm.yaml":                  "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}",
	})
	for _, p := range []string{"", "clusters", "clusters/a", "clusters/a/kustomization.yaml"} {
		overlays, _, err := Discover(DiscoverInput{Tree: faultyTree{good, p}})
		if !errors.Is(err, ErrTree) || !errors.Is(err, errFault) || overlays != nil {
			t.Errorf("Discover with %q unreadable: %v %v", p, overlays, err)
		}
	}
	whole, err := Render(t.Context(), Input{Tree: good, Path: "clusters/a"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range whole.Closure.Paths() {
		r, err := Render(t.Context(), Input{Tree: faultyTree{good, p}, Path: "clusters/a"})
		if !errors.Is(err, ErrTree) || !errors.Is(err, errFault) || r == nil || r.Objects != nil {
			t.Errorf("Render with %q unreadable: %v %v", p, r, err)
		}
		if same, err := whole.Closure.Unchanged(faultyTree{good, p}); !errors.Is(err, errFault) || same {
			t.Errorf("Unchanged with %q unreadable: %v %v", p, same, err)
		}
	}
}

func TestDiscoverBadGlobs(t *testing.T) {
	t.Parallel()
	for _, g := range []string{"../x", "", "a[", "clusters/../../x"} {
		if _, _, err := Discover(DiscoverInput{Tree: tree.FromMap(nil), Paths: []string{g}}); err == nil {
			t.Errorf("no error for %q", g)
		}
		if _, _, err := Discover(DiscoverInput{Tree: tree.FromMap(nil), Exclude: []string{g}}); err == nil {
			t.Errorf("no error for exclude %q", g)
		}
	}
}
