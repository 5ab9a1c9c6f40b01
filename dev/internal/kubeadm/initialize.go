package kubeadm

import (
	"context"
	"fmt"
	"slices"

	"github.com/blang/semver/v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	kubeadmtypes "sigs.k8s.io/cluster-api/bootstrap/kubeadm/pkg/types"
	"sigs.k8s.io/cluster-api/bootstrap/kubeadm/pkg/types/upstream"
	"sigs.k8s.io/cluster-api/controlplane/kubeadm/pkg/desiredstate"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const kubeadmConfig = "kubeadm-config"

// initialize writes what `kubeadm init` leaves in the API of a new cluster, once: who deletes some of it
// later has deleted it.
func initialize(ctx context.Context, api client.Client, cluster *clusterv1.Cluster, kcp *controlplanev1.KubeadmControlPlane) error {
	key := types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: kubeadmConfig}
	if err := api.Get(ctx, key, &corev1.ConfigMap{}); err == nil {
		return nil
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("ConfigMap %s of the workload cluster: %w", key, err)
	}
	objects, err := initObjects(cluster, kcp)
	if err != nil {
		return err
	}
	for _, object := range objects {
		if err := api.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("%T %s of the workload cluster: %w", object, client.ObjectKeyFromObject(object), err)
		}
	}
	return nil
}

// initObjects are the objects of a new cluster. The ConfigMap kubeadm-config is the last: with it there,
// all are.
func initObjects(cluster *clusterv1.Cluster, kcp *controlplanev1.KubeadmControlPlane) ([]client.Object, error) {
	version, err := semver.ParseTolerant(kcp.Spec.Version)
	if err != nil {
		return nil, fmt.Errorf("version of KubeadmControlPlane %s: %w", client.ObjectKeyFromObject(kcp), err)
	}
	config, err := clusterConfiguration(cluster, kcp, version)
	if err != nil {
		return nil, err
	}
	images := imagesFor(version, kcp.Spec.KubeadmConfigSpec.ClusterConfiguration)
	objects := append(bindings(), configMap("kubelet-config", "kubelet",
		"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nrotateCertificates: true\n"))
	skip := kcp.Spec.KubeadmConfigSpec.InitConfiguration.SkipPhases
	if !slices.Contains(skip, "addon") && !slices.Contains(skip, "addon/kube-proxy") {
		objects = append(objects, configMap("kube-proxy", "config.conf",
			"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"), kubeProxy(images))
	}
	if !slices.Contains(skip, "addon") && !slices.Contains(skip, "addon/coredns") {
		objects = append(objects, configMap("coredns", "Corefile", corefile), coreDNS(images))
	}
	return append(objects, configMap(kubeadmConfig, "ClusterConfiguration", config)), nil
}

// clusterConfiguration is the configuration that the first machine was given, in the form of its kubeadm.
func clusterConfiguration(cluster *clusterv1.Cluster, kcp *controlplanev1.KubeadmControlPlane, version semver.Version) (string, error) {
	spec := kcp.Spec.KubeadmConfigSpec.DeepCopy()
	desiredstate.DefaultFeatureGates(spec, version)
	if spec.ClusterConfiguration.ControlPlaneEndpoint == "" {
		spec.ClusterConfiguration.ControlPlaneEndpoint = cluster.Spec.ControlPlaneEndpoint.String()
	}
	data := &upstream.AdditionalData{KubernetesVersion: ptr.To("v" + version.String()), ClusterName: ptr.To(cluster.Name)}
	network := cluster.Spec.ClusterNetwork
	if network.ServiceDomain != "" {
		data.DNSDomain = ptr.To(network.ServiceDomain)
	}
	if len(network.Services.CIDRBlocks) > 0 {
		data.ServiceSubnet = ptr.To(network.Services.String())
	}
	if len(network.Pods.CIDRBlocks) > 0 {
		data.PodSubnet = ptr.To(network.Pods.String())
	}
	out, err := kubeadmtypes.MarshalClusterConfigurationForVersion(&spec.ClusterConfiguration, version, data)
	if err != nil {
		return "", fmt.Errorf("ClusterConfiguration of KubeadmControlPlane %s: %w", client.ObjectKeyFromObject(kcp), err)
	}
	return out, nil
}

// bindings are what lets machines join and administrators in. KubeadmControlPlane adds those it misses.
func bindings() []client.Object {
	const joining = "system:bootstrappers:kubeadm:default-node-token"
	binding := func(name, role, group string) client.Object {
		return &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
		}
	}
	return []client.Object{
		&rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "kubeadm:get-nodes"},
			Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}}},
		},
		binding("kubeadm:get-nodes", "kubeadm:get-nodes", joining),
		binding("kubeadm:cluster-admins", "cluster-admin", "kubeadm:cluster-admins"),
		binding("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", joining),
		binding("kubeadm:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", joining),
		binding("kubeadm:node-autoapprove-certificate-rotation",
			"system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"),
	}
}

func configMap(name, key, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name},
		Data:       map[string]string{key: value},
	}
}

func kubeProxy(images images) *appsv1.DaemonSet {
	labels := map[string]string{"k8s-app": "kube-proxy"}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "kube-proxy", Labels: labels},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					HostNetwork: true, PriorityClassName: "system-node-critical",
					Containers: []corev1.Container{{Name: "kube-proxy", Image: images.of("kube-proxy")}},
				},
			},
		},
	}
}

// corefile is one that the migration of CoreDNS to another version understands.
const corefile = `.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
`

func coreDNS(images images) *appsv1.Deployment {
	labels := map[string]string{"k8s-app": "kube-dns"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "coredns", Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](2),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers: []corev1.Container{{Name: "coredns", Image: images.coreDNS}},
					Volumes: []corev1.Volume{{Name: "config-volume", VolumeSource: corev1.VolumeSource{
						ConfigMap: &corev1.ConfigMapVolumeSource{
							LocalObjectReference: corev1.LocalObjectReference{Name: "coredns"},
							Items:                []corev1.KeyToPath{{Key: "Corefile", Path: "Corefile"}},
						},
					}}},
				},
			},
		},
	}
}
