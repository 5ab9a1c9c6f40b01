package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshRemote speaks Git over SSH. go-git has an SSH transport, but its connect and
// handshake know no context, and it reads the user's ~/.ssh and agent.
type sshRemote struct {
	loc        location
	auth       ssh.AuthMethod
	hostKeys   ssh.HostKeyCallback
	algorithms []string
	limits     Limits
	received   func(int)
}

func newSSHRemote(loc location, auth Auth, limits Limits, received func(int)) (*sshRemote, error) {
	method, err := auth.sshAuth()
	if err != nil {
		return nil, err
	}
	callback, err := knownHosts(auth.KnownHosts)
	if err != nil {
		return nil, err
	}
	return &sshRemote{
		loc: loc, auth: method, hostKeys: callback, algorithms: hostKeyAlgorithms(callback, loc.host),
		limits: limits, received: received,
	}, nil
}

// knownHosts parses a known_hosts file. The library reads files only.
func knownHosts(content []byte) (ssh.HostKeyCallback, error) {
	f, err := os.CreateTemp("", "capstan-known-hosts-")
	if err != nil {
		return nil, errorf(MirrorUnusable, "a temporary file for known_hosts: %v", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // nothing to be done; it holds public keys
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errorf(MirrorUnusable, "a temporary file for known_hosts: %v", err)
	}
	callback, err := knownhosts.New(f.Name())
	if err != nil {
		return nil, errorf(BadConfiguration, "known_hosts can't be parsed: %s", strings.ReplaceAll(err.Error(), f.Name(), "known_hosts"))
	}
	return callback, nil
}

// hostKeyAlgorithms returns the algorithms of the keys that known_hosts has for a
// host. Otherwise the server might offer a key of another kind than the known
// one, which would look like an attack. Nil, for any, if the host is unknown: the
// callback refuses it then.
func hostKeyAlgorithms(callback ssh.HostKeyCallback, host string) []string {
	var keyErr *knownhosts.KeyError
	// A key that nothing matches makes the callback tell what it would accept.
	if !errors.As(callback(host, &net.TCPAddr{IP: net.IPv4zero}, noKey{}), &keyErr) {
		return nil
	}
	var algorithms []string
	for _, known := range keyErr.Want {
		switch typ := known.Key.Type(); typ {
		case ssh.KeyAlgoRSA:
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			algorithms = append(algorithms, typ)
		}
	}
	slices.Sort(algorithms)
	return slices.Compact(algorithms)
}

// noKey is a public key that is in no known_hosts file.
type noKey struct{}

func (noKey) Type() string                        { return "capstan-no-key" }
func (noKey) Marshal() []byte                     { return []byte("capstan-no-key") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

func (r *sshRemote) close() {}

func (r *sshRemote) session(ctx context.Context) (_ transport.UploadPackSession, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.loc.host)
	if err != nil {
		return nil, err
	}
	// The end of the context closes the connection, and with it ends every read
	// and write, the handshake's included.
	s := &sshSession{ctx: ctx, stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}
	defer func() {
		if err != nil {
			s.stop()
			_ = conn.Close() // the error that counts is err
		}
	}()
	var hostErr error
	config := &ssh.ClientConfig{
		User: r.loc.user, Auth: []ssh.AuthMethod{r.auth}, HostKeyAlgorithms: r.algorithms,
		HostKeyCallback: func(host string, addr net.Addr, key ssh.PublicKey) error {
			hostErr = hostKeyError(host, key, r.hostKeys(host, addr, key))
			return hostErr
		},
	}
	metered := &meteredConn{Conn: conn, ctx: ctx, received: r.received}
	c, chans, reqs, err := ssh.NewClientConn(metered, r.loc.host, config)
	if hostErr != nil {
		return nil, hostErr
	}
	if err != nil {
		return nil, r.handshakeError(err)
	}
	s.client = ssh.NewClient(c, chans, reqs)
	if err := s.start(r.loc.path, r.limits); err != nil {
		return nil, err
	}
	return s, nil
}

func hostKeyError(host string, key ssh.PublicKey, err error) error {
	if err == nil {
		return nil
	}
	print := ssh.FingerprintSHA256(key)
	var keyErr *knownhosts.KeyError
	switch {
	case errors.As(err, &keyErr) && len(keyErr.Want) == 0:
		return errorf(HostKeyUnknown, "the SSH host %s (%s %s) is not in known_hosts; check the key and add it to the Secret", host, key.Type(), print)
	default: // another key is known, or this one is revoked
		return errorf(HostKeyMismatch, "the SSH host %s presented a key (%s %s) that known_hosts doesn't accept; "+
			"either the server's key was changed or somebody stands in between", host, key.Type(), print)
	}
}

func (r *sshRemote) handshakeError(err error) error {
	// The library has no type for these.
	switch text := err.Error(); {
	case strings.Contains(text, "unable to authenticate"):
		return errorf(AuthenticationFailed, "the SSH server refused user %s with this key", r.loc.user)
	case strings.Contains(text, "no common algorithm for host key"):
		return errorf(HostKeyMismatch, "the SSH server has no host key of the kinds in known_hosts (%s)", strings.Join(r.algorithms, ", "))
	}
	return err
}

// sshSession implements [transport.UploadPackSession] on one connection.
type sshSession struct {
	ctx    context.Context // of the connection
	stop   func() bool     // ends the watch over ctx
	client *ssh.Client
	remote *ssh.Session
	stdin  io.WriteCloser
	stdout io.Reader
	stderr limitedBuffer
	adv    *packp.AdvRefs
	asked  bool // a pack was asked for
}

func (s *sshSession) start(path string, limits Limits) error {
	var err error
	if s.remote, err = s.client.NewSession(); err != nil {
		return err
	}
	if s.stdin, err = s.remote.StdinPipe(); err != nil {
		return err
	}
	stdout, err := s.remote.StdoutPipe()
	if err != nil {
		return err
	}
	s.stdout = &boundedReader{r: stdout, limit: limits.PackBytes, left: limits.PackBytes}
	s.remote.Stderr = &s.stderr
	return s.remote.Start(transport.UploadPackServiceName + " " + shellQuote(path))
}

// AdvertisedReferences implements [transport.Session].
func (s *sshSession) AdvertisedReferences() (*packp.AdvRefs, error) {
	return s.AdvertisedReferencesContext(s.ctx)
}

// AdvertisedReferencesContext implements [transport.Session]. The context is the
// one that the session was opened with.
func (s *sshSession) AdvertisedReferencesContext(context.Context) (*packp.AdvRefs, error) {
	if s.adv != nil {
		return s.adv, nil
	}
	adv := packp.NewAdvRefs()
	err := adv.Decode(s.stdout)
	switch {
	case errors.Is(err, packp.ErrEmptyAdvRefs), err == nil && adv.IsEmpty():
		return nil, transport.ErrEmptyRemoteRepository
	case err != nil && s.ctx.Err() == nil:
		return nil, s.refusal(err)
	case err != nil:
		return nil, err
	}
	transport.FilterUnsupportedCapabilities(adv.Capabilities)
	s.adv = adv
	return adv, nil
}

// refusal finds the reason of a failure in what the server wrote for people.
func (s *sshSession) refusal(err error) error {
	_ = s.stdin.Close() // no more is asked, so the server's command ends
	_ = s.remote.Wait() // all of stderr is there then; the exit code says less
	text := s.stderr.String() + " " + err.Error()
	for _, phrase := range []string{
		"not appear to be a git repository", "epository not found", "o such repository", "epository does not exist",
		"project you were looking for could not be found", "not found",
	} {
		if strings.Contains(text, phrase) {
			return fmt.Errorf("%w: %s", transport.ErrRepositoryNotFound, s.stderr.String())
		}
	}
	if text := s.stderr.String(); text != "" {
		return fmt.Errorf("%w: the server says: %s", err, text)
	}
	return err
}

// UploadPack implements [transport.UploadPackSession].
func (s *sshSession) UploadPack(_ context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	s.asked = true
	if err := req.UploadRequest.Encode(s.stdin); err != nil {
		return nil, err
	}
	if err := req.UploadHaves.Encode(s.stdin, true); err != nil {
		return nil, err
	}
	if err := pktline.NewEncoder(s.stdin).Encodef("done\n"); err != nil {
		return nil, err
	}
	if err := s.stdin.Close(); err != nil {
		return nil, err
	}
	resp := packp.NewUploadPackResponse(req)
	if err := resp.Decode(io.NopCloser(s.stdout)); err != nil {
		return nil, s.refusal(err)
	}
	return resp, nil
}

// Close implements [io.Closer].
func (s *sshSession) Close() error {
	if !s.asked && s.ctx.Err() == nil {
		_, _ = s.stdin.Write(pktline.FlushPkt) // a polite end; the connection goes anyway
	}
	s.stop()
	_ = s.client.Close() // it may be closed already, by the context or the server
	_ = s.client.Wait()  // its goroutines end here
	return nil
}

// shellQuote quotes a path for the server's shell.
func shellQuote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(s) + "'"
}

// limitedBuffer keeps the beginning of what the server writes to stderr.
type limitedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const limit = 1 << 10
	b.buf.Write(p[:min(len(p), limit-b.buf.Len())])
	return len(p), nil
}

func (b *limitedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.TrimSpace(b.buf.String())
}

// meteredConn counts what is received and tells the watch.
type meteredConn struct {
	net.Conn
	ctx      context.Context // only to reach its watch
	received func(int)
}

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received(n)
	if n > 0 {
		touch(c.ctx)
	}
	return n, err
}

// boundedReader fails after a number of bytes.
type boundedReader struct {
	r           io.Reader
	limit, left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, tooMuch(b.limit)
	}
	return n, err
}
