package dev

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// lag is how much later the agent's watches tell it of what happens. Everything else is as quick as ever.
const lag = 3 * time.Second

// laggingServer is an API server before the one there is, whose watches lag. It returns a kubeconfig for it.
func laggingServer(e *env, lag time.Duration) string {
	e.Helper()
	transport, err := rest.TransportFor(mgmt.RESTConfig())
	if err != nil {
		e.Fatal(err)
	}
	to, err := url.Parse(mgmt.RESTConfig().Host)
	if err != nil {
		e.Fatal(err)
	}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		ModifyResponse: func(r *http.Response) error {
			if r.Request.URL.Query().Get("watch") != "" {
				r.Body = late(r.Body, lag)
			}
			return nil
		},
	})
	e.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	config := clientcmdapi.NewConfig()
	config.Clusters["late"] = &clientcmdapi.Cluster{Server: server.URL}
	config.Contexts["late"] = &clientcmdapi.Context{Cluster: "late"}
	config.CurrentContext = "late"
	path := filepath.Join(e.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		e.Fatal(err)
	}
	return path
}

// late delivers what body has, each byte so much later.
func late(body io.ReadCloser, lag time.Duration) io.ReadCloser {
	type chunk struct {
		due  time.Time
		data []byte
	}
	chunks := make(chan chunk, 10000)
	go func() {
		defer close(chunks)
		for {
			buffer := make([]byte, 64<<10)
			n, err := body.Read(buffer)
			chunks <- chunk{time.Now().Add(lag), buffer[:n]}
			if err != nil {
				return
			}
		}
	}()
	r, w := io.Pipe()
	go func() {
		defer w.Close()
		broken := false
		for c := range chunks {
			if broken {
				continue // until whoever reads has ended
			}
			time.Sleep(time.Until(c.due))
			_, err := w.Write(c.data)
			broken = err != nil
		}
	}()
	return &lateBody{r, body}
}

type lateBody struct {
	*io.PipeReader
	body io.Closer
}

func (b *lateBody) Close() error {
	_ = b.PipeReader.Close()
	return b.body.Close()
}

// An API server whose watches lag: success comes later, and is as true.
func TestConvergenceLags(t *testing.T) {
	t.Parallel()
	c := converging(t, "conv-la", "dev", extra{published: func(c *convergence, x *extra) { x.kubeconfig = laggingServer(c.env, lag) }})
	c.slow = true
	c.walk([]step{controlPlaneBump, nothing, workersUp})
}
