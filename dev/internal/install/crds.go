// Package install puts CustomResourceDefinitions and webhook configurations into the API server, as
// clusterctl would: with contract labels, and with webhooks that lead to this process.
package install

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/cluster-api/core/setup"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/dev/internal/proxmox/conversion"
)

// ModuleDir is the folder of the Cluster API module that this program was built from: its CRDs and
// webhook manifests are not part of any Go package.
func ModuleDir() (string, error) {
	file, _ := runtime.FuncForPC(reflect.ValueOf(setup.ManagerClientOptions).Pointer()).FileLine(0)
	dir := filepath.Dir(filepath.Dir(filepath.Dir(file))) // core/setup/setup.go
	if _, err := os.Stat(filepath.Join(dir, "core", "config", "crd", "bases")); err != nil {
		return "", fmt.Errorf("the Cluster API module that this program was built from is not in the module cache any more "+
			"(or it was built with -trimpath): build it again with `make devcluster`: %w", err)
	}
	return dir, nil
}

// Endpoint is how the API server reaches the webhooks of this process.
type Endpoint struct {
	// URL without a path, as https://127.0.0.1:9443.
	URL string
	// CABundle verifies it, PEM encoded.
	CABundle []byte
}

// contracts are the labels by which Cluster API finds the version of a kind that keeps a contract. Bases
// lack them: the originals' kustomizations add them. Source: the crd/kustomization.yaml of each provider
// at the version simulated.
var contracts = map[string]map[string]string{
	"cluster.x-k8s.io":        {"cluster.x-k8s.io/v1beta1": "v1beta1", "cluster.x-k8s.io/v1beta2": "v1beta2"},
	"addons.cluster.x-k8s.io": {"cluster.x-k8s.io/v1beta1": "v1beta1", "cluster.x-k8s.io/v1beta2": "v1beta2"},

	"kubeadmcontrolplanes.controlplane.cluster.x-k8s.io":         {"cluster.x-k8s.io/v1beta1": "v1beta1", "cluster.x-k8s.io/v1beta2": "v1beta2"},
	"kubeadmcontrolplanetemplates.controlplane.cluster.x-k8s.io": {"cluster.x-k8s.io/v1beta1": "v1beta1", "cluster.x-k8s.io/v1beta2": "v1beta2"},
	"kubeadmconfigs.bootstrap.cluster.x-k8s.io":                  {"cluster.x-k8s.io/v1beta1": "v1beta1", "cluster.x-k8s.io/v1beta2": "v1beta2"},
	"kubeadmconfigtemplates.bootstrap.cluster.x-k8s.io":          {"cluster.x-k8s.io/v1beta1": "v1beta1", "cluster.x-k8s.io/v1beta2": "v1beta2"},

	"taloscontrolplanes.controlplane.cluster.x-k8s.io": {"cluster.x-k8s.io/v1alpha3": "v1alpha3", "cluster.x-k8s.io/v1alpha4": "v1alpha3", "cluster.x-k8s.io/v1beta1": "v1alpha3"},
	"talosconfigs.bootstrap.cluster.x-k8s.io":          {"cluster.x-k8s.io/v1alpha3": "v1alpha3", "cluster.x-k8s.io/v1alpha4": "v1alpha3", "cluster.x-k8s.io/v1beta1": "v1alpha3"},
	"talosconfigtemplates.bootstrap.cluster.x-k8s.io":  {"cluster.x-k8s.io/v1alpha3": "v1alpha3", "cluster.x-k8s.io/v1alpha4": "v1alpha3", "cluster.x-k8s.io/v1beta1": "v1alpha3"},

	"proxmoxclusters.infrastructure.cluster.x-k8s.io":         {"cluster.x-k8s.io/v1beta1": "v1alpha2", "cluster.x-k8s.io/v1beta2": "v1alpha2"},
	"proxmoxclustertemplates.infrastructure.cluster.x-k8s.io": {"cluster.x-k8s.io/v1beta1": "v1alpha2", "cluster.x-k8s.io/v1beta2": "v1alpha2"},
	"proxmoxmachines.infrastructure.cluster.x-k8s.io":         {"cluster.x-k8s.io/v1beta1": "v1alpha2", "cluster.x-k8s.io/v1beta2": "v1alpha2"},
	"proxmoxmachinetemplates.infrastructure.cluster.x-k8s.io": {"cluster.x-k8s.io/v1beta1": "v1alpha2", "cluster.x-k8s.io/v1beta2": "v1alpha2"},
}

// simulated are the versions in which the simulators know their kinds.
var simulated = map[string]string{
	"taloscontrolplanes.controlplane.cluster.x-k8s.io":        "v1alpha3",
	"talosconfigs.bootstrap.cluster.x-k8s.io":                 "v1alpha3",
	"talosconfigtemplates.bootstrap.cluster.x-k8s.io":         "v1alpha3",
	"proxmoxclusters.infrastructure.cluster.x-k8s.io":         "v1alpha2",
	"proxmoxclustertemplates.infrastructure.cluster.x-k8s.io": "v1alpha2",
	"proxmoxmachines.infrastructure.cluster.x-k8s.io":         "v1alpha2",
	"proxmoxmachinetemplates.infrastructure.cluster.x-k8s.io": "v1alpha2",
	"inclusterippools.ipam.cluster.x-k8s.io":                  "v1alpha2",
	"globalinclusterippools.ipam.cluster.x-k8s.io":            "v1alpha2",
}

// ReadCRDs reads the CustomResourceDefinitions of the YAML files at path, a file or a folder. Other
// objects are passed over, so that a provider's release manifest can be given as it is. A definition of a
// kind that is simulated must store the version that the simulator knows.
func ReadCRDs(path string) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	var crds []*apiextensionsv1.CustomResourceDefinition
	if info.IsDir() {
		crds, err = ReadCRDsFS(os.DirFS(path))
	} else {
		crds, err = readFile(os.DirFS(filepath.Dir(path)), filepath.Base(path))
	}
	if err != nil {
		return nil, err
	}
	if len(crds) == 0 {
		return nil, fmt.Errorf("%s holds no CustomResourceDefinition", path)
	}
	for _, crd := range crds {
		if err := checkVersion(crd); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return crds, nil
}

func checkVersion(crd *apiextensionsv1.CustomResourceDefinition) error {
	want, ok := simulated[crd.Name]
	if !ok {
		return nil
	}
	for _, v := range crd.Spec.Versions {
		if v.Storage && v.Name != want {
			return fmt.Errorf("the definition of %s stores %s, but the simulator works with %s: take it from a release of the provider that stores that",
				crd.Spec.Names.Kind, v.Name, want)
		}
	}
	return nil
}

// ReadCRDsFS reads the CustomResourceDefinitions of the YAML files at the root of a file system.
func ReadCRDsFS(files fs.FS) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	var out []*apiextensionsv1.CustomResourceDefinition
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(e.Name())) {
			continue
		}
		crds, err := readFile(files, e.Name())
		if err != nil {
			return nil, err
		}
		out = append(out, crds...)
	}
	return out, nil
}

func readFile(files fs.FS, name string) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	content, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, err
	}
	out, err := readDocuments(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

func readDocuments(content []byte) (out []*apiextensionsv1.CustomResourceDefinition, err error) {
	err = eachDocument(content, func(kind string, document []byte) error {
		switch kind {
		case "CustomResourceDefinition":
			crd := &apiextensionsv1.CustomResourceDefinition{}
			if err := yaml.Unmarshal(document, crd); err != nil {
				return err
			}
			if v := crd.APIVersion; v != apiextensionsv1.SchemeGroupVersion.String() {
				return fmt.Errorf("the definition %s is of %s, which the API server does not serve any more", crd.Name, v)
			}
			out = append(out, crd)
		case "List", "CustomResourceDefinitionList": // what kubectl get -o yaml prints
			var list struct {
				Items []json.RawMessage `json:"items"`
			}
			if err := yaml.Unmarshal(document, &list); err != nil {
				return err
			}
			for _, item := range list.Items {
				crds, err := readDocuments(item)
				if err != nil {
					return err
				}
				out = append(out, crds...)
			}
		}
		return nil
	})
	return out, err
}

func eachDocument(content []byte, f func(kind string, document []byte) error) error {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(document, &meta); err != nil {
			return err
		}
		if err := f(meta.Kind, document); err != nil {
			return err
		}
	}
}

// Merge returns base with those of the same name replaced by those of instead, and the rest of instead
// added.
func Merge(base, instead []*apiextensionsv1.CustomResourceDefinition) []*apiextensionsv1.CustomResourceDefinition {
	out := slices.Clone(instead)
	for _, crd := range base {
		if !slices.ContainsFunc(instead, func(o *apiextensionsv1.CustomResourceDefinition) bool { return o.Name == crd.Name }) {
			out = append(out, crd)
		}
	}
	return out
}

// converter is the path of the webhook of this process that converts the versions of a kind; empty if
// none does.
func converter(crd *apiextensionsv1.CustomResourceDefinition) string {
	const clusterAPI = "/convert"
	switch crd.Spec.Group {
	case "cluster.x-k8s.io", "addons.cluster.x-k8s.io", "runtime.cluster.x-k8s.io":
		return clusterAPI
	case "ipam.cluster.x-k8s.io":
		if strings.HasPrefix(crd.Spec.Names.Kind, "IPAddress") { // not the pools
			return clusterAPI
		}
	case "infrastructure.cluster.x-k8s.io":
		if simulated[crd.Name] != "" {
			return conversion.Path
		}
	default:
		if strings.HasPrefix(crd.Spec.Names.Kind, "Kubeadm") {
			return clusterAPI
		}
	}
	return ""
}

// Prepare makes a CustomResourceDefinition ready for this management cluster: it adds the contract
// labels that it lacks and leads conversion here. Where nobody here converts, only the stored version
// is served: an object of another version is refused instead of being stored with holes.
func Prepare(crd *apiextensionsv1.CustomResourceDefinition, endpoint Endpoint) {
	// Of one that comes from another API server only this counts.
	crd.ObjectMeta = metav1.ObjectMeta{Name: crd.Name, Labels: crd.Labels, Annotations: crd.Annotations}
	crd.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
	labels := contracts[crd.Name]
	if labels == nil {
		labels = contracts[crd.Spec.Group] // all kinds of Cluster API's own groups
	}
	for key, value := range labels {
		if _, ok := crd.Labels[key]; !ok {
			metav1.SetMetaDataLabel(&crd.ObjectMeta, key, value)
		}
	}
	delete(crd.Annotations, "cert-manager.io/inject-ca-from")
	path := converter(crd)
	if path == "" {
		crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter}
		for i := range crd.Spec.Versions {
			crd.Spec.Versions[i].Served = crd.Spec.Versions[i].Storage
		}
		return
	}
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{
		Strategy: apiextensionsv1.WebhookConverter,
		Webhook: &apiextensionsv1.WebhookConversion{
			ClientConfig:             &apiextensionsv1.WebhookClientConfig{URL: ptr.To(endpoint.URL + path), CABundle: endpoint.CABundle},
			ConversionReviewVersions: []string{"v1"},
		},
	}
}

// owner is the field manager of what is installed.
const owner = client.FieldOwner("devcluster")

// CRDs creates or updates the definitions and waits until each is served.
func CRDs(ctx context.Context, c client.Client, crds []*apiextensionsv1.CustomResourceDefinition) error {
	return inParallel(crds, func(crd *apiextensionsv1.CustomResourceDefinition) error {
		if err := put(ctx, c, crd); err != nil {
			return err
		}
		return await(ctx, c, crd)
	})
}

// Webhooks creates or updates the webhook configurations of a manifest of the usual form, with prefix
// before their names and their webhooks led to endpoint.
func Webhooks(ctx context.Context, c client.Client, prefix string, manifest []byte, endpoint Endpoint) error {
	lead := func(config *admissionregistrationv1.WebhookClientConfig) {
		if config.Service != nil {
			config.URL = ptr.To(endpoint.URL + ptr.Deref(config.Service.Path, ""))
			config.Service = nil
		}
		config.CABundle = endpoint.CABundle
	}
	return eachDocument(manifest, func(kind string, document []byte) error {
		switch kind {
		case "MutatingWebhookConfiguration":
			config := &admissionregistrationv1.MutatingWebhookConfiguration{}
			if err := yaml.UnmarshalStrict(document, config); err != nil {
				return err
			}
			for i := range config.Webhooks {
				lead(&config.Webhooks[i].ClientConfig)
			}
			config.Name = prefix + config.Name
			return put(ctx, c, config)
		case "ValidatingWebhookConfiguration":
			config := &admissionregistrationv1.ValidatingWebhookConfiguration{}
			if err := yaml.UnmarshalStrict(document, config); err != nil {
				return err
			}
			for i := range config.Webhooks {
				lead(&config.Webhooks[i].ClientConfig)
			}
			config.Name = prefix + config.Name
			return put(ctx, c, config)
		}
		return nil
	})
}

// inParallel calls f for all items, some at a time, and joins their errors.
func inParallel[T any](items []T, f func(T) error) error {
	errs := make([]error, len(items))
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i, item := range items {
		wg.Add(1)
		go func() {
			defer wg.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = f(item)
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}
