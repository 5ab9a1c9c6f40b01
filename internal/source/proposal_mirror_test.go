package source_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr/funcr"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
)

// TestProposalOutlivesOneRebuild reads a proposal while its objects are in the
// present mirror, in the previous one, and in none.
func TestProposalOutlivesOneRebuild(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1", "g": "1"}, "first")
	pullRequest(repo, 1, base, map[string]string{"f": "2"})
	m := open(t, source.Options{URL: repo.URL(), Limits: source.Limits{Packs: 1, CacheBytes: 1}})
	target := mustSync(t, m)
	p := mustPropose(t, m, 1, target)

	mustSync(t, m) // nothing is new, but there are two packs
	if n := m.Stats().Rebuilds; n != 1 {
		t.Fatalf("%d rebuilds, want 1", n)
	}
	wantFiles(t, p, map[string]string{"f": "2", "g": "1"})

	repo.Commit(map[string]string{"g": "3"}, "second")
	next := mustSync(t, m)
	if n := m.Stats().Rebuilds; n != 2 {
		t.Fatalf("%d rebuilds, want 2", n)
	}
	_, err := p.Tree.ReadFile("f")
	wantReason(t, err, source.ProposalLost, "f", repo.URL())
	if got := read(t, p.Tree, "g"); got != "1" {
		t.Errorf("the target's file reads %q", got)
	}
	if source.IsDamaged(m) {
		t.Error("a pull request's missing object counts as a damage")
	}
	mustSync(t, m)
	if n := m.Stats().Rebuilds; n != 2 {
		t.Errorf("%d rebuilds, want 2", n)
	}
	wantFiles(t, mustPropose(t, m, 1, next), map[string]string{"f": "2", "g": "3"})
	if got := read(t, p.Tree, "f"); got != "2" {
		t.Errorf("the old proposal reads %q from what the new one fetched", got)
	}
}

// TestProposalIsFetchedOnceAcrossRestarts also shows that leftovers are removed.
func TestProposalIsFetchedOnceAcrossRestarts(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	pullRequest(repo, 1, base, map[string]string{"f": "2"})
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir})
	mustPropose(t, m, 1, mustSync(t, m))
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	mirror := mirrorPath(t, dir)
	leftovers(t, dir)
	if refs := repo.Git("-C", mirror, "for-each-ref", "--format=%(refname)"); refs != "refs/capstan/tracked" {
		t.Errorf("references %q", refs)
	}
	repo.Git("-C", mirror, "fsck", "--full", "--strict")
	write(t, filepath.Join(filepath.Dir(mirror), "incoming", "tmp_pack_1"), "killed while fetching")

	m = open(t, source.Options{URL: repo.URL(), Dir: dir})
	wantFiles(t, mustPropose(t, m, 1, mustSync(t, m)), map[string]string{"f": "2"})
	if s := m.Stats(); s.Fetches != 0 {
		t.Errorf("fetched again: %+v", s)
	}
	leftovers(t, dir)
}

// TestProposalWhoseObjectsAreIncomplete puts a head without what it needs into the
// mirror, as a lost pack leaves it.
func TestProposalWhoseObjectsAreIncomplete(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	head := pullRequest(repo, 1, base, map[string]string{"f": "2"})
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir})
	target := mustSync(t, m)
	repo.GitInput(head+"\n", "pack-objects", "--quiet", filepath.Join(mirrorPath(t, dir), "objects", "pack", "pack"))
	mustSync(t, m)

	wantFiles(t, mustPropose(t, m, 1, target), map[string]string{"f": "2"})
	if s := m.Stats(); s.Fetches != 2 || s.Rebuilds != 0 || source.IsDamaged(m) {
		t.Errorf("stats %+v, damaged %t", s, source.IsDamaged(m))
	}
}

// TestProposalFindsADamageOfTheTarget takes the target's history out of the mirror.
// That is no fault of the pull request, so the mirror is rebuilt, once.
func TestProposalFindsADamageOfTheTarget(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	repo.Commit(map[string]string{"g": "1"}, "second")
	tip := repo.Commit(map[string]string{"h": "1"}, "third")
	pullRequest(repo, 1, base, map[string]string{"f": "2"})
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir})
	mustSync(t, m)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	packDir := filepath.Join(mirrorPath(t, dir), "objects", "pack")
	if err := os.RemoveAll(packDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(packDir, 0o700); err != nil {
		t.Fatal(err)
	}
	repo.GitInput(tip+"\n^"+tip+"~1\n"+tip+"^{tree}\n", "pack-objects", "--quiet", "--revs", filepath.Join(packDir, "pack"))
	names := repo.Git("ls-tree", "-r", "--format=%(objectname)", tip)
	repo.GitInput(names+"\n", "pack-objects", "--quiet", filepath.Join(packDir, "pack"))

	m = open(t, source.Options{URL: repo.URL(), Dir: dir})
	target := mustSync(t, m)
	_, err := m.Proposal(t.Context(), pullRef(1), target)
	wantReason(t, err, source.MirrorCorrupt, "rebuilds it", repo.URL())
	mustSync(t, m)
	wantFiles(t, mustPropose(t, m, 1, target), map[string]string{"f": "2", "g": "1", "h": "1"})
	mustSync(t, m)
	if n := m.Stats().Rebuilds; n != 1 {
		t.Errorf("%d rebuilds, want 1", n)
	}
}

// TestWhoseObjectIsMissing takes a commit away: of the target's history that is a
// damage, of the pull request's it says nothing.
func TestWhoseObjectIsMissing(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	second := repo.Commit(map[string]string{"g": "1"}, "second")
	repo.Commit(map[string]string{"h": "1"}, "third")
	middle := pullRequest(repo, 1, base, map[string]string{"f": "2"})
	pullRequest(repo, 1, middle, map[string]string{"f": "3"})
	for name, tt := range map[string]struct {
		commit  string
		want    source.Reason
		damaged bool
	}{
		"the target's":       {second, source.MirrorCorrupt, true},
		"the pull request's": {middle, source.ProposalLost, false},
	} {
		t.Run(name, func(t *testing.T) {
			clone := filepath.Join(t.TempDir(), "clone.git")
			repo.Git("clone", "--quiet", "--mirror", "--no-local", repo.Path(), clone)
			pack, err := filepath.Glob(filepath.Join(clone, "objects", "pack", "*.pack"))
			if err != nil || len(pack) != 1 {
				t.Fatalf("packs %v, %v", pack, err)
			}
			moved := filepath.Join(t.TempDir(), "pack")
			if err := os.Rename(pack[0], moved); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(moved)
			if err != nil {
				t.Fatal(err)
			}
			repo.GitInput(string(content), "-C", clone, "unpack-objects", "-q")
			if err := os.Remove(filepath.Join(clone, "objects", tt.commit[:2], tt.commit[2:])); err != nil {
				t.Fatal(err)
			}
			m := open(t, source.Options{URL: clone, AllowLocal: true})
			_, err = m.Proposal(t.Context(), pullRef(1), mustSync(t, m))
			wantReason(t, err, tt.want, tt.commit)
			if source.IsDamaged(m) != tt.damaged {
				t.Errorf("damaged: %t", source.IsDamaged(m))
			}
		})
	}
}

// TestSyncDoesNotWaitForAProposal holds the server's answer to a proposal.
func TestSyncDoesNotWaitForAProposal(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	pullRequest(repo, 1, base, map[string]string{"f": "2"})
	server := repo.HTTP()
	m := open(t, source.Options{URL: repo.URL()})
	target := mustSync(t, m)
	hold, entered, release := server.Hold()
	server.SetFault(gittest.UploadPack, hold)
	type result struct {
		p   *source.Proposal
		err error
	}
	results := make(chan result, 1)
	go func() {
		p, err := m.Proposal(t.Context(), pullRef(1), target)
		results <- result{p, err}
	}()
	<-entered
	server.SetFault(gittest.UploadPack, nil)
	repo.Commit(map[string]string{"g": "1"}, "second")
	if got := read(t, mustSync(t, m).Tree, "g"); got != "1" {
		t.Errorf("file %q", got)
	}
	// A second one waits its turn; who gives up doesn't wait.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Proposal(ctx, pullRef(1), target); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	release()
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	wantFiles(t, r.p, map[string]string{"f": "2"})
}

// TestMirrorIsRebuiltWhileAProposalIsFetched: the pack that comes builds on commits
// that the new mirror doesn't have, so it must not become part of it.
func TestMirrorIsRebuiltWhileAProposalIsFetched(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	pullRequest(repo, 1, base, map[string]string{"f": "2"})
	server := repo.HTTP()
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir, Limits: source.Limits{Packs: 1}})
	target := mustSync(t, m)
	hold, entered, release := server.Hold()
	server.SetFault(gittest.UploadPack, hold)
	result := make(chan error, 1)
	go func() {
		_, err := m.Proposal(t.Context(), pullRef(1), target)
		result <- err
	}()
	<-entered
	server.SetFault(gittest.UploadPack, nil)
	repo.ForcePush(map[string]string{"f": "new"}, "unrelated")
	mustSync(t, m)
	if n := m.Stats().Rebuilds; n != 1 {
		t.Fatalf("%d rebuilds, want 1", n)
	}
	release()
	wantReason(t, <-result, source.ProposalLost, "ask again")
	leftovers(t, dir)
	wantFiles(t, mustPropose(t, m, 1, target), map[string]string{"f": "2"})
}

func TestCloseEndsARunningProposal(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	pullRequest(repo, 1, base, map[string]string{"f": "2"})
	server := repo.HTTP()
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir})
	target := mustSync(t, m)
	hold, entered, _ := server.Hold()
	server.SetFault(gittest.UploadPack, hold)
	result := make(chan error, 1)
	go func() {
		_, err := m.Proposal(t.Context(), pullRef(1), target)
		result <- err
	}()
	<-entered
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; err == nil || source.ReasonOf(err) != "" {
		t.Errorf("Proposal on a closed mirror: %v", err)
	}
	if _, err := m.Proposal(t.Context(), pullRef(1), target); err == nil || source.ReasonOf(err) != "" {
		t.Errorf("Proposal after Close: %v", err)
	}
	leftovers(t, dir)
}

func TestProposalServerFaults(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"f": "1"}, "first")
	pullRequest(repo, 1, base, map[string]string{"f": "2"})
	server := repo.HTTP()
	dir := t.TempDir()
	m := open(t, source.Options{URL: repo.URL(), Dir: dir})
	target := mustSync(t, m)
	for name, fault := range map[string]gittest.Fault{"cut in the pack": gittest.Cut(60), "500": gittest.Status(500)} {
		server.SetFault(gittest.UploadPack, fault)
		_, err := m.Proposal(t.Context(), pullRef(1), target)
		wantReason(t, err, source.ServerUnavailable, "fetching", repo.URL())
		if leftovers(t, dir); t.Failed() {
			t.Fatal(name)
		}
	}
	server.SetFault(gittest.UploadPack, nil)
	wantFiles(t, mustPropose(t, m, 1, target), map[string]string{"f": "2"})
}

// TestProposalsDuringFetches makes and reads proposals from 8 goroutines while the
// target moves on and the mirror is rebuilt again and again.
func TestProposalsDuringFetches(t *testing.T) {
	repo := gittest.NewRepo(t)
	base := repo.Commit(map[string]string{"clusters/0/f": "0", "latest": "0"}, "first")
	const pulls, commits, readers = 4, 8, 8
	text := func(n, j int) string { return fmt.Sprintf("pull request %d file %d", n, j) }
	for n := 1; n <= pulls; n++ {
		changes := map[string]string{}
		for j := range 5 {
			changes[fmt.Sprintf("clusters/pr%d/f%d", n, j)] = text(n, j)
		}
		pullRequest(repo, n, base, changes)
	}
	var damages sync.Map
	log := funcr.New(func(_, args string) {
		if strings.Contains(args, "damage") {
			damages.Store(args, true)
		}
	}, funcr.Options{})
	m := open(t, source.Options{URL: repo.URL(), Log: log, Limits: source.Limits{Packs: 3, CacheBytes: 1}})
	targets := make([]chan *source.Snapshot, readers)
	var wg sync.WaitGroup
	var lost, read int
	var mu sync.Mutex
	for r := range readers {
		targets[r] = make(chan *source.Snapshot, commits+1)
		wg.Go(func() {
			var old *source.Proposal
			for target := range targets[r] {
				n := 1 + r%pulls
				p, err := m.Proposal(t.Context(), pullRef(n), target)
				if source.ReasonOf(err) == source.ProposalLost {
					continue // rebuilt more than once meanwhile
				}
				if err != nil || len(p.Conflicts) > 0 {
					t.Errorf("Proposal: %v, %v", p, err)
					continue
				}
				for _, p := range []*source.Proposal{p, old} {
					if p == nil {
						continue
					}
					for j := range 5 {
						got, err := p.Tree.ReadFile(fmt.Sprintf("clusters/pr%d/f%d", n, j))
						mu.Lock()
						switch {
						case source.ReasonOf(err) == source.ProposalLost:
							lost++
						case err != nil || string(got) != text(n, j):
							t.Errorf("read %q, %v", got, err)
						default:
							read++
						}
						mu.Unlock()
					}
					if _, err := p.Tree.ReadFile("latest"); err != nil {
						t.Errorf("the target's file: %v", err)
					}
				}
				old = p
			}
		})
	}
	for i := range commits {
		s := mustSync(t, m)
		for _, c := range targets {
			c <- s
		}
		repo.Commit(map[string]string{fmt.Sprintf("clusters/%d/f", i+1): "x", "latest": fmt.Sprint(i + 1)}, "commit")
	}
	for _, c := range targets {
		close(c)
	}
	wg.Wait()
	mustSync(t, m)
	if m.Stats().Rebuilds == 0 || read == 0 {
		t.Errorf("%d rebuilds, %d files read; the test shows less than it should", m.Stats().Rebuilds, read)
	}
	damages.Range(func(line, _ any) bool {
		t.Errorf("a damage was found: %s", line)
		return true
	})
	if source.IsDamaged(m) {
		t.Error("the mirror counts as damaged")
	}
	t.Logf("%d files read, %d lost, %d rebuilds", read, lost, m.Stats().Rebuilds)
}
