package gittest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SSHServer serves repositories over SSH through git upload-pack, to the owner of
// one key. Its methods are safe for concurrent use.
type SSHServer struct {
	t        testing.TB
	listener net.Listener
	host     ssh.Signer
	client   ssh.Signer
	identity ed25519.PrivateKey
	ended    sync.WaitGroup

	mu      sync.Mutex
	repos   map[string]string // name in the URL → folder
	conns   map[net.Conn]bool
	silent  bool
	closed  bool
	fetches int
}

// NewSSH starts a server with a new host key and a new client key. It stops when
// the test ends.
func NewSSH(t testing.TB) *SSHServer {
	t.Helper()
	s := &SSHServer{t: t, repos: map[string]string{}, conns: map[net.Conn]bool{}}
	s.identity, s.client = newKey(t)
	_, s.host = newKey(t)
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatalf("gittest: %v", err)
	}
	s.ended.Go(s.accept)
	t.Cleanup(s.Stop)
	return s
}

func newKey(t testing.TB) (ed25519.PrivateKey, ssh.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatalf("gittest: %v", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatalf("gittest: %v", err)
	}
	return private, signer
}

// URL publishes a repository and returns its ssh:// URL.
func (s *SSHServer) URL(r *Repo) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := "/" + filepath.Base(filepath.Dir(r.path)) + "-" + filepath.Base(r.path)
	s.repos[name] = r.path
	return "ssh://git@" + s.listener.Addr().String() + name
}

// Identity returns the accepted client key in PEM form, encrypted if a passphrase
// is given.
func (s *SSHServer) Identity(passphrase string) []byte {
	s.t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(s.identity, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(s.identity, "", []byte(passphrase))
	}
	if err != nil {
		s.t.Fatalf("gittest: %v", err)
	}
	return pem.EncodeToMemory(block)
}

// KnownHosts returns the known_hosts line of the server.
func (s *SSHServer) KnownHosts() []byte { return s.knownHosts(s.host.PublicKey()) }

// WrongKnownHosts returns a line with another key for the server.
func (s *SSHServer) WrongKnownHosts() []byte {
	_, other := newKey(s.t)
	return s.knownHosts(other.PublicKey())
}

func (s *SSHServer) knownHosts(key ssh.PublicKey) []byte {
	return []byte(knownhosts.Line([]string{knownhosts.Normalize(s.listener.Addr().String())}, key) + "\n")
}

// Silence makes the server accept connections and say nothing, or ends that.
func (s *SSHServer) Silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

// Sessions returns how many times upload-pack was started.
func (s *SSHServer) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches
}

// Stop shuts the server down and breaks its connections.
func (s *SSHServer) Stop() {
	s.mu.Lock()
	s.closed = true
	_ = s.listener.Close() // a second Stop finds it closed
	for c := range s.conns {
		_ = c.Close() // the client may have been faster
	}
	s.mu.Unlock()
	s.ended.Wait()
}

func (s *SSHServer) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = conn.Close() // nobody was served
			return
		}
		s.conns[conn] = true
		silent := s.silent
		s.mu.Unlock()
		s.ended.Go(func() {
			defer func() {
				_ = conn.Close() // the client may have been faster
				s.mu.Lock()
				delete(s.conns, conn)
				s.mu.Unlock()
			}()
			if silent {
				_, _ = io.Copy(io.Discard, conn) // until one side closes
				return
			}
			s.serve(conn)
		})
	}
}

func (s *SSHServer) serve(conn net.Conn) {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(s.client.PublicKey().Marshal()) {
			return nil, errors.New("key not accepted")
		}
		return nil, nil
	}}
	config.AddHostKey(s.host)
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return // the client was refused, or refused us
	}
	s.ended.Go(func() { ssh.DiscardRequests(requests) })
	for nc := range channels {
		if nc.ChannelType() != "session" {
			_ = nc.Reject(ssh.UnknownChannelType, "sessions only") // the client sees the connection end otherwise
			continue
		}
		channel, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		s.ended.Go(func() { s.session(channel, reqs) })
	}
}

func (s *SSHServer) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer func() { _ = channel.Close() }() // the client may have been faster
	for req := range requests {
		var payload struct{ Command string }
		if req.Type != "exec" || ssh.Unmarshal(req.Payload, &payload) != nil {
			_ = req.Reply(false, nil) // the client sees the connection end otherwise
			continue
		}
		_ = req.Reply(true, nil) // as above
		status := s.uploadPack(channel, payload.Command)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status})) // as above
		return
	}
}

func (s *SSHServer) uploadPack(channel ssh.Channel, line string) uint32 {
	name, ok := strings.CutPrefix(line, "git-upload-pack '")
	name = strings.TrimSuffix(name, "'")
	s.mu.Lock()
	path, known := s.repos[name]
	s.fetches++
	s.mu.Unlock()
	if !ok || !known {
		fmt.Fprintf(channel.Stderr(), "fatal: '%s' does not appear to be a git repository\n", name)
		return 128
	}
	cmd := command("", "upload-pack", path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 1
	}
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	if err := cmd.Start(); err != nil {
		return 1
	}
	s.ended.Go(func() {
		_, _ = io.Copy(stdin, channel) // ends with the channel
		_ = stdin.Close()              // git sees the end of its input
	})
	if err := cmd.Wait(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return uint32(exit.ExitCode())
		}
		return 1
	}
	return 0
}
