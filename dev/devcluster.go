// Package dev is a management cluster for Cluster API on one machine: a real API server with the real
// controllers of Cluster API, beside providers whose machines are simulated. Command devcluster is its
// command line; tests and the demo start it from here.
package dev

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"

	"capstan.dev/capstan/dev/internal/capi"
	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/endpoint"
	"capstan.dev/capstan/dev/internal/hooks"
	"capstan.dev/capstan/dev/internal/host"
	"capstan.dev/capstan/dev/internal/wire"
	"capstan.dev/capstan/dev/internal/workload"
)

// Options for Start.
type Options struct {
	// Dir keeps everything: data, keys, logs, the kubeconfig. It may be one of an earlier start.
	Dir string
	// BinDirs are searched for kube-apiserver, etcd and kube-controller-manager.
	BinDirs []string
	// Port of the API server; 0 is that of the last start, or any free one.
	Port int
	// MachineBoot is how long a virtual machine takes to boot; 0 is at once. Cloning takes a quarter of
	// it on top.
	MachineBoot time.Duration
	// Chaos is what goes wrong from the start.
	Chaos chaos.Knobs
	// Audit, if set, is a file that gets a record of each request of a service account.
	Audit string
	// Resync is how often the controllers look at everything again; 0 is every ten minutes.
	Resync time.Duration
	// ProviderCRDs are files or folders with definitions that take the place of those in dev/crds of the
	// same name: those of the real providers.
	ProviderCRDs []string
	// Progress, if set, is told what has been reached.
	Progress func(step string)
	Log      logr.Logger
}

// Cluster is a running management cluster.
type Cluster struct {
	host       *host.Host
	monkey     *chaos.Monkey
	datacenter *datacenter.Datacenter
	cloud      *workload.Cloud
	hookWire   *wire.Forwarder

	cancel  context.CancelFunc
	running sync.WaitGroup
	manager chan error // what the manager ended with
	stopped chan struct{}
	once    sync.Once
	err     error
}

// Start returns when everything works: definitions are served, controllers run, webhooks answer. ctx is
// for the start only; Stop ends what was started. One Cluster in a process is meant to run at a time: Cluster
// API has global variables, and with two the conversion of Cluster kinds is that of the one started last.
func Start(ctx context.Context, opts Options) (_ *Cluster, err error) {
	setLogger(opts.Log)
	crds, err := readCRDs(opts.ProviderCRDs)
	if err != nil {
		return nil, err
	}
	server, err := hooks.Listen()
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &Cluster{cancel: cancel, manager: make(chan error, 1), stopped: make(chan struct{}), monkey: chaos.New(opts.Chaos)}
	defer func() { //nolint:contextcheck // ctx may be what ended; Stop has a time limit of its own
		if err != nil {
			_ = server.Close()
			if c.cloud != nil {
				_ = c.cloud.Close()
			}
			_ = c.Stop()
		}
	}()
	if c.cloud, err = newCloud(opts.Dir, opts.Log.WithName("workload")); err != nil {
		return nil, err
	}
	if c.hookWire, err = wire.Listen("127.0.0.1:0", server.Address()); err != nil {
		return nil, fmt.Errorf("listen for webhooks: %w", err)
	}
	c.running.Go(func() { _ = c.hookWire.Run(run) })

	c.host, err = host.Start(ctx, host.Options{
		Dir: opts.Dir, BinDirs: opts.BinDirs, Port: opts.Port, ClusterAPI: capi.Version,
		Audit: opts.Audit, Progress: opts.Progress, Log: opts.Log.WithName("host"),
		Install: func(ctx context.Context, config *rest.Config) error {
			return installAll(ctx, config, crds, c.hookWire.Addr().String(), server.Address())
		},
	})
	if err != nil {
		return nil, err
	}
	if err := keepAddress(opts.Dir, c.cloud); err != nil {
		return nil, err
	}
	if err := server.Certificate(c.host.Serving()); err != nil {
		return nil, err
	}
	mgr, err := c.newManager(run, server, opts)
	if err != nil {
		return nil, err
	}
	c.running.Go(func() { c.manager <- mgr.Start(run) })
	if err := c.awaitManager(ctx, mgr, server); err != nil {
		return nil, err
	}
	if err := endpoint.Renew(ctx, mgr.GetClient(), c.cloud.Address()); err != nil {
		return nil, err
	}
	c.monkey.OnChange(func(k chaos.Knobs) {
		c.host.Wire().SetDelay(k.APIDelay)
		if err := c.hookWire.SetDown(k.WebhookDown); err != nil {
			opts.Log.Error(err, "the webhooks cannot be reached again")
		}
	})
	c.running.Go(c.supervise)
	if opts.Progress != nil {
		opts.Progress("Cluster API " + capi.Version + " and the simulated providers are up")
	}
	return c, nil
}

// newManager puts the controllers and webhooks of everyone into one manager.
func (c *Cluster) newManager(run context.Context, server *hooks.Server, opts Options) (ctrl.Manager, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	log := opts.Log.WithName("manager")
	mgr, err := capi.NewManager(capi.Config(c.host.RESTConfig()), scheme, server, opts.Resync, log)
	if err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	c.datacenter = datacenter.New(datacenter.Options{Boot: opts.MachineBoot, Cloud: c.cloud, Chaos: c.monkey, Log: log})
	for _, r := range []interface{ Start(context.Context) error }{c.cloud, c.datacenter} {
		if err := mgr.Add(runnable{r}); err != nil {
			return nil, err
		}
	}
	endpoint.Setup(mgr, c.cloud.Address())
	clusters, err := capi.Setup(run, mgr, func(ctx context.Context, cluster types.NamespacedName) {
		awaitConnectable(ctx, mgr.GetClient(), c.datacenter, cluster)
	})
	if err != nil {
		return nil, err
	}
	return mgr, setupProviders(run, mgr, clusters, c.cloud, c.datacenter, log)
}

// runnable starts with the manager's first group, before caches and controllers.
type runnable struct {
	r interface{ Start(context.Context) error }
}

func (r runnable) Start(ctx context.Context) error { return r.r.Start(ctx) }
func (r runnable) NeedLeaderElection() bool        { return false }

// awaitManager waits until the caches are filled and the webhooks answer.
func (c *Cluster) awaitManager(ctx context.Context, mgr ctrl.Manager, server *hooks.Server) error {
	synced := make(chan bool, 1)
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-mgr.Elected() // closed once webhooks and caches run
		synced <- mgr.GetCache().WaitForCacheSync(wait)
	}()
	select {
	case <-ctx.Done():
		return fmt.Errorf("the controllers did not start in time: %w", ctx.Err())
	case err := <-c.manager:
		c.manager <- err
		return fmt.Errorf("the controllers ended: %w", err)
	case <-c.host.Done():
		return c.host.Err()
	case ok := <-synced:
		if !ok {
			return errors.New("the controllers' caches were not filled in time")
		}
	}
	return server.StartedChecker()(nil)
}

// supervise ends everything when a part of it ends by itself.
func (c *Cluster) supervise() {
	var err error
	select {
	case <-c.stopped:
	case <-c.host.Done():
		err = c.host.Err()
	case managerErr := <-c.manager:
		err = fmt.Errorf("the controllers ended: %w", managerErr)
	}
	select {
	case <-c.stopped: // so that is why
		return
	default:
	}
	c.err = err
	go func() { _ = c.Stop() }()
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.host.Kubeconfig() }

// RESTConfig is the administrator's way to the API server.
func (c *Cluster) RESTConfig() *rest.Config { return c.host.RESTConfig() }

// Versions of what runs.
func (c *Cluster) Versions() host.Versions { return c.host.Versions() }

// SetChaos changes what goes wrong.
func (c *Cluster) SetChaos(knobs chaos.Knobs) { c.monkey.Set(knobs) }

// Wait returns when the cluster has ended, with the reason if it was not Stop.
func (c *Cluster) Wait() error {
	<-c.stopped
	_ = c.Stop() // returns when whoever stops it has finished
	return c.err
}

// Stop ends everything, controllers first; the data stay in the folder.
func (c *Cluster) Stop() error {
	var err error
	c.once.Do(func() {
		close(c.stopped)
		c.cancel()
		if c.hookWire != nil {
			c.hookWire.Close()
		}
		c.running.Wait()
		if c.host != nil {
			timeout, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			err = c.host.Stop(timeout)
		}
	})
	return err
}
