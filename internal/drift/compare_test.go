package drift_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/drift"
)

// compared is what is found when a recorded object was edited after it was applied.
func compared(t *testing.T, name string, edit func(live, answer *unstructured.Unstructured), ignore ...v1alpha1.DriftIgnore) []string {
	t.Helper()
	applied := recorded(t, name).applied
	live, answer := applied.DeepCopy(), applied.DeepCopy()
	edit(live, answer)
	was, wasAnswer := live.DeepCopy(), answer.DeepCopy()
	var texts []string
	for _, f := range drift.Compare(drift.Comparison{Before: live, After: answer, UID: applied.GetUID(), Ignore: ignore}) {
		texts = append(texts, findingText(f))
	}
	if !cmp.Equal(was.Object, live.Object) || !cmp.Equal(wasAnswer.Object, answer.Object) {
		t.Error("Compare changes what it is given")
	}
	return texts
}

func TestCompare(t *testing.T) {
	const md = "scale" // a recorded MachineDeployment
	for name, test := range map[string]struct {
		of     string
		edit   func(live, answer *unstructured.Unstructured)
		ignore []v1alpha1.DriftIgnore
		want   []string
	}{
		"nothing": {of: md, edit: func(_, _ *unstructured.Unstructured) {}},
		"bookkeeping": {of: md, edit: func(live, _ *unstructured.Unstructured) {
			for _, pointer := range []string{
				"/status/replicas", "/metadata/resourceVersion", "/metadata/generation", "/metadata/creationTimestamp", "/metadata/deletionTimestamp",
			} {
				change(live, pointer, "x")
			}
			live.SetFinalizers([]string{"cluster.x-k8s.io/machinedeployment"})
		}},
		"a new default is no drift": {of: md, edit: func(_, answer *unstructured.Unstructured) {
			change(answer, "/spec/someNewField", "default")
			change(answer, "/metadata/annotations/webhook", "was-here")
		}},
		"a number is a number": {of: md, edit: func(live, _ *unstructured.Unstructured) { change(live, "/spec/replicas", 3.0) }},
		"nobody is known": {of: md, edit: func(live, _ *unstructured.Unstructured) { change(live, "/spec/replicas", int64(4)) },
			want: []string{"Changed /spec/replicas [3 -> 4]"}},
		"of several the newest": {of: md, edit: func(live, _ *unstructured.Unstructured) {
			change(live, "/spec/replicas", int64(4))
			addEntry(t, live, "kubectl-edit", "Update", "", live.GetAPIVersion(), `{"f:spec":{"f:replicas":{}}}`)
			addEntry(t, live, "kubectl-patch", "Update", "", live.GetAPIVersion(), `{"f:spec":{"f:replicas":{}}}`)
		}, want: []string{"Changed /spec/replicas [3 -> 4] by kubectl-patch (person, Update, second 41)"}},
		"who owns it, not who came last": {of: md, edit: func(live, _ *unstructured.Unstructured) {
			change(live, "/spec/replicas", int64(4))
			addEntry(t, live, "mystery", "Update", "", live.GetAPIVersion(), `{"f:spec":{"f:replicas":{}}}`)
			addEntry(t, live, "kubectl-label", "Update", "", live.GetAPIVersion(), `{"f:metadata":{"f:labels":{"f:team":{}}}}`)
		}, want: []string{"Changed /spec/replicas [3 -> 4] by mystery (unknown, Update, second 40)"}},
		"the status is not written by who wrote the field": {of: md, edit: func(live, _ *unstructured.Unstructured) {
			change(live, "/spec/replicas", int64(4))
			addEntry(t, live, "mystery", "Update", "status", live.GetAPIVersion(), `{"f:status":{"f:replicas":{}}}`)
		}, want: []string{"Changed /spec/replicas [3 -> 4]"}},
		"a removed field, and somebody new": {of: md, edit: func(live, _ *unstructured.Unstructured) {
			remove(live, "/metadata/labels/team")
			disown(live, "/metadata/labels/team")
			addEntry(t, live, "manager", "Update", "", live.GetAPIVersion(), `{"f:metadata":{"f:labels":{"f:x":{}}}}`)
			addEntry(t, live, "mystery", "Update", "", live.GetAPIVersion(), `{"f:metadata":{"f:labels":{"f:x":{}}}}`)
			addEntry(t, live, "manager", "Update", "status", live.GetAPIVersion(), `{"f:status":{}}`)
		}, want: []string{`Changed /metadata/labels/team ["blue" -> ] by mystery (unknown, Update, second 41)`}},
		"under another name at another API version": {of: md, edit: func(live, _ *unstructured.Unstructured) {
			change(live, "/spec/rollout/strategy/rollingUpdate/maxSurge", int64(2))
			addEntry(t, live, "manager", "Update", "", "cluster.x-k8s.io/v1beta1", `{"f:spec":{"f:strategy":{"f:rollingUpdate":{"f:maxSurge":{}}}}}`)
			addEntry(t, live, "kubectl-label", "Update", "", live.GetAPIVersion(), `{"f:metadata":{"f:labels":{"f:team":{}}}}`)
		}, want: []string{"Changed /spec/rollout/strategy/rollingUpdate/maxSurge [1 -> 2] by manager (controller, Update, second 40)"}},
		"more than a finding has room for": {of: "configmap", edit: func(live, answer *unstructured.Unstructured) {
			change(live, "/data/one", strings.Repeat("€", 200))
			change(answer, "/data/one", strings.Repeat("é", 200))
		}, want: []string{`Changed /data/one ["` + strings.Repeat("é", 126) + `… -> "` + strings.Repeat("€", 84) + `…]`}},

		"ignored": {of: md, edit: func(live, _ *unstructured.Unstructured) { change(live, "/spec/replicas", int64(4)) },
			ignore: []v1alpha1.DriftIgnore{{Kinds: []string{"MachineDeployment"}, Paths: []string{"/spec/replicas"}}}},
		"ignored of somebody else": {of: md, edit: func(live, _ *unstructured.Unstructured) { change(live, "/spec/replicas", int64(4)) },
			ignore: []v1alpha1.DriftIgnore{{Paths: []string{"/spec/replicas"}, Managers: []string{"mystery"}}},
			want:   []string{"Changed /spec/replicas [3 -> 4]"}},
		"a part is ignored": {of: md, edit: func(live, _ *unstructured.Unstructured) { remove(live, "/spec/rollout") },
			ignore: []v1alpha1.DriftIgnore{{Paths: []string{"/spec/*/strategy/type"}}},
			want:   []string{"Changed /spec/rollout/strategy/rollingUpdate/maxSurge [1 -> ]"}},
		"all parts are ignored": {of: md, edit: func(live, _ *unstructured.Unstructured) { remove(live, "/spec/rollout") },
			ignore: []v1alpha1.DriftIgnore{{Paths: []string{"/spec/rollout/strategy"}}}},
		"a loss is ignored": {of: md, edit: func(live, _ *unstructured.Unstructured) { disown(live, "/spec/replicas") },
			ignore: []v1alpha1.DriftIgnore{{Paths: []string{"/spec/replicas"}}}},

		"a loss": {of: md, edit: func(live, _ *unstructured.Unstructured) {
			disown(live, "/spec/replicas")
			addEntry(t, live, "manager", "Update", "", live.GetAPIVersion(), `{"f:spec":{"f:replicas":{}}}`)
		}, want: []string{"OwnershipLost /spec/replicas [ -> ] by manager (controller, Update, second 40)"}},
		"all managed fields are gone": {of: md, edit: func(live, _ *unstructured.Unstructured) { live.SetManagedFields(nil) },
			want: []string{"OwnershipLost  [ -> ]"}},
		"all is lost, and more": {of: "configmap", edit: func(live, _ *unstructured.Unstructured) {
			live.SetManagedFields(nil)
			change(live, "/data/one", "hand")
		}, want: []string{`Changed /data/one ["git" -> "hand"]`, "OwnershipLost  [ -> ]"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, compared(t, test.of, test.edit, test.ignore...)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompareIsBounded(t *testing.T) {
	got := compared(t, "configmap", func(live, answer *unstructured.Unstructured) {
		fields := `{"f:data":{`
		for i := range 80 {
			key := fmt.Sprintf("/data/k%02d", i)
			change(answer, key, "git")
			change(live, key, "hand")
			fields += fmt.Sprintf(`"f:k%02d":{},`, i)
		}
		addEntry(t, answer, v1alpha1.FieldManager, "Apply", "", "v1", strings.TrimSuffix(fields, ",")+"}}")
	})
	if len(got) != 50 || got[0] != `Changed /data/k00 ["git" -> "hand"]` || got[49] != `Changed /data/k49 ["git" -> "hand"]` {
		t.Errorf("%d findings:\n%s", len(got), strings.Join(got, "\n"))
	}
}

func TestCompareWithout(t *testing.T) {
	r := recorded(t, "configmap")
	if got := drift.Compare(drift.Comparison{UID: r.uid()}); len(got) > 0 {
		t.Errorf("nothing and nothing differ: %+v", got)
	}
	if got := drift.Compare(drift.Comparison{Before: r.live, UID: r.uid()}); len(got) > 0 {
		t.Errorf("found without an answer: %+v", got)
	}
	if got := drift.Compare(drift.Comparison{Before: r.live, After: recorded(t, "secret").answer, UID: r.uid()}); len(got) > 0 {
		t.Errorf("found by comparing two objects: %+v", got)
	}
	// No UID is recorded before the first apply is.
	same := recorded(t, "recreate-same")
	for _, f := range drift.Compare(drift.Comparison{Before: same.live, After: same.answer}) {
		if f.Class == v1alpha1.FindingRecreated {
			t.Errorf("made anew, as far as is known: %+v", f)
		}
	}
}

// TestMaskedPlaces checks that secret material stays hidden where elements have moved.
func TestMaskedPlaces(t *testing.T) {
	kcp := func(files string) *unstructured.Unstructured {
		return parse(t, `{apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlane, metadata: {name: a, managedFields: [
			{manager: capstan, operation: Apply, apiVersion: controlplane.cluster.x-k8s.io/v1beta2, fieldsV1: {"f:spec": {"f:kubeadmConfigSpec": {"f:files": {}, "f:preKubeadmCommands": {}}}}}]},
			spec: {kubeadmConfigSpec: `+files+`}}`)
	}
	before := kcp(`{files: [{path: /b, content: SECRET-b}, {path: /a, content: SECRET-a}], preKubeadmCommands: [echo, SECRET-1]}`)
	after := kcp(`{files: [{path: /a, content: SECRET-a}, {path: /b, content: SECRET-b}], preKubeadmCommands: [echo, SECRET-2, SECRET-3]}`)
	got := drift.Compare(drift.Comparison{Before: before, After: after})
	var fields []string
	for _, f := range got {
		fields = append(fields, f.Field)
		if strings.Contains(f.From+f.To, "SECRET") {
			t.Errorf("shown: %s", findingText(f))
		}
	}
	want := []string{
		"/spec/kubeadmConfigSpec/files/0/content", "/spec/kubeadmConfigSpec/files/0/path", "/spec/kubeadmConfigSpec/files/1/content",
		"/spec/kubeadmConfigSpec/files/1/path", "/spec/kubeadmConfigSpec/preKubeadmCommands",
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
}
