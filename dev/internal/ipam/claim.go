package ipam

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/cluster-api/util/patch"
	"sigs.k8s.io/cluster-api/util/predicates"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Finalizers of a claim and of the address that fulfils it.
const (
	ReleaseAddress = "ipam.cluster.x-k8s.io/ReleaseAddress"
	ProtectAddress = "ipam.cluster.x-k8s.io/ProtectAddress"
)

// errExhausted ends in the log only: neither claim nor pool tells of it in a condition.
var errExhausted = errors.New("no address available")

// claimReconciler fulfils claims. It works on one at a time, so that no address is given out twice.
type claimReconciler struct {
	client.Client
	honourGracePeriod bool
}

func (r *claimReconciler) setup(ctx context.Context, mgr ctrl.Manager, opts Options) error {
	log := ctrl.LoggerFrom(ctx)
	ours := predicate.NewPredicateFuncs(func(o client.Object) bool {
		switch o := o.(type) {
		case *ipamv1.IPAddressClaim:
			return isOurs(o.Spec.PoolRef)
		case *ipamv1.IPAddress:
			return isOurs(o.Spec.PoolRef)
		}
		return false
	})
	return ctrl.NewControllerManagedBy(mgr).
		For(&ipamv1.IPAddressClaim{}, builder.WithPredicates(ours)).
		Owns(&ipamv1.IPAddress{}, builder.WithPredicates(ours)).
		Watches(&InClusterIPPool{}, handler.EnqueueRequestsFromMapFunc(r.claimsOfPool), builder.WithPredicates(poolCanServe())).
		Watches(&GlobalInClusterIPPool{}, handler.EnqueueRequestsFromMapFunc(r.claimsOfPool), builder.WithPredicates(poolCanServe())).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(r.claimsOfCluster), builder.WithPredicates(clusterRuns())).
		WithEventFilter(predicates.ResourceNotPaused(mgr.GetScheme(), log)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		WithLogConstructor(opts.logConstructor("IPAddressClaim")).
		Complete(r)
}

// Reconcile implements reconcile.Reconciler.
func (r *claimReconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, reterr error) {
	log := ctrl.LoggerFrom(ctx)
	claim := &ipamv1.IPAddressClaim{}
	if err := r.Get(ctx, req.NamespacedName, claim); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	deleting := !claim.DeletionTimestamp.IsZero()

	if name := clusterName(claim); name != "" {
		cluster, err := util.GetClusterByName(ctx, r.Client, claim.Namespace, name)
		switch {
		case apierrors.IsNotFound(err) && !deleting:
			log.Info("The cluster of the claim is not there, waiting for it", "cluster", name)
			return ctrl.Result{}, nil
		case err != nil && !apierrors.IsNotFound(err):
			return ctrl.Result{}, err
		case err == nil && annotations.IsPaused(cluster, cluster):
			return ctrl.Result{}, nil
		}
	}

	helper, err := patch.NewHelper(claim, r.Client)
	if err != nil {
		return ctrl.Result{}, err
	}
	defer func() {
		if err := helper.Patch(ctx, claim); err != nil {
			reterr = kerrors.NewAggregate([]error{reterr, err})
		}
	}()

	if !deleting && controllerutil.AddFinalizer(claim, ReleaseAddress) {
		return ctrl.Result{}, nil // the change of the claim brings us back
	}
	pool, err := r.pool(ctx, claim)
	switch {
	case apierrors.IsNotFound(err) && deleting:
		return ctrl.Result{}, r.release(ctx, claim)
	case apierrors.IsNotFound(err):
		log.Info("The pool of the claim is not there, waiting for it", "pool", claim.Spec.PoolRef.Name)
		return ctrl.Result{}, nil
	case err != nil:
		return ctrl.Result{}, err
	case annotations.HasPaused(pool):
		return ctrl.Result{}, nil
	case deleting:
		if left := gracePeriodLeft(claim, pool, time.Now()); left > 0 && r.honourGracePeriod {
			return ctrl.Result{RequeueAfter: left}, nil
		}
		return ctrl.Result{}, r.release(ctx, claim)
	}
	address, err := r.ensureAddress(ctx, claim, pool)
	if err != nil {
		return ctrl.Result{}, err
	}
	claim.Status.AddressRef = ipamv1.IPAddressReference{Name: address.Name}
	return ctrl.Result{}, nil
}

// pool reads the pool that the claim names.
func (r *claimReconciler) pool(ctx context.Context, claim *ipamv1.IPAddressClaim) (Pool, error) {
	var pool Pool = &InClusterIPPool{}
	key := client.ObjectKey{Namespace: claim.Namespace, Name: claim.Spec.PoolRef.Name}
	if claim.Spec.PoolRef.Kind == GlobalPoolKind {
		pool, key.Namespace = &GlobalInClusterIPPool{}, ""
	}
	if err := r.Get(ctx, key, pool); err != nil {
		return nil, fmt.Errorf("read %s %s: %w", claim.Spec.PoolRef.Kind, key, err)
	}
	return pool, nil
}

// ensureAddress creates or completes the IPAddress of the claim, which has the claim's name.
func (r *claimReconciler) ensureAddress(ctx context.Context, claim *ipamv1.IPAddressClaim, pool Pool) (*ipamv1.IPAddress, error) {
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: claim.Name, Namespace: claim.Namespace}}
	_, err := controllerutil.CreateOrPatch(ctx, r.Client, address, func() error {
		if address.Spec.Address == "" {
			used, err := inUse(ctx, r.Client, pool)
			if err != nil {
				return err
			}
			ip, err := free(pool.spec(), used)
			if err != nil {
				return fmt.Errorf("find a free address in %s %s: %w", pool.Reference().Kind, pool.GetName(), err)
			}
			address.Spec = ipamv1.IPAddressSpec{
				ClaimRef: ipamv1.IPAddressClaimReference{Name: claim.Name},
				PoolRef:  pool.Reference(),
				Address:  ip.String(),
				Gateway:  pool.spec().Gateway,
				Prefix:   ptr.To(int32(pool.spec().Prefix)), //nolint:gosec // at most 128
			}
		}
		if name, ok := claim.Labels[clusterv1.ClusterNameLabel]; ok {
			metav1.SetMetaDataLabel(&address.ObjectMeta, clusterv1.ClusterNameLabel, name)
		}
		if address.DeletionTimestamp.IsZero() {
			controllerutil.AddFinalizer(address, ProtectAddress)
		}
		return r.own(address, claim, pool)
	})
	if err != nil {
		return nil, fmt.Errorf("create or patch the address of claim %s: %w", client.ObjectKeyFromObject(claim), err)
	}
	// The next claim must see this address as used, so it has to be in the cache before we return.
	err = wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, 5*time.Second, true, func(ctx context.Context) (bool, error) {
		err := r.Get(ctx, client.ObjectKeyFromObject(address), &ipamv1.IPAddress{})
		return err == nil, client.IgnoreNotFound(err)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the cache to have address %s: %w", client.ObjectKeyFromObject(address), err)
	}
	return address, nil
}

// own makes the claim the controller of the address, and the pool another owner that blocks its deletion.
func (r *claimReconciler) own(address *ipamv1.IPAddress, claim *ipamv1.IPAddressClaim, pool Pool) error {
	if err := controllerutil.SetControllerReference(claim, address, r.Scheme()); err != nil {
		if already := (&controllerutil.AlreadyOwnedError{}); !errors.As(err, &already) {
			return err
		}
	}
	if err := controllerutil.SetOwnerReference(pool, address, r.Scheme(), controllerutil.WithBlockOwnerDeletion(true)); err != nil {
		return err
	}
	for i, ref := range address.OwnerReferences {
		if ref.UID == pool.GetUID() {
			address.OwnerReferences[i].Controller = ptr.To(false)
		}
	}
	return nil
}

// gracePeriodLeft is how long the pool still keeps a released address from others, and the claim with
// it. A pool that is being deleted does not wait.
func gracePeriodLeft(claim *ipamv1.IPAddressClaim, pool Pool, now time.Time) time.Duration {
	if !pool.GetDeletionTimestamp().IsZero() {
		return 0
	}
	period := time.Duration(ptr.Deref(pool.spec().AddressReuseGracePeriodSeconds, 0)) * time.Second
	return max(0, period-now.Sub(claim.DeletionTimestamp.Time))
}

// release deletes the address, then lets the claim go.
func (r *claimReconciler) release(ctx context.Context, claim *ipamv1.IPAddressClaim) error {
	address := &ipamv1.IPAddress{}
	err := r.Get(ctx, client.ObjectKeyFromObject(claim), address)
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	if err == nil {
		before := address.DeepCopy()
		if controllerutil.RemoveFinalizer(address, ProtectAddress) {
			if err := r.Patch(ctx, address, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("release address %s: %w", client.ObjectKeyFromObject(address), err)
			}
		}
		if err := r.Delete(ctx, address); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete address %s: %w", client.ObjectKeyFromObject(address), err)
		}
	}
	controllerutil.RemoveFinalizer(claim, ReleaseAddress)
	return nil
}

func isOurs(ref ipamv1.IPPoolReference) bool {
	return ref.APIGroup == GroupVersion.Group && (ref.Kind == PoolKind || ref.Kind == GlobalPoolKind)
}

func clusterName(claim *ipamv1.IPAddressClaim) string {
	if claim.Spec.ClusterName != "" {
		return claim.Spec.ClusterName
	}
	return claim.Labels[clusterv1.ClusterNameLabel]
}

func (r *claimReconciler) claimsOfPool(ctx context.Context, o client.Object) []reconcile.Request {
	pool, ok := o.(Pool)
	if !ok {
		return nil
	}
	return r.claims(ctx, pool.GetNamespace(), func(c *ipamv1.IPAddressClaim) bool { return c.Spec.PoolRef == pool.Reference() })
}

func (r *claimReconciler) claimsOfCluster(ctx context.Context, o client.Object) []reconcile.Request {
	return r.claims(ctx, o.GetNamespace(), func(c *ipamv1.IPAddressClaim) bool { return clusterName(c) == o.GetName() })
}

func (r *claimReconciler) claims(ctx context.Context, namespace string, match func(*ipamv1.IPAddressClaim) bool) []reconcile.Request {
	var list ipamv1.IPAddressClaimList
	if err := r.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "List claims")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if c := &list.Items[i]; isOurs(c.Spec.PoolRef) && match(c) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(c)})
		}
	}
	return requests
}

// poolCanServe lets events through after which a pool can serve claims that it could not serve before.
func poolCanServe() predicate.Predicate {
	exhausted := func(o client.Object) (yes, known bool) {
		pool, ok := o.(Pool)
		if !ok || pool.status().IPAddresses == nil {
			return false, false
		}
		return pool.status().IPAddresses.Free <= 0, true
	}
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return !annotations.HasPaused(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, knownBefore := exhausted(e.ObjectOld)
			after, knownAfter := exhausted(e.ObjectNew)
			return annotations.HasPaused(e.ObjectOld) && !annotations.HasPaused(e.ObjectNew) ||
				knownBefore && knownAfter && before && !after
		},
		DeleteFunc: func(event.DeleteEvent) bool { return true },
	}
}

// clusterRuns lets events through after which a cluster is not paused and was, or is new, or gone.
func clusterRuns() predicate.Predicate {
	paused := func(o client.Object) bool {
		cluster, ok := o.(*clusterv1.Cluster)
		return ok && annotations.IsPaused(cluster, cluster)
	}
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return !paused(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool { return paused(e.ObjectOld) && !paused(e.ObjectNew) },
		DeleteFunc: func(e event.DeleteEvent) bool { return !paused(e.Object) },
	}
}
