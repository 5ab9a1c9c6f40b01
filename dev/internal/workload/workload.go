// Package workload is the API servers of the workload clusters: in memory, all behind one
// TLS listener on loopback, told apart by the server name of the TLS handshake. It serves
// what the controllers of Cluster API and kubectl ask of an API server, for every kind that
// the real one has built in, and remembers nothing after the process ends.
package workload

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Options for New.
type Options struct {
	// Address to listen on; 127.0.0.1:0 if empty. Loopback only.
	Address string
	Log     logr.Logger
}

// Cloud is all workload clusters.
type Cloud struct{}

// New listens, so that Address is known, and serves nothing before Start.
func New(opts Options) (*Cloud, error) { panic("to be written") }

// Start serves until ctx ends (manager.Runnable).
func (c *Cloud) Start(ctx context.Context) error { panic("to be written") }

// Address is host:port of the listener.
func (c *Cloud) Address() string { panic("to be written") }

// Cluster returns the workload cluster of the Cluster of that namespace and name; a new one
// is empty but for its default namespaces, and does not answer before Serve.
func (c *Cloud) Cluster(key types.NamespacedName) *Cluster { panic("to be written") }

// Remove forgets a cluster and cuts its connections.
func (c *Cloud) Remove(key types.NamespacedName) { panic("to be written") }

// ServerName is the TLS server name of a cluster's API server.
func ServerName(key types.NamespacedName) string { panic("to be written") }

// Cluster is one workload cluster.
type Cluster struct{}

// Serve makes the API server answer, with a certificate issued by ca, to clients whose
// certificate ca issued. version is what /version reports, as v1.34.4. Calling it again
// changes nothing but the version.
func (k *Cluster) Serve(ca tls.Certificate, version string) error { panic("to be written") }

// Halt makes the API server stop answering and cuts its connections; what is stored stays.
func (k *Cluster) Halt() { panic("to be written") }

// Serving tells whether the API server answers.
func (k *Cluster) Serving() bool { panic("to be written") }

// Client reads and writes the stored objects without the network, whether or not the API
// server answers. Typed objects of the Kubernetes scheme and unstructured ones.
// Get, List, Create, Update, Patch, Delete and Status() work as against a real API server.
func (k *Cluster) Client() client.Client { panic("to be written") }

// OnPortForward sets who answers connections that are forwarded to a port of a Pod.
// handle owns conn and closes it. Without one, port forwarding fails.
func (k *Cluster) OnPortForward(handle func(namespace, pod string, port int, conn net.Conn)) {
	panic("to be written")
}
