package planner_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
	"capstan.dev/capstan/internal/planner"
)

const (
	settings = `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: NS}, data: {url: "https://u:${PASSWORD}@h", a: one}}`
	secret   = `{apiVersion: v1, kind: Secret, metadata: {name: secret, namespace: NS}, stringData: {password: "${PASSWORD}", plain: one}}`
	pool     = `
apiVersion: controlplane.cluster.x-k8s.io/v1alpha3
kind: TalosControlPlane
metadata: {name: cp, namespace: NS}
spec:
  version: v1.34.0
  replicas: 3
  infrastructureTemplate: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1, kind: ProxmoxMachineTemplate, name: cp}
  controlPlaneConfig:
    controlplane:
      generateType: controlplane
      strategicPatches: ["machine: {token: '${TOKEN}'}"]`
	service = `
apiVersion: v1
kind: Service
metadata: {name: s, namespace: NS}
spec:
  ports:
  - port: ${PORT}`
	foreign = "an object of this name exists and isn't managed by this Fleet"
)

func docs(manifests ...string) string { return strings.Join(manifests, "\n---\n") }

// What is recorded with the same digest costs no request, though values of Secrets
// are in it.
func TestUntrustedUnchanged(t *testing.T) {
	b := newBed(t)
	all := docs(settings, secret, pool, service,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: ports, namespace: NS}, data: {port: "${PORT}"}}`)
	overlay := b.merged("clusters/a", all)
	b.want(b.propose("clusters/a", all, overlay), "unchanged ConfigMap ports", "unchanged ConfigMap settings", "unchanged Secret secret",
		"unchanged Service s", "unchanged TalosControlPlane cp")
	if got := b.requests(); got != nil {
		t.Error(got)
	}
}

// Of Secrets only the action is told.
func TestUntrustedSecrets(t *testing.T) {
	b := newBed(t)
	overlay := b.merged("clusters/a", secret)
	const note = "; note: a Secret is not sent before it is merged"
	got := b.propose("clusters/a", docs(strings.ReplaceAll(secret, "one", "hush-hush"), strings.ReplaceAll(secret, "name: secret", "name: new")), overlay)
	b.want(got, "create Secret new"+note, "update Secret secret"+note)
	if strings.Contains(got.text, "hush") {
		t.Error(got.text)
	}
	if got := b.requests(); got != nil {
		t.Error(got)
	}
}

// A change beside a value of a Secret shows that change alone; sent is a
// placeholder.
func TestUntrustedPlaceholders(t *testing.T) {
	b := newBed(t)
	overlay := b.merged("clusters/a", docs(settings, pool))
	got := b.propose("clusters/a", docs(strings.ReplaceAll(settings, "one", "two"), strings.ReplaceAll(pool, "v1.34.0", "v1.35.0")), overlay)
	b.want(got, "update ConfigMap settings; data.a: one → two", "update TalosControlPlane cp; spec.version: v1.34.0 → v1.35.0")
	if !slices.ContainsFunc(b.bodies.sent, func(s string) bool { return strings.Contains(s, "https://u:@p-1f0c@@h") }) {
		t.Error("no placeholder was sent")
	}
	want := []string{
		"get configmaps NS/settings: 200", "get taloscontrolplanes NS/cp: 200",
		"patch (dry-run) configmaps NS/settings: 200", "patch (dry-run) taloscontrolplanes NS/cp: 200",
	}
	if diff := cmp.Diff(want, b.requests()); diff != "" {
		t.Error(diff)
	}

	// Another variable, in the same place, is a change, unless it has the same value.
	got = b.propose("clusters/a", docs(strings.ReplaceAll(settings, "PASSWORD", "TOKEN"), strings.ReplaceAll(pool, "TOKEN", "SAME")), overlay)
	b.want(got, "update ConfigMap settings; data.url: https://u:@p-1f0c@@h → https://u:@p-2b7e@@h", "unchanged TalosControlPlane cp")
	if !strings.Contains(got.text, "https://u:***@h") {
		t.Error(got.text)
	}
	// A number from a Secret can't be checked; it is no error.
	b.want(b.propose("clusters/b", service, nil),
		"notChecked Service s; note: can't be checked before it is merged: it may need the number that stands in a Secret")
}

// A guess at a value of a Secret is treated as any other text, in whatever way it is
// tried.
func TestUntrustedGuesses(t *testing.T) {
	b := newBed(t)
	overlay := b.merged("clusters/a", docs(settings, secret, pool, `{apiVersion: v1, kind: ConfigMap, metadata: {name: plain, namespace: NS}, data: {a: one}}`))
	attempt := func(guess string) string {
		in := func(s, variable string) string { return strings.ReplaceAll(s, "${"+variable+"}", guess) }
		list := `{apiVersion: v1, kind: ConfigMap, metadata: {name: plain, namespace: NS}, data: {a: "guesses: ` + guess + `", '` + guess + `': x}}`
		invalid := `{apiVersion: v1, kind: ConfigMap, metadata: {name: invalid, namespace: NS}, data: {a: {b: ` + guess + `}}}`
		got := b.propose("clusters/a", docs(in(settings, "PASSWORD"), in(secret, "PASSWORD"), in(pool, "TOKEN"), list, invalid), overlay)
		return strings.ReplaceAll(got.text, guess, "GUESS")
	}
	wrong := attempt("notary-password")
	for _, guess := range []string{variables["PASSWORD"], variables["TOKEN"]} {
		if diff := cmp.Diff(wrong, attempt(guess)); diff != "" {
			t.Errorf("a right guess makes a difference:\n%s", diff)
		}
	}
	if !strings.Contains(wrong, "GUESS") {
		t.Error(wrong)
	}
}

// A guess may be written around a placeholder of nothing, too.
func TestUntrustedGuessesInParts(t *testing.T) {
	b := newBed(t)
	plain := `{apiVersion: v1, kind: ConfigMap, metadata: {name: plain, namespace: NS}, data: {a: "${TOKEN}"}}`
	overlay := b.merged("clusters/a", docs(settings, secret, plain))
	attempt := func(guess string) string {
		in := b.input("clusters/a", "", overlay)
		in.Placeholders = maps.Clone(in.Placeholders)
		in.Placeholders["@p-none@"], in.Substitution.Values["NONE"] = "", "@p-none@"
		parts := guess[:9] + "${NONE}" + guess[9:]
		in.Gone, in.Tree = false, b.treeOf("clusters/a", docs(strings.ReplaceAll(settings, "${PASSWORD}", parts),
			strings.ReplaceAll(secret, "${PASSWORD}", parts), strings.ReplaceAll(plain, "${TOKEN}", parts)))
		result, err := planner.Plan(t.Context(), b.applier, in)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := result.Plan.Text(&text, false); err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer(guess[:9], "GUESS", guess[9:], "").Replace(text.String())
	}
	wrong := attempt("notary-password")
	for _, guess := range []string{variables["PASSWORD"], variables["TOKEN"]} {
		if diff := cmp.Diff(wrong, attempt(guess)); diff != "" {
			t.Errorf("a right guess makes a difference:\n%s", diff)
		}
	}
}

// Of objects that the Fleet doesn't own nothing is told but that they are there,
// whatever they hold.
func TestUntrustedForeign(t *testing.T) {
	b := newBed(t)
	label := apply.FleetLabelValue(b.ns, "fleet")
	b.other("somebody", `{apiVersion: v1, kind: ConfigMap, metadata: {name: bare, namespace: NS}, data: {a: canary-a}}`)
	b.other("somebody", `{apiVersion: v1, kind: ConfigMap, metadata: {name: labelled, namespace: NS, labels: {capstan.dev/fleet: other, capstan.dev/overlay: canary-o}, annotations: {capstan.dev/path: canary-p}}, data: {a: canary-a}}`)
	b.other("somebody", `{apiVersion: v1, kind: ConfigMap, metadata: {name: copied, namespace: NS, labels: {capstan.dev/fleet: "`+label+`", capstan.dev/overlay: `+b.owner("clusters/a").Overlay+`}}, data: {a: canary-a}}`)
	b.other("somebody", `{apiVersion: v1, kind: ConfigMap, metadata: {name: left, namespace: NS, annotations: {capstan.dev/reconcile: disabled}}, data: {a: canary-a}}`)
	b.other("kubectl", `{apiVersion: v1, kind: ConfigMap, metadata: {name: adoptable, namespace: NS}, data: {a: canary-a, b: canary-b}}`)
	b.other("somebody", `{apiVersion: v1, kind: Secret, metadata: {name: secret, namespace: NS}, stringData: {a: canary-a}}`)
	b.other("somebody", `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: paused, namespace: NS}, spec: {paused: true, infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: p}}}`)
	attempt := func(guess string) told {
		var manifests []string
		for _, name := range []string{"bare", "labelled", "copied", "left", "adoptable"} {
			manifests = append(manifests, `{apiVersion: v1, kind: ConfigMap, metadata: {name: `+name+`, namespace: NS}, data: {a: `+guess+`}}`)
		}
		manifests = append(manifests, `{apiVersion: v1, kind: Secret, metadata: {name: secret, namespace: NS}, stringData: {a: `+guess+`}}`,
			`{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: paused, namespace: NS}, spec: {infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: p}}}`)
		return b.propose("clusters/a", docs(manifests...), nil)
	}
	wrong := attempt("wrong-a")
	b.want(wrong,
		"update ConfigMap adoptable; note: "+foreign, "update ConfigMap bare; note: "+foreign, "conflict ConfigMap copied; error: "+foreign,
		"conflict ConfigMap labelled; error: "+foreign, "update ConfigMap left; note: "+foreign,
		"create Secret secret; note: a Secret is not sent before it is merged", "update Cluster paused; note: "+foreign)
	if wrong.Halted != nil {
		t.Error(wrong.Halted)
	}
	for _, r := range b.requests() {
		if strings.HasPrefix(r, "patch") {
			t.Errorf("sent: %s", r)
		}
	}
	if diff := cmp.Diff(wrong.text, attempt("canary-a").text); diff != "" {
		t.Errorf("a right guess makes a difference:\n%s", diff)
	}
}

// What others have put into the overlay's own objects is masked where it is machine
// configuration, and never quoted in errors.
func TestUntrustedOwnObjects(t *testing.T) {
	b := newBed(t)
	overlay := b.merged("clusters/a", docs(settings, pool))
	b.other("provider", `
apiVersion: controlplane.cluster.x-k8s.io/v1alpha3
kind: TalosControlPlane
metadata: {name: cp, namespace: NS}
spec:
  controlPlaneConfig:
    init: {generateType: init, data: "machine: {token: canary-live}"}`)
	b.other("provider", `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: NS}, data: {b: "x canary-password y canary-token"}}`)

	got := b.propose("clusters/a", docs(strings.ReplaceAll(settings, "one", "two"), strings.ReplaceAll(pool, "replicas: 3", "replicas: 5")), overlay)
	b.want(got, "update ConfigMap settings; data.a: one → two", "update TalosControlPlane cp; spec.replicas: 3 → 5")

	got = b.propose("clusters/a", docs(strings.ReplaceAll(settings, "a: one", "b: mine"), strings.ReplaceAll(pool, "replicas: 3", "replicas: many")), overlay)
	var errs []string
	for _, c := range got.Plan.Changes {
		errs = append(errs, c.Error)
	}
	if text := strings.Join(errs, "\n"); !strings.Contains(text, "provider") || !strings.Contains(text, "replicas") {
		t.Errorf("errors: %s", text)
	}
}

// A Cluster that is paused halts the overlay that owns it.
func TestUntrustedHalted(t *testing.T) {
	b := newBed(t)
	cluster := `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: c, namespace: NS}, spec: {infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: p}}}`
	overlay := b.merged("clusters/a", docs(cluster, settings))
	b.other("somebody", `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: c, namespace: NS}, spec: {paused: true}}`)
	got := b.propose("clusters/a", docs(cluster, strings.ReplaceAll(settings, "one", "two")), overlay)
	b.want(got, "update ConfigMap settings; data.a: one → two", "unchanged Cluster c")
	if got.Halted == nil || got.Halted.Reason != v1alpha1.ClusterPausedReason {
		t.Errorf("halted: %v", got.Halted)
	}
}

// What leaves is decided as the agent decides it. A name that is a value of a Secret
// isn't shown, nor taken for gone.
func TestUntrustedLeaving(t *testing.T) {
	b := newBed(t)
	named := `{apiVersion: v1, kind: ConfigMap, metadata: {name: "${PASSWORD}", namespace: NS}, data: {a: one}}`
	overlay := b.merged("clusters/a", docs(settings, secret, named))
	b.want(b.propose("clusters/a", docs(secret, named), overlay), "unchanged ConfigMap ***", "delete ConfigMap settings", "unchanged Secret secret")
	b.want(b.propose("clusters/a", docs(settings, secret), overlay), "delete ConfigMap ***", "unchanged ConfigMap settings", "unchanged Secret secret")
	b.want(b.propose("clusters/a", docs(settings, secret, strings.ReplaceAll(named, "one", "two")), overlay),
		"notChecked ConfigMap ***; note: its name holds a value that comes from a Secret, so it is not sent before it is merged",
		"unchanged ConfigMap settings", "unchanged Secret secret")
	got := b.propose("clusters/a", "", overlay)
	if n := got.Plan.Count(plan.PendingDeletion); n != 3 {
		t.Errorf("%d wait for an approval:\n%s", n, got.text)
	}

	// Nothing is deleted while another overlay doesn't render.
	b.around.Add("clusters/b", "fleet-b", nil)
	got = b.propose("clusters/a", docs(secret, named), overlay)
	if got.Plan.Count(plan.Delete) != 0 || !strings.Contains(got.text, "clusters/b") {
		t.Error(got.text)
	}
}

// Overlays of one pull request bear on each other.
func TestUntrustedNeighbours(t *testing.T) {
	b := newBed(t)
	namespace := `{apiVersion: v1, kind: Namespace, metadata: {name: NS-shared}}`
	a, other := b.merged("clusters/a", docs(settings, namespace)), b.merged("clusters/b", secret)
	b.around = planner.NeighboursFromInventories([]v1alpha1.ClusterOverlay{*a, *other}, map[string]bool{"clusters/b": true})

	// Both have it.
	got := b.propose("clusters/b", docs(settings, secret), other)
	b.want(got, "invalid ConfigMap settings; error: it is rendered by two overlays, clusters/a and clusters/b; remove it from one of them",
		"unchanged Secret secret")
	// A Namespace may be shared.
	got = b.propose("clusters/b", docs(namespace, secret), other)
	b.want(got, `update Namespace NS-shared; metadata.annotations["capstan.dev/path"]: clusters/a → <nil>; metadata.labels["capstan.dev/overlay"]: `+
		a.Name+` → <nil>`, "unchanged Secret secret")
	// One hands it to the other.
	b.around = planner.NewNeighbours()
	b.around.Add("clusters/a", a.Name, &planner.Built{})
	got = b.propose("clusters/b", docs(settings, secret), other)
	if got.Plan.Count(plan.Update) != 1 || got.Plan.HasErrors() {
		t.Error(got.text)
	}
	// It is the other's still, which doesn't render at the moment.
	b.around.Add("clusters/a", a.Name, nil)
	got = b.propose("clusters/b", docs(settings, secret), other)
	if got.Plan.Count(plan.Conflict) != 1 || !strings.Contains(got.text, "it belongs to overlay "+a.Name) {
		t.Error(got.text)
	}
}

// Without the right to read a kind only its objects have no answer.
func TestUntrustedForbidden(t *testing.T) {
	b := newBed(t)
	b.user = "restricted-" + b.ns
	b.as(env.Restricted(t, b.user, b.ns, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "patch", "create"}}))
	for ready := false; !ready; { // the authorizer sees the rights a moment later
		_, err := b.applier.Get(t.Context(), v1alpha1.ObjectReference{Version: "v1", Kind: "ConfigMap", Namespace: b.ns, Name: "none"})
		ready = apply.IsNotFound(err)
		if err != nil && !ready && !strings.Contains(err.Error(), "may not") {
			t.Fatal(err)
		}
	}
	got := b.propose("clusters/a", docs(settings, `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: NS}, spec: {ports: [{port: 1}]}}`), nil)
	if len(got.Plan.Changes) != 2 || got.Plan.Count(plan.Create) != 1 || got.Plan.Count(plan.Invalid) != 1 || !strings.Contains(got.text, "may not read it") {
		t.Error(got.text)
	}
	attempt := func(guess string) string {
		got := b.propose("clusters/a", `{apiVersion: v1, kind: Service, metadata: {name: `+guess+`, namespace: NS}, spec: {ports: [{port: 1}]}}`, nil)
		return strings.ReplaceAll(got.text, guess, "GUESS")
	}
	if diff := cmp.Diff(attempt("notary-password"), attempt(variables["PASSWORD"])); diff != "" {
		t.Errorf("a right guess makes a difference:\n%s", diff)
	}
}

// What is wrong with a manifest is said of that manifest.
func TestUntrustedRefused(t *testing.T) {
	b := newBed(t)
	b.want(b.propose("clusters/a", docs(`{apiVersion: v1, kind: ConfigMap, metadata: {name: homeless}}`,
		`{apiVersion: example.org/v1, kind: Unknown, metadata: {name: u, namespace: NS}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: lost, namespace: NS-none}}`), nil),
		"invalid ConfigMap homeless; error: kind ConfigMap is namespaced, but metadata.namespace is missing",
		"invalid ConfigMap lost; error: namespace NS-none does not exist, and nothing in this overlay makes it",
		"invalid Unknown u; error: kind Unknown.example.org is not installed: install the provider or definition that brings it")
}

// An API server that doesn't answer is an error, and no plan.
func TestUntrustedNoAnswer(t *testing.T) {
	b := newBed(t)
	config := env.Config(b.user)
	config.Host = "https://127.0.0.1:1"
	b.as(config)
	_, err := planner.Plan(t.Context(), b.applier, b.input("clusters/a", settings, nil))
	var problem *apply.Error
	if !errors.As(err, &problem) || !problem.Transient {
		t.Errorf("%v", err)
	}
}

// TestTrusted: what a person's diff shows is the live object.
func TestTrusted(t *testing.T) {
	b := newBed(t)
	b.other("kubectl", `{apiVersion: v1, kind: ConfigMap, metadata: {name: bare, namespace: NS}, data: {a: live}}`)
	in := b.input("clusters/a", `{apiVersion: v1, kind: ConfigMap, metadata: {name: bare, namespace: NS}, data: {a: mine}}`, nil)
	in.Untrusted, in.Placeholders = false, nil
	result, err := planner.Plan(t.Context(), b.applier, in)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Plan.Changes) != 1 || !slices.ContainsFunc(result.Plan.Changes[0].Fields(), func(f plan.FieldChange) bool {
		return f.Path == "data.a" && f.From == "live" && f.To == "mine"
	}) {
		t.Errorf("%v", result.Plan.Changes)
	}
}

func TestNeighboursFromInventories(t *testing.T) {
	b := newBed(t)
	failing := v1alpha1.ClusterOverlay{ObjectMeta: metav1.ObjectMeta{Name: "fleet-c"}}
	failing.Spec.Path = "clusters/c"
	failing.Status.Conditions = []metav1.Condition{{Type: v1alpha1.RenderedCondition, Status: metav1.ConditionFalse}}
	overlay := b.merged("clusters/a", settings)
	for _, c := range []struct {
		name   string
		except map[string]bool
		want   string
	}{
		{"one fails", nil, "clusters/c"},
		{"it is part of the change", map[string]bool{"clusters/c": true}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.around = planner.NeighboursFromInventories([]v1alpha1.ClusterOverlay{failing}, c.except)
			got := b.propose("clusters/a", secret, overlay)
			if held := got.Plan.Count(plan.Delete) == 0; held != (c.want != "") || !strings.Contains(got.text, c.want) {
				t.Error(got.text)
			}
		})
	}
}

// talkative is an admission webhook, say, that quotes what is live.
type talkative struct{ planner.Applier }

func (talkative) DryRun(_ context.Context, req apply.Request) (apply.Report, error) {
	var report apply.Report
	for _, u := range req.Objects {
		id := object.IDOf(u)
		report.Outcomes = append(report.Outcomes, apply.Outcome{ID: id, Action: apply.ActionFailed, Err: &apply.Error{
			ID: id, Reason: v1alpha1.InvalidReason, Message: "denied: data.a is changed from live-only-value to proposed-value, password canary-password",
		}})
	}
	return report, nil
}

// Errors quote no value of the live object but those that the manifest has too.
func TestUntrustedQuotes(t *testing.T) {
	b := newBed(t)
	overlay := b.merged("clusters/a", strings.ReplaceAll(settings, "one", "live-only-value"))
	in := b.input("clusters/a", strings.ReplaceAll(settings, "one", "proposed-value"), overlay)
	result, err := planner.Plan(t.Context(), talkative{b.applier}, in)
	if err != nil {
		t.Fatal(err)
	}
	b.want(told{Result: result}, "invalid ConfigMap settings; error: denied: data.a is changed from *** to proposed-value, password ***")
}
