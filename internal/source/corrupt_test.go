package source_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
)

// mirrorPath finds the one mirror below a cache folder.
func mirrorPath(t testing.TB, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", "mirror.git"))
	if err != nil || len(found) != 1 {
		t.Fatalf("mirrors %v, %v", found, err)
	}
	return found[0]
}

// packs lists the mirror's files of a suffix.
func packs(t testing.TB, mirror, suffix string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(mirror, "objects", "pack", "*"+suffix))
	if err != nil || len(found) == 0 {
		t.Fatalf("no *%s in %s: %v", suffix, mirror, err)
	}
	return found
}

func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncate(t testing.TB, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

// damage is done to a mirror at rest; another process then uses it.
var damage = map[string]func(t *testing.T, mirror string){
	"pack of zero bytes":    func(t *testing.T, m string) { truncate(t, packs(t, m, ".pack")[0], 0) },
	"pack cut in half":      func(t *testing.T, m string) { truncate(t, packs(t, m, ".pack")[0], 200) },
	"pack is garbage":       func(t *testing.T, m string) { write(t, packs(t, m, ".pack")[0], strings.Repeat("garbage", 1000)) },
	"index of zero bytes":   func(t *testing.T, m string) { truncate(t, packs(t, m, ".idx")[0], 0) },
	"index cut":             func(t *testing.T, m string) { truncate(t, packs(t, m, ".idx")[0], 500) },
	"index is garbage":      func(t *testing.T, m string) { write(t, packs(t, m, ".idx")[0], strings.Repeat("garbage", 1000)) },
	"pack gone":             func(t *testing.T, m string) { _ = os.Remove(packs(t, m, ".pack")[0]) },
	"index gone":            func(t *testing.T, m string) { _ = os.Remove(packs(t, m, ".idx")[0]) },
	"objects gone":          func(t *testing.T, m string) { _ = os.RemoveAll(filepath.Join(m, "objects")) },
	"HEAD gone":             func(t *testing.T, m string) { _ = os.Remove(filepath.Join(m, "HEAD")) },
	"HEAD empty":            func(t *testing.T, m string) { truncate(t, filepath.Join(m, "HEAD"), 0) },
	"tracked ref garbage":   func(t *testing.T, m string) { write(t, filepath.Join(m, "refs", "capstan", "tracked"), "garbage") },
	"mirror is a file":      func(t *testing.T, m string) { write(t, m, "not a folder") },
	"mirror gone":           func(t *testing.T, m string) { _ = os.RemoveAll(m) },
	"foreign pack, garbage": func(t *testing.T, m string) { write(t, filepath.Join(m, "objects", "pack", "pack-x.pack"), "garbage") },
	"foreign pack and index, garbage": func(t *testing.T, m string) {
		name := filepath.Join(m, "objects", "pack", "pack-"+strings.Repeat("1", 40))
		write(t, name+".pack", "garbage")
		write(t, name+".idx", "garbage")
	},
	"killed while fetching": func(t *testing.T, m string) {
		write(t, filepath.Join(m, "objects", "pack", "tmp_pack_123"), "PACK half")
		write(t, filepath.Join(m, "objects", "pack", "tmp_idx_123"), "half")
		write(t, filepath.Join(m, "objects", "pack", "pack-"+strings.Repeat("2", 40)+".idx"), "index first")
	},
	"killed while rebuilding": func(t *testing.T, m string) {
		write(t, filepath.Join(filepath.Dir(m), "rebuild.git"), "half")
		if err := os.Mkdir(filepath.Join(filepath.Dir(m), "previous.git"), 0o700); err != nil {
			t.Fatal(err)
		}
	},
	"killed between the renames of a swap": func(t *testing.T, m string) {
		if err := os.Rename(m, filepath.Join(filepath.Dir(m), "previous.git")); err != nil {
			t.Fatal(err)
		}
	},
	"stale lock files of git": func(t *testing.T, m string) {
		write(t, filepath.Join(m, "HEAD.lock"), "")
		write(t, filepath.Join(m, "refs", "capstan", "tracked.lock"), "")
		write(t, filepath.Join(m, "refs", "capstan", "tracked.tmp"), "half")
	},
}

func TestDamagedMirrorIsRebuilt(t *testing.T) {
	repo := gittest.NewRepo(t)
	content := map[string]string{"a/f": strings.Repeat("content of a ", 50), "b/g": "g", "link": gittest.LinkPrefix + "a/f"}
	repo.Commit(map[string]string{"a/f": "first"}, "first")
	repo.Commit(content, "second")
	for name, harm := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := open(t, source.Options{URL: repo.URL(), Dir: dir})
			want := mustSync(t, m)
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			harm(t, mirrorPath(t, dir))

			m = open(t, source.Options{URL: repo.URL(), Dir: dir})
			s := mustSync(t, m)
			if s.Revision != want.Revision {
				t.Errorf("revision %v, want %v", s.Revision, want.Revision)
			}
			if diff := cmp.Diff(content, readAll(t, m, s)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
			repo.Commit(map[string]string{"new": name}, "new")
			if got := read(t, mustSync(t, m).Tree, "new"); got != name {
				t.Errorf("the next commit reads %q", got)
			}
			repo.Remove("undo", "new")
			leftovers(t, dir)
		})
	}
}

// readAll reads a tree, and once more after another Sync if a damage showed only
// then. It fails if a damage is taken for absence.
func readAll(t *testing.T, m *source.Mirror, s *source.Snapshot) map[string]string {
	t.Helper()
	for _, p := range []string{"a/f", "b/g", "link"} {
		if _, err := s.Tree.ReadFile(p); err != nil {
			wantReason(t, err, source.MirrorCorrupt, "rebuilt")
			mustSync(t, m)
			if m.Stats().Rebuilds != 1 {
				t.Errorf("%d rebuilds after a damaged object was found", m.Stats().Rebuilds)
			}
		}
	}
	return files(t, s.Tree)
}

// leftovers fails if temporary files lie around.
func leftovers(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), "tmp_") || filepath.Base(path) == "rebuild.git" {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestDamageWhileInUse takes the packs away from under a running process.
func TestDamageWhileInUse(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"a": "1", "b": strings.Repeat("b", 100), "big": strings.Repeat("0123456789abcdef", 4096)}, "first")
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir, Limits: source.Limits{CacheBytes: 1}}) // nothing is cached
	s := mustSync(t, m)
	m2 := mirrorPath(t, dir)
	// Written in place, so that open descriptors see it too.
	for _, p := range packs(t, m2, ".pack") {
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte(strings.Repeat("\xff", 400)), 12)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Tree.ReadFile("b")
	wantReason(t, err, source.MirrorCorrupt, repo.URL())
	if _, err := s.Tree.ReadFile("c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a path that the complete directory doesn't have: %v", err)
	}
	again := mustSync(t, m)
	if m.Stats().Rebuilds != 1 {
		t.Errorf("rebuilds: %d", m.Stats().Rebuilds)
	}
	for name, snapshot := range map[string]*source.Snapshot{"new": again, "old": s} {
		if got := read(t, snapshot.Tree, "a"); got != "1" {
			t.Errorf("%s snapshot reads %q", name, got)
		}
	}
	mustSync(t, m)
	if m.Stats().Rebuilds != 1 {
		t.Error("rebuilt a second time")
	}
}

// TestMirrorDeletedWhileInUse removes the cache folder under a running process.
func TestMirrorDeletedWhileInUse(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"a": "1", "b": "2"}, "first")
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir, Limits: source.Limits{CacheBytes: 1}})
	s := mustSync(t, m)
	if err := os.RemoveAll(mirrorPath(t, dir)); err != nil {
		t.Fatal(err)
	}
	repo.Commit(map[string]string{"a": "3"}, "second")
	next := mustSync(t, m)
	if got := read(t, next.Tree, "a") + read(t, next.Tree, "b"); got != "32" {
		t.Errorf("new snapshot reads %q", got)
	}
	if got, err := s.Tree.ReadFile("b"); err != nil || string(got) != "2" {
		t.Errorf("old snapshot reads %q, %v", got, err)
	}
}

func TestPacksPileUpAndAreRebuilt(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "0", "unchanged": "u"}, "first")
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir, Limits: source.Limits{Packs: 3, CacheBytes: 1}})
	snapshots := []*source.Snapshot{mustSync(t, m)}
	for i := range 9 {
		repo.Commit(map[string]string{"f": string(rune('1' + i))}, "more")
		snapshots = append(snapshots, mustSync(t, m))
		if n := len(packs(t, mirrorPath(t, dir), ".pack")); n > 3 {
			t.Errorf("%d packs", n)
		}
	}
	if n := m.Stats().Rebuilds; n != 3 {
		t.Errorf("%d rebuilds, want 3", n)
	}
	for i, s := range snapshots {
		if got := read(t, s.Tree, "f"); got != string(rune('0'+i)) {
			t.Errorf("snapshot %d reads %q", i, got)
		}
	}
	leftovers(t, dir)
}

func TestRebuildKeepsWhatTheServerForgot(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "old"}, "old")
	m := open(t, source.Options{URL: repo.URL(), Limits: source.Limits{Packs: 1, CacheBytes: 1}})
	old := mustSync(t, m)
	repo.ForcePush(map[string]string{"f": "new"}, "unrelated")
	repo.Git("reflog", "expire", "--expire=now", "--all")
	repo.Git("gc", "--quiet", "--prune=now")
	s := mustSync(t, m)
	if m.Stats().Rebuilds != 1 {
		t.Fatalf("rebuilds: %d", m.Stats().Rebuilds)
	}
	if got := read(t, s.Tree, "f") + read(t, old.Tree, "f"); got != "newold" {
		t.Errorf("snapshots read %q", got)
	}
}

func TestTwoMirrorsDontShareAFolder(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	dir := t.TempDir()
	first := open(t, source.Options{URL: repo.URL(), Dir: dir})
	mustSync(t, first)
	second := open(t, source.Options{URL: repo.URL(), Dir: dir})
	_, err := second.Sync(t.Context())
	wantReason(t, err, source.MirrorLocked, "another process")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	mustSync(t, second)

	other := gittest.NewRepo(t)
	other.Commit(map[string]string{"f": "other"}, "first")
	third := open(t, source.Options{URL: other.URL(), Dir: dir})
	if got := read(t, mustSync(t, third).Tree, "f"); got != "other" {
		t.Errorf("another URL reads %q", got)
	}
}

func TestUnusableFolder(t *testing.T) {
	repo := gittest.NewRepo(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	_, err := open(t, source.Options{URL: repo.URL(), Dir: filepath.Join(file, "sub")}).Sync(t.Context())
	wantReason(t, err, source.MirrorUnusable)
}
