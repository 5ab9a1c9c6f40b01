package live

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// View is what is known of an overlay's live objects. It is the caller's.
type View struct {
	// Live has the live objects of what the overlay declares, as far as it makes progress.
	Live map[object.ID]*unstructured.Unstructured
	// Made are what controllers made for its Clusters.
	Made []*unstructured.Unstructured
	// Complete says that everything has been listed. Before, what is missing may exist.
	Complete bool
	// Failing says why some of it can't be watched, for longer than Options.Patience; ""
	// if it can.
	Failing string
}

// Look returns what is known of an overlay.
func (o *Objects) Look(overlay types.NamespacedName) View {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.overlays[overlay]
	v := View{Live: make(map[object.ID]*unstructured.Unstructured, len(d.ids)), Complete: true}
	used := map[source]bool{}
	for id, s := range d.ids {
		if !s.progresses() {
			continue
		}
		used[s] = true
		if k, _, _ := o.watches[s].get(keyOf(id)); k != nil {
			v.Live[id] = k.object()
		}
	}
	if len(d.clusters) > 0 {
		for s, w := range o.watches {
			if s.made {
				for _, c := range d.clusters {
					for _, k := range w.made(c) {
						v.Made = append(v.Made, k.object())
					}
				}
			}
		}
		// Of the kinds that Machines are made of those matter that its own are: one of another
		// overlay that can't be watched doesn't hide this one.
		for _, kind := range capi.MachineKinds() {
			used[made(kind)] = true
		}
		for _, u := range v.Made {
			if capi.IsMachine(u.GroupVersionKind().GroupKind()) {
				for _, kind := range capi.MadeOf(u) {
					used[made(kind)] = true
				}
			}
		}
	}
	var failing []string
	for s := range used {
		w := o.watches[s]
		if w == nil { // of a Machine that is seen just now
			v.Complete = false
			continue
		}
		v.Complete = v.Complete && w.synced()
		if why := w.failing(o.Clock.Now(), o.Patience); why != "" {
			failing = append(failing, why)
		}
	}
	if len(failing) > 0 {
		v.Failing = slices.Min(failing) // the same one each time
	}
	return v
}

// machinesTimeout bounds one reading of Machines.
const machinesTimeout = 15 * time.Second

// Machines reads the Machines of an overlay's Clusters anew. A watch may lag behind; what
// this returns is not older than the call.
func (o *Objects) Machines(ctx context.Context, overlay types.NamespacedName) ([]*unstructured.Unstructured, error) {
	ctx, cancel := context.WithTimeout(ctx, machinesTimeout)
	defer cancel()
	o.mu.Lock()
	clusters := slices.Clone(o.overlays[overlay].clusters)
	o.mu.Unlock()
	var machines []*unstructured.Unstructured
	for _, kind := range capi.MachineKinds() {
		if len(clusters) == 0 || !capi.IsMachine(kind) {
			continue
		}
		resource, err := o.resource(kind.WithVersion(""))
		if err != nil {
			return nil, err
		}
		for _, c := range clusters {
			list, err := o.client.Resource(resource).Namespace(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: capi.ClusterLabel + "=" + c.Name})
			if err != nil {
				return nil, fmt.Errorf("list the Machines of Cluster %s: %w", c, err)
			}
			for i := range list.Items {
				u := &list.Items[i]
				capi.Trim(u)
				machines = append(machines, u)
			}
		}
	}
	return machines, nil
}
