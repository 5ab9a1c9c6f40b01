package forge

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxAnswer is the largest answer that is read: 100 pull requests or comments of the
	// largest size on GitHub fit, 65,536 characters of up to four bytes each.
	maxAnswer = 32 << 20
	// maxRedirects is how often a forge may say that something is elsewhere on it.
	maxRedirects = 3
	userAgent    = "capstan"
)

// answer is what is kept of the last exchange of an operation: the libraries each tell
// another part of it, in other words.
type answer struct {
	// path was asked for.
	path string
	// status is 0 if there was no answer.
	status int
	header http.Header
	// body is the beginning of an answer that is not a success.
	body []byte
	// secrets were sent: they could come back in a text of the forge.
	secrets []string
	// refused says why an answer was not passed on.
	refused error
}

type answerKey struct{}

// guard sends requests to one forge and no other, and keeps what was answered: it is below
// the libraries and all they add.
type guard struct {
	next http.RoundTripper
	// origin is the scheme and host of the forge.
	origin string
	// accept is the media type to ask for, if not what the library says.
	accept string
}

func origin(u *url.URL) string { return u.Scheme + "://" + strings.ToLower(u.Host) }

// RoundTrip reads an answer whole, so that its size is bounded and what it says can be
// looked at twice.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	a, _ := r.Context().Value(answerKey{}).(*answer)
	if a == nil {
		a = &answer{}
	}
	_, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	*a = answer{path: r.URL.Path, secrets: append(a.secrets, secret)}
	if origin(r.URL) != g.origin {
		// The address may be in the hands of others: the token must not get there.
		a.refused = fmt.Errorf("it leads to %s, where its token does not belong", cut(line(origin(r.URL)), 100))
		return nil, a.refused
	}
	if g.accept != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Accept", g.accept)
	}
	response, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	_ = response.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	a.status, a.header = response.StatusCode, response.Header
	ok := response.StatusCode/100 == 2
	switch {
	case len(body) > maxAnswer:
		a.refused = fmt.Errorf("it is longer than %d MiB", maxAnswer>>20)
		return nil, a.refused
	case ok && response.StatusCode != http.StatusNoContent && !looksLikeJSON(body):
		a.refused = fmt.Errorf("it is %s and not JSON", contentType(response.Header))
		return nil, a.refused
	case !ok:
		a.body = body[:min(len(body), 16<<10)]
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// looksLikeJSON tells the object or list that an API answers from the page of a proxy.
func looksLikeJSON(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) > 0 && (body[0] == '{' || body[0] == '[')
}

func contentType(h http.Header) string {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	if t = cut(line(t), 50); t == "" {
		return "of no type"
	}
	return t
}

// redirect follows a forge only within itself, and only as long as the request stays the
// same: a POST that becomes a GET would look as if it had worked.
func redirect(r *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case origin(r.URL) != origin(first.URL), r.Method != first.Method, len(via) > maxRedirects:
		return http.ErrUseLastResponse
	}
	return nil
}

// newHTTPClient returns the client that all requests to the forge at base go through.
func newHTTPClient(o Options, base *url.URL) (*http.Client, *guard, error) {
	next := o.Transport
	if next == nil {
		own, err := newTransport(o.Credentials.CA)
		if err != nil {
			return nil, nil, err
		}
		next = own
	}
	g := &guard{next: next, origin: origin(base)}
	return &http.Client{Transport: g, CheckRedirect: redirect, Timeout: o.Timeout}, g, nil
}

func newTransport(ca []byte) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 1 << 20,
		// There is one forge behind each, and credentials that change get another one:
		// what is idle must go soon.
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     30 * time.Second,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if len(ca) == 0 {
		return t, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's certificates: %w", err)
	}
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("the certificates to trust (ca.crt) can't be read: they must be in PEM form")
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

// listen makes the guard tell a what is answered within ctx.
func listen(ctx context.Context, a *answer) context.Context {
	return context.WithValue(ctx, answerKey{}, a)
}
