package apply_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
)

const two = configMap + `
---
{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}, stringData: {password: geheim}}`

// The life of an object: made, left as it is, changed; with what each costs.
func TestCreateConfigure(t *testing.T) {
	b := newBed(t)
	mark := env.Mark(t)
	req := b.request(two)
	report := b.run(req)
	b.wantActions(report, "ConfigMap c: Created", "Secret s: Created")
	known := map[object.ID]types.UID{}
	for _, o := range report.Outcomes {
		known[o.ID] = o.Ref.UID
		live := b.live(`{apiVersion: v1, kind: ` + o.ID.Kind + `, metadata: {name: ` + o.ID.Name + `, namespace: NS}}`)
		if o.Ref.UID == "" || live.GetUID() != o.Ref.UID {
			t.Errorf("%s: UID %q, live %q", o.ID, o.Ref.UID, live.GetUID())
		}
		if live.GetLabels()[v1alpha1.OverlayLabel] != b.owner.Overlay || live.GetAnnotations()[v1alpha1.PathAnnotation] != "clusters/a" {
			t.Errorf("%s: labels %v, annotations %v", o.ID, live.GetLabels(), live.GetAnnotations())
		}
		if got := managers(live); len(got) != 1 || got[0] != "capstan Apply v1" {
			t.Errorf("%s: managers %v", o.ID, got)
		}
	}
	if got := len(b.counted(mark)); got != 6 {
		t.Errorf("new objects cost %d requests, want 3 for each: read, dry-run, apply:\n%v", got, b.counted(mark))
	}

	mark = env.Mark(t)
	req = b.request(two)
	req.Known = known
	b.wantActions(b.run(req), "ConfigMap c: Unchanged", "Secret s: Unchanged")
	if got := len(b.counted(mark)); got != 4 {
		t.Errorf("known objects cost %d requests, want 2 for each: dry-run, apply:\n%v", got, b.counted(mark))
	}

	mark = env.Mark(t)
	req = b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {b: two}}`)
	req.Known = known
	b.wantActions(b.run(req), "ConfigMap c: Configured")
	want := []string{"get configmaps NS/c: 200", "patch configmaps NS/c: 200"}
	if diff := cmp.Diff(want, b.counted(mark)); diff != "" {
		t.Errorf("one known object (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"b": "two"}, field(b.live(configMap), "data")); diff != "" {
		t.Errorf("a key that left Git is still there:\n%s", diff)
	}
}

// The caller's objects are not changed.
func TestInputUnchanged(t *testing.T) {
	b := newBed(t)
	req := b.request(two + `
---
{apiVersion: v1, kind: Namespace, metadata: {name: NS-in, namespace: NS}}`)
	before := req.Objects[2].DeepCopy()
	b.must(req)
	if diff := cmp.Diff(before, req.Objects[2]); diff != "" {
		t.Error(diff)
	}
}

// A dry-run says what would happen, with both states, and writes nothing.
func TestDryRun(t *testing.T) {
	b := newBed(t)
	b.must(b.request(configMap))
	mark := env.Mark(t)
	req := b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: two}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: new, namespace: NS}}`)
	report := b.dryRun(req)
	b.wantActions(report, "ConfigMap c: Configured", "ConfigMap new: Created")
	if before, after := report.Outcomes[0].Before, report.Outcomes[0].After; field(before, "data", "a") != "one" || field(after, "data", "a") != "two" {
		t.Errorf("before %v, after %v", before, after)
	}
	if o := report.Outcomes[1]; o.Before != nil || o.After == nil || o.Ref.UID != "" {
		t.Errorf("a new object: %+v", o)
	}
	for _, r := range env.Requests(t, b.user, mark) {
		if r.Verb != "get" && !r.DryRun {
			t.Errorf("a dry-run sent %s", r)
		}
	}
	b.wantActions(b.dryRun(b.request(configMap)), "ConfigMap c: Unchanged")
}

// All errors of all objects come at once, and none of the objects is written.
func TestAllErrors(t *testing.T) {
	b := newBed(t)
	report := b.run(b.request(two + `
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: typo, namespace: NS}, daten: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: Upper, namespace: NS}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: nowhere}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: lost, namespace: NS-absent}}
---
{apiVersion: v1, kind: Secret, metadata: {name: bytes, namespace: NS}, data: {a: "not base64"}}
---
{apiVersion: example.com/v1, kind: Widget, metadata: {name: w, namespace: NS}}
---
{apiVersion: cluster.x-k8s.io/v9, kind: Cluster, metadata: {name: v, namespace: NS}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineHealthCheck, metadata: {name: m, namespace: NS}, spec: {clusterName: x, maxUnhealthy: 1, selector: {matchLabels: {a: b}}}}`))
	b.wantActions(report,
		"ConfigMap nowhere: Failed", "ConfigMap Upper: Failed", "ConfigMap c: NotReached", "ConfigMap typo: Failed",
		"ConfigMap lost: Failed", "Secret bytes: Failed", "Secret s: NotReached",
		"Cluster v: Failed", "MachineHealthCheck m: Failed", "Widget w: Failed")
	want := map[string]string{
		"typo": ".daten", "Upper": "lowercase RFC 1123", "nowhere": "metadata.namespace is missing",
		"lost": "namespace " + b.ns + "-absent does not exist", "w": "Widget.example.com is not installed",
		"bytes": "base64", "v": "not served at version v9, only at v1beta2, v1beta1", "m": ".spec.maxUnhealthy",
	}
	for _, err := range report.Errors() {
		b.checkError(err, v1alpha1.InvalidReason, false, want[err.ID.Name])
	}
	if b.live(configMap) != nil {
		t.Error("a valid object was written although others are not valid")
	}
}

// What fails in a stage keeps later stages from being written. The dry-run passes
// here, because the policy lets dry-runs through.
func TestStages(t *testing.T) {
	b := newBed(t)
	b.must(b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}}`))
	deny(t, b.ns, "secrets", false)
	report := b.run(b.request(`{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: b}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineHealthCheck, metadata: {name: m, namespace: NS}, spec: {clusterName: x, selector: {matchLabels: {a: b}}}}`))
	b.wantActions(report, "ConfigMap c: Configured", "Secret s: Failed", "MachineHealthCheck m: NotReached")
	b.wantError(report, v1alpha1.InvalidReason, false, "denied request")
}

// A known object that somebody has deleted is made again, one that was made anew
// is looked at first.
func TestKnownButGone(t *testing.T) {
	b := newBed(t)
	known := b.must(b.request(two))
	for _, manifest := range []string{configMap, two[len(configMap)+5:]} {
		if err := env.Client().Delete(context.Background(), b.live(manifest)); err != nil {
			t.Fatal(err)
		}
	}
	b.as("stranger", true, `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS, labels: {capstan.dev/overlay: other, capstan.dev/fleet: "01234567"}}}`)
	req := b.request(two)
	req.Known = known
	report := b.run(req)
	b.wantActions(report, "ConfigMap c: NotReached", "Secret s: Refused")
	b.wantError(report, v1alpha1.OwnedByOtherReason, false, "overlay other")

	req.Objects = req.Objects[:1]
	report = b.run(req)
	b.wantActions(report, "ConfigMap c: Created")
	if uid := report.Outcomes[0].Ref.UID; uid == known[report.Outcomes[0].ID] || uid == "" {
		t.Errorf("UID %q", uid)
	}
}

// ReadAll restores what is missing or changed and writes nothing else.
func TestReadAll(t *testing.T) {
	b := newBed(t)
	all := two + `
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: d, namespace: NS}, data: {a: one}}`
	known := b.must(b.request(all))
	if err := env.Client().Delete(context.Background(), b.live(two[len(configMap)+5:])); err != nil {
		t.Fatal(err)
	}
	b.as("kubectl-edit", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: d, namespace: NS}, data: {a: changed}}`)
	mark := env.Mark(t)
	req := b.request(all)
	req.Known, req.ReadAll = known, true
	b.wantActions(b.run(req), "ConfigMap c: Unchanged", "ConfigMap d: Configured", "Secret s: Created")
	if got := field(b.live(`{apiVersion: v1, kind: ConfigMap, metadata: {name: d, namespace: NS}}`), "data", "a"); got != "one" {
		t.Errorf("d says %v", got)
	}
	for _, r := range env.Requests(t, b.user, mark) {
		if r.Name == "c" && r.Verb == "patch" && !r.DryRun {
			t.Errorf("an unchanged object was written: %s", r)
		}
	}
}

// A request without an owner is a mistake, and one without objects no work.
func TestRequests(t *testing.T) {
	b := newBed(t)
	if _, err := b.apply.Apply(context.Background(), apply.Request{Objects: b.parse(configMap)}); err == nil {
		t.Error("no error without an owner")
	}
	mark := env.Mark(t)
	cluster := object.ID{Group: "cluster.x-k8s.io", Kind: "Cluster", Namespace: b.ns, Name: "x"}
	b.wantActions(b.run(apply.Request{Owner: b.owner, Cluster: &cluster}))
	if got := b.counted(mark); len(got) > 0 {
		t.Errorf("nothing to do cost %v", got)
	}
}
