package source

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"capstan.dev/capstan/internal/tree"
)

// pathChange is a path whose file, link or submodule differs between two trees.
// The zero entry stands for none: nothing is there, or a directory.
type pathChange struct {
	path          string
	before, after tree.Entry
}

// comparison finds the paths that differ between two trees. It reads only the
// directories that do.
type comparison struct {
	before, after func(h plumbing.Hash, dir string) ([]tree.Entry, error)
	limits        Limits

	changes []pathChange
	differ  int // files and directories that differ
	entries int // read from directories of the tree after
}

// trees compares two directories and what is below them. The zero hash stands for
// none.
func (c *comparison) trees(ctx context.Context, before, after plumbing.Hash, dir string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth == 0 {
		return errorf(TooLarge, "directories nest deeper than %d levels", maxDepth)
	}
	old, err := entriesOf(c.before, before, dir)
	if err != nil {
		return err
	}
	now, err := entriesOf(c.after, after, dir)
	if err != nil {
		return err
	}
	if c.entries += len(now); c.entries > c.limits.Entries {
		return errorf(TooLarge, "the changed directories hold more than %d files and directories", c.limits.Entries)
	}
	for len(old) > 0 || len(now) > 0 {
		var b, a tree.Entry
		switch order := firstName(old, now); {
		case order < 0:
			b, old = old[0], old[1:]
		case order > 0:
			a, now = now[0], now[1:]
		default:
			b, old, a, now = old[0], old[1:], now[0], now[1:]
		}
		if alike(b, a) {
			continue
		}
		if c.differ++; c.differ > c.limits.ProposalPaths {
			return errorf(TooLarge, "the pull request changes more than %d files and directories; split it", c.limits.ProposalPaths)
		}
		p := path.Join(dir, cmp.Or(b.Name, a.Name))
		if change := (pathChange{p, leaf(b), leaf(a)}); !alike(change.before, change.after) {
			c.changes = append(c.changes, change)
		}
		if b.Kind == tree.Dir || a.Kind == tree.Dir {
			if err := c.trees(ctx, directory(b), directory(a), p, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

func entriesOf(read func(plumbing.Hash, string) ([]tree.Entry, error), h plumbing.Hash, dir string) ([]tree.Entry, error) {
	if h.IsZero() {
		return nil, nil
	}
	return read(h, dir)
}

// firstName says which of two sorted lists, not both empty, has the lower name first.
func firstName(a, b []tree.Entry) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	default:
		return strings.Compare(a[0].Name, b[0].Name)
	}
}

// alike reports whether two entries are of the same kind and content. Whether a
// file may be executed doesn't count.
func alike(a, b tree.Entry) bool { return a.Kind == b.Kind && a.Hash == b.Hash }

func leaf(e tree.Entry) tree.Entry {
	if e.Kind == tree.Dir {
		return tree.Entry{}
	}
	return e
}

func directory(e tree.Entry) plumbing.Hash {
	if e.Kind == tree.Dir {
		return plumbing.NewHash(e.Hash)
	}
	return plumbing.ZeroHash
}

// merge decides which changes, made since the tree before, are to be made to a
// target that came from the same tree before, and which of them are in conflict
// with it. What the target has already is neither.
//
// A path is in conflict if the target changed it too, to something else, or if a
// file of one side would be where the other has a directory.
func merge(changes []pathChange, target tree.Tree) (take []pathChange, conflicts []string, err error) {
	gone := map[string]bool{} // paths that are removed from the target
	for _, c := range changes {
		now, err := stat(target, c.path)
		switch now := leaf(now); {
		case err != nil:
			return nil, nil, err
		case alike(now, c.after):
		case alike(now, c.before):
			take = append(take, c)
			gone[c.path] = c.after.Kind == ""
		default:
			conflicts = append(conflicts, c.path)
		}
	}
	for _, c := range take {
		if c.after.Kind == "" {
			continue
		}
		blocked, err := isBlocked(target, c.path, gone)
		if err != nil {
			return nil, nil, err
		}
		if blocked {
			conflicts = append(conflicts, c.path)
		}
	}
	slices.Sort(conflicts)
	return take, conflicts, nil
}

// stat returns the zero entry for what isn't there.
func stat(t tree.Tree, p string) (tree.Entry, error) {
	e, err := t.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return tree.Entry{}, nil
	}
	return e, err
}

// isBlocked reports whether the target keeps a file above a path, or files in a
// directory at it, so that no file can be there.
func isBlocked(target tree.Tree, p string, gone map[string]bool) (bool, error) {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		e, err := stat(target, dir)
		if err != nil {
			return false, err
		}
		if leaf(e).Kind != "" && !gone[dir] {
			return true, nil
		}
	}
	e, err := stat(target, p)
	if err != nil || e.Kind != tree.Dir {
		return false, err
	}
	return keepsFiles(target, p, gone)
}

func keepsFiles(target tree.Tree, dir string, gone map[string]bool) (bool, error) {
	entries, err := target.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name)
		keeps := !gone[p]
		if e.Kind == tree.Dir {
			if keeps, err = keepsFiles(target, p, gone); err != nil {
				return false, err
			}
		}
		if keeps {
			return true, nil
		}
	}
	return false, nil
}
