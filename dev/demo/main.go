// Command demo shows Capstan at work with nothing but this checkout: a management
// cluster with simulated machines, a Git repository with the sample fleet, and the
// agent that brings the one to the other.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
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

// machineBoot is how long a machine takes to boot: long enough to be seen.
const machineBoot = 2 * time.Second

func main() {
	signal.Ignore(syscall.SIGPIPE) // a pipe that is closed would end the demo on the spot and leave everything behind
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: "+err.Error())
		os.Exit(1)
	}
}

// demo is what is running.
type demo struct {
	root       string // of the checkout
	dir        string // holds everything the demo makes; removed at the end
	capstan    string // the binary
	repository string
	kubeconfig string
	config     *rest.Config
	client     client.Client
}

// run shows the demo until ctx ends, which is a good end at any moment.
func run(ctx context.Context) (err error) {
	d := &demo{}
	if d.root, err = filepath.Abs("."); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(d.root, "clusters")); err != nil {
		return fmt.Errorf("run the demo from the root of the checkout, with `make demo`: %w", err)
	}
	d.capstan = filepath.Join(d.root, "bin", "capstan")
	if d.dir, err = os.MkdirTemp("", "capstan-demo-"); err != nil {
		return err
	}
	d.repository = filepath.Join(d.dir, "fleet")
	d.kubeconfig = filepath.Join(d.dir, "kubeconfig")
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

// say prints a line, below a ^C if need be.
func say(format string, args ...any) { fmt.Printf("\r==> "+format+"\n", args...) }

// show starts everything, shows it until ctx ends, and stops it. Parts that end by
// themselves call fail, which ends ctx.
func (d *demo) show(ctx context.Context, fail func(error)) (err error) {
	defer func() { say("stopped; removing %s", d.dir) }()
	defer context.AfterFunc(ctx, func() { say("stopping") })()
	stopCluster, err := d.startCluster(ctx, fail)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopCluster()) }()

	say("putting clusters/ into a Git repository")
	if err := d.makeRepository(ctx); err != nil {
		return err
	}
	say("installing Capstan's definitions, and starting the agent")
	if err := d.installDefinitions(); err != nil {
		return err
	}
	stopAgent, err := d.startAgent(ctx, fail)
	if err != nil {
		return err
	}
	defer stopAgent()

	say("creating the namespaces of the clusters, each with the credentials for Proxmox")
	if err := d.createCredentials(ctx); err != nil {
		return err
	}
	if err := d.createFleet(ctx); err != nil {
		return err
	}
	if err := d.awaitFirstSync(ctx); err != nil {
		return err
	}
	if err := d.explain(); err != nil {
		return err
	}
	return d.watch(ctx)
}

// startCluster starts the management cluster.
func (d *demo) startCluster(ctx context.Context, fail func(error)) (stop func() error, err error) {
	say("starting a management cluster with simulated machines")
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
		Progress: func(step string) { fmt.Println("    " + step) },
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

// makeRepository commits the sample fleet.
func (d *demo) makeRepository(ctx context.Context) error {
	if err := os.CopyFS(filepath.Join(d.repository, "clusters"), os.DirFS(filepath.Join(d.root, "clusters"))); err != nil {
		return fmt.Errorf("copy clusters/: %w", err)
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"config", "user.name", "demo"},
		{"config", "user.email", "demo@localhost"},
		{"config", "commit.gpgsign", "false"},
		{"add", "."},
		{"commit", "-q", "-m", "The sample fleet"},
	} {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", d.repository}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
	}
	return nil
}
