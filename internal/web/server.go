package web

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// maxConnections bounds the files that senders can keep the agent busy with.
const maxConnections = 1024

// Server serves a handler at an address. It fits a manager, and runs on every replica:
// the forge doesn't know which one leads.
type Server struct {
	listener net.Listener
	server   *http.Server
	grace    time.Duration
}

// Listen takes an address (host:port; port 0 is any that is free) and returns its
// Server. Who connects waits until it is started. grace is how long requests may take to
// end when it is stopped.
func Listen(address string, h http.Handler, logger logr.Logger, grace time.Duration) (*Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("receive webhooks at %s: %w", address, err)
	}
	limited := &limitedListener{Listener: listener, room: make(chan struct{}, maxConnections), done: make(chan struct{})}
	return &Server{listener: limited, server: HTTPServer(h, logger), grace: grace}, nil
}

// HTTPServer returns a server with every limit that net/http leaves open.
func HTTPServer(h http.Handler, logger logr.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // HTTP/2 is for whoever ends TLS in front of it
	return &http.Server{
		Handler: h, Protocols: &protocols,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 60 * time.Second,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       log.New(errorLog{logger}, "", 0),
	}
}

// Addr is the address that was taken.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Start serves until the context ends.
func (s *Server) Start(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- s.server.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("receive webhooks at %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	if err := s.server.Shutdown(ending); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop receiving webhooks: %w", err)
	}
	return s.server.Close() // who is still sending loses nothing: the next poll finds it
}

// NeedLeaderElection is false: any replica receives.
func (s *Server) NeedLeaderElection() bool { return false }

// errorLog takes what net/http has to say of connections. Anybody can provoke it.
type errorLog struct{ logr.Logger }

func (l errorLog) Write(line []byte) (int, error) {
	l.V(1).Info("connection", "message", oneLine(strings.TrimSpace(string(line))))
	return len(line), nil
}

// limitedListener accepts no more connections than there is room for.
type limitedListener struct {
	net.Listener
	room chan struct{}
	once sync.Once
	done chan struct{}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &limitedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
