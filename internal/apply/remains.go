package apply

import (
	"context"

	"github.com/fluxcd/pkg/ssa"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// remains is the manager that the API server makes up, at an apply, for all fields of an
// object whose managed fields somebody has wiped (apimachinery v0.36
// pkg/util/managedfields/internal/skipnonapplied.go).
var remains = ssa.FieldManager{
	Name: "before-first-apply", ExactMatch: true, OperationType: metav1.ManagedFieldsOperationUpdate,
}

// dropRemains takes from an item that was written the entry of whom the API server has
// made up. Nobody is behind it, and it would hold on to fields that leave Git later. What
// controllers have set stays, and is nobody's until they write it again; what is left to
// others keeps the entry, for want of another holder. False if that failed: then the item
// has, and is sent again.
func (r *run) dropRemains(ctx context.Context, it *item) bool {
	if len(it.left) > 0 {
		return true
	}
	written := it.outcome.After
	for again := true; ; again = false {
		ops := guarded(written, ssa.PatchRemoveFieldsManagers(written, []ssa.FieldManager{remains}))
		if len(ops) == 0 {
			return true
		}
		after, err := r.patchJSON(ctx, it.kind, it.id, ops, false)
		if err == nil {
			it.outcome.After = after
			return true
		}
		if again && apierrors.IsConflict(err) {
			// A controller may write at once what was changed.
			if live, err := r.get(ctx, it.kind, it.id, ""); err == nil {
				written = live
				continue
			}
		}
		it.fail(r.explain(it, "take over the fields of", err))
		return false
	}
}
