package bench

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

// floor measures, with no agent running, the least that a base change can cost:
// all renders, and one server-side apply for each overlay, 8 at a time.
func (b *bench) floor() {
	b.Helper()
	b.stopAgent()
	b.repo.Commit(map[string]string{"base/workers.yaml": baseWorkers(7777)}, "base, for the floor")
	mirror, err := source.Open(source.Options{URL: b.repo.URL(), Ref: source.Ref{Branch: "main"}, Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer mirror.Close()
	snapshot, err := mirror.Sync(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	overlays, _, err := render.Discover(render.DiscoverInput{Tree: snapshot.Tree, Paths: []string{"clusters/*"}})
	if err != nil {
		b.Fatal(err)
	}
	for range 2 {
		start := time.Now()
		rendered := renderAll(b, snapshot.Tree, overlays)
		renders := time.Since(start)
		start = time.Now()
		applyAll(b, rendered)
		applies := time.Since(start)
		b.Logf("%-28s %8.2f s: %d renders %.2f s (%.0f a second), %d applies %.2f s (%.0f a second)", "floor of a base change",
			(renders + applies).Seconds(), len(overlays), renders.Seconds(), float64(len(overlays))/renders.Seconds(),
			len(rendered), applies.Seconds(), float64(len(rendered))/applies.Seconds())
	}
}

// renderAll renders every overlay, on all cores, and keeps the MachineDeployments.
func renderAll(b *bench, t tree.Tree, overlays []render.Overlay) []*unstructured.Unstructured {
	var mu sync.Mutex
	var kept []*unstructured.Unstructured
	parallel(8, overlays, func(o render.Overlay) {
		result, err := render.Render(context.Background(), render.Input{Tree: t, Path: o.Path})
		if err != nil {
			b.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, u := range result.Objects {
			if u.GetKind() == "MachineDeployment" {
				kept = append(kept, u)
			}
		}
	})
	return kept
}

// applyAll applies objects with changed content, whoever owned their fields.
func applyAll(b *bench, objects []*unstructured.Unstructured) {
	c, err := dynamic.NewForConfig(env.Config("floor"))
	if err != nil {
		b.Fatal(err)
	}
	stamp := time.Now().Format(time.RFC3339Nano)
	parallel(8, objects, func(u *unstructured.Unstructured) {
		u.SetAnnotations(map[string]string{"floor": stamp})
		_, err := c.Resource(machineDeployments).Namespace(u.GetNamespace()).Apply(context.Background(), u.GetName(), u,
			metav1.ApplyOptions{FieldManager: "floor", Force: true})
		if err != nil {
			b.Error(err)
		}
	})
}

// parallel calls f for every item, some at a time.
func parallel[T any](workers int, items []T, f func(T)) {
	queue := make(chan T)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for item := range queue {
				f(item)
			}
		})
	}
	for _, item := range items {
		queue <- item
	}
	close(queue)
	wg.Wait()
}
