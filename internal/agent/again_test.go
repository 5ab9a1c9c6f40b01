package agent

import (
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
)

// The soonest of what steps ask for counts, the back-off included.
func TestAgain(t *testing.T) {
	const backOff = 0
	for name, c := range map[string]struct {
		asked []time.Duration
		want  time.Duration
	}{
		"nothing":                       {want: 0},
		"back-off":                      {asked: []time.Duration{backOff}, want: time.Second},
		"delay":                         {asked: []time.Duration{time.Minute}, want: time.Minute},
		"shorter delay":                 {asked: []time.Duration{time.Minute, 2 * time.Second}, want: 2 * time.Second},
		"longer delay":                  {asked: []time.Duration{2 * time.Second, time.Minute}, want: 2 * time.Second},
		"back-off, then a delay":        {asked: []time.Duration{backOff, time.Minute}, want: time.Second},
		"a delay, then back-off":        {asked: []time.Duration{time.Minute, backOff}, want: time.Second},
		"a delay shorter than back-off": {asked: []time.Duration{backOff, time.Millisecond}, want: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			a := &attempts{first: time.Second, most: time.Minute, count: map[types.NamespacedName]int{}}
			run := &overlayRun{overlayReconciler: &overlayReconciler{attempts: a}, settled: true}
			for _, delay := range c.asked {
				run.again(delay)
			}
			got, err := run.result(ctrl.LoggerInto(t.Context(), logr.Discard()), nil)
			if err != nil || got.RequeueAfter != c.want {
				t.Errorf("%s, %v, want %s", got.RequeueAfter, err, c.want)
			}
		})
	}
}
