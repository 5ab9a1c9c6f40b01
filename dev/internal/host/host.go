// Package host runs the real parts of the management cluster: etcd, kube-apiserver and
// kube-controller-manager, as processes on loopback whose data is kept in one folder.
package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"

	"capstan.dev/capstan/dev/internal/wire"
)

// Options say what to run, and where.
type Options struct {
	// Dir is the folder with everything that is kept: see OpenDir.
	Dir string
	// BinDirs are searched in this order for each of the binaries.
	BinDirs []string
	// Port of the published address of the API server. 0 is the port of the last start, or
	// any free one.
	Port int
	// ClusterAPI is the version of Cluster API whose objects are in the data.
	ClusterAPI string
	// Install, if set, is called as soon as the API server is ready. The garbage collector
	// starts after it and so knows the CRDs that it installs at once, not half a minute later.
	Install func(context.Context, *rest.Config) error
	// Audit, if set, is a file that gets two records for each request of a service account. Those of
	// the controllers here are not in it: they are administrators.
	Audit string
	// Progress, if set, is told what has been reached. It is first called when the folder is
	// locked for this Host.
	Progress func(step string)
	// Log is told the same.
	Log logr.Logger
}

// A Host is the running processes. Close it with Stop.
type Host struct {
	dir      string
	lock     *lock
	pki      *pki
	versions Versions
	log      logr.Logger

	forwarder    *wire.Forwarder
	forwarderEnd sync.WaitGroup

	processes []*process // in the order of their start
	stopOnce  sync.Once
	stopErr   error

	mu       sync.Mutex
	stopping bool
	err      error
	done     chan struct{}
}

// Start starts the processes and returns when the API server is ready. ctx is for the start
// only: what was started runs until Stop, or until this process ends.
func Start(ctx context.Context, opts Options) (_ *Host, err error) {
	if err := OpenDir(opts.Dir); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, err
	}
	h := &Host{dir: dir, log: opts.Log, done: make(chan struct{})}
	if h.lock, err = acquire(ctx, dir); err != nil {
		return nil, err
	}
	startCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // no use waiting for an API server whose etcd has ended
		select {
		case <-h.done:
			cancel()
		case <-startCtx.Done():
		}
	}()
	ctx = startCtx
	defer func() {
		if err == nil {
			return
		}
		if broken := h.Err(); broken != nil {
			err = broken
		}
		_ = h.Stop(context.WithoutCancel(ctx))
	}()
	step := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		h.log.Info(text)
		if opts.Progress != nil {
			opts.Progress(text)
		}
	}

	bin, err := findBinaries(ctx, opts.BinDirs)
	if err != nil {
		return nil, err
	}
	h.versions = Versions{ClusterAPI: opts.ClusterAPI, Kubernetes: bin.kubernetes, Etcd: bin.etcdVersion}
	kept, err := readState(dir)
	if err != nil {
		return nil, err
	}
	if err := kept.check(dir, h.versions); err != nil {
		return nil, err
	}
	if h.pki, err = loadPKI(filepath.Join(dir, "pki"), time.Now()); err != nil {
		return nil, err
	}
	port := kept.Port
	if opts.Port != 0 {
		port = opts.Port
	}
	if err := h.publish(ctx, port); err != nil {
		return nil, err
	}
	// From here on the folder belongs to these versions. A crash before it leaves nothing in
	// the folder that other versions could not use.
	err = writeState(dir, state{Format: stateFormat, Versions: h.versions, Port: h.forwarder.Addr().Port})
	if err != nil {
		return nil, err
	}

	etcd, err := h.startEtcd(ctx, bin.etcd)
	if err != nil && kept != (state{}) && ctx.Err() == nil {
		err = fmt.Errorf("%w\nif its data are damaged, %s", err, wayOut(dir))
	}
	if err != nil {
		return nil, err
	}
	step("etcd %s is up", h.versions.Etcd)
	apiServer, err := h.startAPIServer(ctx, bin.apiServer, etcd, opts.Audit)
	if err != nil {
		return nil, err
	}
	h.forwarder.SetTarget(apiServer)
	step("kube-apiserver %s is up at %s", h.versions.Kubernetes, h.address())
	if err := h.writeKubeconfigs(apiServer); err != nil {
		return nil, err
	}
	if opts.Install != nil {
		if err := opts.Install(ctx, h.RESTConfig()); err != nil {
			return nil, err
		}
	}
	if err := h.startControllerManager(bin.controllerManager); err != nil {
		return nil, err
	}
	step("kube-controller-manager is up with its garbage collector and namespace controller")
	return h, nil
}

// publish listens where clients find the API server. The API server itself is on a port that
// it gets at each start, behind it.
func (h *Host) publish(ctx context.Context, port int) error {
	addr := net.JoinHostPort(loopback, strconv.Itoa(port))
	f, err := wire.Listen(addr, "")
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %s is taken (needed for the API server of %s); stop what uses it or pass --port", addr, h.dir)
	case err != nil:
		return fmt.Errorf("listen for the API server of %s: %w", h.dir, err)
	}
	h.forwarder = f
	run := context.WithoutCancel(ctx) // Stop closes it
	h.forwarderEnd.Go(func() { _ = f.Run(run) })
	return nil
}

// address is the published address of the API server.
func (h *Host) address() string { return "https://" + h.forwarder.Addr().String() }

// Dir is the absolute path of the folder.
func (h *Host) Dir() string { return h.dir }

// Versions of what runs.
func (h *Host) Versions() Versions { return h.versions }

// Wire is the way to the API server for everyone but kube-controller-manager, to be slowed
// down or cut.
func (h *Host) Wire() *wire.Forwarder { return h.forwarder }

// RESTConfig is a way to the API server with all rights, at its published address and without
// a limit on requests.
func (h *Host) RESTConfig() *rest.Config {
	return &rest.Config{
		Host: h.address(),
		TLSClientConfig: rest.TLSClientConfig{
			CAData: h.pki.caPEM, CertData: h.pki.admin.certPEM, KeyData: h.pki.admin.keyPEM,
		},
		QPS: -1,
	}
}

// Kubeconfig is the path of the same for people.
func (h *Host) Kubeconfig() string { return filepath.Join(h.dir, "kubeconfig") }

// CA is the certificate, in PEM, of the authority that signed all others.
func (h *Host) CA() []byte { return h.pki.caPEM }

// Serving returns the paths of a certificate of that authority for servers on loopback, and of
// its key.
func (h *Host) Serving() (certFile, keyFile string) {
	return h.pki.serving.certFile, h.pki.serving.keyFile
}

// Done is closed when a process has ended by itself, or by Stop.
func (h *Host) Done() <-chan struct{} { return h.done }

// Err says why Done is closed; nil if by Stop.
func (h *Host) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// supervise breaks the Host when p ends before Stop.
func (h *Host) supervise(p *process) {
	h.processes = append(h.processes, p)
	go func() {
		<-p.done
		h.end(p.failure())
	}()
}

// end closes Done, the first time.
func (h *Host) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.done:
		return
	default:
	}
	if h.stopping {
		err = nil
	} else {
		h.log.Error(err, "the management cluster is broken")
	}
	h.err = err
	close(h.done)
}

// Stop ends the processes, each after those that need it, and unlocks the folder. Processes
// that have not ended when ctx does are killed. Clients see their connections end.
func (h *Host) Stop(ctx context.Context) error {
	h.stopOnce.Do(func() { h.stopErr = h.stop(ctx) })
	return h.stopErr
}

func (h *Host) stop(ctx context.Context) error {
	h.mu.Lock()
	h.stopping = true
	broken := h.err != nil
	h.mu.Unlock()
	if broken {
		// What is left may be without what it needs to end in good order.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
	}
	if h.forwarder != nil {
		// Before the API server, which would wait for its clients.
		h.forwarder.Close()
		h.forwarderEnd.Wait()
	}
	var errs []error
	for i := len(h.processes) - 1; i >= 0; i-- {
		errs = append(errs, h.processes[i].stop(ctx))
	}
	h.end(nil)
	return errors.Join(append(errs, h.lock.release())...)
}

// writeKubeconfigs writes the kubeconfig for people and the one of kube-controller-manager.
func (h *Host) writeKubeconfigs(apiServer string) error {
	for _, k := range []struct {
		path, server string
		identity     identity
	}{
		{h.Kubeconfig(), h.address(), h.pki.admin},
		{h.controllerManagerKubeconfig(), "https://" + apiServer, h.pki.controllerManager},
	} {
		content, err := kubeconfig(k.server, h.pki.caPEM, k.identity)
		if err != nil {
			return fmt.Errorf("make %s: %w", k.path, err)
		}
		if err := WriteFile(k.path, content); err != nil {
			return err
		}
	}
	return nil
}

// WriteFile replaces a file that only its owner may read. Readers see the old or the new
// content, and so they do after a crash of this process.
func WriteFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp") // made with 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
