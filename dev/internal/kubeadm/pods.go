package kubeadm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"capstan.dev/capstan/dev/internal/datacenter"
)

// Components of a control plane, which kubeadm runs as static Pods.
const (
	componentEtcd      = "etcd"
	componentAPIServer = "kube-apiserver"
	apiServerPort      = 6443
)

var components = []string{componentEtcd, componentAPIServer, "kube-controller-manager", "kube-scheduler"}

// controlPlaneTier labels the static Pods of a control plane, as kubeadm does.
var controlPlaneTier = map[string]string{"tier": "control-plane"}

// controlPlaneNode is a control-plane machine whose guest runs.
type controlPlaneNode struct {
	name    string
	address string
	images  images
	// member tells whether its etcd is a member. Without, neither etcd nor the API server that uses
	// it stays up: that is so before it has joined and after it was removed.
	member bool
}

// nodeOf is the node that a running control-plane machine is.
func nodeOf(vm datacenter.VM, members []datacenter.Member, images images) controlPlaneNode {
	node := controlPlaneNode{
		name: vm.Hostname, images: images,
		member: slices.ContainsFunc(members, func(m datacenter.Member) bool { return m.VM == vm.Key }),
	}
	if len(vm.Addresses) > 0 {
		node.address = vm.Addresses[0]
	}
	return node
}

// staticPods are the mirror Pods that the kubelets of the nodes keep. external tells that somebody
// else runs etcd.
func staticPods(nodes []controlPlaneNode, external bool) []*corev1.Pod {
	var out []*corev1.Pod
	for _, node := range nodes {
		for _, component := range components {
			if component == componentEtcd && external {
				continue
			}
			ready := node.member || component != componentEtcd && component != componentAPIServer
			out = append(out, staticPod(component, node, ready))
		}
	}
	return out
}

func staticPod(component string, node controlPlaneNode, ready bool) *corev1.Pod {
	image := node.images.of(component)
	sum := sha256.Sum256([]byte(component + " on " + node.name))
	hash := hex.EncodeToString(sum[:16])
	annotations := map[string]string{
		// Draining passes over mirror Pods.
		corev1.MirrorPodAnnotationKey: hash,
		"kubernetes.io/config.hash":   hash,
		"kubernetes.io/config.source": "file",
	}
	switch component {
	case componentEtcd:
		annotations["kubeadm.kubernetes.io/etcd.advertise-client-urls"] = "https://" + net.JoinHostPort(node.address, fmt.Sprint(etcdClientPort))
	case componentAPIServer:
		annotations["kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint"] = net.JoinHostPort(node.address, fmt.Sprint(apiServerPort))
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: component + "-" + node.name,
			Labels:      map[string]string{"component": component, "tier": controlPlaneTier["tier"]},
			Annotations: annotations,
		},
		Spec: corev1.PodSpec{
			NodeName: node.name, HostNetwork: true, RestartPolicy: corev1.RestartPolicyAlways,
			PriorityClassName: "system-node-critical", Priority: ptr.To[int32](2000001000),
			Containers:  []corev1.Container{{Name: component, Image: image, Command: []string{component}}},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, HostIP: node.address, PodIP: node.address,
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodInitialized, Status: corev1.ConditionTrue},
				{Type: corev1.PodReady, Status: corev1.ConditionTrue},
				{Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
			},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: component, Image: image, Ready: true, Started: ptr.To(true),
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}},
		},
	}
	if !ready {
		for i := range pod.Status.Conditions {
			if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
				c.Status, c.Reason = corev1.ConditionFalse, "ContainersNotReady"
			}
		}
		pod.Status.ContainerStatuses[0] = corev1.ContainerStatus{
			Name: component, Image: image, Started: ptr.To(false),
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		}
	}
	return pod
}

// nodeOfPod returns the node of the static Pod of that component and name.
func nodeOfPod(pod types.NamespacedName, component string) (node string, ok bool) {
	prefix := component + "-"
	if pod.Namespace != metav1.NamespaceSystem || len(pod.Name) <= len(prefix) || pod.Name[:len(prefix)] != prefix {
		return "", false
	}
	return pod.Name[len(prefix):], true
}
