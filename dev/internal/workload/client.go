package workload

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// newClient is a real client whose requests go straight to the handler: what it gets is what
// everybody else gets, and there is nothing to keep alike.
func newClient(api *api) client.Client {
	c, err := client.New(&rest.Config{Host: "http://in-memory", QPS: -1}, client.Options{
		HTTPClient: &http.Client{Transport: inProcess{api}},
		Scheme:     api.kinds.scheme,
		Mapper:     mapper{api.store},
	})
	if err != nil {
		panic(fmt.Sprintf("making a client from constants: %v", err))
	}
	return c
}

// inProcess lets a handler answer requests.
type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if req.Body == nil {
		req = req.Clone(req.Context())
		req.Body = http.NoBody
	}
	defer func() { _ = req.Body.Close() }()
	answer := &recorder{header: http.Header{}}
	t.handler.ServeHTTP(answer, req)
	return &http.Response{
		Status: http.StatusText(answer.status), StatusCode: answer.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer.header, Body: io.NopCloser(&answer.body), ContentLength: int64(answer.body.Len()), Request: req,
	}, nil
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(data []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(data)
}

// mapper is the RESTMapper of a store: custom kinds are known as soon as they are defined.
type mapper struct{ store *store }

func (m mapper) now() meta.RESTMapper {
	resources := m.store.resources()
	var groupVersions []schema.GroupVersion
	for _, r := range resources {
		for _, version := range r.versions {
			groupVersions = append(groupVersions, schema.GroupVersion{Group: r.Group, Version: version})
		}
	}
	rest := meta.NewDefaultRESTMapper(groupVersions)
	for _, r := range resources {
		scope := meta.RESTScopeRoot
		if r.namespaced {
			scope = meta.RESTScopeNamespace
		}
		for _, version := range r.versions {
			gv := schema.GroupVersion{Group: r.Group, Version: version}
			rest.AddSpecific(gv.WithKind(r.kind), gv.WithResource(r.Resource), gv.WithResource(r.singular), scope)
		}
	}
	return rest
}

func (m mapper) KindFor(resource schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return m.now().KindFor(resource)
}

func (m mapper) KindsFor(resource schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return m.now().KindsFor(resource)
}

func (m mapper) ResourceFor(input schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return m.now().ResourceFor(input)
}

func (m mapper) ResourcesFor(input schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return m.now().ResourcesFor(input)
}

func (m mapper) RESTMapping(gk schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	return m.now().RESTMapping(gk, versions...)
}

func (m mapper) RESTMappings(gk schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return m.now().RESTMappings(gk, versions...)
}

func (m mapper) ResourceSingularizer(resource string) (string, error) {
	return m.now().ResourceSingularizer(resource)
}
