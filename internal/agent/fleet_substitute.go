package agent

import (
	"context"
	"fmt"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/render"
)

// substituteStep gathers the values of variables. A source that can't be read
// stops here: rendering with half the values would be acting on partial truth.
func substituteStep(ctx context.Context, run *fleetRun) error {
	substitution, secrets, err := gatherSubstitution(ctx, run.values.get, run.fleet)
	if err != nil {
		return run.stop(v1alpha1.DiscoveredCondition, v1alpha1.SubstitutionReason, err)
	}
	run.next.substitution, run.next.secrets = substitution, secrets
	return nil
}

type valueGetter func(context.Context, schema.GroupVersionKind, types.NamespacedName) (*valueObject, error)

// gatherSubstitution reads a Fleet's variables; nil if it declares none. secrets
// holds those that came from Secrets, in the form of one, so that they can be taken
// out of texts; nil if none did.
func gatherSubstitution(ctx context.Context, get valueGetter, fleet *v1alpha1.Fleet) (_ *render.Substitution, secrets *unstructured.Unstructured, _ error) {
	spec := fleet.Spec.Substitute
	if spec == nil {
		return nil, nil, nil
	}
	values := map[string]string{}
	hidden := map[string]any{}
	for _, from := range spec.From {
		name := types.NamespacedName{Namespace: fleet.Namespace, Name: from.Name}
		object, err := get(ctx, corev1.SchemeGroupVersion.WithKind(from.Kind), name)
		switch {
		case apierrors.IsNotFound(err) && from.Optional:
			continue
		case apierrors.IsNotFound(err):
			return nil, nil, fmt.Errorf("%s %s, named by spec.substitute.from, does not exist; create it or set optional: true", from.Kind, name)
		case err != nil:
			return nil, nil, fmt.Errorf("read %s %s, named by spec.substitute.from: %w", from.Kind, name, err)
		}
		for key, value := range object.data {
			values[key] = string(value)
			if from.Kind == "Secret" {
				hidden[from.Name+"/"+key] = string(value)
			}
		}
	}
	for key, value := range spec.Vars {
		values[key] = value
	}
	if len(hidden) > 0 {
		secrets = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "stringData": hidden}}
	}
	return &render.Substitution{Values: values}, secrets, nil
}

// GatherSubstitution reads a Fleet's variables for the command line, which has no
// cache; nil if the Fleet declares none. secrets holds the values that come from
// Secrets, to be scrubbed from what is shown; nil if none do.
func GatherSubstitution(ctx context.Context, reader client.Reader, fleet *v1alpha1.Fleet) (_ *render.Substitution, secrets *unstructured.Unstructured, _ error) {
	get := func(ctx context.Context, gvk schema.GroupVersionKind, name types.NamespacedName) (*valueObject, error) {
		return readValues(ctx, reader, gvk, name)
	}
	return gatherSubstitution(ctx, get, fleet)
}

// valueObject is the data of a ConfigMap or Secret at one version of it.
type valueObject struct {
	version string
	data    map[string][]byte
	// absent is the API server's word that there is no such object.
	absent error
}

// valueCache reads ConfigMaps and Secrets that Fleets name. A metadata watch tells
// whether what was read is still current, so an unchanged object costs no request
// and no Secret is held but those that are named.
type valueCache struct {
	metadata client.Reader // cached, metadata only
	live     client.Reader

	mu   sync.Mutex
	held map[schema.GroupVersionKind]map[types.NamespacedName]*valueObject
}

func (c *valueCache) get(ctx context.Context, gvk schema.GroupVersionKind, name types.NamespacedName) (*valueObject, error) {
	var known metav1.PartialObjectMetadata
	known.SetGroupVersionKind(gvk)
	if err := c.metadata.Get(ctx, name, &known); client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	c.mu.Lock()
	held := c.held[gvk][name]
	c.mu.Unlock()
	if held != nil && held.version == known.ResourceVersion {
		return held, held.absent
	}
	// The cache may lag, so what it lacks is looked for live as well.
	read, err := readValues(ctx, c.live, gvk, name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = map[schema.GroupVersionKind]map[types.NamespacedName]*valueObject{}
	}
	if c.held[gvk] == nil {
		c.held[gvk] = map[types.NamespacedName]*valueObject{}
	}
	if apierrors.IsNotFound(err) && known.ResourceVersion == "" {
		read = &valueObject{absent: err} // until the watch says otherwise
	} else if err != nil {
		delete(c.held[gvk], name)
		return nil, err
	}
	c.held[gvk][name] = read
	return read, err
}

// evict forgets the objects of a namespace that are not named any more.
func (c *valueCache) evict(namespace string, named func(kind, name string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for gvk, held := range c.held {
		maps.DeleteFunc(held, func(n types.NamespacedName, _ *valueObject) bool {
			return n.Namespace == namespace && !named(gvk.Kind, n.Name)
		})
	}
}

// readValues reads the data of a ConfigMap or Secret.
func readValues(ctx context.Context, reader client.Reader, gvk schema.GroupVersionKind, name types.NamespacedName) (*valueObject, error) {
	if gvk.Kind == "Secret" {
		var s corev1.Secret
		if err := reader.Get(ctx, name, &s); err != nil {
			return nil, err
		}
		return &valueObject{version: s.ResourceVersion, data: s.Data}, nil
	}
	var m corev1.ConfigMap
	if err := reader.Get(ctx, name, &m); err != nil {
		return nil, err
	}
	data := make(map[string][]byte, len(m.Data)+len(m.BinaryData))
	for k, v := range m.Data {
		data[k] = []byte(v)
	}
	for k, v := range m.BinaryData {
		data[k] = v
	}
	return &valueObject{version: m.ResourceVersion, data: data}, nil
}
