package giteatest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Options for [Start]. Binary, StaticRoot and Dir are required; [Locate] finds
// the first two.
type Options struct {
	// Binary is the path of gitea.
	Binary string
	// StaticRoot is the folder of Gitea's module.
	StaticRoot string
	// Dir holds everything that the server keeps: database, repositories, keys, log. It
	// is made if missing. A server started with the Dir of one that was stopped is the
	// same server: same port, same data, same certificate.
	Dir string
	// Port on 127.0.0.1; 0 is the port that Dir was served on before, else a free one.
	Port int
	// TLS serves https with a certificate that only [Server.CA] vouches for.
	TLS bool
	// FastQueues keeps Gitea's queues in memory, where the next step of a push begins
	// at once. As installed, Gitea looks into its queues on disk up to two seconds later:
	// a webhook comes 1.3 to 3 seconds after a push, and with this after 0.2.
	FastQueues bool
}

const (
	// startTimeout bounds a start; a machine that compiles at the same time is slow.
	startTimeout = 90 * time.Second
	// stopTimeout bounds what Gitea may take to finish what it does; GRACEFUL_HAMMER_TIME is less.
	stopTimeout = 30 * time.Second
)

// Server is a running Gitea. Its methods are safe for concurrent use, except
// Stop and Kill.
type Server struct {
	opts  Options
	state state
	ca    []byte
	http  *http.Client

	cmd      *exec.Cmd
	exited   chan struct{} // closed when the process has ended
	watchdog *watchdog
}

// Again are the options that start the same server again once it was stopped.
func (s *Server) Again() Options { return s.opts }

// Start starts a server and returns when it answers. The caller stops it.
func Start(ctx context.Context, opts Options) (*Server, error) { return start(ctx, opts, false) }

// start is [Start]; with temporary, the watchdog removes the folder in the end.
func start(ctx context.Context, opts Options, temporary bool) (_ *Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if opts.Dir, err = filepath.Abs(opts.Dir); err != nil {
		return nil, fmt.Errorf("giteatest: %w", err)
	}
	s := &Server{opts: opts}
	if err := os.MkdirAll(s.path("log"), 0o700); err != nil {
		return nil, fmt.Errorf("giteatest: %w", err)
	}
	if s.state, err = loadState(s.path("state.json")); err != nil {
		return nil, err
	}
	if err := s.choosePort(); err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if err := s.run(temporary); err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.Kill())
	}
	if err := s.ensureAdmin(ctx); err != nil {
		return nil, errors.Join(err, s.Kill())
	}
	return s, nil
}

// URL is the address of the server, without a slash at its end.
func (s *Server) URL() string {
	scheme := "http"
	if s.opts.TLS {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.state.Port))
}

// CA is the PEM certificate to trust; nil without TLS.
func (s *Server) CA() []byte { return s.ca }

// LogFile is what Gitea says.
func (s *Server) LogFile() string { return s.path("log", "gitea.log") }

// GitURL is the address of a repository for git, with credentials in it. A token
// takes the place of the password; without a user there are no credentials.
func (s *Server) GitURL(user, password, owner, repo string) string {
	u, err := url.Parse(s.URL())
	if err != nil {
		panic(err) // made above
	}
	if user != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.JoinPath(owner, repo+".git").String()
}

// Done is closed when the server has ended, by itself or not; its log says why.
func (s *Server) Done() <-chan struct{} { return s.exited }

// Stop ends the server: it may finish what it does, and is killed if that takes
// too long. A server that has ended already is no error.
func (s *Server) Stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		return s.watchdog.end()
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("giteatest: Gitea did not stop within %s and was killed", stopTimeout), s.Kill())
	}
}

// Kill ends the server at once, as a crash does.
func (s *Server) Kill() error {
	_ = s.cmd.Process.Kill()
	<-s.exited
	return s.watchdog.end()
}

func (s *Server) path(elem ...string) string {
	return filepath.Join(append([]string{s.opts.Dir}, elem...)...)
}

// choosePort sets the port of the server and remembers it.
func (s *Server) choosePort() (err error) {
	switch {
	case s.opts.Port != 0:
		s.state.Port = s.opts.Port
	case s.state.Port == 0:
		if s.state.Port, err = FreePort(); err != nil {
			return err
		}
	}
	if !free(s.state.Port) {
		return fmt.Errorf("giteatest: port %d is in use", s.state.Port)
	}
	return s.state.save(s.path("state.json"))
}

// firstPort is where [FreePort] begins, another one in each process, and triedPorts how
// many it has looked at since.
var (
	firstPort  = rand.IntN(1 << 16)
	triedPorts atomic.Int64
)

// FreePort returns a port of 127.0.0.1 for a server that is to be started, or started
// again, and another one each time. It is not left to the system to choose: what that
// gives it may give to somebody else before the server listens, or while it is stopped.
func FreePort() (int, error) {
	const first, count, tries = 20000, 12000, 100
	for range tries {
		if port := first + (firstPort+int(triedPorts.Add(1)))%count; free(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("giteatest: no free port from %d to %d", first, first+count-1)
}

func free(port int) bool {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

// prepare writes what Gitea reads at its start.
func (s *Server) prepare() error {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if s.opts.TLS {
		var err error
		if s.ca, err = certificate(s.path("cert.pem"), s.path("key.pem")); err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(s.ca)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	s.http = &http.Client{Transport: transport, Timeout: startTimeout}
	if err := styles(s.opts.StaticRoot, s.path("custom")); err != nil {
		return err
	}
	return s.writeConfig(s.path("app.ini"))
}

// run starts the process.
func (s *Server) run(temporary bool) error {
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("giteatest: %w", err)
	}
	defer log.Close() // the process has its own handle
	if s.watchdog, err = startWatchdog(s.opts.Dir, temporary); err != nil {
		return err
	}
	s.cmd = s.watchdog.command(s.opts.Binary, "web", "--config", s.path("app.ini"))
	s.cmd.Env = s.environ()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("giteatest: start Gitea: %w", err), s.watchdog.end())
	}
	s.exited = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // the log says why, better than its exit code
		close(s.exited)
	}()
	return nil
}

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context) error {
	for {
		err := s.api(ctx, http.MethodGet, "/api/healthz", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("giteatest: Gitea ended at its start:\n%s", tail(s.LogFile()))
		case <-ctx.Done():
			return fmt.Errorf("giteatest: Gitea does not come up: %w\n%s", err, tail(s.LogFile()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// environ is the environment of Gitea: nothing of the user's that Git or Gitea
// would heed.
func (s *Server) environ() []string {
	env := []string{
		"HOME=" + s.path("home"),
		"GIT_CONFIG_NOSYSTEM=1",
		"GITEA_WORK_DIR=" + s.opts.Dir,
		"GITEA_I_AM_BEING_UNSAFE_RUNNING_AS_ROOT=true", // as root in a container; it listens on loopback
	}
	user := "USER=git" // for a user without a name, as in some containers
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case name == "USER" && value != "":
			user = kv
		case name == "HOME", name == "USER", name == "XDG_CONFIG_HOME", name == "NOTIFY_SOCKET",
			strings.HasPrefix(name, "GIT_"), strings.HasPrefix(name, "GITEA_"), strings.HasPrefix(name, "LISTEN_"):
		default:
			env = append(env, kv)
		}
	}
	return append(env, user)
}

// tail returns the end of a log.
func tail(path string) string {
	const size = 4000
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-size):])
}
