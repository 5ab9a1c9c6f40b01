package agent_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// Objects that move to another overlay while they are drifted are that one's: what it says
// of them counts, and neither has drifted then.
func TestDriftHandedOver(t *testing.T) {
	w := newWorld(t)
	x := func(v string) string { return configMap("-a", "x", v) }
	first := revision(w.commit(merge(simple("a", "one", x("one"), configMap("-a", "y", "one")), simple("b", "one"))))
	w.fleet(reports)
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.untilInSync("clusters/a", "clusters/b")
	uid := w.uid("ConfigMap", "-a/x")
	w.patch("ConfigMap", "-a/x", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.delete("ConfigMap", "-a/y")
	w.untilDrift("clusters/a", "ConfigMap x Reported Changed /data/v", "ConfigMap y Reported Missing")
	second := w.push(merge(simple("a", "one"), simple("b", "one", x("one"), configMap("-a", "y", "one"))))
	w.untilApplied(second, "clusters/a", "clusters/b")
	w.untilInSync("clusters/a", "clusters/b")
	if got := w.data("-a/x"); got != "one" || w.uid("ConfigMap", "-a/x") != uid {
		t.Errorf("x: %q", got)
	}
	w.wantLive("ConfigMap", "-a/y")
	for _, path := range []string{"clusters/a", "clusters/b"} {
		if o := w.overlay(path); len(o.Status.Drift) > 0 || o.Status.DriftedObjects > 0 {
			t.Errorf("%s: %s", path, describe(o))
		}
	}
	w.patch("ConfigMap", "-a/x", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.untilDrift("clusters/b", "ConfigMap x Reported Changed /data/v")
	w.check()
}

// A definition and its instances, in one overlay, are corrected and made again like all
// else: the instances once there is a definition again.
func TestDriftOfDefinitions(t *testing.T) {
	w := newWorld(t)
	group := w.ns + ".example.com"
	first := revision(w.commit(simple("a", "one",
		`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.`+group+`, labels: {more: x}},
 spec: {group: `+group+`, scope: Namespaced, names: {kind: Widget, plural: widgets}, versions: [{name: v1, served: true, storage: true,
  schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}]}}`,
		`{apiVersion: `+group+`/v1, kind: Widget, metadata: {name: w, namespace: NS-a}, spec: {size: 1}}`)))
	object := func(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		u.SetAPIVersion(apiVersion)
		u.SetKind(kind)
		u.SetNamespace(namespace)
		u.SetName(name)
		return u
	}
	widget := func() *unstructured.Unstructured { return object(group+"/v1", "Widget", w.ns+"-a", "w") }
	definition := func() *unstructured.Unstructured {
		return object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "widgets."+group)
	}
	t.Cleanup(func() { // after the agent has stopped
		if err := env.Client().Delete(context.Background(), definition()); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	corrected := func(kind, want string) {
		w.Helper()
		w.until("clusters/a", kind+" is corrected", func(o *v1alpha1.ClusterOverlay) bool {
			return len(o.Status.Drift) == 0 && slices.ContainsFunc(o.Status.Corrections, func(c v1alpha1.Correction) bool {
				return c.Kind == kind && slices.ContainsFunc(c.Findings, func(f v1alpha1.Finding) bool { return string(f.Class)+f.Field == want })
			})
		})
	}
	for _, u := range []*unstructured.Unstructured{widget(), definition()} {
		patch := map[string]string{"Widget": `{"spec":{"size":2}}`, "CustomResourceDefinition": `{"metadata":{"labels":{"more":"y"}}}`}[u.GetKind()]
		want := map[string]string{"Widget": "Changed/spec/size", "CustomResourceDefinition": "Changed/metadata/labels/more"}[u.GetKind()]
		w.must(env.Client().Patch(w.Context(), u, client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner("kubectl-edit")))
		corrected(u.GetKind(), want)
	}
	w.must(env.Client().Delete(w.Context(), widget()))
	corrected("Widget", "Missing")
	var before unstructured.Unstructured
	before.SetGroupVersionKind(definition().GroupVersionKind())
	w.must(env.Client().Get(w.Context(), client.ObjectKeyFromObject(definition()), &before))
	w.must(env.Client().Delete(w.Context(), definition()))
	w.eventually("definition and instance are there again, and no drift is left", func() string {
		after, instance := definition(), widget()
		for _, u := range []*unstructured.Unstructured{after, instance} {
			if err := env.Client().Get(w.Context(), client.ObjectKeyFromObject(u), u); err != nil {
				return err.Error()
			}
		}
		o := w.overlay("clusters/a")
		if after.GetUID() == before.GetUID() || instance.GetDeletionTimestamp() != nil || len(o.Status.Drift) > 0 {
			return describe(o)
		}
		return ""
	})
	w.untilInSync("clusters/a")
	w.check()
}

// A hundred objects that somebody deletes at once are all found and made again, with a few
// requests for each; what a cluster is built on waits for an approval.
func TestDriftOfHundred(t *testing.T) {
	w := newWorld(t)
	const many = 100
	more := []string{proxmoxClusterOfA}
	for i := range many {
		more = append(more, configMap("-a", fmt.Sprint("m", i), "one"))
	}
	first := revision(w.commit(clusterOf("a", "one", more...)))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	mark := w.mark()
	w.must(env.Client().DeleteAllOf(w.Context(), w.object("ConfigMap", "-a/x"), client.InNamespace(w.ns+"-a"),
		client.HasLabels{v1alpha1.OverlayLabel}))
	w.delete("Secret", "-a/credentials")
	w.delete("ProxmoxCluster", "-a/a")
	// Three watches tell of it: what one has told may be dealt with before another has.
	w.eventually("the ProxmoxCluster is held, and the Secret is there again", func() string {
		drift, secret := driftOf(w.overlay("clusters/a")), w.live("Secret", "-a/credentials")
		if !slices.Equal(drift, []string{"ProxmoxCluster a Held Missing"}) || secret == nil {
			return fmt.Sprintf("Secret %v, drift %q", secret != nil, drift)
		}
		return ""
	})
	w.eventually("all ConfigMaps are there again, and nothing else is left", func() string {
		var live corev1.ConfigMapList
		w.must(env.Client().List(w.Context(), &live, client.InNamespace(w.ns+"-a"), client.HasLabels{v1alpha1.OverlayLabel}))
		if drift := driftOf(w.overlay("clusters/a")); len(drift) != 1 || len(live.Items) != many+1 {
			return fmt.Sprintf("%d ConfigMaps, drift %q", len(live.Items), drift)
		}
		return ""
	})
	if sent := w.sent(mark); len(sent) > 8*many {
		t.Errorf("%d requests for %d objects: %s", len(sent), many, strings.Join(sent[:100], "\n"))
	}
	w.check()
}
