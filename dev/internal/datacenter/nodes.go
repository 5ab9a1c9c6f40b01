package datacenter

import (
	"context"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// settleNodes lets the kubelets of a cluster write their Nodes.
func (d *Datacenter) settleNodes(ctx context.Context, c *cluster, api client.Client) {
	d.mu.Lock()
	var report []*corev1.Node
	var register []registration
	var unhealthy []bool
	for _, v := range d.vmsOf(c.key) {
		if v.Phase != Running || c.strange(v) || v.ControlPlane && v.guest.left {
			continue
		}
		// A control-plane kubelet waits for its own API server, others for any.
		if v.ControlPlane && !slices.ContainsFunc(c.members, func(m *member) bool { return m.vm == v }) {
			continue
		}
		sick := d.opts.Chaos.NodeUnhealthy(v.Key.Namespace, v.Machine)
		node := nodeOf(v, sick)
		delete(c.lost, v.Hostname) // the Node of one that had its name is now its own
		if !v.registered {
			v.registered = true
			register = append(register, registration{v, node})
		} else {
			report, unhealthy = append(report, node), append(unhealthy, sick)
		}
	}
	lost := slices.Sorted(maps.Keys(c.lost))
	d.mu.Unlock()

	for _, r := range register {
		err := api.Create(ctx, r.node)
		if apierrors.IsAlreadyExists(err) {
			err = d.takeOver(ctx, api, r.node)
		}
		if err != nil {
			d.opts.Log.Error(err, "a kubelet cannot register its Node", "cluster", c.key, "node", r.node.Name)
			d.registerAgain(r.vm)
		}
	}
	for i, node := range report {
		status := corev1.ConditionTrue
		if unhealthy[i] {
			status = corev1.ConditionFalse
		}
		d.report(ctx, c.key, api, node.Name, status)
	}
	for _, name := range lost {
		if d.report(ctx, c.key, api, name, corev1.ConditionUnknown) {
			d.mu.Lock()
			delete(c.lost, name)
			d.mu.Unlock()
		}
	}
	if len(register) > 0 {
		d.mu.Lock()
		d.tell(types.NamespacedName{}, c.key)
		d.mu.Unlock()
	}
}

// registration is a Node that the kubelet of a machine is to create.
type registration struct {
	vm   *vm
	node *corev1.Node
}

// registerAgain lets a kubelet try again soon, as real ones do: nobody else would notice that a Node is missing.
func (d *Datacenter) registerAgain(v *vm) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v.registered = false
	d.after(time.Second, v, func() { d.touch(v.Cluster) })
}

// takeOver makes the Node that an earlier machine of the same name has left the new one's. As kubelets do, it
// leaves the specification alone.
func (d *Datacenter) takeOver(ctx context.Context, api client.Client, node *corev1.Node) error {
	before := &corev1.Node{}
	if err := api.Get(ctx, client.ObjectKeyFromObject(node), before); err != nil {
		return err
	}
	after := before.DeepCopy()
	after.Status = node.Status
	return api.Status().Patch(ctx, after, client.MergeFrom(before))
}

// report writes the Ready condition of a Node, if there is one and it says something else.
func (d *Datacenter) report(ctx context.Context, key types.NamespacedName, api client.Client, name string, ready corev1.ConditionStatus) bool {
	node := &corev1.Node{}
	if err := api.Get(ctx, types.NamespacedName{Name: name}, node); err != nil {
		return apierrors.IsNotFound(err) // deleted by Cluster API, and not to come back
	}
	i := slices.IndexFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	if i >= 0 && node.Status.Conditions[i].Status == ready {
		return true
	}
	before := node.DeepCopy()
	condition := readyCondition(ready)
	condition.LastHeartbeatTime = metav1.NewTime(d.opts.Clock.Now())
	condition.LastTransitionTime = condition.LastHeartbeatTime
	if i >= 0 {
		node.Status.Conditions[i] = condition
	} else {
		node.Status.Conditions = append(node.Status.Conditions, condition)
	}
	if err := api.Status().Patch(ctx, node, client.MergeFrom(before)); err != nil {
		d.opts.Log.Error(err, "a kubelet cannot report", "cluster", key, "node", name)
		return false
	}
	return true
}

func readyCondition(status corev1.ConditionStatus) corev1.NodeCondition {
	c := corev1.NodeCondition{Type: corev1.NodeReady, Status: status}
	switch status {
	case corev1.ConditionTrue:
		c.Reason, c.Message = "KubeletReady", "kubelet is posting ready status"
	case corev1.ConditionFalse:
		c.Reason, c.Message = "KubeletNotReady", "container runtime is down"
	default:
		c.Reason, c.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
	}
	return c
}

// nodeOf is the Node that the kubelet of v registers. The network plug-in is taken to be there.
func nodeOf(v *vm, sick bool) *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname: v.Hostname, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
	}
	maps.Copy(labels, v.guest.labels)
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: v.Hostname, Labels: labels},
		Status: corev1.NodeStatus{
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: v.guest.kubelet, OperatingSystem: "linux", Architecture: "amd64",
				SystemUUID: v.UUID, MachineID: v.UUID, BootID: v.UUID,
				ContainerRuntimeVersion: "containerd://2.1.4", OSImage: "Ubuntu", KernelVersion: "6.12.0",
			},
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: v.Hostname}},
		},
	}
	if v.guest.kind == talos {
		node.Status.NodeInfo.OSImage = "Talos"
	}
	for _, a := range v.Addresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	if v.guest.providerID {
		node.Spec.ProviderID = "proxmox://" + v.UUID
	}
	if v.ControlPlane {
		node.Labels[controlPlaneLabel] = ""
		if !v.guest.schedulesPlain {
			node.Spec.Taints = []corev1.Taint{{Key: controlPlaneLabel, Effect: corev1.TaintEffectNoSchedule}}
		}
	}
	ready := corev1.ConditionTrue
	if sick {
		ready = corev1.ConditionFalse
	}
	node.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID"},
		readyCondition(ready),
	}
	return node
}
