package bootstrap

import (
	"context"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// The specs are compared with reflect.DeepEqual, for which an empty list is not a missing one: as strict as the original.

// configValidator is the webhook of TalosConfig.
type configValidator struct{}

func (configValidator) ValidateCreate(_ context.Context, c *api.TalosConfig) (admission.Warnings, error) {
	return nil, validateConfig(c)
}

func (configValidator) ValidateUpdate(_ context.Context, old, c *api.TalosConfig) (admission.Warnings, error) {
	if !reflect.DeepEqual(old.Spec, c.Spec) {
		return nil, apierrors.NewBadRequest("TalosConfig.Spec is immutable")
	}
	return nil, validateConfig(c)
}

func (configValidator) ValidateDelete(context.Context, *api.TalosConfig) (admission.Warnings, error) {
	return nil, nil
}

// validateConfig checks the source of the host name and nothing else. Above all not generateType: a wrong one is found
// only when the configuration is generated.
func validateConfig(c *api.TalosConfig) error {
	source := c.Spec.Hostname.Source
	known := []api.HostnameSource{api.HostnameSourceMachineName, api.HostnameSourceInfrastructureName}
	switch source {
	case "", api.HostnameSourceMachineName, api.HostnameSourceInfrastructureName:
		return nil
	}
	return apierrors.NewInvalid(
		schema.GroupKind{Group: api.BootstrapGroupVersion.Group, Kind: api.TalosConfigKind}, c.Name,
		field.ErrorList{field.Invalid(field.NewPath("spec", "hostname", "source"), source,
			fmt.Sprintf("valid values are: %q", known))},
	)
}

// templateValidator is the webhook of TalosConfigTemplate.
type templateValidator struct{}

func (templateValidator) ValidateCreate(context.Context, *api.TalosConfigTemplate) (admission.Warnings, error) {
	return nil, nil
}

func (templateValidator) ValidateUpdate(_ context.Context, old, t *api.TalosConfigTemplate) (admission.Warnings, error) {
	if !reflect.DeepEqual(old.Spec, t.Spec) {
		return nil, apierrors.NewBadRequest("TalosConfigTemplate.Spec is immutable")
	}
	return nil, nil
}

func (templateValidator) ValidateDelete(context.Context, *api.TalosConfigTemplate) (admission.Warnings, error) {
	return nil, nil
}
