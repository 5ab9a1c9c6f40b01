package render

import (
	"bytes"
	"fmt"
	"testing"

	"capstan.dev/capstan/internal/tree"
	"golang.org/x/sync/errgroup"
)

// isolationFiles has an ordinary overlay, whose strategic merge patch on a
// Deployment depends on kustomize's schema, and hostile ones that try to change
// that schema or fail in other ways.
func isolationFiles() (files map[string]string, hostile []string) {
	files = map[string]string{
		"good/kustomization.yaml": "namePrefix: p-\nresources: [a.yaml]\npatches: [{path: p.yaml}]\n",
		"good/a.yaml":             "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {containers: [{name: a, image: x}, {name: b, image: y}]}}}\n",
		"good/p.yaml":             "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {containers: [{name: b, image: z}]}}}\n",
	}
	schema := `{"definitions": {"io.k8s.api.apps.v1.Deployment": {"x-kubernetes-group-version-kind": [{"group": "apps", "kind": "Deployment", "version": "v1"}]}}}`
	for i, k := range []string{
		"openapi: {path: schema.json}\nresources: [../good]\n",
		"openapi: {version: v1.21.2}\nresources: [../good]\n",
		"resources: [../good]\ncomponents: [../component]\n",
		"resources: [../good, https://example.com/x]\n",
		"resources: [../good]\ntransformers: [panic.yaml]\n",
		"resources: &a [*a]\n",
	} {
		dir := fmt.Sprintf("hostile%d", i)
		hostile = append(hostile, dir)
		files[dir+"/kustomization.yaml"] = k
		files[dir+"/schema.json"] = schema
		files[dir+"/panic.yaml"] = "apiVersion: builtin\nkind: PatchJson6902Transformer\nmetadata: {name: x}\njsonOp: '[]'\n"
	}
	files["component/kustomization.yaml"] = "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\nopenapi: {path: schema.json}\n"
	files["component/schema.json"] = schema
	return files, hostile
}

// TestIsolation: no render can change another one, before it, after it or beside it.
func TestIsolation(t *testing.T) {
	t.Parallel()
	files, hostile := isolationFiles()
	tr := tree.FromMap(files)
	good := func() ([]byte, error) {
		r, err := Render(t.Context(), Input{Tree: tr, Path: "good"})
		if err != nil {
			return nil, err
		}
		return []byte(toYAML(t, r.Objects) + r.Closure.Digest()), nil
	}
	want, err := good()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(want, []byte("image: x")) || !bytes.Contains(want, []byte("image: z")) {
		t.Fatalf("containers aren't merged by name:\n%s", want)
	}
	same := func() error {
		got, err := good()
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("the render changed:\n%s", got)
		}
		return err
	}
	for _, h := range hostile {
		if _, err := Render(t.Context(), Input{Tree: tr, Path: h}); err == nil {
			t.Errorf("%s renders", h)
		}
		if err := same(); err != nil {
			t.Errorf("after %s: %v", h, err)
		}
	}
	var g errgroup.Group
	for i := range 64 {
		g.Go(func() error {
			if i%2 == 0 {
				_, err := Render(t.Context(), Input{Tree: tr, Path: hostile[i/2%len(hostile)]})
				if err == nil {
					return fmt.Errorf("a hostile overlay renders")
				}
				return nil
			}
			return same()
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// TestDeterminism: the same input gives the same bytes, also when many render a fleet.
func TestDeterminism(t *testing.T) {
	t.Parallel()
	tr := tree.FromMap(fleetFiles(4))
	var g errgroup.Group
	outputs := make([]string, 32)
	for i := range outputs {
		g.Go(func() error {
			r, err := Render(t.Context(), Input{Tree: tr, Path: fmt.Sprintf("clusters/c%04d", i%4)})
			if err != nil {
				return err
			}
			outputs[i] = toYAML(t, r.Objects) + r.Closure.Digest()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, o := range outputs {
		if o != outputs[i%4] {
			t.Errorf("run %d differs", i)
		}
	}
	if outputs[0] == outputs[1] {
		t.Error("different overlays render alike")
	}
}
