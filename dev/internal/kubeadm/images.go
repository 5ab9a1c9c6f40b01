package kubeadm

import (
	"cmp"

	"github.com/blang/semver/v4"
	bootstrapv1 "sigs.k8s.io/cluster-api/api/bootstrap/kubeadm/v1beta2"
	containerutil "sigs.k8s.io/cluster-api/util/container"
)

// defaultImageRepository is where kubeadm gets images from unless told otherwise.
const defaultImageRepository = "registry.k8s.io"

// images are those that kubeadm of one Kubernetes version runs.
type images struct {
	repository    string
	version       string // of Kubernetes
	etcd, coreDNS string // with tag
}

// imagesFor returns the images of a Kubernetes version.
func imagesFor(version semver.Version, config bootstrapv1.ClusterConfiguration) images {
	repository := cmp.Or(config.ImageRepository, defaultImageRepository)
	etcdTag, coreDNSTag := addonTags(version.Minor)
	// In the default registry CoreDNS has a folder of its own.
	coreDNSName := "coredns"
	coreDNSRepository := cmp.Or(config.DNS.ImageRepository, repository)
	if coreDNSRepository == defaultImageRepository {
		coreDNSName = "coredns/coredns"
	}
	return images{
		repository: repository,
		version:    containerutil.SemverToOCIImageTag("v" + version.String()),
		etcd:       cmp.Or(config.Etcd.Local.ImageRepository, repository) + "/etcd:" + cmp.Or(config.Etcd.Local.ImageTag, etcdTag),
		coreDNS:    coreDNSRepository + "/" + coreDNSName + ":" + cmp.Or(config.DNS.ImageTag, coreDNSTag),
	}
}

// addonTags are the versions of etcd and CoreDNS that kubeadm of a Kubernetes minor version brings.
func addonTags(minor uint64) (etcd, coreDNS string) {
	switch {
	case minor <= 31:
		return "3.5.15-0", "v1.11.1"
	case minor == 32:
		return "3.5.16-0", "v1.11.3"
	case minor == 33:
		return "3.5.21-0", "v1.12.0"
	case minor == 34:
		return "3.6.4-0", "v1.12.1"
	default:
		return "3.6.6-0", "v1.13.1"
	}
}

// of returns the image of a component of the control plane, or kube-proxy.
func (i images) of(component string) string {
	if component == componentEtcd {
		return i.etcd
	}
	return i.repository + "/" + component + ":" + i.version
}
