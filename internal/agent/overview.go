package agent

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// Overview is what a status page shows. Its Reader is the cache of a manager that
// [Setup] has seen.
type Overview struct {
	Reader client.Reader
	// Namespace, if set, is the only one that the Reader knows.
	Namespace string
}

// Fleet returns a Fleet and its overlays, nil if there is no such Fleet. The overlays
// are those of the cache itself: nothing of them may be changed.
func (o Overview) Fleet(ctx context.Context, name types.NamespacedName) (*v1alpha1.Fleet, []v1alpha1.ClusterOverlay, error) {
	if o.Namespace != "" && name.Namespace != o.Namespace {
		return nil, nil, nil
	}
	var fleet v1alpha1.Fleet
	if err := o.Reader.Get(ctx, name, &fleet); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil, nil
		}
		return nil, nil, fmt.Errorf("read Fleet %s: %w", name, err)
	}
	var overlays v1alpha1.ClusterOverlayList
	err := o.Reader.List(ctx, &overlays, client.InNamespace(name.Namespace), client.MatchingFields{fleetIndex: name.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, nil, fmt.Errorf("list the overlays of Fleet %s: %w", name, err)
	}
	return &fleet, overlays.Items, nil
}

// State sums an overlay up in a word.
func (o Overview) State(overlay *v1alpha1.ClusterOverlay) string { return string(StateOf(overlay)) }
