package workload

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	portforwardconstants "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// portForward upgrades the connection to SPDY, or to a WebSocket with SPDY in it, which clients try first;
// each pair of streams on it, one for errors and one for data, is a connection to a port of the Pod.
func (a *api) portForward(w http.ResponseWriter, q request) error {
	if _, err := a.store.get(q.resource, q.key); err != nil {
		return err
	}
	handle := a.cluster.forwarder()
	if handle == nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("nothing runs in pod %s", q.key))
	}
	streams := make(chan httpstream.Stream)
	done := make(chan struct{})
	defer close(done)
	conn, err := upgrade(w, q.Request, func(stream httpstream.Stream, _ <-chan struct{}) error {
		kind := stream.Headers().Get(corev1.StreamType)
		if kind != corev1.StreamTypeError && kind != corev1.StreamTypeData {
			return fmt.Errorf("stream type %q", kind)
		}
		if _, err := strconv.ParseUint(stream.Headers().Get(corev1.PortHeader), 10, 16); err != nil {
			return fmt.Errorf("port %q: %w", stream.Headers().Get(corev1.PortHeader), err)
		}
		select {
		case streams <- stream:
		case <-done:
		}
		return nil
	})
	if err != nil || conn == nil {
		return err
	}
	defer func() { _ = conn.Close() }()

	// The error stream of a pair comes first.
	problems := map[string]httpstream.Stream{}
	for {
		select {
		case <-conn.CloseChan():
			return nil
		case stream := <-streams:
			id := stream.Headers().Get(corev1.PortForwardRequestIDHeader)
			if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				problems[id] = stream
				continue
			}
			problem := problems[id]
			delete(problems, id)
			port, _ := strconv.Atoi(stream.Headers().Get(corev1.PortHeader)) // checked above
			go handle(q.key.Namespace, q.key.Name, port, forward(conn, stream, problem))
		}
	}
}

// upgrade makes a connection of streams from a request. Without an error and a connection it has answered.
func upgrade(w http.ResponseWriter, req *http.Request, onStream httpstream.NewStreamHandler) (httpstream.Connection, error) {
	if websocket.IsWebSocketUpgrade(req) {
		upgrader := websocket.Upgrader{Subprotocols: []string{portforwardconstants.WebsocketsSPDYTunnelingPortForwardV1}}
		conn, err := upgrader.Upgrade(w, req, nil)
		if err != nil {
			return nil, nil //nolint:nilerr // it has answered
		}
		return spdy.NewServerConnection(portforward.NewTunnelingConnection("server", conn), onStream)
	}
	if req.Method != http.MethodPost || req.ProtoMajor != 1 {
		return nil, apierrors.NewBadRequest("port forwarding is over SPDY only: POST with Upgrade: SPDY/3.1, or WebSocket")
	}
	if _, err := httpstream.Handshake(req, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return nil, nil //nolint:nilerr // it has answered
	}
	return spdy.NewResponseUpgrader().UpgradeResponse(w, req, onStream), nil
}

// forward connects a stream with a connection, which it returns. The two directions end on
// their own: who has sent everything may still get an answer.
func forward(conn httpstream.Connection, stream, problem httpstream.Stream) net.Conn {
	toPod, fromClient := net.Pipe()
	fromPod, toClient := net.Pipe()
	received := make(chan struct{})
	go func() {
		defer close(received)
		_, _ = io.Copy(fromClient, stream) // ends with either side
		_ = fromClient.Close()
	}()
	go func() {
		_, _ = io.Copy(stream, fromPod)
		_ = fromPod.Close()
		_ = stream.Close()
		if problem != nil {
			_ = problem.Close() // clients wait for it
		}
		<-received
		conn.RemoveStreams(stream, problem)
	}()
	return forwarded{in: toPod, out: toClient}
}

// forwarded is the Pod's end of a forwarded connection.
type forwarded struct{ in, out net.Conn }

func (f forwarded) Read(data []byte) (int, error)  { return f.in.Read(data) }
func (f forwarded) Write(data []byte) (int, error) { return f.out.Write(data) }

func (f forwarded) Close() error {
	_ = f.in.Close() // a pipe closes without error
	return f.out.Close()
}

func (f forwarded) LocalAddr() net.Addr  { return f.in.LocalAddr() }
func (f forwarded) RemoteAddr() net.Addr { return f.in.RemoteAddr() }

func (f forwarded) SetDeadline(t time.Time) error {
	if err := f.SetReadDeadline(t); err != nil {
		return err
	}
	return f.SetWriteDeadline(t)
}

func (f forwarded) SetReadDeadline(t time.Time) error  { return f.in.SetReadDeadline(t) }
func (f forwarded) SetWriteDeadline(t time.Time) error { return f.out.SetWriteDeadline(t) }
