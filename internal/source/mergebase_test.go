package source_test

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
)

// history writes commits for git fast-import, so that one process makes many.
type history struct {
	in    strings.Builder
	marks int
}

// commit adds a commit on a branch of its own, with these parents, by number, and
// exactly these files. It returns its number.
func (h *history) commit(date int, parents []int, files map[string]string) int {
	h.marks++
	fmt.Fprintf(&h.in, "reset refs/heads/c%d\n", h.marks)
	fmt.Fprintf(&h.in, "commit refs/heads/c%d\nmark :%d\ncommitter A <a@capstan.invalid> %d +0000\ndata 0\n", h.marks, h.marks, date)
	for i, p := range parents {
		fmt.Fprintf(&h.in, "%s :%d\n", []string{"from", "merge"}[min(i, 1)], p)
	}
	h.in.WriteString("deleteall\n")
	for p, content := range files {
		mode := "100644"
		if target, ok := strings.CutPrefix(content, gittest.LinkPrefix); ok {
			mode, content = "120000", target
		}
		fmt.Fprintf(&h.in, "M %s inline %s\ndata %d\n%s\n", mode, p, len(content), content)
	}
	h.in.WriteString("\n")
	return h.marks
}

// write makes the commits in a repository and returns their hashes; 0 has none.
func (h *history) write(repo *gittest.Repo) []string {
	repo.GitInput(h.in.String()+"done\n", "fast-import", "--quiet", "--done")
	repo.Git("pack-refs", "--all")
	hashes := make([]string, h.marks+1)
	for line := range strings.SplitSeq(repo.Git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads/c*"), "\n") {
		var i int
		var hash string
		if _, err := fmt.Sscanf(line, "c%d %s", &i, &hash); err == nil {
			hashes[i] = hash
		}
	}
	return hashes
}

// TestMergeBasesOfRandomHistories compares with git, on histories with merges of
// several parents, several roots, criss-cross, and dates that run backwards.
func TestMergeBasesOfRandomHistories(t *testing.T) {
	several := 0
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var h history
		parents := map[int][]int{}
		for i := 1; i <= 40; i++ {
			for range min(i-1, []int{0, 1, 1, 1, 1, 2, 2, 2, 2, 3}[rnd.IntN(10)]) {
				if p := max(1, i-1-rnd.IntN(6)); !slices.Contains(parents[i], p) {
					parents[i] = append(parents[i], p)
				}
			}
			date := 1_700_000_000 + 10*i
			switch seed % 3 {
			case 1: // some clocks go wrong
				date += rnd.IntN(500) - 250
			case 2: // all do
				date = 1_700_000_000 + rnd.IntN(20)
			}
			h.commit(date, parents[i], map[string]string{"f": fmt.Sprint(seed, i)})
		}
		repo := gittest.NewRepo(t)
		commits := h.write(repo)
		m := open(t, source.Options{URL: repo.Path(), AllowLocal: true, Ref: source.Ref{Branch: "c40"}})
		mustSync(t, m)

		ancestors := make([]map[int]bool, 41) // each commit's own included
		for i := 1; i <= 40; i++ {
			ancestors[i] = map[int]bool{i: true}
			for _, p := range parents[i] {
				for a := range ancestors[p] {
					ancestors[i][a] = true
				}
			}
		}
		for a := 1; a <= 40; a++ {
			for b := 1 + rnd.IntN(3); b <= 40; b += 1 + rnd.IntN(5) {
				var want []string
				for c := range ancestors[a] {
					best := ancestors[b][c]
					for d := range ancestors[a] {
						best = best && (d == c || !ancestors[b][d] || !ancestors[d][c])
					}
					if best {
						want = append(want, commits[c])
					}
				}
				got := source.MergeBases(t, m, commits[a], commits[b])
				if len(got) > 1 {
					several++
				}
				sorted := slices.Sorted(slices.Values(got))
				slices.Sort(want)
				if diff := cmp.Diff(want, sorted); diff != "" {
					t.Fatalf("seed %d, %d and %d (-want +got):\n%s", seed, a, b, diff)
				}
				if rnd.IntN(15) > 0 || len(want) == 0 {
					continue
				}
				all := strings.Fields(repo.Git("merge-base", "--all", commits[a], commits[b]))
				if diff := cmp.Diff(slices.Sorted(slices.Values(all)), sorted); diff != "" {
					t.Fatalf("seed %d, %d and %d (-git +got):\n%s", seed, a, b, diff)
				}
				if seed%3 == 0 && repo.Git("merge-base", commits[a], commits[b]) != got[0] { // dates differ
					t.Fatalf("seed %d, %d and %d: %s first, git has %v", seed, a, b, got[0], all)
				}
			}
		}
	}
	if several < 50 {
		t.Errorf("%d pairs with several merge bases; the test shows less than it should", several)
	}
}

// TestProposalsOfRandomHistories compares with git merge-tree. Files have one line,
// so that Git merges nothing inside of them, and name their path, so that it finds
// no renames.
func TestProposalsOfRandomHistories(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var h history
	const cases = 60
	type sides struct{ ours, theirs int }
	var all []sides
	for range cases {
		files := someFiles(rnd)
		base := h.commit(1_700_000_000+h.marks, nil, files)
		all = append(all, sides{side(&h, rnd, base, files), side(&h, rnd, base, files)})
	}
	repo := gittest.NewRepo(t)
	commits := h.write(repo)
	for i, s := range all {
		repo.SetRef(pullRef(i+1), commits[s.theirs])
	}
	repo.Git("pack-refs", "--all")
	m := open(t, source.Options{URL: repo.Path(), AllowLocal: true, Ref: source.Ref{Branch: "c1"}})
	clean := 0
	for i, s := range all {
		target, err := m.At(t.Context(), commits[s.ours])
		if err != nil {
			t.Fatal(err)
		}
		p := mustPropose(t, m, i+1, target)
		cmd := exec.CommandContext(t.Context(), "git", "-C", repo.Path(), "merge-tree", "--write-tree",
			"--name-only", "--no-messages", commits[s.ours], commits[s.theirs])
		out, err := cmd.Output()
		lines := strings.Fields(string(out))
		describe := fmt.Sprintf("case %d\nbase   %v\nours   %v\ntheirs %v", i, listing(t, m, p.MergeBase), listing(t, m, commits[s.ours]),
			listing(t, m, commits[s.theirs]))
		if cmd.ProcessState.ExitCode() > 1 {
			t.Fatalf("git merge-tree: %v", err)
		}
		if isClean := cmd.ProcessState.ExitCode() == 0; isClean != (len(p.Conflicts) == 0) {
			t.Fatalf("git says clean: %t, %v; conflicts %v\n%s", isClean, lines, p.Conflicts, describe)
		} else if !isClean {
			if diff := cmp.Diff(lines[1:], p.Conflicts); diff != "" && !strings.Contains(string(out), "~") { // Git's names for one file beside another
				t.Fatalf("conflicts (-git +got):\n%s\n%s", diff, describe)
			}
			continue
		}
		clean++
		merged := repo.Git("commit-tree", "-m", "merged", lines[0])
		want, err := m.At(t.Context(), merged)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(files(t, want.Tree), files(t, p.Tree)); diff != "" {
			t.Fatalf("tree (-git +got):\n%s\n%s", diff, describe)
		}
	}
	if clean < cases/5 || clean > cases*4/5 {
		t.Errorf("%d of %d are clean; the test shows less than it should", clean, cases)
	}
}

// side makes one to three commits on top of another and returns the last.
func side(h *history, rnd *rand.Rand, parent int, from map[string]string) int {
	now := map[string]string{}
	for p, content := range from {
		now[p] = content
	}
	for range 1 + rnd.IntN(3) {
		for p := range now {
			if rnd.IntN(8) == 0 {
				delete(now, p)
			} else if rnd.IntN(8) == 0 {
				now[p] = content(rnd, p)
			}
		}
		for p, c := range someFiles(rnd) {
			if rnd.IntN(6) == 0 && fits(now, p) {
				now[p] = c
			}
		}
		parent = h.commit(1_700_000_000+h.marks, []int{parent}, now)
	}
	return parent
}

func someFiles(rnd *rand.Rand) map[string]string {
	m := map[string]string{}
	for range 4 + rnd.IntN(8) {
		p := ""
		for range 1 + rnd.IntN(3) {
			p = path.Join(p, string(rune('a'+rnd.IntN(4))))
		}
		if fits(m, p) {
			m[p] = content(rnd, p)
		}
	}
	return m
}

// fits reports whether there can be a file beside the others.
func fits(files map[string]string, p string) bool {
	for q := range files {
		if p == q || strings.HasPrefix(p, q+"/") || strings.HasPrefix(q, p+"/") {
			return false
		}
	}
	return true
}

func content(rnd *rand.Rand, p string) string {
	return []string{"", "", gittest.LinkPrefix + "link"}[rnd.IntN(3)] + p + []string{"1", "2", "3"}[rnd.IntN(3)]
}

func listing(t *testing.T, m *source.Mirror, hash string) map[string]string {
	t.Helper()
	s, err := m.At(t.Context(), hash)
	if err != nil {
		t.Fatal(err)
	}
	return files(t, s.Tree)
}

// TestProposalAcrossACrissCross: of two best common ancestors the newest is named.
func TestProposalAcrossACrissCross(t *testing.T) {
	var h history
	root := h.commit(100, nil, map[string]string{"f": "0", "g": "0"})
	left := h.commit(200, []int{root}, map[string]string{"f": "1", "g": "0"})
	right := h.commit(300, []int{root}, map[string]string{"f": "0", "g": "1"})
	ours := h.commit(400, []int{left, right}, map[string]string{"f": "1", "g": "1"})
	theirs := h.commit(400, []int{right, left}, map[string]string{"f": "1", "g": "1"})
	ours = h.commit(500, []int{ours}, map[string]string{"f": "1", "g": "2"})
	theirs = h.commit(500, []int{theirs}, map[string]string{"f": "2", "g": "1"})
	repo := gittest.NewRepo(t)
	commits := h.write(repo)
	repo.SetRef(pullRef(1), commits[theirs])
	m := open(t, source.Options{URL: repo.URL(), Ref: source.Ref{Branch: fmt.Sprintf("c%d", ours)}})
	p := mustPropose(t, m, 1, mustSync(t, m))
	if p.MergeBase != commits[right] {
		t.Errorf("merge base %s, want %s of %v", p.MergeBase, commits[right], commits)
	}
	// The two bases differ in both files, and so do the sides.
	if diff := cmp.Diff([]string{"f", "g"}, p.Conflicts); diff != "" {
		t.Errorf("conflicts: %s", diff)
	}
}

// TestProposalThatTakesBackAMerge: a head made of the two parents of a merge in the
// target's history, with the files of one of them, undoes the other when it is merged.
// Compared with one merge base alone it changes nothing.
func TestProposalThatTakesBackAMerge(t *testing.T) {
	for name, dates := range map[string][2]int{"the merged branch is newer": {200, 300}, "the target is newer": {300, 200}} {
		t.Run(name, func(t *testing.T) {
			var h history
			root := h.commit(100, nil, map[string]string{"f": "0", "g": "0", "h": "0"})
			before := h.commit(dates[0], []int{root}, map[string]string{"f": "0", "g": "fixed", "h": "0"})
			branch := h.commit(dates[1], []int{root}, map[string]string{"f": "fixed", "g": "0", "h": "0"})
			target := h.commit(400, []int{before, branch}, map[string]string{"f": "fixed", "g": "fixed", "h": "0"})
			head := h.commit(500, []int{before, branch}, map[string]string{"f": "0", "g": "0", "h": "1"})
			same := h.commit(500, []int{before, branch}, map[string]string{"f": "fixed", "g": "fixed", "h": "1"})
			repo := gittest.NewRepo(t)
			commits := h.write(repo)
			repo.SetRef(pullRef(1), commits[head])
			repo.SetRef(pullRef(2), commits[same])
			m := open(t, source.Options{URL: repo.URL(), Ref: source.Ref{Branch: fmt.Sprintf("c%d", target)}})
			snapshot := mustSync(t, m)
			if diff := cmp.Diff([]string{"f", "g"}, mustPropose(t, m, 1, snapshot).Conflicts); diff != "" {
				t.Errorf("conflicts: %s", diff)
			}
			wantFiles(t, mustPropose(t, m, 2, snapshot), map[string]string{"f": "fixed", "g": "fixed", "h": "1"})
		})
	}
}

// TestProposalsAcrossCrissCrosses: whatever counts as clean is what git makes of it.
func TestProposalsAcrossCrissCrosses(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var h history
	const cases = 60
	type sides struct{ ours, theirs int }
	var all []sides
	for range cases {
		from := someFiles(rnd)
		root := h.commit(1_700_000_000+h.marks, nil, from)
		left, right := side(&h, rnd, root, from), side(&h, rnd, root, from)
		mix := func(parents ...int) int {
			now := map[string]string{}
			for p, c := range from {
				if now[p] = c; rnd.IntN(3) == 0 {
					now[p] = content(rnd, p)
				}
			}
			return h.commit(1_700_000_000+h.marks, parents, now)
		}
		all = append(all, sides{mix(left, right), mix(right, left)})
	}
	repo := gittest.NewRepo(t)
	commits := h.write(repo)
	for i, s := range all {
		repo.SetRef(pullRef(i+1), commits[s.theirs])
	}
	repo.Git("pack-refs", "--all")
	m := open(t, source.Options{URL: repo.Path(), AllowLocal: true, Ref: source.Ref{Branch: "c1"}})
	clean := 0
	for i, s := range all {
		target, err := m.At(t.Context(), commits[s.ours])
		if err != nil {
			t.Fatal(err)
		}
		p := mustPropose(t, m, i+1, target)
		if len(p.Conflicts) > 0 {
			continue
		}
		clean++
		out := repo.Git("merge-tree", "--write-tree", "--no-messages", commits[s.ours], commits[s.theirs])
		want, err := m.At(t.Context(), repo.Git("commit-tree", "-m", "merged", strings.TrimSpace(out)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(files(t, want.Tree), files(t, p.Tree)); diff != "" {
			t.Fatalf("case %d (-git +got):\n%s", i, diff)
		}
	}
	if clean == 0 {
		t.Error("none is clean; the test shows nothing")
	}
}
