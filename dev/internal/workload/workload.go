// Package workload is the API servers of the workload clusters: in memory, all behind one
// TLS listener on loopback, told apart by the server name of the TLS handshake. It serves
// what the controllers of Cluster API and kubectl ask of an API server, for every kind that
// the real one has built in or that a CustomResourceDefinition defines, and remembers nothing
// after the process ends.
//
// What the real one does and this one does not: admission and webhooks, authorization (whoever
// has a certificate of the cluster's CA may do everything), schemas and conversion of custom
// kinds, defaults but for a few, field selectors limited to known paths, lists in pages,
// garbage collection by owner references, logs, exec and scale.
package workload

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Options for New.
type Options struct {
	// Address to listen on; 127.0.0.1:0 if empty. Loopback only.
	Address string
	Log     logr.Logger
}

// Cloud is all workload clusters.
type Cloud struct {
	log      logr.Logger
	listener net.Listener
	kinds    *catalogue

	mu       sync.Mutex
	clusters map[string]*Cluster // by server name
}

// New listens, so that Address is known, and serves nothing before Start.
func New(opts Options) (*Cloud, error) {
	address := opts.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address %q of the workload clusters: %w", address, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("address %q of the workload clusters is not a loopback address; use 127.0.0.1", address)
	}
	kinds, err := newCatalogue()
	if err != nil {
		return nil, fmt.Errorf("collecting the kinds of Kubernetes: %w", err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for the workload clusters: %w", err)
	}
	return &Cloud{log: opts.Log, listener: listener, kinds: kinds, clusters: map[string]*Cluster{}}, nil
}

// Start serves until ctx ends (manager.Runnable).
func (c *Cloud) Start(ctx context.Context) error {
	c.log.Info("Serving the workload clusters", "address", c.Address())
	return c.serve(ctx)
}

// Close frees the port of a Cloud that was never started.
func (c *Cloud) Close() error { return c.listener.Close() }

// Address is host:port of the listener.
func (c *Cloud) Address() string { return c.listener.Addr().String() }

// Cluster returns the workload cluster of the Cluster of that namespace and name; a new one
// is empty but for its default namespaces, and does not answer before Serve.
func (c *Cloud) Cluster(key types.NamespacedName) *Cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := ServerName(key)
	cluster := c.clusters[name]
	if cluster == nil {
		cluster = newCluster(key, c.kinds)
		c.clusters[name] = cluster
	}
	return cluster
}

// Remove forgets a cluster and cuts its connections.
func (c *Cloud) Remove(key types.NamespacedName) {
	c.mu.Lock()
	cluster := c.clusters[ServerName(key)]
	delete(c.clusters, ServerName(key))
	c.mu.Unlock()
	if cluster != nil {
		cluster.Halt()
	}
}

func (c *Cloud) byServerName(name string) *Cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clusters[name]
}

func (c *Cloud) all() []*Cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.clusters))
}

// ServerName is the TLS server name of a cluster's API server.
func ServerName(key types.NamespacedName) string {
	name := key.Name + "." + key.Namespace
	// Labels of a DNS name have at most 63 characters, names of Clusters up to 253.
	valid := len(validation.IsDNS1123Subdomain(name)) == 0 && len(key.Name) <= 63 && len(key.Namespace) <= 63
	if !valid {
		sum := sha256.Sum256([]byte(key.String()))
		name = "c-" + hex.EncodeToString(sum[:16])
	}
	return name + ".devcluster"
}

// Cluster is one workload cluster.
type Cluster struct {
	key   types.NamespacedName
	store *store
	api   *api

	mu      sync.Mutex
	config  *tls.Config // nil unless it serves
	version string
	conns   map[*trackedConn]struct{}
	forward func(namespace, pod string, port int, conn net.Conn)

	client func() client.Client
}

func newCluster(key types.NamespacedName, kinds *catalogue) *Cluster {
	k := &Cluster{key: key, store: newStore(kinds), conns: map[*trackedConn]struct{}{}}
	k.api = &api{cluster: k, store: k.store, kinds: kinds}
	k.client = sync.OnceValue(func() client.Client { return newClient(k.api) })
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		namespace := &unstructured.Unstructured{}
		namespace.SetAPIVersion("v1")
		namespace.SetKind("Namespace")
		namespace.SetName(name)
		if _, err := k.store.create(kinds.builtin[namespaces], namespace, writeOptions{}); err != nil {
			panic(err) // nothing in it that could depend on the world
		}
	}
	return k
}

// Serve makes the API server answer, with a certificate issued by ca, to clients whose
// certificate ca issued. version is what /version reports, as v1.34.4. Calling it again
// changes nothing but the version.
func (k *Cluster) Serve(ca tls.Certificate, version string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.version = version
	if k.config != nil {
		return nil
	}
	config, err := serverConfig(ca, ServerName(k.key))
	if err != nil {
		return fmt.Errorf("starting the API server of cluster %s: %w", k.key, err)
	}
	k.config = config
	return nil
}

// Halt makes the API server stop answering and cuts its connections; what is stored stays.
func (k *Cluster) Halt() {
	k.mu.Lock()
	k.config = nil
	k.mu.Unlock()
	k.cut()
}

// Serving tells whether the API server answers.
func (k *Cluster) Serving() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.config != nil
}

// Client reads and writes the stored objects without the network, whether or not the API
// server answers. Typed objects of the Kubernetes scheme and unstructured ones.
// Get, List, Create, Update, Patch, Delete and Status() work as against a real API server.
func (k *Cluster) Client() client.Client { return k.client() }

// OnPortForward sets who answers connections that are forwarded to a port of a Pod.
// handle owns conn and closes it. Without one, port forwarding fails.
func (k *Cluster) OnPortForward(handle func(namespace, pod string, port int, conn net.Conn)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forward = handle
}

// adopt makes a connection the cluster's and returns how to serve it, or nil.
func (k *Cluster) adopt(conn *trackedConn) *tls.Config {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.config == nil {
		return nil
	}
	conn.cluster.Store(k)
	k.conns[conn] = struct{}{}
	return k.config
}

func (k *Cluster) forget(conn *trackedConn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, conn)
}

// cut closes all connections.
func (k *Cluster) cut() {
	k.mu.Lock()
	conns := slices.Collect(maps.Keys(k.conns))
	k.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
	}
}

func (k *Cluster) gitVersion() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.version
}

func (k *Cluster) forwarder() func(namespace, pod string, port int, conn net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.forward
}
