package proxmox

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/conditions"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/datacenter"
)

const providerIDPrefix = "proxmox://"

// ensureVM takes a machine as far as it gets towards a running guest, and tells whether it is there.
// As in the provider, the reason of the condition is the state from which it goes on.
func (r *machineReconciler) ensureVM(ctx context.Context, s *machineScope) (done bool, err error) {
	vm, ok := r.datacenter.Get(s.key())
	if !ok {
		if vm, err = r.createVM(ctx, s); err != nil {
			return false, err
		}
	}
	s.machine.Spec.VirtualMachineID = ptr.To(vm.ID)
	s.machine.Status.ProxmoxNode = vm.HostNode
	switch s.reason() {
	case "", clusterv1.WaitingForClusterInfrastructureReadyReason, clusterv1.WaitingForBootstrapDataReason, CloningFailed:
		s.waitFor(Cloning)
	}
	if vm.Phase == datacenter.Cloning {
		return false, nil
	}
	s.machine.Spec.ProviderID = providerIDPrefix + vm.UUID

	if s.reason() == Cloning { // CPU, memory, devices and disks would be set now
		s.waitFor(WaitingForStaticIPAllocation)
	}
	if s.reason() == WaitingForStaticIPAllocation {
		if err := r.ensureAddresses(ctx, s); err != nil {
			return false, err
		}
	}
	if s.reason() == WaitingForBootstrapDataReconciliation {
		if _, err := r.bootstrapData(ctx, s); err != nil {
			s.fail(WaitingForBootstrapDataReconciliation, err.Error())
			return false, err
		}
		s.machine.Status.BootstrapDataProvided = ptr.To(true)
		s.waitFor(WaitingForVMPowerUp)
	}
	switch s.reason() {
	case WaitingForVMPowerUp, PoweringOnFailed:
		if err := r.powerOn(ctx, s, false); err != nil {
			s.fail(PoweringOnFailed, err.Error())
			return false, err
		}
		s.waitFor(WaitingForClusterAPIMachineAddresses)
	case WaitingForCloudInit:
		if vm.Phase == datacenter.Stopped { // it was on the way when the simulator was restarted
			if err := r.powerOn(ctx, s, false); err != nil {
				return false, err
			}
		}
	}
	if s.reason() == WaitingForClusterAPIMachineAddresses {
		if len(s.machine.Status.IPAddresses) == 0 { // no network device, so not even "default"
			return false, errors.New("Machine has no default IPAddresses") // the provider's words
		}
		s.machine.Status.Addresses = machineAddresses(s.machine)
		s.waitFor(WaitingForCloudInit)
	}
	if s.reason() == WaitingForCloudInit {
		if !r.guestAnswers(s) {
			return false, nil
		}
		s.waitFor(WaitingForBootstrapReady)
	}
	switch s.reason() {
	case WaitingForBootstrapReady, clusterv1.ProvisionedReason:
		return true, nil
	}
	return false, nil
}

func (s *machineScope) reason() string {
	return conditions.GetReason(s.machine, VirtualMachineProvisioned)
}

// guestAnswers tells whether the guest has come as far as the checks of the machine ask for.
// Cloud-init can only be asked through the guest agent, so without the agent neither is.
func (r *machineReconciler) guestAnswers(s *machineScope) bool {
	if checks := s.machine.Spec.Checks; checks != nil && checks.SkipQemuGuestAgent {
		return true
	}
	vm, ok := r.datacenter.Get(s.key())
	return ok && vm.Phase == datacenter.Running
}

// createVM chooses id and node of a new virtual machine and clones it.
func (r *machineReconciler) createVM(ctx context.Context, s *machineScope) (datacenter.VM, error) {
	r.placing.Lock()
	defer r.placing.Unlock()

	used, err := r.usedIDs(ctx)
	if err != nil {
		return datacenter.VM{}, err
	}
	id, err := chooseID(s.machine.Spec.VMIDRange, used)
	if err != nil {
		reason := CloningFailed
		if errors.Is(err, errNoFreeID) {
			reason = VMProvisionFailed
		}
		s.fail(reason, err.Error())
		return datacenter.VM{}, err
	}
	spec := s.vmSpec()
	spec.ID = id
	// The location is written first: without the VM it is one too many for a moment, and the next
	// try finds it. The other way round the VM would count for nothing.
	err = r.patchLocations(ctx, s, func(infra *ProxmoxCluster) {
		node := chooseNode(infra, s.machine, spec.ControlPlane)
		spec.HostNode = locate(&infra.Status, s.machine.Name, node, spec.ControlPlane)
	})
	if err != nil {
		s.fail(CloningFailed, err.Error())
		return datacenter.VM{}, err
	}
	return r.datacenter.Create(spec), nil
}

// usedIDs are the ids of all virtual machines, those of ProxmoxMachines that the datacenter does not
// know yet after a restart included.
func (r *machineReconciler) usedIDs(ctx context.Context) (map[int64]bool, error) {
	var list ProxmoxMachineList
	if err := r.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil { // only read
		return nil, fmt.Errorf("list ProxmoxMachines: %w", err)
	}
	used := map[int64]bool{}
	for i := range list.Items {
		if id := list.Items[i].Spec.VirtualMachineID; id != nil {
			used[*id] = true
		}
	}
	for _, vm := range r.datacenter.List() {
		used[vm.ID] = true
	}
	return used, nil
}

// forgetLocation removes the ProxmoxCluster's record of where the machine runs.
func (r *machineReconciler) forgetLocation(ctx context.Context, s *machineScope) error {
	r.placing.Lock()
	defer r.placing.Unlock()
	err := r.patchLocations(ctx, s, func(infra *ProxmoxCluster) {
		forget(&infra.Status, s.machine.Name, util.IsControlPlaneMachine(s.owner))
	})
	return client.IgnoreNotFound(err)
}

// patchLocations changes status.nodeLocations as it is now, not as the cache has it. The caller holds
// r.placing.
func (r *machineReconciler) patchLocations(ctx context.Context, s *machineScope, change func(*ProxmoxCluster)) error {
	infra := &ProxmoxCluster{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(s.infra), infra); err != nil {
		return fmt.Errorf("read ProxmoxCluster %s: %w", client.ObjectKeyFromObject(s.infra), err)
	}
	before := infra.DeepCopy()
	change(infra)
	if err := r.Status().Patch(ctx, infra, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("record where %s runs: %w", s.key(), err)
	}
	return nil
}

// ensureAddresses claims the machine's addresses and, once all are there, gives them to it.
func (r *machineReconciler) ensureAddresses(ctx context.Context, s *machineScope) error {
	claims, err := wantedClaims(s.infra, s.machine)
	if err != nil {
		return err
	}
	addresses, blocked, err := r.addresses(ctx, s, claims)
	if err != nil {
		return err
	}
	if len(addresses) < len(claims) {
		s.fail(WaitingForStaticIPAllocation, blocked)
		return nil
	}
	if network := s.machine.Spec.Network; network != nil && len(network.NetworkDevices) > 0 {
		s.machine.Status.IPAddresses = ipAddresses(claims, addresses)
	}
	r.datacenter.SetAddresses(s.key(), guestAddresses(s.machine))
	s.waitFor(WaitingForBootstrapDataReconciliation)
	return nil
}

func (r *machineReconciler) bootstrapData(ctx context.Context, s *machineScope) ([]byte, error) {
	if s.owner.Spec.Bootstrap.DataSecretName == nil {
		return nil, errors.New("machine has no bootstrap data")
	}
	secret := &corev1.Secret{}
	if err := r.Get(ctx, client.ObjectKey{Namespace: s.machine.Namespace, Name: *s.owner.Spec.Bootstrap.DataSecretName}, secret); err != nil {
		return nil, fmt.Errorf("failed to retrieve bootstrap data secret: %w", err)
	}
	data, ok := secret.Data["value"]
	if !ok {
		return nil, errors.New("error retrieving bootstrap data: secret `value` key is missing")
	}
	return data, nil
}

// powerOn starts the virtual machine, or says that it has been running.
func (r *machineReconciler) powerOn(ctx context.Context, s *machineScope, running bool) error {
	data, err := r.bootstrapData(ctx, s)
	if err != nil && !running {
		return err
	}
	settings := s.machine.Spec.MetadataSettings
	err = r.datacenter.PowerOn(s.key(), datacenter.Boot{
		UserData:             data,
		KubernetesVersion:    s.owner.Spec.Version,
		ProviderIDInMetadata: settings != nil && settings.ProviderIDInjection,
		Running:              running,
	})
	if err != nil {
		return fmt.Errorf("unable to start the virtual machine %d: %w", ptr.Deref(s.machine.Spec.VirtualMachineID, 0), err)
	}
	return nil
}

// restore makes a virtual machine again that the datacenter had before the simulator was restarted.
// It comes before everything else: pausing a cluster does not stop its virtual machines, nor does
// losing the credentials. A machine that is being deleted is left alone: it may just have lost its
// virtual machine for good.
func (r *machineReconciler) restore(ctx context.Context, s *machineScope) error {
	if s.machine.Spec.VirtualMachineID == nil || !s.machine.DeletionTimestamp.IsZero() {
		return nil
	}
	if _, ok := r.datacenter.Get(s.key()); ok {
		return nil
	}
	spec := s.vmSpec()
	spec.ID = *s.machine.Spec.VirtualMachineID
	spec.UUID = strings.TrimPrefix(s.machine.Spec.ProviderID, providerIDPrefix)
	spec.HostNode = s.machine.Status.ProxmoxNode
	r.datacenter.Create(spec)
	if !s.machine.Status.Initialization.done() {
		return nil // ensureVM goes on from the state recorded
	}
	ctrl.LoggerFrom(ctx).Info("Restored a virtual machine", "id", spec.ID)
	return r.powerOn(ctx, s, true)
}

func (s *machineScope) vmSpec() datacenter.Spec {
	return datacenter.Spec{
		Key:          s.key(),
		Cluster:      client.ObjectKeyFromObject(s.cluster),
		Machine:      s.owner.Name,
		ControlPlane: util.IsControlPlaneMachine(s.owner),
		Addresses:    guestAddresses(s.machine),
	}
}
