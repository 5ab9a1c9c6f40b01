package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// findOverlay returns the overlay that a person names, by the name of its
// ClusterOverlay or by its directory.
func findOverlay(ctx context.Context, c client.Client, namespace, name string) (*v1alpha1.ClusterOverlay, error) {
	var all v1alpha1.ClusterOverlayList
	if err := c.List(ctx, &all, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list the overlays in namespace %s: %w", namespace, err)
	}
	var found []*v1alpha1.ClusterOverlay
	path := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	for i := range all.Items {
		if o := &all.Items[i]; o.Name == name || o.Spec.Path == path {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no overlay %q in namespace %s; `capstan status -n %s` lists them", name, namespace, namespace)
	case 1:
		return found[0], nil
	default:
		return nil, fmt.Errorf("%d Fleets have an overlay %q; name the ClusterOverlay: %s or %s", len(found), name, found[0].Name, found[1].Name)
	}
}

// findFleet returns the Fleet that a person names, or the only one there is. Nil
// means that none was named and there is none.
func findFleet(ctx context.Context, c client.Client, namespace, name string) (*v1alpha1.Fleet, error) {
	if name != "" {
		var fleet v1alpha1.Fleet
		err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &fleet)
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("no Fleet %s in namespace %s", name, namespace)
		}
		return &fleet, err
	}
	var all v1alpha1.FleetList
	if err := c.List(ctx, &all, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list the Fleets in namespace %s: %w", namespace, err)
	}
	switch len(all.Items) {
	case 0:
		return nil, nil
	case 1:
		return &all.Items[0], nil
	default:
		return nil, errors.New("there are several Fleets; name one with --fleet")
	}
}
