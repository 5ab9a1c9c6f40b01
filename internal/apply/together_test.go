package apply_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

const widgetDefinition = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.NS.example.com},
 spec: {group: NS.example.com, scope: Namespaced, names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList},
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {FIELDS}}}}}}]}}`

func definition(fields string) string { return replace(widgetDefinition, "FIELDS", fields) }

const widget = `{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: w, namespace: NS}, spec: {size: 1}}`

// A Namespace and what is in it come in one render.
func TestNamespaceTogether(t *testing.T) {
	b := newBed(t)
	const manifests = `{apiVersion: v1, kind: Namespace, metadata: {name: NS-new}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS-new}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineHealthCheck, metadata: {name: m, namespace: NS-new}, spec: {clusterName: x, selector: {matchLabels: {a: b}}}}`
	b.wantActions(b.dryRun(b.request(manifests)), "ConfigMap c: NotChecked", "Namespace "+b.ns+"-new: Created", "MachineHealthCheck m: NotChecked")

	mark := env.Mark(t)
	report := b.run(b.request(manifests))
	b.wantActions(report, "ConfigMap c: Created", "Namespace "+b.ns+"-new: Created", "MachineHealthCheck m: Created")
	if got := len(b.counted(mark)); got != 7 {
		t.Errorf("%d requests, want 3 for the namespace and 2 for each other:\n%v", got, b.counted(mark))
	}
}

// What is wrong in a new Namespace is found when that exists, and before anything
// else is written.
func TestNamespaceTogetherInvalid(t *testing.T) {
	b := newBed(t)
	report := b.run(b.request(`{apiVersion: v1, kind: Namespace, metadata: {name: NS-new}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS-new}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: NS}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineHealthCheck, metadata: {name: m, namespace: NS-new}, spec: {typo: x}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineHealthCheck, metadata: {name: o, namespace: NS-new}, spec: {clusterName: x}}`))
	b.wantActions(report, "ConfigMap other: NotReached", "ConfigMap c: NotReached", "Namespace "+b.ns+"-new: Created",
		"MachineHealthCheck m: Failed", "MachineHealthCheck o: Failed")
	b.checkError(report.Errors()[0], v1alpha1.InvalidReason, false, ".spec.typo")
	b.checkError(report.Errors()[1], v1alpha1.InvalidReason, false, "spec.selector")
}

// A Namespace that is known, not part of the request and gone: nothing pretends
// to have applied what is in it, and a full comparison restores both.
func TestNamespaceLost(t *testing.T) {
	b := newBed(t)
	const ns = `{apiVersion: v1, kind: Namespace, metadata: {name: NS-gone}}`
	const cm = `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS-gone}}`
	for _, manifests := range []string{cm, cm + "\n---\n" + configMap} {
		req := b.request(manifests)
		req.All = append(b.parse(ns), req.Objects...)
		report := b.run(req)
		b.wantError(report, v1alpha1.TransientReason, true, "its namespace is not there")
	}
	if b.live(configMap) != nil {
		t.Error("an object was written although another could not be checked")
	}
	req := b.request(ns + "\n---\n" + cm)
	req.ReadAll = true
	b.wantActions(b.run(req), "ConfigMap c: Created", "Namespace "+b.ns+"-gone: Created")
}

// A Namespace being deleted is waited for.
func TestNamespaceTerminating(t *testing.T) {
	b := newBed(t)
	if err := env.Client().Delete(context.Background(), b.live(`{apiVersion: v1, kind: Namespace, metadata: {name: NS}}`)); err != nil {
		t.Fatal(err)
	}
	b.wantError(b.run(b.request(configMap)), v1alpha1.TransientReason, true, "its namespace is being deleted")
}

// A definition and its objects come in one render.
func TestDefinitionTogether(t *testing.T) {
	b := newBed(t)
	manifests := widget + "\n---\n" + definition("size: {type: integer}")
	b.wantActions(b.dryRun(b.request(manifests)), "CustomResourceDefinition widgets."+b.ns+".example.com: Created", "Widget w: NotChecked")
	b.wantActions(b.run(b.request(manifests)), "CustomResourceDefinition widgets."+b.ns+".example.com: Created", "Widget w: Created")
	if got := field(b.live(widget), "spec", "size"); got != int64(1) {
		t.Errorf("size %v", got)
	}
}

// A definition changes together with an object that needs the change.
func TestDefinitionChanges(t *testing.T) {
	b := newBed(t)
	b.must(b.request(widget + "\n---\n" + definition("size: {type: integer}")))
	manifests := `{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: w, namespace: NS}, spec: {size: 1, colour: red}}
---
` + definition("size: {type: integer}, colour: {type: string}")
	b.wantActions(b.dryRun(b.request(manifests)), "CustomResourceDefinition widgets."+b.ns+".example.com: Configured", "Widget w: NotChecked")
	b.wantActions(b.run(b.request(manifests)), "CustomResourceDefinition widgets."+b.ns+".example.com: Configured", "Widget w: Configured")
	if got := field(b.live(widget), "spec", "colour"); got != "red" {
		t.Errorf("colour %v", got)
	}
}

const twoVersions = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.NS.example.com},
 spec: {group: NS.example.com, scope: Namespaced, names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList},
  versions: [
   {name: v1, served: SERVED, storage: false, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}, old: {type: string}}}}}}},
   {name: v2, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}, old: {type: string}, mode: {type: string, default: auto}}}}}}}]}}`

// The manifest moves to a newer version of its kind: what it drops meanwhile is
// removed, and it does not matter whether the old version is still served.
func TestVersionBump(t *testing.T) {
	for name, served := range map[string]string{"old version served": "true", "old version not served": "false"} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			known := b.must(b.request(replace(twoVersions, "SERVED", "true") + "\n---\n" +
				`{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: w, namespace: NS}, spec: {size: 1, old: x}}`))
			b.as("some-controller", true, `{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: w, namespace: NS, annotations: {a: b}}}`)
			b.must(b.request(replace(twoVersions, "SERVED", served)))
			eventually(t, func() bool {
				u := b.parse(`{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: w, namespace: NS}}`)[0]
				return (env.Client().Get(context.Background(), client.ObjectKeyFromObject(u), u) == nil) == (served == "true")
			})

			next := `{apiVersion: NS.example.com/v2, kind: Widget, metadata: {name: w, namespace: NS}, spec: {size: 2}}`
			req := b.request(next + "\n---\n" + configMap)
			req.Known = known
			b.wantActions(b.run(req), "ConfigMap c: Created", "Widget w: Configured")
			live := b.live(next)
			if diff := cmp.Diff(map[string]any{"size": int64(2), "mode": "auto"}, field(live, "spec")); diff != "" {
				t.Errorf("%s\n%v", diff, managers(live))
			}
			if live.GetAnnotations()["a"] != "b" {
				t.Error("a controller's field is gone")
			}
		})
	}
}
