package bench

import (
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// watcher follows all MachineDeployments, to know when a change is live.
type watcher struct {
	mu     sync.Mutex
	all    map[string]bool
	values map[string]map[string]int64 // by field and object
}

var machineDeployments = schema.GroupVersionResource{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "machinedeployments"}

func watchMachineDeployments(t *testing.T) *watcher {
	t.Helper()
	c, err := dynamic.NewForConfig(env.Config("watcher"))
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{all: map[string]bool{}}
	w.reset()
	factory := dynamicinformer.NewDynamicSharedInformerFactory(c, 0)
	informer := factory.ForResource(machineDeployments).Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    w.note,
		UpdateFunc: func(_, o any) { w.note(o) },
	}); err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	return w
}

func (w *watcher) note(o any) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return
	}
	replicas, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	drain, _, _ := unstructured.NestedInt64(u.Object, "spec", "template", "spec", "deletion", "nodeDrainTimeoutSeconds")
	key := u.GetNamespace() + "/" + u.GetName()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[key] = true
	w.values["replicas"][key] = replicas
	w.values["nodeDrainTimeoutSeconds"][key] = drain
}

// reset forgets the values seen, so that only changes from now on count.
func (w *watcher) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.values = map[string]map[string]int64{"replicas": {}, "nodeDrainTimeoutSeconds": {}}
}

// having counts the objects seen with a value since the last reset.
func (w *watcher) having(field string, value int64) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, v := range w.values[field] {
		if v == value {
			n++
		}
	}
	return n
}

func (w *watcher) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
}
