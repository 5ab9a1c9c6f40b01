package bootstrap

import (
	"context"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// configOfMachine names the TalosConfig that a Machine boots with, if it is one.
func configOfMachine(_ context.Context, o client.Object) []ctrl.Request {
	machine, ok := o.(*clusterv1.Machine)
	if !ok {
		return nil
	}
	ref := machine.Spec.Bootstrap.ConfigRef
	if ref.APIGroup != api.BootstrapGroupVersion.Group || ref.Kind != api.TalosConfigKind {
		return nil
	}
	return []ctrl.Request{{NamespacedName: client.ObjectKey{Namespace: machine.Namespace, Name: ref.Name}}}
}

// configsOfCluster names the TalosConfigs of all Machines of a Cluster.
func (r *reconciler) configsOfCluster(ctx context.Context, o client.Object) []ctrl.Request {
	var machines clusterv1.MachineList
	err := r.client.List(ctx, &machines, client.InNamespace(o.GetNamespace()),
		client.MatchingLabels{clusterv1.ClusterNameLabel: o.GetName()})
	if err != nil {
		r.log.Error(err, "list the Machines of a Cluster", "Cluster", client.ObjectKeyFromObject(o))
		return nil
	}
	var requests []ctrl.Request
	for i := range machines.Items {
		requests = append(requests, configOfMachine(ctx, &machines.Items[i])...)
	}
	return requests
}
