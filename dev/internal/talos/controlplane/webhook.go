package controlplane

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// Webhooks is the manifest of the webhooks.
//
//go:embed webhooks.yaml
var Webhooks []byte

func setupWebhooks(mgr ctrl.Manager) error {
	err := ctrl.NewWebhookManagedBy(mgr, &api.TalosControlPlane{}).WithDefaulter(webhook{}).WithValidator(webhook{}).Complete()
	if err != nil {
		return fmt.Errorf("webhook TalosControlPlane: %w", err)
	}
	return nil
}

type webhook struct{}

// Default fills in what the original fills in.
func (webhook) Default(_ context.Context, tcp *api.TalosControlPlane) error {
	s := &tcp.Spec
	if s.Replicas == nil {
		s.Replicas = ptr.To(int32(1))
	}
	if s.InfrastructureTemplate.Namespace == "" {
		s.InfrastructureTemplate.Namespace = tcp.Namespace
	}
	if !strings.HasPrefix(s.Version, "v") {
		s.Version = "v" + s.Version
	}
	if s.RolloutStrategy == nil {
		s.RolloutStrategy = &api.RolloutStrategy{}
	}
	if s.RolloutStrategy.Type == "" {
		s.RolloutStrategy.Type = api.RollingUpdateStrategyType
	}
	if s.RolloutStrategy.Type == api.RollingUpdateStrategyType {
		if s.RolloutStrategy.RollingUpdate == nil {
			s.RolloutStrategy.RollingUpdate = &api.RollingUpdate{}
		}
		if s.RolloutStrategy.RollingUpdate.MaxSurge == nil {
			s.RolloutStrategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(1))
		}
	}
	return nil
}

// ValidateCreate knows one mistake.
func (webhook) ValidateCreate(_ context.Context, tcp *api.TalosControlPlane) (admission.Warnings, error) {
	return nil, validate(tcp)
}

// ValidateUpdate knows the same one.
func (webhook) ValidateUpdate(_ context.Context, _, tcp *api.TalosControlPlane) (admission.Warnings, error) {
	return nil, validate(tcp)
}

// ValidateDelete allows everything.
func (webhook) ValidateDelete(context.Context, *api.TalosControlPlane) (admission.Warnings, error) {
	return nil, nil
}

func validate(tcp *api.TalosControlPlane) error {
	if tcp.Spec.RolloutStrategy == nil {
		return nil
	}
	switch tcp.Spec.RolloutStrategy.Type {
	case "", api.RollingUpdateStrategyType, api.OnDeleteStrategyType:
		return nil
	}
	return apierrors.NewInvalid(api.ControlPlaneGroupVersion.WithKind(api.TalosControlPlaneKind).GroupKind(), tcp.Name, field.ErrorList{
		field.Invalid(field.NewPath("spec").Child("rolloutStrategy"), tcp.Spec.RolloutStrategy.Type,
			fmt.Sprintf("valid values are: %q", []api.RolloutStrategyType{api.RollingUpdateStrategyType, api.OnDeleteStrategyType})),
	})
}
