// Package controlplane simulates the Talos control plane provider, CACPPT 0.5.12: the same steps in the
// same order with the same conditions, on simulated machines instead of the Talos API. Where the original
// asks again after 10 to 30 seconds because it cannot watch a machine, this one is told or asks again
// after a second.
package controlplane

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	kerrors "k8s.io/apimachinery/pkg/util/errors"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/cluster-api/util/deprecated/v1beta1/conditions"
	"sigs.k8s.io/cluster-api/util/deprecated/v1beta1/patch"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/talos/api"
	"capstan.dev/capstan/dev/internal/workload"
)

// again is after how long a step is tried again that nothing tells about.
const again = time.Second

// Options for Setup.
type Options struct {
	Datacenter *datacenter.Datacenter
	Cloud      *workload.Cloud
	// Concurrency is how many control planes are worked on at once; 1 if 0.
	Concurrency int
	Log         logr.Logger
}

type reconciler struct {
	client.Client
	live       client.Reader
	datacenter *datacenter.Datacenter
	cloud      *workload.Cloud
	log        logr.Logger
}

// Setup registers the controller and the webhooks of TalosControlPlane.
func Setup(_ context.Context, mgr ctrl.Manager, opts Options) error {
	r := &reconciler{
		Client: mgr.GetClient(), live: mgr.GetAPIReader(),
		datacenter: opts.Datacenter, cloud: opts.Cloud, log: opts.Log,
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("taloscontrolplane").
		For(&api.TalosControlPlane{}).
		Owns(&clusterv1.Machine{}).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return controlPlaneOf(o.(*clusterv1.Cluster))
		})).
		WatchesRawSource(opts.Datacenter.Source(r.requests)).
		WithOptions(controller.Options{MaxConcurrentReconciles: opts.Concurrency}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("controller TalosControlPlane: %w", err)
	}
	return setupWebhooks(mgr)
}

// requests names the control plane of the cluster in which something happened.
func (r *reconciler) requests(ctx context.Context, _, cluster types.NamespacedName) []reconcile.Request {
	c := &clusterv1.Cluster{}
	if err := r.Get(ctx, cluster, c); err != nil {
		return nil // deleted, or tried again by the periodic requeue
	}
	return controlPlaneOf(c)
}

func controlPlaneOf(cluster *clusterv1.Cluster) []reconcile.Request {
	if cluster.Spec.ControlPlaneRef.Kind != api.TalosControlPlaneKind {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: cluster.Namespace, Name: cluster.Spec.ControlPlaneRef.Name}}}
}

// Reconcile has the steps of the original.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (result ctrl.Result, reterr error) {
	tcp := &api.TalosControlPlane{}
	if err := r.live.Get(ctx, req.NamespacedName, tcp); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	cluster, err := util.GetOwnerCluster(ctx, r.Client, tcp.ObjectMeta)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	// In this order, also for a control plane that is being deleted: one without a Cluster, of a paused
	// one or of one whose infrastructure is gone keeps its finalizer for ever.
	if cluster == nil || annotations.IsPaused(cluster, tcp) || !infrastructureReady(cluster) {
		return ctrl.Result{}, nil // told when that changes
	}

	if !tcp.DeletionTimestamp.IsZero() {
		machines, err := r.machines(ctx, cluster)
		if err != nil {
			return ctrl.Result{}, err
		}
		if len(machines) == 0 {
			before := tcp.DeepCopy()
			controllerutil.RemoveFinalizer(tcp, api.TalosControlPlaneFinalizer)
			return ctrl.Result{}, client.IgnoreNotFound(r.Patch(ctx, tcp, client.MergeFrom(before)))
		}
	}
	patcher, err := patch.NewHelper(tcp, r.Client)
	if err != nil {
		return ctrl.Result{}, err
	}
	if tcp.DeletionTimestamp.IsZero() && controllerutil.AddFinalizer(tcp, api.TalosControlPlaneFinalizer) {
		return ctrl.Result{}, r.patch(ctx, patcher, tcp)
	}
	defer func() {
		if err := r.updateStatus(ctx, tcp, cluster); err != nil {
			reterr = kerrors.NewAggregate([]error{reterr, err})
		}
		if err := r.patch(ctx, patcher, tcp); err != nil {
			reterr = kerrors.NewAggregate([]error{reterr, err})
		}
		if reterr == nil && result.RequeueAfter == 0 && tcp.DeletionTimestamp.IsZero() &&
			(!tcp.Status.Ready || tcp.Status.UnavailableReplicas > 0) {
			result = ctrl.Result{RequeueAfter: again}
		}
	}()

	if !tcp.DeletionTimestamp.IsZero() {
		return r.reconcileDelete(ctx, cluster, tcp)
	}
	return r.reconcile(ctx, cluster, tcp)
}

func infrastructureReady(cluster *clusterv1.Cluster) bool {
	p := cluster.Status.Initialization.InfrastructureProvisioned
	return p != nil && *p
}

func (r *reconciler) reconcile(ctx context.Context, cluster *clusterv1.Cluster, tcp *api.TalosControlPlane) (ctrl.Result, error) {
	if err := r.ownTemplate(ctx, cluster, tcp); err != nil {
		return ctrl.Result{}, err
	}
	if !cluster.Spec.ControlPlaneEndpoint.IsValid() {
		return ctrl.Result{}, nil
	}
	machines, err := r.machines(ctx, cluster)
	if err != nil {
		return ctrl.Result{}, err
	}
	conditions.SetAggregate(tcp, api.MachinesReadyCondition, getters(machines), conditions.AddSourceRef(), conditions.WithStepCounterIf(false))

	s := &scope{cluster: cluster, tcp: tcp, machines: machines}
	var result ctrl.Result
	var errs []error
	for _, step := range []func(context.Context, *scope) (ctrl.Result, error){
		r.reconcileEtcd,
		r.reconcileHealth,
		r.reconcileConditions,
		r.reconcileKubeconfig,
		r.reconcileMachines,
	} {
		stepResult, err := step(ctx, s)
		if err != nil {
			errs = append(errs, err)
		}
		result = util.LowestNonZeroResult(result, stepResult)
	}
	// As there: whoever asks to be tried again hides the errors of all.
	if result.RequeueAfter != 0 {
		r.log.V(1).Info("control plane is not there yet", "control plane", client.ObjectKeyFromObject(tcp), "why", kerrors.NewAggregate(errs))
		return result, nil
	}
	return result, kerrors.NewAggregate(errs)
}

// scope is what the steps of one reconcile share.
type scope struct {
	cluster  *clusterv1.Cluster
	tcp      *api.TalosControlPlane
	machines []*clusterv1.Machine
	// hasTalosconfig is for talosconfig alone.
	hasTalosconfig bool
}

// reconcileDelete deletes all machines at once, whatever becomes of the workers.
func (r *reconciler) reconcileDelete(ctx context.Context, cluster *clusterv1.Cluster, tcp *api.TalosControlPlane) (ctrl.Result, error) {
	machines, err := r.machines(ctx, cluster)
	if err != nil {
		return ctrl.Result{}, err
	}
	for _, m := range machines {
		if m.DeletionTimestamp.IsZero() {
			if err := r.Delete(ctx, m); client.IgnoreNotFound(err) != nil {
				return ctrl.Result{}, err
			}
		}
	}
	conditions.MarkFalse(tcp, api.ResizedCondition, clusterv1beta1.DeletingReason, clusterv1beta1.ConditionSeverityInfo, "")
	return ctrl.Result{RequeueAfter: again}, nil
}

// patch writes what changed, with the Ready condition as the sum of the others.
func (r *reconciler) patch(ctx context.Context, patcher *patch.Helper, tcp *api.TalosControlPlane) error {
	summed := []clusterv1beta1.ConditionType{
		api.MachinesCreatedCondition, api.ResizedCondition, api.MachinesReadyCondition, api.AvailableCondition, api.MachinesBootstrapped,
	}
	conditions.SetSummary(tcp, conditions.WithConditions(summed...))
	return patcher.Patch(ctx, tcp, patch.WithStatusObservedGeneration{},
		patch.WithOwnedConditions{Conditions: append(summed, clusterv1beta1.ReadyCondition)})
}
