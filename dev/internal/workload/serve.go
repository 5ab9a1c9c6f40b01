package workload

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// trackedConn is a connection that knows whose it is, once the TLS handshake has told.
type trackedConn struct {
	net.Conn
	cluster atomic.Pointer[Cluster]
	closing sync.Once
}

func (c *trackedConn) Close() error {
	err := c.Conn.Close()
	c.closing.Do(func() {
		if cluster := c.cluster.Load(); cluster != nil {
			cluster.forget(c)
		}
	})
	return err
}

type trackingListener struct{ net.Listener }

func (l trackingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &trackedConn{Conn: conn}, nil
}

// connKey is the context key of the trackedConn of a request.
type connKey struct{}

// serve answers on the listener until ctx ends.
func (c *Cloud) serve(ctx context.Context) error {
	server := &http.Server{
		Handler:           http.HandlerFunc(c.route),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: c.hello},
		ReadHeaderTimeout: time.Minute,
		// What clients do to connections is no news, and closing those to dead clusters is meant.
		ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if conn, ok := conn.(*tls.Conn); ok {
				return context.WithValue(ctx, connKey{}, conn.NetConn())
			}
			return ctx
		},
	}
	stop := context.AfterFunc(ctx, func() {
		_ = server.Close()
		for _, cluster := range c.all() {
			cluster.cut() // forwarded ones are not the server's any more
		}
	})
	defer stop()
	if err := server.ServeTLS(trackingListener{c.listener}, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the workload clusters on %s: %w", c.Address(), err)
	}
	return nil
}

// hello picks the cluster by the server name. For one that does not serve, the handshake fails
// and the connection ends here. To clients that is like a refused connection: an error at
// once, whereas client-go would try again ten times after a mere end of the connection.
func (c *Cloud) hello(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	conn, ok := hello.Conn.(*trackedConn)
	if !ok {
		return nil, fmt.Errorf("connection of type %T", hello.Conn)
	}
	cluster := c.byServerName(hello.ServerName)
	if cluster == nil {
		return nil, fmt.Errorf("no cluster has the server name %q", hello.ServerName)
	}
	config := cluster.adopt(conn)
	if config == nil {
		return nil, fmt.Errorf("cluster %s does not serve", cluster.key)
	}
	return config, nil
}

func (c *Cloud) route(w http.ResponseWriter, req *http.Request) {
	conn, ok := req.Context().Value(connKey{}).(*trackedConn)
	if !ok || conn.cluster.Load() == nil {
		http.Error(w, "no cluster", http.StatusMisdirectedRequest)
		return
	}
	if len(req.TLS.PeerCertificates) == 0 && !isPublic(req.URL.Path) {
		writeError(w, apierrors.NewUnauthorized("Unauthorized"))
		return
	}
	conn.cluster.Load().api.ServeHTTP(w, req)
}

// isPublic tells what a real API server answers to everybody.
func isPublic(path string) bool {
	return path == "/version" || path == "/healthz" || path == "/livez" || path == "/readyz"
}

// serverConfig makes the TLS configuration of a cluster's API server.
func serverConfig(ca tls.Certificate, serverName string) (*tls.Config, error) {
	if len(ca.Certificate) == 0 {
		return nil, errors.New("the CA has no certificate")
	}
	issuer, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("parsing the certificate of the CA: %w", err)
	}
	signer, ok := ca.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key of the CA is a %T, which cannot sign", ca.PrivateKey)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of the API server: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making the serial number of the API server's certificate: %w", err)
	}
	certificate, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:    issuer.NotBefore,
		NotAfter:     issuer.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{serverName, "localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}, issuer, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("issuing the certificate of the API server: %w", err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(issuer)
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
		ClientCAs:    clients,
		// Whom no certificate speaks for gets 401 from route, as from the real one.
		ClientAuth: tls.VerifyClientCertIfGiven,
		NextProtos: []string{"h2", "http/1.1"},
		// A ticket of before a Halt must not open a connection after another CA came.
		SessionTicketsDisabled: true,
	}, nil
}
