// Package tree is the read-only file tree that the agent renders from: the tree
// of one commit, or a directory of the working copy. It is vocabulary shared by
// the packages that provide trees and those that read them.
package tree

import (
	"crypto/sha1" //nolint:gosec // Git's object identity, not a security boundary.
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// Kind says what an entry is.
type Kind string

// The kinds of a tree entry.
const (
	File      Kind = "file"
	Dir       Kind = "dir"
	Symlink   Kind = "symlink"
	Submodule Kind = "submodule"
)

// Entry is one name in a tree.
type Entry struct {
	// Name is the last element of the path; "" for the root.
	Name string
	// Kind says what the entry is; links are never followed.
	Kind Kind
	// Hash is the Git object hash in hex: of the blob for files and links, of
	// the tree for directories. It is empty for directories of a Tree that
	// doesn't know it (a working copy).
	Hash string
}

// Tree is an immutable and complete file tree. Paths are slash-separated and
// relative to the root, "" or "." is the root. All methods are safe for
// concurrent use.
//
// An error that wraps [fs.ErrNotExist] means that the directory was read
// completely and has no such name. Every other error means that nothing is
// known; a caller must not take it for absence.
type Tree interface {
	// Stat returns the entry at a path, without following a symlink in its last
	// element. A symlink in an earlier element is an error that wraps
	// [fs.ErrNotExist]: nothing in a tree is reached through a link.
	Stat(path string) (Entry, error)
	// ReadDir returns the entries of a directory, sorted by name.
	ReadDir(path string) ([]Entry, error)
	// ReadFile returns the content of a file, or the target of a symlink. The
	// caller must not change it.
	ReadFile(path string) ([]byte, error)
}

// Clean brings a path to the form that trees use: slash-separated, relative,
// without "." and ".." elements, "" for the root. It reports false for a path
// that leaves the tree.
func Clean(p string) (string, bool) {
	p = path.Clean(strings.TrimLeft(filepath.ToSlash(p), "/"))
	if p == "." {
		return "", true
	}
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", false
	}
	return p, true
}

// BlobHash returns the hash that Git gives to a blob of this content.
func BlobHash(content []byte) string {
	h := sha1.New() //nolint:gosec // see the import
	fmt.Fprintf(h, "blob %d\x00", len(content))
	h.Write(content)
	return hex.EncodeToString(h.Sum(nil))
}

// FromDir returns the tree of a directory on disk, as the command line reads a
// working copy. It doesn't read ahead: what changes on disk while it is in use is
// seen by later calls, so it suits one render by one command. ".git" is left out.
func FromDir(root string) Tree { return dirTree{root: root} }

type dirTree struct{ root string }

func (t dirTree) locate(p string) (clean, disk string, err error) {
	clean, ok := Clean(p)
	if !ok {
		return "", "", &fs.PathError{Op: "open", Path: p, Err: errors.New("path leaves the tree")}
	}
	// A link in an earlier element would leave the tree unseen; below a file there
	// is nothing.
	for dir := path.Dir(clean); dir != "." && dir != ""; dir = path.Dir(dir) {
		info, err := os.Lstat(filepath.Join(t.root, filepath.FromSlash(dir)))
		if err != nil {
			return "", "", err
		}
		if !info.IsDir() {
			return "", "", &fs.PathError{Op: "open", Path: clean, Err: fs.ErrNotExist}
		}
	}
	if clean == ".git" || strings.HasPrefix(clean, ".git/") {
		return "", "", &fs.PathError{Op: "open", Path: clean, Err: fs.ErrNotExist}
	}
	return clean, filepath.Join(t.root, filepath.FromSlash(clean)), nil
}

func (t dirTree) Stat(p string) (Entry, error) {
	clean, disk, err := t.locate(p)
	if err != nil {
		return Entry{}, err
	}
	info, err := os.Lstat(disk)
	if err != nil {
		return Entry{}, err
	}
	name := path.Base(clean)
	if clean == "" {
		name = ""
	}
	return t.entry(clean, name, info.Mode())
}

func (t dirTree) entry(clean, name string, mode fs.FileMode) (Entry, error) {
	switch {
	case mode.IsDir():
		return Entry{Name: name, Kind: Dir}, nil
	case mode.IsRegular(), mode&fs.ModeSymlink != 0:
		content, err := t.ReadFile(clean)
		if err != nil {
			return Entry{}, err
		}
		kind := File
		if mode&fs.ModeSymlink != 0 {
			kind = Symlink
		}
		return Entry{Name: name, Kind: kind, Hash: BlobHash(content)}, nil
	default:
		return Entry{}, &fs.PathError{Op: "stat", Path: clean, Err: errors.New("not a file, directory or link")}
	}
}

func (t dirTree) ReadDir(p string) ([]Entry, error) {
	clean, disk, err := t.locate(p)
	if err != nil {
		return nil, err
	}
	list, err := os.ReadDir(disk)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(list))
	for _, d := range list {
		if clean == "" && d.Name() == ".git" {
			continue
		}
		e, err := t.entry(path.Join(clean, d.Name()), d.Name(), d.Type())
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name })
	return entries, nil
}

func (t dirTree) ReadFile(p string) ([]byte, error) {
	_, disk, err := t.locate(p)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(disk)
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(disk)
		return []byte(filepath.ToSlash(target)), err
	}
	return os.ReadFile(disk)
}
