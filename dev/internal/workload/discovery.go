package workload

import (
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// serveDiscovery answers what is not about objects.
func (a *api) serveDiscovery(w http.ResponseWriter, segments []string, accept string) {
	switch path := strings.Join(segments, "/"); {
	case path == "":
		writeJSON(w, http.StatusOK, metav1.RootPaths{Paths: a.paths()})
	case path == "healthz" || path == "livez" || path == "readyz":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok"))
	case path == "version":
		writeJSON(w, http.StatusOK, versionInfo(a.cluster.gitVersion()))
	case path == "api":
		writeJSON(w, http.StatusOK, metav1.APIVersions{
			TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"},
		})
	case path == "apis":
		writeJSON(w, http.StatusOK, metav1.APIGroupList{
			TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: a.groups(),
		})
	case segments[0] == "api" && len(segments) == 2:
		a.serveResources(w, schema.GroupVersion{Version: segments[1]})
	case segments[0] == "apis" && len(segments) == 2:
		for _, group := range a.groups() {
			if group.Name == segments[1] {
				group.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
				writeJSON(w, http.StatusOK, group)
				return
			}
		}
		writeError(w, noSuchPath())
	case segments[0] == "apis" && len(segments) == 3:
		a.serveResources(w, schema.GroupVersion{Group: segments[1], Version: segments[2]})
	case path == "openapi/v2":
		serveOpenAPIV2(w, accept)
	case path == "openapi/v3":
		a.serveOpenAPIRoot(w)
	case strings.HasPrefix(path, "openapi/v3/"):
		a.serveOpenAPI(w, strings.TrimPrefix(path, "openapi/v3/"))
	default:
		writeError(w, noSuchPath())
	}
}

func versionInfo(gitVersion string) version.Info {
	info := version.Info{GitVersion: gitVersion, Platform: "linux/amd64", Compiler: "gc"}
	if parts := strings.SplitN(strings.TrimPrefix(gitVersion, "v"), ".", 3); len(parts) == 3 {
		info.Major, info.Minor = parts[0], parts[1]
	}
	return info
}

func (a *api) paths() []string {
	paths := []string{"/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"}
	for _, group := range a.groups() {
		paths = append(paths, "/apis/"+group.Name)
		for _, v := range group.Versions {
			paths = append(paths, "/apis/"+v.GroupVersion)
		}
	}
	slices.Sort(paths)
	return paths
}

// groups are all API groups but the core one, by name.
func (a *api) groups() []metav1.APIGroup {
	var groups []metav1.APIGroup
	for _, r := range a.store.resources() {
		if r.Group == "" {
			continue
		}
		if len(groups) == 0 || groups[len(groups)-1].Name != r.Group {
			groups = append(groups, metav1.APIGroup{Name: r.Group})
		}
		group := &groups[len(groups)-1]
		for _, v := range r.versions {
			entry := metav1.GroupVersionForDiscovery{GroupVersion: r.Group + "/" + v, Version: v}
			if !slices.Contains(group.Versions, entry) {
				group.Versions = append(group.Versions, entry)
			}
		}
	}
	for i := range groups {
		slices.SortFunc(groups[i].Versions, func(a, b metav1.GroupVersionForDiscovery) int {
			return version.CompareKubeAwareVersionStrings(b.Version, a.Version)
		})
		groups[i].PreferredVersion = groups[i].Versions[0]
	}
	return groups
}

func (a *api) serveResources(w http.ResponseWriter, gv schema.GroupVersion) {
	list := metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.String(),
	}
	for _, r := range a.store.resources() {
		if r.Group != gv.Group || !serves(r, gv.Version) {
			continue
		}
		list.APIResources = append(list.APIResources, r.info())
		if r.GroupResource == pods {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: "pods/eviction", Namespaced: true, Group: "policy", Version: "v1", Kind: "Eviction",
				Verbs: metav1.Verbs{"create"},
			}, metav1.APIResource{
				Name: "pods/portforward", Namespaced: true, Kind: "PodPortForwardOptions",
				Verbs: metav1.Verbs{"create", "get"},
			})
		}
		if r.hasStatus {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: r.Resource + "/status", Namespaced: r.namespaced, Kind: r.kind, Verbs: metav1.Verbs{"get", "patch", "update"},
			})
		}
	}
	if len(list.APIResources) == 0 {
		writeError(w, noSuchPath())
		return
	}
	writeJSON(w, http.StatusOK, list)
}

// serveOpenAPIV2 answers with a document without a single schema. kubectl asks for it when it finds a kind
// that is not served, before it says so.
func serveOpenAPIV2(w http.ResponseWriter, accept string) {
	if strings.Contains(accept, "protobuf") {
		w.Header().Set("Content-Type", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
		return // no bytes are a message without fields
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"swagger": "2.0", "info": map[string]string{"title": "Kubernetes"}, "paths": map[string]any{},
	})
}

// serveOpenAPIRoot lists the documents that serveOpenAPI has.
func (a *api) serveOpenAPIRoot(w http.ResponseWriter) {
	paths := map[string]any{}
	for _, r := range a.store.resources() {
		for _, v := range r.versions {
			path := openAPIPath(schema.GroupVersion{Group: r.Group, Version: v})
			paths[path] = map[string]string{"serverRelativeURL": "/openapi/v3/" + path}
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"paths": paths})
}

func openAPIPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

// serveOpenAPI answers with a document that says one thing only: that fields are validated
// here, so that kubectl does not ask for the schemas to do it itself.
func (a *api) serveOpenAPI(w http.ResponseWriter, path string) {
	operations := map[string]any{}
	for _, r := range a.store.resources() {
		for _, v := range r.versions {
			gvk := r.gvk(v)
			if openAPIPath(gvk.GroupVersion()) != path {
				continue
			}
			parameters := []any{}
			for _, name := range []string{"dryRun", "fieldManager", "fieldValidation", "force"} {
				parameters = append(parameters, map[string]any{
					"name": name, "in": "query", "schema": map[string]any{"type": "string"},
				})
			}
			operations["/"+path+"/"+r.Resource+"/{name}"] = map[string]any{"patch": map[string]any{
				"parameters":                      parameters,
				"responses":                       map[string]any{},
				"x-kubernetes-action":             "patch",
				"x-kubernetes-group-version-kind": map[string]string{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind},
			}}
		}
	}
	if len(operations) == 0 {
		writeError(w, noSuchPath())
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"openapi": "3.0.0", "info": map[string]string{"title": "Kubernetes", "version": a.cluster.gitVersion()}, "paths": operations,
		"components": map[string]any{"schemas": map[string]any{}}, // kubectl explain would stumble over none
	})
}
