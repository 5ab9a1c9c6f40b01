package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// conversation is a session with a server that has said what it has. It serves at
// most one fetch, which asks for nothing a second time.
type conversation struct {
	ctx     context.Context // ends when the server is silent or slow
	parent  context.Context // the caller's, to dial again
	stop    func()
	session transport.UploadPackSession
	caps    *capability.List
	adv     advertised
}

// dial connects and lists the references: an ls-remote.
func (m *Mirror) dial(parent context.Context) (_ *conversation, err error) {
	ctx, stop := withWatch(parent, m.timeout)
	c := &conversation{ctx: ctx, parent: parent, stop: stop}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	const doing = "listing references"
	m.stats.lsRemotes.Add(1)
	if c.session, err = m.remote.session(ctx); err != nil {
		return nil, m.remoteError(ctx, doing, err)
	}
	refs, err := c.session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return nil, m.remoteError(ctx, doing, err)
	}
	c.caps = refs.Capabilities
	c.adv = advertised{refs: refs.References, peeled: refs.Peeled}
	if refs.Head != nil {
		c.adv.head = *refs.Head
	}
	return c, nil
}

func (c *conversation) close() {
	c.stop()
	if c.session != nil {
		_ = c.session.Close() // the connection is given up either way
	}
}

// fetch gets a target into a mirror that has the given commits. A commit that no
// reference names is looked for on all branches if the server doesn't hand out
// commits by hash.
func (m *Mirror) fetch(c *conversation, t target, mirror string, have []plumbing.Hash) error {
	if t.listed {
		return m.fetchPack(c, []plumbing.Hash{t.want}, mirror, have)
	}
	if c.caps.Supports(capability.AllowReachableSHA1InWant) || c.caps.Supports(capability.AllowTipSHA1InWant) {
		err := m.fetchPack(c, []plumbing.Hash{t.want}, mirror, have)
		if err == nil || c.parent.Err() != nil || ReasonOf(err) != ServerUnavailable {
			return err
		}
		// The server promised and refused: it hands out tips only, or not this one.
		if c, err = m.dial(c.parent); err != nil {
			return err
		}
		defer c.close()
	}
	var wants []plumbing.Hash
	for name, h := range c.adv.refs {
		if strings.HasPrefix(name, "refs/heads/") {
			wants = append(wants, h)
		}
	}
	if len(wants) > 0 {
		if err := m.fetchPack(c, wants, mirror, have); err != nil {
			return err
		}
	}
	found := newStore(m.loc.display, "", m.limits)
	found.use(folderFS(mirror))
	defer found.close()
	if held, err := found.holds(t.want); err == nil && !held { // a damage shows when the tree is loaded
		return errorf(RefNotFound, "commit %s is on no branch of the repository, and the server doesn't hand it out by hash", t.want)
	}
	return nil
}

// fetchPack asks for objects and adds them to a mirror as one pack. A failure, or
// a crash, adds nothing.
func (m *Mirror) fetchPack(c *conversation, wants []plumbing.Hash, mirror string, have []plumbing.Hash) error {
	name, err := m.receive(c, wants, have, packDir(mirror), m.limits.PackBytes)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(name) }() // after installPack there is nothing to remove
	objects, err := installPack(name, packDir(mirror))
	if err != nil {
		return m.remoteError(c.parent, fetching, err)
	}
	m.stats.objects.Add(objects)
	m.store.refresh()
	return nil
}

// fetching is what errors say of a fetch.
const fetching = "fetching"

// receive asks for objects and saves the pack, unchecked, to a temporary file in a
// folder, which the caller removes. A failure, but not a crash, leaves none.
func (m *Mirror) receive(c *conversation, wants, have []plumbing.Hash, dir string, limit int64) (name string, err error) {
	m.stats.fetches.Add(1)
	// No shallow, no filter, no thin packs and no tags that weren't asked for.
	req := packp.NewUploadPackRequestFromCapabilities(c.caps)
	req.Wants, req.Haves = wants, have
	if c.caps.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return "", err
		}
	}
	resp, err := c.session.UploadPack(c.ctx, req)
	if err != nil {
		return "", m.remoteError(c.ctx, fetching, err)
	}
	defer func() { _ = resp.Close() }() // what counts was read, or failed
	pack := &boundedReader{r: packReader(req.Capabilities, resp), limit: limit, left: limit}
	if name, err = savePack(pack, dir); err != nil {
		if name != "" {
			_ = os.Remove(name) // the next start would
		}
		return "", m.remoteError(c.ctx, fetching, err)
	}
	c.stop() // the server has done its part; indexing may take its time
	return name, nil
}

func packReader(caps *capability.List, r io.Reader) io.Reader {
	switch {
	case caps.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, r)
	case caps.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, r)
	default:
		return r
	}
}

// remoteError maps whatever went wrong between us and a server to an [Error], or
// to the context's error if the caller gave up. It is the only place that does.
func (m *Mirror) remoteError(ctx context.Context, doing string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	fail := func(reason Reason, format string, args ...any) error {
		return &Error{Reason: reason, URL: m.loc.display, text: doing + ": " + fmt.Sprintf(format, args...)}
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSilent):
		return fail(Timeout, "the server sent nothing for %s; check that it is reachable and not overloaded", m.timeout)
	case errors.Is(cause, errSlow):
		return fail(Timeout, "not done after %s", hardTimeoutFactor*m.timeout)
	case cause != nil:
		return fmt.Errorf("%s: %s: %w", m.loc.display, doing, cause)
	}
	text := m.scrub.clean(err)
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
		hostname     x509.HostnameError
		invalid      x509.CertificateInvalidError
		record       tls.RecordHeaderError
		dns          *net.DNSError
	)
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired):
		return fail(AuthenticationFailed, "the server wants credentials, or other ones; check the Secret")
	case errors.Is(err, transport.ErrAuthorizationFailed):
		return fail(AuthenticationFailed, "the credentials don't permit to read the repository")
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return fail(RepositoryNotFound, "the server has no such repository, or hides it from these credentials")
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fail(EmptyRepository, "the repository is empty; push a first commit")
	case errors.As(err, &verification), errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid):
		return fail(CertificateInvalid, "%s; put the authority's certificate into ca.crt of the Secret if it is your own", text)
	case errors.As(err, &record):
		return fail(ServerUnavailable, "the server doesn't speak TLS on this port")
	case errors.As(err, &dns):
		return fail(ServerUnavailable, "the host name can't be resolved: %s", text)
	default:
		return fail(ServerUnavailable, "%s", text)
	}
}
