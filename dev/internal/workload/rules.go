package workload

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	namespaces = schema.GroupResource{Resource: "namespaces"}
	pods       = schema.GroupResource{Resource: "pods"}
	secrets    = schema.GroupResource{Resource: "secrets"}
	crds       = schema.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}
)

func isNamespace(r *resource) bool { return r.GroupResource == namespaces }

func splitPath(path string) []string { return strings.Split(path, ".") }

// normalize returns a copy of the object in the form that its Go type gives it, without the
// fields that the type lacks; strict makes those an error. Custom kinds are taken as they
// are: their schema is not enforced.
func (c *catalogue) normalize(r *resource, object *unstructured.Unstructured, strict bool,
) (*unstructured.Unstructured, error) {
	if !r.builtin {
		return object.DeepCopy(), nil
	}
	gvk := object.GroupVersionKind()
	typed, err := c.scheme.New(gvk)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, typed, strict); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v",
			gvk.Kind, gvk.Version, gvk.Kind, err))
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	normal := &unstructured.Unstructured{Object: content}
	normal.SetGroupVersionKind(gvk)
	return normal, nil
}

// prepareCreate fills in what the API server fills in, and refuses what it refuses.
func prepareCreate(r *resource, object *unstructured.Unstructured) error {
	if object.GetName() == "" && object.GetGenerateName() != "" {
		object.SetName(object.GetGenerateName() + utilrand.String(5))
	}
	name := object.GetName()
	if name == "" {
		return invalid(r, name, field.Required(field.NewPath("metadata", "name"), "name or generateName is required"))
	}
	if problems := content.IsPathSegmentName(name); len(problems) > 0 {
		return invalid(r, name, field.Invalid(field.NewPath("metadata", "name"), name, strings.Join(problems, ",")))
	}
	if object.GetResourceVersion() != "" {
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	object.SetUID(uuid.NewUUID())
	object.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	object.SetDeletionTimestamp(nil)
	object.SetDeletionGracePeriodSeconds(nil)
	object.SetSelfLink("")
	unstructured.RemoveNestedField(object.Object, "metadata", "generation")
	if hasGeneration(r, object) {
		object.SetGeneration(1)
	}
	// A kubelet registers its Node together with the status; nobody else may do that.
	if r.hasStatus && r.kind != "Node" {
		delete(object.Object, "status")
	}
	return fill(r, object)
}

// fill sets what an API server adds to some kinds: defaults that controllers rely on, no more.
func fill(r *resource, object *unstructured.Unstructured) error {
	fields := object.Object
	switch r.GroupResource {
	case namespaces:
		labels := object.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[corev1.LabelMetadataName] = object.GetName()
		object.SetLabels(labels)
		fields["spec"] = map[string]any{"finalizers": []any{"kubernetes"}}
		fields["status"] = map[string]any{"phase": string(corev1.NamespaceActive)}
	case secrets:
		fillSecret(fields)
	case pods:
		fields["status"] = map[string]any{"phase": string(corev1.PodPending)}
	case schema.GroupResource{Resource: "services"}:
		setDefault(fields, string(corev1.ServiceTypeClusterIP), "spec", "type")
	case schema.GroupResource{Group: "apps", Resource: "deployments"},
		schema.GroupResource{Group: "apps", Resource: "statefulsets"},
		schema.GroupResource{Group: "apps", Resource: "replicasets"}:
		setDefault(fields, int64(1), "spec", "replicas")
	case crds:
		return fillCRD(object)
	}
	return nil
}

func setDefault(content map[string]any, value any, path ...string) {
	if _, found, err := unstructured.NestedFieldNoCopy(content, path...); err == nil && !found {
		_ = unstructured.SetNestedField(content, value, path...) // the parent was found to be a map, or absent
	}
}

func fillSecret(content map[string]any) {
	setDefault(content, string(corev1.SecretTypeOpaque), "type")
	plain, _, err := unstructured.NestedStringMap(content, "stringData")
	if err != nil || len(plain) == 0 {
		return
	}
	data, _ := content["data"].(map[string]any)
	if data == nil {
		data = map[string]any{}
	}
	for key, value := range plain {
		data[key] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	content["data"] = data
	delete(content, "stringData")
}

// fillCRD makes a CustomResourceDefinition established at once.
func fillCRD(object *unstructured.Unstructured) error {
	content := object.Object
	names, _, _ := unstructured.NestedMap(content, "spec", "names")
	kind, _ := names["kind"].(string)
	setDefault(content, kind+"List", "spec", "names", "listKind")
	setDefault(content, strings.ToLower(kind), "spec", "names", "singular")
	setDefault(content, map[string]any{"strategy": "None"}, "spec", "conversion")

	r, err := customResource(object)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if want := r.Resource + "." + r.Group; object.GetName() != want {
		kind := schema.GroupKind{Group: crds.Group, Kind: "CustomResourceDefinition"}
		return apierrors.NewInvalid(kind, object.GetName(), field.ErrorList{
			field.Invalid(field.NewPath("metadata", "name"), object.GetName(), `must be spec.names.plural+"."+spec.group`)})
	}
	names, _, _ = unstructured.NestedMap(content, "spec", "names")
	stored := []any{}
	versions, _, _ := unstructured.NestedSlice(content, "spec", "versions")
	for _, v := range versions {
		if v, ok := v.(map[string]any); ok && v["storage"] == true {
			stored = append(stored, v["name"])
		}
	}
	now := time.Now().UTC().Format(time.RFC3339)
	condition := func(kind, reason, message string) any {
		return map[string]any{"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
	}
	content["status"] = map[string]any{
		"acceptedNames":  names,
		"storedVersions": stored,
		"conditions": []any{
			condition("NamesAccepted", "NoConflicts", "no conflicts found"),
			condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
		},
	}
	return nil
}

// prepareUpdate carries over from the live object what a write cannot change.
func prepareUpdate(r *resource, live, object *unstructured.Unstructured, status bool) error {
	if object.GetName() != live.GetName() || object.GetNamespace() != live.GetNamespace() {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)",
			object.GetName(), live.GetName()))
	}
	switch given := object.GetResourceVersion(); {
	case given == "" && !r.builtin && !status:
		return invalid(r, live.GetName(),
			field.Invalid(field.NewPath("metadata", "resourceVersion"), given, "must be specified for an update"))
	case given != "" && given != live.GetResourceVersion():
		return apierrors.NewConflict(r.GroupResource, live.GetName(), fmt.Errorf(
			"the object has been modified; please apply your changes to the latest version and try again"))
	}
	if uid := object.GetUID(); uid != "" && uid != live.GetUID() {
		return apierrors.NewConflict(r.GroupResource, live.GetName(), fmt.Errorf(
			"Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, live.GetUID()))
	}
	if status {
		keepAllButStatus(live, object)
	} else if r.hasStatus {
		keep(live, object, "status")
	}
	for _, name := range []string{"uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
		"generation", "resourceVersion", "selfLink", "generateName"} {
		keep(live, object, "metadata", name)
	}
	if live.GetDeletionTimestamp() != nil {
		if added := sets.New(object.GetFinalizers()...).Difference(sets.New(live.GetFinalizers()...)); len(added) > 0 {
			return invalid(r, live.GetName(), field.Forbidden(field.NewPath("metadata", "finalizers"),
				fmt.Sprintf("no new finalizers can be added if the object is being deleted, found new finalizers %v", sets.List(added))))
		}
	}
	switch r.GroupResource {
	case secrets:
		fillSecret(object.Object)
	case namespaces:
		keep(live, object, "spec") // there is nothing in it but a finalizer of its own
	}
	return nil
}

// keepAllButStatus makes object the live one with another status; managedFields may change too.
func keepAllButStatus(live, object *unstructured.Unstructured) {
	status, found := object.Object["status"]
	managed := object.GetManagedFields()
	version := object.GetAPIVersion()
	object.Object = live.DeepCopy().Object
	object.SetAPIVersion(version)
	object.SetManagedFields(managed)
	if !found {
		delete(object.Object, "status")
		return
	}
	object.Object["status"] = status
}

// keep takes one field from the live object.
func keep(live, object *unstructured.Unstructured, path ...string) {
	value, found, err := unstructured.NestedFieldCopy(live.Object, path...)
	if err != nil || !found {
		unstructured.RemoveNestedField(object.Object, path...)
		return
	}
	_ = unstructured.SetNestedField(object.Object, value, path...) // the parent is a map in live, and so in object
}

// hasGeneration: custom kinds all, built-in ones if they have a spec that a controller acts on.
func hasGeneration(r *resource, object *unstructured.Unstructured) bool {
	if !r.builtin || r.kind == "Pod" || r.GroupResource == crds {
		return true
	}
	_, found := object.Object["spec"]
	return found && r.Group != ""
}

// bumpGeneration counts changes of what is wanted: all but metadata and status.
func bumpGeneration(r *resource, live, object *unstructured.Unstructured) {
	if !hasGeneration(r, object) {
		return
	}
	wanted := func(u *unstructured.Unstructured) map[string]any {
		content := map[string]any{}
		for name, value := range u.Object {
			if name != "metadata" && name != "apiVersion" && (name != "status" || !r.hasStatus) {
				content[name] = value
			}
		}
		return content
	}
	if !equality.Semantic.DeepEqual(wanted(live), wanted(object)) {
		object.SetGeneration(live.GetGeneration() + 1)
	}
}

// markDeleted is the object that waits for its finalizers.
func markDeleted(r *resource, live *unstructured.Unstructured) *unstructured.Unstructured {
	object := live.DeepCopy()
	now, zero := metav1.NewTime(time.Now().Truncate(time.Second)), int64(0)
	object.SetDeletionTimestamp(&now)
	object.SetDeletionGracePeriodSeconds(&zero)
	if hasGeneration(r, object) {
		object.SetGeneration(live.GetGeneration() + 1)
	}
	if isNamespace(r) {
		object.SetDeletionGracePeriodSeconds(nil)
		_ = unstructured.SetNestedField(object.Object, string(corev1.NamespaceTerminating), "status", "phase")
	}
	return object
}

func checkPreconditions(r *resource, live *unstructured.Unstructured, want *metav1.Preconditions) error {
	if want == nil {
		return nil
	}
	if want.UID != nil && *want.UID != live.GetUID() {
		return apierrors.NewConflict(r.GroupResource, live.GetName(), fmt.Errorf(
			"Precondition failed: UID in precondition: %v, UID in object meta: %v", *want.UID, live.GetUID()))
	}
	if want.ResourceVersion != nil && *want.ResourceVersion != live.GetResourceVersion() {
		return apierrors.NewConflict(r.GroupResource, live.GetName(), fmt.Errorf(
			"Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v",
			*want.ResourceVersion, live.GetResourceVersion()))
	}
	return nil
}

func invalid(r *resource, name string, problem *field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: r.Group, Kind: r.kind}, name, field.ErrorList{problem})
}

// namespaceAccepts: no objects in a namespace that is missing or about to go.
func (s *store) namespaceAccepts(r *resource, key types.NamespacedName) error {
	if !r.namespaced {
		return nil
	}
	namespace := s.objects[namespaces][types.NamespacedName{Name: key.Namespace}]
	if namespace == nil {
		return apierrors.NewNotFound(namespaces, key.Namespace)
	}
	if namespace.GetDeletionTimestamp() != nil {
		err := apierrors.NewForbidden(r.GroupResource, key.Name, fmt.Errorf(
			"unable to create new content in namespace %s because it is being terminated", key.Namespace))
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: corev1.NamespaceTerminatingCause, Field: "metadata.namespace",
			Message: fmt.Sprintf("namespace %s is being terminated", key.Namespace),
		})
		return err
	}
	return nil
}

// empty deletes what is in a namespace, as the namespace controller does.
func (s *store) empty(namespace string) {
	for gr, objects := range s.objects {
		r := s.known(gr)
		if r == nil || !r.namespaced {
			continue
		}
		for key, object := range objects {
			if key.Namespace == namespace {
				s.deleteLocked(r, object)
			}
		}
	}
}

func (s *store) known(gr schema.GroupResource) *resource {
	if r := s.kinds.builtin[gr]; r != nil {
		return r
	}
	return s.custom[gr]
}

// holdsNamespace: a namespace stays as long as something is in it.
func (s *store) holdsNamespace(r *resource, namespace *unstructured.Unstructured) bool {
	if !isNamespace(r) {
		return false
	}
	for _, objects := range s.objects {
		for key := range objects {
			if key.Namespace == namespace.GetName() {
				return true
			}
		}
	}
	return false
}

// afterPut does what controllers of the control plane do at once: a new definition is served.
func (s *store) afterPut(r *resource, object *unstructured.Unstructured) {
	if r.GroupResource != crds {
		return
	}
	if custom, err := customResource(object); err == nil && s.kinds.builtin[custom.GroupResource] == nil {
		s.custom[custom.GroupResource] = custom
	}
}

// afterRemove: the objects of a definition go with it, and a namespace with the last object.
func (s *store) afterRemove(r *resource, object *unstructured.Unstructured) {
	if r.GroupResource == crds {
		custom, err := customResource(object)
		if err != nil || s.custom[custom.GroupResource] == nil {
			return
		}
		for _, orphan := range s.objects[custom.GroupResource] {
			s.remove(custom, orphan)
		}
		delete(s.custom, custom.GroupResource)
		delete(s.objects, custom.GroupResource)
	}
	if !r.namespaced {
		return
	}
	namespace := s.objects[namespaces][types.NamespacedName{Name: object.GetNamespace()}]
	kind := s.kinds.builtin[namespaces]
	if namespace != nil && namespace.GetDeletionTimestamp() != nil && len(namespace.GetFinalizers()) == 0 &&
		!s.holdsNamespace(kind, namespace) {
		s.remove(kind, namespace)
	}
}
