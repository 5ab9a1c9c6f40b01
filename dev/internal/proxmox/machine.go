package proxmox

import (
	"context"
	"reflect"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/cluster-api/util/patch"
	"sigs.k8s.io/cluster-api/util/predicates"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capstan.dev/capstan/dev/internal/datacenter"
)

const machineFinalizer = "proxmoxmachine.infrastructure.cluster.x-k8s.io"

// Values of status.vmStatus.
const (
	vmPending = "pending"
	vmReady   = "ready"
)

// machineReconciler makes, starts and deletes the virtual machines of ProxmoxMachines.
type machineReconciler struct {
	client.Client
	live       client.Reader
	datacenter *datacenter.Datacenter

	// placing is held from reading where machines run and which ids they have until a new one is
	// among them. It also keeps two machines of a cluster from writing over each other's location.
	placing sync.Mutex
}

// machineScope is a ProxmoxMachine and what it belongs to.
type machineScope struct {
	machine *ProxmoxMachine
	owner   *clusterv1.Machine
	cluster *clusterv1.Cluster
	infra   *ProxmoxCluster
}

func (s *machineScope) key() types.NamespacedName { return client.ObjectKeyFromObject(s.machine) }

func (r *machineReconciler) setup(ctx context.Context, mgr ctrl.Manager, opts Options) error {
	log := ctrl.LoggerFrom(ctx)
	fromCluster, err := util.ClusterToTypedObjectsMapper(r.Client, &ProxmoxMachineList{}, mgr.GetScheme())
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		For(&ProxmoxMachine{}).
		Watches(&clusterv1.Machine{}, handler.EnqueueRequestsFromMapFunc(
			util.MachineToInfrastructureMapFunc(GroupVersion.WithKind("ProxmoxMachine")))).
		// What follows the provider does not watch; it finds out when it polls, or when something
		// else about the Machine changes.
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(fromCluster),
			builder.WithPredicates(predicates.ClusterPausedTransitionsOrInfrastructureProvisioned(mgr.GetScheme(), log))).
		Watches(&ProxmoxCluster{}, handler.EnqueueRequestsFromMapFunc(r.machinesOf), builder.WithPredicates(poolsChanged())).
		// Nobody else notices when a Cluster goes whose ProxmoxCluster somebody has let go by force.
		Watches(&clusterv1.Cluster{}, handler.Funcs{
			DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				r.datacenter.RemoveCluster(client.ObjectKeyFromObject(e.Object))
			},
		}).
		Owns(&ipamv1.IPAddressClaim{}).
		WatchesRawSource(opts.Datacenter.Source(func(_ context.Context, vm, _ types.NamespacedName) []reconcile.Request {
			if vm.Name == "" {
				return nil
			}
			return []reconcile.Request{{NamespacedName: vm}}
		})).
		WithOptions(opts.controller()).
		WithLogConstructor(opts.logConstructor("ProxmoxMachine")).
		Complete(r)
}

// Reconcile implements reconcile.Reconciler.
func (r *machineReconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, reterr error) {
	log := ctrl.LoggerFrom(ctx)
	machine := &ProxmoxMachine{}
	if err := r.Get(ctx, req.NamespacedName, machine); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	owner, err := util.GetOwnerMachine(ctx, r.Client, machine.ObjectMeta)
	if err != nil {
		return ctrl.Result{}, err
	}
	if owner == nil {
		log.Info("Waiting for the Machine to own the ProxmoxMachine")
		return ctrl.Result{}, nil
	}
	cluster, err := util.GetClusterFromMetadata(ctx, r.Client, owner.ObjectMeta)
	if err != nil {
		log.Info("Machine is missing cluster label or cluster does not exist")
		return ctrl.Result{}, nil // as the provider does
	}
	s := &machineScope{machine: machine, owner: owner, cluster: cluster, infra: &ProxmoxCluster{}}
	if err := r.restore(ctx, s); err != nil {
		return ctrl.Result{}, err
	}
	if annotations.IsPaused(cluster, machine) {
		return ctrl.Result{}, nil
	}
	// Without the ProxmoxCluster, and without its credentials, nothing goes on: not even deletion.
	if err := r.Get(ctx, client.ObjectKey{Namespace: machine.Namespace, Name: cluster.Spec.InfrastructureRef.Name}, s.infra); err != nil {
		log.Info("ProxmoxCluster is not ready yet")
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if err := connect(ctx, r.Client, s.infra); err != nil {
		log.Info("No connection to Proxmox", "cause", err.Error())
		return ctrl.Result{RequeueAfter: retry}, nil
	}

	if ready(s) && machine.DeletionTimestamp.IsZero() {
		// Before there is anything in the datacenter to clean up.
		before := machine.DeepCopy()
		if controllerutil.AddFinalizer(machine, machineFinalizer) {
			if err := r.Patch(ctx, machine, client.MergeFrom(before)); err != nil {
				return ctrl.Result{}, err
			}
		}
	}
	if !machine.DeletionTimestamp.IsZero() {
		// The end of a virtual machine wakes us before the cache has seen that we let the machine go.
		if err := r.live.Get(ctx, req.NamespacedName, machine); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	helper, err := patch.NewHelper(machine, r.Client)
	if err != nil {
		return ctrl.Result{}, err
	}
	defer func() {
		if err := patchMachine(ctx, helper, machine); err != nil {
			reterr = kerrors.NewAggregate([]error{reterr, err})
		}
	}()
	if !machine.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.delete(ctx, s)
	}
	if err := r.ensure(ctx, s); err != nil {
		return ctrl.Result{}, err
	}
	if s.reason() == WaitingForStaticIPAllocation {
		// An IPAddress that the cache lacks yet, or a foreign claim that goes, does not tell us.
		return ctrl.Result{RequeueAfter: retry}, nil
	}
	return ctrl.Result{}, nil
}

// ready tells whether a virtual machine may be made for the machine.
func ready(s *machineScope) bool {
	return !failed(s.machine) &&
		ptr.Deref(s.cluster.Status.Initialization.InfrastructureProvisioned, false) &&
		s.owner.Spec.Bootstrap.DataSecretName != nil
}

// failed tells whether a person has to do something before the machine can go on.
func failed(machine *ProxmoxMachine) bool {
	c := conditions.Get(machine, VirtualMachineProvisioned)
	return c != nil && c.Status == metav1.ConditionFalse && c.Reason == VMProvisionFailed
}

func (r *machineReconciler) ensure(ctx context.Context, s *machineScope) error {
	switch {
	case failed(s.machine):
		return nil
	case !ptr.Deref(s.cluster.Status.Initialization.InfrastructureProvisioned, false):
		s.waitFor(clusterv1.WaitingForClusterInfrastructureReadyReason)
		return nil
	case s.owner.Spec.Bootstrap.DataSecretName == nil:
		s.waitFor(clusterv1.WaitingForBootstrapDataReason)
		return nil
	}
	done, err := r.ensureVM(ctx, s)
	if err != nil {
		return err
	}
	if !done {
		s.machine.Status.VMStatus = vmPending
		return nil
	}
	zone := defaultZone
	if network := s.machine.Spec.Network; network != nil && network.Zone != nil {
		zone = *network.Zone
	}
	metav1.SetMetaDataLabel(&s.machine.ObjectMeta, zoneLabel, zone)
	s.machine.Status.VMStatus = vmReady
	s.machine.Status.Initialization = provisioned()
	conditions.Set(s.machine, metav1.Condition{
		Type:   VirtualMachineProvisioned,
		Status: metav1.ConditionTrue,
		Reason: clusterv1.ProvisionedReason,
	})
	return nil
}

// delete removes the virtual machine. The provider looks again after ten seconds whether it is gone
// before it lets go; here it is gone at once. The claims go by their owner references.
func (r *machineReconciler) delete(ctx context.Context, s *machineScope) error {
	s.waitFor(clusterv1.DeletingReason)
	r.datacenter.Delete(s.key())
	if err := r.forgetLocation(ctx, s); err != nil {
		return err
	}
	controllerutil.RemoveFinalizer(s.machine, machineFinalizer)
	return nil
}

// waitFor sets the condition VirtualMachineProvisioned to false.
func (s *machineScope) waitFor(reason string) { s.fail(reason, "") }

func (s *machineScope) fail(reason, message string) {
	conditions.Set(s.machine, metav1.Condition{
		Type:    VirtualMachineProvisioned,
		Status:  metav1.ConditionFalse,
		Reason:  reason,
		Message: message,
	})
}

// patchMachine persists a ProxmoxMachine with its Ready condition.
func patchMachine(ctx context.Context, helper *patch.Helper, machine *ProxmoxMachine) error {
	if err := conditions.SetSummaryCondition(machine, machine, "Ready", conditions.ForConditionTypes{VirtualMachineProvisioned}); err != nil {
		return err
	}
	return helper.Patch(ctx, machine, patch.WithOwnedConditions{Conditions: []string{"Ready", VirtualMachineProvisioned}})
}

// machinesOf returns the machines of a ProxmoxCluster.
func (r *machineReconciler) machinesOf(ctx context.Context, infra client.Object) []reconcile.Request {
	cluster, err := util.GetOwnerCluster(ctx, r.Client, metav1.ObjectMeta{Namespace: infra.GetNamespace(), OwnerReferences: infra.GetOwnerReferences()})
	if err != nil || cluster == nil {
		return nil
	}
	var list ProxmoxMachineList
	if err := r.List(ctx, &list, client.InNamespace(cluster.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: cluster.Name}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "List the ProxmoxMachines of a cluster")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}

// poolsChanged lets events of ProxmoxClusters through that machines wait for: it is there, it has pools.
func poolsChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok := e.ObjectOld.(*ProxmoxCluster)
			after, ok2 := e.ObjectNew.(*ProxmoxCluster)
			return ok && ok2 && !reflect.DeepEqual(before.Status.InClusterZoneRef, after.Status.InClusterZoneRef)
		},
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	}
}
