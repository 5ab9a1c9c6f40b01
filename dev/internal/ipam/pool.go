package ipam

import (
	"context"
	"fmt"
	"net/netip"

	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/cluster-api/util/patch"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// ProtectPool is the finalizer of a pool: it stays while addresses are in use.
const ProtectPool = "ipam.cluster.x-k8s.io/ProtectPool"

// poolReconciler counts the addresses of the pools of one kind.
type poolReconciler struct {
	client.Client
	empty Pool // of the kind
}

func (r *poolReconciler) setup(mgr ctrl.Manager, opts Options) error {
	kind := r.empty.Reference().Kind
	return ctrl.NewControllerManagedBy(mgr).
		For(r.empty).
		Watches(&ipamv1.IPAddress{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			address, ok := o.(*ipamv1.IPAddress)
			if !ok || address.Spec.PoolRef.APIGroup != GroupVersion.Group || address.Spec.PoolRef.Kind != kind {
				return nil
			}
			key := client.ObjectKey{Name: address.Spec.PoolRef.Name}
			if kind == PoolKind {
				key.Namespace = address.Namespace
			}
			return []reconcile.Request{{NamespacedName: key}}
		})).
		WithLogConstructor(opts.logConstructor(kind)).
		Complete(r)
}

// Reconcile implements reconcile.Reconciler.
func (r *poolReconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, err error) {
	pool := r.empty.DeepCopyObject().(Pool)
	if err := r.Get(ctx, req.NamespacedName, pool); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	helper, err := patch.NewHelper(pool, r.Client)
	if err != nil {
		return ctrl.Result{}, err
	}
	used, err := inUse(ctx, r.Client, pool)
	if err != nil {
		return ctrl.Result{}, err
	}
	if pool.GetDeletionTimestamp().IsZero() {
		controllerutil.AddFinalizer(pool, ProtectPool)
		set, err := allocatable(pool.spec())
		if err != nil {
			return ctrl.Result{}, fmt.Errorf("%s %s: %w", pool.Reference().Kind, req.NamespacedName, err)
		}
		pool.status().IPAddresses = count(set, used)
	} else if len(used) == 0 {
		controllerutil.RemoveFinalizer(pool, ProtectPool)
	}
	return ctrl.Result{}, helper.Patch(ctx, pool)
}

// inUse returns the addresses given out from the pool.
func inUse(ctx context.Context, reader client.Reader, pool Pool) ([]ipamv1.IPAddress, error) {
	var list ipamv1.IPAddressList
	if err := reader.List(ctx, &list, client.InNamespace(pool.GetNamespace())); err != nil {
		return nil, fmt.Errorf("list the addresses of %s %s: %w", pool.Reference().Kind, client.ObjectKeyFromObject(pool), err)
	}
	var out []ipamv1.IPAddress
	for _, address := range list.Items {
		if address.Spec.PoolRef == pool.Reference() {
			out = append(out, address)
		}
	}
	return out, nil
}

// usedSet is the set of addresses; one that cannot be read belongs to no set.
func usedSet(used []ipamv1.IPAddress) Set {
	var s Set
	for _, address := range used {
		if a, err := netip.ParseAddr(address.Spec.Address); err == nil {
			s = append(s, Span{a, a})
		}
	}
	return s.normal()
}

// allocatable is the addresses a pool may give out, used or not: not the excluded ones, not the
// gateway and, unless wanted, neither the network's first nor, for IPv4, its last address.
func allocatable(spec *PoolSpec) (Set, error) {
	set, err := ParseSet(spec.Addresses)
	if err != nil {
		return nil, fmt.Errorf("spec.addresses: %w", err)
	}
	excluded, err := ParseSet(spec.ExcludedAddresses)
	if err != nil {
		return nil, fmt.Errorf("spec.excludedAddresses: %w", err)
	}
	if first, ok := set.First(); ok && !spec.AllocateReservedIPAddresses {
		network := prefixSpan(netip.PrefixFrom(first, spec.Prefix))
		excluded = append(excluded, Span{network.From, network.From})
		if first.Is4() {
			excluded = append(excluded, Span{network.To, network.To})
		}
	}
	if spec.Gateway != "" {
		gateway, err := netip.ParseAddr(spec.Gateway)
		if err != nil {
			return nil, fmt.Errorf("spec.gateway: %w", err)
		}
		excluded = append(excluded, Span{gateway, gateway})
	}
	return set.Minus(excluded), nil
}

// free returns the lowest address of the pool that is not in use.
func free(spec *PoolSpec, used []ipamv1.IPAddress) (netip.Addr, error) {
	set, err := allocatable(spec)
	if err != nil {
		return netip.Addr{}, err
	}
	if address, ok := set.Minus(usedSet(used)).First(); ok {
		return address, nil
	}
	return netip.Addr{}, errExhausted
}

func count(set Set, used []ipamv1.IPAddress) *Counts {
	return &Counts{
		Total:      set.Len(),
		Used:       len(used),
		Free:       set.Len() - len(used),
		OutOfRange: usedSet(used).Minus(set).Len(),
	}
}
