package source_test

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
)

// noise doesn't compress well; different seeds make different noise.
func noise(seed uint64, bytes int) string {
	rnd := rand.New(rand.NewPCG(seed, 9))
	var b strings.Builder
	for b.Len() < bytes {
		fmt.Fprintf(&b, "%016x", rnd.Uint64())
	}
	return b.String()[:bytes]
}

func TestProposalLimits(t *testing.T) {
	const kib = 1 << 10
	ssh := gittest.NewSSH(t)
	many := map[string]string{}
	for i := range 30 {
		many[fmt.Sprintf("dir/f%02d", i)] = fmt.Sprint(i)
	}
	// Alike to one another, so that the server packs all but one as deltas.
	alike, text := map[string]string{}, noise(1, 60*kib)
	for i := range 30 {
		alike[fmt.Sprint("f", i)] = text + fmt.Sprint(i)
	}
	tests := []struct {
		name    string
		changes map[string]string
		limits  source.Limits
		want    string // in the error; "" for none
	}{
		{"pack", map[string]string{"f": noise(2, 200*kib)}, source.Limits{ProposalBytes: 70 * kib}, "more than the limit of 71680 bytes"},
		{"object", map[string]string{"f": strings.Repeat("x", 200*kib)}, source.Limits{ProposalBytes: 70 * kib}, "an object of 204800 bytes"},
		{"deltas", alike, source.Limits{ProposalBytes: 70 * kib}, "more than 1146880 bytes unpacked"},
		{"deltas that fit", alike, source.Limits{ProposalBytes: 140 * kib}, ""},
		{"paths", many, source.Limits{ProposalPaths: 30}, "more than 30 files and directories"},
		{"paths that fit", many, source.Limits{ProposalPaths: 31}, ""},
		{"entries", many, source.Limits{Entries: 20}, "more than 20 files"},
		{"depth", map[string]string{strings.Repeat("d/", 300) + "f": "1"}, source.Limits{}, "256 levels"},
	}
	for _, tt := range tests {
		for _, transport := range []string{"http", "ssh"} {
			if transport == "ssh" && tt.limits.ProposalBytes == 0 {
				continue // only the size of the pack concerns the transport
			}
			t.Run(tt.name+"/"+transport, func(t *testing.T) {
				repo := gittest.NewRepo(t)
				base := repo.Commit(map[string]string{"README.md": "hello"}, "first")
				pullRequest(repo, 1, base, tt.changes)
				repo.Git("repack", "-a", "-d", "--quiet")
				dir := t.TempDir()
				opts := source.Options{URL: repo.URL(), Dir: dir, Limits: tt.limits}
				if transport == "ssh" {
					opts.URL, opts.Auth = ssh.URL(repo), source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}
				}
				m := open(t, opts)
				target := mustSync(t, m)
				p, err := m.Proposal(t.Context(), pullRef(1), target)
				if tt.want == "" && err == nil {
					for path, content := range tt.changes {
						if read(t, p.Tree, path) != content {
							t.Errorf("%s reads otherwise", path)
						}
					}
				} else {
					wantReason(t, err, source.TooLarge, tt.want, opts.URL)
				}
				leftovers(t, dir)
				if mustSync(t, m); m.Stats().Rebuilds != 0 || source.IsDamaged(m) {
					t.Error("the pull request was taken for a damage")
				}
			})
		}
	}
}

// TestProposalWithALargeFile: only that file can't be read.
func TestProposalWithALargeFile(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	pullRequest(repo, 1, base, map[string]string{"big": noise(1, 9000), "small": "s"})
	m := open(t, source.Options{URL: repo.URL(), Limits: source.Limits{BlobBytes: 5000}})
	target := mustSync(t, m)
	p := mustPropose(t, m, 1, target)
	for range 2 {
		_, err := p.Tree.ReadFile("big")
		wantReason(t, err, source.TooLarge, "big", "5000")
	}
	if got := read(t, p.Tree, "small") + read(t, p.Tree, "f"); got != "s1" {
		t.Errorf("files %q", got)
	}
	if mustSync(t, m); m.Stats().Rebuilds != 0 || source.IsDamaged(m) {
		t.Error("a large file was taken for a damage")
	}
}

// TestProposalOfHostileTrees takes trees that a forge should have refused.
func TestProposalOfHostileTrees(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	blob := repo.Git("rev-parse", base+":f")
	commit := func(tree string) string { return repo.Git("commit-tree", "-m", "bad", "-p", base, tree) }
	// A directory whose size doubles with each of its levels.
	bomb := repo.Git("rev-parse", base+"^{tree}")
	for range 40 {
		bomb = repo.GitInput("040000 tree "+bomb+"\ta\n040000 tree "+bomb+"\tb\n", "mktree")
	}
	empty := repo.GitInput("", "mktree")
	for range 40 {
		empty = repo.GitInput("040000 tree "+empty+"\ta\n040000 tree "+empty+"\tb\n", "mktree")
	}
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("100644 f\x00short"), 0o600); err != nil {
		t.Fatal(err)
	}
	raw := func(entries ...string) string {
		var content strings.Builder
		for _, e := range entries {
			mode, rest, _ := strings.Cut(e, " ")
			hash, name, _ := strings.Cut(rest, " ")
			bytes, err := hex.DecodeString(hash)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&content, "%s %s\x00%s", mode, name, bytes)
		}
		return repo.GitInput(content.String(), "hash-object", "-t", "tree", "-w", "--literally", "--stdin")
	}
	dir := repo.Git("rev-parse", base+"^{tree}")
	tests := []struct {
		name, tree string
		localOnly  bool // a server doesn't pack it
		want       source.Reason
		words      string
	}{
		{"..", repo.GitInput("100644 blob "+blob+"\t..\n", "mktree"), false, source.TreeInvalid, `".."`},
		{".git", repo.GitInput("100644 blob "+blob+"\t.git\n", "mktree"), false, source.TreeInvalid, `".git"`},
		{".GIT below", repo.GitInput("040000 tree "+repo.GitInput("100644 blob "+blob+"\t.GIT\n", "mktree")+"\td\n", "mktree"), false,
			source.TreeInvalid, `"d"`},
		{"directories that multiply", bomb, false, source.TooLarge, "10000"},
		{"empty directories that multiply", empty, false, source.TooLarge, "10000"},
		{"cut short", repo.Git("hash-object", "-t", "tree", "-w", "--literally", garbage), true, source.TreeInvalid, "cut short"},
		// Git takes the first two for directories, and a merge makes proper ones of them.
		{"a directory as a file", raw("0040000 "+dir+" d", "100644 "+blob+" f"), false, source.TreeInvalid, "not written as Git"},
		{"a mode that overflows", raw("4000040000 "+dir+" d", "100644 "+blob+" f"), false, source.TreeInvalid, "not written as Git"},
		{"a mode that is none", raw("60000 "+blob+" d", "100644 "+blob+" f"), true, source.TreeInvalid, "not written as Git"},
		{"not sorted", raw("100644 "+blob+" f", "40000 "+dir+" d"), false, source.TreeInvalid, "not written as Git"},
		{"sorted as no directory is", raw("40000 "+dir+" d", "100644 "+blob+" d.a"), false, source.TreeInvalid, "not written as Git"},
		{"missing file", repo.GitInput("100644 blob "+strings.Repeat("1", 40)+"\tf\n", "mktree", "--missing"), true, source.ProposalLost,
			strings.Repeat("1", 40)},
	}
	remote := open(t, source.Options{URL: repo.URL()})
	local := open(t, source.Options{URL: repo.Path(), AllowLocal: true})
	for _, tt := range tests {
		for name, m := range map[string]*source.Mirror{"http": remote, "local": local} {
			if tt.localOnly && m == remote {
				continue
			}
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				target := mustSync(t, m)
				repo.SetRef(pullRef(1), commit(tt.tree))
				_, err := m.Proposal(t.Context(), pullRef(1), target)
				wantReason(t, err, tt.want, tt.words)
				if mustSync(t, m); m.Stats().Rebuilds != 0 || source.IsDamaged(m) {
					t.Error("a bad commit was taken for a damaged mirror")
				}
			})
		}
	}
	t.Run("not a commit", func(t *testing.T) {
		repo.SetRef(pullRef(2), blob)
		_, err := remote.Proposal(t.Context(), pullRef(2), mustSync(t, remote))
		wantReason(t, err, source.ProposalLost, "it is a blob, not a commit")
		if source.IsDamaged(remote) {
			t.Error("the mirror counts as damaged")
		}
	})
}
