package workload

import (
	"encoding/json"
	"fmt"
	"maps"

	jsonpatch "github.com/evanphx/json-patch/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// patch changes an object by one of the kinds of patches; only apply creates what is missing.
func (s *store) patch(r *resource, version string, key types.NamespacedName, kind types.PatchType, data []byte,
	opts writeOptions,
) (*unstructured.Unstructured, bool, error) {
	if kind == types.ApplyYAMLPatchType {
		return s.apply(r, version, key, data, opts)
	}
	object, err := s.update(r, key, opts, func(live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		return s.kinds.patched(r, as(live, r.gvk(version)), kind, data)
	})
	return object, false, err
}

// patched is the live object with a patch applied to it.
func (c *catalogue) patched(r *resource, live *unstructured.Unstructured, kind types.PatchType, data []byte,
) (*unstructured.Unstructured, error) {
	var content map[string]any
	switch kind {
	case types.StrategicMergePatchType:
		if !r.builtin {
			return nil, unsupportedPatch(kind)
		}
		var change map[string]any
		if err := utiljson.Unmarshal(data, &change); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		typed, err := c.scheme.New(live.GroupVersionKind())
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		content, err = strategicpatch.StrategicMergeMapPatch(live.DeepCopy().Object, change, typed)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	case types.JSONPatchType, types.MergePatchType:
		before, err := json.Marshal(live.Object)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		after, err := patchJSON(before, kind, data)
		if err != nil {
			return nil, err
		}
		if err := utiljson.Unmarshal(after, &content); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	default:
		return nil, unsupportedPatch(kind)
	}
	object := &unstructured.Unstructured{Object: content}
	if object.GroupVersionKind() != live.GroupVersionKind() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("a patch cannot make a %s of a %s",
			object.GroupVersionKind(), live.GroupVersionKind()))
	}
	return object, nil
}

func patchJSON(before []byte, kind types.PatchType, data []byte) ([]byte, error) {
	if kind == types.MergePatchType {
		after, err := jsonpatch.MergePatch(before, data)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return after, nil
	}
	steps, err := jsonpatch.DecodePatch(data)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	after, err := steps.Apply(before)
	if err != nil {
		return nil, apierrors.NewGenericServerResponse(422, "patch", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return after, nil
}

func unsupportedPatch(kind types.PatchType) error {
	return apierrors.NewGenericServerResponse(415, "patch", schema.GroupResource{}, "",
		fmt.Sprintf("the body of the request was in an unknown format: %s", kind), 0, false)
}

// apply is server-side apply with field managers as the real one has it: for built-in types by
// their schema, for custom kinds without one, so that their lists are replaced as a whole.
func (s *store) apply(r *resource, version string, key types.NamespacedName, data []byte, opts writeOptions,
) (*unstructured.Unstructured, bool, error) {
	if opts.manager == "" {
		return nil, false, apierrors.NewBadRequest(
			"PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch")
	}
	wanted, err := parse(data)
	if err != nil {
		return nil, false, err
	}
	gvk := r.gvk(version)
	if wanted.GroupVersionKind() != gvk {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf(
			"the object is a %s, the URL is of %s", wanted.GroupVersionKind(), gvk))
	}
	if name := wanted.GetName(); name != "" && name != key.Name {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf(
			"the name of the object (%s) does not match the name on the URL (%s)", name, key.Name))
	}
	wanted.SetName(key.Name)
	if key.Namespace != "" {
		wanted.SetNamespace(key.Namespace)
	}
	if opts.strict {
		if _, err := s.kinds.normalize(r, wanted, true); err != nil {
			return nil, false, err
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	live := s.objects[r.GroupResource][key]
	before := &unstructured.Unstructured{}
	before.SetGroupVersionKind(gvk)
	if live != nil {
		before = as(live, gvk).DeepCopy()
	} else if opts.status {
		return nil, false, apierrors.NewNotFound(r.GroupResource, key.Name)
	}
	fields, err := s.kinds.fieldManager(r, gvk, opts.status)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	applied, err := fields.Apply(before, wanted, opts.manager, opts.force)
	if err != nil {
		return nil, false, applyError(err)
	}
	object, ok := applied.(*unstructured.Unstructured)
	if !ok {
		return nil, false, apierrors.NewInternalError(fmt.Errorf("apply made a %T", applied))
	}
	opts.strict = false
	if live == nil {
		object, err = s.createLocked(r, object, opts)
		return object, true, err
	}
	opts.manager = "" // who owns what is settled
	object, err = s.updateLocked(r, live, object, opts)
	return object, false, err
}

func applyError(err error) error {
	if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		return err // conflicts
	}
	return apierrors.NewBadRequest(err.Error())
}

// track notes who changed which fields, once an object has been applied: before that nobody
// asks, and it would double the memory.
func (c *catalogue) track(r *resource, live, object *unstructured.Unstructured, opts writeOptions,
) *unstructured.Unstructured {
	if opts.manager == "" || len(live.GetManagedFields()) == 0 {
		return object
	}
	fields, err := c.fieldManager(r, object.GroupVersionKind(), opts.status)
	if err != nil {
		return object
	}
	before := as(live, object.GroupVersionKind()).DeepCopy()
	tracked, ok := fields.UpdateNoErrors(before, object, opts.manager).(*unstructured.Unstructured)
	if !ok {
		return object
	}
	return tracked
}

func (c *catalogue) fieldManager(r *resource, gvk schema.GroupVersionKind, status bool) (*managedfields.FieldManager, error) {
	subresource := ""
	if status {
		subresource = "status"
	}
	var same sameForm
	if r.builtin && r.GroupResource != crds { // client-go has no schema of those
		return managedfields.NewDefaultFieldManager(c.types(), same, same, same, gvk, gvk.GroupVersion(), subresource, nil)
	}
	return managedfields.NewDefaultCRDFieldManager(c.untyped, same, same, same, gvk, gvk.GroupVersion(), subresource, nil)
}

// sameForm converts between the versions of a kind by their name only, and defaults nothing.
type sameForm struct{}

func (sameForm) Convert(_, _, _ any) error { return fmt.Errorf("not supported") }

func (sameForm) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	object, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	gvk, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{object.GroupVersionKind()})
	if !ok {
		return nil, fmt.Errorf("%s has no version for %s", object.GroupVersionKind(), target.Identifier())
	}
	return as(object, gvk), nil
}

func (sameForm) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

func (sameForm) Default(runtime.Object) {}

func (sameForm) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind)
	return object, nil
}

// as is the object in another version of its kind; it shares all but the name of the version.
func as(object *unstructured.Unstructured, gvk schema.GroupVersionKind) *unstructured.Unstructured {
	if object.GroupVersionKind() == gvk {
		return object
	}
	content := maps.Clone(object.Object)
	content["apiVersion"], content["kind"] = gvk.ToAPIVersionAndKind()
	return &unstructured.Unstructured{Object: content}
}
