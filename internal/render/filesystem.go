package render

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"capstan.dev/capstan/internal/tree"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// fileSystem is the tree of one commit as kustomize sees it during one render, with
// the tree's root as "/". It is read-only. Kustomize only gets at what a checked
// kustomization declared. The first refusal or failure sticks: kustomize swallows
// errors in places (target.LoadKustFile), and a render that was refused once must end.
type fileSystem struct {
	ctx    context.Context //nolint:containedctx // krusty's Run takes none; this one render is its scope.
	tree   tree.Tree
	limits Limits

	// answersMu guards writing answers, and reading them for the closure of a render
	// that is given up while the build is stuck in the tree.
	answersMu sync.Mutex
	answers   map[string]answer

	// mu guards what follows and keeps the methods apart.
	mu       sync.Mutex
	failure  error
	declared map[string]role
	bases    map[string]bool
	checked  map[string]bool
	files    int
	size     int
	objects  []locatedObject
	rules    *referenceRules
}

// locatedObject is an object as it stands in a file, for messages.
type locatedObject struct {
	objectFact
	path string
}

var _ filesys.FileSystem = (*fileSystem)(nil)

func newFileSystem(ctx context.Context, in Input) *fileSystem {
	return &fileSystem{
		ctx: ctx, tree: in.Tree, limits: in.Limits,
		answers: map[string]answer{}, declared: map[string]role{}, bases: map[string]bool{}, checked: map[string]bool{},
		rules: newReferenceRules(),
	}
}

func (f *fileSystem) closure() Closure {
	f.answersMu.Lock()
	defer f.answersMu.Unlock()
	return Closure{answers: maps.Clone(f.answers)}
}

// failed returns the first refusal or failure.
func (f *fileSystem) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failure
}

func (f *fileSystem) stop(err error) error {
	if f.failure == nil {
		f.failure = err
	}
	return f.failure
}

// given returns an error to kustomize. Absence is an ordinary answer; all other
// errors end the render.
func (f *fileSystem) given(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrTree) {
		return err
	}
	return f.stop(err)
}

func (f *fileSystem) alive() error {
	if f.failure != nil {
		return f.failure
	}
	if err := f.ctx.Err(); err != nil {
		return f.stop(err)
	}
	return nil
}

// question asks the tree about a path, once, and records the answer. Links and
// submodules are an error wherever they are on the path; the caller has to stop the
// render for it, since it may know the line that leads there.
func (f *fileSystem) question(p string, content, listing bool) (answer, error) {
	if err := f.alive(); err != nil {
		return answer{}, err
	}
	a, known := f.answers[p]
	if !known || (content && a.content == "") || (listing && a.listing == "") {
		var err error
		if a, err = ask(f.tree, p, content || a.content != "", listing || a.listing != ""); err != nil {
			return answer{}, f.stop(err)
		}
		f.answersMu.Lock()
		f.answers[p] = a
		f.answersMu.Unlock()
	}
	switch a.kind {
	case tree.Symlink:
		return answer{}, &FileError{Path: p, Reason: "this is a symbolic link; links are not followed, name what it points to"}
	case tree.Submodule:
		return answer{}, &FileError{Path: p, Reason: "this is a Git submodule; its content is not part of the commit, copy it into this repository"}
	case "":
		if p != "" && dirOf(p) != "" {
			// Nothing is reached through a link: tell the person, if one is why.
			if _, err := f.question(dirOf(p), false, false); err != nil {
				return answer{}, err
			}
		}
	}
	return a, nil
}

func (f *fileSystem) stat(p string) (tree.Kind, error) {
	a, err := f.question(p, false, false)
	return a.kind, err
}

// content reads a file and counts it.
func (f *fileSystem) content(p string) ([]byte, error) {
	a, err := f.question(p, true, false)
	if err != nil {
		return nil, err
	}
	if a.kind != tree.File {
		return nil, &fs.PathError{Op: "read", Path: p, Err: fs.ErrNotExist}
	}
	b, err := f.tree.ReadFile(p)
	if err != nil {
		return nil, f.stop(fmt.Errorf("%w: %w", ErrTree, err))
	}
	f.files++
	f.size += len(b)
	if f.files > f.limits.MaxFiles {
		return nil, &FileError{Path: p, Reason: fmt.Sprintf("the overlay opens more than %d files; use fewer, or include each base once", f.limits.MaxFiles)}
	}
	if f.size > f.limits.MaxBytes {
		return nil, &FileError{Path: p, Reason: fmt.Sprintf("the overlay reads more than %d bytes; use fewer or smaller files", f.limits.MaxBytes)}
	}
	return b, nil
}

func (f *fileSystem) declare(p string, r role) { f.declared[p] |= r }

func (f *fileSystem) declareBase(dir string) { f.bases[dir] = true }

// ReadFile returns what kustomize may interpret: checked content.
func (f *fileSystem) ReadFile(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.readFile(name)
	return b, f.given(err)
}

func (f *fileSystem) readFile(name string) ([]byte, error) {
	if err := f.alive(); err != nil {
		return nil, err
	}
	if name == referencesPath {
		return f.rules.configuration(), nil
	}
	p, err := f.clean(name)
	if err != nil {
		return nil, err
	}
	if isKustomizationName(path.Base(p)) {
		return f.kustomization(p)
	}
	if kind, err := f.stat(p); err != nil || kind != tree.File {
		// Kustomize tries each resource as a file before it tries a directory.
		return nil, cmpErr(err, &fs.PathError{Op: "read", Path: p, Err: fs.ErrNotExist})
	}
	b, err := f.content(p)
	if err != nil {
		return nil, err
	}
	if err := f.checkContent(p, b); err != nil {
		return nil, err
	}
	return b, nil
}

func cmpErr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

func (f *fileSystem) kustomization(p string) ([]byte, error) {
	if dir := dirOf(p); !f.bases[dir] {
		return nil, &FileError{Path: p, Reason: "kustomize asked for a file that no kustomization declares"}
	}
	kind, err := f.stat(p)
	if err != nil || kind != tree.File {
		return nil, cmpErr(err, &fs.PathError{Op: "read", Path: p, Err: fs.ErrNotExist})
	}
	b, err := f.content(p)
	if err != nil {
		return nil, err
	}
	k := kustomizationsOf.get(b)
	if k.problem != nil {
		return nil, &FileError{Path: p, Line: k.problem.line, Reason: k.problem.reason}
	}
	if !f.checked[p] {
		c := &checker{fs: f, file: p, dir: dirOf(p), lineOf: k.lineOf}
		if err := c.kustomization(k.spec); err != nil {
			return nil, err
		}
		f.checked[p] = true
	}
	return bytes.Clone(k.content), nil
}

// checkContent checks a file by the roles it was declared for.
func (f *fileSystem) checkContent(p string, b []byte) error {
	r := f.declared[p]
	if r == 0 {
		return &FileError{Path: p, Reason: "kustomize asked for a file that no kustomization declares"}
	}
	if r == roleData {
		return nil
	}
	facts := factsOf.get(b)
	if err := facts.check(p, f.limits); err != nil {
		return err
	}
	if r&roleResource == 0 {
		return nil
	}
	f.rules.see(facts.kinds)
	for _, o := range facts.objects {
		var reason string
		switch {
		case o.apiVersion == "":
			reason = "this object has no apiVersion"
		case o.kind == "":
			reason = "this object has no kind"
		case o.generateName:
			reason = "this object has a generateName; give it a metadata.name, so that it can be found again"
		case o.name == "" && o.apiVersion != "builtin":
			reason = "this object has no metadata.name"
		}
		if reason != "" {
			return &FileError{Path: p, Line: o.line, Reason: reason}
		}
		f.objects = append(f.objects, locatedObject{objectFact: o, path: p})
	}
	if len(f.objects) > f.limits.MaxObjects {
		return &FileError{Path: p, Reason: fmt.Sprintf("the overlay has more than %d objects; split it", f.limits.MaxObjects)}
	}
	return nil
}

func (f *fileSystem) clean(name string) (string, error) {
	p, ok := tree.Clean(name)
	if !ok {
		return "", f.given(&FileError{Path: name, Reason: "this path leaves the repository"})
	}
	return p, nil
}

// CleanedAbs splits a path into its directory and file name.
func (f *fileSystem) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := f.clean(name)
	if err != nil {
		return "", "", err
	}
	kind, err := f.stat(p)
	switch {
	case err != nil:
		return "", "", f.given(err)
	case kind == tree.Dir:
		return filesys.ConfirmedDir("/" + p), "", nil
	case kind == tree.File:
		return filesys.ConfirmedDir("/" + dirOf(p)), path.Base(p), nil
	}
	return "", "", &fs.PathError{Op: "stat", Path: p, Err: fs.ErrNotExist}
}

// IsDir reports whether a path is a directory.
func (f *fileSystem) IsDir(name string) bool {
	kind, err := f.kindOf(name)
	return err == nil && kind == tree.Dir
}

// Exists reports whether a path exists.
func (f *fileSystem) Exists(name string) bool {
	kind, err := f.kindOf(name)
	return err == nil && kind != ""
}

func (f *fileSystem) kindOf(name string) (tree.Kind, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := f.clean(name)
	if err != nil {
		return "", err
	}
	kind, err := f.stat(p)
	return kind, f.given(err)
}

// ReadDir returns the names in a directory.
func (f *fileSystem) ReadDir(name string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := f.clean(name)
	if err != nil {
		return nil, err
	}
	a, err := f.question(p, false, true)
	if err != nil {
		return nil, f.given(err)
	}
	if a.kind != tree.Dir {
		return nil, &fs.PathError{Op: "readdir", Path: p, Err: fs.ErrNotExist}
	}
	entries, err := f.tree.ReadDir(p)
	if err != nil {
		return nil, f.stop(fmt.Errorf("%w: %w", ErrTree, err))
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names, nil
}

// Glob returns the files and directories that match a pattern. Only its last
// element may be a pattern; kustomize's build uses no globs at all.
func (f *fileSystem) Glob(pattern string) ([]string, error) {
	dir, last := path.Split(pattern)
	if strings.ContainsAny(dir, "*?[") {
		return nil, fmt.Errorf("glob %q: only the last element may be a pattern", pattern)
	}
	names, err := f.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var matches []string
	for _, n := range names {
		if ok, err := path.Match(last, n); err != nil {
			return nil, err
		} else if ok {
			matches = append(matches, dir+n)
		}
	}
	slices.Sort(matches)
	return matches, nil
}

var errReadOnly = errors.New("a commit can't be written to")

// The rest of filesys.FileSystem is not used by a build: nothing can be written,
// and Open and Walk would go around the checks.

func (f *fileSystem) Create(string) (filesys.File, error)  { return nil, errReadOnly }
func (f *fileSystem) Mkdir(string) error                   { return errReadOnly }
func (f *fileSystem) MkdirAll(string) error                { return errReadOnly }
func (f *fileSystem) RemoveAll(string) error               { return errReadOnly }
func (f *fileSystem) WriteFile(string, []byte) error       { return errReadOnly }
func (f *fileSystem) Open(string) (filesys.File, error)    { return nil, errors.ErrUnsupported }
func (f *fileSystem) Walk(string, filepath.WalkFunc) error { return errors.ErrUnsupported }
