// Package capi runs the core controllers and webhooks of Cluster API in this process, wired as
// core/main.go of sigs.k8s.io/cluster-api v1.14 does it: the same reconcilers, the same caches.
package capi

import (
	"fmt"
	"runtime"

	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	addonsv1beta1 "sigs.k8s.io/cluster-api/api/addons/v1beta1" //nolint:staticcheck // served as long as Cluster API serves it
	addonsv1 "sigs.k8s.io/cluster-api/api/addons/v1beta2"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1" //nolint:staticcheck // served as long as Cluster API serves it
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ipamv1alpha1 "sigs.k8s.io/cluster-api/api/ipam/v1alpha1" //nolint:staticcheck // served as long as Cluster API serves it
	ipamv1beta1 "sigs.k8s.io/cluster-api/api/ipam/v1beta1"   //nolint:staticcheck // served as long as Cluster API serves it
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	runtimev1alpha1 "sigs.k8s.io/cluster-api/api/runtime/v1alpha1" //nolint:staticcheck // served as long as Cluster API serves it
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
)

// Version is the release whose controllers run. A test compares it with what go.mod requires.
const Version = "v1.14.2"

// AddToScheme adds the kinds of Kubernetes and of Cluster API's core.
func AddToScheme(scheme *kruntime.Scheme) error {
	for _, add := range []func(*kruntime.Scheme) error{
		clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, storagev1.AddToScheme,
		clusterv1beta1.AddToScheme, clusterv1.AddToScheme,
		addonsv1beta1.AddToScheme, addonsv1.AddToScheme,
		runtimev1alpha1.AddToScheme, runtimev1.AddToScheme,
		ipamv1alpha1.AddToScheme, ipamv1beta1.AddToScheme, ipamv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	return nil
}

// Config returns a copy of config as the controllers of Cluster API and its providers have it. The first
// word of the user agent becomes the field manager of what they write, and their programs are all
// called manager.
func Config(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.UserAgent = fmt.Sprintf("manager/%s (%s/%s) devcluster", Version, runtime.GOOS, runtime.GOARCH)
	config.QPS = -1 // on this machine there is no other client to be fair to
	return config
}
