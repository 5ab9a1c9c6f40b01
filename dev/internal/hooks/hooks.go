// Package hooks is the webhook server of the manager. It differs from controller-runtime's in that its
// port is taken, and so known, before anything else starts: the API server is told where webhooks are
// before the controllers run.
package hooks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// Server implements webhook.Server.
type Server struct {
	listener net.Listener
	mux      *http.ServeMux
	config   *tls.Config
}

var _ webhook.Server = &Server{}

// Listen takes a free port on loopback.
func Listen() (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for webhooks: %w", err)
	}
	return &Server{listener: listener, mux: http.NewServeMux()}, nil
}

// Address is host:port of the server.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Close frees the port of a server that was never started.
func (s *Server) Close() error { return s.listener.Close() }

// Certificate sets what the server shows, before Start.
func (s *Server) Certificate(certFile, keyFile string) error {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return fmt.Errorf("certificate of the webhooks: %w", err)
	}
	s.config = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	return nil
}

// NeedLeaderElection makes it run in any manager.
func (s *Server) NeedLeaderElection() bool { return false }

// Register serves a path.
func (s *Server) Register(path string, hook http.Handler) { s.mux.Handle(path, hook) }

// WebhookMux is for those who add paths by themselves.
func (s *Server) WebhookMux() *http.ServeMux { return s.mux }

// Start serves until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	server := &http.Server{Handler: s.mux, TLSConfig: s.config, ReadHeaderTimeout: 32 * time.Second, IdleTimeout: 90 * time.Second}
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		timeout, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := server.Shutdown(timeout); err != nil {
			_ = server.Close()
		}
	})
	err := server.ServeTLS(s.listener, "", "")
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve webhooks: %w", err)
	}
	<-stopped
	return nil
}

// StartedChecker connects.
func (s *Server) StartedChecker() healthz.Checker {
	return func(*http.Request) error {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", s.Address(), &tls.Config{
			InsecureSkipVerify: true, // only whether it answers
		})
		if err != nil {
			return fmt.Errorf("webhook server does not answer: %w", err)
		}
		return conn.Close()
	}
}
