package capi

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/controllers/clustercache"
	"sigs.k8s.io/cluster-api/core/reconcilers/cluster"
	"sigs.k8s.io/cluster-api/core/reconcilers/clusterclass"
	"sigs.k8s.io/cluster-api/core/reconcilers/clusterresourceset"
	"sigs.k8s.io/cluster-api/core/reconcilers/clusterresourcesetbinding"
	"sigs.k8s.io/cluster-api/core/reconcilers/machine"
	"sigs.k8s.io/cluster-api/core/reconcilers/machinedeployment"
	"sigs.k8s.io/cluster-api/core/reconcilers/machinehealthcheck"
	"sigs.k8s.io/cluster-api/core/reconcilers/machinepool"
	"sigs.k8s.io/cluster-api/core/reconcilers/machineset"
	topologycluster "sigs.k8s.io/cluster-api/core/reconcilers/topology/cluster"
	topologymachinedeployment "sigs.k8s.io/cluster-api/core/reconcilers/topology/machinedeployment"
	topologymachineset "sigs.k8s.io/cluster-api/core/reconcilers/topology/machineset"
	"sigs.k8s.io/cluster-api/util/secret"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/controller"
)

// Grace periods of the original: when a workload cluster that does not answer is reported.
const (
	remoteConnectionGracePeriod = 50 * time.Second
	remoteConditionsGracePeriod = 5 * time.Minute
)

func clusterOf(kubeconfigSecret string) string {
	return strings.TrimSuffix(kubeconfigSecret, "-"+string(secret.Kubeconfig))
}

// setupReconcilers leaves out only what moves stored objects to another version of their kind, and
// runtime extensions.
func setupReconcilers(ctx context.Context, mgr ctrl.Manager, cache clustercache.ClusterCache) error {
	secrets, err := secretMetadata(mgr)
	if err != nil {
		return err
	}
	c, live := mgr.GetClient(), mgr.GetAPIReader()
	opts := controller.Options{MaxConcurrentReconciles: Concurrency}
	type setup interface {
		SetupWithManager(context.Context, ctrl.Manager, controller.Options) error
	}
	for name, r := range map[string]setup{
		"Cluster": &cluster.Reconciler{
			Client: c, APIReader: live, ClusterCache: cache, RemoteConnectionGracePeriod: remoteConnectionGracePeriod,
		},
		"Machine": &machine.Reconciler{
			Client: c, APIReader: live, ClusterCache: cache, RemoteConditionsGracePeriod: remoteConditionsGracePeriod,
		},
		"MachineSet": &machineset.Reconciler{
			Client: c, APIReader: live, ClusterCache: cache, PreflightChecks: sets.New(clusterv1.MachineSetPreflightCheckAll),
		},
		"MachineDeployment":         &machinedeployment.Reconciler{Client: c, APIReader: live},
		"MachinePool":               &machinepool.Reconciler{Client: c, APIReader: live, ClusterCache: cache},
		"MachineHealthCheck":        &machinehealthcheck.Reconciler{Client: c, ClusterCache: cache},
		"ClusterResourceSetBinding": &clusterresourcesetbinding.Reconciler{Client: c},
		"ClusterClass":              &clusterclass.Reconciler{Client: c},
		"ClusterTopology":           &topologycluster.Reconciler{Client: c, APIReader: live, ClusterCache: cache},
		"MachineDeploymentTopology": &topologymachinedeployment.Reconciler{Client: c, APIReader: live},
		"MachineSetTopology":        &topologymachineset.Reconciler{Client: c, APIReader: live},
	} {
		if err := r.SetupWithManager(ctx, mgr, opts); err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
	}
	if err := (&clusterresourceset.Reconciler{Client: c, ClusterCache: cache}).SetupWithManager(ctx, mgr, opts, secrets); err != nil {
		return fmt.Errorf("controller ClusterResourceSet: %w", err)
	}
	return nil
}

// secretMetadata is a cache of the metadata of all Secrets, for ClusterResourceSets.
func secretMetadata(mgr ctrl.Manager) (ctrlcache.Cache, error) {
	cache, err := ctrlcache.New(mgr.GetConfig(), ctrlcache.Options{
		Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient(),
		SyncPeriod: ptr.To(syncPeriod),
		DefaultTransform: func(in any) (any, error) {
			if o, ok := in.(*metav1.PartialObjectMetadata); !ok || o.GroupVersionKind() != corev1.SchemeGroupVersion.WithKind("Secret") {
				return nil, fmt.Errorf("this cache is for the metadata of Secrets, not for %T", in)
			}
			return ctrlcache.TransformStripManagedFields()(in)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cache of the metadata of Secrets: %w", err)
	}
	return cache, mgr.Add(cache)
}
