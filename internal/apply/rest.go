package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	namecontent "k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"capstan.dev/capstan/internal/object"
)

// Representations to ask for instead of whole objects.
const (
	asMetadata     = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	asMetadataList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// retries of one request that the API server asked to send again later.
const retries = 3

// get reads an object; metadata only on request.
func (a *Applier) get(ctx context.Context, k kind, id object.ID, accept string) (*unstructured.Unstructured, error) {
	if err := checkNames(id); err != nil {
		return nil, err
	}
	r := a.rest.Get().AbsPath(k.path(id)...)
	if accept != "" {
		r.SetHeader("Accept", accept)
	}
	u, _, err := a.object(ctx, r)
	if u != nil && accept != "" {
		u.SetGroupVersionKind(k.GroupVersionKind) // the answer names the representation
	}
	return u, err
}

// patchApply sends a server-side apply.
func (a *Applier) patchApply(ctx context.Context, k kind, u *unstructured.Unstructured, dryRun, force bool) (_ *unstructured.Unstructured, created bool, _ error) {
	if err := checkNames(object.IDOf(u)); err != nil {
		return nil, false, err
	}
	body, err := json.Marshal(u.Object)
	if err != nil {
		return nil, false, fmt.Errorf("encode: %w", err)
	}
	r := a.rest.Patch(types.ApplyPatchType).AbsPath(k.path(object.IDOf(u))...).
		Param("fieldManager", a.manager).
		Param("fieldValidation", metav1.FieldValidationStrict).
		Body(body)
	if dryRun {
		r.Param("dryRun", metav1.DryRunAll)
	}
	if force {
		r.Param("force", "true")
	}
	return a.object(ctx, r)
}

// patchJSON sends a JSON patch.
func (a *Applier) patchJSON(ctx context.Context, k kind, id object.ID, patch any, dryRun bool) (*unstructured.Unstructured, error) {
	if err := checkNames(id); err != nil {
		return nil, err
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	r := a.rest.Patch(types.JSONPatchType).AbsPath(k.path(id)...).Param("fieldManager", a.manager).Body(body)
	if dryRun {
		r.Param("dryRun", metav1.DryRunAll)
	}
	u, _, err := a.object(ctx, r)
	return u, err
}

// remove sends a delete that only the object with this UID fulfils. What depends
// on it is left to the garbage collector.
func (a *Applier) remove(ctx context.Context, k kind, id object.ID, uid types.UID) error {
	if err := checkNames(id); err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	body, err := json.Marshal(metav1.DeleteOptions{
		TypeMeta:          metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions:     metav1.NewUIDPreconditions(string(uid)),
		PropagationPolicy: &background,
	})
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	_, _, err = a.do(ctx, a.rest.Delete().AbsPath(k.path(id)...).
		SetHeader("Content-Type", "application/json").Body(body))
	return err
}

// list reads all objects of a kind in a namespace, or all if it is empty, page by
// page.
func (a *Applier) list(ctx context.Context, k kind, namespace, selector, accept string) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for page := ""; ; {
		r := a.rest.Get().AbsPath(k.collection(namespace)...).Param("limit", "500")
		if accept != "" {
			r.SetHeader("Accept", accept)
		}
		if selector != "" {
			r.Param("labelSelector", selector)
		}
		if page != "" {
			r.Param("continue", page)
		}
		body, _, err := a.do(ctx, r)
		if err != nil {
			return nil, err
		}
		var list struct {
			Metadata metav1.ListMeta   `json:"metadata"`
			Items    []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, fmt.Errorf("decode: %w", err)
		}
		for _, item := range list.Items {
			u, err := decode(item, k)
			if err != nil {
				return nil, err
			}
			all = append(all, u)
		}
		if page = list.Metadata.Continue; page == "" {
			return all, nil
		}
	}
}

// decode reads an item of a list, which need not say its kind.
func decode(item json.RawMessage, k kind) (*unstructured.Unstructured, error) {
	var typed struct {
		metav1.TypeMeta `json:",inline"`
	}
	if err := json.Unmarshal(item, &typed); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	u := &unstructured.Unstructured{}
	if typed.Kind == "" {
		item = append([]byte(`{"kind":"Unknown",`), bytes.TrimPrefix(bytes.TrimSpace(item), []byte("{"))...)
	}
	if err := u.UnmarshalJSON(item); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	u.SetGroupVersionKind(k.GroupVersionKind)
	return u, nil
}

// object sends a request that is answered by an object.
func (a *Applier) object(ctx context.Context, r *rest.Request) (_ *unstructured.Unstructured, created bool, _ error) {
	body, code, err := a.do(ctx, r)
	if err != nil {
		return nil, false, err
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(body); err != nil {
		return nil, false, fmt.Errorf("decode: %w", err)
	}
	return u, code == http.StatusCreated, nil
}

// do sends a request when a place is free. If the API server refuses it the error
// holds its answer, see statusOf.
func (a *Applier) do(ctx context.Context, r *rest.Request) (body []byte, code int, err error) {
	if err := a.acquire(ctx); err != nil {
		return nil, 0, err
	}
	defer a.release()
	body, err = r.MaxRetries(retries).Do(ctx).StatusCode(&code).Raw()
	if err == nil {
		return body, code, nil
	}
	var answer metav1.Status
	if json.Unmarshal(body, &answer) == nil && answer.Kind == "Status" && answer.Status == metav1.StatusFailure {
		err = &apierrors.StatusError{ErrStatus: answer}
	}
	if status := statusOf(err); status != nil && status.Code == http.StatusNotFound && (status.Details == nil || status.Details.Name == "") {
		return nil, code, &notServedError{} // nothing was looked for by that name
	}
	return nil, code, err
}

// checkNames refuses names that would lead a request somewhere else: to another
// object, to a subresource, or through the API server to a pod. All else that is wrong
// with a name the API server says better.
func checkNames(id object.ID) error {
	if id.Name == "" || len(namecontent.IsPathSegmentName(id.Name))+len(namecontent.IsPathSegmentName(id.Namespace)) > 0 {
		return &nameError{}
	}
	return nil
}

// path is the path of an object. Its names are checked: see checkNames.
func (k kind) path(id object.ID) []string {
	return append(k.collection(id.Namespace), id.Name)
}

// collection is the path of a kind, in a namespace if it has one.
func (k kind) collection(namespace string) []string {
	path := []string{"apis", k.Group, k.Version}
	if k.Group == "" {
		path = []string{"api", k.Version}
	}
	if k.namespaced && namespace != "" {
		path = append(path, "namespaces", namespace)
	}
	return append(path, k.resource)
}
