package source_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

func pullRef(n int) string { return fmt.Sprintf("refs/pull/%d/head", n) }

// pullRequest makes a commit on top of another and shows it as a forge does, under
// refs/pull only. A content of "" removes the file.
func pullRequest(repo *gittest.Repo, n int, from string, files map[string]string) string {
	const branch = "somebody/branch"
	repo.Branch(branch, from)
	repo.Checkout(branch)
	head := change(repo, files)
	repo.Checkout(gittest.DefaultBranch)
	repo.DeleteBranch(branch)
	repo.SetRef(pullRef(n), head)
	return head
}

// change commits files to the selected branch, and removes those without content.
func change(repo *gittest.Repo, files map[string]string) string {
	var gone []string
	kept := maps.Clone(files)
	for p, content := range files {
		if content == "" {
			gone = append(gone, p)
			delete(kept, p)
		}
	}
	if len(gone) > 0 {
		repo.Remove("remove", gone...)
	}
	return repo.Commit(kept, "change")
}

func mustPropose(t testing.TB, m *source.Mirror, n int, target *source.Snapshot) *source.Proposal {
	t.Helper()
	p, err := m.Proposal(t.Context(), pullRef(n), target)
	if err != nil {
		t.Fatalf("Proposal: %v", err)
	}
	return p
}

// wantFiles compares a proposal's tree.
func wantFiles(t testing.TB, p *source.Proposal, want map[string]string) {
	t.Helper()
	if p.Tree == nil {
		t.Fatalf("no tree; conflicts: %v", p.Conflicts)
	}
	if diff := cmp.Diff(want, files(t, p.Tree)); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
}

func TestProposal(t *testing.T) {
	ssh := gittest.NewSSH(t)
	for name, options := range map[string]func(*gittest.Repo) source.Options{
		"http": func(r *gittest.Repo) source.Options { return source.Options{URL: r.URL()} },
		"ssh": func(r *gittest.Repo) source.Options {
			return source.Options{URL: ssh.URL(r), Auth: source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}}
		},
		"local": func(r *gittest.Repo) source.Options { return source.Options{URL: r.FileURL(), AllowLocal: true} },
	} {
		t.Run(name, func(t *testing.T) {
			repo := gittest.NewRepo(t)
			repo.Commit(map[string]string{"clusters/a/f": "0", "clusters/b/f": "b", "README.md": "hello"}, "first")
			base := repo.Commit(map[string]string{"clusters/a/f": "1"}, "second")
			head := pullRequest(repo, 7, base, map[string]string{"clusters/a/f": "2", "clusters/c/f": "c", "README.md": ""})
			m := open(t, options(repo))
			target := mustSync(t, m)
			before := m.Stats()

			p := mustPropose(t, m, 7, target)
			want := &source.Proposal{
				Head: head, MergeBase: base, Target: target.Revision,
				Changed: []string{"README.md", "clusters/a/f", "clusters/c/f"},
			}
			wantFiles(t, p, map[string]string{"clusters/a/f": "2", "clusters/b/f": "b", "clusters/c/f": "c"})
			ignoreTree := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Tree" }, cmp.Ignore())
			if diff := cmp.Diff(want, p, ignoreTree); diff != "" {
				t.Errorf("proposal (-want +got):\n%s", diff)
			}
			wantFetched(t, name, before, m.Stats(), 1, 2+7) // a commit that removes, one that adds, and the directories and files that are new
			if again := mustPropose(t, m, 7, target); again.Head != head {
				t.Errorf("head %s", again.Head)
			}
			wantFetched(t, name, before, m.Stats(), 1, 9)

			repo.Commit(map[string]string{"clusters/b/f": "moved on", "new": "n"}, "third")
			moved := mustSync(t, m)
			before = m.Stats()
			p = mustPropose(t, m, 7, moved)
			wantFiles(t, p, map[string]string{"clusters/a/f": "2", "clusters/b/f": "moved on", "clusters/c/f": "c", "new": "n"})
			if p.MergeBase != base || p.Target != moved.Revision {
				t.Errorf("merge base %s, target %v", p.MergeBase, p.Target)
			}
			wantFetched(t, name, before, m.Stats(), 0, 0)

			pushed := pullRequest(repo, 7, target.Revision.Hash, map[string]string{"other": "o"}) // a force-push
			p = mustPropose(t, m, 7, moved)
			if diff := cmp.Diff([]string{"other"}, p.Changed); p.Head != pushed || diff != "" {
				t.Errorf("after a force-push: head %s, changed %s", p.Head, diff)
			}

			repo.Git("update-ref", "-d", pullRef(7))
			_, err := m.Proposal(t.Context(), pullRef(7), moved)
			wantReason(t, err, source.RefNotFound, pullRef(7), "repo.git")
			if got := mustSync(t, m); got != moved || m.Stats().Rebuilds != 0 {
				t.Errorf("the pull request left traces: %v, %+v", got.Revision, m.Stats())
			}
		})
	}
}

func wantFetched(t *testing.T, transport string, before, after source.Stats, fetches, objects int64) {
	t.Helper()
	if transport == "local" {
		fetches, objects = 0, 0
	}
	if f, o := after.Fetches-before.Fetches, after.ObjectsReceived-before.ObjectsReceived; f != fetches || o != objects {
		t.Errorf("%d fetches and %d objects, want %d and %d", f, o, fetches, objects)
	}
	if ls := after.LsRemotes - before.LsRemotes; transport != "local" && ls < fetches {
		t.Errorf("%d ls-remotes for %d fetches", ls, fetches)
	}
}

func TestProposalRefusesOtherReferences(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	m := open(t, source.Options{URL: repo.URL()})
	target := mustSync(t, m)
	before := repo.HTTP().Counts()
	for _, ref := range []string{
		"", "main", "refs/heads/main", "refs/pull/1/merge", "refs/pull//head", "refs/pull/0/head", "refs/pull/-1/head", "refs/pull/1/head\n",
		"refs/pull/1/head/x", "xrefs/pull/1/head", "refs/merge-requests/1/head", "refs/pull/../heads/main", "refs/pull/9999999999999999999/head",
	} {
		_, err := m.Proposal(t.Context(), ref, target)
		wantReason(t, err, source.BadConfiguration, fmt.Sprintf("%q", ref))
	}
	for _, s := range []*source.Snapshot{nil, {}, {Tree: target.Tree}} {
		_, err := m.Proposal(t.Context(), pullRef(1), s)
		wantReason(t, err, source.BadConfiguration)
	}
	if after := repo.HTTP().Counts(); after != before {
		t.Errorf("the server was asked: %+v", after)
	}
	_, err := m.Proposal(t.Context(), pullRef(1), target)
	wantReason(t, err, source.RefNotFound, pullRef(1))
}

// TestProposalThatChangesNothing covers heads that the target has already.
func TestProposalThatChangesNothing(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1", "g": "1"}, "first")
	base := repo.Head()
	m := open(t, source.Options{URL: repo.URL()})
	mustSync(t, m)

	heads := map[string]string{"the first commit": base}
	heads["merged by fast-forward"] = pullRequest(repo, 1, base, map[string]string{"f": "2"})
	repo.Branch("main", heads["merged by fast-forward"])
	heads["squashed"] = pullRequest(repo, 1, base, map[string]string{"squashed": "s"})
	repo.Commit(map[string]string{"squashed": "s"}, "squashed")
	heads["merged by a merge"] = pullRequest(repo, 1, repo.Head(), map[string]string{"merged": "m"})
	repo.Commit(map[string]string{"g": "2"}, "between")
	repo.Branch("main", repo.Git("commit-tree", "-m", "merge", "-p", repo.Head(), "-p", heads["merged by a merge"],
		strings.Split(repo.Git("merge-tree", "--write-tree", "main", heads["merged by a merge"]), "\n")[0]))
	heads["reverted and empty"] = repo.Git("commit-tree", "-m", "empty", "-p", repo.Head(), repo.Git("rev-parse", "main^{tree}"))
	heads["the target"] = repo.Head()
	target := mustSync(t, m)
	for name, head := range heads {
		t.Run(name, func(t *testing.T) {
			repo.SetRef(pullRef(1), head)
			p := mustPropose(t, m, 1, target)
			wantFiles(t, p, map[string]string{"f": "2", "g": "2", "squashed": "s", "merged": "m"})
			var changed []string
			if name == "squashed" {
				changed = []string{"squashed"}
			}
			if diff := cmp.Diff(changed, p.Changed); diff != "" {
				t.Errorf("changed: %s", diff)
			}
			if want := repo.Git("merge-base", "main", head); p.MergeBase != want || p.Head != head {
				t.Errorf("head %s, merge base %s, want %s", p.Head, p.MergeBase, want)
			}
		})
	}
}

func TestProposalFromAnUnrelatedHistory(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	m := open(t, source.Options{URL: repo.URL()})
	target := mustSync(t, m)
	repo.Checkout("fork")
	repo.SetRef(pullRef(1), repo.Commit(map[string]string{"f": "1", "g": "2"}, "of its own"))
	repo.DeleteBranch("fork")
	_, err := m.Proposal(t.Context(), pullRef(1), target)
	wantReason(t, err, source.Unrelated, "in common", repo.URL())
}

// TestProposalConflicts lays changes over a target that changed too.
func TestProposalConflicts(t *testing.T) {
	base := map[string]string{"a": "1", "b": "1", "d/x": "1", "d/y": "1", "e/f/g": "1", "link": gittest.LinkPrefix + "a"}
	tests := []struct {
		name         string
		ours, theirs map[string]string // "" removes
		want         []string          // conflicts
		tree         map[string]string // what becomes of base if there are none; "" for absent
	}{
		{"different files", map[string]string{"a": "2"}, map[string]string{"b": "2"}, nil, map[string]string{"a": "2", "b": "2"}},
		{"same file", map[string]string{"a": "2", "b": "2"}, map[string]string{"a": "3", "new": "n"}, []string{"a"}, nil},
		{"same file, same content", map[string]string{"a": "2"}, map[string]string{"a": "2", "b": "3"}, nil, map[string]string{"a": "2", "b": "3"}},
		{"both add", map[string]string{"n/m": "1"}, map[string]string{"n/m": "2"}, []string{"n/m"}, nil},
		{"both add the same", map[string]string{"n/m": "1"}, map[string]string{"n/m": "1"}, nil, map[string]string{"n/m": "1"}},
		{"both remove", map[string]string{"d/x": ""}, map[string]string{"d/x": "", "d/y": ""}, nil, map[string]string{"d/x": "", "d/y": ""}},
		{"removed here, changed there", map[string]string{"a": ""}, map[string]string{"a": "2"}, []string{"a"}, nil},
		{"changed here, removed there", map[string]string{"a": "2"}, map[string]string{"a": ""}, []string{"a"}, nil},
		{"directory gone here, file added there", map[string]string{"d/x": "", "d/y": ""}, map[string]string{"d/z": "1"}, nil,
			map[string]string{"d/x": "", "d/y": "", "d/z": "1"}},
		{"directory here, file there", map[string]string{"n/m": "1"}, map[string]string{"n": "1"}, []string{"n"}, nil},
		{"file here, directory there", map[string]string{"n": "1"}, map[string]string{"n/m/o": "1"}, []string{"n/m/o"}, nil},
		{"file becomes directory there", map[string]string{"b": "2"}, map[string]string{"a": "", "a/x": "1"}, nil,
			map[string]string{"b": "2", "a": "", "a/x": "1"}},
		{"file changed here, directory there", map[string]string{"a": "2"}, map[string]string{"a": "", "a/x": "1"}, []string{"a", "a/x"}, nil},
		{"directory becomes file there", map[string]string{"b": "2"}, map[string]string{"d/x": "", "d/y": "", "d": "1"}, nil,
			map[string]string{"b": "2", "d/x": "", "d/y": "", "d": "1"}},
		{"file added here, directory becomes file there", map[string]string{"d/z": "2"},
			map[string]string{"d/x": "", "d/y": "", "d": "1"}, []string{"d"}, nil},
		{"file changed here, directory becomes file there", map[string]string{"d/x": "2"},
			map[string]string{"d/x": "", "d/y": "", "d": "1"}, []string{"d", "d/x"}, nil},
		{"part gone here, directory becomes file there", map[string]string{"d/x": ""},
			map[string]string{"d/x": "", "d/y": "", "d": "1"}, nil, map[string]string{"d/x": "", "d/y": "", "d": "1"}},
		{"both make the same directory of a file", map[string]string{"a": "", "a/x": "1"}, map[string]string{"a": "", "a/x": "1", "a/y": "2"}, nil,
			map[string]string{"a": "", "a/x": "1", "a/y": "2"}},
		{"link changed", map[string]string{"b": "2"}, map[string]string{"link": gittest.LinkPrefix + "b"}, nil,
			map[string]string{"b": "2", "link": gittest.LinkPrefix + "b"}},
		{"link changed on both sides", map[string]string{"link": gittest.LinkPrefix + "d"}, map[string]string{"link": gittest.LinkPrefix + "b"},
			[]string{"link"}, nil},
		{"link becomes a file of the same content", nil, map[string]string{"link": "a"}, nil, map[string]string{"link": "a"}},
		{"link here, file of the same content there", map[string]string{"a": gittest.LinkPrefix + "x"}, map[string]string{"a": "x"}, []string{"a"}, nil},
		{"rename", map[string]string{"b": "2"}, map[string]string{"a": "", "e/a": "1"}, nil, map[string]string{"b": "2", "a": "", "e/a": "1"}},
		{"changed here, renamed there", map[string]string{"a": "2"}, map[string]string{"a": "", "e/a": "1"}, []string{"a"}, nil},
		{"everything removed", map[string]string{"b": "1"}, map[string]string{"a": "", "b": "", "d/x": "", "d/y": "", "e/f/g": "", "link": ""}, nil,
			map[string]string{"a": "", "b": "", "d/x": "", "d/y": "", "e/f/g": "", "link": ""}},
	}
	repo := gittest.NewRepo(t)
	first := repo.Commit(base, "first")
	m := open(t, source.Options{URL: repo.Path(), AllowLocal: true})
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			repo.Branch("main", first)
			repo.Checkout("main")
			change(repo, tt.ours)
			head := pullRequest(repo, i+1, first, tt.theirs)
			p := mustPropose(t, m, i+1, mustSync(t, m))
			if diff := cmp.Diff(tt.want, p.Conflicts); diff != "" {
				t.Errorf("conflicts (-want +got):\n%s", diff)
			}
			if p.Head != head || p.MergeBase != first {
				t.Errorf("head %s, merge base %s", p.Head, p.MergeBase)
			}
			if len(tt.want) > 0 {
				if p.Tree != nil {
					t.Error("a tree in spite of conflicts")
				}
				return
			}
			want := maps.Clone(base)
			for p, content := range tt.tree {
				if delete(want, p); content != "" {
					want[p] = content
				}
			}
			wantFiles(t, p, want)
		})
	}
}

func TestProposalOfSubmodulesAndModes(t *testing.T) {
	const one, two = "1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1", "run.sh": "#!/bin/sh"}, "first")
	m := open(t, source.Options{URL: repo.URL()})
	repo.Branch("pr", base)
	repo.Checkout("pr")
	repo.Submodule("mod", one)
	blob := repo.Git("rev-parse", base+":run.sh")
	index := repo.GitInput("160000 commit "+one+"\tmod\n100644 blob "+repo.Git("rev-parse", base+":f")+"\tf\n100755 blob "+blob+"\trun.sh\n", "mktree", "--missing")
	repo.SetRef(pullRef(1), repo.Git("commit-tree", "-m", "executable", "-p", repo.Head(), index))
	target := mustSync(t, m)

	p := mustPropose(t, m, 1, target)
	if diff := cmp.Diff([]string{"mod"}, p.Changed); diff != "" {
		t.Errorf("changed: %s", diff)
	}
	wantFiles(t, p, map[string]string{"f": "1", "run.sh": "#!/bin/sh", "mod": "submodule:" + one})
	if e, err := p.Tree.Stat("mod"); err != nil || e != (tree.Entry{Name: "mod", Kind: tree.Submodule, Hash: one}) {
		t.Errorf("%v, %v", e, err)
	}

	repo.Checkout("main")
	repo.Submodule("mod", two)
	p = mustPropose(t, m, 1, mustSync(t, m))
	if diff := cmp.Diff([]string{"mod"}, p.Conflicts); diff != "" {
		t.Errorf("conflicts: %s", diff)
	}
}
