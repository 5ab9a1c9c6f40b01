package source

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
)

// disk is the folder of one mirror:
//
//	lock          held by the process that uses the folder
//	mirror.git    the bare mirror
//	rebuild.git   the next one, while it is built
//	previous.git  the one before; snapshots handed out earlier may still read it
//	incoming      packs of pull requests, while they are received and checked
//
// The mirror keeps one reference, refs/capstan/tracked, whatever the remote's is
// called. All of it may be deleted at any time while nothing runs.
type disk struct {
	root string
	lock *fileLock
}

const trackedRef = "refs/capstan/tracked"

// mirrorFolder returns the folder for a URL and Ref. Another URL never finds it.
func mirrorFolder(dir string, loc location, ref Ref) (string, error) {
	kind, value, err := ref.kind()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{string(loc.scheme), loc.display, loc.host, loc.path, kind, value}, "\n")))
	return filepath.Join(dir, hex.EncodeToString(sum[:12])), nil
}

func (d *disk) mirror() string   { return filepath.Join(d.root, "mirror.git") }
func (d *disk) rebuilt() string  { return filepath.Join(d.root, "rebuild.git") }
func (d *disk) previous() string { return filepath.Join(d.root, "previous.git") }
func (d *disk) incoming() string { return filepath.Join(d.root, "incoming") }

// prepare takes the lock, removes what a killed process left behind and makes
// sure that there is a mirror, perhaps an empty one.
func (d *disk) prepare() error {
	if err := os.MkdirAll(d.root, 0o700); err != nil {
		return diskError(err)
	}
	lock, err := lockFile(filepath.Join(d.root, "lock"))
	if err != nil {
		return err
	}
	if err := d.clean(); err != nil {
		lock.unlock()
		return err
	}
	d.lock = lock
	return nil
}

func (d *disk) clean() error {
	for _, dir := range []string{d.rebuilt(), d.previous(), d.incoming()} {
		if err := os.RemoveAll(dir); err != nil {
			return diskError(err)
		}
	}
	if !isMirror(d.mirror()) {
		if err := initMirror(d.mirror()); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(packDir(d.mirror()))
	if err != nil {
		return diskError(err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	for name := range names {
		base := strings.TrimSuffix(strings.TrimSuffix(name, ".idx"), ".pack")
		// go-git refuses a whole mirror for one pack without an index.
		if strings.HasPrefix(name, tmpPrefix) || !names[base+".idx"] || !names[base+".pack"] {
			if err := os.RemoveAll(filepath.Join(packDir(d.mirror()), name)); err != nil {
				return diskError(err)
			}
		}
	}
	return nil
}

func (d *disk) unlock() {
	if d.lock != nil {
		d.lock.unlock()
		d.lock = nil
	}
}

// swap puts the rebuilt mirror in place of the present one, which becomes the
// previous one. A crash in between leaves no mirror.git; the next start makes an
// empty one and fetches anew.
func (d *disk) swap() error {
	if err := os.RemoveAll(d.previous()); err != nil {
		return diskError(err)
	}
	if err := os.Rename(d.mirror(), d.previous()); err != nil && !os.IsNotExist(err) {
		return diskError(err)
	}
	return diskError(os.Rename(d.rebuilt(), d.mirror()))
}

func packDir(mirror string) string { return filepath.Join(mirror, "objects", "pack") }

func countPacks(mirror string) (int, error) {
	entries, err := os.ReadDir(packDir(mirror))
	if err != nil {
		return 0, diskError(err)
	}
	n := 0
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".pack") {
			n++
		}
	}
	return n, nil
}

// isMirror reports whether a folder has the parts that initMirror writes.
func isMirror(dir string) bool {
	for _, name := range []string{"HEAD", "config"} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
			return false
		}
	}
	info, err := os.Lstat(packDir(dir))
	return err == nil && info.IsDir()
}

// initMirror makes an empty bare repository in place of whatever is there.
func initMirror(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return diskError(err)
	}
	for _, sub := range []string{"objects/pack", "objects/info", "refs/capstan", "refs/heads"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.FromSlash(sub)), 0o700); err != nil {
			return diskError(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("[core]\n\trepositoryformatversion = 0\n\tbare = true\n"), 0o600); err != nil {
		return diskError(err)
	}
	// Last: a mirror without it counts as half-written. Git wants a branch here,
	// which need not exist.
	return diskError(os.WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/none\n"), 0o600))
}

// tracked returns the commit or tag that the mirror was last brought to; zero if
// none is recorded or the record is damaged.
func tracked(mirror string) plumbing.Hash {
	content, err := os.ReadFile(filepath.Join(mirror, filepath.FromSlash(trackedRef)))
	if h := strings.TrimSpace(string(content)); err == nil && isHash(h) {
		return plumbing.NewHash(h)
	}
	return plumbing.ZeroHash
}

// setTracked records the commit or tag that the mirror was brought to. Only the
// next fetch's negotiation depends on it.
func setTracked(mirror string, h plumbing.Hash) error {
	name := filepath.Join(mirror, filepath.FromSlash(trackedRef))
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, []byte(h.String()+"\n"), 0o600); err != nil {
		return diskError(err)
	}
	return diskError(os.Rename(tmp, name))
}

func folderFS(dir string) billy.Filesystem { return osfs.New(dir) }
