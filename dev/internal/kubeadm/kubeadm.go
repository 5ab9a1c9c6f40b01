// Package kubeadm runs the real KubeadmControlPlane and KubeadmConfig controllers of Cluster API,
// and simulates what they look at in a workload cluster: the etcd members, and what kubeadm and
// the kubelet leave in the Kubernetes API. Nothing of the controllers themselves is imitated.
package kubeadm

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	bootstrapv1beta1 "sigs.k8s.io/cluster-api/api/bootstrap/kubeadm/v1beta1" //nolint:staticcheck // served as long as Cluster API serves it
	bootstrapv1 "sigs.k8s.io/cluster-api/api/bootstrap/kubeadm/v1beta2"
	controlplanev1beta1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta1" //nolint:staticcheck // served as long as Cluster API serves it
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	"sigs.k8s.io/cluster-api/bootstrap/kubeadm/reconcilers/kubeadmconfig"
	bootstrapadmission "sigs.k8s.io/cluster-api/bootstrap/kubeadm/webhooks/admission"
	"sigs.k8s.io/cluster-api/controllers/clustercache"
	etcdclient "sigs.k8s.io/cluster-api/controlplane/kubeadm/pkg/etcd"
	"sigs.k8s.io/cluster-api/controlplane/kubeadm/reconcilers/kubeadmcontrolplane"
	controlplaneadmission "sigs.k8s.io/cluster-api/controlplane/kubeadm/webhooks/admission"
	"sigs.k8s.io/cluster-api/controlplane/kubeadm/webhooks/conversion"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/workload"
)

// Options for Setup. All are needed.
type Options struct {
	// ClusterCache has the connections to the workload clusters.
	ClusterCache clustercache.ClusterCache
	// APIVersion tells the apiVersion that a kind has under the contract in force, for conversion
	// to v1beta1.
	APIVersion func(context.Context, schema.GroupKind) (string, error)
	Cloud      *workload.Cloud
	Datacenter *datacenter.Datacenter
	// Concurrency is how many objects each controller works on at the same time.
	Concurrency int
	Log         logr.Logger
}

// AddToScheme adds the kinds of both providers.
func AddToScheme(scheme *runtime.Scheme) error {
	for _, add := range []func(*runtime.Scheme) error{
		bootstrapv1beta1.AddToScheme, bootstrapv1.AddToScheme,
		controlplanev1beta1.AddToScheme, controlplanev1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("kinds of the kubeadm providers: %w", err)
		}
	}
	return nil
}

// Setup adds the controllers and the handlers of the webhooks to mgr, and the simulated guests.
func Setup(ctx context.Context, mgr ctrl.Manager, opts Options) error {
	conversion.SetAPIVersionGetter(opts.APIVersion)
	for name, webhook := range map[string]interface{ SetupWebhookWithManager(ctrl.Manager) error }{
		"KubeadmControlPlane":         &controlplaneadmission.KubeadmControlPlane{},
		"KubeadmControlPlane scale":   &controlplaneadmission.ScaleValidator{Client: mgr.GetClient()},
		"KubeadmControlPlaneTemplate": &controlplaneadmission.KubeadmControlPlaneTemplate{},
		"KubeadmConfig":               &bootstrapadmission.KubeadmConfig{},
		"KubeadmConfigTemplate":       &bootstrapadmission.KubeadmConfigTemplate{},
	} {
		if err := webhook.SetupWebhookWithManager(mgr); err != nil {
			return fmt.Errorf("webhook of %s: %w", name, err)
		}
	}

	// SecretCachingClient reads live here: both controllers need what is in the Secrets of certificate
	// authorities, and the cache of a manager that also runs the core controllers keeps the data of
	// kubeconfigs only. The client of such a manager does not cache Secrets.
	if err := (&kubeadmconfig.Reconciler{
		Client:              mgr.GetClient(),
		SecretCachingClient: mgr.GetClient(),
		APIReader:           mgr.GetAPIReader(),
		ClusterCache:        opts.ClusterCache,
		TokenTTL:            kubeadmconfig.DefaultTokenTTL,
	}).SetupWithManager(ctx, mgr, controller.Options{MaxConcurrentReconciles: opts.Concurrency}); err != nil {
		return fmt.Errorf("controller of KubeadmConfig: %w", err)
	}
	// Timeouts are the defaults of the real manager's flags.
	if err := (&kubeadmcontrolplane.Reconciler{
		Client:                      mgr.GetClient(),
		APIReader:                   mgr.GetAPIReader(),
		SecretCachingClient:         mgr.GetClient(),
		ClusterCache:                opts.ClusterCache,
		EtcdDialTimeout:             10 * time.Second,
		EtcdCallTimeout:             etcdclient.DefaultCallTimeout,
		EtcdLogger:                  zap.NewNop(), // what it would say comes back as errors, too
		RemoteConditionsGracePeriod: 5 * time.Minute,
	}).SetupWithManager(ctx, mgr, controller.Options{
		MaxConcurrentReconciles: opts.Concurrency,
		ReconciliationTimeout:   3 * time.Minute,
	}); err != nil {
		return fmt.Errorf("controller of KubeadmControlPlane: %w", err)
	}
	return setupGuests(mgr, opts)
}
