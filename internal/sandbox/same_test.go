package sandbox

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// TestSampleFleet: the overlays of clusters/ are the same from the sandbox.
func TestSampleFleet(t *testing.T) {
	t.Parallel()
	p := start(t, Options{})
	tr := tree.FromDir("../..")
	in := render.DiscoverInput{Tree: tr, Exclude: []string{"clusters/shared"}}
	wantOverlays, wantSkipped, err := render.Discover(in)
	if err != nil {
		t.Fatal(err)
	}
	overlays, skipped, err := p.Discover(t.Context(), in)
	if err != nil || !cmp.Equal(overlays, wantOverlays) || !cmp.Equal(skipped, wantSkipped) {
		t.Errorf("overlays %v, skipped %v, %v; want %v, %v", overlays, skipped, err, wantOverlays, wantSkipped)
	}
	if len(overlays) < 3 {
		t.Errorf("only %v", overlays)
	}
	for _, o := range append(overlays, render.Overlay{Path: "clusters/shared"}) {
		same(t, p, render.Input{Tree: tr, Path: o.Path})
	}
}

// same renders on both ways and compares.
func same(t *testing.T, p *Process, in render.Input) {
	t.Helper()
	want, wantErr := render.Render(t.Context(), in)
	got, err := p.Render(t.Context(), in)
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Errorf("%s: got %v, want %v", in.Path, err, wantErr)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(render.Closure{})); diff != "" {
		t.Errorf("%s (-render +sandbox):\n%s", in.Path, diff)
	}
}

// TestLargest: what a render may read at most fits the memory, again and again.
func TestLargest(t *testing.T) {
	t.Parallel()
	files := map[string]string{"o/kustomization.yaml": "namespace: fleet\nresources:\n"}
	for i := range 250 {
		var b strings.Builder
		fmt.Fprintf(&b, oneConfigMap+"data:\n", fmt.Sprintf("c%d", i))
		for j := range 1100 {
			fmt.Fprintf(&b, "  key-%d: some text of fifty bytes or so for a value.\n", j)
		}
		files[fmt.Sprintf("o/f%d.yaml", i)] = b.String()
		files["o/kustomization.yaml"] += fmt.Sprintf("- f%d.yaml\n", i)
	}
	p := start(t, Options{})
	pid := p.child.process.Pid
	for range 2 {
		r, err := p.Render(t.Context(), render.Input{Tree: tree.FromMap(files), Path: "o"})
		if err != nil || len(r.Objects) != 250 {
			t.Fatal(err, len(r.Objects))
		}
	}
	if p.child.process.Pid != pid {
		t.Error("it took more than one child")
	}
}

// TestSame: what render can do, the sandbox can.
func TestSame(t *testing.T) {
	t.Parallel()
	files := plainFiles()
	files["clusters/a/a.yaml"] += "data: {a: '${A} and ${B:=b}', c: \"\\u0000<&>\\u2028\", d: '${MISSING}'}\n"
	files["clusters/b/kustomization.yaml"] = "resources: [b.yaml, missing.yaml]\n"
	files["clusters/c/kustomization.yaml"] = "resources: [c.yaml]\nlabels: [{pairs: {a: b}}]\n"
	files["clusters/c/c.yaml"] = "apiVersion: v1\nkind: Any\nmetadata: {name: c}\nspec: {f: 1.0, g: 1e3, i: 1, list: [], map: {}, none: null, big: 18446744073709551615, v: '${A}', w: ${A}}\n"
	files["clusters/\xff/kustomization.yaml"] = "configMapGenerator: [{name: a}]\n"
	files["clusters/link"] = tree.LinkPrefix + "a"
	tr := tree.FromMap(files)
	p := start(t, Options{})
	for _, path := range []string{"clusters/a", "clusters/b", "clusters/c", "clusters/\xff", "clusters/link", "clusters/none", "clusters", "..", ""} {
		for _, s := range []*render.Substitution{nil, {}, {Values: map[string]string{"A": "12"}}, {Values: map[string]string{"A": "a\xff", "MISSING": ""}}} {
			if strings.Contains(path, "a") && s != nil && s.Values["A"] == "a\xff" {
				continue // JSON has no such text, nor would the API server take it
			}
			same(t, p, render.Input{Tree: tr, Path: path, Substitute: s})
		}
		same(t, p, render.Input{Tree: tr, Path: path, Limits: render.Limits{MaxObjects: 1, MaxBytes: 100}})
	}
	for _, in := range []render.DiscoverInput{{}, {Paths: []string{"**"}}, {Paths: []string{"*"}, Exclude: []string{"clusters"}}, {Paths: []string{"["}}, {Paths: []string{"../x"}}} {
		in.Tree = tr
		wantOverlays, wantSkipped, wantErr := render.Discover(in)
		overlays, skipped, err := p.Discover(t.Context(), in)
		if !cmp.Equal(overlays, wantOverlays) || !cmp.Equal(skipped, wantSkipped) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("%q: %q, %q, %v; want %q, %q, %v", in.Paths, overlays, skipped, err, wantOverlays, wantSkipped, wantErr)
		}
	}
}
