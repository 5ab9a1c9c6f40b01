package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// bodyLimit is what a request may carry; etcd takes less.
const bodyLimit = 8 << 20

// api answers requests of whoever may ask.
type api struct {
	cluster *Cluster
	store   *store
	kinds   *catalogue
}

// request is what the URL of a request for objects says.
type request struct {
	*http.Request
	resource    *resource
	version     string
	key         types.NamespacedName // without name for a collection
	subresource string
}

func (q request) gvk() schema.GroupVersionKind { return q.resource.gvk(q.version) }

func (a *api) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	segments := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	switch {
	case segments[0] == "api" && len(segments) > 2:
		a.serveObjects(w, req, schema.GroupVersion{Version: segments[1]}, segments[2:])
	case segments[0] == "apis" && len(segments) > 3:
		a.serveObjects(w, req, schema.GroupVersion{Group: segments[1], Version: segments[2]}, segments[3:])
	default:
		a.serveDiscovery(w, segments, req.Header.Get("Accept"))
	}
}

// serveObjects: segments are [namespaces NAMESPACE] RESOURCE [NAME [SUBRESOURCE]].
func (a *api) serveObjects(w http.ResponseWriter, req *http.Request, gv schema.GroupVersion, segments []string) {
	q := request{Request: req, version: gv.Version}
	if segments[0] == "namespaces" && len(segments) > 2 && segments[2] != "status" {
		q.key.Namespace, segments = segments[1], segments[2:]
	}
	if gv.Group == "authorization.k8s.io" && segments[0] == "selfsubjectaccessreviews" && req.Method == http.MethodPost {
		a.review(w, req)
		return
	}
	q.resource = a.store.resource(schema.GroupResource{Group: gv.Group, Resource: segments[0]})
	if q.resource == nil || !serves(q.resource, gv.Version) || len(segments) > 3 ||
		q.key.Namespace != "" && !q.resource.namespaced {
		writeError(w, noSuchPath())
		return
	}
	if len(segments) > 1 {
		q.key.Name = segments[1]
	}
	if len(segments) > 2 {
		q.subresource = segments[2]
	}
	if q.key.Name != "" && q.resource.namespaced && q.key.Namespace == "" {
		writeError(w, noSuchPath())
		return
	}
	if err := a.handle(w, q); err != nil {
		writeError(w, err)
	}
}

func serves(r *resource, version string) bool {
	return slices.Contains(r.versions, version)
}

func noSuchPath() error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "",
		"the server could not find the requested resource", 0, true)
}

func (a *api) handle(w http.ResponseWriter, q request) error {
	switch {
	case q.subresource == "status" && q.resource.hasStatus:
		switch q.Method {
		case http.MethodGet:
			return a.get(w, q)
		case http.MethodPut:
			return a.update(w, q)
		case http.MethodPatch:
			return a.patch(w, q)
		}
	case q.resource.GroupResource == pods && q.subresource == "eviction" && q.Method == http.MethodPost:
		return a.evict(w, q)
	case q.resource.GroupResource == pods && q.subresource == "portforward":
		return a.portForward(w, q)
	case q.subresource != "":
		return noSuchPath()
	case q.key.Name == "":
		switch q.Method {
		case http.MethodGet:
			return a.listOrWatch(w, q)
		case http.MethodPost:
			return a.create(w, q)
		case http.MethodDelete:
			return a.deleteCollection(w, q)
		}
	default:
		switch q.Method {
		case http.MethodGet:
			if q.URL.Query().Get("watch") == "true" {
				return a.listOrWatch(w, q)
			}
			return a.get(w, q)
		case http.MethodPut:
			return a.update(w, q)
		case http.MethodPatch:
			return a.patch(w, q)
		case http.MethodDelete:
			return a.delete(w, q)
		}
	}
	return apierrors.NewMethodNotSupported(q.resource.GroupResource, strings.ToLower(q.Method))
}

func (a *api) get(w http.ResponseWriter, q request) error {
	object, err := a.store.get(q.resource, q.key)
	if err != nil {
		return err
	}
	return a.answer(w, q, http.StatusOK, object)
}

func (a *api) listOrWatch(w http.ResponseWriter, q request) error {
	query := q.URL.Query()
	sel := selection{resource: q.resource, namespace: q.key.Namespace}
	var err error
	if sel.labels, err = labels.Parse(query.Get("labelSelector")); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if sel.fields, err = fields.ParseSelector(query.Get("fieldSelector")); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if q.key.Name != "" {
		sel.fields = fields.AndSelectors(sel.fields, fields.OneTermEqualSelector("metadata.name", q.key.Name))
	}
	if watching := query.Get("watch"); watching == "true" || watching == "1" {
		return a.watch(w, q, sel)
	}
	objects, version := a.store.list(sel)
	return a.answerList(w, q, objects, version)
}

func (a *api) create(w http.ResponseWriter, q request) error {
	object, err := a.body(q)
	if err != nil {
		return err
	}
	created, err := a.store.create(q.resource, object, a.options(q))
	if err != nil {
		return err
	}
	return a.answer(w, q, http.StatusCreated, created)
}

func (a *api) update(w http.ResponseWriter, q request) error {
	object, err := a.body(q)
	if err != nil {
		return err
	}
	given := func(*unstructured.Unstructured) (*unstructured.Unstructured, error) { return object, nil }
	updated, err := a.store.update(q.resource, q.key, a.options(q), given)
	if err != nil {
		return err
	}
	return a.answer(w, q, http.StatusOK, updated)
}

func (a *api) patch(w http.ResponseWriter, q request) error {
	data, err := readBody(q.Request)
	if err != nil {
		return err
	}
	mediaType, _, err := mime.ParseMediaType(q.Header.Get("Content-Type"))
	if err != nil {
		return unsupportedPatch(types.PatchType(q.Header.Get("Content-Type")))
	}
	patched, created, err := a.store.patch(q.resource, q.version, q.key, types.PatchType(mediaType), data, a.options(q))
	if err != nil {
		return err
	}
	if created {
		return a.answer(w, q, http.StatusCreated, patched)
	}
	return a.answer(w, q, http.StatusOK, patched)
}

func (a *api) delete(w http.ResponseWriter, q request) error {
	opts, err := deleteOptions(q.Request)
	if err != nil {
		return err
	}
	object, gone, err := a.store.delete(q.resource, q.key, opts)
	if err != nil {
		return err
	}
	if !gone {
		return a.answer(w, q, http.StatusOK, object)
	}
	writeJSON(w, http.StatusOK, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: q.key.Name, Group: q.resource.Group, Kind: q.resource.Resource, UID: object.GetUID()},
	})
	return nil
}

func (a *api) deleteCollection(w http.ResponseWriter, q request) error {
	opts, err := deleteOptions(q.Request)
	if err != nil {
		return err
	}
	sel := selection{resource: q.resource, namespace: q.key.Namespace}
	if sel.labels, err = labels.Parse(q.URL.Query().Get("labelSelector")); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if sel.fields, err = fields.ParseSelector(q.URL.Query().Get("fieldSelector")); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	objects, version := a.store.list(sel)
	for _, object := range objects {
		key := types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
		if _, _, err := a.store.delete(q.resource, key, opts); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return a.answerList(w, q, objects, version)
}

// evict deletes the Pod; no PodDisruptionBudget is asked.
func (a *api) evict(w http.ResponseWriter, q request) error {
	object, err := a.decode(q)
	if err != nil {
		return err
	}
	opts := &metav1.DeleteOptions{}
	if given, found, _ := unstructured.NestedMap(object.Object, "deleteOptions"); found {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(given, opts); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	if len(opts.DryRun) == 0 {
		opts.DryRun = q.URL.Query()["dryRun"]
	}
	if _, _, err := a.store.delete(q.resource, q.key, opts); err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
	})
	return nil
}

// review answers whoever asks what they may do: everything.
func (a *api) review(w http.ResponseWriter, req *http.Request) {
	object, err := a.decode(request{Request: req})
	if err != nil {
		writeError(w, err)
		return
	}
	object.Object["status"] = map[string]any{"allowed": true, "reason": "everything is allowed here"}
	writeJSON(w, http.StatusCreated, object.Object)
}

func (a *api) options(q request) writeOptions {
	query := q.URL.Query()
	opts := writeOptions{
		dryRun:  query.Get("dryRun") == metav1.DryRunAll,
		strict:  query.Get("fieldValidation") == metav1.FieldValidationStrict,
		manager: query.Get("fieldManager"),
		force:   query.Get("force") == "true",
		status:  q.subresource == "status",
	}
	if opts.manager == "" && q.Header.Get("Content-Type") != string(types.ApplyYAMLPatchType) {
		opts.manager, _, _ = strings.Cut(q.UserAgent(), "/")
	}
	return opts
}

// body is the object in the request, made to fit the URL.
func (a *api) body(q request) (*unstructured.Unstructured, error) {
	object, err := a.decode(q)
	if err != nil {
		return nil, err
	}
	gvk := q.gvk()
	if got := object.GroupVersionKind(); got.Kind == "" {
		object.SetGroupVersionKind(gvk)
	} else if got != gvk {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the object is a %s, the URL is of %s", got, gvk))
	}
	switch {
	case !q.resource.namespaced:
		unstructured.RemoveNestedField(object.Object, "metadata", "namespace")
	case q.key.Namespace == "":
		return nil, apierrors.NewBadRequest("an empty namespace may not be set during creation")
	case object.GetNamespace() == "":
		object.SetNamespace(q.key.Namespace)
	case object.GetNamespace() != q.key.Namespace:
		return nil, apierrors.NewBadRequest(
			"the namespace of the provided object does not match the namespace sent on the request")
	}
	return object, nil
}

// decode reads an object in any of the formats that clients send.
func (a *api) decode(q request) (*unstructured.Unstructured, error) {
	data, err := readBody(q.Request)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(q.Header.Get("Content-Type"), runtime.ContentTypeProtobuf) {
		return parse(data)
	}
	typed, gvk, err := a.kinds.codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	object := &unstructured.Unstructured{Object: content}
	object.SetGroupVersionKind(*gvk)
	return object, nil
}

// parse reads JSON or YAML, with integers as integers.
func parse(data []byte) (*unstructured.Unstructured, error) {
	data, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the object is neither JSON nor YAML: %v", err))
	}
	var content map[string]any
	if err := utiljson.Unmarshal(data, &content); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized: %v", err))
	}
	if content == nil {
		return nil, apierrors.NewBadRequest("the request has no object")
	}
	if metadata, found := content["metadata"]; !found || metadata == nil {
		content["metadata"] = map[string]any{}
	} else if _, ok := metadata.(map[string]any); !ok {
		return nil, apierrors.NewBadRequest("the metadata of the object is not a map")
	}
	return &unstructured.Unstructured{Object: content}, nil
}

// deleteOptions come in the body, or in the query.
func deleteOptions(req *http.Request) (*metav1.DeleteOptions, error) {
	data, err := readBody(req)
	if err != nil {
		return nil, err
	}
	opts := &metav1.DeleteOptions{}
	switch {
	case len(data) == 0:
	case strings.HasPrefix(req.Header.Get("Content-Type"), runtime.ContentTypeProtobuf):
		envelope := runtime.Unknown{}
		if len(data) > 4 { // four bytes of magic go before
			err = envelope.Unmarshal(data[4:])
		}
		if err == nil {
			err = opts.Unmarshal(envelope.Raw)
		}
	default:
		err = yaml.Unmarshal(data, opts)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the options to delete cannot be read: %v", err))
	}
	if len(opts.DryRun) == 0 {
		opts.DryRun = req.URL.Query()["dryRun"]
	}
	return opts, nil
}

func readBody(req *http.Request) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(req.Body, bodyLimit+1))
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("reading the request: %v", err))
	}
	if len(data) > bodyLimit {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", bodyLimit))
	}
	return data, nil
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client has gone, or has it
}

// statusOf is an error as the API tells it.
func statusOf(err error) metav1.Status {
	var api apierrors.APIStatus
	if !errors.As(err, &api) {
		api = apierrors.NewInternalError(err)
	}
	status := api.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return status
}

func writeError(w http.ResponseWriter, err error) {
	status := statusOf(err)
	writeJSON(w, int(status.Code), status)
}
