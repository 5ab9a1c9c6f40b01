package gittest

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// HTTPOptions says what a server of [NewHTTP] demands. The zero value is plain
// HTTP without authentication.
type HTTPOptions struct {
	// TLS serves https with a certificate that only [HTTPServer.CA] vouches for.
	TLS bool
	// Username and Password, if set, are demanded by HTTP basic authentication.
	Username, Password string
	// Bearer, if set, is the demanded bearer token.
	Bearer string
}

// Counts is what clients asked of a server since it started.
type Counts struct {
	// InfoRefs is the number of ls-remotes: requests for info/refs.
	InfoRefs int
	// UploadPacks is the number of fetches: POST requests to git-upload-pack.
	UploadPacks int
	// PackBytes is the number of bytes sent in answer to fetches.
	PackBytes int64
	// Unauthorized is the number of requests refused for their credentials.
	Unauthorized int
}

// Request names the two requests of the smart HTTP protocol, for faults.
type Request string

// The requests of the smart HTTP protocol.
const (
	InfoRefs   Request = "info/refs"
	UploadPack Request = "git-upload-pack"
)

// HTTPServer serves repositories through git http-backend. Its methods are safe
// for concurrent use.
type HTTPServer struct {
	t      testing.TB
	opts   HTTPOptions
	server *httptest.Server
	git    string
	done   chan struct{} // closed when the test ends, frees requests that a fault holds

	mu     sync.Mutex
	repos  map[string]string // name in the URL → folder
	counts Counts
	faults map[Request]Fault
	seen   []http.Header
}

// Fault handles a request in place of the server. It may call next to answer as
// the server would. It must return when the request's context is done.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// NewHTTP starts a server that stops when the test ends.
func NewHTTP(t testing.TB, opts HTTPOptions) *HTTPServer {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatalf("gittest: %v", err)
	}
	s := &HTTPServer{
		t: t, opts: opts, git: git, done: make(chan struct{}),
		repos: map[string]string{}, faults: map[Request]Fault{},
	}
	s.server = httptest.NewUnstartedServer(s)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that break off are what tests are about
	if opts.TLS {
		s.server.StartTLS()
	} else {
		s.server.Start()
	}
	t.Cleanup(func() {
		close(s.done)
		s.server.CloseClientConnections()
		s.server.Close()
	})
	return s
}

// URL publishes a repository and returns its URL, without credentials.
func (s *HTTPServer) URL(r *Repo) string { return s.server.URL + "/" + s.publish(r.path) }

// Base returns the URL of the server itself.
func (s *HTTPServer) Base() string { return s.server.URL }

// CA returns the PEM certificate to trust; nil without TLS.
func (s *HTTPServer) CA() []byte {
	if s.server.Certificate() == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw})
}

// Stop shuts the server down, as if it were gone.
func (s *HTTPServer) Stop() {
	s.server.CloseClientConnections()
	s.server.Close()
}

// Counts returns what clients asked so far.
func (s *HTTPServer) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Headers returns the headers of all requests so far, refused ones included.
func (s *HTTPServer) Headers() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]http.Header(nil), s.seen...)
}

// SetFault switches the fault of a request on, or off with nil.
func (s *HTTPServer) SetFault(on Request, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[on] = f
}

// Stall is a fault: the server takes the request and never answers.
func (s *HTTPServer) Stall() Fault {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the server notices that the client has gone
		select {
		case <-r.Context().Done():
		case <-s.done:
		}
	}
}

// Status is a fault: the server answers with this status code.
func Status(code int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, http.StatusText(code), code)
	}
}

// Cut is a fault: the connection breaks after this many bytes of the answer.
func Cut(after int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutWriter{ResponseWriter: w, left: after}, r)
	}
}

// Drip is a fault: the answer stops after this many bytes and the connection
// stays open.
func (s *HTTPServer) Drip(after int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutWriter{ResponseWriter: w, left: after, stall: func() {
			select {
			case <-r.Context().Done():
			case <-s.done:
			}
		}}, r)
	}
}

// Hold is a fault that lets a test order events: each request reports on
// entered and then waits until release is called.
func (s *HTTPServer) Hold() (f Fault, entered <-chan struct{}, release func()) {
	in, out := make(chan struct{}, 1024), make(chan struct{})
	var once sync.Once
	f = func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		in <- struct{}{}
		select {
		case <-out:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		case <-s.done:
		}
	}
	return f, in, func() { once.Do(func() { close(out) }) }
}

func (s *HTTPServer) publish(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := filepath.Base(filepath.Dir(path)) + "-" + filepath.Base(path)
	s.repos[name] = path
	return name
}

// ServeHTTP implements [http.Handler].
func (s *HTTPServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	kind := Request(rest)
	s.mu.Lock()
	path, known := s.repos[name]
	fault := s.faults[kind]
	allowed := s.allowed(r)
	s.seen = append(s.seen, r.Header.Clone())
	switch {
	case !allowed:
		s.counts.Unauthorized++
	case kind == InfoRefs:
		s.counts.InfoRefs++
	case kind == UploadPack:
		s.counts.UploadPacks++
	}
	s.mu.Unlock()

	backend := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.backend(w, r, path, rest) }))
	switch {
	case !allowed:
		w.Header().Set("WWW-Authenticate", `Basic realm="gittest"`)
		http.Error(w, "credentials, please", http.StatusUnauthorized)
	case fault != nil:
		fault(w, r, backend)
	case !known:
		http.NotFound(w, r)
	default:
		backend.ServeHTTP(w, r)
	}
}

func (s *HTTPServer) allowed(r *http.Request) bool {
	if s.opts.Bearer != "" {
		return r.Header.Get("Authorization") == "Bearer "+s.opts.Bearer
	}
	if s.opts.Username == "" && s.opts.Password == "" {
		return true
	}
	user, password, ok := r.BasicAuth()
	return ok && user == s.opts.Username && password == s.opts.Password
}

func (s *HTTPServer) backend(w http.ResponseWriter, r *http.Request, path, rest string) {
	sub := r.Clone(r.Context())
	sub.URL.Path = "/" + filepath.Base(path) + "/" + rest
	h := &cgi.Handler{
		Path:   s.git,
		Args:   []string{"http-backend"},
		Dir:    filepath.Dir(path),
		Env:    append(environ(), "GIT_PROJECT_ROOT="+filepath.Dir(path), "GIT_HTTP_EXPORT_ALL=1", "PATH_INFO="+sub.URL.Path),
		Stderr: io.Discard,
	}
	h.ServeHTTP(&countWriter{ResponseWriter: w, server: s, pack: Request(rest) == UploadPack}, sub)
}

// countWriter counts the bytes of packs.
type countWriter struct {
	http.ResponseWriter
	server *HTTPServer
	pack   bool
}

func (w *countWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if w.pack {
		w.server.mu.Lock()
		w.server.counts.PackBytes += int64(n)
		w.server.mu.Unlock()
	}
	return n, err
}

func (w *countWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// cutWriter passes a number of bytes and then breaks the connection, or waits.
type cutWriter struct {
	http.ResponseWriter
	left  int64
	stall func()
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if int64(len(p)) <= w.left {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	_, _ = w.ResponseWriter.Write(p[:w.left])
	w.left = 0
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	if w.stall != nil {
		w.stall()
	}
	panic(http.ErrAbortHandler) // how net/http breaks a connection off
}
