package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"capstan.dev/capstan/api/v1alpha1"
)

// startTimeout bounds the start of each process; a machine that compiles at the
// same time is slow.
const startTimeout = 90 * time.Second

// Env is a running API server.
type Env struct {
	plane    *envtest.ControlPlane
	dir      string
	watchdog *watchdog
	client   client.Client

	mu    sync.Mutex
	users map[string]*envtest.AuthenticatedUser
}

// Run starts an API server, lets set have it, runs the tests and stops it. It
// returns what TestMain passes to os.Exit.
func Run(m *testing.M, set **Env) int {
	e, err := Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	*set = e
	code := m.Run()
	if err := e.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Start starts etcd and kube-apiserver and installs all CRDs. The caller stops
// it; see [Run] for tests.
func Start() (_ *Env, err error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	assets, err := findAssets(root)
	if err != nil {
		return nil, err
	}
	crds, err := crdFolders(root)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "capstan-testenv-")
	if err != nil {
		return nil, fmt.Errorf("testenv: %w", err)
	}
	e := &Env{dir: dir, users: map[string]*envtest.AuthenticatedUser{}}
	if e.watchdog, err = startWatchdog(dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Stop())
		}
	}()
	if err := e.startPlane(assets); err != nil {
		return nil, err
	}
	if err := e.makeClient(); err != nil {
		return nil, err
	}
	_, err = envtest.InstallCRDs(e.Config("testenv"), envtest.CRDInstallOptions{
		Scheme: e.client.Scheme(), Paths: crds, ErrorIfPathMissing: true, MaxTime: startTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("testenv: install CRDs: %w", err)
	}
	return e, nil
}

// Stop ends both processes and removes their files.
func (e *Env) Stop() error {
	var err error
	if e.plane != nil {
		err = e.plane.Stop()
	}
	return errors.Join(err, e.watchdog.end(), os.RemoveAll(e.dir))
}

// startPlane configures and starts etcd and kube-apiserver.
func (e *Env) startPlane(assets assets) error {
	apiServerPath, err := e.watchdog.wrap("kube-apiserver", assets.apiServer)
	if err != nil {
		return err
	}
	etcdPath, err := e.watchdog.wrap("etcd", assets.etcd)
	if err != nil {
		return err
	}
	policy := filepath.Join(e.dir, "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return fmt.Errorf("testenv: %w", err)
	}
	certs, data := filepath.Join(e.dir, "certs"), filepath.Join(e.dir, "data")
	for _, d := range []string{certs, data} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return fmt.Errorf("testenv: %w", err)
		}
	}
	logs, err := os.Create(e.logPath())
	if err != nil {
		return fmt.Errorf("testenv: %w", err)
	}
	defer logs.Close() // the processes have their own handle

	e.plane = &envtest.ControlPlane{
		Etcd: &envtest.Etcd{Path: etcdPath, DataDir: data, StartTimeout: startTimeout, StopTimeout: startTimeout},
		APIServer: &envtest.APIServer{
			Path: apiServerPath, CertDir: certs, StartTimeout: startTimeout, StopTimeout: startTimeout,
		},
	}
	e.plane.Etcd.Configure().Set("quota-backend-bytes", strconv.Itoa(4<<30)).Set("unsafe-no-fsync", "true")
	e.plane.APIServer.Configure().
		Set("advertise-address", "127.0.0.1").
		Set("endpoint-reconciler-type", "none").
		Set("service-cluster-ip-range", "10.96.0.0/16").
		Set("disable-admission-plugins", "ServiceAccount", "TaintNodesByCondition").
		Set("shutdown-delay-duration", "0s").
		Set("audit-policy-file", policy).
		Set("audit-log-path", e.auditPath()).
		Set("audit-log-mode", "blocking").
		Set("audit-log-maxsize", strconv.Itoa(1<<20)) // megabytes: never rotated
	e.plane.APIServer.Err, e.plane.APIServer.Out = logs, logs
	if err := e.plane.Start(); err != nil {
		return fmt.Errorf("testenv: start the API server: %w\n%s", err, tail(e.logPath()))
	}
	return nil
}

// makeClient makes the client of the environment itself.
func (e *Env) makeClient() error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("testenv: %w", err)
		}
	}
	c, err := client.New(e.Config("testenv"), client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("testenv: %w", err)
	}
	e.client = c
	return nil
}

// Client returns a client of user "testenv", who may do everything. It knows the
// kinds of Kubernetes, Capstan and CRDs; use unstructured objects for others.
func (e *Env) Client() client.Client { return e.client }

// Namespace makes a Namespace for one test. It is not removed: nothing here
// would finish its deletion.
func (e *Env) Namespace(t testing.TB) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	if err := e.client.Create(context.Background(), ns); err != nil {
		t.Fatalf("testenv: create a namespace: %v", err)
	}
	return ns.Name
}

// Address is host:port of the API server.
func (e *Env) Address() string {
	return net.JoinHostPort(e.plane.APIServer.SecureServing.Address, e.plane.APIServer.SecureServing.Port)
}

func (e *Env) auditPath() string { return filepath.Join(e.dir, "audit.log") }
func (e *Env) logPath() string   { return filepath.Join(e.dir, "kube-apiserver.log") }

// tail returns the end of a log.
func tail(path string) string {
	const size = 4000
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-size):])
}
