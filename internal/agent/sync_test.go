package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
)

// A first commit reaches the cluster; a second one costs requests only for the
// overlay that it changes.
func TestSync(t *testing.T) {
	w := newWorld(t)
	w.secrets = []string{"pass-of-a", "pass-of-b"}
	first := revision(w.commit(merge(clusterOf("a", "one"), clusterOf("b", "one"), simple("c", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b", "clusters/c")
	w.wantLive("Cluster", "-a/a", "-b/b")
	w.wantLive("Namespace", "-a", "-b", "-c")
	w.wantLive("Secret", "-a/credentials")
	a := w.overlay("clusters/a")
	if got, want := a.Status.Cluster, w.ns+"-a/a"; got != want {
		t.Errorf("status.cluster %q, want %q", got, want)
	}
	if a.Status.Objects != 6 || len(a.Status.Inventory) != 6 || len(a.Status.History) != 1 {
		t.Errorf("status: %s", describe(a))
	}
	for _, e := range a.Status.Inventory {
		if e.State != v1alpha1.EntryApplied || e.UID == "" || e.Digest == "" {
			t.Errorf("inventory: %+v", e)
		}
	}
	w.untilFleetApplied(first)
	if counts := w.getFleet().Status.Overlays; counts.Total != 3 || counts.Applied != 3 {
		t.Errorf("counts: %+v", counts)
	}

	mark := w.mark()
	second := w.push(clusterOf("a", "two"))
	w.untilApplied(second, "clusters/a")
	if got := w.data("-a/settings"); got != "two" {
		t.Errorf("settings: %q", got)
	}
	var foreign []string
	for _, r := range w.sent(mark) {
		if !strings.Contains(r, "NS-a/") && !strings.Contains(r, statusOf("clusters/a")) && !strings.Contains(r, "fleets/status NS/fleet") {
			foreign = append(foreign, r)
		}
	}
	if len(foreign) > 0 {
		t.Errorf("requests that don't concern the overlay that changed: %q", foreign)
	}
	writes := w.written(mark)
	want := []string{"patch configmaps NS-a/settings: 200", "patch " + statusOf("clusters/a") + ": 200"}
	for _, part := range want {
		if n := count(writes, part); n != 1 {
			t.Errorf("%d of %q in %q", n, part, writes)
		}
	}
	if got := w.overlay("clusters/b").Status.AppliedRevision; got != first {
		t.Errorf("the other overlay is at %s, want %s", got, first)
	}
	w.check()
}

// A commit that no overlay reads costs no write, and a poll that finds nothing
// costs one ls-remote and no request to the API.
func TestPoll(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(simple("a", "one"), simple("b", "one"))))
	w.fleet(func(f *v1alpha1.Fleet) {
		f.Spec.Git.Interval = metav1.Duration{Duration: time.Second}
		f.Spec.Substitute = &v1alpha1.SubstituteSpec{From: []v1alpha1.SubstituteSource{{Kind: "ConfigMap", Name: "absent", Optional: true}}}
	})
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.untilFleetApplied(first)
	polled := func(n int) {
		from := w.repo.HTTP().Counts().InfoRefs
		w.eventually("polls", func() string {
			if w.repo.HTTP().Counts().InfoRefs < from+n {
				return "not yet"
			}
			return ""
		})
	}
	polled(2)
	mark, before := w.mark(), w.repo.HTTP().Counts()
	polled(2)
	if after := w.repo.HTTP().Counts(); after.UploadPacks != before.UploadPacks {
		t.Errorf("%d fetches for nothing", after.UploadPacks-before.UploadPacks)
	}
	if got := w.sent(mark); len(got) > 0 {
		t.Errorf("requests for a poll that found nothing: %q", got)
	}

	mark, before = w.mark(), w.repo.HTTP().Counts()
	w.commit(map[string]string{"README.md": "read by nobody", "clusters/a/notes.txt": "neither is this"})
	w.untilEvent("NewRevision", "concerns 0 of 2 overlays")
	polled(1)
	if after := w.repo.HTTP().Counts(); after.UploadPacks != before.UploadPacks+1 {
		t.Errorf("%d fetches, want 1", after.UploadPacks-before.UploadPacks)
	}
	if got := w.written(mark); len(got) > 0 {
		t.Errorf("writes for a commit that nothing reads: %q", got)
	}
	if got := w.overlay("clusters/a").Status.DesiredRevision; got != first {
		t.Errorf("desired %s, want %s", got, first)
	}
	w.check()
}

// A restart writes to nothing, whatever the order in which overlays are looked at.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.secrets = []string{"pass-of-a"}
	shared := namespaceOf("-shared")
	first := revision(w.commit(merge(
		clusterOf("a", "one"), simple("b", "one", shared), simple("c", "one", shared), simple("d", "one", shared),
		overlayOf("clusters/broken", configMap("-nowhere", "x", "y")), overlayOf("clusters/bad", "{kind: ["))))
	w.fleet()
	r := w.start()
	paths := []string{"clusters/a", "clusters/b", "clusters/c", "clusters/d"}
	for _, path := range paths[1:] {
		w.untilNamespace(path, "-shared", v1alpha1.EntryShared) // who comes first applies it as its own, and once more
	}
	w.untilApplied(first, paths...)
	w.untilCondition("clusters/broken", v1alpha1.AppliedCondition, v1alpha1.InvalidReason, "does not exist")
	w.untilCondition("clusters/bad", v1alpha1.RenderedCondition, v1alpha1.RenderFailedReason, "all.yaml")
	w.untilFleet(v1alpha1.ReadyCondition, "OverlaysFailed", "2 of 6")
	for range 3 {
		r.stop()
		mark := w.mark()
		r = w.start()
		w.look()
		// All overlays are looked at once the broken one was tried again.
		w.reconcile("clusters/broken")
		for _, write := range w.written(mark) {
			if !strings.Contains(write, "fleets/status") && !strings.Contains(write, statusOf("clusters/broken")) && !strings.Contains(write, "NS-nowhere/x") {
				t.Errorf("a restart writes: %s", write)
			}
		}
	}
	w.check()
}

// A change of a base reaches all overlays that use it, and only those.
func TestBase(t *testing.T) {
	w := newWorld(t)
	files := merge(map[string]string{
		"base/kustomization.yaml": "resources: [cm.yaml]\n",
		"base/cm.yaml":            `{apiVersion: v1, kind: ConfigMap, metadata: {name: based}, data: {v: one}}`,
	}, simple("z", "one"))
	for _, name := range []string{"a", "b"} {
		files["clusters/"+name+"/kustomization.yaml"] = "namespace: NS-" + name + "\nresources: [../../base, ns.yaml]\n"
		files["clusters/"+name+"/ns.yaml"] = namespaceOf("-" + name)
	}
	first := revision(w.commit(files))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b", "clusters/z")
	second := w.push(map[string]string{"base/cm.yaml": `{apiVersion: v1, kind: ConfigMap, metadata: {name: based}, data: {v: two}}`})
	w.untilApplied(second, "clusters/a", "clusters/b")
	if got := []string{w.data("-a/based"), w.data("-b/based")}; !slices.Equal(got, []string{"two", "two"}) {
		t.Errorf("based: %q", got)
	}
	if got := w.overlay("clusters/z").Status.DesiredRevision; got != first {
		t.Errorf("an overlay that doesn't use the base desires %s", got)
	}
	w.check()
}

// One broken overlay doesn't delay the others. All errors of all its objects are
// told at once, and it recovers when it is fixed.
func TestBroken(t *testing.T) {
	w := newWorld(t)
	w.secrets = []string{"very-secret-value", "dmVyeS1zZWNyZXQtdmFsdWU"}
	first := revision(w.commit(merge(
		simple("good", "one"),
		overlayOf("clusters/unrenderable", "{kind: ["),
		overlayOf("clusters/invalid", configMap("-good", "Not_A_Name", "x"), `{apiVersion: example.com/v1, kind: Widget, metadata: {name: w, namespace: NS-good}}`,
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: typo, namespace: NS-good}, daten: {a: b}}`,
			`{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS-good}, stringData: {password: [very-secret-value]}}`,
			configMap("-good", "fine", "x")),
	)))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/good")
	w.untilCondition("clusters/unrenderable", v1alpha1.RenderedCondition, v1alpha1.RenderFailedReason, "all.yaml")
	w.untilCondition("clusters/invalid", v1alpha1.AppliedCondition, v1alpha1.InvalidReason, "Not_A_Name", "Widget", "daten", "/s:")
	if w.live("ConfigMap", "-good/fine") != nil {
		t.Error("something was applied of an overlay with invalid objects")
	}
	w.untilEvent(v1alpha1.InvalidReason, "Widget")
	second := w.push(merge(simple("good", "two"), overlayOf("clusters/invalid", configMap("-good", "fine", "y"))))
	w.untilApplied(second, "clusters/good", "clusters/invalid")
	third := w.push(overlayOf("clusters/unrenderable", configMap("-good", "also-fine", "x")))
	w.untilApplied(third, "clusters/unrenderable")
	if got := w.data("-good/fine"); got != "y" {
		t.Errorf("fine: %q", got)
	}
	// Broken again: what was applied stays, nothing is deleted.
	w.push(overlayOf("clusters/unrenderable", "{kind: ["))
	w.untilCondition("clusters/unrenderable", v1alpha1.RenderedCondition, v1alpha1.RenderFailedReason)
	w.wantLive("ConfigMap", "-good/also-fine")
	if diff := cmp.Diff(third, w.overlay("clusters/unrenderable").Status.AppliedRevision); diff != "" {
		t.Errorf("applied revision:\n%s", diff)
	}
	w.check()
}
