package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"
)

// installDefinitions installs Capstan's kinds, as `kubectl apply -f charts/capstan/files/crds` does.
func (d *demo) installDefinitions() error {
	_, err := envtest.InstallCRDs(d.config, envtest.CRDInstallOptions{
		Paths: []string{filepath.Join(d.root, "charts", "capstan", "files", "crds")}, ErrorIfPathMissing: true, MaxTime: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("install Capstan's definitions: %w", err)
	}
	return nil
}

// createCredentials does what clusters/README.md asks of a person. The overlays render the Namespaces,
// too: Capstan adopts them.
func (d *demo) createCredentials(ctx context.Context) error {
	for _, cluster := range []string{"dev-talos", "staging-talos", "prod-talos"} {
		credentials := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "proxmox-credentials", Namespace: cluster},
			StringData: map[string]string{
				"url": "https://pve.example.internal:8006/", "token": "capi@pve!capi", "secret": "simulated", "insecure": "false",
			},
		}
		if err := d.create(ctx, newNamespace(cluster), credentials); err != nil {
			return err
		}
	}
	return nil
}

// createFleet creates the Fleet, as a person would.
func (d *demo) createFleet(ctx context.Context) error {
	spec, needs := d.host.spec()
	fleet := map[string]any{
		"apiVersion": "capstan.dev/v1alpha1", "kind": "Fleet",
		"metadata": map[string]any{"name": fleetName, "namespace": namespace},
		"spec":     spec,
	}
	content, err := yaml.Marshal(fleet)
	if err != nil {
		return err
	}
	if err := d.create(ctx, append([]client.Object{newNamespace(namespace)}, needs...)...); err != nil {
		return err
	}
	d.say("creating this Fleet:\n\n%s", content)
	return d.create(ctx, &unstructured.Unstructured{Object: fleet})
}

func newNamespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func (d *demo) create(ctx context.Context, objects ...client.Object) error {
	for _, o := range objects {
		if err := d.client.Create(ctx, o); err != nil {
			return fmt.Errorf("create %s/%s: %w", o.GetNamespace(), o.GetName(), err)
		}
	}
	return nil
}

// awaitFirstSync waits until the whole sample fleet is applied.
func (d *demo) awaitFirstSync(ctx context.Context) error {
	return d.await(ctx, "the sample fleet was not applied", func(ctx context.Context) (what any, done bool, err error) {
		overlays, err := d.overlays(ctx)
		waiting := slices.ContainsFunc(overlays, func(o overlay) bool { return o.Applied == "" || o.Applied != o.Desired })
		return overlays, err == nil && len(overlays) > 0 && !waiting, err
	})
}

// await looks until something is done; what is the state that an error tells of.
func (d *demo) await(ctx context.Context, failure string, look func(ctx context.Context) (what any, done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		what, done, err := look(ctx)
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(d.agentLog())
			return fmt.Errorf("%s in time (%w): %+v; the agent says:\n%s", failure, errors.Join(ctx.Err(), err), what, log)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// overlay is an overlay as `capstan status -o json` prints it.
type overlay struct {
	Path    string `json:"path"`
	State   string `json:"state"`
	Message string `json:"message"`
	Desired string `json:"desiredRevision"`
	Applied string `json:"appliedRevision"`
}

// overlays asks the command line for the overlays.
func (d *demo) overlays(ctx context.Context) ([]overlay, error) {
	out, err := exec.CommandContext(ctx, d.capstan, "status", "-o", "json", "--kubeconfig", d.kubeconfig).Output()
	if err != nil {
		return nil, fmt.Errorf("capstan status: %w", err)
	}
	var status struct {
		Overlays []overlay `json:"overlays"`
	}
	return status.Overlays, json.Unmarshal(out, &status)
}
