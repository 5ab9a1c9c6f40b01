package proxmox

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/cluster-api/util/patch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// secretFinalizer keeps the credentials until the virtual machines are gone.
const secretFinalizer = "proxmoxcluster.infrastructure.cluster.x-k8s.io/secret" //nolint:gosec // no secret

// connect does what the provider does before anything else: it makes a client for Proxmox from the
// credentials of the cluster. Without it nothing goes on, not even deletion. A cluster without
// credentialsRef uses the provider's own credentials, which always are there.
func connect(ctx context.Context, c client.Reader, cluster *ProxmoxCluster) error {
	if cluster.Spec.CredentialsRef == nil {
		return nil
	}
	secret, err := credentials(ctx, c, cluster)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("credentials secret not found: %w", err)
	}
	if err != nil {
		return fmt.Errorf("failed to get credentials secret: %w", err)
	}
	for _, key := range []string{"url", "token", "secret"} {
		if len(secret.Data[key]) == 0 {
			return fmt.Errorf("credentials secret %s/%s has no %q", secret.Namespace, secret.Name, key)
		}
	}
	return nil
}

// unavailable is the condition of a ProxmoxCluster that err keeps from Proxmox.
func unavailable(err error) metav1.Condition {
	reason := ProxmoxUnreachable
	if apierrors.IsNotFound(err) {
		reason = CredentialsNotFound
	}
	return metav1.Condition{Type: ProxmoxAvailable, Status: metav1.ConditionFalse, Reason: reason, Message: err.Error()}
}

func credentials(ctx context.Context, c client.Reader, cluster *ProxmoxCluster) (*corev1.Secret, error) {
	ref := cluster.Spec.CredentialsRef
	key := client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}
	if key.Namespace == "" {
		key.Namespace = cluster.Namespace
	}
	secret := &corev1.Secret{}
	return secret, c.Get(ctx, key, secret)
}

// holdCredentials puts finalizer and owner reference on the credentials.
func holdCredentials(ctx context.Context, c client.Client, cluster *ProxmoxCluster) error {
	if cluster.Spec.CredentialsRef == nil {
		return nil
	}
	secret, err := credentials(ctx, c, cluster)
	if err != nil {
		return err
	}
	helper, err := patch.NewHelper(secret, c)
	if err != nil {
		return err
	}
	secret.OwnerReferences = util.EnsureOwnerRef(secret.OwnerReferences, clusterRef(cluster))
	controllerutil.AddFinalizer(secret, secretFinalizer)
	return helper.Patch(ctx, secret)
}

// releaseCredentials takes the cluster off the owners or, when it is the last of them, the finalizer off.
func releaseCredentials(ctx context.Context, c client.Client, cluster *ProxmoxCluster) error {
	if cluster.Spec.CredentialsRef == nil {
		return nil
	}
	secret, err := credentials(ctx, c, cluster)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	helper, err := patch.NewHelper(secret, c)
	if err != nil {
		return err
	}
	if len(secret.OwnerReferences) > 1 {
		secret.OwnerReferences = util.RemoveOwnerRef(secret.OwnerReferences, clusterRef(cluster))
	} else if util.HasOwnerRef(secret.OwnerReferences, clusterRef(cluster)) {
		controllerutil.RemoveFinalizer(secret, secretFinalizer)
	}
	return helper.Patch(ctx, secret)
}

func clusterRef(cluster *ProxmoxCluster) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: GroupVersion.String(),
		Kind:       "ProxmoxCluster",
		Name:       cluster.Name,
		UID:        cluster.UID,
	}
}

// patchCluster persists a ProxmoxCluster with its Ready condition.
func patchCluster(ctx context.Context, helper *patch.Helper, cluster *ProxmoxCluster) error {
	if err := conditions.SetSummaryCondition(cluster, cluster, "Ready", conditions.ForConditionTypes{ProxmoxAvailable}); err != nil {
		return err
	}
	return helper.Patch(ctx, cluster, patch.WithOwnedConditions{Conditions: []string{"Ready", ProxmoxAvailable}})
}
