package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/web"
)

type runOptions struct {
	agent.Options
	leaderElect         bool
	metricsAddr, health string
	webhook, external   string
	logLevel, logFormat string
	watchNamespace      string
	shutdown            time.Duration
}

func newRunCommand(a *app) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use: "run", Short: "Run the agent", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), a, o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.CacheDir, "cache-dir", filepath.Join(os.TempDir(), "capstan"), "folder for Git mirrors; only a cache")
	flags.BoolVar(&o.AllowLocal, "allow-local", false, "allow Fleets whose URL is a path on this machine")
	flags.StringVar(&o.watchNamespace, "watch-namespace", "", "look for Fleets in this namespace only; default: all")
	flags.BoolVar(&o.leaderElect, "leader-elect", true, "let one replica act at a time")
	flags.StringVar(&o.metricsAddr, "metrics-address", ":8080", "address that serves /metrics; 0 turns it off")
	flags.StringVar(&o.health, "health-address", ":8081", "address that serves /healthz and /readyz; 0 turns it off")
	flags.StringVar(&o.webhook, "webhook-address", ":9292", "address that receives the forge's webhooks at /webhooks/NAMESPACE/FLEET; 0 turns it off")
	flags.StringVar(&o.external, "external-url", "", "where people reach the webhook address in a browser; turns the status page on, and commit statuses link to it")
	flags.IntVar(&o.FleetWorkers, "fleet-workers", 16, "Fleets fetched at a time")
	flags.IntVar(&o.OverlayWorkers, "overlay-workers", 0, "overlays rendered and applied at a time; default: 4 for each core")
	flags.IntVar(&o.PullWorkers, "pull-request-workers", 1, "pull requests planned at a time")
	flags.IntVar(&o.MetricsOverlays, "metrics-max-overlays", 2000, "overlays with metrics of their own; those that need attention come first")
	flags.IntVar(&o.Requests, "requests", 8, "requests to managed objects in flight")
	flags.DurationVar(&o.shutdown, "shutdown-timeout", 20*time.Second, "time for work in progress to end after a signal")
	flags.StringVar(&o.logLevel, "log-level", "info", "info or debug")
	flags.StringVar(&o.logFormat, "log-format", "json", "json or text")
	return cmd
}

// run wires the agent together and runs it until the context ends.
func run(ctx context.Context, a *app, o runOptions) error {
	if o.FleetWorkers < 1 || o.OverlayWorkers < 0 || o.Requests < 1 || o.PullWorkers < 1 || o.MetricsOverlays < 1 {
		return errors.New("--fleet-workers, --overlay-workers, --pull-request-workers, --requests and --metrics-max-overlays must be positive")
	}
	logger, err := newLogger(a, o)
	if err != nil {
		return err
	}
	ctrl.SetLogger(logger)
	klog.SetLogger(logger)
	config, namespace, err := a.connect()
	if err != nil {
		return err
	}
	counted, err := agent.CountRequests(ctrlmetrics.Registry)
	if err != nil {
		return err
	}
	config.Wrap(counted)
	managerOptions := manager.Options{
		Scheme: newScheme(), Logger: logger,
		LeaderElection: o.leaderElect, LeaderElectionID: "capstan.capstan.dev", LeaderElectionNamespace: namespace,
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       server.Options{BindAddress: o.metricsAddr},
		HealthProbeBindAddress:        o.health,
		GracefulShutdownTimeout:       &o.shutdown,
	}
	managerOptions.Cache.DefaultTransform = agent.Trim
	if o.watchNamespace != "" {
		managerOptions.Cache.DefaultNamespaces = map[string]cache.Config{o.watchNamespace: {}}
	}
	mgr, err := manager.New(config, managerOptions)
	if err != nil {
		return fmt.Errorf("set the manager up: %w", err)
	}
	o.Options.Namespace, o.Options.Registerer, o.Options.Log = namespace, ctrlmetrics.Registry, logger
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to render pull requests in a child of it: %w", err)
	}
	o.Sandbox = []string{self, sandboxCommand}
	if err := receive(mgr, &o); err != nil {
		return err
	}
	if err := agent.Setup(ctx, mgr, o.Options); err != nil {
		return err
	}
	if err := errors.Join(
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("caches", cachesSynced(mgr)),
	); err != nil {
		return err
	}
	render.Prime()
	if err := mgr.Add(manager.RunnableFunc(releaseMemory)); err != nil {
		return fmt.Errorf("set the release of memory up: %w", err)
	}
	if err := ctrlmetrics.Registry.Register(buildInfo()); err != nil {
		return fmt.Errorf("register the build's metric: %w", err)
	}
	logger.Info("starting", "version", versionText(), "namespace", namespace)
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run the agent: %w", err)
	}
	return nil
}

// receive wires the server of webhooks and the status page, if there is to be one.
func receive(mgr manager.Manager, o *runOptions) error {
	if o.external != "" {
		if o.webhook == "0" {
			return errors.New("--external-url: the status page is served at --webhook-address, which is turned off")
		}
		if err := web.CheckExternal(o.external); err != nil {
			return fmt.Errorf("--external-url: %w", err)
		}
	}
	if o.webhook == "0" {
		return nil
	}
	o.Hooks, o.Pages = &agent.Hooks{}, links(o.external)
	options := web.Options{Fleets: o.Hooks, Hints: o.Hooks, Registerer: o.Registerer, Log: o.Log.WithName("web")}
	if o.external != "" {
		options.Pages = agent.Overview{Reader: mgr.GetClient(), Namespace: o.watchNamespace}
	}
	handler, err := web.Handler(options)
	if err != nil {
		return err
	}
	server, err := web.Listen(o.webhook, handler, options.Log, o.shutdown/2)
	if err != nil {
		return fmt.Errorf("--webhook-address: %w", err)
	}
	o.Log.Info("receiving webhooks", "address", server.Addr())
	return mgr.Add(server)
}

// links are those to the status page at an external URL; none if that is empty.
type links string

// URL implements [agent.Pages].
func (l links) URL(fleet types.NamespacedName, overlay string) string {
	if overlay == "" {
		return web.FleetURL(string(l), fleet)
	}
	return web.OverlayURL(string(l), fleet, overlay)
}

// buildInfo is the metric that says which build runs.
func buildInfo() prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "capstan_build_info", Help: "The build of the agent, always 1.",
		ConstLabels: prometheus.Labels{"version": versionText(), "go_version": runtime.Version()},
	})
	info.Set(1)
	return info
}

// cachesSynced is ready once the agent knows all Fleets and overlays.
func cachesSynced(mgr manager.Manager) healthz.Checker {
	return func(req *http.Request) error {
		ctx, cancel := context.WithTimeout(req.Context(), time.Second)
		defer cancel()
		if !mgr.GetCache().WaitForCacheSync(ctx) {
			return errors.New("the caches are not filled yet")
		}
		return nil
	}
}

func newLogger(a *app, o runOptions) (logr.Logger, error) {
	var options zap.Options
	switch o.logLevel {
	case "info":
		options.Level = zapcore.InfoLevel
	case "debug":
		options.Level = zapcore.DebugLevel
	default:
		return logr.Logger{}, fmt.Errorf("--log-level %q: want info or debug", o.logLevel)
	}
	switch o.logFormat {
	case "json":
	case "text":
		options.Development = true
	default:
		return logr.Logger{}, fmt.Errorf("--log-format %q: want json or text", o.logFormat)
	}
	options.DestWriter, options.StacktraceLevel, options.TimeEncoder = a.err, zapcore.PanicLevel, zapcore.RFC3339TimeEncoder
	return zap.New(zap.UseFlagOptions(&options)), nil
}
