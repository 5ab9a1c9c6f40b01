package controlplane

import (
	"errors"
	"reflect"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/collections"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// outdated returns the machines that a rollout has to replace: those not made from what the control plane
// says now. What they were made from may be gone, which is taken for a match.
// Source: controllers/controlplane.go of the original.
func outdated(tcp *api.TalosControlPlane, machines []*clusterv1.Machine, from map[string]made) []*clusterv1.Machine {
	if s := tcp.Spec.RolloutStrategy; s != nil && s.Type == api.OnDeleteStrategyType {
		return nil
	}
	template := tcp.Spec.InfrastructureTemplate
	kind := template.GroupVersionKind().GroupKind().String()
	var out []*clusterv1.Machine
	for _, m := range machines {
		if !m.DeletionTimestamp.IsZero() {
			continue
		}
		matches := m.Spec.Version == tcp.Spec.Version
		if infra := from[m.Name].infra; infra != nil {
			name, hasName := infra.GetAnnotations()[clusterv1.TemplateClonedFromNameAnnotation]
			groupKind, hasKind := infra.GetAnnotations()[clusterv1.TemplateClonedFromGroupKindAnnotation]
			matches = matches && (!hasName || !hasKind || name == template.Name && groupKind == kind)
		}
		if config := from[m.Name].config; config != nil {
			matches = matches && reflect.DeepEqual(tcp.Spec.ControlPlaneConfig.ControlPlaneConfig, config.Spec)
		}
		if !matches {
			out = append(out, m)
		}
	}
	return out
}

type action string

const (
	create action = "create a machine"
	remove action = "remove a machine"
	wait   action = "wait"
	done   action = "nothing left to do"
)

// decide says what to do with so many machines, of which so many are outdated.
// Source: controllers/upgrade.go and reconcileMachines of the original.
func decide(tcp *api.TalosControlPlane, machines, outdated int) (action, error) {
	wanted := int(tcp.Spec.GetReplicas())
	if outdated > 0 {
		s := tcp.Spec.RolloutStrategy
		if s == nil || s.RollingUpdate == nil {
			return wait, errors.New("rolloutStrategy is not set")
		}
		if s.Type != api.RollingUpdateStrategyType {
			return wait, nil
		}
		surge := 0
		if s.RollingUpdate.MaxSurge != nil {
			surge = s.RollingUpdate.MaxSurge.IntValue()
		}
		if machines < wanted+surge {
			return create, nil
		}
		return remove, nil
	}
	switch {
	case machines < wanted:
		return create, nil
	case machines > wanted:
		return remove, nil
	}
	return done, nil
}

// pick chooses the machine to remove: outdated and marked for deletion, marked, outdated, any; of those
// the oldest.
func pick(machines, outdated []*clusterv1.Machine) *clusterv1.Machine {
	marked := collections.HasAnnotationKey(clusterv1.DeleteMachineAnnotation)
	for _, among := range []collections.Machines{
		collections.FromMachines(outdated...).Filter(marked),
		collections.FromMachines(machines...).Filter(marked),
		collections.FromMachines(outdated...),
	} {
		if among.Len() > 0 {
			return among.Oldest()
		}
	}
	return collections.FromMachines(machines...).Oldest()
}
