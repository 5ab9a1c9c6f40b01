package proxmox

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kerrors "k8s.io/apimachinery/pkg/util/errors"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/cluster-api/util/patch"
	"sigs.k8s.io/cluster-api/util/predicates"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/ipam"
)

const clusterFinalizer = "proxmoxcluster.infrastructure.cluster.x-k8s.io"

// clusterReconciler makes the pools of ProxmoxClusters and holds their credentials.
type clusterReconciler struct {
	client.Client
	datacenter *datacenter.Datacenter
}

func (r *clusterReconciler) setup(ctx context.Context, mgr ctrl.Manager, opts Options) error {
	log := ctrl.LoggerFrom(ctx)
	// The provider's predicates on Clusters: their deletion alone wakes nobody.
	toInfrastructure := util.ClusterToInfrastructureMapFunc(ctx, GroupVersion.WithKind("ProxmoxCluster"), r.Client, &ProxmoxCluster{})
	return ctrl.NewControllerManagedBy(mgr).
		For(&ProxmoxCluster{}).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(toInfrastructure),
			builder.WithPredicates(predicates.ClusterUnpaused(mgr.GetScheme(), log))).
		WithEventFilter(predicates.ResourceNotPaused(mgr.GetScheme(), log)).
		WithEventFilter(predicates.ResourceIsNotExternallyManaged(mgr.GetScheme(), log)).
		WithOptions(opts.controller()).
		WithLogConstructor(opts.logConstructor("ProxmoxCluster")).
		Complete(r)
}

// Reconcile implements reconcile.Reconciler.
func (r *clusterReconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, reterr error) {
	log := ctrl.LoggerFrom(ctx)
	infra := &ProxmoxCluster{}
	if err := r.Get(ctx, req.NamespacedName, infra); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	cluster, err := util.GetOwnerCluster(ctx, r.Client, infra.ObjectMeta)
	if err != nil {
		return ctrl.Result{}, err
	}
	if cluster == nil {
		log.Info("Waiting for the Cluster to own the ProxmoxCluster")
		return ctrl.Result{}, nil
	}
	if annotations.IsPaused(cluster, infra) {
		return ctrl.Result{}, nil
	}

	helper, err := patch.NewHelper(infra, r.Client)
	if err != nil {
		return ctrl.Result{}, err
	}
	defer func() {
		if err := patchCluster(ctx, helper, infra); err != nil {
			reterr = kerrors.NewAggregate([]error{reterr, err})
		}
	}()
	if err := connect(ctx, r.Client, infra); err != nil {
		// The provider sets this condition too but, unless it has credentials of its own, forgets
		// to write it before it gives up. It does not get as far as its finalizer either.
		log.Info("No connection to Proxmox", "cause", err.Error())
		conditions.Set(infra, unavailable(err))
		return ctrl.Result{RequeueAfter: retry}, nil
	}
	if !infra.DeletionTimestamp.IsZero() {
		return r.delete(ctx, cluster, infra)
	}
	return ctrl.Result{}, r.ensure(ctx, infra)
}

func (r *clusterReconciler) ensure(ctx context.Context, infra *ProxmoxCluster) error {
	controllerutil.AddFinalizer(infra, clusterFinalizer)
	endpoint := infra.Spec.ControlPlaneEndpoint
	if infra.Spec.ExternalManagedControlPlane && (endpoint == nil || *endpoint == Endpoint{}) {
		conditions.Set(infra, metav1.Condition{
			Type:    ProxmoxAvailable,
			Status:  metav1.ConditionFalse,
			Reason:  MissingControlPlaneEndpoint,
			Message: "The ProxmoxCluster is missing or waiting for a ControlPlaneEndpoint",
		})
		return nil // whoever sets it wakes us
	}
	if err := r.ensurePools(ctx, infra); err != nil {
		return err
	}
	if err := holdCredentials(ctx, r.Client, infra); err != nil {
		conditions.Set(infra, unavailable(err))
		return err
	}
	conditions.Set(infra, metav1.Condition{Type: ProxmoxAvailable, Status: metav1.ConditionTrue, Reason: clusterv1.ProvisionedReason})
	infra.Status.Initialization = provisioned()
	return nil
}

func (r *clusterReconciler) ensurePools(ctx context.Context, infra *ProxmoxCluster) error {
	pools, err := wantedPools(infra)
	if err != nil {
		return err
	}
	for _, want := range pools {
		pool := &ipam.InClusterIPPool{ObjectMeta: metav1.ObjectMeta{Namespace: want.Namespace, Name: want.Name}}
		_, err := controllerutil.CreateOrPatch(ctx, r.Client, pool, func() error {
			if pool.UID == "" {
				pool.Labels = want.Labels // never changed afterwards
			}
			for key, value := range want.Annotations {
				metav1.SetMetaDataAnnotation(&pool.ObjectMeta, key, value)
			}
			pool.Spec = want.Spec
			return controllerutil.SetControllerReference(infra, pool, r.Scheme())
		})
		if err != nil {
			return fmt.Errorf("create or patch InClusterIPPool %s/%s: %w", want.Namespace, want.Name, err)
		}
		notePool(&infra.Status, pool)
	}
	return nil
}

// delete lets the ProxmoxCluster go once its Cluster is being deleted and its machines are gone. The
// pools go with it, by their owner references.
func (r *clusterReconciler) delete(ctx context.Context, cluster *clusterv1.Cluster, infra *ProxmoxCluster) (ctrl.Result, error) {
	log := ctrl.LoggerFrom(ctx)
	if cluster.DeletionTimestamp.IsZero() {
		log.Info("Unable to delete the ProxmoxCluster: deletion was requested but owning cluster wasn't deleted")
		return ctrl.Result{}, nil
	}
	var machines ProxmoxMachineList
	if err := r.List(ctx, &machines, client.InNamespace(cluster.Namespace),
		client.MatchingLabels{clusterv1.ClusterNameLabel: cluster.Name}); err != nil {
		return ctrl.Result{}, fmt.Errorf("list the ProxmoxMachines of cluster %s: %w", client.ObjectKeyFromObject(cluster), err)
	}
	if len(machines.Items) > 0 {
		log.Info("Waiting for ProxmoxMachines to be deleted", "remaining", len(machines.Items))
		return ctrl.Result{RequeueAfter: retry}, nil
	}
	if err := releaseCredentials(ctx, r.Client, infra); err != nil {
		return ctrl.Result{}, fmt.Errorf("release the credentials of ProxmoxCluster %s: %w", client.ObjectKeyFromObject(infra), err)
	}
	r.datacenter.RemoveCluster(client.ObjectKeyFromObject(cluster))
	controllerutil.RemoveFinalizer(infra, clusterFinalizer)
	return ctrl.Result{}, nil
}
