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

// TestLargest: an overlay of as many objects as an inventory takes fits the memory, and
// so do large ones one after another.
func TestLargest(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	var resources []string
	for i := range 200 {
		var b strings.Builder
		for j := range 10 {
			fmt.Fprintf(&b, "---\napiVersion: cluster.x-k8s.io/v1beta2\nkind: MachineDeployment\nmetadata: {name: md-%d-%d}\nspec:\n  clusterName: c\n", i, j)
			b.WriteString("  selector: {matchLabels: {a: b}}\n  template:\n    spec:\n      clusterName: c\n      version: v1.34.1\n")
			b.WriteString("      bootstrap: {configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: TalosConfigTemplate, name: worker}}\n")
			b.WriteString("      infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: worker}\n")
		}
		name := fmt.Sprintf("f%d.yaml", i)
		files["o/"+name] = b.String()
		resources = append(resources, name)
	}
	files["o/kustomization.yaml"] = "namePrefix: p-\nnamespace: fleet\nresources: [" + strings.Join(resources, ", ") + "]\n"
	p := start(t, Options{})
	for range 2 {
		r, err := p.Render(t.Context(), render.Input{Tree: tree.FromMap(files), Path: "o"})
		if err != nil || len(r.Objects) != 2000 {
			t.Fatal(err, len(r.Objects))
		}
	}
	t.Log(status(t, p.child.process.Pid))
}
