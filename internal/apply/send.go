package apply

import (
	"context"
	"errors"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// check dry-runs an item and records what an apply would do.
func (r *run) check(ctx context.Context, it *item) {
	if !r.send(ctx, it, true) || !r.checkLeft(ctx, it) {
		return
	}
	answer := it.outcome.After
	it.version = answer.GetResourceVersion()                        // a dry-run answers with the present one
	if why, skip := capi.Unmanaged(answer.GetAnnotations()); skip { // Git does not say so: the live object does
		it.skip(why + " on the live object")
		return
	}
	if answer.GetDeletionTimestamp() != nil {
		it.refuse(beingDeleted(it.id))
		return
	}
	if it.takeover {
		after, err := r.preview(ctx, it, answer)
		if err != nil {
			it.fail(r.explain(it, "apply", err))
			return
		}
		it.outcome.After = after
	}
	if it.live != nil && sameContent(it.live, answer) {
		it.decided = true
		it.outcome.Action = ActionUnchanged
	}
}

// checkLeft reads an object that was dry-run without, if it may leave fields to
// others: not every field that somebody has taken is in conflict, one that was
// removed is not. If there are any it dry-runs again. False if the item is done
// with.
func (r *run) checkLeft(ctx context.Context, it *item) bool {
	if it.live != nil || it.outcome.Action == ActionCreated || !r.mayLeave(it, it.outcome.After) {
		return true
	}
	live, err := r.readLive(ctx, it)
	r.judge(it, live, err)
	switch {
	case it.decided:
		return false
	case len(it.left) == 0 && live != nil:
		return true
	}
	return r.send(ctx, it, true)
}

// write applies an item for good.
func (r *run) write(ctx context.Context, it *item) {
	if it.takeover && !r.rewriteFields(ctx, it, false) {
		return
	}
	if !r.send(ctx, it, false) || !r.dropRemains(ctx, it) {
		return
	}
	it.decided = true
	if capi.IsDefinition(it.id.GroupKind()) {
		r.kinds.forget()
	}
	if it.outcome.After.GetResourceVersion() == it.version && !it.appeared {
		it.outcome.Action = ActionUnchanged
	}
}

// send sends the apply of an item and, if what is in the way can be removed,
// again; each way of recovery is tried once. It records the answer or the error
// and returns whether there is an answer.
func (r *run) send(ctx context.Context, it *item, dryRun bool) bool {
	verb := "apply"
	recovered := map[string]bool{}
	foreseen := r.foresee(it)
	if len(foreseen) > 0 {
		recovered["force"] = true
		r.tellForce(it, foreseen, dryRun)
	}
	for {
		desired := it.sent()
		desired.SetUID(it.uid)
		if (recovered["force"] || it.pinned) && !dryRun || len(foreseen) > 0 {
			// What is overridden, or left out, is what was looked at.
			desired.SetResourceVersion(it.version)
		}
		answer, created, err := r.patchApply(ctx, it.kind, desired, dryRun, recovered["force"])
		if err == nil {
			it.outcome.After = answer
			it.outcome.Ref.UID = answer.GetUID()
			it.outcome.Action = ActionConfigured
			if created {
				it.outcome.Action = ActionCreated
				if dryRun {
					it.outcome.Ref.UID = "" // made up for the dry-run
				}
			}
			if created || !it.absent || recovered["read"] {
				return true
			}
			// Somebody has made it since it was looked for: whose is it?
			recovered["read"], it.appeared = true, !dryRun
			if !r.recover(ctx, it, "read", dryRun) {
				return false
			}
			if it.live != nil && (dryRun || it.version == it.live.GetResourceVersion()) {
				return true
			}
			continue
		}
		how := r.recovery(it, err, recovered)
		if how == "" || recovered[how] {
			it.fail(r.failure(ctx, it, verb, err))
			return false
		}
		recovered[how] = true
		if how == "force" {
			r.tellForce(it, managersOf(conflicts(statusOf(err))), dryRun)
		}
		if how == "read" || how == "fields" { // then what was decided is about an older version
			delete(recovered, "force")
			foreseen = nil
		}
		if how == "read" {
			delete(recovered, "leave")
		}
		if !r.recover(ctx, it, how, dryRun) {
			return false
		}
	}
}

// tellForce logs who is about to lose fields.
func (r *run) tellForce(it *item, managers []string, dryRun bool) {
	if !dryRun {
		r.log.Info("taking fields back", "object", it.id.String(), "managers", managers)
	}
}

// recovery names what may help against an error, "" if nothing does.
func (r *run) recovery(it *item, err error, tried map[string]bool) string {
	status := statusOf(err)
	if status == nil {
		return ""
	}
	switch with := conflicts(status); {
	case len(with) > 0:
		switch {
		case it.live == nil:
			return "read" // it may be another's by now, or say what is left to others
		case !tried["leave"] && r.leaveConflicts(it, with):
			return "leave"
		case r.allYield(with):
			return "force"
		}
		return ""
	case it.uid != "" && (status.Code == http.StatusConflict || hasField(status, "metadata.uid")):
		// Not the object that we know (registry/rest/update.go and
		// generic/registry/store.go of apiserver v0.36).
		return "read"
	case status.Code == http.StatusNotFound && isNamespaceOf(status, it):
		return "namespace"
	case isStaleVersion(status):
		return "fields"
	}
	return ""
}

// recover does what recovery named; false if the item is done with.
func (r *run) recover(ctx context.Context, it *item, how string, dryRun bool) bool {
	switch how {
	case "read":
		live, err := r.readLive(ctx, it)
		r.judge(it, live, err)
		if it.decided || !it.takeover || dryRun { // a dry-run works without the fields
			return !it.decided
		}
		return r.rewriteFields(ctx, it, false)
	case "namespace":
		_, ours := r.namespaces[it.id.Namespace]
		switch {
		case !ours:
			it.fail(refuse(it.id, v1alpha1.InvalidReason, "namespace %s does not exist, and nothing in this overlay makes it", it.id.Namespace))
		case !dryRun:
			it.fail(missing(it.id, waitsForNamespace))
		default:
			it.wait(waitsForNamespace, namespaceNote)
		}
		return false
	case "fields":
		if dryRun {
			it.wait(waitsForFields, "can be checked when its managed fields are moved to "+it.desired.GetAPIVersion())
			return false
		}
		return r.rewriteFields(ctx, it, true)
	}
	return true
}

// rewriteFields makes fields of former owners ours and, if migrate is set, moves
// all managed fields to the manifest's API version. Values don't change. A crash
// after it leaves fields that are ours and say what they said; the next apply
// goes on from there.
func (r *run) rewriteFields(ctx context.Context, it *item, migrate bool) bool {
	live, err := r.readLive(ctx, it) // anew: the patch fits this version only
	var ops []any
	if err == nil && live != nil && it.takeover {
		ops, err = takeover(live, r.manager)
	}
	if err == nil && len(ops) > 0 {
		live, err = r.patchJSON(ctx, it.kind, it.id, ops, false)
	}
	if err == nil && live != nil && migrate {
		ops, err = migration(live, it.desired.GetAPIVersion())
		if err == nil && len(ops) > 0 {
			live, err = r.patchJSON(ctx, it.kind, it.id, ops, false)
		}
	}
	if err != nil {
		it.fail(r.explain(it, "take over the fields of", err))
		return false
	}
	if live != nil {
		it.version = live.GetResourceVersion()
	}
	it.takeover, it.waits = false, waitsForNothing
	return true
}

// failure turns the error of an apply into the item's.
func (r *run) failure(ctx context.Context, it *item, verb string, err error) *Error {
	if with := conflicts(statusOf(err)); len(with) > 0 {
		e := r.conflictError(it.id, with, err)
		e.Message = object.Scrub(object.Scrub(e.Message, it.desired), it.live)
		return e
	}
	if errors.As(err, new(*notServedError)) {
		r.kinds.drop(it.kind.GroupVersionKind)
	}
	return r.explain(it, verb, err)
}

// explain is classify for an item.
func (r *run) explain(it *item, verb string, err error) *Error {
	return r.classify(it.id, verb, err, it.desired, it.live, it.outcome.After)
}

func hasField(status *metav1.Status, field string) bool {
	if status.Details == nil {
		return false
	}
	for _, c := range status.Details.Causes {
		if c.Field == field {
			return true
		}
	}
	return false
}

// isNamespaceOf tells whether an answer is about the item's namespace and not
// about the item.
func isNamespaceOf(status *metav1.Status, it *item) bool {
	return status.Details != nil && status.Details.Kind == "namespaces" && status.Details.Name == it.id.Namespace
}

// isStaleVersion recognises that managed fields at another API version are in the
// way: the version is not served any more (kubernetes/kubernetes#111937), or its
// schema lacks a field that a newer one has filled in by default.
func isStaleVersion(status *metav1.Status) bool {
	return strings.Contains(status.Message, "to an invalid group/version") ||
		// "new object" is the manifest, not what is stored.
		strings.Contains(status.Message, "failed to convert") && !strings.Contains(status.Message, "failed to convert new object") ||
		strings.Contains(status.Message, "field not declared in schema") && !isTypedPatchError(status)
}
