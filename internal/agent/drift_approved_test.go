package agent_test

import (
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
)

// An approval that is given, or was used, while the agent is down outlasts a start at which
// Git can't be read. It is for what was approved, and not for what was done since.
func TestDriftApprovedWhileDown(t *testing.T) {
	for name, c := range map[string]struct {
		replicas string // when Git is back
		want     string
		left     int64
	}{
		"as approved":   {"5", "", 2},
		"changed since": {"6", "MachineDeployment workers Held Changed /spec/replicas", 6},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := revision(w.commit(clusterOf("a", "one")))
			w.fleet()
			r := w.start()
			w.untilApplied(first, "clusters/a")
			w.untilInSync("clusters/a")
			w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"spec":{"replicas":5}}`)
			o := w.untilDrift("clusters/a", "MachineDeployment workers Held Changed /spec/replicas")
			r.stop()
			w.annotate(o, v1alpha1.ApproveCorrectionAnnotation, o.Status.Drift[0].Hash)
			w.must(os.Rename(w.repo.Path(), w.repo.Path()+".away"))
			r = w.start()
			w.until("clusters/a", "has taken the approval", func(o *v1alpha1.ClusterOverlay) bool {
				return o.Annotations[v1alpha1.ApproveCorrectionAnnotation] == ""
			})
			r.stop()
			w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"spec":{"replicas":`+c.replicas+`}}`)
			w.patch("Cluster", "-a/a", "kubectl-label", `{"metadata":{"labels":{"team":"blue"}}}`)
			w.start()
			foreign := "Cluster a Reported Foreign /metadata/labels/team" // shows that it was looked at
			w.untilDrift("clusters/a", foreign, "MachineDeployment workers Blocked Changed")
			w.must(os.Rename(w.repo.Path()+".away", w.repo.Path()))
			w.look()
			want := []string{foreign}
			if c.want != "" {
				want = append(want, c.want)
			}
			w.untilDrift("clusters/a", want...)
			if got, _, _ := unstructured.NestedInt64(w.live("MachineDeployment", "-a/workers").Object, "spec", "replicas"); got != c.left {
				t.Errorf("%d replicas, want %d", got, c.left)
			}
			w.check()
		})
	}
}
