package apply

import (
	"context"
	"errors"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// halted says why nothing of a cluster may be written now; nil if nothing stands
// against it. It reads the Cluster.
func (r *run) halted(ctx context.Context) *Error {
	if r.req.Cluster == nil {
		return nil
	}
	id := *r.req.Cluster
	found, err := r.kinds.find(r.clusterKind(id))
	if errors.As(err, new(*noKindError)) {
		return nil // no Cluster API, no Cluster; the objects' errors say the rest
	}
	if err != nil {
		return r.classify(id, "discover", err)
	}
	live, err := r.get(ctx, found, id, "")
	if err != nil && !IsNotFound(err) {
		return r.classify(id, "read", err)
	}
	r.cluster, r.clusterRead = live, true
	if live == nil {
		if r.req.ClusterMade && !slices.ContainsFunc(r.req.Objects, func(u *unstructured.Unstructured) bool { return object.IDOf(u) == id }) {
			err := refuse(id, v1alpha1.ClusterDeletingReason,
				"the cluster is gone, though Git wants it; nothing of it is made again before it is back: approve its correction, or ask for a reconciliation")
			err.Transient = true
			return err
		}
		return nil
	}
	if live.GetDeletionTimestamp() != nil {
		err := refuse(id, v1alpha1.ClusterDeletingReason, "the cluster is being deleted; nothing is written before it is gone")
		err.Transient = true
		return err
	}
	if capi.Paused(live) && !r.req.GitPaused && !r.pausedByUs(live) {
		err := refuse(id, v1alpha1.ClusterPausedReason,
			"the cluster is paused, but not by Git (clusterctl move, or a person); nothing is written before that ends")
		err.Transient = true
		return err
	}
	return nil
}

// clusterKind is the kind of the Cluster at the version of its manifest.
func (r *run) clusterKind(id object.ID) schema.GroupVersionKind {
	for _, objects := range [][]*unstructured.Unstructured{r.req.Objects, r.req.All} {
		for _, u := range objects {
			if object.IDOf(u) == id {
				return u.GroupVersionKind()
			}
		}
	}
	return id.GroupKind().WithVersion("")
}

// pausedByUs tells whether spec.paused is what an earlier commit said: Git is then
// free to take it back.
func (r *run) pausedByUs(cluster *unstructured.Unstructured) bool {
	return slices.ContainsFunc(cluster.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == r.manager && e.Operation == metav1.ManagedFieldsOperationApply && ownsPath(e, "f:spec", "f:paused")
	})
}
