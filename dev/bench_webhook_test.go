package dev

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/gitea"
	"capstan.dev/capstan/internal/giteatest"
)

// BenchWebhook: what `make demo-gitea` starts, and from a push in Gitea to objects that are live. Each push changes
// one cluster in a way that moves no machine.
func TestBenchWebhook(t *testing.T) {
	const pushes = 24
	b := newBench(t)
	b.up()
	w := newWebhookBench(b)
	var queued, live []time.Duration
	for i := range pushes {
		delivered, applied := w.push(i)
		queued, live = append(queued, delivered), append(live, applied)
	}
	t.Logf("%d pushes, p50 / p95 / max", pushes)
	t.Logf("pushed to webhook received (Gitea):     %s", spread(queued))
	t.Logf("webhook received to objects live:       %s", spread(live))
}

// webhookBench is the sample fleet on a Gitea as it is installed.
type webhookBench struct {
	*env
	remote *gitea.Repository
	dir    string
	// received are pushes, as they come to the agent.
	received <-chan moment
	// live are overlays whose objects the API server has.
	live <-chan moment
}

// moment is when something was seen of a commit.
type moment struct {
	commit, overlay string
	at              time.Time
}

func newWebhookBench(b *bench) *webhookBench {
	e := newEnv(b.T, "bench")
	e.kubeconfig = filepath.Join(b.dir, "kubeconfig")
	w := &webhookBench{env: e, dir: filepath.Join(b.TempDir(), "fleet")}
	agent, err := giteatest.FreePort()
	if err != nil {
		b.Fatal(err)
	}
	target := fmt.Sprintf("http://127.0.0.1:%d", agent)
	var receiver string
	receiver, w.received = watchPushes(b.T, target)
	w.remote, err = gitea.Create(e.ctx, gitea.Options{
		Server: giteatest.NewForTest(b.T, giteatest.Options{}), Owner: "demo", Agent: "capstan", Name: "fleet",
		Fleet: types.NamespacedName{Namespace: "bench-system", Name: "fleet"}, Receiver: receiver,
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(w.dir, "clusters"), os.DirFS(filepath.Join("..", "clusters"))); err != nil {
		b.Fatal(err)
	}
	e.git(w.dir, "init", "-q", "-b", "main")
	e.git(w.dir, "remote", "add", "origin", w.remote.PushURL())
	w.commit("The sample fleet")
	if err := w.remote.CreateHook(e.ctx); err != nil {
		b.Fatal(err)
	}
	for _, cluster := range []string{"dev", "staging", "prod"} {
		newEnv(b.T, cluster).createCredentials()
	}
	e.installCapstan()
	w.live = e.watchOverlays()
	e.startAgent("--webhook-address", strings.TrimPrefix(target, "http://"), "--external-url", target)
	e.createFleet(w.remote.Spec(), w.remote.Secrets()...)
	for _, cluster := range []string{"dev", "staging", "prod"} {
		newEnv(b.T, cluster).awaitAvailable()
	}
	return w
}

// commit commits everything and pushes it.
func (w *webhookBench) commit(message string) (hash string, pushed time.Time) {
	w.Helper()
	w.git(w.dir, "add", ".")
	w.git(w.dir, "commit", "-qm", message)
	w.git(w.dir, "push", "-q", "origin", "main")
	pushed = time.Now()
	return w.head(w.dir), pushed
}

// push changes one cluster; it returns how long the webhook took to come, and from there the objects to be live.
func (w *webhookBench) push(round int) (delivered, applied time.Duration) {
	w.Helper()
	overlay := []string{"dev", "staging", "prod"}[round%3]
	file := filepath.Join(w.dir, "clusters", overlay, "cluster.yaml")
	content, err := os.ReadFile(file)
	if err != nil {
		w.Fatal(err)
	}
	content, _, _ = bytes.Cut(content, []byte("---\n# round"))
	content = fmt.Appendf(content, `---
# round %d
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata: {name: workers}
spec: {template: {spec: {deletion: {nodeDrainTimeoutSeconds: %d}}}}
`, round, 60+round)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		w.Fatal(err)
	}
	hash, pushed := w.commit(fmt.Sprint("round ", round))
	is := func(overlay string) func(moment) bool {
		return func(m moment) bool { return m.commit == hash && m.overlay == overlay }
	}
	var received, live moment
	w.Eventually(w.received).Should(gomega.Receive(&received, gomega.Satisfy(is(""))))
	w.Eventually(w.live).Should(gomega.Receive(&live, gomega.Satisfy(is("clusters/"+overlay))))
	return received.at.Sub(pushed), live.at.Sub(received.at)
}

// watchPushes stands before the agent and notes when pushes come.
func watchPushes(t *testing.T, target string) (address string, received <-chan moment) {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	pushes := make(chan moment, 1000)
	agent := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := time.Now()
		body, err := io.ReadAll(r.Body)
		var push struct{ After string }
		if err == nil {
			err = json.Unmarshal(body, &push)
		}
		if err != nil {
			t.Error(err)
		}
		if r.Header.Get("X-Gitea-Event") == "push" {
			pushes <- moment{commit: push.After, at: at}
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		agent.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, pushes
}

// watchOverlays notes when overlays are applied at a commit.
func (e *env) watchOverlays() <-chan moment {
	e.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", e.kubeconfig)
	if err != nil {
		e.Fatal(err)
	}
	c, err := client.NewWithWatch(config, client.Options{})
	if err != nil {
		e.Fatal(err)
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "capstan.dev", Version: "v1alpha1", Kind: "ClusterOverlayList"})
	events, err := c.Watch(e.ctx, list)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(events.Stop)
	applied := make(chan moment, 1000)
	go func() {
		for event := range events.ResultChan() {
			at := time.Now()
			o, ok := event.Object.(*unstructured.Unstructured)
			if !ok {
				continue
			}
			path, _, _ := unstructured.NestedString(o.Object, "spec", "path")
			revision, _, _ := unstructured.NestedString(o.Object, "status", "appliedRevision")
			applied <- moment{commit: revision[strings.LastIndexByte(revision, ':')+1:], overlay: path, at: at}
		}
	}()
	return applied
}

// spread is the median, the 95th percentile and the maximum.
func spread(took []time.Duration) string {
	slices.Sort(took)
	at := func(percent int) time.Duration { return took[(len(took)*percent+99)/100-1] }
	return fmt.Sprintf("%.3f / %.3f / %.3f s", at(50).Seconds(), at(95).Seconds(), at(100).Seconds())
}
