package controlplane

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/certs"
	"sigs.k8s.io/cluster-api/util/collections"
	"sigs.k8s.io/cluster-api/util/deprecated/v1beta1/conditions"
	"sigs.k8s.io/cluster-api/util/kubeconfig"
	"sigs.k8s.io/cluster-api/util/secret"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// updateStatus counts. As in the original, a workload cluster that does not answer takes the counts to zero.
func (r *reconciler) updateStatus(ctx context.Context, tcp *api.TalosControlPlane, cluster *clusterv1.Cluster) error {
	tcp.Status.Selector = labels.SelectorFromSet(selector(cluster)).String()
	machines, err := r.machines(ctx, cluster)
	if err != nil {
		return err
	}
	replicas := int32(len(machines)) //nolint:gosec // never near the limit
	tcp.Status.Ready, tcp.Status.ReadyReplicas = false, 0
	tcp.Status.Replicas, tcp.Status.UnavailableReplicas = replicas, replicas
	if !tcp.DeletionTimestamp.IsZero() {
		return nil
	}
	if lowest := collections.FromMachines(machines...).LowestVersion(); lowest != "" {
		tcp.Status.Version = &lowest
	}
	workloadCluster := r.cloud.Cluster(client.ObjectKeyFromObject(cluster))
	if !workloadCluster.Serving() {
		return nil
	}
	nodes := &corev1.NodeList{}
	if err := workloadCluster.Client().List(ctx, nodes, client.HasLabels{"node-role.kubernetes.io/control-plane"}); err != nil {
		return fmt.Errorf("list the control-plane nodes: %w", err)
	}
	tcp.Status.Initialized = true
	conditions.MarkTrue(tcp, api.AvailableCondition)
	for i := range nodes.Items {
		if util.IsNodeReady(&nodes.Items[i]) && tcp.Status.ReadyReplicas < replicas {
			tcp.Status.ReadyReplicas++
		}
	}
	tcp.Status.UnavailableReplicas = replicas - tcp.Status.ReadyReplicas
	tcp.Status.Ready = tcp.Status.ReadyReplicas > 0
	return nil
}

// reconcileKubeconfig makes the kubeconfig Secret, as soon as the bootstrap provider has made the
// certificate authority, and renews its certificate.
func (r *reconciler) reconcileKubeconfig(ctx context.Context, s *scope) (ctrl.Result, error) {
	endpoint := s.cluster.Spec.ControlPlaneEndpoint
	key := client.ObjectKeyFromObject(s.cluster)
	existing, err := secret.GetFromNamespacedName(ctx, r.Client, key, secret.Kubeconfig)
	switch {
	case apierrors.IsNotFound(err):
		err := kubeconfig.CreateSecretWithOwner(ctx, r.Client, key, endpoint.String(),
			*metav1.NewControllerRef(s.tcp, api.ControlPlaneGroupVersion.WithKind(api.TalosControlPlaneKind)))
		if errors.Is(err, kubeconfig.ErrDependentCertificateNotFound) {
			return ctrl.Result{RequeueAfter: again}, nil
		}
		return ctrl.Result{}, err
	case err != nil:
		return ctrl.Result{RequeueAfter: again}, fmt.Errorf("failed to retrieve kubeconfig Secret for Cluster %q in namespace %q: %w", key.Name, key.Namespace, err)
	}
	renew, err := kubeconfig.NeedsClientCertRotation(existing, certs.ClientCertificateRenewalDuration)
	if err != nil || !renew {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, kubeconfig.RegenerateSecret(ctx, r.Client, existing)
}

// getter shows a Machine as v1beta1 clients see it: with the conditions of old.
type getter struct{ *clusterv1.Machine }

func (g getter) GetConditions() clusterv1beta1.Conditions {
	deprecated := g.Status.Deprecated
	if deprecated == nil || deprecated.V1Beta1 == nil {
		return nil
	}
	var out clusterv1beta1.Conditions
	for _, c := range deprecated.V1Beta1.Conditions {
		out = append(out, clusterv1beta1.Condition{
			Type: clusterv1beta1.ConditionType(c.Type), Status: c.Status, Severity: clusterv1beta1.ConditionSeverity(c.Severity),
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return out
}

func getters(machines []*clusterv1.Machine) []conditions.Getter {
	out := make([]conditions.Getter, len(machines))
	for i, m := range machines {
		out[i] = getter{m}
	}
	return out
}
