package datacenter

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/pem"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// settle works out what follows from the state of a cluster's machines.
func (d *Datacenter) settle(ctx context.Context, key types.NamespacedName) {
	d.mu.Lock()
	c, ok := d.clusters[key]
	if !ok {
		d.mu.Unlock()
		return
	}
	vms := d.vmsOf(key)
	for _, v := range vms {
		d.finishBoot(v)
		if v.Phase == Running && c.strange(v) {
			v.Problem = "its machine configuration has another certificate authority than the cluster"
		}
		d.joinEtcd(c, v)
	}
	quorum, version := d.quorum(c), c.version()
	if c.authority == nil {
		c.authority = authorityOf(vms)
	}
	authority := c.authority
	// With the lock: what RemoveCluster has removed must not be made again.
	api := d.opts.Cloud.Cluster(key)
	d.mu.Unlock()

	// Without the lock: the API server's listener and store have their own, and may take a moment.
	up := quorum && authority != nil
	was := api.Serving()
	if up {
		if err := api.Serve(*authority, version); err != nil {
			d.opts.Log.Error(err, "API server of the workload cluster does not start", "cluster", key)
			return
		}
		d.settleNodes(ctx, c, api.Client())
	} else if was {
		api.Halt()
	}
	if up != was {
		d.mu.Lock()
		d.tell(types.NamespacedName{}, key)
		d.mu.Unlock()
	}
}

// vmsOf returns the cluster's machines in the order of their keys. The caller holds the lock.
func (d *Datacenter) vmsOf(key types.NamespacedName) []*vm {
	var out []*vm
	for _, v := range d.vms {
		if v.Cluster == key {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *vm) int { return cmp.Compare(a.Key.Name, b.Key.Name) })
	return out
}

// finishBoot ends the boot of a machine whose time has come, unless something is in its way.
func (d *Datacenter) finishBoot(v *vm) {
	if !v.stuck {
		return
	}
	problem := v.guest.problem
	if d.opts.Chaos.NeverBoots(v.Key.Namespace, v.Machine) {
		problem = "chaos: never boots"
	}
	if problem != "" {
		if v.Problem != problem {
			v.Problem = problem
			d.tell(v.Key, v.Cluster)
		}
		return
	}
	v.stuck, v.Problem, v.Phase, v.Hostname = false, "", Running, v.guest.hostname
	d.tell(v.Key, v.Cluster)
}

// joinEtcd makes a running control-plane machine a member, when its turn has come.
func (d *Datacenter) joinEtcd(c *cluster, v *vm) {
	if !v.ControlPlane || v.Phase != Running || v.guest.left || c.strange(v) ||
		slices.ContainsFunc(c.members, func(m *member) bool { return m.vm == v }) {
		return
	}
	// A machine that ran before the restart was a member. kubeadm init makes a cluster; Talos waits
	// to be told, but for its old machine type init. Others join if etcd can decide.
	starts := !c.bootstrapped && (v.boot.Running || v.guest.initsCluster)
	if !starts && !v.boot.Running && !d.quorum(c) {
		return
	}
	c.bootstrapped = true
	c.join(v)
	d.tell(v.Key, c.key)
}

// quorum tells whether more than half of the members of etcd are alive.
func (d *Datacenter) quorum(c *cluster) bool {
	alive := 0
	for _, m := range c.members {
		if d.alive(m.vm) {
			alive++
		}
	}
	return c.bootstrapped && alive > len(c.members)/2
}

// version is that of the oldest control-plane machine: it holds the endpoint the longest.
func (c *cluster) version() string {
	if len(c.members) == 0 {
		return ""
	}
	return c.members[0].vm.guest.kubelet
}

// strange tells whether a Talos machine was configured with the secrets of another cluster than its own:
// those of a bundle that was lost and generated anew. Then etcd and the API server don't let it in.
func (c *cluster) strange(v *vm) bool {
	if c.authority == nil || v.guest.kind != talos {
		return false
	}
	block, _ := pem.Decode(v.guest.caCert)
	return block == nil || !bytes.Equal(block.Bytes, c.authority.Certificate[0])
}

// authorityOf takes the certificate authority from the machine configurations of the control plane.
func authorityOf(vms []*vm) *tls.Certificate {
	for _, v := range vms {
		if len(v.guest.caKey) == 0 {
			continue
		}
		if pair, err := tls.X509KeyPair(v.guest.caCert, v.guest.caKey); err == nil {
			return &pair
		}
	}
	return nil
}
