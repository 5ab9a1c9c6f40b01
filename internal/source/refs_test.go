package source_test

import (
	"testing"

	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/source"
)

func TestRefKinds(t *testing.T) {
	repo := gittest.NewRepo(t)
	first := repo.Commit(map[string]string{"f": "first"}, "first")
	repo.Tag("v1.0.0", first)
	second := repo.Commit(map[string]string{"f": "second"}, "second")
	repo.AnnotatedTag("v1.1.0", second, "release")
	third := repo.Commit(map[string]string{"f": "third"}, "third")
	repo.Tag("v2.0.0-rc.1", third)
	repo.Tag("not-a-version", third)
	repo.Checkout("topic")
	topic := repo.Commit(map[string]string{"f": "topic"}, "topic")
	repo.SetRef("refs/pull/7/head", topic)

	tests := []struct {
		name string
		ref  source.Ref
		want source.Revision
	}{
		{"branch", source.Ref{Branch: "topic"}, source.Revision{Ref: "topic", Hash: topic}},
		{"lightweight tag", source.Ref{Tag: "v1.0.0"}, source.Revision{Ref: "v1.0.0", Hash: first}},
		{"annotated tag", source.Ref{Tag: "v1.1.0"}, source.Revision{Ref: "v1.1.0", Hash: second}},
		{"highest of a range", source.Ref{SemVer: ">=1.0.0 <3"}, source.Revision{Ref: "v1.1.0", Hash: second}},
		{"range with pre-releases", source.Ref{SemVer: ">=1.0.0-0"}, source.Revision{Ref: "v2.0.0-rc.1", Hash: third}},
		{"commit in the middle of a branch", source.Ref{Commit: first}, source.Revision{Hash: first}},
		{"commit at a tip", source.Ref{Commit: third}, source.Revision{Hash: third}},
		{"any reference", source.Ref{Name: "refs/pull/7/head"}, source.Revision{Ref: "refs/pull/7/head", Hash: topic}},
		{"reference to a tag object", source.Ref{Name: "refs/tags/v1.1.0"}, source.Revision{Ref: "refs/tags/v1.1.0", Hash: second}},
		{"HEAD", source.Ref{Name: "HEAD"}, source.Revision{Ref: "HEAD", Hash: third}},
	}
	ssh := gittest.NewSSH(t)
	for _, tt := range tests {
		for transport, opts := range map[string]source.Options{
			"http":  {URL: repo.URL()},
			"ssh":   {URL: ssh.URL(repo), Auth: source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}},
			"local": {URL: repo.Path(), AllowLocal: true},
		} {
			t.Run(tt.name+"/"+transport, func(t *testing.T) {
				opts.Ref = tt.ref
				m := open(t, opts)
				s := mustSync(t, m)
				if s.Revision != tt.want {
					t.Errorf("revision %v, want %v", s.Revision, tt.want)
				}
				if want := repo.Git("show", tt.want.Hash+":f"); read(t, s.Tree, "f") != want {
					t.Errorf("file %q, want %q", read(t, s.Tree, "f"), want)
				}
				if again := mustSync(t, m); again != s {
					t.Error("a second Sync made a new snapshot")
				}
			})
		}
	}
}

func TestRefNotFound(t *testing.T) {
	repo := gittest.NewRepo(t)
	hash := repo.Commit(map[string]string{"f": "1"}, "first")
	repo.Branch("dev", hash)
	repo.Tag("v1.0.0", hash)
	repo.SetRef("refs/blobs/f", repo.Git("rev-parse", hash+":f"))
	tests := []struct {
		name  string
		ref   source.Ref
		words []string
	}{
		{"branch", source.Ref{Branch: "man"}, []string{"branch man", "dev, main"}},
		{"tag", source.Ref{Tag: "v9"}, []string{"tag v9", "v1.0.0"}},
		{"semver", source.Ref{SemVer: ">=2"}, []string{">=2"}},
		{"commit", source.Ref{Commit: "1111111111111111111111111111111111111111"}, []string{"1111111111111111111111111111111111111111"}},
		{"name", source.Ref{Name: "refs/pull/1/head"}, []string{"refs/pull/1/head"}},
		{"not a commit", source.Ref{Name: "refs/blobs/f"}, []string{"blob"}},
	}
	for _, tt := range tests {
		for transport, opts := range map[string]source.Options{
			"http":  {URL: repo.URL()},
			"local": {URL: repo.Path(), AllowLocal: true},
		} {
			t.Run(tt.name+"/"+transport, func(t *testing.T) {
				opts.Ref = tt.ref
				_, err := open(t, opts).Sync(t.Context())
				wantReason(t, err, source.RefNotFound, append(tt.words, opts.URL)...)
			})
		}
	}
}

func TestPinnedCommitThatTheServerHandsOut(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Git("config", "uploadpack.allowAnySHA1InWant", "true")
	repo.Checkout("gone")
	hash := repo.Commit(map[string]string{"f": "on no branch"}, "first")
	repo.Checkout("main")
	repo.Commit(map[string]string{"f": "main"}, "main")
	repo.DeleteBranch("gone")

	m := open(t, source.Options{URL: repo.URL(), Ref: source.Ref{Commit: hash}})
	if got := read(t, mustSync(t, m).Tree, "f"); got != "on no branch" {
		t.Errorf("file %q", got)
	}
	mustSync(t, m)
	if c := repo.HTTP().Counts(); c.InfoRefs != 1 || c.UploadPacks != 1 {
		t.Errorf("requests for a commit that can't change: %+v", c)
	}
}

func TestServerThatPromisesCommitsAndRefuses(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Git("config", "uploadpack.allowTipSHA1InWant", "true") // tips only
	first := repo.Commit(map[string]string{"f": "first"}, "first")
	repo.Commit(map[string]string{"f": "second"}, "second")
	m := open(t, source.Options{URL: repo.URL(), Ref: source.Ref{Commit: first}})
	if got := read(t, mustSync(t, m).Tree, "f"); got != "first" {
		t.Errorf("file %q", got)
	}
}

func TestSemVerMovesUpAndRetagMoves(t *testing.T) {
	repo := gittest.NewRepo(t)
	first := repo.Commit(map[string]string{"f": "1"}, "first")
	repo.Tag("1.0.0", first)
	m := open(t, source.Options{URL: repo.URL(), Ref: source.Ref{SemVer: "1.x"}})
	a := mustSync(t, m)
	repo.Tag("1.1.0", first)
	b := mustSync(t, m)
	if b.Revision != (source.Revision{Ref: "1.1.0", Hash: first}) || b.Tree != a.Tree {
		t.Errorf("same commit under a higher version: %v", b.Revision)
	}
	second := repo.Commit(map[string]string{"f": "2"}, "second")
	repo.Tag("1.1.0", second)
	if c := mustSync(t, m); c.Revision != (source.Revision{Ref: "1.1.0", Hash: second}) || read(t, c.Tree, "f") != "2" {
		t.Errorf("moved tag: %v", c.Revision)
	}
}

func TestForcePushKeepsTheOldSnapshotReadable(t *testing.T) {
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"f": "old", "only-old": "x"}, "old")
	m := open(t, source.Options{URL: repo.URL()})
	old := mustSync(t, m)
	hash := repo.ForcePush(map[string]string{"f": "new"}, "another history")
	s := mustSync(t, m)
	if s.Revision.Hash != hash || read(t, s.Tree, "f") != "new" {
		t.Errorf("revision %v", s.Revision)
	}
	if got := read(t, old.Tree, "only-old"); got != "x" {
		t.Errorf("old snapshot reads %q", got)
	}
	repo.Reset(old.Revision.Hash) // and back: the mirror has it already
	before := repo.HTTP().Counts().UploadPacks
	if back := mustSync(t, m); back.Revision != old.Revision {
		t.Errorf("revision %v, want %v", back.Revision, old.Revision)
	}
	if after := repo.HTTP().Counts().UploadPacks; after != before {
		t.Error("fetched a commit that the mirror has")
	}
}

func TestDeletedBranchComesBack(t *testing.T) {
	repo := gittest.NewRepo(t)
	hash := repo.Commit(map[string]string{"f": "1"}, "first")
	repo.Branch("keep", hash)
	m := open(t, source.Options{URL: repo.URL()})
	s := mustSync(t, m)
	repo.DeleteBranch("main")
	_, err := m.Sync(t.Context())
	wantReason(t, err, source.RefNotFound, "branch main", "keep")
	if got := read(t, s.Tree, "f"); got != "1" {
		t.Errorf("last good snapshot reads %q", got)
	}
	repo.Branch("main", hash)
	if again := mustSync(t, m); again != s {
		t.Error("the branch came back unchanged and made a new snapshot")
	}
}

func TestEmptyRepository(t *testing.T) {
	repo := gittest.NewRepo(t)
	ssh := gittest.NewSSH(t)
	for transport, opts := range map[string]source.Options{
		"http":  {URL: repo.URL()},
		"ssh":   {URL: ssh.URL(repo), Auth: source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}},
		"local": {URL: repo.Path(), AllowLocal: true},
	} {
		t.Run(transport, func(t *testing.T) {
			_, err := open(t, opts).Sync(t.Context())
			wantReason(t, err, source.EmptyRepository, "empty", "first commit")
		})
	}
	m := open(t, source.Options{URL: repo.URL()})
	if _, err := m.Sync(t.Context()); err == nil {
		t.Fatal("Sync of an empty repository succeeded")
	}
	repo.Commit(map[string]string{"f": "1"}, "first")
	if got := read(t, mustSync(t, m).Tree, "f"); got != "1" {
		t.Errorf("file %q", got)
	}
}

func TestFetchTransfersOnlyWhatIsNew(t *testing.T) {
	repo := gittest.NewRepo(t)
	ssh := gittest.NewSSH(t)
	for transport, opts := range map[string]source.Options{
		"http": {URL: repo.URL()},
		"ssh":  {URL: ssh.URL(repo), Auth: source.Auth{SSHKey: ssh.Identity(""), KnownHosts: ssh.KnownHosts()}},
	} {
		t.Run(transport, func(t *testing.T) {
			branch := "incremental-" + transport
			repo.Checkout(branch)
			many := map[string]string{}
			for i := range 200 {
				many["clusters/"+string(rune('a'+i%26))+"/f"+string(rune('0'+i/26))] = transport + string(rune(i+1000))
			}
			base := repo.Commit(many, "many files")
			opts.Ref = source.Ref{Branch: branch}
			m := open(t, opts)
			mustSync(t, m)
			first := m.Stats()
			if first.ObjectsReceived < 200 {
				t.Fatalf("the first fetch got %d objects", first.ObjectsReceived)
			}
			repo.Commit(map[string]string{"clusters/a/f0": "changed"}, "one file")
			mustSync(t, m)
			// A blob, its folder, the folder above, the root and the commit.
			second := m.Stats()
			if n := second.ObjectsReceived - first.ObjectsReceived; n != 5 {
				t.Errorf("one changed file transferred %d objects, want 5", n)
			}
			if n := second.BytesReceived - first.BytesReceived; n > first.BytesReceived/2 { // an SSH handshake counts too
				t.Errorf("one changed file transferred %d bytes, the first fetch %d", n, first.BytesReceived)
			}
			// After a reset to the parent of what we have, the common history still counts.
			repo.Reset(base)
			repo.Commit(map[string]string{"clusters/b/f0": "other"}, "another line")
			mustSync(t, m)
			if n := m.Stats().ObjectsReceived - second.ObjectsReceived; n != 5 {
				t.Errorf("a force-push transferred %d objects, want 5", n)
			}
		})
	}
}

func TestOnlyTheTrackedRefIsFetched(t *testing.T) {
	repo := gittest.NewRepo(t)
	main := repo.Commit(map[string]string{"f": "main"}, "main")
	repo.Checkout("secret")
	other := repo.Commit(map[string]string{"f": "other"}, "other")
	repo.Checkout("main")
	repo.AnnotatedTag("v1", main, "tag")
	m := open(t, source.Options{URL: repo.URL()})
	mustSync(t, m)
	if n := m.Stats().ObjectsReceived; n != 3 {
		t.Errorf("%d objects, want commit, root and file", n)
	}
	_, err := m.At(t.Context(), other)
	wantReason(t, err, source.RefNotFound, other)
	_, err = m.At(t.Context(), "main")
	wantReason(t, err, source.BadConfiguration, "main")
}
