package agent_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
)

// untilNoted waits until what an object looks like now is on record.
func (w *world) untilNoted(path, kind, name string) {
	w.Helper()
	w.until(path, kind+" "+name+" is on record as it is", func(o *v1alpha1.ClusterOverlay) bool {
		live := w.live(kind, name)
		for _, e := range o.Status.Inventory {
			if e.Kind == kind && e.Name == live.GetName() && e.ResourceVersion == live.GetResourceVersion() {
				return len(o.Status.Drift) == 0
			}
		}
		return false
	})
}

// A field that was left to somebody is Git's again once nothing leaves it to them, and so
// is what they have made of it.
func TestDriftIgnoreEnds(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	back := func(what string) {
		w.Helper()
		w.until("clusters/a", what, func(o *v1alpha1.ClusterOverlay) bool {
			got, _ := corrections(o, "ConfigMap", "settings")
			return w.data("-a/settings") == "one" && len(got) == 1 && got[0] == `Changed /data/v "one" "`+what+`" kubectl-edit` && len(o.Status.Drift) == 0
		})
	}
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"metadata":{"annotations":{"`+v1alpha1.IgnoreAnnotation+`":"/data/v"}},"data":{"v":"ignored by the object"}}`)
	w.untilNoted("clusters/a", "ConfigMap", "-a/settings")
	w.patch("ConfigMap", "-a/settings", "kubectl-annotate", `{"metadata":{"annotations":{"`+v1alpha1.IgnoreAnnotation+`":null}}}`)
	back("ignored by the object")

	w.patchFleet(func(s *v1alpha1.FleetSpec) {
		s.Drift.Ignore = []v1alpha1.DriftIgnore{{Kinds: []string{"ConfigMap"}, Paths: []string{"/data"}}}
	})
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"ignored by the Fleet"}}`)
	w.untilNoted("clusters/a", "ConfigMap", "-a/settings")
	// An apply leaves it out, and doesn't make it less.
	second := w.push(map[string]string{"clusters/a/kustomization.yaml": "resources: [all.yaml]\ncommonAnnotations: {more: x}\n"})
	w.untilApplied(second, "clusters/a")
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Drift.Ignore = nil })
	back("ignored by the Fleet")

	w.patch("MachineDeployment", "-a/workers", "manager", `{"metadata":{"annotations":{"cluster.x-k8s.io/replicas-managed-by":"x"}},"spec":{"replicas":7}}`)
	w.untilNoted("clusters/a", "MachineDeployment", "-a/workers")
	w.patch("MachineDeployment", "-a/workers", "manager", `{"metadata":{"annotations":{"cluster.x-k8s.io/replicas-managed-by":null}}}`)
	w.untilDrift("clusters/a", "MachineDeployment workers Blocked Changed /spec/replicas")
	w.check()
}

// What somebody does between the look at an object and its correction is not written over
// unseen: it may be what a correction has to be approved for.
func TestDriftMeanwhile(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	scale := func() {}
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/clusters/a") {
				scale() // a correction looks at the Cluster first
			}
			return next.RoundTrip(r)
		})
	}
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	r.stop()
	var once sync.Once
	scale = func() {
		once.Do(func() {
			w.must(env.Client().Patch(t.Context(), w.object("MachineDeployment", "-a/workers"),
				client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":7}}`)), client.FieldOwner("kubectl-edit")))
		})
	}
	w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"metadata":{"annotations":{"`+v1alpha1.PathAnnotation+`":"x"}}}`)
	w.start()
	w.untilDrift("clusters/a", "MachineDeployment workers Held Changed /metadata/annotations/capstan.dev~1path",
		"MachineDeployment workers Held Changed /spec/replicas")
	if got, _, _ := unstructured.NestedInt64(w.live("MachineDeployment", "-a/workers").Object, "spec", "replicas"); got != 7 {
		t.Errorf("%d replicas: a scale-down that nobody has approved", got)
	}
	w.check()
}

// Edits show also where nothing says any more whose the fields are.
func TestDriftWithoutManagedFields(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet(reports)
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"metadata":{"managedFields":[{}]}}`)
	w.untilDrift("clusters/a", "MachineDeployment workers Reported OwnershipLost")
	w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"spec":{"replicas":7}}`)
	w.untilDrift("clusters/a", "MachineDeployment workers Reported OwnershipLost", "MachineDeployment workers Reported Changed /spec/replicas")
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Drift.Mode = v1alpha1.DriftCorrect })
	w.untilDrift("clusters/a", "MachineDeployment workers Held OwnershipLost", "MachineDeployment workers Held Changed /spec/replicas")
	w.check()
}

// What Git has with nothing in it for somebody else to fill in is theirs once they have, as
// if Git didn't have it, and stays so through what Git says later.
func TestDriftFilledIn(t *testing.T) {
	w := newWorld(t)
	files := func(note string) map[string]string {
		return simple("a", "one", `{apiVersion: cluster.x-k8s.io/v1beta1, kind: Cluster, metadata: {name: a, namespace: NS-a, annotations: {note: `+note+`}},
 spec: {controlPlaneEndpoint: {host: "", port: 0}}}`)
	}
	first := revision(w.commit(files("x")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.patch("Cluster", "-a/a", "manager", `{"spec":{"controlPlaneEndpoint":{"host":"192.0.2.1","port":6443}}}`)
	w.untilNoted("clusters/a", "Cluster", "-a/a")
	w.never("clusters/a")
	w.untilApplied(w.push(files("y")), "clusters/a")
	live := w.live("Cluster", "-a/a")
	if got, _, _ := unstructured.NestedString(live.Object, "spec", "controlPlaneEndpoint", "host"); got != "192.0.2.1" || live.GetAnnotations()["note"] != "y" {
		t.Errorf("now %s", toJSON(live))
	}
	w.never("clusters/a")
	w.check()
}

// A controller that has taken a field and says what Git says is no alarm: to say it as well
// takes nothing from it, and then what it says next shows.
func TestDriftOwnershipShared(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	r.stop()
	for _, replicas := range []string{"7", "2"} {
		w.patch("MachineDeployment", "-a/workers", "manager", `{"spec":{"replicas":`+replicas+`}}`)
	}
	w.start()
	o := w.until("clusters/a", "owns the field as well", isCorrected)
	if got, _ := corrections(o, "MachineDeployment", "workers"); !slices.Equal(got, []string{"OwnershipLost /spec/replicas   manager"}) {
		t.Errorf("corrections: %q", got)
	}
	for _, e := range w.live("MachineDeployment", "-a/workers").GetManagedFields() {
		if e.Operation == "Update" && e.Manager == "manager" && !strings.Contains(e.FieldsV1.GetRawString(), `"f:replicas"`) {
			t.Errorf("the controller has lost the field: %s", toJSON(e))
		}
	}
	w.patch("MachineDeployment", "-a/workers", "manager", `{"spec":{"replicas":3}}`)
	w.untilDrift("clusters/a", "MachineDeployment workers Blocked Changed /spec/replicas")
	w.check()
}

// Nor is it one for long if that value was another one meanwhile: nothing tells when it is
// back, so the object is looked at now and then.
func TestDriftGivenBack(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one", machines("-a", "others", "a", "workers-v1", 1))))
	w.fleet()
	clock := clocktesting.NewFakePassiveClock(time.Now())
	w.start(func(o *agent.Options) { o.Clock = clock })
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.patch("MachineDeployment", "-a/workers", "manager", `{"spec":{"replicas":7}}`)
	w.untilDrift("clusters/a", "MachineDeployment workers Blocked Changed /spec/replicas")
	w.patch("MachineDeployment", "-a/workers", "manager", `{"spec":{"replicas":2}}`)
	clock.SetTime(clock.Now().Add(11 * time.Minute))
	// This has the agent look. One watch tells of both, so it knows of the other by then.
	w.patch("MachineDeployment", "-a/others", "kubectl-label", `{"metadata":{"labels":{"team":"blue"}}}`)
	w.untilDrift("clusters/a", "MachineDeployment others Reported Foreign /metadata/labels/team")
	w.check()
}
