package source

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the checksum that Git puts at the end of a pack
	"errors"
	"fmt"
	"io"
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

// installPack checks a saved pack, indexes it and makes it part of the mirror. It
// returns the number of objects.
//
// The index is put in place before the pack: go-git goes by *.pack files. A crash
// in between leaves an index without a pack, which the next start removes.
// Nothing is flushed to disk; what a power failure leaves is found by its hashes.
func installPack(name, packDir string) (objects int64, err error) {
	index, err := indexPack(name)
	if err != nil {
		return 0, err
	}
	if objects, err = index.Count(); err != nil {
		return 0, err
	}
	f, err := os.CreateTemp(packDir, tmpPrefix+"idx_")
	if err != nil {
		return 0, diskError(err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is there only if an error follows
	_, err = idxfile.NewEncoder(f).Encode(index)
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, diskError(err)
	}
	base := filepath.Join(packDir, fmt.Sprintf("pack-%x", index.PackfileChecksum))
	if err := os.Rename(f.Name(), base+".idx"); err != nil {
		return 0, diskError(err)
	}
	return objects, diskError(os.Rename(name, base+".pack"))
}

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
