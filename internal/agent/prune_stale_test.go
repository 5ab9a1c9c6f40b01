package agent

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/inventory"
)

// deleting is an Applier that notes what it is asked to delete.
type deleting struct {
	Applier
	deleted []v1alpha1.ObjectReference
}

func (d *deleting) Delete(_ context.Context, ref v1alpha1.ObjectReference, _ apply.Owner) (apply.DeleteOutcome, error) {
	d.deleted = append(d.deleted, ref)
	return apply.DeleteGone, nil
}

// An approval that was read too late deletes nothing: it may have been withdrawn since.
func TestDeleteOfStaleApproval(t *testing.T) {
	o := &v1alpha1.ClusterOverlay{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "o", UID: "1"}}
	o.Status.PendingDeletion = &v1alpha1.PendingDeletion{Approved: true}
	c := fakeClient(t, o)
	var stale v1alpha1.ClusterOverlay
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), &stale); err != nil {
		t.Fatal(err)
	}
	plan := inventory.PrunePlan{Delete: []v1alpha1.ObjectReference{{Kind: "ConfigMap", Namespace: "ns", Name: "c"}}}
	remove := func() (int, error) {
		d := &deleting{}
		run := (&overlayReconciler{client: c, live: c}).newRun(stale.DeepCopy())
		run.applier = d
		_, err := run.delete(t.Context(), plan)
		return len(d.deleted), err
	}
	if n, err := remove(); n != 1 || err != nil {
		t.Errorf("as it is on record: %d deleted, %v", n, err)
	}
	withdrawn := stale.DeepCopy()
	withdrawn.Status.PendingDeletion = nil
	if err := c.Status().Update(t.Context(), withdrawn); err != nil {
		t.Fatal(err)
	}
	if n, err := remove(); n != 0 || !apierrors.IsConflict(err) {
		t.Errorf("withdrawn: %d deleted, %v", n, err)
	}
}
