package source

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // Git's object identity; content is checked against it.
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// deltaCacheBytes is the memory of one handle for the bases of deltas. Contents
// are cached by blobCache, so this only needs to hold a chain or two.
const deltaCacheBytes = 8 * cache.MiByte

// store reads objects by hash and checks them against it. It is safe for
// concurrent use; go-git's handles are not, so one lock guards them.
//
// A handle sees only the packs that were there when it was opened. The store
// therefore reopens a folder once before it calls an object missing.
type store struct {
	url       string // of the repository, for errors, without credentials
	hint      string // what to do about a missing object
	blobBytes int64
	blobs     *blobCache

	mu     sync.Mutex
	closed bool
	// generations are looked through in order. The second, if any, is the mirror
	// that was swapped out last: snapshots that were handed out before may need
	// objects that the server no longer has.
	generations []*generation
	// lost holds what was found missing, so that one old snapshot doesn't ask for
	// a rebuild again and again.
	lost    map[plumbing.Hash]bool
	damaged bool
}

type generation struct {
	fs     billy.Filesystem
	limit  int64               // bytes of the largest object that is read
	handle *filesystem.Storage // nil until needed
}

func newStore(url, hint string, limits Limits) *store {
	return &store{url: url, hint: hint, blobBytes: limits.BlobBytes, blobs: newBlobCache(limits.CacheBytes), lost: map[plumbing.Hash]bool{}}
}

// errMissing says that no generation holds the object.
var errMissing = errors.New("object is missing")

// use replaces what the store reads: the first folder is the present one.
func (s *store) use(folders ...billy.Filesystem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeHandles()
	s.setFolders(folders)
}

// swap renames folders while nobody has files of them open, and then reads from
// the given ones. If rename fails, the store goes on with what it has.
func (s *store) swap(rename func() error, folders ...billy.Filesystem) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeHandles()
	if err := rename(); err != nil {
		return err
	}
	s.setFolders(folders)
	return nil
}

// add makes files part of the present mirror, by renaming them, if it holds the
// commit that they build on; zero for none. The mirror isn't swapped meanwhile.
func (s *store) add(base plumbing.Hash, rename func() error) (added bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.generations) == 0 {
		return false, errClosed
	}
	if !base.IsZero() {
		if held, err := s.generations[0].holds(base); err != nil || !held {
			return false, nil
		}
	}
	if err := rename(); err != nil {
		return false, err
	}
	s.closeHandles()
	return true, nil
}

// refresh makes objects visible that a fetch added.
func (s *store) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeHandles()
}

func (s *store) setFolders(folders []billy.Filesystem) {
	s.generations = nil
	for _, fs := range folders {
		s.generations = append(s.generations, &generation{fs: fs, limit: s.blobBytes})
	}
	s.damaged = false
}

func (s *store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.closeHandles()
	s.generations = nil
}

func (s *store) closeHandles() {
	for _, g := range s.generations {
		g.close()
	}
}

// setDamaged records a damage that was found by other means than a missing object.
func (s *store) setDamaged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damaged = true
}

// isDamaged reports whether an object was found missing since the last swap.
func (s *store) isDamaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged
}

// blob returns the content of a file or link. The caller must not change it.
func (s *store) blob(h plumbing.Hash) ([]byte, error) {
	if content, ok := s.blobs.get(h); ok {
		return content, nil
	}
	content, err := s.read(plumbing.BlobObject, h)
	if err != nil {
		return nil, err
	}
	s.blobs.put(h, content)
	return content, nil
}

// read returns the content of an object. Its errors are [Error]s: TooLarge, or
// MirrorCorrupt if the object is missing, damaged or of another type.
func (s *store) read(typ plumbing.ObjectType, h plumbing.Hash) ([]byte, error) {
	_, content, err := s.readAny(h, typ)
	return content, err
}

// readAny is read for an object of any of these types.
func (s *store) readAny(h plumbing.Hash, types ...plumbing.ObjectType) (typ plumbing.ObjectType, content []byte, err error) {
	err = s.each(h, reading(h, &typ, &content, types))
	return typ, content, err
}

// reading reads an object of any of these types from a generation.
func reading(h plumbing.Hash, typ *plumbing.ObjectType, content *[]byte, types []plumbing.ObjectType) func(*generation) error {
	return func(g *generation) (err error) {
		*typ, *content, err = g.read(h)
		if err == nil && !slices.Contains(types, *typ) {
			err = fmt.Errorf("it is a %s, not a %s", *typ, types[0])
		}
		return err
	}
}

// peel follows annotated tags to their commit.
func (s *store) peel(h plumbing.Hash) (plumbing.Hash, error) {
	const maxTags = 10
	for range maxTags {
		typ, content, err := s.readAny(h, plumbing.CommitObject, plumbing.TagObject, plumbing.TreeObject, plumbing.BlobObject)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		if typ == plumbing.CommitObject {
			return h, nil
		}
		line, _, _ := bytes.Cut(content, []byte("\n"))
		object, ok := bytes.CutPrefix(line, []byte("object "))
		if typ != plumbing.TagObject || !ok || !isHash(string(object)) {
			return plumbing.ZeroHash, errorf(RefNotFound, "the reference names a %s, not a commit", typ)
		}
		h = plumbing.NewHash(string(object))
	}
	return plumbing.ZeroHash, errorf(RefNotFound, "the reference names a tag of a tag, more than %d deep", maxTags)
}

// has returns nil if the object is there, without reading it.
func (s *store) has(h plumbing.Hash) error {
	return s.each(h, func(g *generation) error { return g.has(h) })
}

// holds reports whether an object is in the present mirror; that one in the
// previous mirror is not enough to skip a fetch. A miss leaves no mark. An error
// means that the mirror is damaged.
func (s *store) holds(h plumbing.Hash) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.generations) == 0 {
		return false, nil
	}
	return s.generations[0].holds(h)
}

// holdsAnywhere is holds for the previous mirror too; damages count as misses.
func (s *store) holdsAnywhere(h plumbing.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && slices.ContainsFunc(s.generations, func(g *generation) bool { ok, _ := g.holds(h); return ok })
}

// each reads an object that a sound mirror has. Failing to is a damage.
func (s *store) each(h plumbing.Hash, read func(*generation) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	answered, err := s.find(h, read)
	if answered {
		return err
	}
	if !s.lost[h] {
		s.damaged = true
		if len(s.lost) < 10_000 {
			s.lost[h] = true
		}
	}
	e := corruptf("object %s can't be read: %v; %s", h, err, s.hint)
	e.URL = s.url
	return e
}

// attempt is each for an object that a sound mirror may lack. Failing to leaves no
// mark.
func (s *store) attempt(h plumbing.Hash, read func(*generation) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	answered, err := s.find(h, read)
	if answered {
		return err
	}
	e := errorf(ProposalLost, "object %s of the pull request can't be read: %v; it was dropped when the mirror was rebuilt, "+
		"or its repository lacks it", h, err)
	e.URL = s.url
	return e
}

// try is read by attempt.
func (s *store) try(h plumbing.Hash, types ...plumbing.ObjectType) (content []byte, err error) {
	var typ plumbing.ObjectType
	err = s.attempt(h, reading(h, &typ, &content, types))
	return content, err
}

// find tries the generations in order until one can read the object, or says that
// it is too large. If none does, err says why the present one couldn't. The lock
// must be held.
func (s *store) find(h plumbing.Hash, read func(*generation) error) (answered bool, err error) {
	if s.closed {
		return true, errClosed
	}
	first := errMissing
	for i, g := range s.generations {
		err := read(g)
		if err != nil && ReasonOf(err) != TooLarge {
			g.close()
			err = read(g)
		}
		if err == nil {
			delete(s.lost, h)
		}
		if err == nil || ReasonOf(err) == TooLarge {
			return true, err
		}
		if i == 0 {
			first = err
		}
	}
	return false, first
}

func (g *generation) open() *filesystem.Storage {
	if g.handle == nil {
		g.handle = filesystem.NewStorageWithOptions(g.fs, cache.NewObjectLRU(deltaCacheBytes), filesystem.Options{
			KeepDescriptors:      true,
			LargeObjectThreshold: g.limit,
			AlternatesFS:         osfs.New("/"),
		})
	}
	return g.handle
}

func (g *generation) close() {
	if g.handle != nil {
		_ = g.handle.Close() // files opened for reading
		g.handle = nil
	}
}

func (g *generation) holds(h plumbing.Hash) (bool, error) {
	err := g.has(h)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return false, nil
	default:
		g.close() // after a damaged index, go-git would go on with those it read before
		return false, err
	}
}

func (g *generation) has(h plumbing.Hash) (err error) {
	defer recoverCorrupt(&err)
	err = g.open().HasEncodedObject(h)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		_, err = g.open().EncodedObject(plumbing.AnyObject, h) // looks into alternates too
	}
	return err
}

func (g *generation) read(h plumbing.Hash) (typ plumbing.ObjectType, content []byte, err error) {
	defer recoverCorrupt(&err)
	obj, err := g.open().EncodedObject(plumbing.AnyObject, h)
	if err != nil {
		return 0, nil, err
	}
	typ = obj.Type()
	if obj.Size() > g.limit {
		return typ, nil, errorf(TooLarge, "%s %s has %d bytes, more than the limit of %d", typ, h, obj.Size(), g.limit)
	}
	r, err := obj.Reader()
	if err != nil {
		return typ, nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	buf := bytes.NewBuffer(make([]byte, 0, obj.Size()+bytes.MinRead))
	if _, err := io.Copy(buf, io.LimitReader(r, g.limit+1)); err != nil {
		return typ, nil, err
	}
	if objectHash(typ, buf.Bytes()) != h {
		return typ, nil, errors.New("its content is damaged")
	}
	return typ, buf.Bytes(), nil
}

func objectHash(typ plumbing.ObjectType, content []byte) plumbing.Hash {
	d := sha1.New() //nolint:gosec // see the import
	fmt.Fprintf(d, "%s %d\x00", typ, len(content))
	d.Write(content)
	return plumbing.Hash(d.Sum(nil))
}

// recoverCorrupt turns a panic of go-git's decoders, which some damaged packs and
// indexes cause, into an error.
func recoverCorrupt(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("decoding failed: %v", r)
	}
}
