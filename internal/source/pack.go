package source

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the checksum that Git puts at the end of a pack
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// tmpPrefix marks files that a killed process may leave behind.
const tmpPrefix = "tmp_"

// errNotPack says that what was received isn't a complete pack.
var errNotPack = errors.New("the server sent no valid pack")

// savePack writes a pack from the network to a temporary file. The caller removes
// it if it returns one.
func savePack(r io.Reader, packDir string) (name string, err error) {
	f, err := os.CreateTemp(packDir, tmpPrefix+"pack_")
	if err != nil {
		return "", diskError(err)
	}
	_, err = io.Copy(diskWriter{f}, r)
	return f.Name(), errors.Join(err, diskError(f.Close()))
}

// indexedPack is a pack that was checked and has an index, both still under
// temporary names.
type indexedPack struct {
	pack, index string // files
	name        string // what both are called in a mirror, without suffix
	objects     int64
}

// installPack checks a saved pack, indexes it and makes it part of the mirror. It
// returns the number of objects.
func installPack(name, packDir string) (objects int64, err error) {
	p, err := prepareIndex(name, packDir)
	if err != nil {
		return 0, err
	}
	defer p.discard() // it is there only if an error follows
	return p.objects, p.install(packDir)
}

// prepareIndex checks a saved pack and writes its index to a temporary file in a
// folder. The caller removes that, and the pack, if it doesn't install them.
func prepareIndex(name, dir string) (_ indexedPack, err error) {
	index, err := indexPack(name)
	if err != nil {
		return indexedPack{}, err
	}
	p := indexedPack{pack: name, name: fmt.Sprintf("pack-%x", index.PackfileChecksum)}
	if p.objects, err = index.Count(); err != nil {
		return indexedPack{}, err
	}
	f, err := os.CreateTemp(dir, tmpPrefix+"idx_")
	if err != nil {
		return indexedPack{}, diskError(err)
	}
	p.index = f.Name()
	_, err = idxfile.NewEncoder(f).Encode(index)
	if err := errors.Join(err, f.Close()); err != nil {
		p.discard()
		return indexedPack{}, diskError(err)
	}
	return p, nil
}

// install makes the pack part of a mirror.
//
// The index is put in place before the pack: go-git goes by *.pack files. A crash
// in between leaves an index without a pack, which the next start removes.
// Nothing is flushed to disk; what a power failure leaves is found by its hashes.
func (p indexedPack) install(packDir string) error {
	base := filepath.Join(packDir, p.name)
	if err := os.Rename(p.index, base+".idx"); err != nil {
		return diskError(err)
	}
	return diskError(os.Rename(p.pack, base+".pack"))
}

// discard removes the temporary index, if it wasn't installed.
func (p indexedPack) discard() { _ = os.Remove(p.index) }

func indexPack(name string) (_ *idxfile.MemoryIndex, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, diskError(err)
	}
	defer func() { _ = f.Close() }() // read only
	if err := checkTrailer(f); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil { // go-git's decoders panic on some damaged packs
			err = fmt.Errorf("%w: decoding failed: %v", errNotPack, r)
		}
	}()
	writer := new(idxfile.Writer)
	parser, err := packfile.NewParser(packfile.NewScanner(f), writer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotPack, err)
	}
	if _, err := parser.Parse(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotPack, err)
	}
	return writer.Index()
}

// weighPack refuses a saved pack that would cost too much to index, since go-git
// holds whole objects in memory: one with an object of more than limit bytes, or
// with more than maxUnpacked times that in all, or with too many objects. It
// needs little memory itself.
func weighPack(name string, limit int64) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return diskError(err)
	}
	defer func() { _ = f.Close() }() // read only
	defer func() {
		if r := recover(); r != nil { // see indexPack
			err = fmt.Errorf("%w: decoding failed: %v", errNotPack, r)
		}
	}()
	scanner := packfile.NewScanner(f)
	_, count, err := scanner.Header()
	if err != nil {
		return fmt.Errorf("%w: %w", errNotPack, err)
	}
	if count > maxProposalObjects {
		return errorf(TooLarge, "the pack holds %d objects, more than the limit of %d", count, maxProposalObjects)
	}
	var total int64
	weigh := func(size int64) error {
		if size < 0 || size > limit {
			return errorf(TooLarge, "the pack holds an object of %d bytes, more than the limit of %d", size, limit)
		}
		if total += size; total > maxUnpacked*limit {
			return errorf(TooLarge, "the pack holds more than %d bytes unpacked", maxUnpacked*limit)
		}
		return nil
	}
	for range count {
		h, err := scanner.NextObjectHeader()
		if err != nil {
			return fmt.Errorf("%w: %w", errNotPack, err)
		}
		if err := weigh(h.Length); err != nil {
			return err
		}
		var head prefix
		n, _, err := scanner.NextObject(&head)
		if err != nil {
			return fmt.Errorf("%w: %w", errNotPack, err)
		}
		if n != h.Length {
			return fmt.Errorf("%w: an object has %d bytes instead of %d", errNotPack, n, h.Length)
		}
		if h.Type.IsDelta() { // what it results in counts too
			if err := weigh(head.resultSize()); err != nil {
				return err
			}
		}
	}
	return nil
}

// prefix keeps the first bytes of what is written to it.
type prefix []byte

func (p *prefix) Write(b []byte) (int, error) {
	const enough = 2 * binary.MaxVarintLen64
	*p = append(*p, b[:min(len(b), enough-len(*p))]...)
	return len(b), nil
}

// resultSize reads, from the beginning of a delta, the size of what it results in;
// negative if that is no number.
func (p prefix) resultSize() int64 {
	_, n := binary.Uvarint(p) // the size of the base
	if n <= 0 {
		return -1
	}
	size, m := binary.Uvarint(p[n:])
	if m <= 0 || size > math.MaxInt64 {
		return -1
	}
	return int64(size)
}

// checkTrailer compares the pack with the checksum at its end and rewinds it.
func checkTrailer(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return diskError(err)
	}
	const header, trailer = 12, sha1.Size
	if info.Size() < header+trailer {
		return errNotPack
	}
	d := sha1.New() //nolint:gosec // see the import
	if _, err := io.CopyN(d, f, info.Size()-trailer); err != nil {
		return diskError(err)
	}
	sum := make([]byte, trailer)
	if _, err := io.ReadFull(f, sum); err != nil {
		return diskError(err)
	}
	if !bytes.Equal(sum, d.Sum(nil)) {
		return fmt.Errorf("%w: its checksum is wrong", errNotPack)
	}
	_, err = f.Seek(0, io.SeekStart)
	return diskError(err)
}

// diskWriter tells errors of the disk from those of the network.
type diskWriter struct{ w io.Writer }

func (d diskWriter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	return n, diskError(err)
}

// diskError makes an error of the local disk an [Error]. It doesn't wrap it: see
// corruptf.
func diskError(err error) error {
	if err == nil {
		return nil
	}
	return errorf(MirrorUnusable, "the mirror's disk: %v", err)
}

// haves lists commits that the mirror has, for the server to leave out what they
// reach: a tip and its nearest ancestors, for the case that the branch was reset.
func haves(s *store, tip plumbing.Hash) []plumbing.Hash {
	const limit = 128
	if ok, err := s.holds(tip); tip.IsZero() || !ok || err != nil {
		return nil
	}
	seen := map[plumbing.Hash]bool{tip: true}
	queue := []plumbing.Hash{tip}
	for i := 0; i < len(queue) && len(queue) < limit; i++ {
		content, err := s.read(plumbing.CommitObject, queue[i])
		if err != nil {
			return nil // damaged: ask for everything
		}
		for _, p := range parents(content) {
			if !seen[p] {
				seen[p] = true
				queue = append(queue, p)
			}
		}
	}
	return queue
}
