package source

import (
	"context"
	"errors"

	"capstan.dev/capstan/internal/tree"
)

// Proposal is what a pull request would make of the tracked ref.
type Proposal struct {
	// Head is the pull request's last commit, MergeBase the commit where it left
	// the target's history.
	Head, MergeBase string
	// Target is the commit that the pull request is laid over.
	Target Revision
	// Tree is Target's tree with the files changed between MergeBase and Head laid
	// over it; nil if there are Conflicts.
	Tree tree.Tree
	// Changed holds the paths that differ between MergeBase and Head, sorted.
	Changed []string
	// Conflicts holds the paths, sorted, that both sides changed since MergeBase,
	// to different content: the pull request needs a rebase.
	Conflicts []string
}

// Proposal fetches a pull request's head by its reference, refs/pull/<n>/head,
// and lays its changes over target.
func (m *Mirror) Proposal(ctx context.Context, ref string, target *Snapshot) (*Proposal, error) {
	return nil, errors.New("not implemented yet")
}
