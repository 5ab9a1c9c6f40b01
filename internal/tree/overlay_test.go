package tree_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/tree"
)

// put is the change that makes a path a file, or a symlink for a content that
// starts with [tree.LinkPrefix].
func put(content string) tree.Change {
	kind := tree.File
	if target, ok := strings.CutPrefix(content, tree.LinkPrefix); ok {
		kind, content = tree.Symlink, target
	}
	return tree.Change{
		Entry: tree.Entry{Kind: kind, Hash: tree.BlobHash([]byte(content))},
		Read:  func() ([]byte, error) { return []byte(content), nil },
	}
}

var removed tree.Change

// answers asks a tree everything about some paths. Errors are told apart only by
// whether they say that there is nothing; hashes of directories are left out.
func answers(tr tree.Tree, paths []string) map[string]string {
	text := func(v any, err error) string {
		switch {
		case err == nil:
			return fmt.Sprintf("%v", v)
		case errors.Is(err, fs.ErrNotExist):
			return "absent"
		default:
			return "refused"
		}
	}
	all := map[string]string{}
	for _, p := range paths {
		e, statErr := tr.Stat(p)
		list, listErr := tr.ReadDir(p)
		content, readErr := tr.ReadFile(p)
		for i := range list {
			if list[i].Kind == tree.Dir {
				list[i].Hash = ""
			}
		}
		if e.Kind == tree.Dir {
			e.Hash = ""
		}
		all[p] = strings.Join([]string{text(e, statErr), text(list, listErr), text(string(content), readErr)}, " | ")
	}
	return all
}

func TestOverlay(t *testing.T) {
	base := map[string]string{
		"README.md": "hello", "a/f": "1", "a/g": "2", "a/b/c/deep": "3", "link": tree.LinkPrefix + "a", "other/x": "4",
	}
	tests := []struct {
		name    string
		changes map[string]tree.Change
		want    map[string]string // like base: "" for a path that isn't there
	}{
		{"nothing", nil, nil},
		{"a file changes", map[string]tree.Change{"a/f": put("new")}, map[string]string{"a/f": "new"}},
		{"a file comes", map[string]tree.Change{"a/b/new": put("")}, map[string]string{"a/b/new": "\x00"}},
		{"a directory comes", map[string]tree.Change{"new/dir/f": put("f")}, map[string]string{"new/dir/f": "f"}},
		{"a file goes", map[string]tree.Change{"a/g": removed}, map[string]string{"a/g": ""}},
		{"a directory goes", map[string]tree.Change{"other/x": removed}, map[string]string{"other/x": ""}},
		{"directories go one by one", map[string]tree.Change{"a/b/c/deep": removed}, map[string]string{"a/b/c/deep": ""}},
		{"what isn't there goes", map[string]tree.Change{
			"no": removed, "a/no": removed, "no/no": removed, "a/f/no": removed, "link/f": removed,
		}, nil},
		{"a file becomes a link", map[string]tree.Change{"a/f": put(tree.LinkPrefix + "g")}, map[string]string{"a/f": tree.LinkPrefix + "g"}},
		{"a link becomes a file", map[string]tree.Change{"link": put("file")}, map[string]string{"link": "file"}},
		{
			"a link becomes a directory", map[string]tree.Change{"link": removed, "link/f": put("f")},
			map[string]string{"link": "", "link/f": "f"},
		},
		{
			"a file becomes a directory", map[string]tree.Change{"a/f": removed, "a/f/x/y": put("y")},
			map[string]string{"a/f": "", "a/f/x/y": "y"},
		},
		{
			"a directory becomes a file", map[string]tree.Change{"a/b": put("file"), "a/b/c/deep": removed},
			map[string]string{"a/b": "file", "a/b/c/deep": ""},
		},
		{"everything goes", map[string]tree.Change{
			"README.md": removed, "a/f": removed, "a/g": removed, "a/b/c/deep": removed, "link": removed, "other/x": removed,
		}, map[string]string{"README.md": "", "a/f": "", "a/g": "", "a/b/c/deep": "", "link": "", "other/x": ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tree.Overlay(tree.FromMap(base), tt.changes)
			if err != nil {
				t.Fatal(err)
			}
			files := maps.Clone(base)
			for p, content := range tt.want {
				if delete(files, p); content != "" {
					files[p] = strings.Trim(content, "\x00")
				}
			}
			paths := []string{"", ".", "..", "../x", "a/../a/f", "/a/b/", "link/f", "missing/x", "a/f/below"}
			for _, m := range []map[string]string{base, files} {
				for p := range m {
					for ; p != "."; p = path.Dir(p) {
						paths = append(paths, p)
					}
				}
			}
			if diff := cmp.Diff(answers(tree.FromMap(files), paths), answers(got, paths)); diff != "" {
				t.Errorf("answers (-memory +overlay):\n%s", diff)
			}
		})
	}
}

func TestOverlayRefuses(t *testing.T) {
	base := tree.FromMap(map[string]string{"a/f": "1", "a/g": "2", "b": "3"})
	unreadable := tree.Change{Entry: tree.Entry{Kind: tree.File}}
	for name, changes := range map[string]map[string]tree.Change{
		"root":                            {"": put("x")},
		"path that leaves the tree":       {"../x": put("x")},
		"path that isn't clean":           {"a//f": put("x")},
		"directory as a change":           {"a": {Entry: tree.Entry{Kind: tree.Dir}}},
		"file without content":            {"a/f": unreadable},
		"removal of a directory":          {"a": removed},
		"file over a directory that's in": {"a": put("x"), "a/f": removed},
		"file below a file that stays":    {"b/x": put("x")},
		"file below a new file":           {"new": put("x"), "new/x": put("y")},
		"file below a changed file":       {"b": put("x"), "b/x": put("y")},
	} {
		if _, err := tree.Overlay(base, changes); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestOverlaySubmodule(t *testing.T) {
	const hash = "1111111111111111111111111111111111111111"
	got, err := tree.Overlay(tree.FromMap(map[string]string{"f": "1"}), map[string]tree.Change{
		"mod": {Entry: tree.Entry{Name: "whatever", Kind: tree.Submodule, Hash: hash}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := got.Stat("mod"); err != nil || e != (tree.Entry{Name: "mod", Kind: tree.Submodule, Hash: hash}) {
		t.Errorf("%v, %v", e, err)
	}
	if _, err := got.ReadFile("mod"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading a submodule: %v", err)
	}
	if _, err := got.Stat("mod/f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a submodule: %v", err)
	}
}

// hashed gives every directory a hash, as the tree of a commit does.
type hashed struct{ tree.Tree }

func (h hashed) Stat(p string) (tree.Entry, error) {
	e, err := h.Tree.Stat(p)
	if e.Kind == tree.Dir {
		e.Hash = "base"
	}
	return e, err
}

func (h hashed) ReadDir(p string) ([]tree.Entry, error) {
	list, err := h.Tree.ReadDir(p)
	for i := range list {
		if list[i].Kind == tree.Dir {
			list[i].Hash = "base"
		}
	}
	return list, err
}

func TestOverlayForgetsHashesOfChangedDirectories(t *testing.T) {
	base := hashed{tree.FromMap(map[string]string{"a/b/f": "1", "a/c/f": "2", "d/f": "3"})}
	got, err := tree.Overlay(base, map[string]tree.Change{"a/b/f": put("new")})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{"": "", "a": "", "a/b": "", "a/c": "base", "d": "base"} {
		if e, err := got.Stat(p); err != nil || e.Hash != want {
			t.Errorf("%q: %v, %v, want hash %q", p, e, err, want)
		}
	}
	list, err := got.ReadDir("")
	if err != nil || list[0].Hash != "" || list[1].Hash != "base" {
		t.Errorf("root lists %v, %v", list, err)
	}
}

// TestOverlayKeepsAbsenceHonest: neither a base that can't be read nor a content
// that can't may look like a path that isn't there.
func TestOverlayKeepsAbsenceHonest(t *testing.T) {
	base := tree.FromMap(map[string]string{"f": "1"})
	lost := put("x")
	lost.Read = func() ([]byte, error) { return nil, fmt.Errorf("pack: %w", fs.ErrNotExist) }
	got, err := tree.Overlay(base, map[string]tree.Change{"lost": lost})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := got.ReadFile("lost"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("content that can't be read: %v", err)
	}
	if _, err := tree.Overlay(broken{base}, map[string]tree.Change{"g": put("x")}); !errors.Is(err, errBroken) {
		t.Errorf("overlay of a base that can't be read: %v", err)
	}
}

var errBroken = errors.New("broken")

type broken struct{ tree.Tree }

func (broken) ReadDir(string) ([]tree.Entry, error) { return nil, errBroken }

// TestOverlayOfRandomChanges compares overlays with trees made of the outcome.
func TestOverlayOfRandomChanges(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		before, after := randomFiles(rnd), randomFiles(rnd)
		changes := map[string]tree.Change{}
		for p := range before {
			if _, stays := after[p]; !stays {
				changes[p] = removed
			}
		}
		for p, content := range after {
			if before[p] != content {
				changes[p] = put(content)
			}
		}
		got, err := tree.Overlay(tree.FromMap(before), changes)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		var paths []string
		for _, a := range []string{"", "a", "b", "c"} {
			for _, b := range []string{"", "a", "b", "c"} {
				for _, c := range []string{"", "a", "b", "c"} {
					paths = append(paths, path.Join(a, b, c))
				}
			}
		}
		if diff := cmp.Diff(answers(tree.FromMap(after), paths), answers(got, paths)); diff != "" {
			t.Fatalf("seed %d (-memory +overlay):\n%s", seed, diff)
		}
	}
}

// randomFiles makes a few files of paths that often are in one another's way.
func randomFiles(rnd *rand.Rand) map[string]string {
	files := map[string]string{}
	for range rnd.IntN(8) {
		var p string
		for range 1 + rnd.IntN(3) {
			p = path.Join(p, string(rune('a'+rnd.IntN(3))))
		}
		free := true
		for q := range files {
			free = free && p != q && !strings.HasPrefix(p, q+"/") && !strings.HasPrefix(q, p+"/")
		}
		if free {
			files[p] = []string{"1", "2", tree.LinkPrefix + "1"}[rnd.IntN(3)]
		}
	}
	return files
}

func TestOverlayIsSafeForConcurrentUse(t *testing.T) {
	base := map[string]string{"a/f": "1", "b/f": "2"}
	changes := map[string]tree.Change{"a/f": put("new"), "c/f": put("3"), "b/f": removed}
	got, err := tree.Overlay(tree.FromMap(base), changes)
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{"", "a", "a/f", "b", "b/f", "c", "c/f"}
	want := answers(tree.FromMap(map[string]string{"a/f": "new", "c/f": "3"}), paths)
	clear(changes) // the overlay keeps its own
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for range 20 {
				list, err := got.ReadDir("")
				if err != nil {
					t.Error(err)
				}
				slices.Reverse(list) // a caller's own copy
				if diff := cmp.Diff(want, answers(got, paths)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
	readers.Wait()
}
