package agent_test

import (
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
)

// A Fleet that is deleted takes nothing with it, its overlays say so, and one of
// the same name goes on where it ended, without a write to managed objects.
func TestFleetMissing(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	agent := w.start()
	w.untilApplied(first, "clusters/a")
	mark := w.mark()
	w.must(env.Client().Delete(w.Context(), w.getFleet()))
	w.untilCondition("clusters/a", v1alpha1.ReadyCondition, v1alpha1.FleetNotFoundReason)
	agent.stop()

	w.start() // a restart concludes the same
	w.fleet()
	w.until("clusters/a", "looked after again", func(o *v1alpha1.ClusterOverlay) bool {
		return !has(o.Status.Conditions, v1alpha1.ReadyCondition, v1alpha1.FleetNotFoundReason)
	})
	if got := w.written(mark); count(got, "NS-a/") > 0 {
		t.Errorf("writes to managed objects: %q", got)
	}
	second := w.push(clusterOf("a", "two"))
	w.untilApplied(second, "clusters/a")
	w.check()
}
