package source_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
)

func TestLocalRepositories(t *testing.T) {
	repo := gittest.NewRepo(t)
	hash := repo.Commit(map[string]string{"f": "1", "dir/g": "2"}, "first")
	clone, shared, worktree := filepath.Join(t.TempDir(), "clone"), filepath.Join(t.TempDir(), "shared"), filepath.Join(t.TempDir(), "worktree")
	repo.Git("clone", "--quiet", repo.Path(), clone)
	repo.Git("clone", "--quiet", "--shared", repo.Path(), shared)
	repo.Git("worktree", "add", "--quiet", "--detach", worktree, hash)
	for name, url := range map[string]string{
		"bare": repo.Path(), "URL": repo.FileURL(), "working copy": clone, "its .git": filepath.Join(clone, ".git"),
		"clone with alternates": shared, "linked worktree": worktree,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := open(t, source.Options{URL: url, AllowLocal: true, Dir: dir})
			s := mustSync(t, m)
			if s.Revision != (source.Revision{Ref: "main", Hash: hash}) {
				t.Errorf("revision %v", s.Revision)
			}
			if diff := cmp.Diff(map[string]string{"f": "1", "dir/g": "2"}, files(t, s.Tree)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("a mirror was made: %v %v", left, err)
			}
		})
	}
}

func TestLocalRepositoryFollowsCommitsAndGC(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1", "g": "g"}, "first")
	m := open(t, source.Options{URL: repo.Path(), AllowLocal: true, Limits: source.Limits{CacheBytes: 1}})
	first := mustSync(t, m)
	repo.Commit(map[string]string{"f": "2"}, "second")
	second := mustSync(t, m)
	repo.Git("gc", "--quiet", "--prune=now") // loose objects become a pack under the open handle
	if got := read(t, first.Tree, "f") + read(t, second.Tree, "f") + read(t, first.Tree, "g"); got != "12g" {
		t.Errorf("after gc: %q", got)
	}
	third := repo.Commit(map[string]string{"f": "3"}, "third")
	if s, err := m.At(t.Context(), third); err != nil || read(t, s.Tree, "f") != "3" {
		t.Errorf("At a commit newer than the handle: %v", err)
	}
	if stats := m.Stats(); stats.LsRemotes != 0 || stats.Fetches != 0 {
		t.Errorf("stats %+v", stats)
	}
}

func TestLocalRepositoryLosesAnObject(t *testing.T) {
	repo := gittest.NewRepo(t)
	hash := repo.Commit(map[string]string{"f": "1", "g": "2"}, "first")
	blob := repo.Git("rev-parse", hash+":f")
	name := filepath.Join(repo.Path(), "objects", blob[:2], blob[2:])
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	m := open(t, source.Options{URL: repo.Path(), AllowLocal: true})
	_, err = m.Sync(t.Context())
	wantReason(t, err, source.MirrorCorrupt, blob, "git fsck", repo.Path())
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, mustSync(t, m).Tree, "f"); got != "1" {
		t.Errorf("repaired: %q", got)
	}
}

func TestLocalRepositoryOfAnUnknownFormat(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	repo.Git("config", "core.repositoryFormatVersion", "1")
	repo.Git("config", "extensions.refStorage", "reftable")
	_, err := open(t, source.Options{URL: repo.Path(), AllowLocal: true}).Sync(t.Context())
	wantReason(t, err, source.RepositoryUnreadable, repo.Path())
}

// TestLocalRepositoryRunsNothing opens a repository with no git to be found.
func TestLocalRepositoryRunsNothing(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	t.Setenv("PATH", t.TempDir())
	if _, err := exec.LookPath("git"); err == nil {
		t.Fatal("git is still found; the test shows nothing")
	}
	m := open(t, source.Options{URL: repo.FileURL(), AllowLocal: true})
	if got := read(t, mustSync(t, m).Tree, "f"); got != "1" {
		t.Errorf("file %q", got)
	}
}

func TestOpenWorkingCopy(t *testing.T) {
	repo := gittest.NewRepo(t)
	hash := repo.Commit(map[string]string{"clusters/dev/f": "1"}, "first")
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	clone, worktree := filepath.Join(base, "clone"), filepath.Join(base, "worktree")
	repo.Git("clone", "--quiet", repo.Path(), clone)
	repo.Git("worktree", "add", "--quiet", "--detach", worktree, hash)
	link := filepath.Join(base, "link")
	if err := os.Symlink(filepath.Join(clone, "clusters"), link); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, path, root, rel string }{
		{"root", clone, clone, ""},
		{"folder", filepath.Join(clone, "clusters", "dev"), clone, "clusters/dev"},
		{"file", filepath.Join(clone, "clusters", "dev", "f"), clone, "clusters/dev/f"},
		{"through a link", filepath.Join(link, "dev"), clone, "clusters/dev"},
		{"worktree", filepath.Join(worktree, "clusters"), worktree, "clusters"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, rel, err := source.OpenWorkingCopy(tt.path)
			if err != nil || root != tt.root || rel != tt.rel {
				t.Errorf("got %q, %q, %v; want %q, %q", root, rel, err, tt.root, tt.rel)
			}
		})
	}
	if _, _, err := source.OpenWorkingCopy(base); source.ReasonOf(err) != source.RepositoryNotFound {
		t.Errorf("outside: %v", err)
	}
	if _, _, err := source.OpenWorkingCopy(filepath.Join(base, "missing")); !os.IsNotExist(err) {
		t.Errorf("missing path: %v", err)
	}
}
