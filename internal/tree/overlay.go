package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Change is what [Overlay] makes of one path. The zero value removes the file,
// symlink or submodule that is there; if there is none, it changes nothing.
type Change struct {
	// Entry is the file, symlink or submodule that the path becomes. Its Name is
	// not looked at.
	Entry Entry
	// Read returns the content of the file or the target of the symlink, under the
	// rules of [Tree.ReadFile]. It must be safe for concurrent use, and it is asked
	// each time. Not needed for a submodule or a removal.
	Read func() ([]byte, error)
}

func (c Change) removes() bool { return c.Entry.Kind == "" }

// Overlay returns base with the files at some paths changed, added or removed.
// A directory appears with the first file in it and goes with the last one. A
// file takes the place of a directory, or a directory that of a file, only if
// the changes also remove all that was there; else they contradict base, which
// is an error.
//
// Directories on the way to a change have no Hash. The directories that changes
// touch are read here, all else from base when it is asked for.
func Overlay(base Tree, changes map[string]Change) (Tree, error) {
	if len(changes) == 0 {
		return base, nil
	}
	root := &changed{}
	for p, c := range changes {
		if err := c.check(p); err != nil {
			return nil, err
		}
		root.add(p, c)
	}
	o := &overlay{base: base, changes: maps.Clone(changes), dirs: map[string][]Entry{}}
	if err := o.build("", root, true); err != nil {
		return nil, err
	}
	return o, nil
}

func (c Change) check(p string) error {
	if clean, ok := Clean(p); !ok || clean == "" || clean != p {
		return fmt.Errorf("overlay: path %q is not one of a file in a tree", p)
	}
	switch c.Entry.Kind {
	case "", Submodule:
		return nil
	case File, Symlink:
		if c.Read == nil {
			return fmt.Errorf("overlay: %s at %s can't be read", c.Entry.Kind, p)
		}
		return nil
	default:
		return fmt.Errorf("overlay: %s can't become a %s", p, c.Entry.Kind)
	}
}

// changed is a path with the change of it and of the paths below.
type changed struct {
	self  *Change // nil for none
	below map[string]*changed
}

func (n *changed) add(p string, c Change) {
	for name := range strings.SplitSeq(p, "/") {
		if n.below[name] == nil {
			if n.below == nil {
				n.below = map[string]*changed{}
			}
			n.below[name] = &changed{}
		}
		n = n.below[name]
	}
	n.self = &c
}

// overlay implements [Tree]. It is not changed once it is built.
type overlay struct {
	base    Tree
	changes map[string]Change
	// dirs holds the directories with a change in or below them, as they are now,
	// sorted by name. All others are as in base, or absent.
	dirs map[string][]Entry
}

// build fills dirs for a directory and those below it.
func (o *overlay) build(dir string, n *changed, inBase bool) error {
	entries := map[string]Entry{}
	if inBase {
		list, err := o.base.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("overlay: %w", err)
		}
		for _, e := range list {
			entries[e.Name] = e
		}
	}
	for name, child := range n.below {
		e, err := o.entry(path.Join(dir, name), entries[name], child)
		if err != nil {
			return err
		}
		if e.Name = name; e.Kind == "" {
			delete(entries, name)
		} else {
			entries[name] = e
		}
	}
	list := make([]Entry, 0, len(entries))
	for _, e := range entries {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	o.dirs[dir] = list
	return nil
}

// entry returns what a path becomes that has a change at or below it. Zero stands
// for nothing, also in what it was.
func (o *overlay) entry(p string, was Entry, n *changed) (Entry, error) {
	now := was
	if n.self != nil && n.self.removes() {
		if was.Kind == Dir {
			return Entry{}, fmt.Errorf("overlay: %s is a directory, which only goes with the last file in it", p)
		}
		now = Entry{}
	}
	if len(n.below) > 0 {
		if err := o.build(p, n, was.Kind == Dir); err != nil {
			return Entry{}, err
		}
		switch filled := len(o.dirs[p]) > 0; {
		case filled && now.Kind != Dir && now.Kind != "":
			return Entry{}, fmt.Errorf("overlay: a file below %s, which stays a %s", p, now.Kind)
		case filled:
			now = Entry{Kind: Dir}
		default:
			delete(o.dirs, p)
			if was.Kind == Dir {
				now = Entry{}
			}
		}
	}
	if n.self != nil && !n.self.removes() {
		if now.Kind == Dir {
			return Entry{}, fmt.Errorf("overlay: a %s in place of the directory %s, in which files stay", n.self.Entry.Kind, p)
		}
		now = n.self.Entry
	}
	return now, nil
}

// Stat implements [Tree].
func (o *overlay) Stat(p string) (Entry, error) {
	clean, ok := Clean(p)
	if !ok {
		return Entry{}, &fs.PathError{Op: "stat", Path: p, Err: errors.New("path leaves the tree")}
	}
	dir, e := "", Entry{Kind: Dir}
	if clean == "" {
		return e, nil
	}
	for name := range strings.SplitSeq(clean, "/") {
		list, touched := o.dirs[dir]
		if !touched && e.Kind == Dir {
			return o.base.Stat(clean) // nothing changed from here on
		}
		i, found := slices.BinarySearchFunc(list, name, func(e Entry, name string) int { return strings.Compare(e.Name, name) })
		if !found { // nor is there anything below what isn't a directory
			return Entry{}, &fs.PathError{Op: "stat", Path: clean, Err: fs.ErrNotExist}
		}
		e, dir = list[i], path.Join(dir, name)
	}
	return e, nil
}

// ReadDir implements [Tree].
func (o *overlay) ReadDir(p string) ([]Entry, error) {
	e, err := o.Stat(p)
	if err != nil {
		return nil, err
	}
	clean, _ := Clean(p)
	if e.Kind != Dir {
		return nil, &fs.PathError{Op: "readdir", Path: clean, Err: errors.New("not a directory")}
	}
	if list, touched := o.dirs[clean]; touched {
		return slices.Clone(list), nil
	}
	return o.base.ReadDir(clean)
}

// ReadFile implements [Tree].
func (o *overlay) ReadFile(p string) ([]byte, error) {
	e, err := o.Stat(p)
	if err != nil {
		return nil, err
	}
	clean, _ := Clean(p)
	if e.Kind != File && e.Kind != Symlink {
		return nil, &fs.PathError{Op: "read", Path: clean, Err: errors.New("not a file")}
	}
	c, ok := o.changes[clean]
	if !ok {
		return o.base.ReadFile(clean)
	}
	content, err := c.Read()
	if errors.Is(err, fs.ErrNotExist) { // the path is there, so this says nothing about it
		err = fmt.Errorf("%v", err) //nolint:errorlint // wrapped, it would claim absence
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: clean, Err: err}
	}
	return content, nil
}
