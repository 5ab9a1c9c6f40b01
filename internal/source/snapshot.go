package source

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/go-git/go-git/v5/plumbing"

	"capstan.dev/capstan/internal/tree"
)

// Snapshot is a commit's complete tree. It stays readable while the mirror is
// fetched into, rebuilt or swapped, until the Mirror is closed.
type Snapshot struct {
	// Revision names the commit.
	Revision Revision
	// Time is when the commit was made, as its committer's clock had it; 1970 if the
	// commit doesn't say.
	Time time.Time
	// Tree is the commit's tree. All its directories are in memory; contents are
	// read on demand.
	Tree tree.Tree
}

// node is a directory, read completely, and with all directories below it.
// Commits share the nodes of directories that don't differ.
type node struct {
	entries  []tree.Entry // sorted by name
	children []*node      // beside entries; nil for what isn't a directory
	size     int          // files and directories below, for the limit
	depth    int          // levels of directories below, this one included
}

func (n *node) find(name string) (tree.Entry, *node, bool) {
	i, ok := slices.BinarySearchFunc(n.entries, name, func(e tree.Entry, name string) int { return strings.Compare(e.Name, name) })
	if !ok {
		return tree.Entry{}, nil, false
	}
	return n.entries[i], n.children[i], true
}

// forest holds the nodes that some snapshot still uses, by hash. Weak pointers
// let a directory go with the last snapshot that has it.
type forest struct {
	mu    sync.Mutex
	nodes map[plumbing.Hash]weak.Pointer[node]
}

func newForest() *forest { return &forest{nodes: map[plumbing.Hash]weak.Pointer[node]{}} }

func (f *forest) get(h plumbing.Hash) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[h].Value()
}

// put adds a node and returns the one to use: another loader may have been faster.
func (f *forest) put(h plumbing.Hash, n *node) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	if had := f.nodes[h].Value(); had != nil {
		return had
	}
	f.nodes[h] = weak.Make(n)
	runtime.AddCleanup(n, f.drop, h)
	return n
}

func (f *forest) drop(h plumbing.Hash) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nodes[h].Value() == nil { // else it was loaded again meanwhile
		delete(f.nodes, h)
	}
}

// loader reads the tree of a commit. It fails as a whole: a snapshot exists only
// if every directory of the commit was read and every file is in the store.
type loader struct {
	store  *store
	forest *forest
	limits Limits
}

func (l loader) load(ctx context.Context, rev Revision) (*Snapshot, error) {
	content, err := l.store.read(plumbing.CommitObject, plumbing.NewHash(rev.Hash))
	if err != nil {
		return nil, err
	}
	root, err := rootOf(content)
	if err != nil {
		return nil, err
	}
	n, err := l.node(ctx, root, "", maxDepth)
	if err != nil {
		return nil, err
	}
	return &Snapshot{Revision: rev, Time: time.Unix(committed(content), 0).UTC(), Tree: &commitTree{root: n, hash: root.String(), store: l.store}}, nil
}

func (l loader) node(ctx context.Context, h plumbing.Hash, dir string, depth int) (*node, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if n := l.forest.get(h); n != nil {
		if n.depth > depth {
			return nil, errorf(TooLarge, "directories nest deeper than %d levels", maxDepth)
		}
		return n, nil
	}
	if depth == 0 {
		return nil, errorf(TooLarge, "directories nest deeper than %d levels", maxDepth)
	}
	content, err := l.store.read(plumbing.TreeObject, h)
	if err != nil {
		return nil, err
	}
	entries, err := parseTree(content, dir)
	if err != nil {
		return nil, err
	}
	n := &node{entries: entries, children: make([]*node, len(entries)), size: len(entries), depth: 1}
	for i, e := range entries {
		if e.Kind == tree.Submodule {
			continue // its commit is in another repository
		}
		child := plumbing.NewHash(e.Hash)
		if e.Kind != tree.Dir {
			if err := l.store.has(child); err != nil {
				return nil, err
			}
			continue
		}
		sub, err := l.node(ctx, child, path.Join(dir, e.Name), depth-1)
		if err != nil {
			return nil, err
		}
		n.children[i] = sub
		n.depth = max(n.depth, sub.depth+1)
		// Checked at each step: directories that share hashes multiply, and the
		// sum would overflow.
		if n.size += sub.size; n.size > l.limits.Entries {
			return nil, errorf(TooLarge, "the tree has more than %d files and directories", l.limits.Entries)
		}
	}
	return l.forest.put(h, n), nil
}

// rootOf returns the tree of a commit, from the commit's content.
func rootOf(commit []byte) (plumbing.Hash, error) {
	line, _, _ := bytes.Cut(commit, []byte("\n"))
	h, ok := bytes.CutPrefix(line, []byte("tree "))
	if !ok || !isHash(string(h)) {
		return plumbing.ZeroHash, corruptf("a commit names no tree")
	}
	return plumbing.NewHash(string(h)), nil
}

// parents returns the parents of a commit, from the commit's content.
func parents(commit []byte) []plumbing.Hash {
	var hashes []plumbing.Hash
	for line := range bytes.Lines(commit) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			break
		}
		if h, ok := bytes.CutPrefix(line, []byte("parent ")); ok && isHash(string(h)) {
			hashes = append(hashes, plumbing.NewHash(string(h)))
		}
	}
	return hashes
}

// parseTree reads the content of a tree object and sorts it by name; Git sorts
// directories as if they ended in a slash.
func parseTree(content []byte, dir string) ([]tree.Entry, error) {
	var entries []tree.Entry
	for len(content) > 0 {
		head, rest, ok := bytes.Cut(content, []byte{0})
		if !ok || len(rest) < 20 {
			return nil, corruptf("directory %q is cut short", dir)
		}
		mode, name, ok := strings.Cut(string(head), " ")
		if !ok {
			return nil, corruptf("directory %q is malformed", dir)
		}
		kind, ok := kindOf(mode)
		if !ok {
			return nil, corruptf("directory %q is malformed", dir)
		}
		if name == "" || name == "." || name == ".." || strings.EqualFold(name, ".git") || strings.Contains(name, "/") {
			return nil, errorf(TreeInvalid, "directory %q holds an entry named %q, which no checkout could hold", dir, name)
		}
		entries = append(entries, tree.Entry{Name: name, Kind: kind, Hash: hex.EncodeToString(rest[:20])})
		content = rest[20:]
	}
	slices.SortFunc(entries, func(a, b tree.Entry) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(entries); i++ {
		if entries[i].Name == entries[i-1].Name {
			return nil, errorf(TreeInvalid, "directory %q holds two entries named %q", dir, entries[i].Name)
		}
	}
	return entries, nil
}

// kindOf maps a mode as Git does, by the type bits: whatever is no file, link or
// directory is a submodule. False stands for a mode that is no number.
func kindOf(mode string) (tree.Kind, bool) {
	if mode == "" {
		return "", false
	}
	var bits uint32
	for _, c := range []byte(mode) {
		if c < '0' || c > '7' {
			return "", false
		}
		bits = bits<<3 | uint32(c-'0') // what is too much falls off, in Git too
	}
	switch bits & 0o170000 {
	case 0o040000:
		return tree.Dir, true
	case 0o120000:
		return tree.Symlink, true
	case 0o100000:
		return tree.File, true
	default:
		return tree.Submodule, true
	}
}

// isOrdinary reports whether Git itself would write a tree object like this one, which
// parseTree has read: with modes as it spells them, and in its order. What others make
// of an extraordinary one, such as a forge that merges it, can't be foreseen.
func isOrdinary(content []byte) bool {
	last := ""
	for len(content) > 0 {
		head, rest, _ := bytes.Cut(content, []byte{0})
		content = rest[20:]
		mode, name, _ := strings.Cut(string(head), " ")
		switch mode {
		case "40000":
			name += "/"
		case "100644", "100755", "100664", "120000", "160000":
		default:
			return false
		}
		if name <= last {
			return false
		}
		last = name
	}
	return true
}

// commitTree implements [tree.Tree]. Absence follows from nodes only, which are
// complete by construction.
type commitTree struct {
	root  *node
	hash  string
	store *store
}

func (t *commitTree) locate(op, p string) (clean string, e tree.Entry, n *node, err error) {
	clean, ok := tree.Clean(p)
	if !ok {
		return "", tree.Entry{}, nil, &fs.PathError{Op: op, Path: p, Err: errors.New("path leaves the tree")}
	}
	e, n = tree.Entry{Kind: tree.Dir, Hash: t.hash}, t.root
	if clean == "" {
		return clean, e, n, nil
	}
	for name := range strings.SplitSeq(clean, "/") {
		if n == nil { // below a file, link or submodule
			return clean, tree.Entry{}, nil, &fs.PathError{Op: op, Path: clean, Err: fs.ErrNotExist}
		}
		if e, n, ok = n.find(name); !ok {
			return clean, tree.Entry{}, nil, &fs.PathError{Op: op, Path: clean, Err: fs.ErrNotExist}
		}
	}
	return clean, e, n, nil
}

// Stat implements [tree.Tree].
func (t *commitTree) Stat(p string) (tree.Entry, error) {
	_, e, _, err := t.locate("stat", p)
	return e, err
}

// ReadDir implements [tree.Tree].
func (t *commitTree) ReadDir(p string) ([]tree.Entry, error) {
	clean, _, n, err := t.locate("readdir", p)
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, &fs.PathError{Op: "readdir", Path: clean, Err: errors.New("not a directory")}
	}
	return slices.Clone(n.entries), nil
}

// ReadFile implements [tree.Tree]. An object that can't be read is an [Error]
// with the reason MirrorCorrupt, never [fs.ErrNotExist].
func (t *commitTree) ReadFile(p string) ([]byte, error) {
	clean, e, _, err := t.locate("read", p)
	if err != nil {
		return nil, err
	}
	if e.Kind != tree.File && e.Kind != tree.Symlink {
		return nil, &fs.PathError{Op: "read", Path: clean, Err: errors.New("not a file")}
	}
	content, err := t.store.blob(plumbing.NewHash(e.Hash))
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: clean, Err: err}
	}
	return content, nil
}
