package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// apply creates the demo's namespace and an object in it.
func (d *demo) apply(ctx context.Context, kubeconfig string, content map[string]any) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	ns := &unstructured.Unstructured{}
	ns.SetAPIVersion("v1")
	ns.SetKind("Namespace")
	ns.SetName(namespace)
	if err := c.Create(ctx, ns); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create the namespace: %w", err)
	}
	if err := c.Create(ctx, &unstructured.Unstructured{Object: content}); err != nil {
		return fmt.Errorf("create the Fleet: %w", err)
	}
	return nil
}

// overlay is an overlay as `capstan status -o json` prints it.
type overlay struct {
	Path  string `json:"path"`
	State string `json:"state"`
}

// overlays asks the command line for the overlays.
func (d *demo) overlays(ctx context.Context, kubeconfig string) ([]overlay, error) {
	out, err := exec.CommandContext(ctx, d.binary, "status", "-o", "json", "--kubeconfig", kubeconfig).Output()
	if err != nil {
		return nil, fmt.Errorf("capstan status: %w", err)
	}
	var status struct {
		Overlays []overlay `json:"overlays"`
	}
	return status.Overlays, json.Unmarshal(out, &status)
}
