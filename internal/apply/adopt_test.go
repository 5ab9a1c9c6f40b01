package apply_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
)

// An object that exists already, and what becomes of it when it is not known to
// be ours.
func TestAdopt(t *testing.T) {
	for name, test := range map[string]struct {
		live      string // FLEET is the label of the test's Fleet
		in        string // annotations in Git
		action    apply.Action
		reason    string
		transient bool
		says      string
	}{
		"nobody's":                {live: `{}`, action: apply.ActionConfigured},
		"ours, forgotten":         {live: `{labels: {capstan.dev/overlay: fleet-a-NS, capstan.dev/fleet: FLEET}}`, action: apply.ActionConfigured},
		"another overlay":         {live: `{labels: {capstan.dev/overlay: other, capstan.dev/fleet: FLEET}, annotations: {capstan.dev/path: clusters/other}}`, action: apply.ActionRefused, reason: v1alpha1.OwnedByOtherReason, says: "overlay other (clusters/other)"},
		"another fleet":           {live: `{labels: {capstan.dev/overlay: fleet-a-NS, capstan.dev/fleet: "01234567"}, annotations: {capstan.dev/fleet-name: far/away}}`, action: apply.ActionRefused, reason: v1alpha1.OwnedByOtherReason, says: "Fleet far/away"},
		"shared in the fleet":     {live: `{labels: {capstan.dev/fleet: FLEET}}`, action: apply.ActionConfigured},
		"shared in another fleet": {live: `{labels: {capstan.dev/fleet: "01234567"}}`, action: apply.ActionRefused, reason: v1alpha1.OwnedByOtherReason, says: "overlay unknown"},
		"a topology's":            {live: `{labels: {topology.cluster.x-k8s.io/owned: ""}}`, action: apply.ActionRefused, reason: v1alpha1.OwnedByOtherReason, says: "topology"},
		"left alone, live":        {live: `{annotations: {capstan.dev/reconcile: disabled}}`, action: apply.ActionSkipped, says: "capstan.dev/reconcile"},
		"left alone, Flux":        {live: `{annotations: {kustomize.toolkit.fluxcd.io/reconcile: disabled}}`, action: apply.ActionSkipped, says: "kustomize.toolkit.fluxcd.io/reconcile"},
		"left alone, Git":         {live: `{}`, in: `, annotations: {capstan.dev/reconcile: disabled}`, action: apply.ActionSkipped, says: "in Git"},
		"being deleted":           {live: `{finalizers: [example.com/wait], deleted: true}`, action: apply.ActionRefused, reason: v1alpha1.TransientReason, transient: true, says: "being deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			manifest := b.parse(`{apiVersion: v1, kind: ConfigMap, metadata: ` + test.live + `, data: {a: one}}`)[0]
			deleted := field(manifest, "metadata", "deleted") == true
			labels := manifest.GetLabels()
			for key, value := range labels {
				if value == "FLEET" {
					labels[key] = apply.FleetLabelValue(b.owner.FleetNamespace, b.owner.FleetName)
				}
			}
			manifest.SetLabels(labels)
			manifest.SetName("c")
			manifest.SetNamespace(b.ns)
			ctx := context.Background()
			if err := env.Client().Create(ctx, manifest); err != nil {
				t.Fatal(err)
			}
			if deleted {
				if err := env.Client().Delete(ctx, manifest); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { b.unlock(manifest) })
			}
			before := b.live(configMap)

			req := b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS` + test.in + `}, data: {b: two}}`)
			for _, report := range []apply.Report{b.dryRun(req), b.run(req)} {
				b.wantActions(report, "ConfigMap c: "+string(test.action))
				o := report.Outcomes[0]
				if test.reason != "" {
					b.wantError(report, test.reason, test.transient, test.says)
				} else if o.Err != nil || !contains(o.Note, test.says) {
					t.Errorf("note %q, error %v", o.Note, o.Err)
				}
			}
			written := b.live(configMap).GetResourceVersion() != before.GetResourceVersion()
			if want := test.action == apply.ActionConfigured; written != want {
				t.Errorf("written %t, want %t", written, want)
			}
		})
	}
}

// A live object's wish to be left alone holds for known objects too, without a
// read of its own where several are applied.
func TestKnownLeftAlone(t *testing.T) {
	b := newBed(t)
	known := b.must(b.request(two))
	b.as("kubectl-annotate", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS, annotations: {capstan.dev/reconcile: disabled}}}`)
	for _, n := range []int{1, 2} {
		req := b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: two}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}}`)
		req.Objects, req.Known = req.Objects[:n], known
		want := []string{"ConfigMap c: Skipped", "Secret s: Configured"}
		b.wantActions(b.run(req), want[:n]...)
	}
	if got := field(b.live(configMap), "data", "a"); got != "one" {
		t.Errorf("the object was written: %v", got)
	}
}

// An object handed over inside a Fleet is taken from the overlay that was named,
// and from no other.
func TestHandOver(t *testing.T) {
	b := newBed(t)
	b.must(b.request(configMap))
	from := b.owner.Overlay
	b.owner.Overlay, b.owner.Path = "fleet-b", "clusters/b"
	req := b.request(configMap)
	id := object.IDOf(req.Objects[0])
	req.TakeOverFrom = map[object.ID]string{id: "someone"}
	b.wantError(b.run(req), v1alpha1.OwnedByOtherReason, false, from)
	req.TakeOverFrom[id] = from
	uid := b.live(configMap).GetUID()
	b.wantActions(b.run(req), "ConfigMap c: Configured")
	live := b.live(configMap)
	if live.GetLabels()[v1alpha1.OverlayLabel] != "fleet-b" || live.GetUID() != uid {
		t.Errorf("after the hand-over: %v", live.GetLabels())
	}

	b.owner.FleetName = "another"
	req = b.request(configMap)
	req.TakeOverFrom = map[object.ID]string{id: "fleet-b"}
	b.wantError(b.run(req), v1alpha1.OwnedByOtherReason, false, "fleet-b")
}

// What kubectl apply or another deployment tool has written becomes ours, so that
// what Git does not say goes, at once and later. What people and controllers have
// set singly stays.
func TestTakeOver(t *testing.T) {
	for manager, update := range map[string]bool{"kubectl-client-side-apply": true, "kubectl": false, "kustomize-controller": false, "helm": true} {
		t.Run(manager, func(t *testing.T) {
			b := newBed(t)
			b.as(manager, update, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: old, b: old, c: old}}`)
			b.as("kubectl-edit", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {edited: "yes", b: edited}}`)
			b.as("some-controller", false, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {controlled: "yes"}}`)
			b.must(b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: git, b: git}}`))
			want := map[string]any{"a": "git", "b": "git", "edited": "yes", "controlled": "yes"}
			if diff := cmp.Diff(want, field(b.live(configMap), "data")); diff != "" {
				t.Errorf("adopted (-want +got):\n%s", diff)
			}
			b.must(b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: git}}`))
			delete(want, "b")
			live := b.live(configMap)
			if diff := cmp.Diff(want, field(live, "data")); diff != "" {
				t.Errorf("b left Git (-want +got):\n%s", diff)
			}
			if got := managers(live); slices.ContainsFunc(got, func(m string) bool { return contains(m, manager+" ") }) {
				t.Errorf("managers %v", got)
			}
		})
	}
}

// A dry-run of an adoption takes nothing over.
func TestTakeOverDryRun(t *testing.T) {
	b := newBed(t)
	b.as("helm", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: old}}`)
	before := b.live(configMap)
	b.wantActions(b.dryRun(b.request(configMap)), "ConfigMap c: Configured")
	if diff := cmp.Diff(before, b.live(configMap)); diff != "" {
		t.Error(diff)
	}
	req := b.request(configMap + "\n---\n" + `{apiVersion: v1, kind: ConfigMap, metadata: {name: d, namespace: NS}, typo: x}`)
	b.wantActions(b.run(req), "ConfigMap c: NotReached", "ConfigMap d: Failed")
	if diff := cmp.Diff(before, b.live(configMap)); diff != "" {
		t.Error(diff)
	}
}

// If somebody has wiped our ownership of fields, a full comparison says so and restores
// it: what leaves Git later goes, and what others have set stays.
func TestOwnershipLost(t *testing.T) {
	b := newBed(t)
	const both = `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: one, b: two}}`
	known := b.must(b.request(both))
	b.as("some-controller", false, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {controlled: "yes"}}`)
	live := b.live(configMap)
	live.SetManagedFields(nil)
	live.Object["metadata"].(map[string]any)["managedFields"] = []any{map[string]any{}}
	if err := env.Client().Update(context.Background(), live); err != nil {
		t.Fatal(err)
	}
	req := b.request(both)
	req.Known, req.ReadAll = known, true
	report := b.run(req)
	b.wantActions(report, "ConfigMap c: Configured")
	if !contains(report.Outcomes[0].Note, "ours any more") {
		t.Errorf("note %q", report.Outcomes[0].Note)
	}
	if got := managers(b.live(configMap)); !slices.Equal(got, []string{"capstan Apply v1"}) {
		t.Errorf("managers %v", got)
	}
	if got, want := report.Outcomes[0].After.GetResourceVersion(), b.live(configMap).GetResourceVersion(); got != want {
		t.Errorf("the report has version %s, the object %s", got, want)
	}
	less := b.request(configMap)
	less.Known = known
	b.wantActions(b.run(less), "ConfigMap c: Configured")
	if diff := cmp.Diff(map[string]any{"a": "one", "controlled": "yes"}, field(b.live(configMap), "data")); diff != "" {
		t.Errorf("b left Git (-want +got):\n%s", diff)
	}
}

// The dry-run of an adoption shows what the adoption will remove, also inside
// lists and where others hold a part.
func TestTakeOverPreview(t *testing.T) {
	b := newBed(t)
	const service = `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: NS, LABELS finalizers: [example.com/a]}, spec: {SPEC}}`
	manifest := func(labels, spec string) string {
		return replace(replace(service, "LABELS", labels), "SPEC", spec)
	}
	b.as("helm", true, replace(manifest(`labels: {a: helm, b: helm, c: helm}, annotations: {x: helm},`,
		`type: ClusterIP, sessionAffinity: ClientIP, selector: {a: b, c: d}, externalIPs: [192.0.2.1, 192.0.2.2], ports: [{name: a, port: 1, protocol: TCP}, {name: b, port: 2, protocol: TCP, targetPort: 22}]`),
		" finalizers: [example.com/a]", ""))
	b.as("kubectl-label", true, manifest(`labels: {c: person},`, ``))
	req := b.request(replace(manifest(`labels: {a: git},`, `selector: {a: b}, externalIPs: [192.0.2.2], ports: [{name: b, port: 2, protocol: TCP}]`), " finalizers: [example.com/a]", ""))
	preview := b.dryRun(req)
	b.wantActions(preview, "Service s: Configured")
	b.must(req)
	want, got := b.live(manifest("", "")), preview.Outcomes[0].After
	for _, path := range [][]string{{"metadata", "labels"}, {"metadata", "annotations"}, {"metadata", "finalizers"}, {"spec"}} {
		if diff := cmp.Diff(field(want, path...), field(got, path...)); diff != "" {
			t.Errorf("%v: -applied +preview:\n%s", path, diff)
		}
	}
	if _, there := want.GetLabels()["b"]; there || want.GetLabels()["c"] != "person" {
		t.Errorf("labels %v", want.GetLabels())
	}
}

// clusterctl move creates objects whole, with what controllers had set; and a
// deployment tool may hold finalizers. Nothing of that is removed by an adoption.
func TestTakeOverNot(t *testing.T) {
	for manager, finalizers := range map[string]string{"clusterctl": "", "helm": ", finalizers: [example.com/a]", "before-first-apply": "", "manager": ""} {
		t.Run(manager, func(t *testing.T) {
			b := newBed(t)
			b.as(manager, true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS`+finalizers+`}, data: {a: one, set: elsewhere}}`)
			b.must(b.request(configMap))
			live := b.live(configMap)
			if field(live, "data", "set") != "elsewhere" || len(live.GetFinalizers()) != len(finalizers)/len(", finalizers: [example.com/a]") {
				t.Errorf("%v", live.Object)
			}
		})
	}
}
