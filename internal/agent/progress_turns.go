package agent

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// turns lets one reconciler at a time work on an overlay: two of them record what they
// do in its status.
type turns struct {
	mu   sync.Mutex
	held map[types.NamespacedName]*turn
}

type turn struct {
	sync.Mutex
	users int // who holds it and who waits
	// then is called when the turn ends, for those who didn't wait.
	then []func()
}

// take waits for an overlay's turn and returns what ends it.
func (t *turns) take(name types.NamespacedName) (end func()) {
	t.mu.Lock()
	h := t.held[name]
	if h == nil {
		h = &turn{}
		t.held[name] = h
	}
	h.users++
	t.mu.Unlock()
	h.Lock()
	return func() { t.end(name, h) }
}

// try is take, unless somebody else has the turn: then it returns nil at once, and then
// is called when that one's turn ends. It must return at once.
func (t *turns) try(name types.NamespacedName, then func()) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.held[name]; h != nil {
		h.then = append(h.then, then)
		return nil
	}
	h := &turn{users: 1}
	h.Lock()
	t.held[name] = h
	return func() { t.end(name, h) }
}

func (t *turns) end(name types.NamespacedName, h *turn) {
	t.mu.Lock()
	if h.users--; h.users == 0 {
		delete(t.held, name)
	}
	asked := h.then
	h.then = nil
	t.mu.Unlock()
	h.Unlock()
	for _, ask := range asked {
		ask()
	}
}
