package source_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

// TestTreeContract compares the tree of a commit with the one in memory that
// other packages test with: both must answer alike.
func TestTreeContract(t *testing.T) {
	content := map[string]string{
		"README.md": "hello", "clusters/dev/kustomization.yaml": "dev", "clusters/dev.yaml": "sorts between", "clusters/empty": "",
		"link": gittest.LinkPrefix + "clusters/dev", "clusters/up": gittest.LinkPrefix + "../README.md",
	}
	repo := gittest.NewRepo(t)
	repo.Commit(content, "first")
	got := mustSync(t, open(t, source.Options{URL: repo.URL()})).Tree
	want := tree.FromMap(content)

	type answer struct {
		Entry   tree.Entry
		Entries []tree.Entry
		Content string
		Errors  []string
	}
	kind := func(err error) string {
		switch {
		case err == nil:
			return "ok"
		case errors.Is(err, fs.ErrNotExist):
			return "absent"
		default:
			return "refused"
		}
	}
	ask := func(tr tree.Tree, p string) answer {
		e, err1 := tr.Stat(p)
		list, err2 := tr.ReadDir(p)
		content, err3 := tr.ReadFile(p)
		if e.Kind == tree.Dir {
			e.Hash = "" // the tree in memory has none for directories
		}
		for i := range list {
			if list[i].Kind == tree.Dir {
				list[i].Hash = ""
			}
		}
		return answer{e, list, string(content), []string{kind(err1), kind(err2), kind(err3)}}
	}
	for _, p := range []string{
		"", ".", "/", "README.md", "clusters", "clusters/", "./clusters/../clusters/dev", "clusters/dev/kustomization.yaml", "clusters/empty",
		"link", "link/kustomization.yaml", "clusters/up", "missing", "clusters/missing/x", "README.md/x", "..", "../x", "clusters/../../x",
	} {
		if diff := cmp.Diff(ask(want, p), ask(got, p)); diff != "" {
			t.Errorf("path %q (-memory +commit):\n%s", p, diff)
		}
	}
}

func TestHashesAreGits(t *testing.T) {
	repo := gittest.NewRepo(t)
	commit := repo.Commit(map[string]string{"dir/f": "1"}, "first")
	tr := mustSync(t, open(t, source.Options{URL: repo.URL()})).Tree
	for p, rev := range map[string]string{"": commit + "^{tree}", "dir": commit + ":dir", "dir/f": commit + ":dir/f"} {
		e, err := tr.Stat(p)
		if err != nil || e.Hash != repo.Git("rev-parse", rev) {
			t.Errorf("%q: %v, %v", p, e, err)
		}
	}
}

func TestSubmodule(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	const hash = "1111111111111111111111111111111111111111"
	repo.Submodule("module", hash)
	tr := mustSync(t, open(t, source.Options{URL: repo.URL()})).Tree
	if diff := cmp.Diff(map[string]string{"f": "1", "module": "submodule:" + hash}, files(t, tr)); diff != "" {
		t.Error(diff)
	}
	if _, err := tr.ReadFile("module"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading a submodule: %v", err)
	}
	if _, err := tr.Stat("module/f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a submodule: %v", err)
	}
}

func TestCallerCantChangeATree(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"a": "1", "b": "2"}, "first")
	tr := mustSync(t, open(t, source.Options{URL: repo.URL()})).Tree
	list, err := tr.ReadDir("")
	if err != nil {
		t.Fatal(err)
	}
	list[0].Name = "changed"
	if _, err := tr.Stat("a"); err != nil {
		t.Error(err)
	}
}

func TestLimits(t *testing.T) {
	repo := gittest.NewRepo(t)
	var noise strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&noise, "%x", i*i*7919)
	}
	repo.Commit(map[string]string{"big": noise.String(), "small": "1", "dir/a": "a", "dir/b": "b"}, "first")
	// As deltas against one another, in the server's pack.
	repo.Commit(map[string]string{"big2": noise.String() + "more"}, "second")

	t.Run("file", func(t *testing.T) {
		m := open(t, source.Options{URL: repo.URL(), Limits: source.Limits{BlobBytes: 5000}})
		s := mustSync(t, m)
		for _, p := range []string{"big", "big2"} {
			_, err := s.Tree.ReadFile(p)
			wantReason(t, err, source.TooLarge, "5000", p)
		}
		if got := read(t, s.Tree, "small"); got != "1" {
			t.Errorf("file %q", got)
		}
		mustSync(t, m)
		if m.Stats().Rebuilds != 0 {
			t.Error("a large file was taken for a damage")
		}
	})
	t.Run("pack", func(t *testing.T) {
		ssh := gittest.NewSSH(t)
		for _, opts := range []source.Options{
			{URL: repo.URL()},
			{URL: ssh.URL(repo), Auth: source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}},
		} {
			opts.Limits.PackBytes = 4500
			m := open(t, opts)
			_, err := m.Sync(t.Context())
			wantReason(t, err, source.TooLarge, opts.URL, "4500")
		}
	})
	t.Run("entries", func(t *testing.T) {
		_, err := open(t, source.Options{URL: repo.URL(), Limits: source.Limits{Entries: 5}}).Sync(t.Context())
		wantReason(t, err, source.TooLarge, "5", repo.URL())
	})
	t.Run("depth", func(t *testing.T) {
		deep := gittest.NewRepo(t)
		deep.Commit(map[string]string{strings.Repeat("d/", 300) + "f": "1"}, "deep")
		_, err := open(t, source.Options{URL: deep.URL()}).Sync(t.Context())
		wantReason(t, err, source.TooLarge, "256")
	})
	t.Run("folders that multiply", func(t *testing.T) {
		bomb := gittest.NewRepo(t)
		bomb.Commit(map[string]string{"f": "1"}, "first")
		hash := bomb.Git("rev-parse", "main^{tree}")
		for range 40 {
			var list strings.Builder
			for i := range 10 {
				fmt.Fprintf(&list, "040000 tree %s\td%d\n", hash, i)
			}
			hash = bomb.GitInput(list.String(), "mktree")
		}
		bomb.Branch("main", bomb.Git("commit-tree", "-m", "bomb", hash))
		_, err := open(t, source.Options{URL: bomb.URL()}).Sync(t.Context())
		wantReason(t, err, source.TooLarge, "1000000")
	})
}

func TestTreesThatNoCheckoutCouldHold(t *testing.T) {
	repo := gittest.NewRepo(t)
	first := repo.Commit(map[string]string{"f": "1"}, "first")
	blob := repo.Git("rev-parse", first+":f")
	m := open(t, source.Options{URL: repo.URL()})
	mustSync(t, m)
	for _, name := range []string{"..", ".git"} {
		repo.Branch("main", repo.Git("commit-tree", "-p", first, "-m", "bad", repo.GitInput("100644 blob "+blob+"\t"+name+"\n", "mktree")))
		_, err := m.Sync(t.Context())
		wantReason(t, err, source.TreeInvalid, fmt.Sprintf("%q", name), repo.URL())
	}
	if m.Stats().Rebuilds != 0 {
		t.Error("a bad commit was taken for a damaged mirror")
	}
	repo.Branch("main", first)
	mustSync(t, m)
}

// TestMirrorIsAGitRepository lets git itself judge what the mirror holds.
func TestMirrorIsAGitRepository(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir})
	mustSync(t, m)
	want := repo.Commit(map[string]string{"f": "2"}, "second")
	mustSync(t, m)
	mirror := mirrorPath(t, dir)
	repo.Git("-C", mirror, "fsck", "--full", "--strict") // fails the test
	if got := repo.Git("-C", mirror, "for-each-ref", "--format=%(refname) %(objectname)"); got != "refs/capstan/tracked "+want {
		t.Errorf("references %q", got)
	}
}
