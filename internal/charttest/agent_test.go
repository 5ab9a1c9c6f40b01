package charttest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/planner"
)

// installation is the chart as far as it can be installed here: its permissions, and
// agents that run with its arguments and under its account.
type installation struct {
	*testing.T
	// ns is the release's namespace, user the agent's ServiceAccount.
	ns, user   string
	all        []*unstructured.Unstructured
	kubeconfig string
	logs       *logBuffer
	// fleets are the namespaces with Fleets.
	fleets []string
}

// rbacKinds are the kinds of permissions.
var rbacKinds = []string{"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}

// install renders the chart for a namespace and applies its permissions.
func install(t *testing.T, ns, values string) *installation {
	t.Helper()
	i := &installation{T: t, ns: ns, all: render(t, ns, values), logs: &logBuffer{}}
	i.user = "system:serviceaccount:" + ns + ":" + pick(i.all, "ServiceAccount")[0].GetName()
	if without := os.Getenv(withoutVariable); without != "" {
		i.grantWithout(without)
	} else {
		apply(t, pick(i.all, rbacKinds...))
	}
	i.kubeconfig = kubeconfigOf(t, env.Restricted(t, i.user, ""))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(i.logs.tail())
		}
		// The agents of the next test shall not find them.
		ctx := context.Background()
		for _, ns := range i.fleets {
			_ = env.Client().DeleteAllOf(ctx, &v1alpha1.Fleet{}, client.InNamespace(ns))
			var all v1alpha1.ClusterOverlayList
			_ = env.Client().List(ctx, &all, client.InNamespace(ns))
			for n := range all.Items {
				all.Items[n].Finalizers = nil
				_ = env.Client().Update(ctx, &all.Items[n])
			}
			_ = env.Client().DeleteAllOf(ctx, &v1alpha1.ClusterOverlay{}, client.InNamespace(ns))
		}
	})
	return i
}

// kubeconfigOf writes a kubeconfig.
func kubeconfigOf(t *testing.T, config *rest.Config) string {
	t.Helper()
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	if !strings.Contains(config.Host, "://") {
		file.Clusters["c"].Server = "https://" + config.Host
	}
	file.AuthInfos["c"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	file.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "c"}
	file.CurrentContext = "c"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(*file, path))
	return path
}

// logBuffer collects the agents' logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) tail() string {
	s := l.String()
	return s[max(0, len(s)-4000):]
}

// replica is a running agent.
type replica struct {
	hooks, health string
	stop          func()
}

const agentScript = `"$@" </dev/null & pid=$!
cat >/dev/null
kill -TERM $pid
(sleep 30; kill -KILL $pid) >/dev/null 2>&1 &
watch=$!
wait $pid
kill $watch 2>/dev/null`

// run starts an agent as the Deployment does: its arguments, but for addresses and the
// folder; its environment, and nothing of the test's. It ends with the test, also if
// that is killed: the shell waits for the end of its input, which only the test holds.
func (i *installation) run(variables ...string) *replica {
	i.Helper()
	r := &replica{hooks: freeAddress(i.T), health: freeAddress(i.T)}
	args := append([]string{"-c", agentScript, "sh", binary}, argsOf(i.T, i.all)...)
	args = append(args, "--cache-dir="+i.TempDir(), "--metrics-address=0", "--health-address="+r.health, "--webhook-address="+r.hooks, "--kubeconfig="+i.kubeconfig)
	c := exec.Command("/bin/sh", args...)
	c.Env = append([]string{"PATH=/usr/bin:/bin", "TMPDIR=" + i.TempDir()}, variables...)
	container, _ := containerOf(i.T, i.all)
	for _, e := range list3(container, "env") {
		c.Env = append(c.Env, fmt.Sprintf("%s=%s", e["name"], e["value"]))
	}
	c.Stdout, c.Stderr = i.logs, i.logs
	stdin, err := c.StdinPipe()
	must(i.T, err)
	must(i.T, c.Start())
	r.stop = sync.OnceFunc(func() {
		_ = stdin.Close()
		_ = c.Wait()
	})
	i.Cleanup(r.stop)
	return r
}

// ready waits until an agent's readiness probe succeeds.
func (i *installation) ready(r *replica) {
	i.Helper()
	eventually(i.T, "the agent is ready", func(ctx context.Context) string {
		code, body := send(ctx, http.MethodGet, "http://"+r.health+"/readyz", nil, nil)
		if code != http.StatusOK {
			return fmt.Sprint(code, " ", body)
		}
		return ""
	})
}

// freeAddress returns an address that nothing listens on, and that no server gets that
// leaves the choice to the system.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := giteatest.FreePort()
	must(t, err)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// send sends a request; code 0 if nobody answers.
func send(ctx context.Context, method, url string, header map[string]string, body []byte) (code int, answer string) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(content)
}

// bed is a Fleet and its repository.
type bed struct {
	*installation
	ns, name string
	repo     *gittest.Repo
	requests int
}

// fleet creates a Fleet that looks at Git on request only.
func (i *installation) fleet(ns, name string, change ...func(*v1alpha1.Fleet)) *bed {
	i.Helper()
	b := &bed{installation: i, ns: ns, name: name, repo: gittest.NewRepo(i.T)}
	f := &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       v1alpha1.FleetSpec{Git: v1alpha1.GitSpec{URL: b.repo.URL(), Interval: metav1.Duration{Duration: 1e9 * 3600}}},
	}
	for _, c := range change {
		c(f)
	}
	b.repo.Commit(map[string]string{"README.md": "fleet"}, "first")
	must(i.T, env.Client().Create(i.Context(), f))
	i.fleets = append(i.fleets, ns)
	return b
}

func (b *bed) get(ctx context.Context, path string) (*v1alpha1.ClusterOverlay, error) {
	var o v1alpha1.ClusterOverlay
	err := env.Client().Get(ctx, client.ObjectKey{Namespace: b.ns, Name: planner.OverlayName(b.name, path)}, &o)
	return &o, err
}

// until waits until an overlay is as wanted.
func (b *bed) until(path, what string, is func(*v1alpha1.ClusterOverlay) bool) *v1alpha1.ClusterOverlay {
	b.Helper()
	var found *v1alpha1.ClusterOverlay
	eventually(b.T, path+": "+what, func(ctx context.Context) string {
		o, err := b.get(ctx, path)
		if err != nil {
			return err.Error() + "\n" + b.conditions(ctx)
		}
		if found = o; !is(o) {
			return fmt.Sprintf("%+v\n%s", o.Status.Conditions, b.conditions(ctx))
		}
		return ""
	})
	return found
}

func (b *bed) conditions(ctx context.Context) string {
	var f v1alpha1.Fleet
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: b.ns, Name: b.name}, &f); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("Fleet: %+v", f.Status.Conditions)
}

// applied waits until overlays have applied a commit.
func (b *bed) applied(hash string, paths ...string) {
	b.Helper()
	for _, path := range paths {
		b.until(path, "applied "+hash, func(o *v1alpha1.ClusterOverlay) bool {
			return strings.HasSuffix(o.Status.AppliedRevision, hash) && meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.AppliedCondition)
		})
	}
}

// push commits and has the agent look.
func (b *bed) push(files map[string]string) string {
	b.Helper()
	hash := b.repo.Commit(files, "change")
	b.look()
	return hash
}

func (b *bed) look() {
	b.Helper()
	b.request(&v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: b.name}})
}

func (b *bed) overlay(path string) *v1alpha1.ClusterOverlay {
	return &v1alpha1.ClusterOverlay{ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: planner.OverlayName(b.name, path)}}
}

// request asks for a reconciliation.
func (b *bed) request(o client.Object) string {
	b.Helper()
	b.requests++
	value := fmt.Sprint("request-", b.requests)
	b.annotate(o, v1alpha1.RequestedAtAnnotation, value)
	return value
}

func (b *bed) annotate(o client.Object, key, value string) {
	b.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value)
	must(b.T, env.Client().Patch(b.Context(), o, client.RawPatch(types.MergePatchType, []byte(patch))))
}

// approve approves an overlay's pending deletion, again if what is to be deleted has
// changed meanwhile, and finishes what controllers would: Namespaces go away.
func (b *bed) approve(path string, namespaces ...string) {
	b.Helper()
	approved := ""
	eventually(b.T, path+" is gone", func(ctx context.Context) string {
		for _, name := range namespaces {
			ns := &corev1.Namespace{}
			if err := env.Client().Get(ctx, client.ObjectKey{Name: name}, ns); err == nil && ns.DeletionTimestamp != nil {
				ns.Spec.Finalizers = nil
				_ = env.Client().SubResource("finalize").Update(ctx, ns) // or the next time
			}
		}
		o, err := b.get(ctx, path)
		if apierrors.IsNotFound(err) {
			return ""
		}
		if err != nil {
			return err.Error()
		}
		if pending := o.Status.PendingDeletion; pending != nil && pending.Hash != approved {
			approved = pending.Hash
			b.annotate(o, v1alpha1.ApproveDeletionAnnotation, approved)
		}
		return fmt.Sprintf("%+v\n%+v", o.Status.Conditions, o.Status.PendingDeletion)
	})
}

// deliver sends a signed webhook to an agent.
func (b *bed) deliver(ctx context.Context, r *replica, secret, event, body string) (int, string) {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return send(ctx, http.MethodPost, "http://"+r.hooks+"/webhooks/"+b.ns+"/"+b.name, map[string]string{
		"Content-Type": "application/json", "X-GitHub-Event": event, "X-Hub-Signature-256": "sha256=" + hex.EncodeToString(mac.Sum(nil)),
	}, []byte(body))
}

// sample reads folders of the sample fleet.
func sample(t *testing.T, folders ...string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, folder := range folders {
		must(t, fs.WalkDir(os.DirFS(root), "clusters/"+folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			content, err := os.ReadFile(filepath.Join(root, path))
			files[path] = string(content)
			return err
		}))
	}
	return files
}

func merged(all ...map[string]string) map[string]string {
	m := map[string]string{}
	for _, files := range all {
		maps.Copy(m, files)
	}
	return m
}

// directory is an overlay of plain manifests.
func directory(path string, manifests ...string) map[string]string {
	return map[string]string{
		path + "/kustomization.yaml": "resources: [all.yaml]\n",
		path + "/all.yaml":           strings.Join(manifests, "\n---\n"),
	}
}
