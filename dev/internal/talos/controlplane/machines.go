package controlplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/utils/ptr"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/controllers/external"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/deprecated/v1beta1/conditions"
	"sigs.k8s.io/cluster-api/util/deprecated/v1beta1/patch"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// machines lists the control-plane Machines of a cluster, past the cache: a machine just made and not
// seen would be made again.
func (r *reconciler) machines(ctx context.Context, cluster *clusterv1.Cluster) ([]*clusterv1.Machine, error) {
	list := &clusterv1.MachineList{}
	if err := r.live.List(ctx, list, client.InNamespace(cluster.Namespace), client.MatchingLabels(selector(cluster))); err != nil {
		return nil, fmt.Errorf("list the control-plane machines of cluster %s: %w", cluster.Name, err)
	}
	out := make([]*clusterv1.Machine, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

func selector(cluster *clusterv1.Cluster) map[string]string {
	return map[string]string{clusterv1.ClusterNameLabel: cluster.Name, clusterv1.MachineControlPlaneLabel: ""}
}

// ownTemplate makes the Cluster an owner of the infrastructure template, which so goes with it. A missing
// template is an error that stops everything.
func (r *reconciler) ownTemplate(ctx context.Context, cluster *clusterv1.Cluster, tcp *api.TalosControlPlane) error {
	ref := tcp.Spec.InfrastructureTemplate
	if !strings.HasSuffix(ref.Kind, clusterv1.TemplateSuffix) {
		return nil
	}
	template, err := external.Get(ctx, r.Client, &ref)
	if err != nil {
		return err
	}
	patcher, err := patch.NewHelper(template, r.Client)
	if err != nil {
		return err
	}
	template.SetOwnerReferences(util.EnsureOwnerRef(template.GetOwnerReferences(), metav1.OwnerReference{
		APIVersion: clusterv1beta1.GroupVersion.String(), Kind: "Cluster", Name: cluster.Name, UID: cluster.UID,
	}))
	return patcher.Patch(ctx, template)
}

// reconcileMachines makes or deletes at most one machine.
func (r *reconciler) reconcileMachines(ctx context.Context, s *scope) (ctrl.Result, error) {
	made, err := r.madeFrom(ctx, s.machines)
	if err != nil {
		return ctrl.Result{}, err
	}
	outdated := outdated(s.tcp, s.machines, made)
	if len(outdated) > 0 {
		conditions.MarkFalse(s.tcp, api.MachinesSpecUpToDateCondition, api.RollingUpdateInProgressReason, clusterv1beta1.ConditionSeverityWarning,
			"Rolling %d replicas with outdated spec (%d replicas up to date)", len(outdated), len(s.machines)-len(outdated))
	} else if conditions.Has(s.tcp, api.MachinesSpecUpToDateCondition) {
		conditions.MarkTrue(s.tcp, api.MachinesSpecUpToDateCondition)
	}
	next, err := decide(s.tcp, len(s.machines), len(outdated))
	if err != nil {
		return ctrl.Result{}, err
	}
	switch next {
	case create:
		if len(s.machines) > 0 {
			conditions.MarkFalse(s.tcp, api.ResizedCondition, api.ScalingUpReason, clusterv1beta1.ConditionSeverityWarning,
				"Scaling up control plane to %d replicas (actual %d)", s.tcp.Spec.GetReplicas(), len(s.machines))
		}
		return r.boot(ctx, s)
	case remove:
		return r.scaleDown(ctx, s, outdated)
	case wait:
		return ctrl.Result{}, nil
	default:
		return r.complete(ctx, s)
	}
}

// complete is reached with the number of machines asked for.
func (r *reconciler) complete(ctx context.Context, s *scope) (ctrl.Result, error) {
	if !reflect.ValueOf(s.tcp.Spec.ControlPlaneConfig.InitConfig).IsZero() {
		s.tcp.Status.Bootstrapped = true
	}
	if !s.tcp.Status.Bootstrapped {
		if err := r.bootstrap(ctx, s); err != nil {
			conditions.MarkFalse(s.tcp, api.MachinesBootstrapped, api.WaitingForTalosBootReason, clusterv1beta1.ConditionSeverityInfo, "%s", err.Error())
			return ctrl.Result{RequeueAfter: again}, nil
		}
		s.tcp.Status.Bootstrapped = true
	}
	conditions.MarkTrue(s.tcp, api.MachinesBootstrapped)
	if conditions.Has(s.tcp, api.MachinesReadyCondition) {
		conditions.MarkTrue(s.tcp, api.ResizedCondition)
	}
	conditions.MarkTrue(s.tcp, api.MachinesCreatedCondition)
	return ctrl.Result{}, nil
}

// boot makes one machine: infrastructure from the template, TalosConfig, Machine.
func (r *reconciler) boot(ctx context.Context, s *scope) (ctrl.Result, error) {
	failed := func(reason string, err error) (ctrl.Result, error) {
		conditions.MarkFalse(s.tcp, api.MachinesCreatedCondition, reason, clusterv1beta1.ConditionSeverityError, "%s", err.Error())
		return ctrl.Result{}, err
	}
	_, infraRef, err := external.CreateFromTemplate(ctx, &external.CreateFromTemplateInput{
		Client:      r.Client,
		TemplateRef: &s.tcp.Spec.InfrastructureTemplate,
		Namespace:   s.tcp.Namespace,
		// Not the controller: the Machine becomes that.
		OwnerRef: &metav1.OwnerReference{
			APIVersion: api.ControlPlaneGroupVersion.String(), Kind: api.TalosControlPlaneKind, Name: s.tcp.Name, UID: s.tcp.UID,
		},
		ClusterName: s.cluster.Name,
		Labels:      map[string]string{clusterv1.MachineControlPlaneLabel: ""},
	})
	if err != nil {
		return failed(api.InfrastructureTemplateCloningFailedReason, err)
	}
	config, err := r.createConfig(ctx, s)
	if err != nil {
		return failed(api.BootstrapTemplateCloningFailedReason, err)
	}
	machine := &clusterv1.Machine{
		ObjectMeta: metav1.ObjectMeta{
			Name:            names.SimpleNameGenerator.GenerateName(s.tcp.Name + "-"),
			Namespace:       s.tcp.Namespace,
			Labels:          selector(s.cluster),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.tcp, api.ControlPlaneGroupVersion.WithKind(api.TalosControlPlaneKind))},
		},
		Spec: clusterv1.MachineSpec{
			ClusterName:       s.cluster.Name,
			Version:           s.tcp.Spec.Version,
			InfrastructureRef: infraRef,
			Bootstrap: clusterv1.Bootstrap{ConfigRef: clusterv1.ContractVersionedObjectReference{
				APIGroup: api.BootstrapGroupVersion.Group, Kind: api.TalosConfigKind, Name: config.Name,
			}},
		},
	}
	if domains := s.cluster.Status.FailureDomains; len(domains) > 0 {
		machine.Spec.FailureDomain = domains[rand.IntN(len(domains))].Name
	}
	if err := r.Create(ctx, machine); err != nil {
		return failed(api.MachineGenerationFailedReason, fmt.Errorf("failed to create machine: %w", err))
	}
	// The next one at once: scaling up waits for nothing. Its event brings us back.
	return ctrl.Result{}, nil
}

func (r *reconciler) createConfig(ctx context.Context, s *scope) (*api.TalosConfig, error) {
	spec := s.tcp.Spec.ControlPlaneConfig.ControlPlaneConfig
	if init := s.tcp.Spec.ControlPlaneConfig.InitConfig; len(s.machines) == 0 && !reflect.ValueOf(init).IsZero() {
		spec = init
	}
	config := &api.TalosConfig{
		ObjectMeta: metav1.ObjectMeta{
			Name:      names.SimpleNameGenerator.GenerateName(s.tcp.Name + "-"),
			Namespace: s.tcp.Namespace,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: api.ControlPlaneGroupVersion.String(), Kind: api.TalosControlPlaneKind, Name: s.tcp.Name, UID: s.tcp.UID,
				BlockOwnerDeletion: ptr.To(true),
			}},
		},
		Spec: *spec.DeepCopy(),
	}
	if err := r.Create(ctx, config); err != nil {
		return nil, fmt.Errorf("failed to create bootstrap configuration: %w", err)
	}
	return config, nil
}

// scaleDown removes one machine behind the gates of the original.
func (r *reconciler) scaleDown(ctx context.Context, s *scope, outdated []*clusterv1.Machine) (ctrl.Result, error) {
	conditions.MarkFalse(s.tcp, api.ResizedCondition, api.ScalingDownReason, clusterv1beta1.ConditionSeverityWarning,
		"Scaling down control plane to %d replicas (actual %d)", s.tcp.Spec.GetReplicas(), len(s.machines))
	switch len(s.machines) {
	case 0:
		return ctrl.Result{}, errors.New("no machines found")
	case 1:
		conditions.MarkFalse(s.tcp, api.ResizedCondition, api.ScalingDownReason, clusterv1beta1.ConditionSeverityError,
			"Cannot scale down control plane nodes to 0")
		return ctrl.Result{}, nil
	}
	for _, m := range s.machines {
		if _, err := r.guest(ctx, s, m); err != nil {
			return ctrl.Result{RequeueAfter: again}, nil //nolint:nilerr // still in its boot sequence; asked again
		}
	}
	if !conditions.IsTrue(s.tcp, api.EtcdClusterHealthyCondition) {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	for _, m := range s.machines {
		if m.Status.NodeRef.IsDefined() && !m.DeletionTimestamp.IsZero() {
			return ctrl.Result{RequeueAfter: again}, r.deleteNode(ctx, s.cluster, m)
		}
	}
	for _, m := range s.machines {
		if !m.Status.NodeRef.IsDefined() {
			return ctrl.Result{RequeueAfter: again}, nil
		}
	}
	leaving := pick(s.machines, outdated)
	vm, err := r.guest(ctx, s, leaving)
	if err != nil {
		return ctrl.Result{RequeueAfter: again}, err
	}
	// As there: a machine that cannot leave etcd by itself is deleted all the same, and its member removed
	// by the next audit.
	leaveErr := r.datacenter.Leave(vm.Key)
	if err := r.Delete(ctx, leaving); err != nil {
		return ctrl.Result{}, err
	}
	if leaveErr != nil {
		return ctrl.Result{}, nil //nolint:nilerr // see above
	}
	return ctrl.Result{RequeueAfter: again}, r.deleteNode(ctx, s.cluster, leaving)
}

// deleteNode deletes the Node of a machine from the workload cluster.
func (r *reconciler) deleteNode(ctx context.Context, cluster *clusterv1.Cluster, m *clusterv1.Machine) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.Status.NodeRef.Name}}
	err := r.cloud.Cluster(client.ObjectKeyFromObject(cluster)).Client().Delete(ctx, node)
	return client.IgnoreNotFound(err)
}

// madeFrom gathers what each machine was made from; what is missing is left out.
func (r *reconciler) madeFrom(ctx context.Context, machines []*clusterv1.Machine) (map[string]made, error) {
	out := map[string]made{}
	for _, m := range machines {
		var from made
		infra, err := external.GetObjectFromContractVersionedRef(ctx, r.Client, m.Spec.InfrastructureRef, m.Namespace)
		if err == nil {
			from.infra = infra
		} else if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("infrastructure of machine %s: %w", m.Name, err)
		}
		if m.Spec.Bootstrap.ConfigRef.IsDefined() {
			config := &api.TalosConfig{}
			err := r.Get(ctx, types.NamespacedName{Namespace: m.Namespace, Name: m.Spec.Bootstrap.ConfigRef.Name}, config)
			if err == nil {
				from.config = config
			} else if !apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("TalosConfig of machine %s: %w", m.Name, err)
			}
		}
		out[m.Name] = from
	}
	return out, nil
}

// made is what a machine was made from; nil if that is gone.
type made struct {
	infra  *unstructured.Unstructured
	config *api.TalosConfig
}
