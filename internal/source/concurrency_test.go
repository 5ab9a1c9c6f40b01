package source_test

import (
	"fmt"
	"sync"
	"testing"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
)

// TestCallersShareTheFollowingSync lets 20 callers come while a Sync runs whose
// ls-remote is already under way, and a commit arrive between.
func TestCallersShareTheFollowingSync(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "1"}, "first")
	server := repo.HTTP()
	m := open(t, source.Options{URL: repo.URL()})
	mustSync(t, m)
	base := server.Counts()
	hold, entered, release := server.Hold()
	server.SetFault(gittest.InfoRefs, hold)

	type result struct {
		s   *source.Snapshot
		err error
	}
	results := make(chan result)
	sync := func() {
		s, err := m.Sync(t.Context())
		results <- result{s, err}
	}
	go sync()
	<-entered
	const late = 20
	for range late {
		go sync()
	}
	source.AwaitWaiting(m, late)
	second := repo.Commit(map[string]string{"f": "2"}, "second")
	release()

	saw := map[*source.Snapshot]int{}
	for range late + 1 {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		saw[r.s]++
	}
	for s, n := range saw {
		if n == late && s.Revision.Hash != second {
			t.Errorf("%d callers got %v, want the second commit", n, s.Revision)
		}
	}
	counts := server.Counts()
	if ls, fetches := counts.InfoRefs-base.InfoRefs, counts.UploadPacks-base.UploadPacks; ls != 2 || fetches != 1 {
		t.Errorf("%d callers cost %d ls-remotes and %d fetches, want 2 and 1", late+1, ls, fetches)
	}
}

// TestReadersDuringFetches reads many commits from 8 goroutines while new ones are
// fetched and the mirror is rebuilt again and again.
func TestReadersDuringFetches(t *testing.T) {
	repo := gittest.NewRepo(t)
	content := func(i, j int) string { return fmt.Sprintf("commit %d file %d", i, j) }
	commit := func(i int) string {
		files := map[string]string{}
		for j := range 5 {
			files[fmt.Sprintf("clusters/%d/f%d", i, j)] = content(i, j)
		}
		files["latest"] = content(i, 0)
		return repo.Commit(files, "commit")
	}
	first := commit(0)
	m := open(t, source.Options{URL: repo.URL(), Limits: source.Limits{Packs: 2, CacheBytes: 1000}})
	mustSync(t, m)

	const commits, readers = 12, 8
	heads := make([]chan string, readers)
	var wg sync.WaitGroup
	for r := range readers {
		heads[r] = make(chan string, commits)
		wg.Go(func() {
			for head := range heads[r] {
				for _, hash := range []string{head, first} {
					s, err := m.At(t.Context(), hash)
					if err != nil {
						t.Errorf("At: %v", err)
						continue
					}
					entries, err := s.Tree.ReadDir("clusters")
					if err != nil {
						t.Errorf("ReadDir: %v", err)
					}
					for _, e := range entries {
						for j := range 5 {
							got, err := s.Tree.ReadFile(fmt.Sprintf("clusters/%s/f%d", e.Name, j))
							var i int
							if _, scanErr := fmt.Sscan(e.Name, &i); scanErr != nil {
								t.Errorf("folder %q", e.Name)
							}
							if err != nil || string(got) != content(i, j) {
								t.Errorf("read %q, %v", got, err)
							}
						}
					}
				}
			}
		})
	}
	for i := 1; i <= commits; i++ {
		hash := commit(i)
		if s := mustSync(t, m); s.Revision.Hash != hash {
			t.Errorf("revision %v, want %s", s.Revision, hash)
		}
		for _, c := range heads {
			c <- hash
		}
	}
	for _, c := range heads {
		close(c)
	}
	wg.Wait()
	if m.Stats().Rebuilds == 0 {
		t.Error("no rebuild happened; the test shows less than it should")
	}
}

// TestUnchangedFoldersAreShared checks the cost of a commit to a repository with
// many overlays: only the changed folders are read.
func TestUnchangedFoldersAreShared(t *testing.T) {
	repo := gittest.NewRepo(t)
	many := map[string]string{}
	for i := range 500 {
		many[fmt.Sprintf("clusters/c%03d/kustomization.yaml", i)] = fmt.Sprint(i)
	}
	repo.Commit(many, "many")
	m := open(t, source.Options{URL: repo.URL()})
	a := mustSync(t, m)
	repo.Commit(map[string]string{"clusters/c007/kustomization.yaml": "changed"}, "one")
	b := mustSync(t, m)
	if shared := source.SharedNodes(a, b); shared != 499 {
		t.Errorf("%d folders are shared, want 499", shared)
	}
	if got := m.Stats().ObjectsReceived; got != 1+1+1+500*2+5 {
		t.Errorf("%d objects", got)
	}
}
