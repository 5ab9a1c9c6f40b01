package commitstatus_test

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
)

// paced is what a forge is told of a commit within two hours, in which its overlays look
// otherwise every five seconds.
func paced(t *testing.T, n int, look func(o *v1alpha1.ClusterOverlay, tick int)) (byMinute map[int]int, byContext map[string]int) {
	t.Helper()
	in := commitstatus.Input{Tip: one, Total: n, Settled: true, Fleet: fleet(nil)}
	in.Fleet.Spec.Forge.MaxContexts = ptr.To[int32](100)
	byMinute, byContext = map[int]int{}, map[string]int{}
	for tick := range 1440 {
		in.Now = now.Add(time.Duration(tick) * 5 * time.Second)
		in.Overlays = nil
		for i := range n {
			o := overlay(fmt.Sprint(i), one, applied)
			look(&o, tick+i)
			in.Overlays = append(in.Overlays, o)
		}
		d := commitstatus.Decide(in)
		for _, p := range d.Posts {
			byContext[p.Context]++
			if tick > 0 {
				byMinute[tick/12]++
			}
		}
		in.Fleet.Status.Forge = acknowledge(&d, in.Now)
	}
	return byMinute, byContext
}

// Counts that change all the time don't use up what a forge allows: GitHub takes 80
// statuses a minute and 500 an hour, and keeps 1,000 of a context. Nor do they leave a
// small commit without news.
func TestPaceOfTexts(t *testing.T) {
	for _, test := range []struct{ overlays, least, mostAMinute, most int }{
		{1, 12, 4, 50}, {10, 40, 14, 250}, {50, 150, 60, 600},
	} {
		t.Run(fmt.Sprint(test.overlays), func(t *testing.T) {
			byMinute, byContext := paced(t, test.overlays, func(o *v1alpha1.ClusterOverlay, tick int) {
				machines(3, 3, int32(tick%100), 100)(o) //nolint:gosec // less than 100
			})
			total := 0
			for minute, n := range byMinute {
				total += n
				if n > test.mostAMinute {
					t.Errorf("%d statuses in minute %d", n, minute)
				}
			}
			if total > test.most || total < test.least {
				t.Errorf("%d statuses in two hours", total)
			}
			for context, n := range byContext {
				if n < 2 {
					t.Errorf("%s was told of %d times", context, n)
				}
			}
		})
	}
}

// A machine that fails again and again is a failure, and not one each time.
func TestPaceOfFailures(t *testing.T) {
	_, byContext := paced(t, 1, func(o *v1alpha1.ClusterOverlay, tick int) {
		if tick%2 == 0 {
			phase(metav1.ConditionFalse, v1alpha1.StalledReason, "quota")(o)
		}
	})
	for context, n := range byContext {
		if n > 60 || n < 3 {
			t.Errorf("%s was told of %d times in two hours", context, n)
		}
	}
}
