// Package datacenter simulates the virtual machines and what runs in them: boot, etcd
// membership, kubelets. The provider simulators drive it as the real providers drive
// Proxmox and the Talos API; the Kubernetes API of each workload cluster is in package workload.
package datacenter

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/workload"
)

// Options for New.
type Options struct {
	// Boot is how long a virtual machine takes from power-on until its guest runs; 0 is at once.
	// Cloning takes a quarter of it on top.
	Boot  time.Duration
	Cloud *workload.Cloud
	Chaos *chaos.Monkey
	Log   logr.Logger
}

// Spec is what a virtual machine is made from.
type Spec struct {
	// Key names the VM: namespace and name of its ProxmoxMachine.
	Key types.NamespacedName
	// Cluster is namespace and name of the Cluster.
	Cluster types.NamespacedName
	// Machine is the name of the Machine, in the namespace of Key.
	Machine string
	// ControlPlane tells the role.
	ControlPlane bool
	// ID and UUID are Proxmox's names of the VM; 0 and "" for a new one. A VM that was there
	// before the simulator was restarted is made again with the ones it had.
	ID   int64
	UUID string
	// Addresses are the IP addresses of the guest; may be set later, before Start.
	Addresses []string
	// HostNode is the Proxmox node it is placed on.
	HostNode string
}

// Boot is what a virtual machine is started with.
type Boot struct {
	// UserData is the bootstrap data of the Machine: a Talos machine configuration or cloud-init.
	UserData []byte
	// KubernetesVersion is Machine.spec.version; a Talos guest obeys its configuration instead.
	KubernetesVersion string
	// ProviderIDInMetadata tells whether the metadata carry the provider id
	// (metadataSettings.providerIDInjection).
	ProviderIDInMetadata bool
	// Running says that the VM ran before the simulator was restarted: it is up at once and, if
	// of a control plane, a member of etcd.
	Running bool
}

// Phase of a virtual machine.
type Phase string

// Phases in their order.
const (
	Cloning Phase = "Cloning" // the disk is being copied
	Stopped Phase = "Stopped" // cloned, never started
	Booting Phase = "Booting" // powered on; the guest does not answer yet
	Running Phase = "Running" // the guest answers
)

// VM is the state of a virtual machine at one moment.
type VM struct {
	Spec
	Phase Phase
	// Hostname of the guest, known once it runs.
	Hostname string
	// Problem says why the guest does not get further, if so: a refused machine configuration, …
	Problem string
}

// Datacenter is all virtual machines. Its methods may be called from anywhere and do not block.
type Datacenter struct{}

// New returns an empty Datacenter.
func New(opts Options) *Datacenter { panic("to be written") }

// Start runs the timers until ctx ends (manager.Runnable).
func (d *Datacenter) Start(ctx context.Context) error { panic("to be written") }

// Watch calls f after each change to a VM or to the etcd of its cluster. f must not block.
func (d *Datacenter) Watch(f func(vm, cluster types.NamespacedName)) { panic("to be written") }

// Create clones a virtual machine, unless there is one with that key. It returns what there is.
func (d *Datacenter) Create(spec Spec) VM { panic("to be written") }

// Get returns the virtual machine, if there is one.
func (d *Datacenter) Get(key types.NamespacedName) (VM, bool) { panic("to be written") }

// List returns all virtual machines in the order of their keys.
func (d *Datacenter) List() []VM { panic("to be written") }

// SetAddresses gives a stopped VM its addresses.
func (d *Datacenter) SetAddresses(key types.NamespacedName, addresses []string) {
	panic("to be written")
}

// PowerOn starts a cloned virtual machine, unless it was.
func (d *Datacenter) PowerOn(key types.NamespacedName, boot Boot) error { panic("to be written") }

// Delete stops and removes a virtual machine. Its etcd member, if it has not left, is dead from
// then on; its Node stays, not ready.
func (d *Datacenter) Delete(key types.NamespacedName) { panic("to be written") }

// RemoveCluster forgets everything about a cluster that has no virtual machines any more.
func (d *Datacenter) RemoveCluster(cluster types.NamespacedName) { panic("to be written") }

// Member is a member of a cluster's etcd.
type Member struct {
	VM       types.NamespacedName
	Hostname string
	// ID is unique within the cluster and never 0.
	ID uint64
	// Healthy means that its virtual machine runs.
	Healthy bool
	Leader  bool
}

// Etcd returns the members of a cluster's etcd, oldest first; none before it is bootstrapped.
func (d *Datacenter) Etcd(cluster types.NamespacedName) []Member { panic("to be written") }

// Bootstrap starts etcd on one running control-plane machine of a Talos cluster, as the Talos API
// of that name does. It fails if the guest does not run yet; twice is once.
func (d *Datacenter) Bootstrap(vm types.NamespacedName) error { panic("to be written") }

// Leave makes a member leave etcd of its own accord.
func (d *Datacenter) Leave(vm types.NamespacedName) error { panic("to be written") }

// RemoveMember removes a member, be it alive or dead.
func (d *Datacenter) RemoveMember(cluster types.NamespacedName, id uint64) error {
	panic("to be written")
}

// MoveLeader makes a member the leader.
func (d *Datacenter) MoveLeader(cluster types.NamespacedName, id uint64) error {
	panic("to be written")
}

// APIServerUp tells whether the cluster's API server answers: etcd has a quorum of healthy members.
func (d *Datacenter) APIServerUp(cluster types.NamespacedName) bool { panic("to be written") }

// SetAuthority gives the cluster the certificate authority of its API server, PEM encoded, where it
// does not come from a Talos machine configuration.
func (d *Datacenter) SetAuthority(cluster types.NamespacedName, certPEM, keyPEM []byte) error {
	panic("to be written")
}
