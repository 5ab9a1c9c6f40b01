package render

import (
	"crypto/sha256"
	"sync"
)

// memo remembers the results of a pure function of some bytes. Files of a base
// are read by every overlay that includes it; what is found out about them
// depends on nothing but their content. It is safe for concurrent use.
type memo[V any] struct {
	compute func(text string) V

	mu      sync.Mutex
	results map[[sha256.Size]byte]V
}

const (
	// memoEntries bounds a memo; beyond it, entries are dropped at random.
	memoEntries = 4096
	// memoBytes is the size of the largest text whose result is kept.
	memoBytes = 256 << 10
)

func newMemo[V any](compute func(string) V) *memo[V] {
	return &memo[V]{compute: compute, results: map[[sha256.Size]byte]V{}}
}

func (m *memo[V]) get(text []byte) V {
	if len(text) > memoBytes {
		return m.compute(string(text))
	}
	key := sha256.Sum256(text)
	m.mu.Lock()
	v, ok := m.results[key]
	m.mu.Unlock()
	if ok {
		return v
	}
	v = m.compute(string(text)) // twice at the same time does no harm
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.results) >= memoEntries {
		for k := range m.results {
			delete(m.results, k)
			break
		}
	}
	m.results[key] = v
	return v
}

// The only state shared by renders: results of pure functions, by content.
var (
	factsOf          = newMemo(gatherFacts)
	kustomizationsOf = newMemo(parseKustomization)
)
