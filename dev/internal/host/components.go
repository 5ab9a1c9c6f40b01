package host

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	loopback = "127.0.0.1"
	// startPatience is how long a process may take until it is ready.
	startPatience = 2 * time.Minute
	// portTries bounds how often a port that was free is taken before the process that was to
	// have it listens.
	portTries = 5
)

// startEtcd returns the URL of etcd.
func (h *Host) startEtcd(ctx context.Context, path string) (string, error) {
	addr, err := h.startOnFreePort(ctx, h.pki.etcdClient, []string{"/health"}, func(_, addr string) (*process, error) {
		// Nothing connects to the address for peers, but it has to have one.
		const peer = "https://127.0.0.1:2380"
		return startProcess(h.dir, path,
			"--data-dir="+filepath.Join(h.dir, "etcd"),
			"--listen-client-urls=https://"+addr,
			"--advertise-client-urls=https://"+addr,
			"--listen-peer-urls=https://"+net.JoinHostPort(loopback, "0"),
			"--initial-advertise-peer-urls="+peer,
			"--initial-cluster=default="+peer,
			"--client-cert-auth",
			"--trusted-ca-file="+h.pki.caFile,
			"--cert-file="+h.pki.etcd.certFile,
			"--key-file="+h.pki.etcd.keyFile,
			"--peer-client-cert-auth",
			"--peer-trusted-ca-file="+h.pki.caFile,
			"--peer-cert-file="+h.pki.etcd.certFile,
			"--peer-key-file="+h.pki.etcd.keyFile,
			// The data need not survive a crash of the machine.
			"--unsafe-no-fsync",
			"--quota-backend-bytes="+strconv.Itoa(4<<30),
		)
	})
	return "https://" + addr, err
}

// startAPIServer returns the address of the API server itself.
func (h *Host) startAPIServer(ctx context.Context, path, etcd, audit string) (string, error) {
	flags, err := h.auditFlags(audit)
	if err != nil {
		return "", err
	}
	// The namespace is the last thing that clients expect and that is not there at once.
	ready := []string{"/readyz", "/api/v1/namespaces/default"}
	return h.startOnFreePort(ctx, h.pki.admin, ready, func(port, _ string) (*process, error) {
		return startProcess(h.dir, path, append([]string{
			"--etcd-servers=" + etcd,
			"--etcd-cafile=" + h.pki.caFile,
			"--etcd-certfile=" + h.pki.etcdClient.certFile,
			"--etcd-keyfile=" + h.pki.etcdClient.keyFile,
			"--bind-address=" + loopback,
			"--advertise-address=" + loopback,
			"--secure-port=" + port,
			// It would complain about an address on loopback.
			"--endpoint-reconciler-type=none",
			"--tls-cert-file=" + h.pki.serving.certFile,
			"--tls-private-key-file=" + h.pki.serving.keyFile,
			"--client-ca-file=" + h.pki.caFile,
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + h.pki.serviceAccountKey,
			"--service-account-signing-key-file=" + h.pki.serviceAccountKey,
			"--service-cluster-ip-range=10.96.0.0/16",
			"--authorization-mode=RBAC",
			"--allow-privileged",
			// Nothing here makes service accounts, or takes taints off Nodes.
			"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
			"--profiling=false",
		}, flags...)...)
	})
}

// auditPolicy records what is asked in the name of service accounts.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
omitStages: [ResponseStarted]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
`

// auditFlags has the API server write an audit log; none if file is empty.
func (h *Host) auditFlags(file string) ([]string, error) {
	if file == "" {
		return nil, nil
	}
	policy := filepath.Join(h.dir, "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, fmt.Errorf("write the audit policy: %w", err)
	}
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + file, "--audit-log-mode=blocking"}, nil
}

// startControllerManager starts the two controllers without which deletion in Kubernetes does
// not end. It says when it can't reach the API server only in its log, and tries again.
func (h *Host) startControllerManager(path string) error {
	p, err := startProcess(h.dir, path,
		"--kubeconfig="+h.controllerManagerKubeconfig(),
		"--controllers=garbage-collector-controller,namespace-controller",
		"--leader-elect=false",
		"--secure-port=0",
		"--use-service-account-credentials=false",
		"--kube-api-qps=200",
		"--kube-api-burst=400",
		"--profiling=false",
	)
	if err != nil {
		return err
	}
	h.supervise(p)
	return nil
}

func (h *Host) controllerManagerKubeconfig() string {
	return filepath.Join(h.dir, "pki", "kube-controller-manager.kubeconfig")
}

// startOnFreePort starts a server on a free port of loopback and waits until it answers all of
// paths with success. Nothing keeps a free port free until the server listens, so it tries again
// with another when that was taken.
func (h *Host) startOnFreePort(ctx context.Context, as identity, paths []string, start func(port, addr string) (*process, error)) (string, error) {
	client, err := h.httpClient(as)
	if err != nil {
		return "", err
	}
	defer client.CloseIdleConnections()
	for try := 1; ; try++ {
		addr, port, err := freePort()
		if err != nil {
			return "", err
		}
		p, err := start(port, addr)
		if err != nil {
			return "", err
		}
		err = p.await(ctx, func(ctx context.Context) error {
			for _, path := range paths {
				if err := get(ctx, client, "https://"+addr+path); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			h.supervise(p)
			return addr, nil
		}
		if err := p.stop(context.WithoutCancel(ctx)); err != nil {
			return "", err
		}
		if try == portTries || !p.portTaken() {
			return "", err
		}
	}
}

func freePort() (addr, port string, err error) {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return "", "", fmt.Errorf("find a free port: %w", err)
	}
	addr = l.Addr().String()
	_, port, err = net.SplitHostPort(addr)
	return addr, port, errors.Join(err, l.Close())
}

func (h *Host) httpClient(as identity) (*http.Client, error) {
	pair, err := tls.X509KeyPair(as.certPEM, as.keyPEM)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.pki.caPEM)
	return &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}},
	}, nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", url, response.Status, body)
	}
	return nil
}

func kubeconfig(server string, ca []byte, id identity) ([]byte, error) {
	const cluster, user = "devcluster", "devcluster-admin"
	config := clientcmdapi.NewConfig()
	config.Clusters[cluster] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: id.certPEM, ClientKeyData: id.keyPEM}
	config.Contexts[cluster] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: user}
	config.CurrentContext = cluster
	return clientcmd.Write(*config)
}
