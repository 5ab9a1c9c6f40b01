// Package proxmox simulates the Proxmox infrastructure provider (CAPMOX) v0.9.0 on top of package
// datacenter: to a client of the management cluster its ProxmoxClusters and ProxmoxMachines look and
// behave as the provider's do.
//
// The provider polls Proxmox every ten seconds and goes one step at a time; the simulator hears from
// the datacenter and takes as many steps at once as it can. Some reasons of a condition therefore
// never show, and status.taskRef stays empty. Memory of Proxmox nodes is without end, and every
// template that a machine is to be cloned from exists.
package proxmox

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capstan.dev/capstan/dev/internal/datacenter"
)

// Webhooks is the provider's webhook configurations, as YAML.
//
//go:embed webhooks.yaml
var Webhooks []byte

// retry is how soon to look again at what nothing tells us about, as the credentials Secret. The
// provider waits ten seconds, or after errors ever longer.
const retry = time.Second

// Options for Setup.
type Options struct {
	Datacenter *datacenter.Datacenter
	// Concurrency is how many ProxmoxMachines, and how many ProxmoxClusters, are worked on at a time;
	// 0 is six.
	Concurrency int
	Log         logr.Logger
}

func (o Options) controller() controller.Options {
	if o.Concurrency == 0 {
		o.Concurrency = 6
	}
	return controller.Options{MaxConcurrentReconciles: o.Concurrency}
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

// Setup registers the controllers and the webhooks. Package ipam has to be set up as well.
func Setup(ctx context.Context, mgr ctrl.Manager, opts Options) error {
	ctx = ctrl.LoggerInto(ctx, opts.Log)
	clusters := &clusterReconciler{Client: mgr.GetClient(), datacenter: opts.Datacenter}
	if err := clusters.setup(ctx, mgr, opts); err != nil {
		return fmt.Errorf("set up the controller of ProxmoxClusters: %w", err)
	}
	machines := &machineReconciler{Client: mgr.GetClient(), live: mgr.GetAPIReader(), datacenter: opts.Datacenter}
	if err := machines.setup(ctx, mgr, opts); err != nil {
		return fmt.Errorf("set up the controller of ProxmoxMachines: %w", err)
	}
	return setupWebhooks(mgr)
}
