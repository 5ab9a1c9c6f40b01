package apply

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/ssa"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// ownsFields tells whether a manager has applied fields of an object.
func ownsFields(u *unstructured.Unstructured, manager string) bool {
	return slices.ContainsFunc(u.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == ""
	})
}

// takeovers lists the managers whose fields become ours when an object is
// adopted, so that what Git does not say is removed, then and later: deployment
// tools, and kubectl apply, which both write whole manifests.
//
// Not among them: fields set singly (kubectl edit, scale, label), which stay as
// foreign fields; "before-first-apply" and clusterctl move, which stand for what
// controllers have set as well; and any that holds finalizers or owner references,
// whose removal would let go of infrastructure.
func takeovers(live *unstructured.Unstructured) []ssa.FieldManager {
	var managers []ssa.FieldManager
	for _, e := range live.GetManagedFields() {
		whole := e.Manager == "kubectl-client-side-apply" ||
			e.Manager == "kubectl" && e.Operation == metav1.ManagedFieldsOperationApply ||
			e.Manager != "clusterctl" && capi.ClassifyManager(e.Manager) == capi.ManagerFormerOwner
		if whole && e.Subresource == "" && !holdsLifecycle(e) {
			managers = append(managers, ssa.FieldManager{Name: e.Manager, ExactMatch: true, OperationType: e.Operation})
		}
	}
	return managers
}

// holdsLifecycle tells whether a manager owns finalizers or owner references.
func holdsLifecycle(e metav1.ManagedFieldsEntry) bool {
	return ownsPath(e, "f:metadata", "f:finalizers") || ownsPath(e, "f:metadata", "f:ownerReferences")
}

// ownsPath tells whether a manager owns a field, given as FieldsV1 spells its
// parts, or something below it. Fields that can't be read count as owned.
func ownsPath(e metav1.ManagedFieldsEntry, path ...string) bool {
	if e.FieldsV1 == nil {
		return false
	}
	raw := json.RawMessage(e.FieldsV1.GetRawBytes())
	for _, part := range path {
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil {
			return true
		}
		if raw = fields[part]; raw == nil {
			return false
		}
	}
	return true
}

// takeover returns the patch that makes the fields of former owners ours, nil if
// there are none.
func takeover(live *unstructured.Unstructured, manager string) ([]any, error) {
	patch, err := ssa.PatchReplaceFieldsManagers(live, takeovers(live), manager)
	if err != nil {
		return nil, fmt.Errorf("take over managed fields: %w", err)
	}
	return guarded(live, patch), nil
}

// migration returns the patch that moves managed fields to another API version,
// nil if they are there.
func migration(live *unstructured.Unstructured, apiVersion string) ([]any, error) {
	patch, err := ssa.PatchMigrateToVersion(live, apiVersion)
	if err != nil {
		return nil, fmt.Errorf("migrate managed fields: %w", err)
	}
	return guarded(live, patch), nil
}

// guarded makes a patch of managed fields apply only to the version of the object
// that it was made from: it replaces the whole list.
func guarded(live *unstructured.Unstructured, patch []ssa.JSONPatch) []any {
	if len(patch) == 0 {
		return nil
	}
	all := []any{map[string]any{"op": "replace", "path": "/metadata/resourceVersion", "value": live.GetResourceVersion()}}
	for _, p := range patch {
		all = append(all, p)
	}
	return all
}

// conflictWith is a conflict over one field.
type conflictWith struct{ manager, field string }

// managersOf lists the managers in conflict, each once.
func managersOf(all []conflictWith) []string {
	var names []string
	for _, c := range all {
		names = append(names, c.manager)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// conflicts returns the conflicts with other field managers that an answer
// names (apimachinery v0.36 pkg/util/managedfields/internal/conflict.go: the
// message starts with `conflict with "<manager>"`).
func conflicts(status *metav1.Status) []conflictWith {
	if status == nil || status.Details == nil {
		return nil
	}
	var all []conflictWith
	for _, c := range status.Details.Causes {
		if c.Type != metav1.CauseTypeFieldManagerConflict {
			continue
		}
		_, rest, _ := strings.Cut(c.Message, `"`)
		manager, _, _ := strings.Cut(rest, `"`)
		all = append(all, conflictWith{manager: manager, field: c.Field})
	}
	return all
}

// yields tells whether a manager gives way to Git: people's tools and former
// owners do, and who this request names. No write takes anything from a
// controller.
func (r *run) yields(manager string) bool {
	switch capi.ClassifyManager(manager) {
	case capi.ManagerPerson, capi.ManagerFormerOwner:
		return true
	case capi.ManagerController:
		if !r.dry {
			return false
		}
	}
	return r.req.Override != nil && r.req.Override(manager)
}

// allYield tells whether every manager in conflict gives way.
func (r *run) allYield(all []conflictWith) bool {
	return !slices.ContainsFunc(all, func(c conflictWith) bool { return !r.yields(c.manager) })
}

// conflictError names the managers that don't give way, with their fields.
func (r *run) conflictError(id object.ID, all []conflictWith, cause error) *Error {
	var parts []string
	for _, c := range all {
		if !r.yields(c.manager) {
			parts = append(parts, fmt.Sprintf("%s belongs to %q (%s)", c.field, c.manager, capi.ClassifyManager(c.manager)))
		}
	}
	slices.Sort(parts)
	err := refuse(id, v1alpha1.ConflictReason,
		"%s; leave it out of Git, or make that manager give it up", strings.Join(slices.Compact(parts), ", "))
	err.cause = cause
	return err
}

// sameContent tells whether two states of an object are the same but for the
// bookkeeping of the API server. Whose fields they are counts as content.
func sameContent(a, b *unstructured.Unstructured) bool {
	return apiequality.Semantic.DeepEqual(content(a), content(b))
}

func content(u *unstructured.Unstructured) map[string]any {
	u = u.DeepCopy()
	u.SetResourceVersion("")
	u.SetGeneration(0)
	fields := u.GetManagedFields()
	for i := range fields {
		fields[i].Time = nil
	}
	u.SetManagedFields(fields)
	return u.Object
}
