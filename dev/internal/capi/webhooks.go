package capi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/controllers/clustercache"
	"sigs.k8s.io/cluster-api/core/webhooks/admission"
	"sigs.k8s.io/cluster-api/core/webhooks/conversion"
	"sigs.k8s.io/cluster-api/util/contract"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// setupWebhooks registers admission and, with it, conversion.
func setupWebhooks(mgr ctrl.Manager, cache clustercache.ClusterCache) error {
	conversion.SetAPIVersionGetter(APIVersion(mgr.GetClient()))
	c := mgr.GetClient()
	for name, hook := range map[string]interface{ SetupWebhookWithManager(ctrl.Manager) error }{
		"ClusterClass":              &admission.ClusterClass{Client: c},
		"Cluster":                   &admission.Cluster{Client: c, ClusterCacheReader: cache},
		"Machine":                   &admission.Machine{},
		"MachineSet":                &admission.MachineSet{},
		"MachineDeployment":         &admission.MachineDeployment{},
		"MachineDrainRule":          &admission.MachineDrainRule{},
		"MachinePool":               &admission.MachinePool{},
		"ClusterResourceSet":        &admission.ClusterResourceSet{},
		"ClusterResourceSetBinding": &admission.ClusterResourceSetBinding{},
		"MachineHealthCheck":        &admission.MachineHealthCheck{},
		"ExtensionConfig":           &admission.ExtensionConfig{},
		"IPAddress":                 &admission.IPAddress{Client: mgr.GetAPIReader()},
		"IPAddressClaim":            &admission.IPAddressClaim{},
	} {
		if err := hook.SetupWebhookWithManager(mgr); err != nil {
			return fmt.Errorf("webhook %s: %w", name, err)
		}
	}
	return nil
}

// contractVersions are the contracts that this release speaks, the preferred one first.
var contractVersions = []string{"v1beta2", "v1beta1"}

// APIVersion returns a function that finds the version of a provider's kind that keeps the newest contract, by the labels of its
// definition: what references of v1beta1 objects, which name a version, are given on conversion. The
// original's function is internal.
func APIVersion(c client.Client) func(context.Context, schema.GroupKind) (string, error) {
	return func(ctx context.Context, gk schema.GroupKind) (string, error) { return apiVersion(ctx, c, gk) }
}

func apiVersion(ctx context.Context, c client.Client, gk schema.GroupKind) (string, error) {
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	name := contract.CalculateCRDName(gk.Group, gk.Kind)
	if err := c.Get(ctx, client.ObjectKey{Name: name}, crd); err != nil {
		return "", fmt.Errorf("definition of %s: %w", gk, err)
	}
	for _, v := range contractVersions {
		versions := strings.Split(crd.Labels[clusterv1.GroupVersion.Group+"/"+v], "_")
		if versions[0] == "" {
			continue
		}
		slices.SortFunc(versions, version.CompareKubeAwareVersionStrings)
		return schema.GroupVersion{Group: gk.Group, Version: versions[len(versions)-1]}.String(), nil
	}
	return "", fmt.Errorf("definition %s has no label of a contract among %q, only %q", name, contractVersions,
		slices.Sorted(maps.Keys(crd.Labels)))
}
