package dev

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/controllers/clustercache"
	"sigs.k8s.io/cluster-api/util/secret"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/capi"
	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/ipam"
	"capstan.dev/capstan/dev/internal/kubeadm"
	"capstan.dev/capstan/dev/internal/proxmox"
	"capstan.dev/capstan/dev/internal/talos/bootstrap"
	"capstan.dev/capstan/dev/internal/talos/controlplane"
	"capstan.dev/capstan/dev/internal/workload"
)

// setupProviders registers the simulated providers, and kubeadm's real ones.
func setupProviders(ctx context.Context, mgr ctrl.Manager, clusters clustercache.ClusterCache, cloud *workload.Cloud, dc *datacenter.Datacenter, log logr.Logger) error {
	for name, setup := range map[string]func() error{
		"Talos bootstrap": func() error { return bootstrap.Setup(ctx, mgr, bootstrap.Options{Log: log.WithName("cabpt")}) },
		"Talos control plane": func() error {
			return controlplane.Setup(ctx, mgr, controlplane.Options{
				Datacenter: dc, Cloud: cloud, Concurrency: capi.Concurrency, Log: log.WithName("cacppt"),
			})
		},
		"Proxmox": func() error {
			return proxmox.Setup(ctx, mgr, proxmox.Options{Datacenter: dc, Log: log.WithName("capmox")})
		},
		"in-cluster IPAM": func() error { return ipam.Setup(ctx, mgr, ipam.Options{Log: log.WithName("ipam")}) },
		"kubeadm": func() error {
			return kubeadm.Setup(ctx, mgr, kubeadm.Options{
				ClusterCache: clusters, APIVersion: capi.APIVersion(mgr.GetClient()), Cloud: cloud, Datacenter: dc,
				Concurrency: capi.Concurrency, Log: log.WithName("kubeadm"),
			})
		},
	} {
		if err := setup(); err != nil {
			return fmt.Errorf("%s provider: %w", name, err)
		}
	}
	return nil
}

// awaitConnectable returns when the API server of a workload cluster answers and its kubeconfig Secret is
// there, or when that is not to be expected any more.
func awaitConnectable(ctx context.Context, c client.Client, dc *datacenter.Datacenter, key types.NamespacedName) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		cluster := &clusterv1.Cluster{}
		if err := c.Get(ctx, key, cluster); err != nil || !cluster.DeletionTimestamp.IsZero() {
			return
		}
		if dc.APIServerUp(key) {
			if _, err := secret.GetFromNamespacedName(ctx, c, key, secret.Kubeconfig); err == nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

var loggerOnce sync.Once

// setLogger gives the libraries' global loggers the first one that is set: they have no other way.
func setLogger(log logr.Logger) {
	loggerOnce.Do(func() {
		ctrl.SetLogger(log)
		klog.SetLogger(log)
	})
}
