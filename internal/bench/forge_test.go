package bench

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/gittest"
)

// mostCalls is what the forge may be asked because of one commit.
const mostCalls = 5

// TestForge pushes commits that touch all of many small overlays to a real Gitea. It
// prints how long they take, and fails if the forge is called too often.
func TestForge(t *testing.T) {
	n := number("CAPSTAN_BENCH_FORGE_OVERLAYS", 1000)
	f := newForgeBench(t, n)
	t.Logf("%d overlays of one object", n)
	t.Logf("%-24s %12s %12s %14s  %s", "commit", "push->hook s", "hook->live s", "hook->status s", "calls of the forge")
	for round := range number("CAPSTAN_BENCH_ROUNDS", 3) {
		own := map[string]string{}
		for i := range n {
			own[fmt.Sprintf("clusters/o%04d/values.yaml", i)] = values(i, fmt.Sprint("own ", round))
		}
		f.measure("every overlay's file", own)
		f.measure("one file of the base", map[string]string{"base/settings.yaml": settings(fmt.Sprint("base ", round))})
	}
}

// forgeBench is a fleet on a Gitea. The agent reaches that through a proxy that counts,
// and is told of pushes through one that takes the time.
type forgeBench struct {
	*bench
	gitea *giteatest.Server
	owner giteatest.User
	// live has the commit at which each overlay is applied.
	live *applied

	mu       sync.Mutex
	calls    []string
	received map[string]time.Time // by commit
}

func newForgeBench(t *testing.T, n int) *forgeBench {
	t.Helper()
	f := &forgeBench{
		bench: &bench{T: t, n: n, repo: gittest.NewRepo(t), binary: build(t)},
		gitea: giteatest.NewForTest(t, giteatest.Options{}), live: watchOverlays(t), received: map[string]time.Time{},
	}
	f.owner = f.gitea.NewUser(t)
	f.must(f.gitea.CreateRepo(t.Context(), f.owner.Name, "fleet", true))
	token, err := f.gitea.Token(t.Context(), f.owner.Name, "write:repository", "write:issue")
	f.must(err)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	f.must(client.IgnoreAlreadyExists(env.Client().Create(t.Context(), ns)))
	secret := rand.Text()
	for name, data := range map[string]map[string]string{
		"git": {"username": f.owner.Name, "password": token}, "forge": {"token": token}, "webhook": {"secret": secret},
	} {
		f.must(env.Client().Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, StringData: data}))
	}
	port, err := giteatest.FreePort()
	f.must(err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	hooks := f.proxy("http://"+address, f.noteDelivery)
	f.must(f.gitea.CreateHook(t.Context(), f.owner.Name, "fleet", hooks+"/webhooks/"+namespace+"/forge", secret, "push", "pull_request"))
	first, _ := f.push(smallOverlays(n))
	f.startAgent("--webhook-address", address)
	f.createForgeFleet(f.proxy(f.gitea.URL(), f.noteCall))
	f.await("first sync", func() bool { return f.live.at(first) == n })
	f.final(first)
	return f
}

func (f *forgeBench) createForgeFleet(url string) {
	f.Helper()
	reference := func(name string) *v1alpha1.LocalReference { return &v1alpha1.LocalReference{Name: name} }
	f.must(env.Client().Create(f.Context(), &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "forge"},
		Spec: v1alpha1.FleetSpec{
			Git: v1alpha1.GitSpec{
				URL: url + "/" + f.owner.Name + "/fleet.git", SecretRef: reference("git"),
				Interval: metav1.Duration{Duration: time.Hour}, Ref: v1alpha1.GitRef{Branch: "main"},
			},
			Forge: &v1alpha1.ForgeSpec{
				Kind: v1alpha1.ForgeGitea, SecretRef: reference("forge"), WebhookSecretRef: reference("webhook"),
				PullRequests: v1alpha1.PullRequestsSpec{Interval: metav1.Duration{Duration: time.Hour}},
			},
		},
	}))
}

func (f *forgeBench) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// measure pushes a commit that touches all overlays, and prints a line.
func (f *forgeBench) measure(name string, files map[string]string) {
	f.Helper()
	f.quietForge()
	before := len(f.called())
	hash, pushed := f.push(files)
	var last time.Time
	f.await(name, func() bool {
		last = time.Now()
		return f.live.at(hash) == f.n
	})
	told := f.final(hash)
	f.quietForge()
	calls := f.called()[before:]
	f.mu.Lock()
	received := f.received[hash]
	f.mu.Unlock()
	f.Logf("%-24s %12.2f %12.2f %14.2f  %d: %s", name, received.Sub(pushed).Seconds(), last.Sub(received).Seconds(), told.Sub(received).Seconds(),
		len(calls), strings.Join(calls, ", "))
	if len(calls) > mostCalls {
		f.Errorf("%s: the forge was called %d times because of one commit, want at most %d", name, len(calls), mostCalls)
	}
}

// push commits and pushes; it returns when the push was through.
func (f *forgeBench) push(files map[string]string) (hash string, pushed time.Time) {
	f.Helper()
	hash = f.repo.Commit(files, "a commit")
	f.repo.Git("push", "--quiet", f.gitea.GitURL(f.owner.Name, f.owner.Password, f.owner.Name, "fleet"), "main")
	return hash, time.Now()
}

// final waits until Gitea shows that the commit is through, and returns when.
func (f *forgeBench) final(hash string) time.Time {
	f.Helper()
	f.await("the status of "+hash, func() bool {
		time.Sleep(50 * time.Millisecond) // Gitea needs its processor time
		var combined struct{ State string }
		f.must(f.gitea.API(f.Context(), http.MethodGet, "/repos/"+f.owner.Name+"/fleet/commits/"+hash+"/status", nil, &combined))
		return combined.State == "success"
	})
	return time.Now()
}

// quietForge waits until the agent has asked the forge nothing for a while.
func (f *forgeBench) quietForge() {
	const calm = 5 * time.Second
	calls, last := len(f.called()), time.Now()
	for time.Since(last) < calm {
		time.Sleep(100 * time.Millisecond)
		if now := len(f.called()); now != calls {
			calls, last = now, time.Now()
		}
	}
}

// proxy stands before a server and has requests noted.
func (f *forgeBench) proxy(target string, note func(r *http.Request, body []byte, at time.Time)) string {
	f.Helper()
	to, err := url.Parse(target)
	f.must(err)
	through := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := time.Now()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			f.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		note(r, body, at)
		through.ServeHTTP(w, r)
	}))
	f.Cleanup(server.Close)
	return server.URL
}

// noteCall notes what is asked of the forge; git is not.
func (f *forgeBench) noteCall(r *http.Request, _ []byte, _ time.Time) {
	if path, ok := strings.CutPrefix(r.URL.Path, "/api/v1/"); ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.calls = append(f.calls, r.Method+" "+strings.Split(path, "/")[3]) // after repos, owner and name
	}
}

func (f *forgeBench) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// noteDelivery notes when the agent is told of a commit.
func (f *forgeBench) noteDelivery(_ *http.Request, body []byte, at time.Time) {
	var push struct{ After string }
	if err := json.Unmarshal(body, &push); err != nil {
		f.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.received[push.After] = at
}

// smallOverlays is a fleet of n overlays with one ConfigMap each.
func smallOverlays(n int) map[string]string {
	files := map[string]string{"base/kustomization.yaml": "resources: [settings.yaml]\n", "base/settings.yaml": settings("first")}
	for i := range n {
		dir := fmt.Sprintf("clusters/o%04d/", i)
		files[dir+"kustomization.yaml"] = fmt.Sprintf("namePrefix: o%04d-\nnamespace: %s\nresources: [../../base]\npatches:\n- path: values.yaml\n", i, namespace)
		files[dir+"values.yaml"] = values(i, "first")
	}
	return files
}

func settings(value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  base: %s\n", value)
}

func values(i int, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  own: %d %s\n", i, value)
}

// applied has the commit at which each overlay is applied.
type applied struct {
	mu      sync.Mutex
	commits map[string]string
}

func watchOverlays(t *testing.T) *applied {
	t.Helper()
	c, err := dynamic.NewForConfig(env.Config("watcher"))
	if err != nil {
		t.Fatal(err)
	}
	events, err := c.Resource(v1alpha1.GroupVersion.WithResource("clusteroverlays")).Namespace(namespace).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(events.Stop)
	a := &applied{commits: map[string]string{}}
	go a.follow(events)
	return a
}

func (a *applied) follow(events watch.Interface) {
	for event := range events.ResultChan() {
		if o, ok := event.Object.(*unstructured.Unstructured); ok {
			revision, _, _ := unstructured.NestedString(o.Object, "status", "appliedRevision")
			a.mu.Lock()
			a.commits[o.GetName()] = revision[strings.LastIndexByte(revision, ':')+1:]
			a.mu.Unlock()
		}
	}
}

// at counts the overlays that are applied at a commit.
func (a *applied) at(commit string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, c := range a.commits {
		if c == commit {
			n++
		}
	}
	return n
}
