package kubeadm

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	. "github.com/onsi/gomega"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	etcdclient "sigs.k8s.io/cluster-api/controlplane/kubeadm/pkg/etcd"
	"sigs.k8s.io/cluster-api/controlplane/kubeadm/pkg/proxy"
	"sigs.k8s.io/cluster-api/util/kubeconfig"
	"sigs.k8s.io/cluster-api/util/secret"

	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/workload"
)

var testCluster = types.NamespacedName{Namespace: "prod", Name: "one"}

// world is a workload cluster without a management cluster.
type world struct {
	cloud       *workload.Cloud
	datacenter  *datacenter.Datacenter
	authorities *authorities
	guests      *guests
	config      *rest.Config // of an administrator
	etcdClient  *tls.Config
}

// newWorld starts a workload cluster with control-plane machines of these names; without any, it has
// no certificate authorities either.
func newWorld(t *testing.T, machines ...string) *world {
	t.Helper()
	log := testr.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cloud, err := workload.New(workload.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	dc := datacenter.New(datacenter.Options{Cloud: cloud, Chaos: chaos.New(chaos.Knobs{}), Log: log})
	w := &world{cloud: cloud, datacenter: dc, authorities: &authorities{}}
	w.guests = &guests{cloud: cloud, datacenter: dc, authorities: w.authorities, etcd: newEtcd(dc, w.authorities)}

	done := make(chan error, 3)
	for _, r := range []interface{ Start(context.Context) error }{cloud, dc, w.guests.etcd} {
		go func() { done <- r.Start(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})

	if len(machines) == 0 {
		return w
	}
	api, etcdCA := generate(t, secret.ClusterCA), generate(t, secret.EtcdCA)
	w.authorities.set(testCluster, clusterAuthorities{api: api, etcd: etcdCA})
	if err := dc.SetAuthority(testCluster, api.certPEM, api.keyPEM); err != nil {
		t.Fatal(err)
	}
	adminCert, adminKey := issueClient(t, api)
	w.config = &rest.Config{Host: "https://" + cloud.Address(), TLSClientConfig: rest.TLSClientConfig{
		ServerName: workload.ServerName(testCluster), CAData: api.certPEM, CertData: adminCert, KeyData: adminKey,
	}}
	w.etcdClient = clientConfig(t, etcdCA, etcdCA)

	store := cloud.Cluster(testCluster)
	store.OnPortForward(func(namespace, pod string, port int, conn net.Conn) {
		w.guests.forward(testCluster, types.NamespacedName{Namespace: namespace, Name: pod}, port, conn)
	})
	var nodes []controlPlaneNode
	for i, name := range machines {
		powerOn(t, dc, name)
		NewWithT(t).Eventually(func() []datacenter.Member { return dc.Etcd(testCluster) }, time.Minute, time.Millisecond).Should(HaveLen(i + 1))
		nodes = append(nodes, controlPlaneNode{name: name, member: true})
	}
	if err := keepStaticPods(ctx, store.Client(), staticPods(nodes, false)); err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func() bool { return dc.APIServerUp(testCluster) }, time.Minute, time.Millisecond).Should(BeTrue())
	return w
}

// generate makes a certificate authority.
func generate(t *testing.T, purpose secret.Purpose) *authority {
	t.Helper()
	a, err := newAuthority(secretOf(t, purpose), defaultValidity)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// secretOf is the Secret of a new certificate authority as KubeadmControlPlane makes it.
func secretOf(t *testing.T, purpose secret.Purpose) *corev1.Secret {
	t.Helper()
	cert := &secret.Certificate{Purpose: purpose}
	if err := cert.Generate(); err != nil {
		t.Fatal(err)
	}
	return cert.AsSecret(testCluster, metav1.OwnerReference{})
}

// issueClient has the authority certify an administrator.
func issueClient(t *testing.T, a *authority) (certPEM, keyPEM []byte) {
	t.Helper()
	config, err := kubeconfig.New(testCluster.Name, "https://10.0.0.1:6443", a.ca.Leaf, a.ca.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		return user.ClientCertificateData, user.ClientKeyData
	}
	t.Fatal("kubeconfig without a user")
	return nil, nil
}

// clientConfig is that of a client whom one authority certifies and who trusts another, whatever name
// the server has: KubeadmControlPlane dials Pods by their names, which no certificate holds.
func clientConfig(t *testing.T, by, trusts *authority) *tls.Config {
	t.Helper()
	certPEM, keyPEM := issueClient(t, by)
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
		InsecureSkipVerify: true, // VerifyConnection does, but for the name
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: trusts.pool()})
			return err
		},
	}
}

// dial connects to a member as KubeadmControlPlane does. Where none answers it takes all of the timeout.
func (w *world) dial(t *testing.T, node string, config *tls.Config, timeout time.Duration) (*etcdclient.Client, error) {
	t.Helper()
	c, err := etcdclient.NewClient(t.Context(), etcdclient.ClientConfiguration{
		Endpoint:    "etcd-" + node,
		Proxy:       proxy.Proxy{Kind: "pods", Namespace: "kube-system", KubeConfig: rest.CopyConfig(w.config), Port: etcdClientPort},
		TLSConfig:   config,
		DialTimeout: timeout,
		CallTimeout: timeout,
		Logger:      zap.NewNop(),
	})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// refused is long enough for a connection that should come about to be seen.
const refused = 2 * time.Second

// connect dials a member that answers.
func (w *world) connect(t *testing.T, node string) *etcdclient.Client {
	t.Helper()
	c, err := w.dial(t, node, w.etcdClient, 30*time.Second)
	if err != nil {
		t.Fatalf("member on %s: %v", node, err)
	}
	return c
}

func (w *world) members(t *testing.T, c *etcdclient.Client) map[string]uint64 {
	t.Helper()
	members, err := c.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint64{}
	for _, m := range members {
		if m.IsLearner || len(m.ClientURLs) != 1 || m.ClusterID == 0 {
			t.Errorf("member %+v is not one that KubeadmControlPlane would take for started", m)
		}
		out[m.Name] = m.ID
	}
	return out
}

// The client here is KubeadmControlPlane's own, through port forwarding of the workload's API server.
func TestEtcdMembership(t *testing.T) {
	w := newWorld(t, "cp-0", "cp-1", "cp-2")
	c := w.connect(t, "cp-1")
	members := w.members(t, c)
	if got := slices.Sorted(maps.Keys(members)); !slices.Equal(got, []string{"cp-0", "cp-1", "cp-2"}) {
		t.Fatalf("members are %q", got)
	}
	if c.LeaderID != members["cp-0"] {
		t.Errorf("the leader is %d, not the first member of %v", c.LeaderID, members)
	}
	if alarms, err := c.Alarms(t.Context()); err != nil || len(alarms) > 0 {
		t.Errorf("alarms: %v, %v", alarms, err)
	}

	if err := c.MoveLeader(t.Context(), members["cp-1"]); err == nil {
		t.Error("a member that does not lead has given away the lead")
	}
	leader := w.connect(t, "cp-0")
	if err := leader.MoveLeader(t.Context(), members["cp-1"]); err != nil {
		t.Fatal(err)
	}
	if got := w.connect(t, "cp-2").LeaderID; got != members["cp-1"] {
		t.Errorf("after the move %d leads, not %d", got, members["cp-1"])
	}

	if err := c.RemoveMember(t.Context(), members["cp-0"]); err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(w.members(t, c))); !slices.Equal(got, []string{"cp-1", "cp-2"}) {
		t.Errorf("after the removal the members are %q", got)
	}
	if err := c.RemoveMember(t.Context(), members["cp-0"]); err == nil {
		t.Error("the same member could be removed twice")
	}
	if _, err := w.dial(t, "cp-0", w.etcdClient, refused); err == nil {
		t.Error("a member that was removed still answers")
	}
}

func TestEtcdWithADeadLeader(t *testing.T) {
	w := newWorld(t, "cp-0", "cp-1", "cp-2")
	members := w.members(t, w.connect(t, "cp-0"))
	w.datacenter.Delete(types.NamespacedName{Namespace: testCluster.Namespace, Name: "cp-0"})

	if _, err := w.dial(t, "cp-0", w.etcdClient, refused); err == nil {
		t.Error("a member without a machine answers")
	}
	c := w.connect(t, "cp-1")
	if c.LeaderID == members["cp-0"] || c.LeaderID == 0 {
		t.Errorf("%d leads, of members %v", c.LeaderID, members)
	}
	if err := c.RemoveMember(t.Context(), members["cp-2"]); err == nil {
		t.Error("of one dead and two healthy members a healthy one could be removed, and the quorum with it")
	}
	if err := c.RemoveMember(t.Context(), members["cp-0"]); err != nil {
		t.Errorf("removing the dead member: %v", err)
	}
}

func TestEtcdAsksForCertificates(t *testing.T) {
	w := newWorld(t, "cp-0")
	of, _ := w.authorities.get(testCluster)
	for name, config := range map[string]*tls.Config{
		"client of the API server's authority": clientConfig(t, of.api, of.etcd),
		"client that trusts another authority": clientConfig(t, of.etcd, of.api),
	} {
		if _, err := w.dial(t, "cp-0", config, refused); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	w.connect(t, "cp-0")
}

func TestAPIServerCertificate(t *testing.T) {
	w := newWorld(t, "cp-0")
	expiry := func() time.Time {
		dialer, err := proxy.NewDialer(proxy.Proxy{
			Kind: "pods", Namespace: "kube-system", KubeConfig: rest.CopyConfig(w.config), Port: apiServerPort,
		})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := dialer.DialContextWithAddr(t.Context(), "kube-apiserver-cp-0")
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // looks at it by hand
		defer conn.Close()
		if err := conn.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		cert := conn.ConnectionState().PeerCertificates[0]
		if cert.Subject.CommonName != "kube-apiserver" {
			t.Errorf("the name on the certificate is %q", cert.Subject.CommonName)
		}
		return cert.NotAfter
	}
	first := expiry()
	if until := time.Until(first); until < defaultValidity-time.Hour || until > defaultValidity {
		t.Errorf("it expires in %s, not in a year", until)
	}
	if again := expiry(); !again.Equal(first) {
		t.Errorf("it expires at %s, and asked again at %s", first, again)
	}
}
