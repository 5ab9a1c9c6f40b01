package agent

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
)

// slowRender is how long the other overlays of a fleet may take to be rendered
// before one that has something to delete says that it waits for them. Mostly they
// take less, and saying so would cost two writes.
const slowRender = 10 * time.Second

// waits says, if it takes long, which overlays have to be rendered before anything
// is deleted.
func (run *overlayRun) waits() {
	waited, unrendered := run.board.waits(run.fleetName, run.overlay.Spec.Path, run.clock.Now())
	if len(unrendered) == 0 {
		return // by now; it has asked for us
	}
	if waited < slowRender {
		run.again(slowRender - waited)
		return
	}
	run.again(retainedRetry)
	message := fmt.Sprintf("nothing is deleted until all overlays of the fleet are rendered, because they may hold these objects now; waits for %s", strings.Join(unrendered, ", "))
	status := metav1.ConditionFalse
	if pending := run.status.PendingDeletion; pending != nil {
		status, message = metav1.ConditionTrue, message+"; "+pending.Message
	}
	run.condition(v1alpha1.PendingDeletionCondition, status, v1alpha1.PruneHeldReason, message)
}
