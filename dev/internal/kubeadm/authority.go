package kubeadm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/cluster-api/util/secret"
)

// defaultValidity is how long certificates made by kubeadm last, unless it is told otherwise.
const defaultValidity = 365 * 24 * time.Hour

// authority is a certificate authority of a workload cluster.
type authority struct {
	certPEM, keyPEM []byte
	ca              tls.Certificate
	validity        time.Duration

	mu     sync.Mutex
	issued map[string]*tls.Certificate
}

// newAuthority reads the Secret that KubeadmControlPlane keeps it in. An etcd that somebody else runs
// has a certificate without a key there; that gives no authority and no error.
func newAuthority(s *corev1.Secret, validity time.Duration) (*authority, error) {
	certPEM, keyPEM := s.Data[secret.TLSCrtDataName], s.Data[secret.TLSKeyDataName]
	if len(keyPEM) == 0 {
		return nil, nil // nil is the answer: there is none
	}
	ca, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate authority in Secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	return &authority{
		certPEM: certPEM, keyPEM: keyPEM, ca: ca, validity: validity, issued: map[string]*tls.Certificate{},
	}, nil
}

// pool is the authority as what the other side has to be certified by.
func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca.Leaf)
	return pool
}

// serving returns the certificate of one component on one node, the same each time.
func (a *authority) serving(commonName, node string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if cert, ok := a.issued[node]; ok {
		return cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key for node %s: %w", node, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 62))
	if err != nil {
		return nil, fmt.Errorf("serial number for node %s: %w", node, err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		DNSNames:     []string{node, "localhost"},
		NotBefore:    now.Add(-5 * time.Minute),
		NotAfter:     now.Add(a.validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.ca.Leaf, key.Public(), a.ca.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, fmt.Errorf("certificate for node %s: %w", node, err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	a.issued[node] = cert
	return cert, nil
}

// authorities are those of all kubeadm clusters.
type authorities struct {
	mu sync.Mutex
	of map[types.NamespacedName]clusterAuthorities
}

// clusterAuthorities are those of one cluster.
type clusterAuthorities struct {
	uid  types.UID  // of the Cluster
	api  *authority // of the API server
	etcd *authority // nil if somebody else runs etcd
}

func (a *authorities) get(cluster types.NamespacedName) (clusterAuthorities, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.of[cluster]
	return c, ok
}

func (a *authorities) set(cluster types.NamespacedName, c clusterAuthorities) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = map[types.NamespacedName]clusterAuthorities{}
	}
	a.of[cluster] = c
}

func (a *authorities) forget(cluster types.NamespacedName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.of, cluster)
}
