package kubeadm

import (
	"slices"
	"testing"

	"github.com/blang/semver/v4"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	bootstrapv1 "sigs.k8s.io/cluster-api/api/bootstrap/kubeadm/v1beta2"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	kubeadmtypes "sigs.k8s.io/cluster-api/bootstrap/kubeadm/pkg/types"
)

func TestImages(t *testing.T) {
	for name, tc := range map[string]struct {
		version string
		config  bootstrapv1.ClusterConfiguration
		want    []string // API server, etcd, CoreDNS
	}{
		"defaults": {
			version: "1.34.4",
			want:    []string{"registry.k8s.io/kube-apiserver:v1.34.4", "registry.k8s.io/etcd:3.6.4-0", "registry.k8s.io/coredns/coredns:v1.12.1"},
		},
		"newer than known": {
			version: "1.99.0",
			want:    []string{"registry.k8s.io/kube-apiserver:v1.99.0", "registry.k8s.io/etcd:3.6.6-0", "registry.k8s.io/coredns/coredns:v1.13.1"},
		},
		"build metadata is no tag": {
			version: "1.33.1+vendor.2",
			want:    []string{"registry.k8s.io/kube-apiserver:v1.33.1_vendor.2", "registry.k8s.io/etcd:3.5.21-0", "registry.k8s.io/coredns/coredns:v1.12.0"},
		},
		"own registry": {
			version: "1.32.0",
			config:  bootstrapv1.ClusterConfiguration{ImageRepository: "mirror.example/k8s"},
			want:    []string{"mirror.example/k8s/kube-apiserver:v1.32.0", "mirror.example/k8s/etcd:3.5.16-0", "mirror.example/k8s/coredns:v1.11.3"},
		},
		"own tags": {
			version: "1.31.0",
			config: bootstrapv1.ClusterConfiguration{
				DNS:  bootstrapv1.DNS{ImageTag: "v1.11.3"},
				Etcd: bootstrapv1.Etcd{Local: bootstrapv1.LocalEtcd{ImageTag: "3.5.20-0"}},
			},
			want: []string{"registry.k8s.io/kube-apiserver:v1.31.0", "registry.k8s.io/etcd:3.5.20-0", "registry.k8s.io/coredns/coredns:v1.11.3"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			images := imagesFor(semver.MustParse(tc.version), tc.config)
			got := []string{images.of(componentAPIServer), images.of(componentEtcd), images.coreDNS}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInitObjects(t *testing.T) {
	cluster := &clusterv1.Cluster{}
	cluster.Namespace, cluster.Name = "prod", "one"
	cluster.Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: "10.0.0.1", Port: 6443}
	cluster.Spec.ClusterNetwork.Pods.CIDRBlocks = []string{"192.168.0.0/16"}
	kcp := &controlplanev1.KubeadmControlPlane{}
	kcp.Spec.Version = "v1.34.4"

	for name, tc := range map[string]struct {
		skip []string
		want []string
		not  []string
	}{
		"all":           {want: []string{"kube-proxy", "coredns", "kubeadm:cluster-admins"}},
		"no kube-proxy": {skip: []string{"addon/kube-proxy"}, want: []string{"coredns"}, not: []string{"kube-proxy"}},
		"no CoreDNS":    {skip: []string{"addon/coredns"}, want: []string{"kube-proxy"}, not: []string{"coredns"}},
		"no addon":      {skip: []string{"addon"}, want: []string{"kubelet-config"}, not: []string{"kube-proxy", "coredns"}},
	} {
		t.Run(name, func(t *testing.T) {
			kcp := kcp.DeepCopy()
			kcp.Spec.KubeadmConfigSpec.InitConfiguration.SkipPhases = tc.skip
			objects, err := initObjects(cluster, kcp)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, o := range objects {
				names = append(names, o.GetName())
			}
			for _, w := range tc.want {
				if !slices.Contains(names, w) {
					t.Errorf("%s is missing in %q", w, names)
				}
			}
			for _, n := range tc.not {
				if slices.Contains(names, n) {
					t.Errorf("%s is there and should not", n)
				}
			}

			last, ok := objects[len(objects)-1].(*corev1.ConfigMap)
			if !ok || last.Name != kubeadmConfig {
				t.Fatalf("the last object is %s; it marks that all are there, so it has to be %s", names[len(names)-1], kubeadmConfig)
			}
			config, data, err := kubeadmtypes.UnmarshalClusterConfiguration(last.Data["ClusterConfiguration"])
			if err != nil {
				t.Fatalf("KubeadmControlPlane cannot read it: %v", err)
			}
			if config.ControlPlaneEndpoint != "10.0.0.1:6443" || !config.FeatureGates["ControlPlaneKubeletLocalMode"] {
				t.Errorf("ClusterConfiguration is %+v", config)
			}
			if got := []*string{data.ClusterName, data.PodSubnet, data.KubernetesVersion}; !cmp.Equal(got,
				[]*string{ptr.To("one"), ptr.To("192.168.0.0/16"), ptr.To("v1.34.4")}) {
				t.Errorf("name, Pod network and version are %s", cmp.Diff(nil, got))
			}
		})
	}
}

func TestStaticPods(t *testing.T) {
	images := imagesFor(semver.MustParse("1.34.4"), bootstrapv1.ClusterConfiguration{})
	nodes := []controlPlaneNode{
		{name: "cp-0", address: "10.0.0.2", images: images, member: true},
		{name: "cp-1", address: "10.0.0.3", images: images},
	}
	state := func(external bool) map[string]bool {
		got := map[string]bool{}
		for _, pod := range staticPods(nodes, external) {
			got[pod.Name] = ready(pod)
		}
		return got
	}
	want := map[string]bool{
		"etcd-cp-0": true, "kube-apiserver-cp-0": true, "kube-controller-manager-cp-0": true, "kube-scheduler-cp-0": true,
		"etcd-cp-1": false, "kube-apiserver-cp-1": false, "kube-controller-manager-cp-1": true, "kube-scheduler-cp-1": true,
	}
	if diff := cmp.Diff(want, state(false)); diff != "" {
		t.Errorf("readiness (-want +got):\n%s", diff)
	}
	delete(want, "etcd-cp-0")
	delete(want, "etcd-cp-1")
	if diff := cmp.Diff(want, state(true)); diff != "" {
		t.Errorf("readiness with etcd elsewhere (-want +got):\n%s", diff)
	}
}

func TestNodeOfPod(t *testing.T) {
	for pod, want := range map[types.NamespacedName]string{
		{Namespace: "kube-system", Name: "etcd-one-cp-x2"}: "one-cp-x2",
		{Namespace: "default", Name: "etcd-one-cp-x2"}:     "",
		{Namespace: "kube-system", Name: "etcd-"}:          "",
		{Namespace: "kube-system", Name: "coredns-abc"}:    "",
	} {
		if got, ok := nodeOfPod(pod, componentEtcd); got != want || ok != (want != "") {
			t.Errorf("node of %s: %q, %v; want %q", pod, got, ok, want)
		}
	}
}
