package render

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"capstan.dev/capstan/internal/tree"
)

// Closure is every question that a render asked of the tree, with the answer.
// Another tree that answers all of them alike renders the overlay to the same
// objects. The zero Closure asked nothing.
type Closure struct{ answers map[string]answer }

// answer is what is known about one path.
type answer struct {
	// kind is what the path is; "" if it is absent.
	kind tree.Kind
	// content is the Git hash of a file or link whose content mattered.
	content string
	// listing is a digest of the names in a directory whose listing mattered.
	listing string
}

func (a answer) String() string {
	return fmt.Sprintf("%s content=%s listing=%s", a.kind, a.content, a.listing)
}

// Paths returns the paths that were read or looked for, sorted.
func (c Closure) Paths() []string { return slices.Sorted(maps.Keys(c.answers)) }

// Digest returns a digest of questions and answers, whatever their order was.
func (c Closure) Digest() string {
	h := sha256.New()
	for _, p := range c.Paths() {
		fmt.Fprintf(h, "%q %s\n", p, c.answers[p])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Unchanged reports whether another tree gives the same answers. An error means
// that this could not be found out; it is never to be taken for a change.
func (c Closure) Unchanged(t tree.Tree) (bool, error) {
	for p, then := range c.answers {
		now, err := ask(t, p, then.content != "", then.listing != "")
		if err != nil {
			return false, err
		}
		if now != then {
			return false, nil
		}
	}
	return true, nil
}

// Mentions reports whether a change at a path may change one of the answers: a file or
// link that is added, modified or removed there. It is asked without a tree to look at,
// so when in doubt it says so.
func (c Closure) Mentions(p string) bool {
	p, ok := tree.Clean(p)
	if !ok || p == "" {
		return true
	}
	if _, asked := c.answers[p]; asked {
		return true
	}
	for dir := p; dir != ""; {
		dir = dirOf(dir)
		a, asked := c.answers[dir]
		switch {
		case !asked:
		case a.kind != tree.Dir, a.listing != "":
			return true // it may become a directory, or its listing another one
		case dir != "" && !c.knowsWithin(dir):
			return true // what changes may be the last file in it
		}
	}
	return false
}

// knowsWithin reports whether something is known to be in a directory, which then stays
// one whatever happens to others in it.
func (c Closure) knowsWithin(dir string) bool {
	for p, a := range c.answers {
		if a.kind == tree.File && strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}

// ask puts one question to a tree.
func ask(t tree.Tree, p string, content, listing bool) (answer, error) {
	e, err := t.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return answer{}, nil
	}
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrTree, err)
	}
	a := answer{kind: e.Kind}
	if (content && e.Kind == tree.File) || e.Kind == tree.Symlink {
		a.content = e.Hash
		if a.content == "" {
			b, err := t.ReadFile(p)
			if err != nil {
				return answer{}, fmt.Errorf("%w: %w", ErrTree, err)
			}
			a.content = tree.BlobHash(b)
		}
	}
	if listing && e.Kind == tree.Dir {
		entries, err := t.ReadDir(p)
		if err != nil {
			return answer{}, fmt.Errorf("%w: %w", ErrTree, err)
		}
		a.listing = listingDigest(entries)
	}
	return a, nil
}

func listingDigest(entries []tree.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s %q\n", e.Kind, e.Name)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:8])
}
