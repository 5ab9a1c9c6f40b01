package agent

import (
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// A forge that failed is left alone for longer and longer, but not once the Fleet or its
// credentials have changed: what a person has mended is tried at once.
func TestPauses(t *testing.T) {
	fleet, now := types.NamespacedName{Namespace: "ns", Name: "fleet"}, time.Unix(1_700_000_000, 0)
	p := &pauses{held: map[types.NamespacedName]*pause{}}
	for _, want := range []time.Duration{pauseFirst, 2 * pauseFirst, 4 * pauseFirst} {
		if got := p.failed(fleet, "generation 1, token 1", errors.New("no"), now); got != want {
			t.Errorf("waits %s, want %s", got, want)
		}
	}
	if got := p.left(fleet, "generation 1, token 1", now.Add(pauseFirst)); got != 3*pauseFirst {
		t.Errorf("%s are left, want %s", got, 3*pauseFirst)
	}
	if got := p.left(fleet, "generation 1, token 2", now); got != 0 {
		t.Errorf("with another token %s are left", got)
	}
	if got := p.failed(fleet, "generation 1, token 2", errors.New("no"), now); got != pauseFirst {
		t.Errorf("another token that fails waits %s, want %s", got, pauseFirst)
	}
}
