package apply

import (
	"context"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	namecontent "k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// DeleteOutcome is what a Delete found or did.
type DeleteOutcome string

// What a Delete found or did. Only DeleteDeleted has written anything.
const (
	// DeleteDeleted: the API server accepted the deletion. Finalizers may keep the
	// object for a while.
	DeleteDeleted DeleteOutcome = "Deleted"
	// DeleteGone: there is no such object.
	DeleteGone DeleteOutcome = "Gone"
	// DeleteTerminating: its deletion was accepted before. It is not asked for
	// twice.
	DeleteTerminating DeleteOutcome = "Terminating"
	// DeleteNotOurs: the live object does not say that it belongs to the owner.
	DeleteNotOurs DeleteOutcome = "NotOurs"
	// DeleteUIDChanged: somebody has deleted the object and made another of that
	// name.
	DeleteUIDChanged DeleteOutcome = "UIDChanged"
	// DeleteKept: an annotation on the live object asks to keep it.
	DeleteKept DeleteOutcome = "Kept"
	// DeleteBlocked: clusterctl is moving it, or a topology generates it.
	DeleteBlocked DeleteOutcome = "Blocked"
)

// Get reads a live object, at the version of the reference or, if that is not
// served any more, at the preferred one. IsNotFound tells absence from failure.
func (a *Applier) Get(ctx context.Context, ref v1alpha1.ObjectReference) (*unstructured.Unstructured, error) {
	u, _, err := a.read(ctx, ref, "")
	if err != nil {
		return nil, a.classify(idOf(ref), "read", err)
	}
	return u, nil
}

// Delete deletes a live object, if it still is the one of the reference and the
// owner's. What depends on it is left to the garbage collector. Every outcome
// but an error is final: asked again, Delete does not delete twice.
func (a *Applier) Delete(ctx context.Context, ref v1alpha1.ObjectReference, owner Owner) (DeleteOutcome, error) {
	live, k, err := a.read(ctx, ref, asMetadata)
	if IsNotFound(err) {
		return DeleteGone, nil
	}
	if err != nil {
		return "", a.classify(idOf(ref), "read", err)
	}
	if outcome := a.mayDelete(live, ref, owner); outcome != "" {
		return outcome, nil
	}
	err = a.remove(ctx, k, idOf(ref), live.GetUID())
	switch {
	case err == nil:
		return DeleteDeleted, nil
	case IsNotFound(err):
		return DeleteGone, nil
	case apierrors.IsConflict(err):
		// Deleted and made anew since the read. The next look tells what it is.
		return DeleteUIDChanged, nil
	default:
		return "", a.classify(idOf(ref), "delete", err)
	}
}

// mayDelete decides whether a live object may be deleted; "" is yes.
func (a *Applier) mayDelete(live *unstructured.Unstructured, ref v1alpha1.ObjectReference, owner Owner) DeleteOutcome {
	_, keep := capi.OptOut(live.GetAnnotations(), live.GetLabels())
	_, alone := capi.Unmanaged(live.GetAnnotations())
	_, blocked := capi.Blocked(live)
	switch {
	case ref.UID != "" && ref.UID != live.GetUID():
		return DeleteUIDChanged
	case !owner.owns(live):
		return DeleteNotOurs
	case ref.UID == "" && !ownsFields(live, a.manager):
		// It was never on record as applied; labels alone can be a copy's.
		return DeleteNotOurs
	case live.GetDeletionTimestamp() != nil:
		return DeleteTerminating
	case keep, alone:
		return DeleteKept
	case blocked:
		return DeleteBlocked
	}
	return ""
}

// read reads the object of a reference. If its kind is not served at all there is
// no object: that counts as not found, once discovery was asked again.
func (a *Applier) read(ctx context.Context, ref v1alpha1.ObjectReference, accept string) (*unstructured.Unstructured, kind, error) {
	gvk := kindOf(ref)
	k, err := a.kinds.find(gvk)
	if errors.As(err, new(*noKindError)) {
		gvk.Version = ""
		k, err = a.kinds.findFresh(gvk)
	}
	if errors.As(err, new(*noKindError)) {
		return nil, kind{}, errors.Join(err, apierrors.NewNotFound(gvk.GroupVersion().WithResource(gvk.Kind).GroupResource(), ref.Name))
	}
	if err != nil {
		return nil, kind{}, err
	}
	if k.namespaced && ref.Namespace == "" || !validName(ref.Name) || !validName(ref.Namespace) {
		// Refused when it was applied, so there is no such object. The API server
		// would answer with a 404 that says nothing about objects.
		return nil, kind{}, apierrors.NewNotFound(gvk.GroupVersion().WithResource(k.resource).GroupResource(), ref.Name)
	}
	u, err := a.get(ctx, k, idOf(ref), accept)
	if errors.As(err, new(*notServedError)) {
		a.kinds.drop(k.GroupVersionKind)
	}
	return u, k, err
}

// validName tells whether a name can be part of a path, the least that any kind
// asks of its names.
func validName(name string) bool {
	printable := !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f })
	return printable && len(namecontent.IsPathSegmentName(name)) == 0
}
