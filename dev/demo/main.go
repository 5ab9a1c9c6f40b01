// Command demo shows Capstan at work with nothing but this checkout: a management
// cluster with simulated machines, a Git repository with the sample fleet, in a folder
// or on a real Gitea, and the agent that brings the one to the other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev"
)

// namespace is where the agent and its Fleet live.
const namespace = "capstan-system"

// fleetName is the name of the Fleet.
const fleetName = "demo"

// machineBoot is how long a machine takes to boot: long enough to be seen.
const machineBoot = 2 * time.Second

// options say what is shown.
type options struct {
	root    string // of the checkout
	capstan string // the binary
	// gitea keeps the repository on a real Gitea, fast with short queues there.
	gitea, fast bool
	out         io.Writer
}

func main() {
	signal.Ignore(syscall.SIGPIPE) // a pipe that is closed would end the demo on the spot and leave everything behind
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := start(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: "+err.Error())
		os.Exit(1)
	}
}

func start(ctx context.Context) (err error) {
	o := options{out: os.Stdout}
	flag.BoolVar(&o.gitea, "gitea", false, "keep the repository on a real Gitea: webhooks, commit statuses, a pull request")
	flag.Parse()
	if o.root, err = filepath.Abs("."); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.root, "clusters")); err != nil {
		return fmt.Errorf("run the demo from the root of the checkout, with `make demo` or `make demo-gitea`: %w", err)
	}
	o.capstan = filepath.Join(o.root, "bin", "capstan")
	return run(ctx, o)
}

// demo is what is running.
type demo struct {
	options

	dir        string // holds everything the demo makes; removed at the end
	repository string // where the person commits
	host       host
	kubeconfig string
	config     *rest.Config
	client     client.Client
}

// run shows the demo until ctx ends, which is a good end at any moment.
func run(ctx context.Context, o options) (err error) {
	d := &demo{options: o}
	if d.dir, err = os.MkdirTemp("", "capstan-demo-"); err != nil {
		return err
	}
	d.repository = filepath.Join(d.dir, "fleet")
	d.kubeconfig = filepath.Join(d.dir, "kubeconfig")
	d.host = folder{d}
	if o.gitea {
		d.host = &onGitea{demo: d}
	}
	show, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	err = d.show(show, fail)
	switch {
	case ctx.Err() != nil:
		err = nil // the person has seen enough
	case show.Err() != nil:
		err = context.Cause(show)
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

// say prints a line, below a ^C if need be. A reader that is gone is noticed by watch.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "\r==> "+format+"\n", args...)
}

// show starts everything, shows it until ctx ends, and stops it. Parts that end by
// themselves call fail, which ends ctx.
func (d *demo) show(ctx context.Context, fail func(error)) (err error) {
	defer func() { d.say("stopped; removing %s", d.dir) }()
	defer context.AfterFunc(ctx, func() { d.say("stopping") })()
	stopCluster, err := d.startCluster(ctx, fail)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopCluster()) }()

	stopHost, err := d.host.start(ctx, fail)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopHost()) }()

	d.say("putting clusters/ into a Git repository")
	if err := d.makeRepository(ctx); err != nil {
		return err
	}
	if err := d.host.publish(ctx); err != nil {
		return err
	}
	d.say("installing Capstan's definitions, and starting the agent")
	if err := d.installDefinitions(); err != nil {
		return err
	}
	stopAgent, err := d.startAgent(ctx, fail)
	if err != nil {
		return err
	}
	defer stopAgent()

	d.say("creating the namespaces of the clusters, each with the credentials for Proxmox")
	if err := d.createCredentials(ctx); err != nil {
		return err
	}
	if err := d.createFleet(ctx); err != nil {
		return err
	}
	if err := d.awaitFirstSync(ctx); err != nil {
		return err
	}
	if err := d.host.show(ctx); err != nil {
		return err
	}
	if err := d.explain(); err != nil {
		return err
	}
	return d.watch(ctx)
}

// startCluster starts the management cluster.
func (d *demo) startCluster(ctx context.Context, fail func(error)) (stop func() error, err error) {
	d.say("starting a management cluster with simulated machines")
	log, err := os.Create(d.clusterLog())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = log.Close()
		}
	}()
	cluster, err := dev.Start(ctx, dev.Options{
		Dir: filepath.Join(d.dir, "management"), BinDirs: d.binDirs(), MachineBoot: machineBoot,
		Progress: func(step string) { fmt.Fprintln(d.out, "    "+step) },
		Log:      logr.FromSlogHandler(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		return nil, err
	}
	go func() { //nolint:contextcheck // it waits for the end, whatever ends it
		if err := cluster.Wait(); err != nil {
			fail(fmt.Errorf("the management cluster ended: %w", err))
		}
	}()
	stop = func() error { return errors.Join(cluster.Stop(), log.Close()) } //nolint:contextcheck // ctx has ended by then
	if err = d.connect(cluster); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// connect makes the client, and the kubeconfig for the agent and for people.
func (d *demo) connect(cluster *dev.Cluster) error {
	kubeconfig, err := clientcmd.LoadFromFile(cluster.Kubeconfig())
	if err != nil {
		return err
	}
	for _, c := range kubeconfig.Contexts {
		c.Namespace = namespace
	}
	if err := clientcmd.WriteToFile(*kubeconfig, d.kubeconfig); err != nil {
		return err
	}
	d.config = cluster.RESTConfig()
	d.client, err = client.New(d.config, client.Options{})
	return err
}

// binDirs are where etcd, parts of Kubernetes, and kubectl may be.
func (d *demo) binDirs() []string {
	dirs := []string{filepath.Join(d.root, "bin")}
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		dirs = append([]string{assets}, dirs...)
	}
	return dirs
}

func (d *demo) clusterLog() string { return filepath.Join(d.dir, "management.log") }
func (d *demo) agentLog() string   { return filepath.Join(d.dir, "agent.log") }
