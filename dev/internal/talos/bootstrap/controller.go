package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/cluster-api/util/deprecated/v1beta1/conditions"
	"sigs.k8s.io/cluster-api/util/deprecated/v1beta1/patch"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// reconciler works on TalosConfigs.
type reconciler struct {
	client client.Client
	log    logr.Logger
	// generating has a *sync.Mutex for each Cluster, by namespace and name.
	generating sync.Map
}

// scope is a TalosConfig with what it belongs to.
type scope struct {
	config  *api.TalosConfig
	machine *clusterv1.Machine
	cluster *clusterv1.Cluster
}

// Reconcile works on one TalosConfig and then writes its status, whatever came of it.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	config := &api.TalosConfig{}
	if err := r.client.Get(ctx, req.NamespacedName, config); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	helper, err := patch.NewHelper(config, r.client)
	if err != nil {
		return ctrl.Result{}, err
	}
	err = r.reconcile(ctx, config)

	conditions.SetSummary(config, conditions.WithConditions(api.DataSecretAvailableCondition))
	options := []patch.Option{
		patch.WithOwnedConditions{Conditions: []clusterv1beta1.ConditionType{api.DataSecretAvailableCondition}},
	}
	if err == nil {
		options = append(options, patch.WithStatusObservedGeneration{})
	}
	return ctrl.Result{}, errors.Join(err, helper.Patch(ctx, config, options...))
}

func (r *reconciler) reconcile(ctx context.Context, config *api.TalosConfig) error {
	log := r.log.WithValues("TalosConfig", client.ObjectKeyFromObject(config))
	if !config.DeletionTimestamp.IsZero() {
		controllerutil.RemoveFinalizer(config, api.TalosConfigFinalizer)
		return nil
	}
	machine, err := r.owner(ctx, config)
	if err != nil {
		return err
	}
	if machine == nil {
		log.V(1).Info("Waiting for a Machine to own the TalosConfig")
		return nil
	}
	cluster := &clusterv1.Cluster{}
	key := client.ObjectKey{Namespace: machine.Namespace, Name: machine.Spec.ClusterName}
	if err := r.client.Get(ctx, key, cluster); err != nil {
		if apierrors.IsNotFound(err) {
			log.V(1).Info("Waiting for the Cluster to exist", "Cluster", key)
			return nil
		}
		return fmt.Errorf("get Cluster %s: %w", key, err)
	}
	if annotations.IsPaused(cluster, config) {
		log.V(1).Info("Paused")
		return nil
	}
	s := scope{config: config, machine: machine, cluster: cluster}
	switch {
	case config.Status.Ready:
		conditions.MarkTrue(config, api.DataSecretAvailableCondition)
		return r.reconcileTalosconfig(ctx, s)
	case !ptr.Deref(cluster.Status.Initialization.InfrastructureProvisioned, false):
		log.V(1).Info("Waiting for the infrastructure of the Cluster", "Cluster", key)
		conditions.MarkFalse(config, api.DataSecretAvailableCondition,
			api.WaitingForClusterInfrastructureReason, clusterv1beta1.ConditionSeverityInfo, "")
		return nil
	case machine.Spec.Bootstrap.DataSecretName != nil:
		// The Machine has its data and only the status here is lost, as after clusterctl move or a restore.
		config.Status.Ready = true
		config.Status.DataSecretName = machine.Spec.Bootstrap.DataSecretName
		conditions.MarkTrue(config, api.DataSecretAvailableCondition)
		return nil
	}
	return r.reconcileData(ctx, s)
}

// reconcileData makes the Secret with the machine configuration.
func (r *reconciler) reconcileData(ctx context.Context, s scope) error {
	if err := r.generateData(ctx, s); err != nil {
		conditions.MarkFalse(s.config, api.DataSecretAvailableCondition,
			api.DataSecretGenerationFailedReason, clusterv1beta1.ConditionSeverityError, "%s", err)
		return err
	}
	s.config.Status.Ready = true
	conditions.MarkTrue(s.config, api.DataSecretAvailableCondition)
	return nil
}

// generateData renders the machine configuration and stores it. The cluster's secrets are made before a mistake in a
// patch is found.
func (r *reconciler) generateData(ctx context.Context, s scope) error {
	in := Input{Spec: s.config.Spec, Machine: s.machine, Cluster: s.cluster, Now: time.Now()}
	generated, err := in.generated()
	if err != nil {
		return err
	}
	if generated {
		contract, err := in.contract()
		if err != nil {
			return err
		}
		if in.Secrets, err = r.ensureBundle(ctx, s, contract); err != nil {
			return err
		}
	}
	ca, err := in.authority()
	if err != nil {
		return err
	}
	if ca != nil {
		if err := r.ensureAuthority(ctx, s, ca); err != nil {
			return err
		}
	}
	machineConfig, talosconfig, err := Render(in)
	if err != nil {
		return err
	}
	name, err := r.ensureBootstrapData(ctx, s, machineConfig)
	if err != nil {
		return err
	}
	s.config.Status.DataSecretName = &name
	s.config.Status.TalosConfig = talosconfig
	return nil
}

// reconcileTalosconfig keeps the Secret with the cluster's talosconfig up to date. Only the TalosConfigs of control
// plane machines do it; the condition is set on all.
func (r *reconciler) reconcileTalosconfig(ctx context.Context, s scope) error {
	if generateType := s.config.Spec.GenerateType; generateType == "controlplane" || generateType == "init" {
		if err := r.ensureTalosconfig(ctx, s); err != nil {
			conditions.MarkFalse(s.config, api.ClientConfigAvailableCondition, api.ClientConfigGenerationFailedReason,
				clusterv1beta1.ConditionSeverityError, "talosconfig generation failure: %s", err)
			return err
		}
	}
	conditions.MarkTrue(s.config, api.ClientConfigAvailableCondition)
	return nil
}

// owner finds the Machine that owns a TalosConfig; nil if none does yet.
func (r *reconciler) owner(ctx context.Context, config *api.TalosConfig) (*clusterv1.Machine, error) {
	for _, ref := range config.OwnerReferences {
		gv, err := schema.ParseGroupVersion(ref.APIVersion)
		if err != nil {
			return nil, fmt.Errorf("owner reference of TalosConfig %s/%s: %w", config.Namespace, config.Name, err)
		}
		if gv.Group != clusterv1.GroupVersion.Group || ref.Kind != "Machine" {
			continue
		}
		machine := &clusterv1.Machine{}
		key := client.ObjectKey{Namespace: config.Namespace, Name: ref.Name}
		if err := r.client.Get(ctx, key, machine); err != nil {
			return nil, fmt.Errorf("get Machine %s, owner of TalosConfig %s: %w", key, config.Name, err)
		}
		return machine, nil
	}
	return nil, nil
}
