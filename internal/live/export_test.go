package live

// Kept returns all that is kept of live objects.
func (o *Objects) Kept() []any {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []any
	for _, w := range o.watches {
		w.store.mu.RLock()
		for _, k := range w.objects {
			all = append(all, k)
		}
		w.store.mu.RUnlock()
	}
	return all
}
