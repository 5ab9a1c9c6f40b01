package dev

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/crds"
	"capstan.dev/capstan/dev/internal/capi"
	"capstan.dev/capstan/dev/internal/endpoint"
	"capstan.dev/capstan/dev/internal/install"
	"capstan.dev/capstan/dev/internal/ipam"
	"capstan.dev/capstan/dev/internal/kubeadm"
	"capstan.dev/capstan/dev/internal/proxmox"
	"capstan.dev/capstan/dev/internal/talos/api"
	"capstan.dev/capstan/dev/internal/talos/bootstrap"
	"capstan.dev/capstan/dev/internal/talos/controlplane"
)

// components of the Cluster API module: the folder of their manifests, and the prefix that the names of
// their objects have in a release.
var components = []struct{ folder, prefix string }{
	{"core", "capi-"},
	{"bootstrap/kubeadm", "capi-kubeadm-bootstrap-"},
	{"controlplane/kubeadm", "capi-kubeadm-control-plane-"},
}

// providers are the simulated ones, with the prefix that the originals' names have in a release.
var providers = []struct {
	prefix   string
	webhooks []byte
}{
	{"cabpt-", bootstrap.Webhooks},
	{"cacppt-", controlplane.Webhooks},
	{"capmox-", proxmox.Webhooks},
	{"capi-ipam-in-cluster-", ipam.Webhooks},
}

// readCRDs reads all definitions, with those at the paths instead of ours of the same name.
func readCRDs(instead []string) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	module, err := install.ModuleDir()
	if err != nil {
		return nil, err
	}
	all, err := install.ReadCRDsFS(crds.FS)
	if err != nil {
		return nil, err
	}
	for _, path := range instead {
		theirs, err := install.ReadCRDs(path)
		if err != nil {
			return nil, fmt.Errorf("read the providers' definitions: %w", err)
		}
		all = install.Merge(all, theirs)
	}
	for _, c := range components {
		theirs, err := install.ReadCRDs(filepath.Join(module, c.folder, "config", "crd", "bases"))
		if err != nil {
			return nil, fmt.Errorf("read Cluster API's definitions: %w", err)
		}
		all = install.Merge(all, theirs)
	}
	return all, nil
}

// installAll puts definitions and webhooks into the API server, which reaches those of Cluster API and the
// providers by way of hookWire, so that they can be taken down, and this program's own at server.
func installAll(ctx context.Context, config *rest.Config, definitions []*apiextensionsv1.CustomResourceDefinition, hookWire, server string) error {
	scheme := runtime.NewScheme()
	if err := capi.AddToScheme(scheme); err != nil {
		return err
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	theirs := install.Endpoint{URL: "https://" + hookWire, CABundle: config.CAData}
	ours := install.Endpoint{URL: "https://" + server, CABundle: config.CAData}
	for _, d := range definitions {
		install.Prepare(d, theirs)
	}
	if err := install.CRDs(ctx, c, definitions); err != nil {
		return err
	}
	module, err := install.ModuleDir()
	if err != nil {
		return err
	}
	for _, component := range components {
		manifest, err := os.ReadFile(filepath.Join(module, component.folder, "config", "webhook", "manifests.yaml"))
		if err != nil {
			return fmt.Errorf("read Cluster API's webhooks: %w", err)
		}
		if err := install.Webhooks(ctx, c, component.prefix, manifest, theirs); err != nil {
			return err
		}
	}
	for _, p := range providers {
		if err := install.Webhooks(ctx, c, p.prefix, p.webhooks, theirs); err != nil {
			return err
		}
	}
	return install.Webhooks(ctx, c, "devcluster-", endpoint.Webhooks, ours)
}

// newScheme has the kinds of everyone.
func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		capi.AddToScheme, kubeadm.AddToScheme, api.AddToScheme, ipam.AddToScheme, proxmox.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return scheme, nil
}
