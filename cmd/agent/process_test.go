package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/gittest"
	"capstan.dev/capstan/internal/testenv"
)

// freeAddress returns an address that nothing listens on, and that no server gets that
// leaves the choice to the system.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := giteatest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// get returns the status code and the body of a page; code 0 if nobody answers.
func (w *world) get(url string) (code int, body string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, url, http.NoBody)
	w.must(err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	w.must(err)
	return resp.StatusCode, string(content)
}

func (w *world) untilOK(url string) {
	w.Helper()
	w.eventually(url+" answers 200", func() string {
		if code, body := w.get(url); code != http.StatusOK {
			return fmt.Sprintf("%d %s", code, body)
		}
		return ""
	})
}

func settings(value string) map[string]string {
	return overlayOf("clusters/dev", fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: NS}, data: {v: %q}}`, value))
}

// TestServing checks the pages of a running agent, and that the metrics are those
// of the reference.
func TestServing(t *testing.T) {
	w := newWorld(t)
	health, metrics, hooks := freeAddress(t), freeAddress(t), freeAddress(t)
	p := w.agent("--health-address", health, "--metrics-address", metrics, "--webhook-address", hooks, "--external-url", "https://capstan.example.com")
	w.untilOK("http://" + health + "/healthz")
	w.untilOK("http://" + health + "/readyz")

	w.must(env.Client().Create(w.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "forge"}, Data: map[string][]byte{"token": []byte("forge-token")},
	}))
	w.fleet("home", func(f *v1alpha1.Fleet) { // of a forge that is down
		f.Spec.Forge = &v1alpha1.ForgeSpec{
			Kind: v1alpha1.ForgeGitea, URL: "http://" + freeAddress(t), Repository: "owner/name", SecretRef: &v1alpha1.LocalReference{Name: "forge"},
		}
	})
	w.untilApplied("clusters/dev", w.commit(merge(settings("one"), map[string]string{"clusters/broken/kustomization.yaml": "resources: [none.yaml]\n"})))
	w.commit(settings("one"))
	w.commit(overlayOf("clusters/dev", `{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: NS}}`))
	w.look()
	w.eventually("the object that left Git is deleted", func() string {
		if u := w.live("v1", "ConfigMap", w.ns, "settings"); u != nil {
			return fmt.Sprint(u.Object)
		}
		return ""
	})
	if code, body := w.get("http://" + hooks + "/fleets/" + w.ns + "/home"); code != http.StatusOK || !strings.Contains(body, "clusters/dev") {
		t.Errorf("the status page: %d\n%s", code, body)
	}
	if code, body := w.get("http://" + hooks + "/webhooks/" + w.ns + "/home"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET of a webhook's address: %d\n%s", code, body)
	}
	w.eventually("the metrics are those of the reference", func() string {
		_, body := w.get("http://" + metrics + "/metrics")
		served := map[string]string{}
		for _, m := range regexp.MustCompile(`(?m)^# TYPE (capstan_\S+) (\S+)$`).FindAllStringSubmatch(body, -1) {
			served[m[1]] = m[2]
		}
		return difference(documentedMetrics(t), served)
	})
	w.stop(p)
}

// documentedMetrics reads the table of the reference: name to type.
func documentedMetrics(t *testing.T) map[string]string {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, "docs", "reference", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(capstan_\\w+)` \\| (\\w+)").FindAllStringSubmatch(string(content), -1) {
		documented[m[1]] = m[2]
	}
	return documented
}

func difference(want, got map[string]string) string {
	var lines []string
	for name, kind := range want {
		if got[name] != kind {
			lines = append(lines, fmt.Sprintf("%s is documented as %s and served as %q", name, kind, got[name]))
		}
	}
	for name := range got {
		if want[name] == "" {
			lines = append(lines, name+" is not documented")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestStop stops an agent in the middle of its work: it ends well and in time, and
// the next one goes on.
func TestStop(t *testing.T) {
	w := newWorld(t)
	hold, entered, release := w.repo.HTTP().Hold()
	w.repo.HTTP().SetFault(gittest.InfoRefs, hold)
	hash := w.commit(settings("one"))
	w.fleet("home")
	p := w.agent("--shutdown-timeout=60s")
	<-entered // the agent waits for the Git server
	w.stop(p)
	release()
	w.repo.HTTP().SetFault(gittest.InfoRefs, nil)
	w.agent()
	w.untilApplied("clusters/dev", hash)
}

// TestBadFlags checks that an agent that can't work says why and doesn't start.
func TestBadFlags(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ flag, want string }{
		{"--log-level=loud", `--log-level "loud": want info or debug`},
		{"--log-format=xml", `--log-format "xml": want json or text`},
		{"--requests=0", "must be positive"},
		{"--overlay-workers=-1", "must be positive"},
		{"--fleet-workers=0", "must be positive"},
		{"--metrics-address=nonsense", "nonsense"},
		{"--webhook-address=nonsense", "--webhook-address: receive webhooks at nonsense"},
		{"--external-url=https://capstan.example.com", "--webhook-address, which is turned off"},
		{"--context=none", `context "none" does not exist`},
	} {
		p := w.agent(c.flag)
		<-p.done
		if code := p.cmd.ProcessState.ExitCode(); code != exitFailure || !strings.Contains(p.log(), c.want) {
			t.Errorf("%s: exit code %d, want %d and %q in:\n%s", c.flag, code, exitFailure, c.want, p.log())
		}
	}
}

// TestLeaderElection runs two agents: one acts, and after its end the other.
func TestLeaderElection(t *testing.T) {
	w := newWorld(t)
	first := w.commit(settings("one"))
	w.fleet("home")
	var leases []string
	leader := func() string {
		var lease coordinationv1.Lease
		if err := env.Client().Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: "capstan.capstan.dev"}, &lease); err != nil || lease.Spec.HolderIdentity == nil {
			return ""
		}
		return *lease.Spec.HolderIdentity
	}
	a := w.agent("--leader-elect=true")
	w.untilApplied("clusters/dev", first)
	leases = append(leases, leader())
	health := freeAddress(t)
	b := w.agent("--leader-elect=true", "--health-address", health)
	w.untilOK("http://" + health + "/readyz") // who waits is ready: it can take over
	second := w.commit(settings("two"))
	w.look()
	w.untilApplied("clusters/dev", second)
	if got := leader(); got != leases[0] {
		t.Errorf("the lease went from %q to %q while its holder ran", leases[0], got)
	}
	if strings.Contains(b.log(), "new revision") {
		t.Errorf("the agent that doesn't lead acts:\n%s", b.log())
	}

	// Killed, the leader leaves a lease that has to run out; its time is written
	// back so that the test needn't wait for it.
	a.kill()
	third := w.commit(settings("three"))
	var lease coordinationv1.Lease
	w.must(env.Client().Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: "capstan.capstan.dev"}, &lease))
	second1, old := int32(1), metav1.NewMicroTime(lease.Spec.RenewTime.Add(-1e12))
	lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &second1, &old
	w.must(env.Client().Update(w.Context(), &lease))
	w.look()
	w.untilApplied("clusters/dev", third)
	if got := leader(); got == leases[0] || got == "" {
		t.Errorf("the lease is held by %q", got)
	}

	// Stopped, it gives the lease away.
	w.stop(b)
	if got := leader(); got != "" {
		t.Errorf("after the stop the lease is still held by %q", got)
	}
}
