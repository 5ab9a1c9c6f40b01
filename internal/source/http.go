package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// remote opens sessions with a Git server. A session is used by one goroutine
// and ends with its context.
type remote interface {
	session(ctx context.Context) (transport.UploadPackSession, error)
	close()
}

// httpRemote speaks smart HTTP. go-git follows redirects only of the first
// request and drops the credentials when one leads to another origin.
type httpRemote struct {
	url    string
	auth   transport.AuthMethod // nil for none
	base   *http.Transport
	client transport.Transport
}

func newHTTPRemote(loc location, auth Auth, limits Limits, received func(int)) *httpRemote {
	base := http.DefaultTransport.(*http.Transport).Clone() // honours the usual proxy variables
	base.MaxIdleConnsPerHost = 1
	base.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if len(auth.CAFile) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a machine without certificates: only the given ones count
		}
		pool.AppendCertsFromPEM(auth.CAFile)
		base.TLSClientConfig.RootCAs = pool
	}
	r := &httpRemote{url: loc.request, base: base}
	switch {
	case auth.BearerToken != "":
		r.auth = &githttp.TokenAuth{Token: auth.BearerToken}
	case auth.Password != "":
		r.auth = &githttp.BasicAuth{Username: auth.Username, Password: auth.Password}
	case loc.user != "":
		r.auth = &githttp.BasicAuth{Username: loc.user}
	}
	r.client = githttp.NewClientWithOptions(
		&http.Client{Transport: &meter{base: base, limits: limits, received: received}}, nil)
	return r
}

func (r *httpRemote) session(context.Context) (transport.UploadPackSession, error) {
	ep, err := transport.NewEndpoint(r.url)
	if err != nil {
		return nil, err
	}
	return r.client.NewUploadPackSession(ep, r.auth)
}

func (r *httpRemote) close() { r.base.CloseIdleConnections() }

// meter counts what is received, tells the watch, and bounds each answer; go-git
// reads error pages whole.
type meter struct {
	base     http.RoundTripper
	limits   Limits
	received func(int)
}

// RoundTrip implements [http.RoundTripper].
func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := m.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	touch(req.Context())
	limit := int64(maxAdvertisement)
	const errorPage = 4 << 10
	switch {
	case resp.StatusCode >= 300:
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, errorPage), resp.Body}
		return resp, nil
	case strings.HasSuffix(req.URL.Path, "/"+transport.UploadPackServiceName):
		limit = m.limits.PackBytes
	}
	resp.Body = &meteredBody{ReadCloser: resp.Body, meter: m, limit: limit, left: limit, ctx: req.Context()}
	return resp, nil
}

type meteredBody struct {
	io.ReadCloser
	meter *meter
	limit int64
	left  int64
	ctx   context.Context // of the request, only to reach its watch
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.meter.received(n)
	if n > 0 {
		touch(b.ctx)
	}
	if b.left -= int64(n); b.left < 0 {
		return 0, tooMuch(b.limit)
	}
	return n, err
}

// tooMuch ends an answer that exceeds its limit, in bytes.
func tooMuch(limit int64) error {
	return errorf(TooLarge, "the server sent more than the limit of %d bytes", limit)
}
