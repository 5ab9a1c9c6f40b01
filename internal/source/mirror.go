package source

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
)

// Mirror follows one Ref of one repository. It is safe for concurrent use.
type Mirror struct {
	loc     location
	ref     Ref
	timeout time.Duration
	limits  Limits
	clock   clock.PassiveClock
	log     logr.Logger
	scrub   scrubber

	remote remote // nil for a local repository
	disk   *disk  // nil for a local repository
	store  *store
	loader loader

	life    context.Context // ends with Close
	endLife context.CancelFunc
	flights flights
	stats   counters

	readyMu sync.Mutex // guards ready and closed; not held during network operations
	ready   bool
	closed  bool

	// held is the result of the last Sync that succeeded. Only the running Sync
	// uses it, and there is one at a time.
	held heldSnapshot

	proposing chan struct{} // filled by the Proposal that talks to the server
	proposed  atomic.Bool   // a pull request's pack was added since packs were last counted for it
}

type heldSnapshot struct {
	want     plumbing.Hash // what the server was asked for
	snapshot *Snapshot     // nil before the first
}

// Stats counts what a Mirror did since it was opened.
type Stats struct {
	// LsRemotes is how often a server was asked for its references.
	LsRemotes int64
	// Fetches is how often a pack was asked for, rebuilds and pull requests included.
	Fetches int64
	// Rebuilds is how often the mirror was fetched anew as a whole.
	Rebuilds int64
	// ObjectsReceived is the number of objects in the packs received.
	ObjectsReceived int64
	// BytesReceived is what servers sent, without headers of HTTP and TLS.
	BytesReceived int64
	// LastSync is when the last successful Sync ended; zero before the first.
	LastSync time.Time
}

type counters struct {
	lsRemotes, fetches, rebuilds, objects, bytes atomic.Int64
	lastSync                                     atomic.Pointer[time.Time]
}

// Open checks the options and returns a Mirror. It touches neither the network
// nor the disk; the folder is created, and locked, by the first Sync or At.
func Open(opts Options) (*Mirror, error) {
	opts.setDefaults()
	loc, err := parseURL(opts.URL)
	if err != nil {
		return nil, err
	}
	m := &Mirror{
		loc: loc, ref: opts.Ref, timeout: opts.Timeout, limits: opts.Limits, clock: opts.Clock,
		log: opts.Log.WithValues("repository", loc.display), scrub: newScrubber(append(opts.Auth.secrets(), loc.secrets()...)...),
	}
	if err := m.open(opts); err != nil {
		return nil, m.located(err)
	}
	m.loader = loader{store: m.store, forest: newForest(), limits: m.limits}
	m.life, m.endLife = context.WithCancel(context.Background())
	m.flights.work = m.sync
	m.proposing = make(chan struct{}, 1)
	return m, nil
}

func (m *Mirror) open(opts Options) error {
	if err := m.ref.validate(); err != nil {
		return err
	}
	if opts.Timeout < 0 {
		return errorf(BadConfiguration, "the timeout must be positive")
	}
	if m.loc.scheme == schemeLocal {
		if !opts.AllowLocal {
			return errorf(LocalNotAllowed, "reading repositories of the local file system is not allowed; --allow-local permits it")
		}
		m.store = newStore(m.loc.display, "check the repository with git fsck", m.limits)
		return nil
	}
	if opts.Dir == "" {
		return errorf(BadConfiguration, "no folder for mirrors is set")
	}
	if err := opts.Auth.validate(m.loc); err != nil {
		return err
	}
	folder, err := mirrorFolder(opts.Dir, m.loc, m.ref)
	if err != nil {
		return err
	}
	m.disk = &disk{root: filepath.Clean(folder)}
	m.store = newStore(m.loc.display, "the mirror will be rebuilt", m.limits)
	received := func(n int) { m.stats.bytes.Add(int64(n)) }
	if m.loc.scheme == schemeSSH {
		m.remote, err = newSSHRemote(m.loc, opts.Auth, m.limits, received)
		return err
	}
	m.remote = newHTTPRemote(m.loc, opts.Auth, m.limits, received)
	return nil
}

// Sync brings the mirror up to date and returns the tree of the tracked commit.
// If nothing changed, that costs one ls-remote and returns the Snapshot of
// before. It fetches only what is new.
//
// Concurrent callers share work: those that come while a Sync runs share the one
// that follows it, because the running one may have asked the server before the
// change that they were told of. The work goes on until its last caller has gone.
//
// Errors are [Error]s, the context's, or say that the Mirror is closed. After an
// error the Snapshot returned before stays readable.
func (m *Mirror) Sync(ctx context.Context) (*Snapshot, error) {
	return m.flights.join(ctx, m.life)
}

// At returns the tree of any commit that the mirror has, without asking a server.
// Several calls may run at once, also during a Sync. The reason of its error is
// RefNotFound if the mirror doesn't have the commit.
func (m *Mirror) At(ctx context.Context, hash string) (*Snapshot, error) {
	if !isHash(hash) {
		return nil, m.located(errorf(BadConfiguration, "%q is not a full commit hash", hash))
	}
	if err := m.prepare(); err != nil {
		return nil, m.located(err)
	}
	if !m.store.holdsAnywhere(plumbing.NewHash(hash)) {
		m.store.refresh()
		if !m.store.holdsAnywhere(plumbing.NewHash(hash)) {
			return nil, m.located(errorf(RefNotFound, "commit %s is not in the mirror", hash))
		}
	}
	snapshot, err := m.loader.load(ctx, Revision{Hash: hash})
	return snapshot, m.located(err)
}

// Stats returns the counters.
func (m *Mirror) Stats() Stats {
	s := Stats{
		LsRemotes: m.stats.lsRemotes.Load(), Fetches: m.stats.fetches.Load(), Rebuilds: m.stats.rebuilds.Load(),
		ObjectsReceived: m.stats.objects.Load(), BytesReceived: m.stats.bytes.Load(),
	}
	if t := m.stats.lastSync.Load(); t != nil {
		s.LastSync = *t
	}
	return s
}

// Close ends a running Sync and Proposals, waits for them and frees the folder. Contents that
// aren't cached can't be read from snapshots any more. The mirror stays on disk.
func (m *Mirror) Close() error {
	m.endLife()
	m.flights.wait()
	m.readyMu.Lock()
	defer m.readyMu.Unlock()
	m.closed = true
	m.store.close()
	if m.remote != nil {
		m.remote.close()
	}
	if m.disk != nil {
		m.disk.unlock()
	}
	return nil
}

// prepare makes the store readable, once.
func (m *Mirror) prepare() error {
	m.readyMu.Lock()
	defer m.readyMu.Unlock()
	switch {
	case m.closed:
		return errClosed
	case m.ready:
		return nil
	case m.disk == nil:
		repo, err := openLocal(m.loc.path)
		if err != nil {
			return err
		}
		m.store.use(repo.fs)
	default:
		if err := m.disk.prepare(); err != nil {
			return err
		}
		m.store.use(folderFS(m.disk.mirror()))
	}
	m.ready = true
	return nil
}

// located adds the repository to an error that doesn't name one.
func (m *Mirror) located(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.URL == "" {
		c := *e
		c.URL = m.loc.display
		return &c
	}
	return err
}
