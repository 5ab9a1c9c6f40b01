package source

import (
	"context"
	"errors"
	"os"
)

// sync is one Sync. It runs alone.
func (m *Mirror) sync(ctx context.Context) (*Snapshot, error) {
	snapshot, err := m.syncOnce(ctx)
	if m.life.Err() != nil {
		return nil, errClosed
	}
	if err != nil {
		return nil, m.located(err)
	}
	now := m.clock.Now()
	m.stats.lastSync.Store(&now)
	return snapshot, nil
}

func (m *Mirror) syncOnce(ctx context.Context) (*Snapshot, error) {
	if err := m.prepare(); err != nil {
		return nil, err
	}
	if m.disk == nil {
		return m.syncLocal(ctx)
	}
	damaged := m.store.isDamaged() || !isMirror(m.disk.mirror()) // or somebody emptied the cache
	if m.ref.Commit != "" && m.held.snapshot != nil && !damaged {
		m.compactProposals(ctx)
		return m.held.snapshot, nil // a commit doesn't change; there is nothing to ask
	}
	c, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	t, err := resolve(m.ref, c.adv)
	if err != nil {
		return nil, err
	}
	if !damaged && m.isHeld(t) {
		m.compactProposals(ctx)
		return m.hold(t, m.held.snapshot), nil
	}
	held, broken := m.store.holds(t.want)
	rebuilt := damaged || broken != nil
	if rebuilt {
		m.log.Info("mirror is damaged, rebuilding it")
		err = m.rebuild(c, t)
	} else if !held {
		err = m.fetch(c, t, m.disk.mirror(), haves(m.store, tracked(m.disk.mirror())))
	}
	if err != nil {
		return nil, err
	}
	snapshot, err := m.load(ctx, t)
	if ReasonOf(err) == MirrorCorrupt && !rebuilt {
		m.log.Info("mirror is damaged, rebuilding it", "damage", err.Error())
		if snapshot, err = m.reload(ctx); err != nil {
			return nil, err
		}
		return snapshot, nil
	}
	if err != nil {
		return nil, err
	}
	if err := setTracked(m.disk.mirror(), t.want); err != nil {
		return nil, err
	}
	m.compact(ctx)
	return m.hold(t, snapshot), nil
}

// reload rebuilds the mirror over a new connection, because one over SSH serves a
// single fetch, and loads what the Ref stands for by then.
func (m *Mirror) reload(ctx context.Context) (*Snapshot, error) {
	t, err := m.renew(ctx)
	if err != nil {
		return nil, err
	}
	snapshot, err := m.load(ctx, t)
	if err != nil {
		return nil, err
	}
	return m.hold(t, snapshot), nil
}

// compact rebuilds a mirror in which packs have piled up. Its failure isn't the
// Sync's: the mirror is sound, and the next fetch tries again.
func (m *Mirror) compact(ctx context.Context) {
	n, err := countPacks(m.disk.mirror())
	if err == nil && n <= m.limits.Packs {
		return
	}
	if err == nil {
		m.log.Info("packs have piled up, rebuilding the mirror", "packs", n)
		_, err = m.renew(ctx)
	}
	if err != nil {
		m.log.Info("mirror could not be rebuilt, keeping it", "reason", err.Error())
	}
}

// compactProposals is compact for a Sync that fetched nothing: packs of pull
// requests may have come meanwhile.
func (m *Mirror) compactProposals(ctx context.Context) {
	if m.proposed.Swap(false) {
		m.compact(ctx)
	}
}

// renew dials, resolves and rebuilds.
func (m *Mirror) renew(ctx context.Context) (target, error) {
	c, err := m.dial(ctx)
	if err != nil {
		return target{}, err
	}
	defer c.close()
	t, err := resolve(m.ref, c.adv)
	if err != nil {
		return target{}, err
	}
	return t, m.rebuild(c, t)
}

// rebuild fetches everything into a new folder beside the mirror and swaps the
// two. A failure, or a crash, leaves the mirror as it was.
func (m *Mirror) rebuild(c *conversation, t target) error {
	m.stats.rebuilds.Add(1)
	if err := initMirror(m.disk.rebuilt()); err != nil {
		return err
	}
	err := m.fetch(c, t, m.disk.rebuilt(), nil)
	if err == nil {
		err = setTracked(m.disk.rebuilt(), t.want)
	}
	if err == nil {
		err = m.store.swap(m.disk.swap, folderFS(m.disk.mirror()), folderFS(m.disk.previous()))
	}
	if err != nil {
		return errors.Join(err, diskError(os.RemoveAll(m.disk.rebuilt())))
	}
	return nil
}

func (m *Mirror) load(ctx context.Context, t target) (*Snapshot, error) {
	commit, err := m.store.peel(t.want)
	if err != nil {
		return nil, err
	}
	t.commit = commit
	return m.loader.load(ctx, t.revision())
}

func (m *Mirror) isHeld(t target) bool { return m.held.snapshot != nil && m.held.want == t.want }

// hold remembers a snapshot as that of a target. A tag may have been renamed
// without its commit changing; the caller is given the new name then.
func (m *Mirror) hold(t target, s *Snapshot) *Snapshot {
	if s.Revision.Ref != t.ref {
		renamed := *s
		renamed.Revision.Ref = t.ref
		s = &renamed
	}
	m.held = heldSnapshot{want: t.want, snapshot: s}
	return s
}

// syncLocal reads a repository of the local file system in place.
func (m *Mirror) syncLocal(ctx context.Context) (*Snapshot, error) {
	repo, err := openLocal(m.loc.path)
	if err != nil {
		return nil, err
	}
	adv, err := repo.advertised()
	if err != nil {
		return nil, err
	}
	t, err := resolve(m.ref, adv)
	if err != nil {
		return nil, err
	}
	if m.isHeld(t) && !m.store.isDamaged() {
		return m.hold(t, m.held.snapshot), nil
	}
	m.store.use(repo.fs)
	if held, err := m.store.holds(t.want); !t.listed && err == nil && !held {
		return nil, errorf(RefNotFound, "commit %s is not in the repository", t.want)
	}
	snapshot, err := m.load(ctx, t)
	if err != nil {
		return nil, err
	}
	return m.hold(t, snapshot), nil
}
