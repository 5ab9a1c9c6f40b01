package workload

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// startCloud serves workload clusters for one test.
func startCloud(t *testing.T) *Cloud {
	t.Helper()
	cloud, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- cloud.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Start: %v", err)
		}
	})
	return cloud
}

var demo = types.NamespacedName{Namespace: "fleet", Name: "demo"}

// startCluster serves one cluster, and returns how its administrator connects.
func startCluster(t *testing.T) (*Cloud, *Cluster, *rest.Config) {
	t.Helper()
	cloud := startCloud(t)
	ca := newCA(t, ecdsaKey(t))
	cluster := cloud.Cluster(demo)
	if err := cluster.Serve(ca, "v1.34.4"); err != nil {
		t.Fatal(err)
	}
	return cloud, cluster, adminConfig(t, cloud, demo, ca)
}

func ecdsaKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCA(t *testing.T, key crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// adminConfig has a client certificate that ca issued.
func adminConfig(t *testing.T, cloud *Cloud, key types.NamespacedName, ca tls.Certificate) *rest.Config {
	t.Helper()
	issuer, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	clientKey := ecdsaKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kubernetes-admin", Organization: []string{"system:masters"}},
		NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, issuer, clientKey.Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(clientKey)
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Config{
		Host: "https://" + cloud.Address(), QPS: -1, Timeout: 30 * time.Second,
		TLSClientConfig: rest.TLSClientConfig{
			ServerName: ServerName(key),
			CAData:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate[0]}),
			CertData:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			KeyData:    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		},
	}
}

func node(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""}},
		Spec:       corev1.NodeSpec{ProviderID: "proxmox://" + name},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.5"}},
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.34.4"},
		},
	}
}

func TestServe(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"ECDSA": ecdsaKey(t), "RSA": rsaKey(t)} {
		t.Run(name, func(t *testing.T) {
			cloud := startCloud(t)
			ca := newCA(t, key)
			config := adminConfig(t, cloud, demo, ca)
			clients := kubernetes.NewForConfigOrDie(config)
			cluster := cloud.Cluster(demo)

			if _, err := clients.Discovery().ServerVersion(); err == nil {
				t.Error("a cluster answers before Serve")
			}
			if err := cluster.Serve(ca, "v1.34.4"); err != nil {
				t.Fatal(err)
			}
			if version, err := clients.Discovery().ServerVersion(); err != nil || version.GitVersion != "v1.34.4" {
				t.Errorf("version %v, error %v; want v1.34.4", version, err)
			}
			if err := cluster.Client().Create(t.Context(), node("a")); err != nil {
				t.Fatal(err)
			}
			cluster.Halt()
			if _, err := clients.Discovery().ServerVersion(); err == nil || cluster.Serving() {
				t.Error("a cluster answers after Halt")
			}
			if err := cluster.Serve(ca, "v1.35.0"); err != nil {
				t.Fatal(err)
			}
			if version, err := clients.Discovery().ServerVersion(); err != nil || version.GitVersion != "v1.35.0" {
				t.Errorf("version %v, error %v; want v1.35.0", version, err)
			}
			if _, err := clients.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{}); err != nil {
				t.Errorf("what is stored does not survive Halt: %v", err)
			}
			cloud.Remove(demo)
			if _, err := clients.Discovery().ServerVersion(); err == nil {
				t.Error("a cluster answers after Remove")
			}
		})
	}
}
