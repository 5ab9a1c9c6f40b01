package capi

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/cluster-api/controllers/clustercache"
	"sigs.k8s.io/cluster-api/core/setup"
	"sigs.k8s.io/cluster-api/feature"
	"sigs.k8s.io/cluster-api/util/index"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/go-logr/logr"
)

// name is what the original calls itself.
const name = "cluster-api-controller-manager"

// informers counts managers: the names of their informers must differ within a process.
var informers atomic.Int32

// Concurrency is how many objects of a kind each controller works on at once. Many more are slower: on a
// busy machine the controllers then fight over stale caches.
const Concurrency = 6

// patience is how long the ClusterCache waits for a workload cluster before it tries to connect and, having
// failed, waits for another 30 seconds.
const patience = 10 * time.Minute

// syncPeriod is the original's, for those who don't ask for another.
const syncPeriod = 10 * time.Minute

// NewManager returns the manager that everything shares, with the caches and clients of the original. Its
// controllers look at everything again after resync, 0 for as often as the original's.
func NewManager(c *rest.Config, scheme *runtime.Scheme, hooks webhook.Server, resync time.Duration, log logr.Logger) (ctrl.Manager, error) {
	// The gates are the process's; all others are as in the original. The one for rate limits too, though it
	// costs a second here and there: without it controllers don't wait for their caches after a write.
	if err := feature.MutableGates.SetFromMap(map[string]bool{
		"ClusterTopology": true, "KubeadmBootstrapFormatIgnition": true,
	}); err != nil {
		return nil, err
	}
	return ctrl.NewManager(c, ctrl.Options{
		Scheme: scheme,
		Logger: log,
		Controller: config.Controller{
			UsePriorityQueue: ptr.To(feature.Gates.Enabled(feature.PriorityQueue)),
			// A process may run more than one management cluster, one after the other.
			SkipNameValidation: ptr.To(true),
		},
		Cache:         setup.ManagerCacheOptions(scheme, fmt.Sprintf("%s-%d", name, informers.Add(1)), "", cmp.Or(resync, syncPeriod)),
		Client:        setup.ManagerClientOptions(),
		Metrics:       metricsserver.Options{BindAddress: "0"},
		WebhookServer: hooks,
		// What still runs when the context ends is cut off with the API server. More would not help: the
		// ClusterCache can hang in the delivery of an event whose readers have gone.
		GracefulShutdownTimeout: ptr.To(2 * time.Second),
	})
}

// Setup registers the core controllers and webhooks. Before the ClusterCache connects to a workload
// cluster it waits in connectable, at most until the context ends: after a failed attempt it would wait
// 30 seconds, which is nothing beside real machines and much beside these.
func Setup(ctx context.Context, mgr ctrl.Manager, connectable func(ctx context.Context, cluster client.ObjectKey)) (clustercache.ClusterCache, error) {
	if err := index.AddDefaultIndexes(ctx, mgr); err != nil {
		return nil, fmt.Errorf("indexes: %w", err)
	}
	secrets, err := setup.CreateSecretCachingClient(mgr)
	if err != nil {
		return nil, fmt.Errorf("client for Secrets: %w", err)
	}
	cache, err := clustercache.SetupWithManager(ctx, mgr, clustercache.Options{
		SecretClient: patientReader{secrets, connectable},
		Cache:        setup.ClusterCacheCacheOptions(),
		Client:       setup.ClusterCacheClientOptions(name, 20, 30),
		// A worker waits while its cluster boots: there are enough for many clusters, and longer than the
		// minute that Cluster API gives a reconcile.
	}, controller.Options{MaxConcurrentReconciles: 1000, ReconciliationTimeout: patience + time.Minute})
	if err != nil {
		return nil, fmt.Errorf("ClusterCache: %w", err)
	}
	if err := setupReconcilers(ctx, mgr, cache); err != nil {
		return nil, err
	}
	if err := setupWebhooks(mgr, cache); err != nil {
		return nil, err
	}
	return cache, nil
}

// patientReader reads the kubeconfig Secret of a cluster once that leads somewhere.
type patientReader struct {
	client.Reader
	connectable func(ctx context.Context, cluster client.ObjectKey)
}

func (r patientReader) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	cluster := key
	cluster.Name = clusterOf(key.Name)
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r.connectable(waiting, cluster)
	return r.Reader.Get(ctx, key, obj, opts...)
}
