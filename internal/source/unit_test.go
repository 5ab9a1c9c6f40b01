package source

import (
	"errors"
	"io/fs"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/tree"
)

func TestRevisionRoundTrip(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef01234567"
	tests := []struct {
		rev  Revision
		text string
	}{
		{Revision{Ref: "main", Hash: hash}, "main@sha1:" + hash},
		{Revision{Ref: "feature/sha1:x@y", Hash: hash}, "feature/sha1:x@y@sha1:" + hash},
		{Revision{Ref: "v1.2.3", Hash: hash}, "v1.2.3@sha1:" + hash},
		{Revision{Hash: hash}, "sha1:" + hash},
	}
	for _, tt := range tests {
		if got := tt.rev.String(); got != tt.text {
			t.Errorf("String %q, want %q", got, tt.text)
		}
		if got, err := ParseRevision(tt.text); err != nil || got != tt.rev {
			t.Errorf("ParseRevision(%q) = %v, %v", tt.text, got, err)
		}
	}
	for _, bad := range []string{"", "main", "main@sha1:", "main@sha1:0123", "@sha1:" + hash, "mainsha1:" + hash, "sha1:" + strings.ToUpper(hash), "sha256:" + hash} {
		if got, err := ParseRevision(bad); err == nil {
			t.Errorf("ParseRevision(%q) = %v", bad, got)
		}
	}
}

func TestParseURL(t *testing.T) {
	tests := []struct{ raw, scheme, display, host, path, wrong string }{
		{raw: "https://git.example.com/org/repo.git", scheme: "https", display: "https://git.example.com/org/repo.git"},
		{raw: "http://robot@git.example.com:8080/repo", scheme: "http", display: "http://git.example.com:8080/repo"},
		{raw: "ssh://git@git.example.com/org/repo.git", scheme: "ssh", display: "ssh://git@git.example.com/org/repo.git", host: "git.example.com:22", path: "/org/repo.git"},
		{raw: "ssh://git.example.com:2222/~me/r", scheme: "ssh", display: "ssh://git.example.com:2222/~me/r", host: "git.example.com:2222", path: "/~me/r"},
		{raw: "git@git.example.com:org/repo.git", scheme: "ssh", display: "git@git.example.com:org/repo.git", host: "git.example.com:22", path: "org/repo.git"},
		{raw: "ssh://git@[::1]:2222/r", scheme: "ssh", display: "ssh://git@[::1]:2222/r", host: "[::1]:2222", path: "/r"},
		{raw: "/srv/git/repo.git", scheme: "file", display: "/srv/git/repo.git", path: "/srv/git/repo.git"},
		{raw: "file:///srv/git/repo.git", scheme: "file", display: "file:///srv/git/repo.git", path: "/srv/git/repo.git"},
		{raw: "", wrong: "empty"},
		{raw: "https://robot:hunter2@git.example.com/repo", wrong: "holds a password"},
		{raw: "https://robot:hunter2/@git.example.com/repo", wrong: "can't be parsed"},
		{raw: "https://robot:hunt%zzer2@git.example.com/repo", wrong: "can't be parsed"},
		{raw: "ssh://git:hunter2@git.example.com/repo", wrong: "holds a password"},
		{raw: "ftp://robot@git.example.com/repo", wrong: "not supported"},
		{raw: "ext::sh -c true", wrong: "use https"},
		{raw: "git://git.example.com/repo", wrong: "not supported"},
		{raw: "https:///repo", wrong: "names no host"},
		{raw: "https://git.example.com/repo?x=hunter2", wrong: "query"},
		{raw: "file://elsewhere/repo", wrong: "file:///path"},
		{raw: "relative/path", wrong: "absolute path"},
	}
	for _, tt := range tests {
		t.Run(tt.raw, func(t *testing.T) {
			loc, err := parseURL(tt.raw)
			if tt.wrong != "" {
				if ReasonOf(err) != BadConfiguration || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("error %v, want %q", err, tt.wrong)
				}
				if err != nil && strings.Contains(err.Error(), "hunter2@") || err != nil && strings.Contains(err.Error(), "robot") {
					t.Errorf("error %q tells a secret", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := []string{string(loc.scheme), loc.display, loc.host, loc.path}
			if diff := cmp.Diff([]string{tt.scheme, tt.display, tt.host, tt.path}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAuthFromSecret(t *testing.T) {
	tests := []struct {
		name  string
		data  map[string]string
		want  Auth
		wrong string
	}{
		{"basic", map[string]string{"username": "u", "password": "p"}, Auth{Username: "u", Password: "p"}, ""},
		{"bearer", map[string]string{"bearerToken": "t"}, Auth{BearerToken: "t"}, ""},
		{"CA only", map[string]string{"ca.crt": "c"}, Auth{CAFile: []byte("c")}, ""},
		{"CA by its other name", map[string]string{"username": "u", "password": "p", "caFile": "c"}, Auth{Username: "u", Password: "p", CAFile: []byte("c")}, ""},
		{"ssh", map[string]string{"identity": "i", "known_hosts": "k"}, Auth{SSHKey: []byte("i"), SSHPassphrase: []byte{}, KnownHosts: []byte("k")}, ""},
		{"ssh, passphrase", map[string]string{"identity": "i", "known_hosts": "k", "passphrase": "p"}, Auth{SSHKey: []byte("i"), SSHPassphrase: []byte("p"), KnownHosts: []byte("k")}, ""},
		{"ssh, passphrase as password", map[string]string{"identity": "i", "known_hosts": "k", "password": "p"}, Auth{SSHKey: []byte("i"), SSHPassphrase: []byte("p"), KnownHosts: []byte("k")}, ""},
		{"nothing", nil, Auth{}, "none of the keys"},
		{"no password", map[string]string{"username": "hunter2"}, Auth{}, "username but no password"},
		{"no username", map[string]string{"password": "hunter2"}, Auth{}, "password but no username"},
		{"no known_hosts", map[string]string{"identity": "hunter2"}, Auth{}, "no known_hosts"},
		{"bearer and password", map[string]string{"bearerToken": "hunter2", "username": "u", "password": "hunter2"}, Auth{}, "both"},
		{"bearer and key", map[string]string{"bearerToken": "hunter2", "identity": "i", "known_hosts": "k"}, Auth{}, "both"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := map[string][]byte{}
			for k, v := range tt.data {
				data[k] = []byte(v)
			}
			got, err := AuthFromSecret(data)
			if tt.wrong != "" {
				if ReasonOf(err) != BadConfiguration || !strings.Contains(err.Error(), tt.wrong) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error %v, want %q", err, tt.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	good := Options{Dir: t.TempDir(), URL: "https://git.example.com/r", Ref: Ref{Branch: "main"}}
	ssh := Auth{SSHKey: []byte("hunter2"), KnownHosts: []byte("git.example.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHAEhzzeHR+uKWf3mk4NfQZ4pQ1yZKKrVTxwLe2Xx4bP\n")}
	tests := []struct {
		name   string
		change func(*Options)
		reason Reason
		word   string
	}{
		{"no ref", func(o *Options) { o.Ref = Ref{} }, BadConfiguration, "exactly one"},
		{"two refs", func(o *Options) { o.Ref.Tag = "v1" }, BadConfiguration, "exactly one"},
		{"branch that climbs", func(o *Options) { o.Ref = Ref{Branch: "../../x"} }, BadConfiguration, "valid reference"},
		{"short commit", func(o *Options) { o.Ref = Ref{Commit: "0123abc"} }, BadConfiguration, "40"},
		{"bad range", func(o *Options) { o.Ref = Ref{SemVer: "newest"} }, BadConfiguration, "newest"},
		{"name outside refs", func(o *Options) { o.Ref = Ref{Name: "main"} }, BadConfiguration, "refs/"},
		{"name with a glob", func(o *Options) { o.Ref = Ref{Name: "refs/*"} }, BadConfiguration, "valid reference"},
		{"no folder", func(o *Options) { o.Dir = "" }, BadConfiguration, "folder"},
		{"negative timeout", func(o *Options) { o.Timeout = -1 }, BadConfiguration, "timeout"},
		{"local", func(o *Options) { o.URL = "/srv/repo" }, LocalNotAllowed, "--allow-local"},
		{"file URL", func(o *Options) { o.URL = "file:///srv/repo" }, LocalNotAllowed, "--allow-local"},
		{"CA is no PEM", func(o *Options) { o.Auth.CAFile = []byte("x") }, BadConfiguration, "ca.crt"},
		{"key for https", func(o *Options) { o.Auth = ssh }, BadConfiguration, "not an ssh URL"},
		{"ssh without key", func(o *Options) { o.URL = "git@git.example.com:r" }, BadConfiguration, "identity"},
		{"ssh without known_hosts", func(o *Options) { o.URL, o.Auth = "git@git.example.com:r", Auth{SSHKey: ssh.SSHKey} }, BadConfiguration, "known_hosts"},
		{"bad key", func(o *Options) { o.URL, o.Auth = "git@git.example.com:r", ssh }, BadConfiguration, "not an SSH private key"},
		{"bad known_hosts", func(o *Options) {
			o.URL, o.Auth = "git@git.example.com:r", Auth{Password: "p", KnownHosts: []byte("nonsense here\n")}
		}, BadConfiguration, "known_hosts"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opts := good
			tt.change(&opts)
			_, err := Open(opts)
			if ReasonOf(err) != tt.reason || !strings.Contains(err.Error(), tt.word) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v, want %s with %q", err, tt.reason, tt.word)
			}
		})
	}
	if _, err := Open(good); err != nil {
		t.Errorf("good options: %v", err)
	}
}

func TestResolveSemVerIsDeterministic(t *testing.T) {
	adv := advertised{refs: map[string]plumbing.Hash{}}
	for i, tag := range []string{"1.2.0", "v1.2.0", "1.2.0+build", "1.10.0-rc.1", "1.9", "nonsense", "v2"} {
		adv.refs["refs/tags/"+tag] = plumbing.Hash{byte(i + 1)}
	}
	for _, tt := range []struct{ rng, want string }{
		{"1.2.x", "v1.2.0"}, {"1.x", "1.9"}, {">=1.0.0-0 <2.0.0", "1.10.0-rc.1"}, {"*", "v2"},
	} {
		for range 20 { // the map's order changes
			got, err := resolve(Ref{SemVer: tt.rng}, adv)
			if err != nil || got.ref != tt.want {
				t.Fatalf("range %s: %q, %v, want %q", tt.rng, got.ref, err, tt.want)
			}
		}
	}
}

func TestJitter(t *testing.T) {
	for _, tt := range []struct {
		fraction, random float64
		want             time.Duration
	}{
		{0.1, 0, 54 * time.Second},
		{0.1, 0.5, time.Minute},
		{0.1, math.Nextafter(1, 0), 66 * time.Second},
		{0, 0.9, time.Minute},
		{-1, 0.9, time.Minute},
		{5, 0, 0},
	} {
		got := Jitter(time.Minute, tt.fraction, func() float64 { return tt.random })
		if (got - tt.want).Abs() > time.Microsecond {
			t.Errorf("Jitter(%v, %v) = %v, want %v", tt.fraction, tt.random, got, tt.want)
		}
	}
}

func TestParseTree(t *testing.T) {
	entry := func(mode, name string) string { return mode + " " + name + "\x00" + strings.Repeat("\x11", 20) }
	entries, err := parseTree([]byte(entry("100644", "a.b")+entry("40000", "a")+entry("120000", "l")+entry("160000", "m")+entry("100755", "x")), "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name+" "+string(e.Kind))
	}
	want := []string{"a dir", "a.b file", "l symlink", "m submodule", "x file"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, tt := range map[string]struct {
		content string
		want    Reason
	}{
		"cut in the hash": {entry("100644", "a")[:15], MirrorCorrupt},
		"cut in the name": {"100644 a", MirrorCorrupt},
		"no mode":         {"a\x00" + strings.Repeat("\x11", 20), MirrorCorrupt},
		"parent":          {entry("40000", ".."), TreeInvalid},
		"self":            {entry("40000", "."), TreeInvalid},
		"no name":         {entry("100644", ""), TreeInvalid},
		"git folder":      {entry("40000", ".GIT"), TreeInvalid},
		"slash":           {entry("100644", "a/b"), TreeInvalid},
		"twice":           {entry("100644", "a") + entry("40000", "a"), TreeInvalid},
	} {
		if _, err := parseTree([]byte(tt.content), "dir"); ReasonOf(err) != tt.want || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

func TestBlobCacheIsBounded(t *testing.T) {
	c := newBlobCache(3 * (100 + blobOverhead))
	for i := range 10 {
		c.put(plumbing.Hash{byte(i)}, make([]byte, 100))
		c.get(plumbing.Hash{0}) // used all the time, so it stays
	}
	var kept []int
	for i := range 10 {
		if _, ok := c.get(plumbing.Hash{byte(i)}); ok {
			kept = append(kept, i)
		}
	}
	if diff := cmp.Diff([]int{0, 8, 9}, kept); diff != "" {
		t.Error(diff)
	}
	c.put(plumbing.Hash{99}, make([]byte, 10_000)) // larger than the whole cache
	if c.left < 0 || len(c.items) != c.order.Len() {
		t.Errorf("left %d, %d items", c.left, len(c.items))
	}
}

func TestScrubber(t *testing.T) {
	auth := Auth{Username: "robot", Password: "hunter2"}
	got := newScrubber(auth.secrets()...).clean(errors.New("server echoes hunter2\nand cm9ib3Q6aHVudGVyMg== " + strings.Repeat("ä", 500)))
	if strings.Contains(got, "hunter2") || strings.Contains(got, "cm9ib3Q6aHVudGVyMg") || strings.Contains(got, "\n") || len(got) > 310 {
		t.Errorf("%q", got)
	}
}

var _ tree.Tree = (*commitTree)(nil)

func TestKindOf(t *testing.T) {
	for mode, want := range map[string]tree.Kind{
		"40000": tree.Dir, "040000": tree.Dir, "000040000": tree.Dir, "4000040000": tree.Dir, "40755": tree.Dir,
		"100644": tree.File, "100755": tree.File, "100664": tree.File, "0100644": tree.File,
		"120000": tree.Symlink, "0120000": tree.Symlink, "160000": tree.Submodule, "60000": tree.Submodule, "644": tree.Submodule,
		"": "", "40008": "", "+40000": "", "d": "",
	} {
		if got, ok := kindOf(mode); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t", mode, got, ok)
		}
	}
}

func TestOrdinaryTrees(t *testing.T) {
	content := func(entries ...string) []byte {
		var b strings.Builder
		for _, e := range entries {
			b.WriteString(e + "\x00" + strings.Repeat("h", 20))
		}
		return []byte(b.String())
	}
	for _, entries := range [][]string{
		nil, {"100644 a", "100755 b"}, {"100644 a.b", "40000 a", "100644 a0"}, {"120000 a", "160000 b"},
	} {
		if !isOrdinary(content(entries...)) {
			t.Errorf("%q counts as extraordinary", entries)
		}
	}
	for _, entries := range [][]string{
		{"100644 b", "100644 a"}, {"100644 a", "100644 a"}, {"40000 a", "100644 a.b"}, {"040000 a"}, {"0100644 a"}, {"60000 a"},
	} {
		if isOrdinary(content(entries...)) {
			t.Errorf("%q counts as ordinary", entries)
		}
	}
}
