package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"
)

// LinkPrefix marks a value of [FromMap] as the target of a symlink.
const LinkPrefix = "symlink:"

// FromMap returns a tree held in memory, from path to content. Directories
// follow from the paths; a content that starts with [LinkPrefix] is a symlink.
func FromMap(files map[string]string) Tree {
	t := memTree{files: map[string]string{}, dirs: map[string]map[string]Entry{"": {}}}
	for p, content := range files {
		clean, ok := Clean(p)
		if !ok || clean == "" {
			panic(fmt.Sprintf("tree.FromMap: bad path %q", p)) // a mistake in the program that wrote the map
		}
		e := Entry{Name: path.Base(clean), Kind: File}
		if target, ok := strings.CutPrefix(content, LinkPrefix); ok {
			e.Kind, content = Symlink, target
		}
		e.Hash = BlobHash([]byte(content))
		t.files[clean] = content
		for {
			dir := path.Dir(clean)
			if dir == "." {
				dir = ""
			}
			if t.dirs[dir] == nil {
				t.dirs[dir] = map[string]Entry{}
			}
			t.dirs[dir][e.Name] = e
			if dir == "" {
				break
			}
			clean, e = dir, Entry{Name: path.Base(dir), Kind: Dir}
		}
	}
	return t
}

type memTree struct {
	files map[string]string
	dirs  map[string]map[string]Entry
}

func (t memTree) Stat(p string) (Entry, error) {
	clean, ok := Clean(p)
	if !ok {
		return Entry{}, &fs.PathError{Op: "stat", Path: p, Err: errors.New("path leaves the tree")}
	}
	if clean == "" {
		return Entry{Kind: Dir}, nil
	}
	dir, name := path.Split(clean)
	if e, ok := t.dirs[strings.TrimSuffix(dir, "/")][name]; ok {
		return e, nil
	}
	return Entry{}, &fs.PathError{Op: "stat", Path: clean, Err: fs.ErrNotExist}
}

func (t memTree) ReadDir(p string) ([]Entry, error) {
	if e, err := t.Stat(p); err != nil {
		return nil, err
	} else if e.Kind != Dir {
		return nil, &fs.PathError{Op: "readdir", Path: p, Err: errors.New("not a directory")}
	}
	clean, _ := Clean(p)
	entries := make([]Entry, 0, len(t.dirs[clean]))
	for _, e := range t.dirs[clean] {
		entries = append(entries, e)
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name })
	return entries, nil
}

func (t memTree) ReadFile(p string) ([]byte, error) {
	e, err := t.Stat(p)
	if err != nil {
		return nil, err
	}
	if e.Kind != File && e.Kind != Symlink {
		return nil, &fs.PathError{Op: "read", Path: p, Err: errors.New("not a file")}
	}
	clean, _ := Clean(p)
	return []byte(t.files[clean]), nil
}
