package agent

import (
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/types"
)

// maxPaths is how many changed files are looked up; a change of more is looked at.
const maxPaths = 200

// current returns the published view of a fleet if that is of the commit that the
// tracked ref named last; nil if there is none, or that commit can't be looked at.
func (b *board) current(fleet types.NamespacedName) *view {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.fleets[fleet]; f != nil && f.view != nil && f.view.revision.Hash == f.tip {
		return f.view
	}
	return nil
}

// concerns reports whether changes of files may change what a fleet renders from the
// commit of a view: whether an overlay has asked about one of them, or there may be
// other overlays then. When in doubt it says so. It is the same question that publish
// asks of a tree, asked without one.
func (b *board) concerns(fleet types.NamespacedName, v *view, paths []string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fleets[fleet]
	if f == nil || f.view == nil || f.view != v || v.unfollowed || len(paths) > maxPaths {
		return true
	}
	if failing, unsettled := f.unsettled(); len(failing)+len(unsettled) > 0 {
		return true
	}
	return slices.ContainsFunc(paths, func(p string) bool {
		if disfigured(p) || v.search.Concerns(p) {
			return true
		}
		for path := range v.paths {
			if f.renderings[path].closure.Mentions(p) {
				return true
			}
		}
		return false
	})
}

// disfigured reports whether a path from a webhook may be another one in Git: names
// that are no valid text don't survive JSON, and Git quotes some.
func disfigured(p string) bool {
	return strings.ContainsAny(p, `"\`) || strings.ContainsRune(p, utf8.RuneError)
}
