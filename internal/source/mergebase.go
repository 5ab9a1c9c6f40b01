package source

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"slices"
	"strconv"

	"github.com/go-git/go-git/v5/plumbing"
)

// ancestry finds the commits in which two histories meet. It serves one search.
type ancestry struct {
	// read returns the content of a commit. Trusted says that it is known to belong
	// to the second history.
	read    func(h plumbing.Hash, trusted bool) ([]byte, error)
	commits map[plumbing.Hash]*commit
	left    int  // visits of commits that are left, against histories made to be long
	shared  bool // only common ancestors are visited from now on
}

func newAncestry(read func(h plumbing.Hash, trusted bool) ([]byte, error)) *ancestry {
	return &ancestry{read: read, commits: map[plumbing.Hash]*commit{}, left: maxAncestors}
}

// commit is the part of a commit that a search goes by.
type commit struct {
	hash    plumbing.Hash
	parents []plumbing.Hash
	date    int64 // of the committer, in seconds; only the order of the search depends on it
}

// side is a set of histories. The first and second are those of the search.
type side uint8

const (
	first side = 1 << iota
	second
	// stale is what common ancestors share with all commits below them: nothing
	// better is found there.
	stale

	both = first | second
)

// mergeBases returns the best common ancestors of two commits: those that are no
// ancestors of another common one, as git merge-base does. Histories that cross can
// have several. The newest comes first, by the date of the commit, and of those of
// the same second the one with the lowest hash.
func (a *ancestry) mergeBases(ctx context.Context, one, two plumbing.Hash) ([]*commit, error) {
	p, err := a.paint(ctx, one, []plumbing.Hash{two})
	if err != nil {
		return nil, err
	}
	common := p.common()
	a.shared = true
	// Dates that run backwards let the search meet a common commit before a better
	// one. What is reached from another candidate goes.
	worse := map[plumbing.Hash]bool{}
	for _, c := range common {
		var others []plumbing.Hash
		for _, o := range common {
			if o != c && !worse[o.hash] {
				others = append(others, o.hash)
			}
		}
		if worse[c.hash] || len(others) == 0 {
			continue
		}
		if p, err = a.paint(ctx, c.hash, others); err != nil {
			return nil, err
		}
		worse[c.hash] = p.sides[c.hash]&second != 0
		for _, o := range others {
			worse[o] = p.sides[o]&first != 0
		}
	}
	common = slices.DeleteFunc(common, func(c *commit) bool { return worse[c.hash] })
	slices.SortFunc(common, newestFirst)
	return common, nil
}

func newestFirst(a, b *commit) int {
	return cmp.Or(cmp.Compare(b.date, a.date), bytes.Compare(a.hash[:], b.hash[:]))
}

// painting colours the commits that are reached from each side, the newest first,
// until only ancestors of common commits are left to visit. Git calls it so too.
type painting struct {
	sides map[plumbing.Hash]side
	found []*commit // reached from both sides

	queue  commitQueue
	queued map[plumbing.Hash]bool
	fresh  int // commits in the queue that aren't stale
}

func (a *ancestry) paint(ctx context.Context, one plumbing.Hash, others []plumbing.Hash) (*painting, error) {
	p := &painting{sides: map[plumbing.Hash]side{}, queued: map[plumbing.Hash]bool{}}
	if err := a.visit(p, one, first); err != nil {
		return nil, err
	}
	for _, h := range others {
		if err := a.visit(p, h, second); err != nil {
			return nil, err
		}
	}
	for p.fresh > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c := heap.Pop(&p.queue).(*commit)
		delete(p.queued, c.hash)
		s := p.sides[c.hash]
		if s&stale == 0 {
			p.fresh--
		}
		if s&(both|stale) == both {
			p.found = append(p.found, c)
			s |= stale
		}
		for _, parent := range c.parents {
			if err := a.visit(p, parent, s); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// visit adds sides to a commit and, if that is news, has its parents visited.
func (a *ancestry) visit(p *painting, h plumbing.Hash, s side) error {
	had := p.sides[h]
	now := had | s
	if had == now {
		return nil
	}
	if a.left--; a.left < 0 {
		return errorf(TooLarge, "the pull request's history meets that of its target only after more than %d commits, "+
			"or never; rebase it", maxAncestors)
	}
	c, err := a.commit(h, a.shared || now&second != 0)
	if err != nil {
		return err
	}
	p.sides[h] = now
	switch {
	case !p.queued[h]:
		p.queued[h] = true
		heap.Push(&p.queue, c)
		if now&stale == 0 {
			p.fresh++
		}
	case had&stale == 0 && now&stale != 0:
		p.fresh--
	}
	return nil
}

// common returns the candidates for best common ancestors: those found that
// didn't turn out to be ancestors of others later.
func (p *painting) common() []*commit {
	return slices.DeleteFunc(slices.Clone(p.found), func(c *commit) bool { return p.sides[c.hash]&stale != 0 })
}

func (a *ancestry) commit(h plumbing.Hash, trusted bool) (*commit, error) {
	if c, ok := a.commits[h]; ok {
		return c, nil
	}
	content, err := a.read(h, trusted)
	if err != nil {
		return nil, err
	}
	c := &commit{hash: h, parents: parents(content), date: committed(content)}
	a.commits[h] = c
	return c, nil
}

// committed returns the date of a commit, from its content; 0 if there is none
// that can be read.
func committed(content []byte) int64 {
	for line := range bytes.Lines(content) {
		if len(bytes.TrimSpace(line)) == 0 {
			break
		}
		who, ok := bytes.CutPrefix(line, []byte("committer "))
		if !ok {
			continue
		}
		fields := bytes.Fields(who[bytes.LastIndexByte(who, '>')+1:])
		if len(fields) == 0 {
			break
		}
		date, err := strconv.ParseInt(string(fields[0]), 10, 64)
		if err != nil {
			break
		}
		return date
	}
	return 0
}

// commitQueue is a heap of commits, the newest first.
type commitQueue []*commit

func (q commitQueue) Len() int           { return len(q) }
func (q commitQueue) Less(i, j int) bool { return newestFirst(q[i], q[j]) < 0 }
func (q commitQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push implements [heap.Interface].
func (q *commitQueue) Push(c any) { *q = append(*q, c.(*commit)) }

// Pop implements [heap.Interface].
func (q *commitQueue) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	*q = (*q)[:last]
	return c
}
