// Package datacenter simulates the virtual machines and what runs in them: boot, etcd
// membership, kubelets. The provider simulators drive it as the real providers drive
// Proxmox and the Talos API; the Kubernetes API of each workload cluster is in package workload.
//
// State changes under one lock; what follows from a change (who joins etcd, which API server
// answers, what the Nodes say) is worked out cluster by cluster in a single loop, from the
// state alone, so that no order of events can leave something out.
package datacenter

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

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
	// Clock is the real one if nil.
	Clock clock.WithDelayedExecution
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
	// Addresses are the IP addresses of the guest; may be set later, before PowerOn.
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

// Datacenter is all virtual machines. Its methods may be called from anywhere and do not block.
type Datacenter struct {
	opts Options

	mu       sync.Mutex
	vms      map[types.NamespacedName]*vm
	clusters map[types.NamespacedName]*cluster
	watchers []func(vm, cluster types.NamespacedName)
	nextID   int64
	dirty    map[types.NamespacedName]bool
	wake     chan struct{} // holds at most one: dirty is not empty
}

// vm is a virtual machine. It is replaced by nothing: a new one with the same key is another pointer,
// which tells timers of the old one that they are too late.
type vm struct {
	VM
	boot       Boot
	guest      guest
	stuck      bool // the boot timer has fired but chaos keeps it from getting anywhere
	registered bool // the kubelet has created its Node; it does so once per boot
}

// cluster is what the control-plane guests of a cluster share.
type cluster struct {
	key          types.NamespacedName
	bootstrapped bool
	members      []*member // oldest first
	nextMember   uint64
	leader       uint64
	authority    *tls.Certificate
	lost         map[string]bool // hostnames of Nodes whose VM is gone, until the API server has been told
}

type member struct {
	id       uint64
	vm       *vm
	hostname string
}

// New returns an empty Datacenter.
func New(opts Options) *Datacenter {
	if opts.Clock == nil {
		opts.Clock = clock.RealClock{}
	}
	d := &Datacenter{
		opts:     opts,
		vms:      map[types.NamespacedName]*vm{},
		clusters: map[types.NamespacedName]*cluster{},
		nextID:   100, // Proxmox's first
		dirty:    map[types.NamespacedName]bool{},
		wake:     make(chan struct{}, 1),
	}
	opts.Chaos.OnChange(func(chaos.Knobs) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for key := range d.clusters {
			d.touch(key)
		}
	})
	return d
}

// Start works out what follows from changes, until ctx ends (manager.Runnable).
func (d *Datacenter) Start(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		}
		d.mu.Lock()
		keys := make([]types.NamespacedName, 0, len(d.dirty))
		for key := range d.dirty {
			keys = append(keys, key)
		}
		clear(d.dirty)
		d.mu.Unlock()
		for _, key := range keys {
			d.settle(ctx, key)
		}
	}
}

// NeedLeaderElection makes it run in any manager.
func (d *Datacenter) NeedLeaderElection() bool { return false }

// Watch calls f after each change to a VM or to the etcd of its cluster; a change to the cluster as a
// whole has no vm. f must not block, nor call the Datacenter.
func (d *Datacenter) Watch(f func(vm, cluster types.NamespacedName)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watchers = append(d.watchers, f)
}

// Source feeds a controller with what Watch reports: enqueue names the requests of a change. It may
// read from caches and call the Datacenter.
func (d *Datacenter) Source(enqueue func(ctx context.Context, vm, cluster types.NamespacedName) []reconcile.Request) source.Source {
	type change struct{ vm, cluster types.NamespacedName }
	return source.Func(func(ctx context.Context, requests workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		changes := workqueue.NewTyped[change]()
		d.Watch(func(vm, cluster types.NamespacedName) { changes.Add(change{vm, cluster}) })
		context.AfterFunc(ctx, changes.ShutDown)
		go func() {
			for {
				c, stopped := changes.Get()
				if stopped {
					return
				}
				for _, request := range enqueue(ctx, c.vm, c.cluster) {
					requests.Add(request)
				}
				changes.Done(c)
			}
		}()
		return nil
	})
}

// touch has the cluster worked out again. The caller holds the lock.
func (d *Datacenter) touch(cluster types.NamespacedName) {
	d.dirty[cluster] = true
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// changed tells the watchers about a VM and has its cluster worked out again. The caller holds the lock.
func (d *Datacenter) changed(vm, cluster types.NamespacedName) {
	d.touch(cluster)
	d.tell(vm, cluster)
}

func (d *Datacenter) tell(vm, cluster types.NamespacedName) {
	for _, f := range d.watchers {
		f(vm, cluster)
	}
}

// cluster returns the cluster's record, a new one if there is none. The caller holds the lock.
func (d *Datacenter) cluster(key types.NamespacedName) *cluster {
	c, ok := d.clusters[key]
	if !ok {
		c = &cluster{key: key, nextMember: 1, lost: map[string]bool{}}
		d.clusters[key] = c
	}
	return c
}

// Create clones a virtual machine, unless there is one with that key. It returns what there is.
func (d *Datacenter) Create(spec Spec) VM {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.vms[spec.Key]; ok {
		return v.VM
	}
	if spec.ID == 0 {
		for d.idTaken(d.nextID) {
			d.nextID++
		}
		spec.ID = d.nextID
	}
	if spec.UUID == "" {
		spec.UUID = string(uuid.NewUUID())
	}
	v := &vm{VM: VM{Spec: spec, Phase: Cloning}}
	d.vms[spec.Key] = v
	d.cluster(spec.Cluster)
	d.after(d.opts.Boot/4, v, func() {
		if v.Phase == Cloning {
			v.Phase = Stopped
			d.changed(v.Key, v.Cluster)
		}
	})
	return v.VM
}

func (d *Datacenter) idTaken(id int64) bool {
	for _, v := range d.vms {
		if v.ID == id {
			return true
		}
	}
	return false
}

// after calls f with the lock held when the time has come, unless v was deleted meanwhile. For no
// time at all it calls f at once: the caller holds the lock.
func (d *Datacenter) after(delay time.Duration, v *vm, f func()) {
	if delay <= 0 {
		f()
		return
	}
	d.opts.Clock.AfterFunc(delay, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.vms[v.Key] == v {
			f()
		}
	})
}

// Get returns the virtual machine, if there is one.
func (d *Datacenter) Get(key types.NamespacedName) (VM, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.vms[key]
	if !ok {
		return VM{}, false
	}
	return v.VM, true
}

// List returns all virtual machines in the order of their keys.
func (d *Datacenter) List() []VM {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]VM, 0, len(d.vms))
	for _, v := range d.vms {
		out = append(out, v.VM)
	}
	slices.SortFunc(out, func(a, b VM) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	return out
}

// SetAddresses gives a VM its addresses.
func (d *Datacenter) SetAddresses(key types.NamespacedName, addresses []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.vms[key]; ok && !slices.Equal(v.Addresses, addresses) {
		v.Addresses = slices.Clone(addresses)
		d.changed(v.Key, v.Cluster)
	}
}

// PowerOn starts a cloned virtual machine, unless it was.
func (d *Datacenter) PowerOn(key types.NamespacedName, boot Boot) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.vms[key]
	switch {
	case !ok:
		return fmt.Errorf("there is no virtual machine %s", key)
	case v.Phase == Cloning && !boot.Running:
		return fmt.Errorf("virtual machine %s is being cloned", key)
	case v.Phase == Booting || v.Phase == Running:
		return nil
	}
	v.boot, v.guest, v.Phase = boot, newGuest(v.Spec, boot), Booting
	delay := d.opts.Boot
	if boot.Running {
		delay = 0
	}
	d.after(delay, v, func() {
		v.stuck = true // until settle has asked what could be in the way
		d.changed(v.Key, v.Cluster)
	})
	d.changed(v.Key, v.Cluster)
	return nil
}

// Delete stops and removes a virtual machine. Its etcd member, if it has not left, is dead from
// then on; its Node stays, not ready.
func (d *Datacenter) Delete(key types.NamespacedName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.vms[key]
	if !ok {
		return
	}
	delete(d.vms, key)
	c := d.cluster(v.Cluster)
	if v.registered {
		c.lost[v.Hostname] = true
	}
	d.elect(c)
	d.changed(key, v.Cluster)
}

// RemoveCluster forgets everything about a cluster: another one of its name starts from nothing. Virtual
// machines that it still has, because somebody took the finalizer off a ProxmoxMachine, go with it. Real
// ones would run on, but as nobody's.
func (d *Datacenter) RemoveCluster(key types.NamespacedName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, v := range d.vmsOf(key) {
		delete(d.vms, v.Key)
		d.tell(v.Key, key)
	}
	delete(d.clusters, key)
	d.opts.Cloud.Remove(key)
	d.tell(types.NamespacedName{}, key)
}

// SetAuthority gives the cluster the certificate authority of its API server, PEM encoded, where it
// does not come from a Talos machine configuration.
func (d *Datacenter) SetAuthority(key types.NamespacedName, certPEM, keyPEM []byte) error {
	authority, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("certificate authority of cluster %s: %w", key, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.cluster(key); c.authority == nil {
		c.authority = &authority
		d.touch(key)
	}
	return nil
}

// Errors of etcd.
var (
	errNoMember = errors.New("not a member of etcd")
	errNoQuorum = errors.New("etcdserver: request timed out") // its own words
)

// Etcd returns the members of a cluster's etcd, oldest first; none before it is bootstrapped.
func (d *Datacenter) Etcd(key types.NamespacedName) []Member {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, ok := d.clusters[key]
	if !ok {
		return nil
	}
	out := make([]Member, 0, len(c.members))
	for _, m := range c.members {
		out = append(out, Member{
			VM: m.vm.Key, Hostname: m.hostname, ID: m.id, Healthy: d.alive(m.vm), Leader: m.id == c.leader,
		})
	}
	return out
}

// alive tells whether the guest answers. The caller holds the lock.
func (d *Datacenter) alive(v *vm) bool { return d.vms[v.Key] == v && v.Phase == Running }

// Bootstrap starts etcd on one running control-plane machine of a Talos cluster, as the Talos API
// of that name does. It fails if the guest does not run yet; twice is once.
func (d *Datacenter) Bootstrap(key types.NamespacedName) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.vms[key]
	switch {
	case !ok || v.Phase != Running:
		return fmt.Errorf("machine %s does not answer yet", key)
	case v.Problem != "":
		return fmt.Errorf("machine %s: %s", key, v.Problem)
	case !v.ControlPlane || v.guest.kind != talos:
		return fmt.Errorf("machine %s is not a Talos control-plane machine", key)
	}
	if c := d.cluster(v.Cluster); !c.bootstrapped {
		c.bootstrapped = true
		c.join(v)
		d.changed(key, v.Cluster)
	}
	return nil
}

// join makes v a member of etcd.
func (c *cluster) join(v *vm) {
	m := &member{id: c.nextMember, vm: v, hostname: v.Hostname}
	c.nextMember++
	c.members = append(c.members, m)
	if len(c.members) == 1 {
		c.leader = m.id
	}
}

// Leave makes a member leave etcd of its own accord.
func (d *Datacenter) Leave(key types.NamespacedName) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.vms[key]
	if !ok || v.Phase != Running {
		return fmt.Errorf("machine %s does not answer", key)
	}
	for _, m := range d.cluster(v.Cluster).members {
		if m.vm == v {
			return d.remove(v.Cluster, m.id)
		}
	}
	return fmt.Errorf("machine %s: %w", key, errNoMember)
}

// RemoveMember removes a member, be it alive or dead. As all that changes etcd, it takes a quorum.
func (d *Datacenter) RemoveMember(cluster types.NamespacedName, id uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.remove(cluster, id)
}

func (d *Datacenter) remove(key types.NamespacedName, id uint64) error {
	c := d.cluster(key)
	i := slices.IndexFunc(c.members, func(m *member) bool { return m.id == id })
	if i < 0 {
		return fmt.Errorf("cluster %s, etcd member %x: %w", key, id, errNoMember)
	}
	if !d.quorum(c) {
		return fmt.Errorf("remove etcd member %x of cluster %s: %w", id, key, errNoQuorum)
	}
	// Its guest does not join again by itself: real ones have their data directory wiped or are on
	// their way out.
	c.members[i].vm.guest.left = true
	vmKey := c.members[i].vm.Key
	c.members = slices.Delete(c.members, i, i+1)
	d.elect(c)
	d.changed(vmKey, key)
	return nil
}

// elect makes the oldest living member the leader, if the one there was is no more.
func (d *Datacenter) elect(c *cluster) {
	alive := func(m *member) bool { return d.alive(m.vm) }
	if slices.ContainsFunc(c.members, func(m *member) bool { return m.id == c.leader && alive(m) }) {
		return
	}
	c.leader = 0
	if i := slices.IndexFunc(c.members, alive); i >= 0 {
		c.leader = c.members[i].id
	}
}

// MoveLeader makes a member the leader.
func (d *Datacenter) MoveLeader(key types.NamespacedName, id uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.cluster(key)
	for _, m := range c.members {
		if m.id == id && d.alive(m.vm) {
			c.leader = id
			return nil
		}
	}
	return fmt.Errorf("cluster %s, etcd member %x: %w, or does not answer", key, id, errNoMember)
}

// APIServerUp tells whether the cluster's API server answers: etcd has a quorum of healthy members.
func (d *Datacenter) APIServerUp(key types.NamespacedName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.clusters[key]
	return ok && d.opts.Cloud.Cluster(key).Serving()
}
