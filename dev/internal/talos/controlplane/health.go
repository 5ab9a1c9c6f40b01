package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/deprecated/v1beta1/conditions"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/talos/api"
)

// guest stands for a connection to the Talos API of a machine: it takes the cluster's talosconfig, an
// address of the Machine, and a guest that answers.
func (r *reconciler) guest(ctx context.Context, s *scope, m *clusterv1.Machine) (datacenter.VM, error) {
	if err := s.talosconfig(ctx, r.Client); err != nil {
		return datacenter.VM{}, err
	}
	if !slices.ContainsFunc(m.Status.Addresses, isIP) {
		return datacenter.VM{}, fmt.Errorf("no addresses were found for node %q", m.Name)
	}
	vm, ok := r.datacenter.Get(types.NamespacedName{Namespace: m.Namespace, Name: m.Spec.InfrastructureRef.Name})
	if !ok || vm.Phase != datacenter.Running {
		return datacenter.VM{}, errors.New("rpc error: code = Unavailable desc = connection refused")
	}
	return vm, nil
}

// talosconfig reads the Secret with the certificates for the Talos API, once in a reconcile.
func (s *scope) talosconfig(ctx context.Context, c client.Reader) error {
	if !s.hasTalosconfig {
		key := types.NamespacedName{Namespace: s.tcp.Namespace, Name: s.cluster.Name + "-talosconfig"}
		if err := c.Get(ctx, key, &corev1.Secret{}); err != nil {
			return err
		}
		s.hasTalosconfig = true
	}
	return nil
}

func isIP(a clusterv1.MachineAddress) bool {
	return a.Type == clusterv1.MachineInternalIP || a.Type == clusterv1.MachineExternalIP
}

// bootstrap starts etcd on the machine with the lowest address, unless it runs somewhere.
func (r *reconciler) bootstrap(ctx context.Context, s *scope) error {
	// One connection to all machines, for which one address is enough.
	if len(s.machines) == 0 {
		return errors.New("at least one machine should be provided")
	}
	if err := s.talosconfig(ctx, r.Client); err != nil {
		return err
	}
	if m := s.machines[0]; !slices.ContainsFunc(m.Status.Addresses, isIP) {
		return fmt.Errorf("no addresses were found for node %q", m.Name)
	}
	var first datacenter.VM
	var lowest string
	for _, m := range s.machines {
		i := slices.IndexFunc(m.Status.Addresses, isIP)
		if i < 0 {
			return fmt.Errorf("machine %q doesn't have an any InternalIP or ExternalIP address yet", m.Name)
		}
		vm, err := r.guest(ctx, s, m)
		if err != nil {
			return err
		}
		if address := m.Status.Addresses[i].Address; lowest == "" || address < lowest {
			first, lowest = vm, address
		}
	}
	if len(r.datacenter.Etcd(first.Cluster)) > 0 {
		return nil
	}
	return r.datacenter.Bootstrap(first.Key)
}

// reconcileEtcd removes members without a machine and says how etcd is.
func (r *reconciler) reconcileEtcd(ctx context.Context, s *scope) (ctrl.Result, error) {
	var errs []error
	if err := r.auditEtcd(ctx, s); err != nil {
		errs = append(errs, err)
	}
	if err := r.etcdHealth(ctx, s); err != nil {
		conditions.MarkFalse(s.tcp, api.EtcdClusterHealthyCondition, api.EtcdClusterUnhealthyReason, clusterv1beta1.ConditionSeverityWarning, "%s", err.Error())
		errs = append(errs, err)
	} else {
		conditions.MarkTrue(s.tcp, api.EtcdClusterHealthyCondition)
	}
	if len(errs) > 0 {
		return ctrl.Result{RequeueAfter: again}, errors.Join(errs...)
	}
	return ctrl.Result{}, nil
}

func (r *reconciler) auditEtcd(ctx context.Context, s *scope) error {
	var asked *clusterv1.Machine
	for _, m := range s.machines {
		if !m.Status.NodeRef.IsDefined() {
			return errors.New("some CP machines do not have a noderef")
		}
		if asked == nil && m.DeletionTimestamp.IsZero() {
			asked = m
		}
	}
	if len(s.machines) == 0 {
		return nil
	}
	if asked == nil {
		return errors.New("no CP machine which is not being deleted and has node ref")
	}
	vm, err := r.guest(ctx, s, asked)
	if err != nil {
		return err
	}
	for _, member := range r.datacenter.Etcd(vm.Cluster) {
		if !slices.ContainsFunc(s.machines, func(m *clusterv1.Machine) bool { return strings.EqualFold(hostname(m), member.Hostname) }) {
			if err := r.datacenter.RemoveMember(vm.Cluster, member.ID); err != nil {
				return fmt.Errorf("error leaving etcd for member %q via machine %q: %w", member.Hostname, asked.Name, err)
			}
		}
	}
	return nil
}

// hostname is the machine's own, without a domain.
func hostname(m *clusterv1.Machine) string {
	name := m.Status.NodeRef.Name
	for _, a := range m.Status.Addresses {
		if a.Type == clusterv1.MachineHostName {
			name = a.Address
			break
		}
	}
	name, _, _ = strings.Cut(name, ".")
	return name
}

// etcdHealth checks on each machine that stays that etcd runs and has as many members as there are
// machines.
func (r *reconciler) etcdHealth(ctx context.Context, s *scope) error {
	var staying []*clusterv1.Machine
	for _, m := range s.machines {
		if m.DeletionTimestamp.IsZero() {
			staying = append(staying, m)
		}
	}
	for _, m := range staying {
		vm, err := r.guest(ctx, s, m)
		if err == nil {
			members := r.datacenter.Etcd(vm.Cluster)
			switch i := slices.IndexFunc(members, func(e datacenter.Member) bool { return e.VM == vm.Key }); {
			case i < 0:
				err = fmt.Errorf("%s: service \"etcd\" not in expected state \"Running\": current state [Preparing]", vm.Hostname)
			case !r.datacenter.APIServerUp(vm.Cluster):
				err = fmt.Errorf("%s: service is not healthy: etcd", vm.Hostname)
			case len(members) != len(staying):
				err = fmt.Errorf("%s: expected to have %d members, got %d", vm.Hostname, len(staying), len(members))
			}
		}
		if err != nil {
			return fmt.Errorf("error checking etcd health on machine %q: %w", m.Name, err)
		}
	}
	return nil
}

// reconcileHealth says whether the services of all machines are well.
func (r *reconciler) reconcileHealth(ctx context.Context, s *scope) (ctrl.Result, error) {
	for _, m := range s.machines {
		if _, err := r.guest(ctx, s, m); err != nil {
			err = fmt.Errorf("machine %q: %w", m.Name, err)
			conditions.MarkFalse(s.tcp, api.ControlPlaneComponentsHealthyCondition, api.ControlPlaneComponentsInspectionFailedReason,
				clusterv1beta1.ConditionSeverityWarning, "%s", err.Error())
			return ctrl.Result{RequeueAfter: again}, err
		}
	}
	conditions.MarkTrue(s.tcp, api.ControlPlaneComponentsHealthyCondition)
	return ctrl.Result{}, nil
}

// reconcileConditions gives the conditions that nothing has been said about yet.
func (r *reconciler) reconcileConditions(_ context.Context, s *scope) (ctrl.Result, error) {
	if !conditions.Has(s.tcp, api.AvailableCondition) {
		conditions.MarkFalse(s.tcp, api.AvailableCondition, api.WaitingForTalosBootReason, clusterv1beta1.ConditionSeverityInfo, "")
	}
	if !conditions.Has(s.tcp, api.MachinesBootstrapped) {
		conditions.MarkFalse(s.tcp, api.MachinesBootstrapped, api.WaitingForMachinesReason, clusterv1beta1.ConditionSeverityInfo, "")
	}
	return ctrl.Result{}, nil
}
