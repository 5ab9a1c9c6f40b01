package live

// Kept returns all that is kept of live objects, with what is packed.
func (o *Objects) Kept() []any {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []any
	for _, w := range o.watches {
		w.store.mu.RLock()
		for _, k := range w.objects {
			all = append(all, []any{k, k.object()})
		}
		w.store.mu.RUnlock()
	}
	return all
}

// Count counts them.
func (o *Objects) Count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, w := range o.watches {
		w.store.mu.RLock()
		n += len(w.objects)
		w.store.mu.RUnlock()
	}
	return n
}
