package render

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"capstan.dev/capstan/internal/tree"
)

// defaultPaths are the globs of a Fleet that declares none.
var defaultPaths = []string{"clusters/*"}

// DiscoverInput says where the overlays of a Fleet are.
type DiscoverInput struct {
	// Tree is the commit.
	Tree tree.Tree
	// Paths are globs of directories, matched element by element with
	// [path.Match]; an element "**" stands for any number of elements, none
	// included. Empty: clusters/*.
	Paths []string
	// Exclude are globs of directories that are left out with all below them,
	// whatever Paths says.
	Exclude []string
}

// Overlay is a directory that renders one workload cluster, or shared objects.
type Overlay struct {
	// Path is the directory, relative to the root of the tree, "." for the root.
	Path string
}

// Skipped is a match of a Fleet's globs that is not an overlay.
type Skipped struct{ Path, Reason string }

// Discover finds the overlays of a tree. Both lists are sorted by path. Matches
// that are no directories are passed over. An error means that nothing is known,
// never that there are no overlays.
func Discover(in DiscoverInput) ([]Overlay, []Skipped, error) {
	if len(in.Paths) == 0 {
		in.Paths = defaultPaths
	}
	d := &discovery{tree: in.Tree, skipped: map[string]string{}, references: map[string][]string{}}
	for _, g := range slices.Concat(in.Paths, in.Exclude) {
		if err := checkGlob(g); err != nil {
			return nil, nil, err
		}
	}
	matches := map[string]bool{}
	for _, g := range in.Paths {
		if err := d.match("", elements(g), matches); err != nil {
			return nil, nil, err
		}
	}
	var candidates []string
	for p := range matches {
		reason, err := d.unfit(p, in.Exclude)
		if err != nil {
			return nil, nil, err
		}
		if reason != "" {
			d.skipped[p] = reason
			continue
		}
		candidates = append(candidates, p)
	}
	if err := d.skipBases(candidates); err != nil {
		return nil, nil, err
	}
	return d.lists(candidates)
}

// Concerns reports whether a change at a path may add or remove an overlay. What is
// included by an overlay is in its closure, so only kustomization files of directories
// that may be overlays count here. The tree is not looked at.
func (in DiscoverInput) Concerns(p string) bool {
	p, ok := tree.Clean(p)
	if !ok || p == "" {
		return true
	}
	if !isKustomizationName(path.Base(p)) {
		return false
	}
	if len(in.Paths) == 0 {
		in.Paths = defaultPaths
	}
	for _, g := range in.Paths {
		// The root is no overlay, and has no closure, but what it includes is its base.
		if matchGlob(elements(g), nil) {
			return true
		}
	}
	dir := elements(dirOf(p))
	return slices.ContainsFunc(in.Paths, func(g string) bool { return matchGlob(elements(g), dir) }) && !in.excludes(dir)
}

// excludes reports whether a directory is left out.
func (in DiscoverInput) excludes(dir []string) bool {
	for _, g := range in.Exclude {
		for n := len(dir); n >= 0; n-- {
			if matchGlob(elements(g), dir[:n]) {
				return true
			}
		}
	}
	return false
}

type discovery struct {
	tree    tree.Tree
	skipped map[string]string
	// references holds, by directory, the directories its kustomization includes.
	references map[string][]string
}

func (d *discovery) lists(candidates []string) (overlays []Overlay, skipped []Skipped, err error) {
	slices.Sort(candidates)
	for _, p := range candidates {
		if d.skipped[p] == "" {
			overlays = append(overlays, Overlay{Path: dot(p)})
		}
	}
	for p, reason := range d.skipped {
		skipped = append(skipped, Skipped{Path: dot(p), Reason: reason})
	}
	slices.SortFunc(skipped, func(a, b Skipped) int { return strings.Compare(a.Path, b.Path) })
	return overlays, skipped, nil
}

func dot(p string) string {
	if p == "" {
		return "."
	}
	return p
}

// checkGlob refuses globs that could never match.
func checkGlob(glob string) error {
	if _, ok := tree.Clean(glob); !ok || strings.TrimSpace(glob) == "" {
		return fmt.Errorf("overlay path %q is empty or leaves the repository", glob)
	}
	for _, e := range elements(glob) {
		if _, err := path.Match(e, ""); err != nil {
			return fmt.Errorf("overlay path %q: %w", glob, err)
		}
	}
	return nil
}

func elements(glob string) []string {
	clean, _ := tree.Clean(glob)
	if clean == "" {
		return nil
	}
	return strings.Split(clean, "/")
}

// match adds the directories, links and submodules below dir that match the
// elements of a glob.
func (d *discovery) match(dir string, glob []string, matches map[string]bool) error {
	if len(glob) == 0 {
		matches[dir] = true
		return nil
	}
	if glob[0] == "**" {
		if err := d.match(dir, glob[1:], matches); err != nil {
			return err
		}
	}
	entries, err := d.tree.ReadDir(dir)
	if err != nil {
		if dir == "" || !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrTree, err)
		}
		return nil
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name)
		hit, rest := glob[0] == "**", glob
		if !hit {
			hit, _ = path.Match(glob[0], e.Name)
			rest = glob[1:]
		}
		switch {
		case !hit || e.Kind == tree.File:
		case e.Kind == tree.Dir:
			if err := d.match(p, rest, matches); err != nil {
				return err
			}
		case len(rest) == 0: // a link or submodule in the place of an overlay
			matches[p] = true
		}
	}
	return nil
}

// unfit returns why a match is no overlay, "" if it may be one.
func (d *discovery) unfit(p string, exclude []string) (string, error) {
	for _, g := range exclude {
		for dir := p; ; dir = dirOf(dir) {
			if matchGlob(elements(g), elements(dir)) {
				return "excluded by " + g, nil
			}
			if dir == "" {
				break
			}
		}
	}
	e, err := d.tree.Stat(p)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrTree, err)
	}
	switch e.Kind {
	case tree.Symlink:
		return "symbolic links are not followed", nil
	case tree.Submodule:
		return "a Git submodule is not part of the commit", nil
	}
	_, text, err := d.kustomization(p)
	if err != nil {
		return "", err
	}
	if text == nil {
		return "no kustomization file", nil
	}
	if k := kustomizationsOf.get(text); k.spec != nil && k.spec.Kind == "Component" {
		return "a Component", nil
	}
	return "", nil
}

func matchGlob(glob, p []string) bool {
	switch {
	case len(glob) == 0:
		return len(p) == 0
	case glob[0] == "**":
		return matchGlob(glob[1:], p) || len(p) > 0 && matchGlob(glob, p[1:])
	case len(p) == 0:
		return false
	}
	ok, _ := path.Match(glob[0], p[0])
	return ok && matchGlob(glob[1:], p[1:])
}

// kustomization returns the kustomization file of a directory, nil if it has none.
func (d *discovery) kustomization(dir string) (file string, text []byte, err error) {
	for _, name := range kustomizationNames {
		file := path.Join(dir, name)
		e, err := d.tree.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("%w: %w", ErrTree, err)
		}
		if e.Kind != tree.File && e.Kind != tree.Symlink { // rendering a link gives the error
			continue
		}
		text, err := d.tree.ReadFile(file)
		if err != nil {
			return "", nil, fmt.Errorf("%w: %w", ErrTree, err)
		}
		if text == nil {
			text = []byte{}
		}
		return file, text, nil
	}
	return "", nil, nil
}

// skipBases skips the candidates that another candidate includes, directly or
// through other directories. Candidates that include each other are all kept: their
// renders will fail and say so, where skipping them would look like a removal.
func (d *discovery) skipBases(candidates []string) error {
	included := map[string]map[string]bool{}
	for _, c := range candidates {
		included[c] = map[string]bool{}
		if err := d.collect(c, included[c]); err != nil {
			return err
		}
	}
	for _, base := range candidates {
		for _, by := range slices.Sorted(slices.Values(candidates)) {
			if by != base && included[by][base] && !included[base][by] {
				d.skipped[base] = "a base of " + dot(by)
				break
			}
		}
	}
	return nil
}

func (d *discovery) collect(dir string, into map[string]bool) error {
	refs, known := d.references[dir]
	if !known {
		var err error
		if refs, err = d.referencesOf(dir); err != nil {
			return err
		}
		d.references[dir] = refs
	}
	for _, r := range refs {
		if into[r] {
			continue
		}
		into[r] = true
		if err := d.collect(r, into); err != nil {
			return err
		}
	}
	return nil
}

// referencesOf returns the directories that a kustomization includes. One that
// can't be parsed still keeps its bases from being taken for overlays: there,
// every word that leads to a directory counts.
func (d *discovery) referencesOf(dir string) ([]string, error) {
	_, text, err := d.kustomization(dir)
	if err != nil || text == nil {
		return nil, err
	}
	var names []string
	if k := kustomizationsOf.get(text); k.spec != nil {
		names = slices.Concat(k.spec.Resources, k.spec.Components)
	} else {
		names = strings.FieldsFunc(string(text), func(r rune) bool { return strings.ContainsRune(" \t\r\n\"',[]{}", r) })
	}
	var dirs []string
	for _, n := range names {
		p, ok := join(dir, n)
		if !ok || path.IsAbs(n) || p == dir {
			continue
		}
		e, err := d.tree.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTree, err)
		}
		if e.Kind == tree.Dir {
			dirs = append(dirs, p)
		}
	}
	return dirs, nil
}
