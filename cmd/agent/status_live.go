package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
)

// liveView is what can be read of an overlay's objects, by whoever asks.
type liveView struct {
	input capi.ProgressInput
	// unread says why declared objects couldn't be read; they are not in input.
	unread map[object.ID]string
	// problems say what else couldn't be read, each once and sorted.
	problems []string
}

// readLive reads the objects that an overlay declares, as far as they make progress, and
// what controllers made for its Clusters. What can't be read is said, and never taken for
// absent. Nothing of secrets is kept.
func readLive(ctx context.Context, c client.Client, overlay *v1alpha1.ClusterOverlay, now time.Time) (liveView, error) {
	r := liveReader{client: c, view: liveView{
		input:  capi.ProgressInput{Live: map[object.ID]*unstructured.Unstructured{}, Now: now},
		unread: map[object.ID]string{},
	}}
	held := inventory.Held(overlay.Status.PendingDeletion)
	for _, entry := range overlay.Status.Inventory {
		id := inventory.IDOf(entry.ObjectReference)
		if !capi.MakesProgress(id.GroupKind()) || entry.State == v1alpha1.EntryRetained {
			continue
		}
		live, err := r.get(ctx, entry.ObjectReference)
		if err != nil {
			r.view.unread[id] = r.explain("get", id.GroupKind(), id.Namespace, err)
			continue
		}
		r.view.input.Declared = append(r.view.input.Declared, capi.Declared{
			ID: id, UID: entry.UID, Generation: entry.Generation, Leaving: entry.State == v1alpha1.EntryLeaving, Held: held[id],
		})
		if live != nil {
			r.view.input.Live[id] = live
		}
	}
	for _, d := range r.view.input.Declared {
		if capi.IsCluster(d.ID.GroupKind()) {
			r.made(ctx, d.ID)
		}
	}
	for id := range r.view.unread {
		if capi.IsCluster(id.GroupKind()) { // its machines may be readable
			r.made(ctx, id)
		}
	}
	for _, why := range r.view.unread {
		r.view.problems = append(r.view.problems, why)
	}
	slices.Sort(r.view.problems)
	r.view.problems = slices.Compact(r.view.problems)
	return r.view, ctx.Err()
}

type liveReader struct {
	client client.Client
	view   liveView
}

// get reads a declared object at the version of its manifest; nil if there is none.
func (r *liveReader) get(ctx context.Context, ref v1alpha1.ObjectReference) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: ref.Group, Version: ref.Version, Kind: ref.Kind})
	err := r.client.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, u)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	capi.Trim(u)
	return u, nil
}

// made lists what controllers made for a Cluster: Machines, MachineSets, and the
// infrastructure machines and bootstrap configurations that Machines name.
func (r *liveReader) made(ctx context.Context, cluster object.ID) {
	var parts []schema.GroupKind
	for _, kind := range capi.MachineKinds() {
		for _, u := range r.list(ctx, kind, cluster) {
			if capi.IsMachine(kind) {
				parts = append(parts, capi.MadeOf(u)...)
			}
		}
	}
	slices.SortFunc(parts, func(a, b schema.GroupKind) int { return strings.Compare(a.String(), b.String()) })
	for _, kind := range slices.Compact(parts) {
		r.list(ctx, kind, cluster)
	}
}

// list lists the objects of a kind that were made for a Cluster, at the version that the
// API server prefers: Machines name the group only.
func (r *liveReader) list(ctx context.Context, kind schema.GroupKind, cluster object.ID) []*unstructured.Unstructured {
	problem := func(err error) {
		r.view.problems = append(r.view.problems, r.explain("list", kind, cluster.Namespace, err))
	}
	mapping, err := r.client.RESTMapper().RESTMapping(kind)
	if err != nil {
		problem(err)
		return nil
	}
	var list unstructured.UnstructuredList
	list.SetGroupVersionKind(mapping.GroupVersionKind)
	err = r.client.List(ctx, &list, client.InNamespace(cluster.Namespace), client.MatchingLabels{capi.ClusterLabel: cluster.Name})
	if err != nil {
		problem(err)
		return nil
	}
	var all []*unstructured.Unstructured
	for i := range list.Items {
		u := &list.Items[i]
		capi.Trim(u)
		all = append(all, u)
	}
	r.view.input.Made = append(r.view.input.Made, all...)
	return all
}

// explain says in a few words why something can't be read.
func (r *liveReader) explain(verb string, kind schema.GroupKind, namespace string, err error) string {
	where := ""
	if namespace != "" {
		where = " in namespace " + namespace
	}
	noMatch := &meta.NoKindMatchError{}
	switch {
	case apierrors.IsForbidden(err):
		resource := kind.String()
		if mapping, err := r.client.RESTMapper().RESTMapping(kind); err == nil {
			resource = mapping.Resource.GroupResource().String()
		}
		return fmt.Sprintf("you may not %s %s%s", verb, resource, where)
	case errors.As(err, &noMatch):
		return fmt.Sprintf("the API server has no kind %s", kind)
	default:
		return fmt.Sprintf("can't %s %s%s: %v", verb, kind, where, err)
	}
}
