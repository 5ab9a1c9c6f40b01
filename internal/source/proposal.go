package source

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"capstan.dev/capstan/internal/tree"
)

// Proposal is what a pull request would make of the tracked ref.
type Proposal struct {
	// Head is the pull request's last commit. MergeBase is the commit where it left
	// the target's history: their best common ancestor, as git merge-base finds it.
	// Of several, as histories that cross have, it is the newest.
	Head, MergeBase string
	// Target is the commit that the pull request is laid over.
	Target Revision
	// Tree is Target's tree with the files changed between MergeBase and Head laid
	// over it; nil if there are Conflicts. It is readable as long as the mirror holds
	// the pull request's objects, which may be dropped when it is rebuilt for the
	// second time. Reading then fails with the reason ProposalLost, or MirrorCorrupt
	// for a file of the target.
	Tree tree.Tree
	// Changed holds the paths of files, links and submodules that differ between
	// MergeBase and Head, sorted. A file that is only made executable doesn't, a
	// renamed one is two paths.
	Changed []string
	// Conflicts holds those of Changed, sorted, that the target has changed too
	// since MergeBase, to different content, and those that would be files where the
	// target has a directory or the reverse: the pull request needs a rebase. Nothing
	// is merged inside of files. If there are several merge bases, paths in which they
	// differ are among them, unless Head and the target agree.
	Conflicts []string
}

// proposalRef matches the references by which Gitea, Forgejo and GitHub show pull
// requests.
var proposalRef = regexp.MustCompile(`^refs/pull/[1-9][0-9]{0,17}/head$`)

// Proposal fetches a pull request's head by its reference, refs/pull/<n>/head,
// and lays its changes over target, a Snapshot of this Mirror. That costs one
// ls-remote and, if the mirror doesn't have the head, one fetch of what the pull
// request adds to target's history. No reference is kept; the objects go when the
// mirror is rebuilt, and come again with the next Proposal.
//
// Several calls may run at once, also during a Sync, which they don't delay; they
// ask the server one after another. The limits of what a pull request may cost are
// its own, see [Limits].
//
// The reason of its error is RefNotFound if the server has no such pull request
// (any more), Unrelated if its history has nothing in common with target's,
// TooLarge, TreeInvalid or ProposalLost if it can't be taken as it is, or one of
// Sync's. The last good Snapshot stays as it is in every case: nothing that a pull
// request holds counts as a damage of the mirror.
func (m *Mirror) Proposal(ctx context.Context, ref string, target *Snapshot) (*Proposal, error) {
	if !proposalRef.MatchString(ref) {
		return nil, m.located(errorf(BadConfiguration, "reference %q is not of the form refs/pull/<number>/head", ref))
	}
	if target == nil || target.Tree == nil || !isHash(target.Revision.Hash) {
		return nil, m.located(errorf(BadConfiguration, "a pull request needs a snapshot to be laid over"))
	}
	ctx, leave, ok := m.flights.enter(ctx, m.life)
	if !ok {
		return nil, errClosed
	}
	defer leave()
	p, err := m.propose(ctx, ref, target)
	if m.life.Err() != nil {
		return nil, errClosed
	}
	return p, m.located(err)
}

func (m *Mirror) propose(ctx context.Context, ref string, target *Snapshot) (*Proposal, error) {
	if err := m.prepare(); err != nil {
		return nil, err
	}
	objects := proposalObjects{store: m.store, target: plumbing.NewHash(target.Revision.Hash)}
	if m.disk == nil {
		head, err := m.localHead(ref)
		if err != nil {
			return nil, err
		}
		return objects.propose(ctx, head, target, m.limits)
	}
	if !m.store.holdsAnywhere(objects.target) {
		return nil, errorf(ProposalLost, "commit %s, which the pull request is to be laid over, is not in the mirror any more; "+
			"take a newer one", objects.target)
	}
	head, fetched, err := m.obtain(ctx, ref, objects.target, false)
	if err != nil {
		return nil, err
	}
	p, err := objects.propose(ctx, head, target, m.limits)
	if ReasonOf(err) == ProposalLost && !fetched {
		// The mirror has the head, but not all below it any more.
		if head, _, err = m.obtain(ctx, ref, objects.target, true); err != nil {
			return nil, err
		}
		return objects.propose(ctx, head, target, m.limits)
	}
	return p, err
}

// localHead finds a pull request in a repository of the local file system.
func (m *Mirror) localHead(ref string) (plumbing.Hash, error) {
	repo, err := openLocal(m.loc.path)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	adv, err := repo.advertised()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	m.store.refresh()
	return adv.proposal(ref)
}

func (a advertised) proposal(ref string) (plumbing.Hash, error) {
	head, ok := a.refs[ref]
	if !ok {
		return plumbing.ZeroHash, errorf(RefNotFound, "reference %s not found: the pull request never was, or is gone with its branch", ref)
	}
	return head, nil
}

// obtain asks the server for a pull request's head and fetches it unless the
// mirror has it; again says to fetch even so.
func (m *Mirror) obtain(ctx context.Context, ref string, target plumbing.Hash, again bool) (head plumbing.Hash, fetched bool, err error) {
	select {
	case m.proposing <- struct{}{}:
		defer func() { <-m.proposing }()
	case <-ctx.Done():
		return plumbing.ZeroHash, false, ctx.Err()
	}
	c, err := m.dial(ctx)
	if err != nil {
		return plumbing.ZeroHash, false, err
	}
	defer c.close()
	if head, err = c.adv.proposal(ref); err != nil {
		return plumbing.ZeroHash, false, err
	}
	held, err := m.store.holds(head)
	if err != nil {
		m.store.setDamaged()
		return plumbing.ZeroHash, false, corruptf("the mirror can't be read: %s; it will be rebuilt", m.scrub.clean(err))
	}
	if held && !again {
		return head, false, nil
	}
	return head, true, m.fetchProposal(c, head, target)
}

// fetchProposal gets what a pull request adds to the target's history. The pack is
// received and checked aside, so that neither a slow server nor a large pack keeps
// a Sync waiting.
func (m *Mirror) fetchProposal(c *conversation, head, target plumbing.Hash) error {
	have := haves(m.store, target)
	if have == nil {
		have = haves(m.store, tracked(m.disk.mirror())) // the target was left behind by a rebuild
	}
	if have == nil && m.store.isDamaged() {
		return corruptf("the mirror is damaged; ask again after the next Sync, which rebuilds it") // all of the repository would come
	}
	var base plumbing.Hash // what the pack builds on
	if len(have) > 0 {
		base = have[0]
	}
	if err := os.MkdirAll(m.disk.incoming(), 0o700); err != nil {
		return diskError(err)
	}
	pack, err := m.receive(c, []plumbing.Hash{head}, have, m.disk.incoming(), m.limits.ProposalBytes)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(pack) }() // after install there is nothing to remove
	if err := weighPack(pack, m.limits.ProposalBytes); err != nil {
		return m.remoteError(c.parent, fetching, err)
	}
	indexed, err := prepareIndex(pack, m.disk.incoming())
	if err != nil {
		return m.remoteError(c.parent, fetching, err)
	}
	defer indexed.discard()
	added, err := m.store.add(base, func() error { return indexed.install(packDir(m.disk.mirror())) })
	if err != nil {
		return err
	}
	if !added {
		return errorf(ProposalLost, "the mirror was rebuilt while the pull request was fetched; ask again")
	}
	m.stats.objects.Add(indexed.objects)
	m.proposed.Store(true)
	return nil
}

// proposalObjects reads the objects of a pull request and of its target's
// history. Absence of the former says nothing about the mirror: it may have been
// rebuilt meanwhile, or never have had what an untrusted commit names.
type proposalObjects struct {
	store  *store
	target plumbing.Hash
}

func (o proposalObjects) propose(ctx context.Context, head plumbing.Hash, target *Snapshot, limits Limits) (*Proposal, error) {
	bases, err := newAncestry(o.commit).mergeBases(ctx, head, o.target)
	switch {
	case err != nil:
		return nil, err
	case len(bases) > maxMergeBases:
		return nil, errorf(TooLarge, "the pull request's history crosses that of its target more than %d times; rebase it", maxMergeBases)
	case len(bases) == 0:
		return nil, errorf(Unrelated, "the pull request's head %s has no commit in common with %s; "+
			"there is nothing to compare it with, so make it from the tracked branch", head, target.Revision)
	}
	base := bases[0].hash
	changes, err := o.changes(ctx, base, head, false, limits)
	if err != nil {
		return nil, err
	}
	p := &Proposal{Head: head.String(), MergeBase: base.String(), Target: target.Revision}
	for _, c := range changes {
		p.Changed = append(p.Changed, c.path)
	}
	take, conflicts, err := merge(changes, target.Tree)
	if err != nil {
		return nil, err
	}
	disputed, err := o.disputed(ctx, bases, changes, target.Tree, limits)
	if err != nil {
		return nil, err
	}
	if p.Conflicts = slices.Compact(slices.Sorted(slices.Values(append(conflicts, disputed...)))); len(p.Conflicts) > 0 {
		return p, nil
	}
	overlaid := map[string]tree.Change{}
	for _, c := range take {
		overlaid[c.path] = tree.Change{Entry: c.after, Read: func() ([]byte, error) { return o.blob(plumbing.NewHash(c.after.Hash)) }}
	}
	if p.Tree, err = tree.Overlay(target.Tree, overlaid); err != nil {
		return nil, fmt.Errorf("pull request %s over %s: %w", head, target.Revision, err)
	}
	return p, nil
}

// disputed returns paths in which several merge bases differ, and head and target do,
// too. Git merges such bases first, with all their conflicts, so what a merge makes of
// these paths can't be told from one of them: a head that crosses the target's history
// could otherwise take back what was merged before, and seem to change nothing.
func (o proposalObjects) disputed(ctx context.Context, bases []*commit, changes []pathChange, target tree.Tree, limits Limits) ([]string, error) {
	proposed := map[string]tree.Entry{}
	for _, c := range changes {
		proposed[c.path] = c.after
	}
	var paths []string
	for _, other := range bases[1:] {
		differ, err := o.changes(ctx, bases[0].hash, other.hash, true, limits)
		if err != nil {
			return nil, err
		}
		for _, d := range differ {
			head, changed := proposed[d.path]
			if !changed {
				head = d.before
			}
			now, err := stat(target, d.path)
			if err != nil {
				return nil, err
			}
			if !alike(leaf(now), head) {
				paths = append(paths, d.path)
			}
		}
	}
	return paths, nil
}

// changes returns the paths that differ between the merge base and the head,
// sorted. All files that the head has there are in the mirror. Trusted says that the
// head is of the target's history.
func (o proposalObjects) changes(ctx context.Context, base, head plumbing.Hash, trusted bool, limits Limits) ([]pathChange, error) {
	before, err := o.root(base, true)
	if err != nil {
		return nil, err
	}
	after, err := o.root(head, trusted)
	if err != nil || before == after {
		return nil, err
	}
	c := comparison{
		before: func(h plumbing.Hash, dir string) ([]tree.Entry, error) { return o.directory(h, dir, true) },
		after:  func(h plumbing.Hash, dir string) ([]tree.Entry, error) { return o.directory(h, dir, trusted) },
		limits: limits,
	}
	if err := c.trees(ctx, before, after, "", maxDepth); err != nil {
		return nil, err
	}
	slices.SortFunc(c.changes, func(a, b pathChange) int { return strings.Compare(a.path, b.path) })
	for _, change := range c.changes {
		if trusted || change.after.Kind != tree.File && change.after.Kind != tree.Symlink {
			continue
		}
		if err := o.has(plumbing.NewHash(change.after.Hash)); err != nil {
			return nil, err
		}
	}
	return c.changes, nil
}

func (o proposalObjects) commit(h plumbing.Hash, trusted bool) ([]byte, error) {
	return o.read(plumbing.CommitObject, h, trusted)
}

func (o proposalObjects) root(commit plumbing.Hash, trusted bool) (plumbing.Hash, error) {
	content, err := o.commit(commit, trusted)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	h, err := rootOf(content)
	return h, o.invalid(err, trusted)
}

func (o proposalObjects) directory(h plumbing.Hash, dir string, trusted bool) ([]tree.Entry, error) {
	content, err := o.read(plumbing.TreeObject, h, trusted)
	if err != nil {
		return nil, err
	}
	entries, err := parseTree(content, dir)
	if err == nil && !trusted && !isOrdinary(content) {
		err = errorf(TreeInvalid, "the pull request: directory %q is not written as Git writes it; commit it again with Git", dir)
	}
	return entries, o.invalid(err, trusted)
}

// invalid makes what would be a damage in a trusted history the fault of the pull
// request: its content has the hash that its author gave it.
func (o proposalObjects) invalid(err error, trusted bool) error {
	if ReasonOf(err) != MirrorCorrupt || trusted {
		return err
	}
	return errorf(TreeInvalid, "the pull request: %v", err)
}

func (o proposalObjects) blob(h plumbing.Hash) ([]byte, error) {
	if content, ok := o.store.blobs.get(h); ok {
		return content, nil
	}
	content, err := o.store.try(h, plumbing.BlobObject)
	if err != nil {
		return nil, err
	}
	o.store.blobs.put(h, content)
	return content, nil
}

func (o proposalObjects) has(h plumbing.Hash) error {
	return o.store.attempt(h, func(g *generation) error { return g.has(h) })
}

// read reads an object. A trusted one, of the target's history, is missed in
// earnest if the mirror holds the target itself.
func (o proposalObjects) read(typ plumbing.ObjectType, h plumbing.Hash, trusted bool) ([]byte, error) {
	content, err := o.store.try(h, typ)
	if !trusted || ReasonOf(err) != ProposalLost {
		return content, err
	}
	if held, damage := o.store.holds(o.target); damage == nil && !held {
		return nil, err
	}
	return o.store.read(typ, h)
}
