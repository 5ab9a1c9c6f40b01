package apply

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// commonKinds are the kinds outside of Cluster API that Owned has to look at.
var commonKinds = []schema.GroupVersionKind{
	{Version: "v1", Kind: "Namespace"}, {Version: "v1", Kind: "Secret"}, {Version: "v1", Kind: "ConfigMap"},
}

// Owned lists the live objects that carry an owner's labels and fields applied by
// us: an inventory rebuilt. It looks at all kinds that can be applied. If a kind
// may not be listed in all namespaces it is listed in the given ones; without the
// right to that either it is left out, unless it is one of the given kinds, a kind
// of Cluster API or its providers, Namespace, Secret or ConfigMap. The list is
// sorted; an error means that it could not be completed.
func (a *Applier) Owned(ctx context.Context, owner Owner, also []schema.GroupVersionKind, namespaces ...string) ([]v1alpha1.ObjectReference, error) {
	owned, err := a.labelled(ctx, owner.labels(), also, namespaces)
	if err != nil {
		return nil, err
	}
	refs := make([]v1alpha1.ObjectReference, 0, len(owned))
	for _, u := range owned {
		refs = append(refs, refTo(u))
	}
	return refs, nil
}

// OwnedByFleet does the same as Owned for all overlays of a Fleet in one pass. The
// key is the name of the ClusterOverlay; objects that name none are left out.
func (a *Applier) OwnedByFleet(ctx context.Context, namespace, name string) (map[string][]v1alpha1.ObjectReference, error) {
	owned, err := a.labelled(ctx, map[string]string{v1alpha1.FleetLabel: FleetLabelValue(namespace, name)}, nil, nil)
	if err != nil {
		return nil, err
	}
	refs := map[string][]v1alpha1.ObjectReference{}
	for _, u := range owned {
		if overlay := u.GetLabels()[v1alpha1.OverlayLabel]; overlay != "" {
			refs[overlay] = append(refs[overlay], refTo(u))
		}
	}
	return refs, nil
}

// labelled lists the live objects that carry labels and fields applied by us.
func (a *Applier) labelled(ctx context.Context, match map[string]string, also []schema.GroupVersionKind, namespaces []string) ([]*unstructured.Unstructured, error) {
	served, err := a.kinds.all(mayBeOurs)
	if err != nil {
		return nil, a.classify(object.ID{Kind: "APIGroup", Name: "cluster.x-k8s.io"}, "discover", err)
	}
	needed := map[schema.GroupKind]bool{}
	for _, gvk := range append(slices.Clone(commonKinds), also...) {
		needed[gvk.GroupKind()] = true
		k, err := a.kinds.find(gvk)
		if errors.As(err, new(*noKindError)) {
			k, err = a.kinds.find(gvk.GroupKind().WithVersion(""))
		}
		if errors.As(err, new(*noKindError)) {
			continue // no kind, no objects
		}
		if err != nil {
			return nil, a.classify(object.ID{Group: gvk.Group, Kind: gvk.Kind}, "discover", err)
		}
		i := slices.IndexFunc(served, func(s kind) bool { return s.GroupKind() == k.GroupKind() })
		if i >= 0 {
			served[i] = k // at the version that was asked for
			continue
		}
		served = append(served, k)
	}
	served = slices.DeleteFunc(served, func(k kind) bool { return !k.scanned })

	found := make([][]*unstructured.Unstructured, len(served))
	selector := labels.SelectorFromSet(match).String()
	errs := make([]error, len(served))
	var stop atomic.Bool
	var group errgroup.Group
	group.SetLimit(a.share())
	for i, k := range served {
		if stop.Load() {
			break
		}
		group.Go(func() error {
			some, err := a.listAllowed(ctx, k, namespaces, selector)
			if isForbidden(err) && !needed[k.GroupKind()] && !capi.IsFamily(k.GroupKind()) {
				a.log.V(1).Info("a kind is left out of the inventory: no right to list it", "kind", k.GroupKind().String())
				return nil
			}
			if err != nil {
				errs[i] = err
				stop.Store(true)
			}
			found[i] = some
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	// Kinds are started in order and those started end: of several errors it is
	// always the same that is told.
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	owned := slices.DeleteFunc(slices.Concat(found...), func(u *unstructured.Unstructured) bool {
		return !ownsFields(u, a.manager)
	})
	object.Sort(owned)
	return owned, nil
}

// mayBeOurs leaves out the kinds that no overlay contains and that there are many
// objects of.
func mayBeOurs(gk schema.GroupKind) bool {
	switch gk {
	case schema.GroupKind{Kind: "Event"}, schema.GroupKind{Group: "events.k8s.io", Kind: "Event"},
		schema.GroupKind{Group: "coordination.k8s.io", Kind: "Lease"},
		schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: "ClusterOverlay"}:
		return false
	}
	return true
}

// ClustersIn lists the Clusters in a namespace, by name.
func (a *Applier) ClustersIn(ctx context.Context, namespace string) ([]string, error) {
	gk := schema.GroupKind{Group: "cluster.x-k8s.io", Kind: "Cluster"}
	id := object.ID{Group: gk.Group, Kind: gk.Kind, Namespace: namespace, Name: "*"}
	k, err := a.kinds.find(gk.WithVersion(""))
	if errors.As(err, new(*noKindError)) {
		return nil, nil
	}
	if err != nil {
		return nil, a.classify(id, "discover", err)
	}
	live, err := a.list(ctx, k, namespace, "", asMetadataList)
	if err != nil {
		return nil, a.classify(id, "list", err)
	}
	names := make([]string, 0, len(live))
	for _, u := range live {
		names = append(names, u.GetName())
	}
	slices.Sort(names)
	return names, nil
}

// listAllowed lists a kind everywhere or, without the right to that, in some
// namespaces.
func (a *Applier) listAllowed(ctx context.Context, k kind, namespaces []string, selector string) ([]*unstructured.Unstructured, error) {
	id := object.ID{Group: k.Group, Kind: k.Kind, Name: "*"}
	all, err := a.list(ctx, k, "", selector, asMetadataList)
	if err == nil {
		return all, nil
	}
	if !isForbidden(err) || !k.namespaced || len(namespaces) == 0 {
		return nil, a.classify(id, "list", err)
	}
	all = nil
	for _, namespace := range namespaces {
		id.Namespace = namespace
		some, err := a.list(ctx, k, namespace, selector, asMetadataList)
		if err != nil {
			return nil, a.classify(id, "list", err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func isForbidden(err error) bool {
	status := statusOf(err)
	return status != nil && status.Code == http.StatusForbidden && status.Status == metav1.StatusFailure
}

// TemplateUsers lists the live objects that need a template, in readable form; see
// capi.TemplateUsers. None is said only if all kinds that might could be read.
func (a *Applier) TemplateUsers(ctx context.Context, template v1alpha1.ObjectReference) ([]string, error) {
	id := idOf(template)
	gk := id.GroupKind()
	if len(capi.TemplateUserKinds(gk, nil)) == 0 {
		return nil, nil
	}
	controlPlanes, err := a.kinds.all(capi.IsControlPlane)
	if err != nil {
		return nil, a.classify(id, "discover", err)
	}
	var controlPlaneKinds []schema.GroupKind
	for _, k := range controlPlanes {
		controlPlaneKinds = append(controlPlaneKinds, k.GroupKind())
	}
	// Templates are used within their namespace, classes from others too.
	namespace := id.Namespace
	if capi.IsClusterClass(gk) {
		namespace = ""
	}
	var live []*unstructured.Unstructured
	for _, user := range capi.TemplateUserKinds(gk, controlPlaneKinds) {
		k, err := a.kinds.find(user.WithVersion(""))
		if errors.As(err, new(*noKindError)) {
			continue
		}
		if err == nil {
			var some []*unstructured.Unstructured
			accept := ""
			if user == capi.CloneKind(gk) && !capi.IsControlPlane(user) {
				accept = asMetadataList // clones say it in their annotations
			}
			some, err = a.list(ctx, k, namespace, "", accept)
			live = append(live, some...)
		}
		if err != nil {
			return nil, a.classify(object.ID{Group: user.Group, Kind: user.Kind, Namespace: namespace, Name: "*"}, "list", err)
		}
	}
	return capi.TemplateUsers(id, live), nil
}
