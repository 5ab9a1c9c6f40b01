package capi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/internal/object"
)

// Reference is one field of an object that names another object.
type Reference struct {
	// Field is the path of the field that holds the reference, with dots.
	Field string
	// To is the object named.
	To object.ID
}

// References lists what a Cluster API object refers to in its spec, in the order
// of field paths. Both shapes of references are read: {apiGroup, kind, name} of
// v1beta2 and {apiVersion, kind, name, namespace} of v1beta1 and of providers; a
// reference without a namespace means the object's own.
func References(u *unstructured.Unstructured) []Reference {
	if !IsFamily(u.GroupVersionKind().GroupKind()) {
		return nil
	}
	refs := append(named(u), looseRefs(u)...)
	refs = slices.DeleteFunc(refs, func(r Reference) bool { return r.To.Group == unknownGroup })
	slices.SortStableFunc(refs, func(a, b Reference) int { return strings.Compare(a.Field, b.Field) })
	return refs
}

// unknownGroup stands for the group of a reference that gives none.
const unknownGroup = "?"

// looseRefs finds every reference by its shape, wherever a provider puts it.
func looseRefs(u *unstructured.Unstructured) []Reference {
	var refs []Reference
	walk(u.Object["spec"], "spec", func(field string, m map[string]any) {
		kind, name := text(m, "kind"), text(m, "name")
		if kind == "" || name == "" {
			return
		}
		id := object.ID{Group: groupOf(m), Kind: kind, Namespace: u.GetNamespace(), Name: name}
		if ns := text(m, "namespace"); ns != "" {
			id.Namespace = ns
		}
		if id.Group == unknownGroup && (kind == "ConfigMap" || kind == "Secret") {
			id.Group = "" // spec.resources of a ClusterResourceSet
		}
		refs = append(refs, Reference{Field: field, To: id})
	})
	return refs
}

// groupOf reads the group of a reference.
func groupOf(m map[string]any) string {
	if group, ok := m["apiGroup"].(string); ok {
		return group
	}
	if version, ok := m["apiVersion"].(string); ok && version != "" {
		if gv, err := schema.ParseGroupVersion(version); err == nil {
			return gv.Group
		}
	}
	return unknownGroup
}

// named lists the references that are only a name, their kind being understood.
func named(u *unstructured.Unstructured) []Reference {
	core := func(kind, name, namespace string) object.ID {
		return object.ID{Group: family, Kind: kind, Namespace: namespace, Name: name}
	}
	var refs []Reference
	add := func(to object.ID, field ...string) {
		if to.Name != "" {
			refs = append(refs, Reference{Field: strings.Join(field, "."), To: to})
		}
	}
	own := u.GetNamespace()
	for _, field := range [][]string{{"spec", "clusterName"}, {"spec", "template", "spec", "clusterName"}} {
		add(core("Cluster", nested(u, field...), own), field...)
	}
	if IsCluster(u.GroupVersionKind().GroupKind()) {
		classNamespace := nested(u, "spec", "topology", "classRef", "namespace")
		if classNamespace == "" {
			classNamespace = own
		}
		add(core("ClusterClass", nested(u, "spec", "topology", "classRef", "name"), classNamespace), "spec", "topology", "classRef")
		if v1beta1Namespace := nested(u, "spec", "topology", "classNamespace"); v1beta1Namespace != "" {
			classNamespace = v1beta1Namespace
		}
		add(core("ClusterClass", nested(u, "spec", "topology", "class"), classNamespace), "spec", "topology", "class")
	}
	secret := object.ID{Kind: "Secret", Namespace: nested(u, "spec", "credentialsRef", "namespace")}
	if secret.Namespace == "" {
		secret.Namespace = own
	}
	secret.Name = nested(u, "spec", "credentialsRef", "name")
	if nested(u, "spec", "credentialsRef", "kind") == "" {
		add(secret, "spec", "credentialsRef")
	}
	for _, field := range [][]string{{"spec", "bootstrap", "dataSecretName"}, {"spec", "template", "spec", "bootstrap", "dataSecretName"}} {
		add(object.ID{Kind: "Secret", Namespace: own, Name: nested(u, field...)}, field...)
	}
	return refs
}

// walk visits every map below a value, in key order.
func walk(value any, path string, visit func(path string, m map[string]any)) {
	switch v := value.(type) {
	case map[string]any:
		visit(path, v)
		for _, key := range slices.Sorted(maps.Keys(v)) {
			walk(v[key], path+"."+key, visit)
		}
	case []any:
		for i, element := range v {
			walk(element, fmt.Sprintf("%s[%d]", path, i), visit)
		}
	}
}

func text(m map[string]any, key string) string {
	s, _ := m[key].(string)
	return s
}

func nested(u *unstructured.Unstructured, fields ...string) string {
	s, _, _ := unstructured.NestedString(u.Object, fields...)
	return s
}

// TemplateUsers lists the live objects that need a template, in readable form
// and sorted: those that name it, and the clones made from it. A template in use
// must not be deleted; no finalizer protects it, and without it machines can't
// be replaced. A MachineSet without machines doesn't count: it is history.
// Templates are used within their namespace only.
//
// A reference that gives no group counts if kind and name fit: a template kept
// too long does no harm.
func TemplateUsers(template object.ID, live []*unstructured.Unstructured) []string {
	var users []string
	for _, u := range live {
		id := object.IDOf(u)
		if id == template || !uses(u, template) {
			continue
		}
		name := id.Kind + " " + id.Name
		if id.Namespace != "" {
			name = id.Kind + " " + id.Namespace + "/" + id.Name
		}
		users = append(users, name)
	}
	slices.Sort(users)
	return slices.Compact(users)
}

func uses(u *unstructured.Unstructured, template object.ID) bool {
	gk := u.GroupVersionKind().GroupKind()
	if gk.Kind == "MachineSet" && IsMachineOwner(gk) && !machines(u) {
		return false
	}
	annotations := u.GetAnnotations()
	if u.GetNamespace() == template.Namespace &&
		annotations[clusterv1.TemplateClonedFromNameAnnotation] == template.Name &&
		annotations[clusterv1.TemplateClonedFromGroupKindAnnotation] == template.GroupKind().String() {
		return true
	}
	return slices.ContainsFunc(append(named(u), looseRefs(u)...), func(r Reference) bool {
		if r.To.Group == unknownGroup {
			r.To.Group = template.Group
		}
		return r.To == template
	})
}

// TemplateUserKinds lists the kinds whose live objects must be read before
// [TemplateUsers] can say that a template is unused: owners of machines, the
// control planes that the caller knows of, ClusterClasses, and the kind of the
// clones. A kind that the API server doesn't know has no objects. Machines are
// not among them: they name their clones, never a template.
func TemplateUserKinds(template schema.GroupKind, controlPlanes []schema.GroupKind) []schema.GroupKind {
	core := func(kind string) schema.GroupKind { return schema.GroupKind{Group: family, Kind: kind} }
	if IsClusterClass(template) {
		return []schema.GroupKind{core("Cluster")}
	}
	if !IsTemplate(template) {
		return nil
	}
	kinds := []schema.GroupKind{core("ClusterClass"), core("MachineDeployment"), core("MachinePool"), core("MachineSet")}
	if strings.HasSuffix(template.Kind, "RemediationTemplate") {
		kinds = append(kinds, core("MachineHealthCheck"))
	}
	kinds = append(kinds, controlPlanes...)
	kinds = append(kinds, CloneKind(template))
	slices.SortFunc(kinds, func(a, b schema.GroupKind) int {
		return strings.Compare(a.Group+"/"+a.Kind, b.Group+"/"+b.Kind)
	})
	return slices.Compact(kinds)
}
