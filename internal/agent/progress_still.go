package agent

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// still remembers since when the states of overlays' objects without observedGeneration are as
// they are. A restart forgets it.
type still struct {
	mu   sync.Mutex
	seen map[types.NamespacedName]sameState
}

type sameState struct {
	state string
	since time.Time
}

// since is when a state was seen first, of those that it was seen in ever since; a state of
// "" is forgotten.
func (s *still) since(name types.NamespacedName, state string, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == "" {
		delete(s.seen, name)
		return time.Time{}
	}
	if s.seen[name].state != state {
		s.seen[name] = sameState{state, now}
	}
	return s.seen[name].since
}
