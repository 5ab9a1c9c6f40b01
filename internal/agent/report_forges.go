package agent

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
	"capstan.dev/capstan/internal/forge"
)

// forges keeps the client of each Fleet's forge.
type forges struct {
	open   func(forge.Options) (forge.Forge, error)
	base   forge.Options // Clock, Log, Observe
	values *valueCache

	mu   sync.Mutex
	held map[types.NamespacedName]*openForge
}

type openForge struct {
	forge forge.Forge
	// opened is what it was opened with, version that of the credentials.
	opened, version string
}

// get returns the client with present credentials.
func (f *forges) get(ctx context.Context, fleet *v1alpha1.Fleet) (forge.Forge, error) {
	spec := fleet.Spec.Forge
	options := f.base
	var err error
	if options.Kind, options.URL, options.Owner, options.Repository, err = whereabouts(fleet); err != nil {
		return nil, err
	}
	name := types.NamespacedName{Namespace: fleet.Namespace, Name: spec.SecretRef.Name}
	secret, err := f.values.get(ctx, corev1.SchemeGroupVersion.WithKind("Secret"), name)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("Secret %s, named by spec.forge.secretRef, does not exist", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s, named by spec.forge.secretRef: %w", name, err)
	}
	key := types.NamespacedName{Namespace: fleet.Namespace, Name: fleet.Name}
	opened := strings.Join([]string{string(options.Kind), options.URL, options.Owner, options.Repository, name.Name}, " ")
	f.mu.Lock()
	defer f.mu.Unlock()
	if held := f.held[key]; held != nil && held.opened == opened && held.version == secret.version {
		return held.forge, nil
	}
	if options.Credentials, err = forge.CredentialsFromSecret(secret.data, options.Kind); err != nil {
		return nil, fmt.Errorf("Secret %s, named by spec.forge.secretRef: %w", name, err)
	}
	host, err := f.open(options)
	if err != nil {
		return nil, err
	}
	f.held[key] = &openForge{forge: host, opened: opened, version: secret.version}
	return host, nil
}

// version is that of a Fleet's credentials, "" if it isn't known.
func (f *forges) version(ctx context.Context, fleet *v1alpha1.Fleet) string {
	name := types.NamespacedName{Namespace: fleet.Namespace, Name: fleet.Spec.Forge.SecretRef.Name}
	secret, err := f.values.get(ctx, corev1.SchemeGroupVersion.WithKind("Secret"), name)
	if err != nil {
		return "" // who needs it says why
	}
	return secret.version
}

func (f *forges) drop(fleet types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, fleet)
}

// hostOf names what a Fleet's statuses are posted to; "" if that can't be made out.
func hostOf(fleet *v1alpha1.Fleet) string {
	if fleet.Spec.Forge == nil {
		return ""
	}
	kind, url, owner, repository, err := whereabouts(fleet)
	if err != nil {
		return ""
	}
	aggregate, _ := commitstatus.Contexts(fleet)
	return fmt.Sprintf("%s %s %s/%s %s", kind, url, owner, repository, aggregate)
}

// whereabouts is where a Fleet's repository is hosted: as its forge says, or else as
// the address of the repository does.
func whereabouts(fleet *v1alpha1.Fleet) (kind forge.Kind, url, owner, repository string, err error) {
	spec := fleet.Spec.Forge
	kind, url = forge.Kind(spec.Kind), spec.URL
	owner, repository, _ = strings.Cut(spec.Repository, "/")
	if url == "" || repository == "" {
		base, o, r, err := forge.Repository(fleet.Spec.Git.URL)
		if err != nil {
			return "", "", "", "", fmt.Errorf("%w; set spec.forge.url and spec.forge.repository", err)
		}
		url = cmp.Or(url, base)
		if repository == "" {
			owner, repository = o, r
		}
	}
	return kind, url, owner, repository, nil
}
