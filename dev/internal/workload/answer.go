package workload

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// form is what a client wants to see of objects.
type form int

const (
	whole    form = iota
	metadata      // PartialObjectMetadata
	table         // Table
)

// accepted is the first form in the Accept header that there is. Answers are JSON always:
// every client that prefers protobuf takes JSON too.
func accepted(req *http.Request) form {
	for _, part := range strings.Split(req.Header.Get("Accept"), ",") {
		mediaType, params, err := mime.ParseMediaType(part)
		if err != nil || mediaType != runtime.ContentTypeJSON && mediaType != "*/*" && mediaType != "application/*" {
			continue
		}
		switch {
		case params["as"] == "":
			return whole
		case params["g"] != metav1.GroupName || params["v"] != "v1":
		case params["as"] == "Table":
			return table
		case strings.HasPrefix(params["as"], "PartialObjectMetadata"):
			return metadata
		}
	}
	return whole
}

func (a *api) answer(w http.ResponseWriter, q request, status int, object *unstructured.Unstructured) error {
	object = as(object, q.gvk())
	var value any = object.Object
	switch accepted(q.Request) {
	case metadata:
		value = partial(object)
	case table:
		value = tableOf(q, []*unstructured.Unstructured{object}, object.GetResourceVersion())
	}
	writeJSON(w, status, value)
	return nil
}

func (a *api) answerList(w http.ResponseWriter, q request, objects []*unstructured.Unstructured, version uint64) error {
	resourceVersion := strconv.FormatUint(version, 10)
	items := make([]any, 0, len(objects))
	apiVersion, kind := q.gvk().GroupVersion().String(), q.resource.listKind
	switch accepted(q.Request) {
	case table:
		writeJSON(w, http.StatusOK, tableOf(q, objects, resourceVersion))
		return nil
	case metadata:
		apiVersion, kind = metav1.SchemeGroupVersion.String(), "PartialObjectMetadataList"
		for _, object := range objects {
			items = append(items, partial(object))
		}
	default:
		for _, object := range objects {
			items = append(items, listItem(q, object))
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"apiVersion": apiVersion, "kind": kind,
		"metadata": map[string]any{"resourceVersion": resourceVersion},
		"items":    items,
	})
	return nil
}

// listItem: the items of built-in lists do not repeat their kind.
func listItem(q request, object *unstructured.Unstructured) map[string]any {
	if !q.resource.builtin {
		return as(object, q.gvk()).Object
	}
	content := make(map[string]any, len(object.Object))
	for name, value := range object.Object {
		if name != "apiVersion" && name != "kind" {
			content[name] = value
		}
	}
	return content
}

func partial(object *unstructured.Unstructured) map[string]any {
	return map[string]any{
		"apiVersion": metav1.SchemeGroupVersion.String(), "kind": "PartialObjectMetadata", "metadata": object.Object["metadata"],
	}
}
