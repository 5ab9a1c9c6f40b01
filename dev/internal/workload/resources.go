package workload

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/applyconfigurations"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
)

// resource is one kind as the API serves it.
type resource struct {
	schema.GroupResource
	versions   []string // served ones, the preferred first
	kind       string
	listKind   string
	singular   string
	shortNames []string
	categories []string
	namespaced bool
	hasStatus  bool // the status is a subresource
	builtin    bool // in the scheme; else defined by a CustomResourceDefinition
}

func (r *resource) gvk(version string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: version, Kind: r.kind}
}

// catalogue is what all clusters share: the built-in kinds and how to handle their types.
type catalogue struct {
	scheme  *runtime.Scheme
	codecs  serializer.CodecFactory
	builtin map[schema.GroupResource]*resource

	// The schema of the built-in types, needed for apply only, and slow to parse.
	types func() managedfields.TypeConverter
	// Objects without a schema: what the documents look like must do.
	untyped managedfields.TypeConverter
}

func newCatalogue() (*catalogue, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return &catalogue{
		scheme:  scheme,
		codecs:  serializer.NewCodecFactory(scheme),
		builtin: builtinResources(scheme),
		types: sync.OnceValue(func() managedfields.TypeConverter {
			return applyconfigurations.NewTypeConverter(scheme)
		}),
		untyped: managedfields.NewDeducedTypeConverter(),
	}, nil
}

// builtinResources are the kinds of the stable versions: those are what an API server serves by
// default. What has no list is not stored (reviews, Binding, Eviction, Scale and the like).
func builtinResources(scheme *runtime.Scheme) map[schema.GroupResource]*resource {
	resources := map[schema.GroupResource]*resource{}
	for gvk, goType := range scheme.AllKnownTypes() {
		if strings.ContainsAny(strings.TrimPrefix(gvk.Version, "v"), "abcdefghijklmnopqrstuvwxyz_") ||
			!scheme.Recognizes(gvk.GroupVersion().WithKind(gvk.Kind+"List")) || gvk.Kind == "ComponentStatus" ||
			gvk.Kind == "APIGroup" { // discovery's, as is its list
			continue
		}
		plural, singular := meta.UnsafeGuessKindToResource(gvk)
		gr := plural.GroupResource()
		r := resources[gr]
		if r == nil {
			_, hasStatus := goType.FieldByName("Status")
			r = &resource{
				GroupResource: gr,
				kind:          gvk.Kind,
				listKind:      gvk.Kind + "List",
				singular:      singular.Resource,
				shortNames:    shortNames[gvk.Kind],
				namespaced:    !clusterScoped[gvk.Kind],
				hasStatus:     hasStatus && goType.Kind() == reflect.Struct,
				builtin:       true,
			}
			if inCategoryAll[gvk.Kind] {
				r.categories = []string{"all"}
			}
			resources[gr] = r
		}
		r.versions = append(r.versions, gvk.Version)
		sortVersions(r.versions)
	}
	return resources
}

func sortVersions(versions []string) {
	slices.SortFunc(versions, func(a, b string) int { return version.CompareKubeAwareVersionStrings(b, a) })
}

// customResource is the kind that a CustomResourceDefinition defines.
func customResource(object *unstructured.Unstructured) (*resource, error) {
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, crd); err != nil {
		return nil, err
	}
	r := &resource{
		GroupResource: schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural},
		kind:          crd.Spec.Names.Kind,
		listKind:      cmp.Or(crd.Spec.Names.ListKind, crd.Spec.Names.Kind+"List"),
		singular:      cmp.Or(crd.Spec.Names.Singular, strings.ToLower(crd.Spec.Names.Kind)),
		shortNames:    crd.Spec.Names.ShortNames,
		categories:    crd.Spec.Names.Categories,
		namespaced:    crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
	}
	for _, v := range crd.Spec.Versions {
		if v.Served {
			r.versions = append(r.versions, v.Name)
			r.hasStatus = r.hasStatus || v.Subresources != nil && v.Subresources.Status != nil
		}
	}
	sortVersions(r.versions)
	return r, nil
}

// info is the entry for discovery.
func (r *resource) info() metav1.APIResource {
	return metav1.APIResource{
		Name: r.Resource, SingularName: r.singular, Namespaced: r.namespaced, Kind: r.kind,
		ShortNames: r.shortNames, Categories: r.categories,
		Verbs: metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
	}
}

var clusterScoped = setOf(
	"Node", "Namespace", "PersistentVolume",
	"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingWebhookConfiguration",
	"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration",
	"CertificateSigningRequest", "ClusterTrustBundle", "CustomResourceDefinition",
	"FlowSchema", "PriorityLevelConfiguration",
	"IPAddress", "IngressClass", "ServiceCIDR", "RuntimeClass",
	"ClusterRole", "ClusterRoleBinding", "DeviceClass", "DeviceTaintRule", "ResourceSlice", "PriorityClass",
	"CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass", "StorageVersionMigration",
)

// inCategoryAll is what `kubectl get all` shows.
var inCategoryAll = setOf("Pod", "ReplicationController", "Service", "DaemonSet", "Deployment", "ReplicaSet",
	"StatefulSet", "HorizontalPodAutoscaler", "CronJob", "Job")

var shortNames = map[string][]string{
	"ConfigMap":                 {"cm"},
	"CronJob":                   {"cj"},
	"CertificateSigningRequest": {"csr"},
	"CustomResourceDefinition":  {"crd", "crds"},
	"DaemonSet":                 {"ds"},
	"Deployment":                {"deploy"},
	"Endpoints":                 {"ep"},
	"Event":                     {"ev"},
	"HorizontalPodAutoscaler":   {"hpa"},
	"Ingress":                   {"ing"},
	"IPAddress":                 {"ip"},
	"LimitRange":                {"limits"},
	"Namespace":                 {"ns"},
	"NetworkPolicy":             {"netpol"},
	"Node":                      {"no"},
	"PersistentVolume":          {"pv"},
	"PersistentVolumeClaim":     {"pvc"},
	"Pod":                       {"po"},
	"PodDisruptionBudget":       {"pdb"},
	"PriorityClass":             {"pc"},
	"ReplicaSet":                {"rs"},
	"ReplicationController":     {"rc"},
	"ResourceQuota":             {"quota"},
	"Service":                   {"svc"},
	"ServiceAccount":            {"sa"},
	"StatefulSet":               {"sts"},
	"StorageClass":              {"sc"},
}

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}
