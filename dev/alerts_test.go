package dev

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/monitortest"
)

var recordMetrics = flag.String("record-metrics", "",
	"file to write what the agent's /metrics says in the course of TestAlerts to, with which internal/monitortest tests the dashboard")

// Every alert of the chart fires once for what it is about: a real Prometheus scrapes real agents, and what is
// watched goes wrong. Two agents are scraped. The first has a cluster on the simulated machines and a Gitea; the
// other one has Fleets that can't work.
func TestAlerts(t *testing.T) {
	t.Parallel()
	a := newAlerts(t)
	a.fires("CapstanAbsent", nil)

	a.startAgents()
	a.fires("CapstanNoLeader", map[string]string{"name": "capstan.capstan.dev"})
	a.lead()
	a.quiet("CapstanAbsent", "CapstanNoLeader")
	a.fires("CapstanWatchesFailing", map[string]string{"group": "cluster.x-k8s.io", "kind": "MachineSet"})
	a.watchesFail.Store(false)

	a.fires("CapstanOverlaysWithoutSeries", nil)
	a.fires("CapstanOverlayFailed", map[string]string{"namespace": "hapless-system"})
	a.fires("CapstanDiscoveryFailing", map[string]string{"namespace": "hapless-system", "fleet": "nothing"})
	a.fires("CapstanSourceStale", map[string]string{"namespace": "hapless-system", "fleet": "lost"})
	a.fires("CapstanFetchFailing", map[string]string{"namespace": "hapless-system", "fleet": "lost"})

	a.Eventually(a.overlay).Should(gomega.Equal("Converged"), a.dump)
	a.quietFleet()
	a.record()
	a.propose("v1.35.5", "v1.35.6")

	// Somebody edits live objects, while that is only reported; then all the time, while it is corrected; and
	// adds machines, which nothing removes without a person's word.
	a.setDriftMode("Report")
	a.person("MachineHealthCheck", `{"spec": {"checks": {"nodeStartupTimeoutSeconds": 1201}}}`)
	a.person("MachineDeployment", `{"spec": {"deletion": {"order": "Newest"}}}`)
	a.fires("CapstanDriftPersists", a.labels)
	a.fires("CapstanForeignFields", a.labels)
	a.record()
	a.setDriftMode("Correct")
	a.person("MachineDeployment", `{"spec": {"deletion": null}}`)
	a.quiet("CapstanDriftPersists", "CapstanForeignFields")
	stop := a.insist("MachineHealthCheck", `{"spec": {"checks": {"nodeStartupTimeoutSeconds": 1202}}}`)
	a.fires("CapstanDriftFight", a.labels)
	a.record()
	stop()
	a.quiet("CapstanDriftFight")
	a.person("MachineDeployment", `{"spec": {"replicas": 2}}`)
	a.fires("CapstanCorrectionHeld", a.labels)
	a.record()
	a.capstan("approve", "--yes", "clusters/alerts")
	a.quietFleet()

	// A new worker does not boot, and the forge takes no word of it.
	a.statusesFail.Store(true)
	a.setChaos("never-boots=" + a.namespace + "/alerts-workers-*:all")
	a.push("2 workers", func() {
		edit(t, filepath.Join(a.dir, "clusters", "alerts", "cluster.yaml"), workers(1), workers(2))
	})
	a.fires("CapstanConvergenceStalled", a.labels)
	a.fires("CapstanOverlayBehind", a.labels)
	a.fires("CapstanForgeQueueStuck", a.fleetLabels)
	a.fires("CapstanForgeRateLimitLow", nil)
	a.record()
	a.statusesFail.Store(false)
	a.setChaos()
	a.quiet("CapstanConvergenceStalled", "CapstanOverlayBehind", "CapstanForgeQueueStuck")

	// A node fails, and nothing has changed in Git.
	a.Eventually(a.overlay).Should(gomega.Equal("Converged"), a.dump)
	a.setChaos("node-unhealthy=" + a.namespace + "/" + a.worker().Name)
	a.fires("CapstanOverlayDegraded", a.labels)
	a.record()
	a.setChaos()
	a.quiet("CapstanOverlayDegraded")

	a.gitFails.Store(true)
	a.fires("CapstanSourceStale", a.fleetLabels)
	a.gitFails.Store(false)
	a.deliver("not the secret")
	a.fires("CapstanWebhookRejected", map[string]string{"namespace": "alerts-system", "fleet": "fleet", "outcome": "refused"})

	// The cluster is removed, and its removal hangs.
	release := a.hold()
	a.push("no cluster", func() { a.git(a.dir, "rm", "-rq", "clusters/alerts") })
	a.fires("CapstanApprovalPending", a.labels)
	a.record()
	a.capstan("approve", "--yes", "clusters/alerts")
	a.fires("CapstanDeletionStuck", a.labels)
	a.record()
	release()
	a.Eventually(a.overlay).Should(gomega.Equal("gone"), a.dump)
	a.quiet("CapstanApprovalPending", "CapstanDeletionStuck")
	a.record()

	for _, alert := range a.names {
		if !a.fired[alert] {
			t.Errorf("%s has not fired: this test must provoke it", alert)
		}
	}
}

// alerts is the first agent's cluster, what is wrong with its world, and the Prometheus that looks at it.
type alerts struct {
	*env
	prometheus *monitortest.Server
	// metrics are the addresses of the agents' metrics, the first agent's first.
	metrics []string
	// receiver is where the first agent takes webhooks.
	receiver string
	dir      string // the repository
	lease    *coordinationv1.Lease
	// labels are what those of the overlay begin with, fleetLabels those of its Fleet.
	labels, fleetLabels map[string]string
	// names are the alerts that there are, fired those that have fired.
	names []string
	fired map[string]bool
	// recorded is what metrics said, in txtar with the times as names.
	recorded bytes.Buffer
	started  time.Time

	// Faults: Git can't be read, the forge refuses commit statuses, MachineSets can't be watched.
	gitFails, statusesFail, watchesFail atomic.Bool
}

func newAlerts(t *testing.T) *alerts {
	a := &alerts{env: newEnv(t, "alerts"), fired: map[string]bool{}, started: time.Now()}
	a.fleetLabels = map[string]string{"namespace": "alerts-system", "fleet": "fleet"}
	a.labels = map[string]string{"namespace": "alerts-system", "fleet": "fleet", "overlay": "fleet-alerts-"}
	for range 2 {
		a.metrics = append(a.metrics, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	}
	rules, err := os.ReadFile(filepath.Join("..", "charts", "capstan", "files", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`(?m)^ +- alert: (.*)$`).FindAllSubmatch(rules, -1) {
		a.names = append(a.names, string(match[1]))
	}
	a.prometheus = monitortest.Start(t, monitortest.Options{Targets: a.metrics, Interval: 250 * time.Millisecond, Rules: hurried(t, rules)})
	a.installCapstan()
	return a
}

// hurried makes rules fire, and end, as soon as they are true. This is all that differs from the rules that people
// get: no time to wait, no time to last, a change in Git counts as too old after three seconds, and the first watch
// that fails counts, because the next ones are up to half a minute apart.
func hurried(t *testing.T, rules []byte) []byte {
	t.Helper()
	for _, change := range []struct{ from, to string }{
		{`(?m)^( +)for: .*$`, "${1}for: 500ms"},
		{`(?m)^ +keep_firing_for: .*\n`, ""},
		{`> 3600\b`, "> 3"},
		{`(capstan_watch_failures_total\[15m\]\)\)) > 5`, "${1} > 0"},
	} {
		changed := regexp.MustCompile(change.from).ReplaceAll(rules, []byte(change.to))
		if bytes.Equal(changed, rules) {
			t.Fatalf("the alerts have no %q any more", change.from)
		}
		rules = changed
	}
	return rules
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := giteatest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// startAgents starts both; somebody else has the first one's lease.
func (a *alerts) startAgents() {
	a.Helper()
	a.watchesFail.Store(true)
	a.receiver = fmt.Sprintf("127.0.0.1:%d", freePort(a.T))
	r := a.onGitea(giteatest.ForTest(a.T))
	r.Receiver = "http://" + a.receiver
	a.dir = a.repository("dev")
	a.git(a.dir, "remote", "add", "origin", r.PushURL())
	a.git(a.dir, "push", "-q", "origin", "main")
	if err := r.CreateHook(a.ctx); err != nil {
		a.Fatal(err)
	}
	a.createCredentials()
	spec := r.Spec()
	git := spec["git"].(map[string]any)
	git["url"] = strings.Replace(git["url"].(string), r.Server.URL(), a.faultyGitea(r.Server.URL()), 1)
	git["interval"] = "1s"
	spec["stallAfter"] = "4s"
	spec["forge"].(map[string]any)["pullRequests"] = map[string]any{"interval": "10s"}
	a.createFleet(spec, r.Secrets()...)
	now := metav1.NowMicro()
	a.lease = &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: "capstan.capstan.dev", Namespace: "alerts-system"},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To("somebody"), LeaseDurationSeconds: ptr.To[int32](3600), AcquireTime: &now, RenewTime: &now,
		},
	}
	a.Expect(admin.Create(a.ctx, a.lease)).To(gomega.Succeed())
	a.kubeconfig = a.faultyAPIServer()
	a.startAgent("--leader-elect=true", "--metrics-address", a.metrics[0], "--webhook-address", a.receiver)

	a.git(a.dir, "branch", "newer")
	a.propose("v1.35.4", "v1.35.5")
	if _, err := r.OpenPullRequest(a.ctx, "newer", "alerts: newer Kubernetes"); err != nil {
		a.Fatal(err)
	}
	a.startHapless()
}

// startHapless starts the agent with whose Fleets everything is wrong that needs no machine.
func (a *alerts) startHapless() {
	a.Helper()
	e := newEnv(a.T, "hapless")
	dir := filepath.Join(a.TempDir(), "broken")
	for _, overlay := range []string{"one", "two"} {
		overlay := filepath.Join(dir, "clusters", overlay)
		if err := os.MkdirAll(overlay, 0o750); err != nil {
			a.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte("resources: [missing.yaml]\n"), 0o600); err != nil {
			a.Fatal(err)
		}
	}
	e.git(dir, "init", "-q", "-b", "main")
	e.git(dir, "add", ".")
	e.git(dir, "commit", "-qm", "Two that don't render")
	e.createFleet(map[string]any{"git": map[string]any{"url": dir, "interval": "1s"}})
	for name, spec := range map[string]map[string]any{
		"nothing": {"git": map[string]any{"url": dir, "interval": "1s"}, "overlays": map[string]any{"paths": []any{"nowhere/*"}}},
		"lost":    {"git": map[string]any{"url": filepath.Join(dir, "gone"), "interval": "1s"}},
	} {
		a.Expect(admin.Create(a.ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "capstan.dev/v1alpha1", "kind": "Fleet",
			"metadata": map[string]any{"name": name, "namespace": "hapless-system"}, "spec": spec,
		}})).To(gomega.Succeed())
	}
	e.startAgent("--metrics-address", a.metrics[1], "--metrics-max-overlays", "1")
}

// lead takes the lease from whoever had it.
func (a *alerts) lead() {
	a.Helper()
	a.Expect(admin.Delete(a.ctx, a.lease)).To(gomega.Succeed())
}

// faultyGitea stands before Gitea, and doesn't let all through. It says that hardly any request is left.
func (a *alerts) faultyGitea(address string) string {
	a.Helper()
	to, err := url.Parse(address)
	if err != nil {
		a.Fatal(err)
	}
	gitea := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: func(r *http.Response) error {
			r.Header.Set("X-RateLimit-Remaining", "42")
			return nil
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case a.gitFails.Load() && strings.Contains(r.URL.Path, ".git/"):
			http.Error(w, "no Git today", http.StatusServiceUnavailable)
		case a.statusesFail.Load() && strings.Contains(r.URL.Path, "/statuses/"):
			w.Header().Set("X-RateLimit-Remaining", "42")
			http.Error(w, `{"message": "no statuses today"}`, http.StatusForbidden)
		default:
			gitea.ServeHTTP(w, r)
		}
	}))
	a.Cleanup(server.Close)
	return server.URL
}

// faultyAPIServer stands before the API server, and doesn't let all through. It returns a kubeconfig.
func (a *alerts) faultyAPIServer() string {
	a.Helper()
	to, err := url.Parse(mgmt.RESTConfig().Host)
	if err != nil {
		a.Fatal(err)
	}
	transport, err := rest.TransportFor(mgmt.RESTConfig())
	if err != nil {
		a.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, Transport: transport, FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.watchesFail.Load() && strings.HasSuffix(r.URL.Path, "/machinesets") && r.URL.Query().Has("watch") {
			http.Error(w, "no MachineSets today", http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	a.Cleanup(server.CloseClientConnections) // watches don't end by themselves
	path := filepath.Join(a.TempDir(), "kubeconfig")
	config := clientcmdapi.NewConfig()
	config.Clusters["faulty"] = &clientcmdapi.Cluster{Server: server.URL}
	config.Contexts["faulty"] = &clientcmdapi.Context{Cluster: "faulty"}
	config.CurrentContext = "faulty"
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		a.Fatal(err)
	}
	return path
}

// workers is how cluster.yaml says how many there are.
func workers(n int) string { return fmt.Sprintf("name: workers\nspec:\n  replicas: %d\n", n) }

// push changes files, and pushes that.
func (a *alerts) push(message string, change func()) {
	a.Helper()
	change()
	a.git(a.dir, "commit", "-qam", message)
	a.git(a.dir, "push", "-q", "origin", "main")
}

// setDriftMode says what the Fleet does about drift, and waits until the agent knows: it hears of Fleets and of what
// people edit next in any order.
func (a *alerts) setDriftMode(mode string) {
	a.Helper()
	fleet := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "capstan.dev/v1alpha1", "kind": "Fleet", "metadata": map[string]any{"name": "fleet", "namespace": "alerts-system"},
	}}
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec": {"drift": {"mode": %q}}}`, mode))
	a.Expect(admin.Patch(a.ctx, fleet, patch)).To(gomega.Succeed())
	said := fleet.GetGeneration()
	a.Eventually(func() (int64, error) {
		err := admin.Get(a.ctx, client.ObjectKeyFromObject(fleet), fleet)
		known, _, _ := unstructured.NestedInt64(fleet.Object, "status", "observedGeneration")
		return known, err
	}).Should(gomega.BeNumerically(">=", said))
}

// person patches the workers' live object of a kind, as kubectl edit does.
func (a *alerts) person(kind, patch string) {
	a.Helper()
	a.Expect(a.tryPerson(a.ctx, kind, patch)).To(gomega.Succeed())
}

func (a *alerts) tryPerson(ctx context.Context, kind, patch string) error {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": kind, "metadata": map[string]any{"name": "alerts-workers", "namespace": a.namespace},
	}}
	return admin.Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner("kubectl-edit"))
}

// insist has a person do the same again and again until stop is called.
func (a *alerts) insist(kind, patch string) (stop func()) {
	a.Helper()
	ctx, cancel := context.WithCancel(a.ctx)
	done := make(chan error, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-time.After(100 * time.Millisecond):
			}
			if err := a.tryPerson(ctx, kind, patch); err != nil && ctx.Err() == nil {
				done <- err
				return
			}
		}
	}()
	a.Cleanup(cancel)
	return func() {
		a.Helper()
		cancel()
		a.Expect(<-done).To(gomega.Succeed())
	}
}

// propose changes the version of Kubernetes on the branch of the pull request.
func (a *alerts) propose(from, to string) {
	a.Helper()
	a.git(a.dir, "switch", "-q", "newer")
	edit(a.T, filepath.Join(a.dir, "clusters", "alerts", "cluster.yaml"), from, to)
	a.git(a.dir, "commit", "-qam", "alerts: "+to)
	a.git(a.dir, "push", "-q", "origin", "newer")
	a.git(a.dir, "switch", "-q", "main")
}

// deliver sends a webhook with this signature.
func (a *alerts) deliver(signature string) {
	a.Helper()
	request, err := http.NewRequestWithContext(a.ctx, http.MethodPost, "http://"+a.receiver+"/webhooks/alerts-system/fleet", strings.NewReader("{}"))
	if err != nil {
		a.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Gitea-Event", "push")
	request.Header.Set("X-Gitea-Signature", signature)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		a.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		a.Fatalf("a webhook with a wrong signature: %s", answer.Status)
	}
}

// hold keeps the Cluster from going until release is called.
func (a *alerts) hold() (release func()) {
	a.Helper()
	const finalizer = "test.capstan.dev/hold"
	change := func(change func([]string) []string) {
		a.Helper()
		a.Eventually(func() error { // Cluster API changes the list, too
			c := &clusterv1.Cluster{}
			if err := admin.Get(a.ctx, a.key(a.namespace), c); err != nil {
				return err
			}
			before := c.DeepCopy()
			c.Finalizers = change(c.Finalizers)
			return admin.Patch(a.ctx, c, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		}).Should(gomega.Succeed())
	}
	change(func(all []string) []string { return append(all, finalizer) })
	return func() {
		change(func(all []string) []string {
			var rest []string
			for _, f := range all {
				if f != finalizer {
					rest = append(rest, f)
				}
			}
			return rest
		})
	}
}

// firing are the alerts that fire, with all labels.
func (a *alerts) firing() ([]map[string]string, error) {
	all, err := a.prometheus.Alerts(a.ctx)
	var firing []map[string]string
	for _, alert := range all {
		if alert.State == "firing" {
			firing = append(firing, alert.Labels)
			a.fired[alert.Labels["alertname"]] = true
		}
	}
	return firing, err
}

// fires waits until an alert fires with labels that begin so.
func (a *alerts) fires(name string, labels map[string]string) {
	a.Helper()
	all := []gomega.OmegaMatcher{gomega.HaveKeyWithValue("alertname", name)}
	for k, v := range labels {
		all = append(all, gomega.HaveKeyWithValue(k, gomega.HavePrefix(v)))
	}
	a.Eventually(a.firing).Should(gomega.ContainElement(gomega.SatisfyAll(all...)), a.dump)
	a.Logf("%5.1fs %s fires", time.Since(a.started).Seconds(), name)
}

// quiet waits until none of the alerts fires for the first agent.
func (a *alerts) quiet(names ...string) {
	a.Helper()
	for _, name := range names {
		a.Eventually(a.firing).ShouldNot(gomega.ContainElement(gomega.SatisfyAll(
			gomega.HaveKeyWithValue("alertname", name), gomega.Not(gomega.HaveKeyWithValue("namespace", "hapless-system")))), a.dump)
	}
}

// quietFleet waits until nothing fires for the first agent's Fleet.
func (a *alerts) quietFleet() {
	a.Helper()
	a.Eventually(a.firing).ShouldNot(gomega.ContainElement(gomega.HaveKeyWithValue("namespace", "alerts-system")), a.dump)
}

// record adds what the first agent's metrics say now.
func (a *alerts) record() {
	a.Helper()
	if *recordMetrics == "" {
		return
	}
	request, err := http.NewRequestWithContext(a.ctx, http.MethodGet, "http://"+a.metrics[0]+"/metrics", nil)
	if err != nil {
		a.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		a.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		a.Fatal(err)
	}
	fmt.Fprintf(&a.recorded, "-- %.3f --\n", float64(time.Now().UnixMilli())/1000)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "capstan_") || strings.HasPrefix(line, "leader_election_") {
			a.recorded.WriteString(line)
		}
	}
	if err := os.WriteFile(*recordMetrics, a.recorded.Bytes(), 0o600); err != nil {
		a.Fatal(err)
	}
}
