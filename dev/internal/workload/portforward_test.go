package workload

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"sigs.k8s.io/cluster-api/controlplane/kubeadm/pkg/proxy"
)

// echo answers with where it is and then with everything it gets.
func echo(namespace, pod string, port int, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "%s/%s:%d\n", namespace, pod, port); err != nil {
		return
	}
	_, _ = io.Copy(conn, conn)
}

func createEtcd(t *testing.T, cluster *Cluster) {
	t.Helper()
	if err := cluster.Client().Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "etcd-a"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "etcd", Image: "etcd"}}},
	}); err != nil {
		t.Fatal(err)
	}
}

func TestPortForward(t *testing.T) {
	_, cluster, config := startCluster(t)
	createEtcd(t, cluster)
	cluster.OnPortForward(echo)
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	url := kubernetes.NewForConfigOrDie(config).CoreV1().RESTClient().Post().
		Resource("pods").Namespace("kube-system").Name("etcd-a").SubResource("portforward").URL()
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url),
		[]string{"0:2379"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // several connections over one upgrade
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, conn)
	}
	cluster.Halt()
	if err := <-ended; err == nil {
		t.Error("forwarding survives Halt")
	}
}

// exchange says something and reads until the other side ends.
func exchange(t *testing.T, conn net.Conn) {
	t.Helper()
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	want := "kube-system/etcd-a:2379\nhello"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("got %q, error %v; want %q", got, err, want)
	}
}

// TestEtcdDialer is how the kubeadm control plane provider reaches etcd: WebSocket first, then SPDY.
func TestEtcdDialer(t *testing.T) {
	_, cluster, config := startCluster(t)
	createEtcd(t, cluster)
	dialer, err := proxy.NewDialer(proxy.Proxy{Kind: "pods", Namespace: "kube-system", KubeConfig: config, Port: 2379})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialer.DialContext(context.Background(), "", "etcd-a"); err == nil {
		t.Error("forwards though nothing runs")
	}
	cluster.OnPortForward(echo)
	if _, err := dialer.DialContext(context.Background(), "", "etcd-b"); err == nil {
		t.Error("forwards to a pod that is not there")
	}
	conn, err := dialer.DialContext(context.Background(), "", "etcd-a")
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, conn)
}
