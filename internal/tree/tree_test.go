package tree_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/tree"
)

var files = map[string]string{
	"README.md":            "hello\n",
	"clusters/dev/a.yaml":  "a: 1\n",
	"clusters/dev/b.yaml":  "",
	"clusters/link":        tree.LinkPrefix + "dev",
	"clusters/prod/a.yaml": "a: 2\n",
	"clusters/up":          tree.LinkPrefix + "../../outside",
}

// both runs a test on the trees of a map and of a directory with the same files.
func both(t *testing.T, test func(*testing.T, tree.Tree)) {
	t.Helper()
	t.Run("map", func(t *testing.T) { test(t, tree.FromMap(files)) })
	t.Run("directory", func(t *testing.T) {
		root := filepath.Join(t.TempDir(), "repo")
		for name, content := range files {
			disk := filepath.Join(root, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(disk), 0o700); err != nil {
				t.Fatal(err)
			}
			var err error
			if target, ok := strings.CutPrefix(content, tree.LinkPrefix); ok {
				err = os.Symlink(target, disk)
			} else {
				err = os.WriteFile(disk, []byte(content), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		git := filepath.Join(root, ".git")
		if err := os.Mkdir(git, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(git, "config"), []byte("token"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(root), "outside"), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		test(t, tree.FromDir(root))
	})
}

func TestReadDir(t *testing.T) {
	both(t, func(t *testing.T, tr tree.Tree) {
		for path, want := range map[string][]string{
			"":              {"README.md file", "clusters dir"},
			".":             {"README.md file", "clusters dir"},
			"clusters":      {"dev dir", "link symlink", "prod dir", "up symlink"},
			"clusters/dev/": {"a.yaml file", "b.yaml file"},
			"/clusters/dev": {"a.yaml file", "b.yaml file"},
		} {
			entries, err := tr.ReadDir(path)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.Name+" "+string(e.Kind))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%q: %s", path, diff)
			}
		}
	})
}

func TestReadFile(t *testing.T) {
	both(t, func(t *testing.T, tr tree.Tree) {
		for path, content := range files {
			want := strings.TrimPrefix(content, tree.LinkPrefix)
			if got, err := tr.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v", path, got, err)
			}
		}
	})
}

func TestStat(t *testing.T) {
	both(t, func(t *testing.T, tr tree.Tree) {
		for path, want := range map[string]tree.Entry{
			"README.md":     {Name: "README.md", Kind: tree.File, Hash: "ce013625030ba8dba906f756967f9e9ca394464a"},
			"clusters/link": {Name: "link", Kind: tree.Symlink, Hash: tree.BlobHash([]byte("dev"))},
			"clusters":      {Name: "clusters", Kind: tree.Dir},
			"":              {Kind: tree.Dir},
		} {
			if got, err := tr.Stat(path); err != nil || got != want {
				t.Errorf("%s: %+v, %v", path, got, err)
			}
		}
	})
}

// TestAbsence: a name that isn't there is told apart from a path that can't be
// read, because absence leads to deletions.
func TestAbsence(t *testing.T) {
	both(t, func(t *testing.T, tr tree.Tree) {
		for _, path := range []string{
			"missing", "clusters/missing/a.yaml", "clusters/link/a.yaml", "clusters/up/x", ".git/config",
		} {
			if _, err := tr.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("stat of %s: %v", path, err)
			}
			if _, err := tr.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("read of %s: %v", path, err)
			}
			if _, err := tr.ReadDir(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("list of %s: %v", path, err)
			}
		}
		for _, path := range []string{"..", "../outside", "clusters/../../outside"} {
			_, statErr := tr.Stat(path)
			_, readErr := tr.ReadFile(path)
			_, listErr := tr.ReadDir(path)
			for _, err := range []error{statErr, readErr, listErr} {
				if err == nil || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", path, err)
				}
			}
		}
		if _, err := tr.ReadFile("clusters"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a directory read as a file: %v", err)
		}
		if _, err := tr.ReadDir("README.md"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a file read as a directory: %v", err)
		}
	})
}

func TestClean(t *testing.T) {
	cases := []struct {
		path, want string
		ok         bool
	}{
		{"", "", true},
		{".", "", true},
		{"/", "", true},
		{"a/./b//c/", "a/b/c", true},
		{"a/../b", "b", true},
		{"/a", "a", true},
		{"..", "", false},
		{"a/../../b", "", false},
		{"..a", "..a", true},
	}
	for _, c := range cases {
		if got, ok := tree.Clean(c.path); got != c.want || ok != c.ok {
			t.Errorf("%q: %q, %v", c.path, got, ok)
		}
	}
}

func TestFromMapRefusesBadPaths(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	tree.FromMap(map[string]string{"../a": ""})
}
