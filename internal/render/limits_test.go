package render

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"capstan.dev/capstan/internal/tree"
)

const oneConfigMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"

func TestLimits(t *testing.T) {
	t.Parallel()
	// Each level includes the next one twice, by way of two directories.
	diamond := map[string]string{"overlay/kustomization.yaml": "resources: [../d0]\n"}
	for i := range 20 {
		diamond[fmt.Sprintf("d%d/kustomization.yaml", i)] = fmt.Sprintf("resources: [../l%d, ../r%d]\n", i, i)
		for _, side := range "lr" {
			diamond[fmt.Sprintf("%c%d/kustomization.yaml", side, i)] = fmt.Sprintf("resources: [../d%d]\n", i+1)
		}
	}
	diamond["d20/kustomization.yaml"] = "namePrefix: x\n"
	plain := map[string]string{
		"overlay/kustomization.yaml": "resources: [a.yaml, b.yaml]\n",
		"overlay/a.yaml":             fmt.Sprintf(oneConfigMap, "a"),
		"overlay/b.yaml":             fmt.Sprintf(oneConfigMap, "b"),
	}
	for _, test := range []struct {
		name   string
		files  map[string]string
		limits Limits
		want   string
	}{
		{"diamond", diamond, Limits{MaxFiles: 300}, "opens more than 300 files"},
		{"files", plain, Limits{MaxFiles: 2}, "overlay/b.yaml: the overlay opens more than 2 files"},
		{"bytes", plain, Limits{MaxBytes: 90}, "overlay/b.yaml: the overlay reads more than 90 bytes"},
		{"objects", plain, Limits{MaxObjects: 1}, "overlay/b.yaml: the overlay has more than 1 objects"},
		{"depth", plain, Limits{MaxDepth: 1}, "overlay/a.yaml: this YAML is nested deeper than 1 levels"},
		{"nodes", plain, Limits{MaxNodes: 3}, "overlay/a.yaml: this YAML expands to more than 3 nodes"},
		{"generated", map[string]string{"overlay/kustomization.yaml": "configMapGenerator: [{name: a}, {name: b}]\n"}, Limits{MaxObjects: 1}, "renders 2 objects, more than 1"},
		{"time", plain, Limits{Timeout: time.Nanosecond}, "takes longer than 1ns to render"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, err := Render(t.Context(), Input{Tree: tree.FromMap(test.files), Path: "overlay", Limits: test.limits})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if r == nil || r.Objects != nil {
				t.Errorf("result %v", r)
			}
		})
	}
}

// gateTree blocks in ReadFile until it is let go.
type gateTree struct {
	tree.Tree
	entered, letGo chan struct{}
}

func (g gateTree) ReadFile(p string) ([]byte, error) {
	g.entered <- struct{}{}
	<-g.letGo
	return g.Tree.ReadFile(p)
}

// TestCancel: a render returns when its context ends, though the build is stuck, and
// the build ends at its next file access.
func TestCancel(t *testing.T) {
	t.Parallel()
	g := gateTree{
		tree.FromMap(map[string]string{"overlay/kustomization.yaml": "resources: [a.yaml]\n", "overlay/a.yaml": fmt.Sprintf(oneConfigMap, "a")}),
		make(chan struct{}, 100), make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := Render(ctx, Input{Tree: g, Path: "overlay"})
		result <- err
	}()
	<-g.entered
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(g.letGo)
	if n := len(g.entered); n != 0 {
		t.Errorf("%d more reads after the context ended", n)
	}
}
