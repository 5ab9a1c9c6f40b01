// Package bootstrap is the Talos bootstrap provider (CABPT 0.6.12): it turns each Machine's TalosConfig into a machine
// configuration and keeps the cluster's secrets.
//
// The configurations are real; they are rendered by Talos' own library as the provider does it ([Render]). Around that
// it does the provider's steps in the provider's order, writes the same Secrets and conditions, and its gaps are kept
// too: nothing validates a configuration before a machine boots with it, and a lost <cluster>-talos Secret is replaced
// by a new PKI without a word.
//
// Left out are MachinePools, Secrets in the format of Talos 0.x, and the userdata prefix for Equinix Metal.
package bootstrap

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/go-logr/logr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/predicates"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// Webhooks is the ValidatingWebhookConfiguration of the provider.
//
//go:embed webhooks.yaml
var Webhooks []byte

// concurrency is how many TalosConfigs are worked on at once.
const concurrency = 10

// Options are the settings of the provider.
type Options struct {
	// Log gets the provider's messages.
	Log logr.Logger
}

// Setup adds the controller and the webhooks to the manager. The manager's scheme must have the kinds of package api,
// Cluster API's v1beta2 and Kubernetes' core; its client must read Secrets past the cache.
func Setup(_ context.Context, mgr ctrl.Manager, opts Options) error {
	r := &reconciler{client: mgr.GetClient(), log: opts.Log}
	scheme := mgr.GetScheme()
	err := ctrl.NewControllerManagedBy(mgr).
		For(&api.TalosConfig{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency}).
		WithEventFilter(predicates.ResourceNotPaused(scheme, opts.Log)).
		Watches(&clusterv1.Machine{}, handler.EnqueueRequestsFromMapFunc(configOfMachine)).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(r.configsOfCluster),
			builder.WithPredicates(predicates.ClusterPausedTransitionsOrInfrastructureProvisioned(scheme, opts.Log))).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up the TalosConfig controller: %w", err)
	}
	if err := ctrl.NewWebhookManagedBy(mgr, &api.TalosConfig{}).WithValidator(configValidator{}).Complete(); err != nil {
		return fmt.Errorf("set up the TalosConfig webhook: %w", err)
	}
	err = ctrl.NewWebhookManagedBy(mgr, &api.TalosConfigTemplate{}).WithValidator(templateValidator{}).Complete()
	if err != nil {
		return fmt.Errorf("set up the TalosConfigTemplate webhook: %w", err)
	}
	return nil
}
