package agent_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/gittest"
)

// canaries are what must be seen by nobody: values of Secrets, and what other people's
// objects hold.
var canaries = map[string]string{
	"TOKEN":   "canary-of-a-variable",
	"COUNT":   "730519284",
	"MACHINE": "canary-of-a-machine-config",
	"live":    "canary-of-a-live-secret",
	"theirs":  "canary-of-another-team",
	"config":  "canary-of-their-machine-config",
}

func talosTemplate(suffix, patch string) string {
	return fmt.Sprintf(`{apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3, kind: TalosConfigTemplate, metadata: {name: workers, namespace: NS%s},
 spec: {template: {spec: {generateType: worker, talosVersion: v1.12, strategicPatches: [%q]}}}}`, suffix, patch)
}

func talosControlPlane(suffix, version, patch string) string {
	return fmt.Sprintf(`{apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, metadata: {name: cp, namespace: NS%s},
 spec: {version: %s, replicas: 3, infrastructureTemplate: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxMachineTemplate, name: cp},
 controlPlaneConfig: {controlplane: {generateType: controlplane, strategicPatches: [%q]}}}}`, suffix, version, patch)
}

// A stranger's fork reads nothing of the cluster by a pull request: neither values of
// Secrets that the Fleet substitutes, nor what its objects or those of others hold.
func TestForkSeesNoSecrets(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	registry, sent := prometheus.NewRegistry(), &bodies{}
	h.wire = func(rt http.RoundTripper) http.RoundTripper { sent.RoundTripper = rt; return sent }
	for name, value := range canaries {
		if name != "COUNT" { // which may be in a UID
			h.secrets = append(h.secrets, value)
		}
	}
	h.must(env.Client().Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: h.ns, Name: "values"},
		StringData: map[string]string{"TOKEN": canaries["TOKEN"], "COUNT": canaries["COUNT"], "MACHINE": canaries["MACHINE"]},
	}))
	// Another team's.
	theirs := h.ns + "-theirs"
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: theirs}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: theirs, Name: "settings"}, Data: map[string]string{"v": canaries["theirs"]}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: theirs, Name: "credentials"}, StringData: map[string]string{"password": canaries["live"]}},
	} {
		h.must(env.Client().Create(t.Context(), o))
	}
	config := h.object("ConfigMap", "-theirs/workers")
	config.Object = parse(strings.ReplaceAll(talosTemplate("-theirs", "machine: {token: "+canaries["config"]+"}"), "NS", h.ns))
	h.must(env.Client().Create(t.Context(), config))

	whole := func(value, version string, more ...string) map[string]string {
		return clusterOf("a", value, append([]string{
			talosControlPlane("-a", version, "machine: {token: '${MACHINE}'}"), talosTemplate("-a", "machine: {token: '${MACHINE}', size: "+value+"}"),
			secret("-a", "tokens", "${TOKEN}"),
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: url, namespace: NS-a}, data: {v: "https://user:${TOKEN}@host", n: "${COUNT}"}}`,
		}, more...)...)
	}
	first := h.commit(whole("one", "v1.34.0"))
	h.publish()
	h.fleet(h.direct, func(f *v1alpha1.Fleet) {
		f.Spec.Substitute = &v1alpha1.SubstituteSpec{From: []v1alpha1.SubstituteSource{{Kind: "Secret", Name: "values"}}}
	})
	h.start(withSandbox, func(o *agent.Options) { o.Registerer = registry })
	h.untilApplied(revision(first), "clusters/a")
	h.must(env.Client().Patch(t.Context(), h.object("Secret", "-a/credentials"), client.RawPatch("application/merge-patch+json",
		[]byte(`{"stringData":{"added":"`+canaries["live"]+`"}}`)), client.FieldOwner("person")))
	mark := h.mark()
	sent.mu.Lock()
	sent.all = nil
	sent.mu.Unlock()

	user, address := h.fork()
	cm := func(metadata, data string) string {
		return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {namespace: NS-a, %s}, data: {%s}}`, metadata, data)
	}
	attempts := map[string]map[string]string{
		"values": whole("two", "v1.35.0",
			cm(`name: plain`, `v: "${TOKEN}", n: "${COUNT}", m: "${MACHINE}"`),
			cm(`name: annotated, annotations: {a: "${TOKEN}", "x/${TOKEN}": b}`, `v: a`),
			cm(`name: labelled, labels: {l: "${TOKEN}"}`, `"${TOKEN}": a`),
			cm(`name: "n-${TOKEN}"`, `v: a`),
			"apiVersion: v1\nkind: Service\nmetadata: {name: typed, namespace: NS-a}\nspec:\n  ports:\n  - port: ${COUNT}\n",
			"apiVersion: cluster.x-k8s.io/v1beta2\nkind: MachineDeployment\nmetadata: {name: many, namespace: NS-a}\nspec:\n  clusterName: a\n"+
				"  replicas: ${COUNT}\n  paused: ${COUNT}\n"),
		"refused": overlayOf("clusters/b", cm(`name: bad, labels: {l: "${TOKEN} !"}`, `v: a`), cm(`name: worse`, `v: {"${TOKEN}": "${COUNT}"}`),
			cm(`name: worst, annotations: {a: "${TOKEN}"}, "${TOKEN}": 3`, `v: a`),
			// Conflicts with what another field manager holds, and fields that can't change.
			strings.ReplaceAll(talosTemplate("-a", "machine: {token: '${TOKEN}'}"), "workers", "other")),
		"unrendered": overlayOf("clusters/b", cm(`name: "${TOKEN} ${UNKNOWN} ${COUNT}"`, `v: a`)),
		"live":       overlayOf("clusters/a", namespaceOf("-a"), cluster("-a", "a"), configMap("-a", "settings", "one"), talosTemplate("-a", "machine: {token: guess}"), talosControlPlane("-a", "v1.36.0", "")),
		"others": overlayOf("clusters/b", configMap("-theirs", "settings", "guess"), secret("-theirs", "credentials", "guess"),
			talosTemplate("-theirs", "machine: {}")),
		"others refused": overlayOf("clusters/b", `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: NS-theirs}, data: {v: {}}, immutable: 3}`,
			`{apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3, kind: TalosConfigTemplate, metadata: {name: workers, namespace: NS-theirs}, spec: {template: 3}}`),
		"guesses": overlayOf("clusters/b", namespaceOf("-b"), cm(`name: guess`, `v: "canary-of-", n: "73051928"`),
			`{apiVersion: v1, kind: Secret, metadata: {name: credentials, namespace: NS-a}, stringData: {password: guess}}`),
	}
	var told strings.Builder
	for name, files := range attempts {
		branch := strings.ReplaceAll(name, " ", "-")
		head := h.branch(branch, first, files)
		h.send(address, branch)
		number := h.pull(user.Name, user.Name+":"+branch, "main", name)
		told.WriteString(h.untilPlanned(head, ""))
		told.WriteString(h.untilComment(number, "clusters/"))
		for context, text := range h.statuses(head) {
			told.WriteString(context + " " + text + "\n")
		}
	}
	if !strings.Contains(told.String(), "v1.35.0") || !strings.Contains(told.String(), "isn't managed by this Fleet") {
		t.Errorf("the plans say too little:\n%s", told.String())
	}
	h.settled()
	dryRuns := strings.Join(sent.dryRuns(), "\n")
	if !strings.Contains(dryRuns, "v1.35.0") {
		t.Errorf("nothing was checked:\n%s", dryRuns)
	}
	everything := map[string]string{
		"the forge": told.String(), "a dry-run": dryRuns, "metrics": gathered(t, registry),
		"the Fleet": toJSON(h.getFleet().Status), "events": strings.Join(h.events(), "\n"),
	}
	for where, text := range everything {
		for name, value := range canaries {
			if i := strings.Index(text, value); i >= 0 {
				t.Errorf("%s holds %s: …%s…", where, name, text[max(0, i-200):min(len(text), i+100)])
			}
		}
	}
	for _, request := range h.sent(mark) {
		if strings.Contains(request, "(dry-run)") && strings.Contains(request, " secrets ") || strings.Contains(request, "get secrets NS-theirs") {
			t.Errorf("the agent sent %s", request)
		}
	}
	h.appliesNothing(mark)
	h.check()
}

// What a hostile pull request holds is refused, with a reason, and nothing else suffers.
func TestHostilePullRequest(t *testing.T) {
	h := newHost(t, giteatest.ForTest(t))
	var outside atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { outside.Add(1) }))
	t.Cleanup(server.Close)
	first := h.commit(merge(simple("a", "one"), simple("b", "one")))
	h.publish()
	h.fleet(h.direct)
	h.start(withSandbox)
	h.untilApplied(revision(first), "clusters/a", "clusters/b")
	mark := h.mark()
	user, address := h.fork()
	propose := func(branch string, files map[string]string) (string, int) {
		t.Helper()
		head := h.branch(branch, first, files)
		h.send(address, branch)
		return head, h.pull(user.Name, user.Name+":"+branch, "main", "<script>@"+h.user.Name+"</script>")
	}

	only := func(kustomization string) map[string]string {
		return map[string]string{"kustomization.yaml": kustomization}
	}
	one := func(file string) map[string]string {
		return map[string]string{"kustomization.yaml": "resources: [a.yaml]\n", "a.yaml": file}
	}
	bomb := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\na: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c]\n", c, c, c-1)
	}
	plugin := "apiVersion: v1\nkind: Any\nmetadata:\n  name: x\n  annotations:\n    config.kubernetes.io/function: |\n      %s\n"
	hostile := []map[string]string{
		one(gittest.LinkPrefix + "/etc/passwd"), one(gittest.LinkPrefix + "../../../../../../proc/self/environ"), one(gittest.LinkPrefix + "../b/all.yaml"),
		one(bomb), only("resources: [.]\n"), only("resources: [../../../../../../etc]\n"),
		only("configMapGenerator: [{name: a, files: [/etc/passwd]}]\n"),
		only("resources: ['" + server.URL + "/base']\n"), only("resources: ['git::" + server.URL + "/base']\n"),
		only("patches: [{path: '" + server.URL + "/p.yaml'}]\nresources: [../a]\n"),
		only("helmCharts: [{name: a, repo: '" + server.URL + "'}]\n"),
		{"kustomization.yaml": "generators: [g.yaml]\n", "g.yaml": fmt.Sprintf(plugin, "exec: {path: /bin/true}")},
		{"kustomization.yaml": "generators: [g.yaml]\n", "g.yaml": fmt.Sprintf(plugin, "container: {image: a, network: true}")},
		{"kustomization.yaml": gittest.LinkPrefix + "../../../../etc/passwd"},
		{"kustomization.yaml": "resources: [../h00]\n", "x": ""},
	}
	files := map[string]string{"clusters/linked": gittest.LinkPrefix + "/etc"}
	for n, overlay := range hostile {
		for name, content := range overlay {
			files[fmt.Sprintf("clusters/h%02d/%s", n, name)] = content
		}
	}
	head, number := propose("hostile", files)
	h.untilPlanned(head, "failure: ")
	body := h.untilComment(number, "Problems")
	if strings.Contains(body, "root:") || strings.Contains(body, "PATH=") {
		t.Errorf("files of the agent's machine are shown:\n%s", body)
	}
	for n := 1; n < len(hostile); n++ { // the first is a base of the last
		if row := rowOf(body, fmt.Sprintf("clusters/h%02d", n)); !strings.Contains(row, "? | ? |") {
			t.Errorf("overlay %d is shown as %q", n, row)
		}
	}
	if n := outside.Load(); n > 0 {
		t.Errorf("%d requests went out", n)
	}

	// What is shown of manifests is text and nothing else.
	loud := "@" + h.user.Name + " <img src=x> [a](http://127.0.0.1:1/) #1 ![x](http://127.0.0.1:1/y) </details> ``` ~~~ <!-- capstan plan --> | x"
	head, number = propose("markup", merge(overlayOf("clusters/a", namespaceOf("-a"),
		fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: NS-a, annotations: {a: %q}}, data: {v: %q}}`, loud, loud+"\n```\n"+loud)),
		map[string]string{"clusters/" + strings.ReplaceAll("<b>@x", "/", "") + "/kustomization.yaml": "resources: [" + fmt.Sprintf("%q", loud) + "]\n"}))
	h.untilPlanned(head, "failure: ")
	body = h.untilComment(number, "clusters/a")
	rendered := h.render(body)
	for _, bad := range []string{"<img", "<script", `href="http://127.0.0.1:1`, `class="mention"`, "/issues/1\"", `href="/` + h.user.Name + `"`} {
		if strings.Contains(rendered, bad) {
			t.Errorf("the comment shows %q:\n%s", bad, rendered)
		}
	}
	if strings.Count(rendered, "<details") != strings.Count(rendered, "</details") {
		t.Errorf("a fold is broken:\n%s", rendered)
	}

	// It exhausts the memory, or is too large in one way or another.
	grows := overlayOf("clusters/grows", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: some-text-of-a, b: some-text-of-b}}`)
	var k strings.Builder
	k.WriteString("resources: [all.yaml]\nreplacements:\n")
	for i := range 60 {
		from, to := "ab"[i%2:i%2+1], "ab"[(i+1)%2:(i+1)%2+1]
		fmt.Fprintf(&k, "- source: {kind: ConfigMap, name: a, fieldPath: data.%s}\n  targets: [{select: {kind: ConfigMap}, fieldPaths: [data.%s], options: {delimiter: '/', index: 9999999}}]\n", from, to)
	}
	grows["clusters/grows/kustomization.yaml"] = k.String()
	large := strings.Repeat("# nothing at all\n", 36<<20/17) // more than a file may have
	random := make([]byte, 65<<20)
	_, _ = rand.Read(random)
	many := map[string]string{}
	for n := range 10_001 {
		many[fmt.Sprintf("many/%d", n)] = ""
	}
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"memory", merge(grows, simple("a", "beside memory")), "failure: clusters/grows: "},
		{"large-file", merge(overlayOf("clusters/large", namespaceOf("-large")), map[string]string{"clusters/large/all.yaml": large}, simple("a", "beside large")), "failure: clusters/large: "},
		{"large-kustomization", map[string]string{"clusters/large/kustomization.yaml": large}, "failure: "},
		{"many-files", many, "failure: "},
		{"large-pack", map[string]string{"random": string(random)}, "failure: "},
	} {
		if test.name == "large-pack" {
			h.repo.Git("config", "core.compression", "0") // nothing can be won, and it takes long to find out
		}
		head, number := propose(test.name, test.files)
		text := h.untilPlanned(head, test.want)
		body := h.untilComment(number)
		t.Logf("%s: %s", test.name, text)
		if strings.Contains(text+body, h.gitea.URL()) {
			t.Errorf("%s: strangers are told where the agent reads: %s\n%s", test.name, text, body)
		}
		if strings.Contains(body, "no cluster affected") && !strings.Contains(body, "\n- `") {
			t.Errorf("%s: the comment says\n%s", test.name, body)
		}
		if test.files["clusters/a/all.yaml"] != "" && !strings.Contains(body, "beside "+strings.Split(test.name, "-")[0]) {
			t.Errorf("%s: what is beside it is lost:\n%s", test.name, body)
		}
	}

	// An overlay that is too large once it was planned: the comment doesn't say it was fine.
	head, number = propose("good", simple("a", "two"))
	h.untilPlanned(head, "success: 1 overlay: 0 to create, 1 to update")
	h.untilComment(number, "two")
	head = h.branch("good", first, many)
	h.send(address, "good")
	h.untilPlanned(head, "failure: ")
	h.untilComment(number, "more than 10000")
	head = h.branch("good", first, simple("a", "three"))
	h.send(address, "good")
	h.untilPlanned(head, "success: 1 overlay")
	h.untilComment(number, "three")
	if n := outside.Load(); n > 0 {
		t.Errorf("%d requests went out", n)
	}
	h.appliesNothing(mark)
	h.wantLive("ConfigMap", "-a/settings", "-b/settings")
	h.check()
}

// rowOf finds an overlay in the comment's table.
func rowOf(body, path string) string {
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "| `"+path+"`") {
			return line
		}
	}
	return ""
}

// render has Gitea show a comment as it would in the repository.
func (h *host) render(body string) string {
	h.Helper()
	token, err := h.gitea.Token(h.Context(), h.user.Name, "write:misc", "read:repository", "read:user")
	h.must(err)
	content, err := json.Marshal(map[string]any{"Text": body, "Mode": "comment", "Context": "/" + h.user.Name + "/fleet"})
	h.must(err)
	r, err := http.NewRequestWithContext(h.Context(), http.MethodPost, h.gitea.URL()+"/api/v1/markdown", bytes.NewReader(content))
	h.must(err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "token "+token)
	answer, err := http.DefaultClient.Do(r)
	h.must(err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	h.must(err)
	if answer.StatusCode != http.StatusOK {
		h.Fatalf("%s: %s", answer.Status, text)
	}
	return string(text)
}
