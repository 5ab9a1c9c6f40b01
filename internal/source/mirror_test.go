package source_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

// open returns a Mirror that is closed when the test ends. Fields of opts that
// are not set get what tests usually want.
func open(t testing.TB, opts source.Options) *source.Mirror {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	if opts.Ref == (source.Ref{}) {
		opts.Ref = source.Ref{Branch: gittest.DefaultBranch}
	}
	m, err := source.Open(opts)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return m
}

func mustSync(t testing.TB, m *source.Mirror) *source.Snapshot {
	t.Helper()
	s, err := m.Sync(t.Context())
	if err != nil {
		t.Fatalf("Sync: %v", err)
	}
	return s
}

// wantReason checks an error's reason and that its text holds all the words.
func wantReason(t testing.TB, err error, want source.Reason, words ...string) {
	t.Helper()
	if got := source.ReasonOf(err); got != want {
		t.Fatalf("reason %q of error %v, want %q", got, err, want)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v claims absence", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q doesn't say %q", err, w)
		}
	}
}

func read(t testing.TB, tr tree.Tree, path string) string {
	t.Helper()
	content, err := tr.ReadFile(path)
	if err != nil {
		t.Fatalf("ReadFile(%s): %v", path, err)
	}
	return string(content)
}

// files reads a whole tree; links are shown with [tree.LinkPrefix].
func files(t testing.TB, tr tree.Tree) map[string]string {
	t.Helper()
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := tr.ReadDir(dir)
		if err != nil {
			t.Fatalf("ReadDir(%s): %v", dir, err)
		}
		for _, e := range entries {
			p := strings.TrimPrefix(dir+"/"+e.Name, "/")
			switch e.Kind {
			case tree.Dir:
				walk(p)
			case tree.Symlink:
				all[p] = tree.LinkPrefix + read(t, tr, p)
			case tree.File:
				all[p] = read(t, tr, p)
			case tree.Submodule:
				all[p] = "submodule:" + e.Hash
			}
		}
	}
	walk("")
	return all
}

func TestSyncFollowsABranch(t *testing.T) {
	repo := gittest.NewRepo(t)
	first := repo.Commit(map[string]string{"clusters/a/kustomization.yaml": "a", "README.md": "hello"}, "first")
	m := open(t, source.Options{URL: repo.URL()})

	s := mustSync(t, m)
	if want := (source.Revision{Ref: "main", Hash: first}); s.Revision != want {
		t.Errorf("revision %v, want %v", s.Revision, want)
	}
	want := map[string]string{"clusters/a/kustomization.yaml": "a", "README.md": "hello"}
	if diff := cmp.Diff(want, files(t, s.Tree)); diff != "" {
		t.Errorf("first tree (-want +got):\n%s", diff)
	}

	second := repo.Commit(map[string]string{"clusters/b/kustomization.yaml": "b"}, "second")
	next := mustSync(t, m)
	if next.Revision.Hash != second {
		t.Errorf("revision %v, want %s", next.Revision, second)
	}
	want["clusters/b/kustomization.yaml"] = "b"
	if diff := cmp.Diff(want, files(t, next.Tree)); diff != "" {
		t.Errorf("second tree (-want +got):\n%s", diff)
	}
	if _, err := s.Tree.Stat("clusters/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the first snapshot changed: Stat of the new folder says %v", err)
	}
	old, err := m.At(t.Context(), first)
	if err != nil {
		t.Fatalf("At: %v", err)
	}
	if diff := cmp.Diff(files(t, s.Tree), files(t, old.Tree)); diff != "" {
		t.Errorf("tree at the first commit (-want +got):\n%s", diff)
	}
}

func TestPollWithoutChangeIsOneLsRemote(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"a": "1"}, "first")
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir})
	s := mustSync(t, m)
	before := repo.HTTP().Counts()
	if again := mustSync(t, m); again != s {
		t.Error("a poll without a change made a new snapshot")
	}
	after := repo.HTTP().Counts()
	if diff := cmp.Diff(gittest.Counts{InfoRefs: before.InfoRefs + 1, UploadPacks: before.UploadPacks, PackBytes: before.PackBytes}, after); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if stats := m.Stats(); stats.LsRemotes != 2 || stats.Fetches != 1 || stats.ObjectsReceived != 3 || stats.LastSync.IsZero() {
		t.Errorf("stats %+v", stats)
	}

	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	restarted := open(t, source.Options{URL: repo.URL(), Dir: dir})
	if got := mustSync(t, restarted); got.Revision != s.Revision || read(t, got.Tree, "a") != "1" {
		t.Errorf("after a restart: %v", got.Revision)
	}
	if stats := restarted.Stats(); stats.Fetches != 0 {
		t.Errorf("a restart fetched: %+v", stats)
	}
}
