package render

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"capstan.dev/capstan/internal/tree"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestSampleFleet: the overlays of clusters/ render, and what they refer to is there.
func TestSampleFleet(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("../../clusters"); err != nil {
		t.Skip("no sample fleet")
	}
	tr := tree.FromDir("../..")
	overlays, skipped, err := Discover(DiscoverInput{Tree: tr})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"clusters/dev", "clusters/prod", "clusters/shared", "clusters/staging"} {
		if !slices.Contains(overlays, Overlay{Path: want}) {
			t.Errorf("%s is not an overlay: %v, skipped %v", want, overlays, skipped)
		}
	}
	shared := map[string]bool{} // cluster-scoped objects may be another overlay's
	results := map[string]*Result{}
	for _, o := range overlays {
		r, err := Render(t.Context(), Input{Tree: tr, Path: o.Path})
		if err != nil {
			t.Fatal(err)
		}
		results[o.Path] = r
		for _, u := range r.Objects {
			if clusterScoped[u.GroupVersionKind().GroupKind()] {
				shared[u.GetKind()+" "+u.GetName()] = true
			}
		}
	}
	for _, o := range overlays {
		r := results[o.Path]
		names := maps.Clone(shared)
		cluster := ""
		for _, u := range r.Objects {
			names[u.GetKind()+" "+u.GetName()] = true
			if u.GroupVersionKind().GroupKind() == clusterKind {
				cluster = u.GetName()
			}
		}
		if want := o.Path != "clusters/shared"; want != (cluster != "") {
			t.Errorf("%s renders the cluster %q", o.Path, cluster)
		}
		for _, u := range r.Objects {
			checkReferences(t, u, names, cluster)
		}
	}
}

// checkReferences checks each {kind, name} below spec, and each name of the cluster.
func checkReferences(t *testing.T, u *unstructured.Unstructured, names map[string]bool, cluster string) {
	t.Helper()
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch v := v.(type) {
		case map[string]any:
			kind, _ := v["kind"].(string)
			name, _ := v["name"].(string)
			isReference := strings.HasSuffix(path, "Ref") || strings.HasSuffix(path, "infrastructureTemplate") || strings.Contains(path, ".resources")
			if isReference && kind != "" && name != "" && !names[kind+" "+name] {
				t.Errorf("%s %s: %s refers to %s %s, which isn't there", u.GetKind(), u.GetName(), path, kind, name)
			}
			for k, child := range v {
				if s, ok := child.(string); ok && (k == "clusterName" || k == coreGroup+"/cluster-name") && s != cluster {
					t.Errorf("%s %s: %s.%s is %q, the cluster is %q", u.GetKind(), u.GetName(), path, k, s, cluster)
				}
				walk(child, path+"."+k)
			}
		case []any:
			for _, child := range v {
				walk(child, path)
			}
		}
	}
	if u.GroupVersionKind().Group == "rbac.authorization.k8s.io" {
		return
	}
	walk(u.Object, "")
}
