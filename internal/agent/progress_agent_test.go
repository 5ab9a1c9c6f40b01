package agent_test

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// status changes what is on record of an object, as an agent that was killed would have
// left it.
func (w *world) status(o client.Object, change func()) {
	w.Helper()
	base := o.DeepCopyObject().(client.Object) //nolint:forcetypeassert // a copy of one
	change()
	w.must(env.Client().Status().Patch(w.Context(), o, client.MergeFrom(base)))
}

// What the live object's own annotation keeps from being applied is not waited for: the
// generation of a dry-run never comes.
func TestLeftAloneIsSeen(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.patch("MachineDeployment", "-a/workers", "kubectl", `{"metadata":{"annotations":{"`+v1alpha1.ReconcileAnnotation+`":"`+v1alpha1.Disabled+`"}}}`)
	files := clusterOf("a", "two")
	files["clusters/a/all.yaml"] = namespaceOf("-a") + "\n---\n" + secret("-a", "credentials", "pass-of-a") + "\n---\n" + cluster("-a", "a") + "\n---\n" +
		machineTemplate("-a", "workers-v1") + "\n---\n" + machines("-a", "workers", "a", "workers-v1", 5) + "\n---\n" + configMap("-a", "settings", "two") + "\n"
	second := w.push(files)
	w.untilApplied(second, "clusters/a") // which waits for what was applied to be seen
	for _, e := range w.overlay("clusters/a").Status.Inventory {
		if live := w.live("MachineDeployment", "-a/workers"); e.Kind == "MachineDeployment" && e.Generation > live.GetGeneration() {
			t.Errorf("generation %d is on record, the live one is %d", e.Generation, live.GetGeneration())
		}
	}
}

// What all overlays have reached is noted after a restart, too, if the agent was killed
// before it could.
func TestFleetRevisionsAfterRestart(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(simple("a", "one"), simple("b", "one"))))
	w.fleet()
	r := w.start()
	w.eventually("the Fleet has converged", func() string {
		if f := w.getFleet(); f.Status.ConvergedRevision != first {
			return toJSON(f.Status)
		}
		return ""
	})
	r.stop()
	f := w.getFleet()
	w.status(f, func() { f.Status.AppliedRevision, f.Status.ConvergedRevision = "", "" })
	w.start()
	w.eventually("the Fleet says so again", func() string {
		if f := w.getFleet(); f.Status.AppliedRevision != first || f.Status.ConvergedRevision != first {
			return toJSON(f.Status)
		}
		return ""
	})
}

// An agent that can't read Git since its start still says what becomes of the machines.
func TestDegradedWithoutGit(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one"))) // of machines that lack: what is said of none is doubted for a while
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a")
	r.stop()
	o := w.overlay("clusters/a")
	w.status(o, func() { // no controller makes it so here
		o.Status.ConvergedRevision, o.Status.Progress.Phase, o.Status.Progress.Message = first, v1alpha1.PhaseConverged, ""
		for _, kind := range []string{v1alpha1.ConvergedCondition, v1alpha1.ReadyCondition} {
			meta.SetStatusCondition(&o.Status.Conditions, metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: v1alpha1.ConvergedReason})
		}
	})
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Git.URL += "-away" })
	w.start()
	w.untilCondition("clusters/a", v1alpha1.ConvergedCondition, v1alpha1.DegradedReason)
	w.untilCondition("clusters/a", v1alpha1.ReadyCondition, v1alpha1.DegradedReason)
}

// What was being applied when the agent was killed has not converged: what is live may be a
// mixture, and belongs to no commit.
func TestMixtureWithoutGit(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(simple("a", "one")))
	w.fleet()
	r := w.start()
	w.until("clusters/a", "converged", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.ConvergedRevision == first })
	r.stop()
	o := w.overlay("clusters/a")
	w.status(o, func() {
		o.Status.ConvergedRevision, o.Status.History[0].Outcome = "", v1alpha1.OutcomeApplied
		o.Status.Progress.Phase, o.Status.Progress.Message = v1alpha1.PhaseProgressing, "on their way"
		meta.SetStatusCondition(&o.Status.Conditions, metav1.Condition{Type: v1alpha1.ConvergedCondition, Status: metav1.ConditionFalse, Reason: v1alpha1.NotAppliedReason})
		meta.SetStatusCondition(&o.Status.Conditions, metav1.Condition{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionUnknown, Reason: v1alpha1.ApplyingReason})
	})
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Git.URL += "-away" })
	w.start()
	o = w.until("clusters/a", "is looked at", func(o *v1alpha1.ClusterOverlay) bool { return o.Status.Progress.Phase == v1alpha1.PhaseConverged })
	if meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.ConvergedCondition) || o.Status.ConvergedRevision != "" {
		t.Errorf("success of a mixture: %s", describe(o))
	}
}

// A Fleet that is given less patience uses it at once.
func TestStallAfterEdited(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.StallAfter = metav1.Duration{Duration: time.Second} })
	w.untilCondition("clusters/a", v1alpha1.ConvergedCondition, v1alpha1.StalledReason, "workers 0 of 2")
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.StallAfter = metav1.Duration{Duration: time.Hour} })
	w.untilCondition("clusters/a", v1alpha1.ConvergedCondition, v1alpha1.ProgressingReason, "workers 0 of 2")
}
