package source

import (
	"runtime"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"capstan.dev/capstan/internal/tree"
)

// AwaitWaiting returns when this many callers wait for the Sync that follows the
// running one.
func AwaitWaiting(m *Mirror, n int) {
	for {
		m.flights.mu.Lock()
		waiting := 0
		if m.flights.next != nil {
			waiting = m.flights.next.waiting
		}
		m.flights.mu.Unlock()
		if waiting >= n {
			return
		}
		runtime.Gosched()
	}
}

// SharedNodes counts the directories two snapshots have in common in memory.
func SharedNodes(a, b *Snapshot) int {
	in := map[*node]bool{}
	var walk func(n *node, visit func(*node))
	walk = func(n *node, visit func(*node)) {
		visit(n)
		for i, e := range n.entries {
			if e.Kind == tree.Dir {
				walk(n.children[i], visit)
			}
		}
	}
	walk(a.Tree.(*commitTree).root, func(n *node) { in[n] = true })
	shared := 0
	walk(b.Tree.(*commitTree).root, func(n *node) {
		if in[n] {
			shared++
		}
	})
	return shared
}

// MergeBases returns the best common ancestors of two commits in a repository that
// was synced, the one to choose first.
func MergeBases(t testing.TB, m *Mirror, one, two string) []string {
	t.Helper()
	objects := proposalObjects{store: m.store, target: plumbing.NewHash(two)}
	best, err := newAncestry(objects.commit).mergeBases(t.Context(), plumbing.NewHash(one), plumbing.NewHash(two))
	if err != nil {
		t.Fatal(err)
	}
	var hashes []string
	for _, c := range best {
		hashes = append(hashes, c.hash.String())
	}
	return hashes
}

// IsDamaged reports whether the next Sync rebuilds the mirror.
func IsDamaged(m *Mirror) bool { return m.store.isDamaged() }
