// Package ipam simulates the in-cluster IPAM provider v1.1.0: it gives the addresses of
// InClusterIPPools and GlobalInClusterIPPools to Cluster API's IPAddressClaims. Its pools of
// prefixes, InClusterPrefixPool and GlobalInClusterPrefixPool, are left out.
package ipam

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Webhooks is the provider's webhook configurations, as YAML.
//
//go:embed webhooks.yaml
var Webhooks []byte

// Options for Setup.
type Options struct {
	// HonourGracePeriod keeps a released address, and with it the deleted claim, for as long as the
	// pool's addressReuseGracePeriodSeconds says, which for the pools of a ProxmoxCluster is a minute.
	// Otherwise it is free at once: nothing here has ARP caches.
	HonourGracePeriod bool
	Log               logr.Logger
}

func (o Options) logConstructor(kind string) func(*reconcile.Request) logr.Logger {
	return func(req *reconcile.Request) logr.Logger {
		log := o.Log.WithValues("kind", kind)
		if req != nil {
			log = log.WithValues("namespace", req.Namespace, "name", req.Name)
		}
		return log
	}
}

// Setup registers the controllers and the webhooks.
func Setup(ctx context.Context, mgr ctrl.Manager, opts Options) error {
	ctx = ctrl.LoggerInto(ctx, opts.Log)
	claims := &claimReconciler{Client: mgr.GetClient(), honourGracePeriod: opts.HonourGracePeriod}
	if err := claims.setup(ctx, mgr, opts); err != nil {
		return fmt.Errorf("set up the controller of IPAddressClaims: %w", err)
	}
	for _, empty := range []Pool{&InClusterIPPool{}, &GlobalInClusterIPPool{}} {
		if err := (&poolReconciler{Client: mgr.GetClient(), empty: empty}).setup(mgr, opts); err != nil {
			return fmt.Errorf("set up the controller of %ss: %w", empty.Reference().Kind, err)
		}
	}
	return setupWebhooks(mgr)
}
