package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"go.yaml.in/yaml/v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/collections"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// Names of the Secrets and their one or two keys. All are of type Opaque; <cluster>-ca too, whatever Cluster API says.
const (
	bundleSuffix = "-talos"
	bundleKey    = "bundle"

	caSuffix  = "-ca"
	caCertKey = "tls.crt"
	caKeyKey  = "tls.key"

	talosconfigSuffix = "-talosconfig"
	talosconfigKey    = "talosconfig"

	bootstrapDataSuffix = "-bootstrap-data"
	bootstrapDataKey    = "value"
)

var errNoBundle = errors.New("secrets bundle is missing")

// loadBundle reads the cluster's secrets. It returns errNoBundle if there are none.
func (r *reconciler) loadBundle(ctx context.Context, s scope) (*secrets.Bundle, error) {
	secret, err := r.secret(ctx, s.cluster.Name+bundleSuffix, s.config.Namespace)
	if apierrors.IsNotFound(err) {
		return nil, errNoBundle
	}
	if err != nil {
		return nil, fmt.Errorf("error reading secrets bundle: %w", err)
	}
	bundle := &secrets.Bundle{}
	if err := yaml.Unmarshal(secret.Data[bundleKey], bundle); err != nil {
		return nil, fmt.Errorf("error unmarshaling secrets bundle: %w", err)
	}
	if bundle.Certs == nil || bundle.Certs.OS == nil || bundle.Certs.K8s == nil {
		return nil, fmt.Errorf("key %s of Secret %s has no certificates", bundleKey, client.ObjectKeyFromObject(secret))
	}
	bundle.Clock = secrets.NewFixedClock(time.Now())
	return bundle, nil
}

// ensureBundle reads the cluster's secrets, and makes them if there are none. That may be the first machine of a
// cluster, or the next one after somebody lost the Secret: then it will not be able to join the others.
func (r *reconciler) ensureBundle(
	ctx context.Context, s scope, contract *config.VersionContract,
) (*secrets.Bundle, error) {
	// One machine of a cluster at a time: the keys take a second of processor time, and only the first ones
	// count. The original lets all machines make some.
	lock, _ := r.generating.LoadOrStore(client.ObjectKeyFromObject(s.cluster), &sync.Mutex{})
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	bundle, err := r.loadBundle(ctx, s)
	if !errors.Is(err, errNoBundle) {
		return bundle, err
	}
	bundle, err = secrets.NewBundle(secrets.NewFixedClock(time.Now()), contract)
	if err != nil {
		return nil, fmt.Errorf("error generating new secrets bundle: %w", err)
	}
	data, err := yaml.Marshal(bundle)
	if err != nil {
		return nil, fmt.Errorf("error marshaling secrets bundle: %w", err)
	}
	err = r.client.Create(ctx, clusterSecret(s, s.cluster.Name+bundleSuffix, map[string][]byte{bundleKey: data}))
	if apierrors.IsAlreadyExists(err) {
		return r.loadBundle(ctx, s) // another machine of the cluster was faster; its secrets count
	}
	if err != nil {
		return nil, fmt.Errorf("error writing secrets bundle: %w", err)
	}
	r.log.Info("Generated the secrets of a cluster", "Cluster", client.ObjectKeyFromObject(s.cluster))
	return bundle, nil
}

// ensureAuthority writes the Kubernetes CA, from which core makes kubeconfigs, unless there is one, right or wrong.
func (r *reconciler) ensureAuthority(ctx context.Context, s scope, ca *x509.PEMEncodedCertificateAndKey) error {
	name := s.cluster.Name + caSuffix
	if _, err := r.secret(ctx, name, s.config.Namespace); !apierrors.IsNotFound(err) {
		return err
	}
	err := r.client.Create(ctx, clusterSecret(s, name, map[string][]byte{caCertKey: ca.Crt, caKeyKey: ca.Key}))
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// ensureBootstrapData writes the machine configuration, unless there is one for the Machine, and returns the name of
// its Secret.
func (r *reconciler) ensureBootstrapData(ctx context.Context, s scope, data string) (string, error) {
	name := s.machine.Name + bootstrapDataSuffix
	if _, err := r.secret(ctx, name, s.config.Namespace); !apierrors.IsNotFound(err) {
		return name, err
	}
	owner := metav1.NewControllerRef(s.config, api.BootstrapGroupVersion.WithKind(api.TalosConfigKind))
	secret := newSecret(s, name, *owner, map[string][]byte{bootstrapDataKey: []byte(data)})
	return name, r.client.Create(ctx, secret)
}

// ensureTalosconfig writes a client configuration with the addresses of all control plane machines. Its certificate is
// new each time, so the Secret changes each time.
func (r *reconciler) ensureTalosconfig(ctx context.Context, s scope) error {
	machines, err := collections.GetFilteredMachinesForCluster(ctx, r.client, s.cluster,
		collections.ControlPlaneMachines(s.cluster.Name))
	if err != nil {
		return fmt.Errorf("failed getting control plane machines: %w", err)
	}
	bundle, err := r.loadBundle(ctx, s)
	if err != nil {
		return err
	}
	talosconfig, err := renderTalosconfig(s.cluster.Name, bundle, talosEndpoints(machines))
	if err != nil {
		return err
	}
	data := map[string][]byte{talosconfigKey: []byte(talosconfig)}
	name := s.cluster.Name + talosconfigSuffix
	secret, err := r.secret(ctx, name, s.cluster.Namespace)
	if apierrors.IsNotFound(err) {
		return r.client.Create(ctx, clusterSecret(s, name, data))
	}
	if err != nil {
		return fmt.Errorf("error fetching secret: %w", err)
	}
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	secret.Data[talosconfigKey] = data[talosconfigKey]
	if err := r.client.Update(ctx, secret); !apierrors.IsConflict(err) {
		return err
	}
	return nil // another machine's TalosConfig wrote it meanwhile
}

// talosEndpoints are the addresses at which machines can be reached, sorted.
func talosEndpoints(machines collections.Machines) []string {
	var endpoints []string
	for _, m := range machines {
		for _, address := range m.Status.Addresses {
			if address.Type == clusterv1.MachineExternalIP || address.Type == clusterv1.MachineInternalIP {
				endpoints = append(endpoints, address.Address)
			}
		}
	}
	slices.Sort(endpoints)
	return endpoints
}

func (r *reconciler) secret(ctx context.Context, name, namespace string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	return secret, r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, secret)
}

// clusterSecret is a Secret that goes with the Cluster. Its owner is named as v1beta1: the original knows no newer
// version, and core corrects references only on objects that it knows.
func clusterSecret(s scope, name string, data map[string][]byte) *corev1.Secret {
	owner := metav1.NewControllerRef(s.cluster, clusterv1beta1.GroupVersion.WithKind("Cluster"))
	return newSecret(s, name, *owner, data)
}

func newSecret(s scope, name string, owner metav1.OwnerReference, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       s.config.Namespace,
			Name:            name,
			Labels:          map[string]string{clusterv1.ClusterNameLabel: s.cluster.Name},
			OwnerReferences: []metav1.OwnerReference{owner},
		},
		Data: data,
	}
}
