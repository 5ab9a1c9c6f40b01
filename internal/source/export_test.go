package source

import (
	"runtime"

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
