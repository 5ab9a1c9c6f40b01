package proxmox

import (
	"errors"
	"fmt"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/ipam"
)

func TestMachineIsProvisioned(t *testing.T) {
	f := newFleet(t).up(t)
	storage := &ipam.GlobalInClusterIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "storage-" + f.ns},
		Spec:       ipam.PoolSpec{Addresses: []string{"10.99.0.10-10.99.0.20"}, Prefix: 24},
	}
	create(t, storage)
	owner, machine := f.machine(t, "m", nil, func(m *ProxmoxMachine) {
		m.Spec.VMIDRange = &IDRange{Start: 5000, End: 5009}
		m.Spec.Network.NetworkDevices = append(m.Spec.Network.NetworkDevices, NetworkDevice{
			Name:      "net1",
			IPPoolRef: []corev1.TypedLocalObjectReference{{APIGroup: ptr.To("ipam.cluster.x-k8s.io"), Kind: "GlobalInClusterIPPool", Name: storage.Name}},
		})
	})
	reaches(t, machine, VirtualMachineProvisioned, "WaitingForBootstrapData")
	if len(machine.Finalizers) > 0 {
		t.Errorf("finalizers before there is anything to clean up: %v", machine.Finalizers)
	}
	f.bootstrap(t, owner, cloudConfig)
	becomesProvisioned(t, machine)

	vm, ok := dc.Get(client.ObjectKeyFromObject(machine))
	if !ok || vm.Phase != datacenter.Running {
		t.Fatalf("the virtual machine is %+v", vm)
	}
	if diff := cmp.Diff([]string{"10.20.30.20"}, vm.Addresses); diff != "" {
		t.Error(diff)
	}
	if !regexp.MustCompile(`^proxmox://[0-9a-f-]{36}$`).MatchString(machine.Spec.ProviderID) || machine.Spec.ProviderID != "proxmox://"+vm.UUID {
		t.Errorf("providerID is %q", machine.Spec.ProviderID)
	}
	if ptr.Deref(machine.Spec.VirtualMachineID, 0) != 5000 || vm.ID != 5000 {
		t.Errorf("virtualMachineID is %v, the VM's is %d", machine.Spec.VirtualMachineID, vm.ID)
	}
	want := MachineStatus{
		Conditions:     machine.Status.Conditions,
		Initialization: &Initialization{Provisioned: ptr.To(true)},
		Addresses: []clusterv1.MachineAddress{
			{Type: clusterv1.MachineHostName, Address: "m"}, {Type: clusterv1.MachineInternalIP, Address: "10.20.30.20"},
		},
		VMStatus:              "ready",
		BootstrapDataProvided: ptr.To(true),
		IPAddresses: []IPAddresses{
			{Net: "default", IPv4: []string{"10.20.30.20"}},
			{Net: "net0", IPv4: []string{"10.20.30.20"}},
			{Net: "net1", IPv4: []string{"10.99.0.10"}},
		},
		ProxmoxNode: "pve1",
	}
	if diff := cmp.Diff(want, machine.Status); diff != "" {
		t.Error(diff)
	}
	for _, condition := range []string{VirtualMachineProvisioned, "Ready"} {
		if !conditions.IsTrue(machine, condition) {
			t.Errorf("%s is %+v", condition, conditions.Get(machine, condition))
		}
	}
	if diff := cmp.Diff([]string{"proxmoxmachine.infrastructure.cluster.x-k8s.io"}, machine.Finalizers); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{clusterv1.ClusterNameLabel: "talos", "topology.kubernetes.io/proxmox-zone": "default"}, machine.Labels); diff != "" {
		t.Error(diff)
	}
	get(t, f.infra)
	if diff := cmp.Diff(&NodeLocations{Workers: []NodeLocation{{Machine: corev1.LocalObjectReference{Name: "m"}, Node: "pve1"}}},
		f.infra.Status.NodeLocations); diff != "" {
		t.Error(diff)
	}

	claim := &ipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "m-net0-00-inet"}}
	get(t, claim)
	if diff := cmp.Diff(metav1.ObjectMeta{
		Labels:      map[string]string{clusterv1.ClusterNameLabel: "talos", "topology.kubernetes.io/proxmox-zone": "default"},
		Annotations: map[string]string{"ipam.capmox.cluster.x-k8s.io/pool-ref-counter": "0", "ipam.capmox.cluster.x-k8s.io/default-gateway": "true"},
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "infrastructure.cluster.x-k8s.io/v1alpha2", Kind: "ProxmoxMachine", Name: "m", UID: machine.UID,
			Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
		}},
	}, metav1.ObjectMeta{Labels: claim.Labels, Annotations: claim.Annotations, OwnerReferences: claim.OwnerReferences}); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(ipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: "infra-v4-icip"}, claim.Spec.PoolRef); diff != "" {
		t.Error(diff)
	}
	claim.Name = "m-net1-00-inet"
	get(t, claim)
	if diff := cmp.Diff(map[string]string{"ipam.capmox.cluster.x-k8s.io/pool-ref-counter": "0"}, claim.Annotations); diff != "" {
		t.Error(diff)
	}
	remove(t, machine) // its id is free for the next run
	gone(t, machine)
}

func TestMachineWaitsForInfrastructure(t *testing.T) {
	f := newFleet(t)
	create(t, f.secret, f.cluster)
	f.createInfra(t)
	becomesProvisioned(t, f.infra)
	_, machine := f.machine(t, "m", cloudConfig, nil)
	reaches(t, machine, VirtualMachineProvisioned, "WaitingForClusterInfrastructureReady")
	changeStatus(t, f.cluster, func() { f.cluster.Status.Initialization.InfrastructureProvisioned = ptr.To(true) })
	becomesProvisioned(t, machine)
}

func TestMachineThatNeverBoots(t *testing.T) {
	f := newFleet(t).up(t)
	_, asked := f.machine(t, "never-boots", cloudConfig, nil)
	_, notAsked := f.machine(t, "never-boots-unasked", cloudConfig, func(m *ProxmoxMachine) {
		m.Spec.Checks = &Checks{SkipQemuGuestAgent: true}
	})
	// Without the guest agent a machine counts as soon as it has been started.
	becomesProvisioned(t, notAsked)
	reaches(t, asked, VirtualMachineProvisioned, WaitingForCloudInit)
	eventually(t, func() error { // the rest of the status comes after the conditions
		get(t, asked)
		if asked.Status.VMStatus == "" {
			return errors.New("it has no vmStatus")
		}
		return nil
	})
	if asked.Status.Initialization.done() || asked.Status.VMStatus != "pending" || len(asked.Status.Addresses) != 2 {
		t.Errorf("its status is %+v", asked.Status)
	}
}

func TestMachinesAreSpread(t *testing.T) {
	f := newFleet(t).up(t)
	var machines []*ProxmoxMachine
	for i := range 4 {
		_, machine := f.machine(t, fmt.Sprintf("m-%d", i), cloudConfig, nil)
		machines = append(machines, machine)
	}
	nodes, ids, addresses := map[string]int{}, map[int64]bool{}, map[string]bool{}
	for _, machine := range machines {
		becomesProvisioned(t, machine)
		nodes[machine.Status.ProxmoxNode]++
		ids[*machine.Spec.VirtualMachineID] = true
		addresses[machine.Status.Addresses[1].Address] = true
	}
	if diff := cmp.Diff(map[string]int{"pve1": 2, "pve2": 2}, nodes); diff != "" {
		t.Error(diff)
	}
	if len(ids) != 4 || len(addresses) != 4 {
		t.Errorf("ids %v, addresses %v", ids, addresses)
	}
	get(t, f.infra)
	if n := len(f.infra.Status.NodeLocations.Workers); n != 4 {
		t.Errorf("%d locations are recorded: %+v", n, f.infra.Status.NodeLocations)
	}
}

func TestMachineWithoutFreeAddress(t *testing.T) {
	f := newFleet(t)
	f.infra.Spec.IPv4Config.Addresses = []string{"10.20.30.20"}
	f.up(t)
	_, first := f.machine(t, "first", cloudConfig, nil)
	becomesProvisioned(t, first)
	_, second := f.machine(t, "second", cloudConfig, nil)
	reaches(t, second, VirtualMachineProvisioned, WaitingForStaticIPAllocation)
	eventually(t, func() error {
		get(t, second)
		if second.Spec.ProviderID == "" {
			return errors.New("it is cloned, but has no providerID")
		}
		return nil
	})
	remove(t, first)
	gone(t, first)
	// Nobody collects garbage here.
	remove(t, &ipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "first-net0-00-inet"}})
	becomesProvisioned(t, second)
}

func TestMachineWithAForeignClaim(t *testing.T) {
	f := newFleet(t).up(t)
	create(t, &ipamv1.IPAddressClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "m-net0-00-inet"},
		Spec:       ipamv1.IPAddressClaimSpec{PoolRef: ipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: "infra-v4-icip"}},
	})
	_, machine := f.machine(t, "m", cloudConfig, nil)
	reaches(t, machine, VirtualMachineProvisioned, WaitingForStaticIPAllocation)
	const want = `Static IP claim "m-net0-00-inet" is conflicting (OwnerMismatch); inspect the IPAddressClaim ownership, poolRef, ` +
		`and referenced IPAddress before provisioning can continue.`
	eventually(t, func() error {
		get(t, machine)
		if diff := cmp.Diff(want, conditions.GetMessage(machine, VirtualMachineProvisioned)); diff != "" {
			return fmt.Errorf("message: %s", diff)
		}
		return nil
	})
	// Its claim is not there to tell the machine that it goes.
	remove(t, &ipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "m-net0-00-inet"}})
	becomesProvisioned(t, machine)
}

// As with the provider, a machine without a network device never has an address, and so never is ready.
func TestMachineWithoutNetworkDevices(t *testing.T) {
	f := newFleet(t).up(t)
	_, machine := f.machine(t, "m", cloudConfig, func(m *ProxmoxMachine) { m.Spec.Network.NetworkDevices = nil })
	reaches(t, machine, VirtualMachineProvisioned, WaitingForClusterAPIMachineAddresses)
}

// Whoever takes finalizers off by force leaves virtual machines behind. They do not get in the way of the
// next cluster of that name.
func TestFinalizersTakenOff(t *testing.T) {
	f := newFleet(t).up(t)
	_, machine := f.machine(t, "m", cloudConfig, nil)
	becomesProvisioned(t, machine)
	change(t, f.cluster, func() { f.cluster.Spec.Paused = ptr.To(true) }) // nothing is cleaned up
	catchUp(t)
	for _, o := range []client.Object{machine, f.infra} {
		remove(t, o)
		change(t, o, func() { o.SetFinalizers(nil) })
		gone(t, o)
	}
	if _, ok := dc.Get(client.ObjectKeyFromObject(machine)); !ok {
		t.Error("the virtual machine went with its ProxmoxMachine")
	}
	remove(t, f.cluster)
	change(t, f.cluster, func() { f.cluster.Finalizers = nil })
	gone(t, f.cluster)
	eventually(t, func() error {
		if vm, ok := dc.Get(client.ObjectKeyFromObject(machine)); ok {
			return fmt.Errorf("the virtual machine is still there: %+v", vm)
		}
		return nil
	})
}

func TestMachineWithoutFreeID(t *testing.T) {
	f := newFleet(t).up(t)
	only := func(m *ProxmoxMachine) { m.Spec.VMIDRange = &IDRange{Start: 6000, End: 6000} }
	_, first := f.machine(t, "first", cloudConfig, only)
	becomesProvisioned(t, first)
	_, second := f.machine(t, "second", cloudConfig, only)
	reaches(t, second, VirtualMachineProvisioned, VMProvisionFailed)
	if got := conditions.GetMessage(second, VirtualMachineProvisioned); got != "No free vmid found in vmIDRange" {
		t.Errorf("message is %q", got)
	}
	for _, machine := range []*ProxmoxMachine{second, first} { // the second has no VM to delete
		remove(t, machine)
		gone(t, machine)
	}
}

func TestVirtualMachineIsRestored(t *testing.T) {
	f := newFleet(t).up(t)
	_, machine := f.machine(t, "m", cloudConfig, nil)
	becomesProvisioned(t, machine)
	// Before the provider knows of it, it has heard of the id that it gave to the first.
	_, later := f.machine(t, "later", cloudConfig, nil)
	becomesProvisioned(t, later)
	// Paused clusters have running machines as well.
	change(t, f.cluster, func() { f.cluster.Spec.Paused = ptr.To(true) })

	key := client.ObjectKeyFromObject(machine)
	before, _ := dc.Get(key)
	dc.Delete(key) // what a restart of the simulator comes to
	eventually(t, func() error {
		after, ok := dc.Get(key)
		if !ok {
			return fmt.Errorf("the virtual machine has not come back")
		}
		if diff := cmp.Diff(before, after); diff != "" {
			return fmt.Errorf("the virtual machine has come back as another: %s", diff)
		}
		return nil
	})
}

func TestMachineIsDeleted(t *testing.T) {
	f := newFleet(t).up(t)
	_, machine := f.machine(t, "m", cloudConfig, nil)
	becomesProvisioned(t, machine)
	remove(t, machine)
	gone(t, machine)
	if vm, ok := dc.Get(client.ObjectKeyFromObject(machine)); ok {
		t.Errorf("the virtual machine is still there: %+v", vm)
	}
	get(t, f.infra)
	if l := f.infra.Status.NodeLocations; l != nil && len(l.Workers) > 0 {
		t.Errorf("locations are still recorded: %+v", l)
	}
}

func TestDeletionHangsWithoutCredentials(t *testing.T) {
	f := newFleet(t).up(t)
	_, machine := f.machine(t, "m", cloudConfig, nil)
	becomesProvisioned(t, machine)

	// The finalizer holds the Secret; somebody takes it off.
	remove(t, f.secret)
	change(t, f.secret, func() { f.secret.Finalizers = nil })
	gone(t, f.secret)
	remove(t, machine)
	remove(t, f.cluster)
	catchUp(t)
	remove(t, f.infra)
	reaches(t, f.infra, ProxmoxAvailable, CredentialsNotFound)
	get(t, machine)
	if _, ok := dc.Get(client.ObjectKeyFromObject(machine)); !ok || len(machine.Finalizers) == 0 {
		t.Errorf("the machine went without credentials")
	}

	again := newFleet(t).secret
	again.Namespace = f.ns
	create(t, again)
	gone(t, machine)
	gone(t, f.infra)
}

func TestDeletionHangsWithoutInfrastructure(t *testing.T) {
	f := newFleet(t).up(t)
	_, machine := f.machine(t, "m", cloudConfig, nil)
	becomesProvisioned(t, machine)
	remove(t, f.infra)
	change(t, f.infra, func() { f.infra.Finalizers = nil })
	gone(t, f.infra)
	catchUp(t)
	remove(t, machine)

	other := newFleet(t).up(t) // by the time its machine is gone the other has had its turn
	_, last := other.machine(t, "last", cloudConfig, nil)
	becomesProvisioned(t, last)
	remove(t, last)
	gone(t, last)
	get(t, machine)
	if _, ok := dc.Get(client.ObjectKeyFromObject(machine)); !ok || len(machine.Finalizers) == 0 {
		t.Errorf("the machine went without its ProxmoxCluster")
	}
}
