package live

import (
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// store has what a watch has delivered. A reflector writes it, one call after the other;
// it is read by anybody. An informer of client-go would do the same with a queue before
// it, so that what has been delivered and what can be read are two things, and with an
// index of strings that takes more memory than what it leads to.
type store struct {
	// told is told of each change once it can be read: was is nil for what came, now is nil
	// for what went.
	told func(was, now *kept)
	// listed is called once everything has been listed for the first time.
	listed func()

	mu        sync.RWMutex
	objects   map[types.NamespacedName]*kept
	ofCluster map[types.NamespacedName][]*kept
	complete  bool
	version   string
}

func newStore(told func(was, now *kept), listed func()) *store {
	return &store{
		told: told, listed: listed,
		objects: map[types.NamespacedName]*kept{}, ofCluster: map[types.NamespacedName][]*kept{},
	}
}

// Add is called for an object that came.
func (s *store) Add(o any) error { return s.put(o) }

// Update is called for one that changed.
func (s *store) Update(o any) error { return s.put(o) }

func (s *store) put(o any) error {
	now, ok := o.(*kept)
	if !ok {
		return fmt.Errorf("a %T was delivered", o)
	}
	s.mu.Lock()
	was := s.objects[now.key]
	s.set(was, now)
	s.version = now.version
	s.mu.Unlock()
	s.tell(was, now)
	return nil
}

// Delete is called for one that went, or that the selector matches no longer.
func (s *store) Delete(o any) error {
	gone, ok := o.(*kept)
	if !ok {
		return fmt.Errorf("a %T was delivered", o)
	}
	s.mu.Lock()
	was := s.objects[gone.key]
	s.set(was, nil)
	s.version = gone.version
	s.mu.Unlock()
	s.tell(was, nil)
	return nil
}

// Replace is called with everything there is.
func (s *store) Replace(list []any, version string) error {
	type change struct{ was, now *kept }
	var changes []change
	s.mu.Lock()
	there := make(map[types.NamespacedName]bool, len(list))
	for _, o := range list {
		now, ok := o.(*kept)
		if !ok {
			s.mu.Unlock()
			return fmt.Errorf("a %T was listed", o)
		}
		there[now.key] = true
		was := s.objects[now.key]
		s.set(was, now)
		changes = append(changes, change{was, now})
	}
	for key, was := range s.objects {
		if !there[key] {
			s.set(was, nil)
			changes = append(changes, change{was, nil})
		}
	}
	first := !s.complete
	s.complete, s.version = true, version
	s.mu.Unlock()
	for _, c := range changes {
		s.tell(c.was, c.now)
	}
	if first {
		s.listed()
	}
	return nil
}

// Resync has nothing to do: nobody keeps a state that could differ.
func (s *store) Resync() error { return nil }

// UpdateResourceVersion is called with what the watch has delivered, which may be that
// nothing of ours happened up to a version.
func (s *store) UpdateResourceVersion(version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version = version
}

// set puts one object in another's place; either may be nil.
func (s *store) set(was, now *kept) {
	if was != nil {
		delete(s.objects, was.key)
		if was.cluster != "" {
			of := types.NamespacedName{Namespace: was.key.Namespace, Name: was.cluster}
			s.ofCluster[of] = slices.DeleteFunc(s.ofCluster[of], func(k *kept) bool { return k == was })
			if len(s.ofCluster[of]) == 0 {
				delete(s.ofCluster, of)
			}
		}
	}
	if now != nil {
		s.objects[now.key] = now
		if now.cluster != "" {
			of := types.NamespacedName{Namespace: now.key.Namespace, Name: now.cluster}
			s.ofCluster[of] = append(s.ofCluster[of], now)
		}
	}
}

// tell passes a change on, unless it is none.
func (s *store) tell(was, now *kept) {
	if was == nil && now == nil || was != nil && now != nil && was.uid == now.uid && was.version == now.version {
		return
	}
	s.told(was, now)
}

// get returns an object, nil if it isn't there; whether everything has been listed; and
// how far what is there reaches.
func (s *store) get(key types.NamespacedName) (k *kept, complete bool, version string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.objects[key], s.complete, s.version
}

// made returns what was made for a Cluster.
func (s *store) made(cluster types.NamespacedName) []*kept {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.ofCluster[cluster])
}

func (s *store) synced() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.complete
}
