package dev

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	watchapi "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/dev/internal/wire"
)

// driftFleet is a Fleet of several clusters. Its agent has an account of its own, so that the API server's
// audit log tells what it has sent, and everything it says of drift is kept.
type driftFleet struct {
	*convergence // the repository and the agent; its namespace holds none of the clusters
	account      string
	wire         *wire.Forwarder // the agent's way to the API server
	members      map[string]*convergence

	mu      sync.Mutex
	reports []report
}

// report is what one version of a ClusterOverlay says.
type report struct {
	at      time.Time
	path    string
	overlay *v1alpha1.ClusterOverlay
}

// A member is a cluster of a driftFleet: a sample overlay, or what write writes; then edit may change it.
type member struct {
	sample string
	write  func(e *env, dir string)
	edit   func(c *convergence)
}

// newDriftFleet starts the agent of a Fleet and waits until all its clusters are there.
func newDriftFleet(t *testing.T, name string, members map[string]member) *driftFleet {
	t.Helper()
	f := &driftFleet{convergence: &convergence{env: newEnv(t, name)}, members: map[string]*convergence{}}
	f.SetDefaultEventuallyTimeout(6 * time.Minute) // several clusters on a busy machine
	f.dir = filepath.Join(f.TempDir(), "fleet")
	f.copyOverlay("base", "base", "", "")
	for name, m := range members {
		c := &convergence{env: newEnv(t, f.name+"-"+name), dir: f.dir}
		at := filepath.Join(f.dir, "clusters", c.name)
		if m.sample != "" {
			f.copyOverlay(m.sample, c.name, m.sample+"-", c.name+"-")
		} else {
			f.Expect(os.MkdirAll(at, 0o700)).To(gomega.Succeed())
			m.write(c.env, at)
		}
		if m.edit != nil {
			m.edit(c)
		}
		c.createCredentials()
		f.members[name] = c
	}
	f.git(f.dir, "init", "-q", "-b", "main")
	f.git(f.dir, "add", ".")
	f.git(f.dir, "commit", "-qm", "A fleet")
	f.installCapstan()
	f.agent = &process{args: []string{
		"run", "--kubeconfig", f.agentKubeconfig(), "--watch-namespace", f.name + "-system", "-n", f.name + "-system",
		"--allow-local", "--leader-elect=false", "--cache-dir", f.TempDir(), "--metrics-address", "0", "--health-address", "0", "--webhook-address", "0",
	}}
	f.listen()
	f.startProcess()
	f.Cleanup(f.stopProcess)
	f.createFleet(map[string]any{"git": map[string]any{"url": f.dir, "interval": "1s"}})
	f.settle()
	return f
}

// copyOverlay copies a folder of the sample fleet, with names changed.
func (f *driftFleet) copyOverlay(overlay, to, from, into string) {
	f.Helper()
	dir := filepath.Join(f.dir, "clusters", to)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "clusters", overlay))); err != nil {
		f.Fatal(err)
	}
	if from == "" {
		return
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			edit(f.T, path, from, into)
		}
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
}

// agentKubeconfig makes an account for the agent, which may do everything, and a way to the API server that
// can be cut.
func (f *driftFleet) agentKubeconfig() string {
	f.Helper()
	const namespace = "default"
	name := f.name + "-agent"
	f.account = "system:serviceaccount:" + namespace + ":" + name
	clients, err := kubernetes.NewForConfig(mgmt.RESTConfig())
	if err != nil {
		f.Fatal(err)
	}
	accounts := clients.CoreV1().ServiceAccounts(namespace)
	if _, err := accounts.Create(f.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
	}
	f.Expect(admin.Create(f.ctx, binding)).To(gomega.Succeed())
	token, err := accounts.CreateToken(f.ctx, name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](24 * 3600)},
	}, metav1.CreateOptions{})
	if err != nil {
		f.Fatal(err)
	}
	server, err := url.Parse(mgmt.RESTConfig().Host)
	if err != nil {
		f.Fatal(err)
	}
	if f.wire, err = wire.Listen("127.0.0.1:0", server.Host); err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = f.wire.Run(ctx) })
	f.Cleanup(func() { cancel(); running.Wait() })
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{
		Server: "https://" + f.wire.Addr().String(), CertificateAuthorityData: mgmt.RESTConfig().CAData,
	}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "c"
	path := filepath.Join(f.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		f.Fatal(err)
	}
	return path
}

// listen keeps every version of every ClusterOverlay of the Fleet until the test ends. An API server that has
// started anew may have forgotten some: then it goes on from what there is, where corrections are on record.
func (f *driftFleet) listen() {
	f.Helper()
	client, err := dynamic.NewForConfig(mgmt.RESTConfig())
	if err != nil {
		f.Fatal(err)
	}
	resource := client.Resource(overlays).Namespace(f.name + "-system")
	ctx, cancel := context.WithCancel(f.ctx)
	var running sync.WaitGroup
	f.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() {
		for ctx.Err() == nil {
			f.follow(ctx, resource)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond): // it may be down
			}
		}
	})
}

// follow keeps what there is and what comes, until the watch breaks.
func (f *driftFleet) follow(ctx context.Context, resource dynamic.ResourceInterface) {
	list, err := resource.List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for i := range list.Items {
		f.report(&list.Items[i])
	}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.GetResourceVersion(), &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watchapi.Interface, error) {
			return resource.Watch(ctx, o)
		},
	})
	if err != nil {
		return
	}
	defer w.Stop()
	for happened := range w.ResultChan() {
		u, ok := happened.Object.(*unstructured.Unstructured)
		if !ok || happened.Type == watchapi.Error {
			return
		}
		f.report(u)
	}
}

func (f *driftFleet) report(u *unstructured.Unstructured) {
	r := report{at: time.Now(), overlay: &v1alpha1.ClusterOverlay{}}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, r.overlay); err != nil {
		f.Error(err)
		return
	}
	r.path = r.overlay.Spec.Path
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reports = append(f.reports, r)
}

// said is what was reported since a mark.
func (f *driftFleet) said(mark int) []report {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.reports[mark:])
}

// now marks the end of what was reported.
func (f *driftFleet) now() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.reports)
}

// state is what is said last of a member.
func (f *driftFleet) state(c *convergence) *v1alpha1.ClusterOverlay {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range slices.Backward(f.reports) {
		if strings.HasSuffix(r.path, "/"+c.name) {
			return r.overlay
		}
	}
	return &v1alpha1.ClusterOverlay{}
}

// settle waits until everything is as the newest commit says, and at rest.
func (f *driftFleet) settle() {
	f.Helper()
	f.Eventually(f.unsettled).Should(gomega.BeEmpty(), func() string {
		dumps := ""
		for _, m := range f.members {
			if len(unsettledOverlay(f.state(m))) > 0 {
				dumps += m.dump()
			}
		}
		return dumps
	})
}

func (f *driftFleet) unsettled() (why []string) {
	fleet := &unstructured.Unstructured{}
	fleet.SetAPIVersion("capstan.dev/v1alpha1")
	fleet.SetKind("Fleet")
	if err := admin.Get(f.ctx, types.NamespacedName{Namespace: f.name + "-system", Name: "fleet"}, fleet); err != nil {
		return []string{err.Error()}
	}
	tip := "main@sha1:" + f.head(f.dir)
	// The Fleet is read now, and what was said of its overlays last may be older: of before the commit.
	for _, field := range []string{"observedRevision", "appliedRevision", "convergedRevision"} {
		if is := str(fleet, "status", field); is != tip {
			why = append(why, field+" of the Fleet is "+is)
		}
	}
	for name, m := range f.members {
		for _, w := range unsettledOverlay(f.state(m)) {
			why = append(why, name+" "+w)
		}
	}
	return why
}

func unsettledOverlay(o *v1alpha1.ClusterOverlay) (why []string) {
	s := o.Status
	if s.DesiredRevision != s.AppliedRevision || s.AppliedRevision != s.ConvergedRevision || s.AppliedRevision == "" {
		why = append(why, fmt.Sprintf("desires %s, applied %s, converged %s", short(s.DesiredRevision), short(s.AppliedRevision), short(s.ConvergedRevision)))
	}
	for _, e := range s.Inventory {
		if e.State != v1alpha1.EntryApplied { // a template that goes once it isn't used
			why = append(why, fmt.Sprintf("has %s %s %s", e.Kind, e.Name, e.State))
		}
	}
	for _, kind := range []string{v1alpha1.InSyncCondition, v1alpha1.ConvergedCondition, v1alpha1.ReadyCondition} {
		if c := meta.FindStatusCondition(s.Conditions, kind); c == nil || c.Status != metav1.ConditionTrue {
			why = append(why, fmt.Sprintf("is not %s: %+v", kind, ptr.Deref(c, metav1.Condition{})))
		}
	}
	return why
}

// commit commits what edit does to the repository, and waits until it has become true.
func (f *driftFleet) commit(message string, edit func()) {
	f.Helper()
	edit()
	f.git(f.dir, "add", ".")
	f.git(f.dir, "commit", "-qm", message)
	f.settle()
}

// sent is a request of the agent.
type sent struct {
	verb, group, resource, subresource, name string
	code                                     int
	dryRun                                   bool
}

func (s sent) String() string {
	out := fmt.Sprintf("%s %s/%s %s: %d", s.verb, strings.Trim(s.resource+"/"+s.subresource, "/"), s.group, s.name, s.code)
	if s.dryRun {
		out = "dry-run " + out
	}
	return out
}

// mark is the end of the audit log.
func (f *driftFleet) mark() int64 {
	f.Helper()
	info, err := os.Stat(auditLog)
	if err != nil {
		f.Fatal(err)
	}
	return info.Size()
}

// requests are those of the agent that arrived since a mark, without its leases and events; watches count when
// they end.
func (f *driftFleet) requests(since int64) []sent {
	f.Helper()
	var out []sent
	f.Eventually(func() (open int, err error) {
		out, open, err = readAudit(auditLog, f.account, since)
		return open, err
	}, "30s", "20ms").Should(gomega.BeZero(), "requests that are not answered")
	return out
}

// touched are those of them that write objects which Git declares, or try to.
func (f *driftFleet) touched(since int64) []string {
	f.Helper()
	var out []string
	for _, s := range f.requests(since) {
		if s.group == "capstan.dev" {
			continue
		}
		if slices.Contains([]string{"get", "list", "watch"}, s.verb) && !s.dryRun {
			continue
		}
		out = append(out, s.String())
	}
	return out
}

func readAudit(path, account string, since int64) (requests []sent, open int, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	if _, err := file.Seek(since, io.SeekStart); err != nil {
		return nil, 0, err
	}
	// By audit ID. What had arrived before the mark isn't counted, even if it was answered after it.
	arrived, pending := map[string]bool{}, map[string]bool{}
	for lines := bufio.NewReader(file); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return requests, len(pending), nil // what has no end yet is not there yet
		}
		if err != nil {
			return nil, 0, err
		}
		if !bytes.Contains(line, []byte(account)) {
			continue
		}
		var record struct {
			AuditID, Stage, RequestURI, Verb string
			User                             struct{ Username string }
			ObjectRef                        struct{ APIGroup, Resource, Subresource, Name string }
			ResponseStatus                   struct{ Code int }
		}
		if err := json.Unmarshal(line, &record); err != nil {
			return nil, 0, err
		}
		if record.User.Username != account {
			continue
		}
		switch {
		case record.Stage == "RequestReceived":
			arrived[record.AuditID] = true
			if record.Verb != "watch" {
				pending[record.AuditID] = true
			}
		case arrived[record.AuditID]: // ResponseComplete or Panic
			delete(pending, record.AuditID)
			ref := record.ObjectRef
			if ref.Resource == "" || ref.Resource == "leases" || ref.Resource == "events" || strings.HasSuffix(ref.APIGroup, "authorization.k8s.io") {
				continue
			}
			requests = append(requests, sent{
				verb: record.Verb, group: ref.APIGroup, resource: ref.Resource, subresource: ref.Subresource, name: ref.Name,
				code: record.ResponseStatus.Code, dryRun: strings.Contains(record.RequestURI, "dryRun="),
			})
		}
	}
}

// live reads an object of the cluster's namespace; nil if there is none.
func (e *env) live(apiVersion, kind, name string) *unstructured.Unstructured {
	e.Helper()
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	if err := admin.Get(e.ctx, e.key(name), u); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		e.Fatal(err)
	}
	return u
}

// describe says all of a drifted object.
func describe(d v1alpha1.DriftedObject) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s: %s (%s)", d.Kind, d.Name, d.Action, d.Message)
	for _, f := range d.Findings {
		fmt.Fprintf(&out, "; %s %s: %s -> %s by %+v", f.Class, f.Field, f.From, f.To, f.Writer)
	}
	return out.String()
}
