package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/internal/object"
)

const (
	// DigestKeySecret is the Secret, in the agent's namespace, with the key of all
	// digests in statuses. If it is lost, every object is compared with the
	// cluster once; nothing else happens.
	DigestKeySecret = "capstan-digest-key"
	digestKeyField  = "key"
	digestKeyBytes  = 32
)

// digestKey reads the key once, and creates it if there is none.
type digestKey struct {
	reader    client.Reader
	writer    client.Writer
	namespace string

	mu       sync.Mutex
	digester *object.Digester
}

// get returns the Digester with the agent's key.
func (k *digestKey) get(ctx context.Context) (object.Digester, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.digester != nil {
		return *k.digester, nil
	}
	name := types.NamespacedName{Namespace: k.namespace, Name: DigestKeySecret}
	key, err := k.read(ctx, name)
	if apierrors.IsNotFound(err) {
		key, err = k.create(ctx, name)
	}
	if err != nil {
		return object.Digester{}, fmt.Errorf("digest key in Secret %s: %w", name, err)
	}
	d := object.NewDigester(key)
	k.digester = &d
	return d, nil
}

func (k *digestKey) read(ctx context.Context, name types.NamespacedName) ([]byte, error) {
	var secret corev1.Secret
	if err := k.reader.Get(ctx, name, &secret); err != nil {
		return nil, err
	}
	key := secret.Data[digestKeyField]
	if len(key) < digestKeyBytes {
		return nil, fmt.Errorf("field %q holds %d bytes, want %d; delete the Secret to have it made anew", digestKeyField, len(key), digestKeyBytes)
	}
	return key, nil
}

func (k *digestKey) create(ctx context.Context, name types.NamespacedName) ([]byte, error) {
	key := make([]byte, digestKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	err := k.writer.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
		Data:       map[string][]byte{digestKeyField: key},
	})
	if apierrors.IsAlreadyExists(err) { // another replica was faster
		return k.read(ctx, name)
	}
	return key, err
}
