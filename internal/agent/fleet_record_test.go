package agent

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/source"
)

// A commit that was announced stays on record, whatever Fleet the next look, for which it is
// no news any more, has read.
func TestObservedRevisionStays(t *testing.T) {
	name := types.NamespacedName{Namespace: "ns", Name: "fleet"}
	older, newer := source.Revision{Ref: "main", Hash: "older"}, source.Revision{Ref: "main", Hash: "newer"}
	for what, is := range map[string]struct{ saved, anew bool }{
		"the cache lags":         {saved: true},
		"the record has failed":  {},
		"the Fleet is made anew": {saved: true, anew: true},
	} {
		t.Run(what, func(t *testing.T) {
			fleet := &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
			fleet.Status.ObservedRevision = older.String()
			c := fakeClient(t, fleet)
			m, err := newMetrics(prometheus.NewRegistry(), clocktesting.NewFakePassiveClock(time.Now()))
			if err != nil {
				t.Fatal(err)
			}
			r := &fleetReconciler{
				client: c, reader: c, metrics: m, board: newBoard(func(types.NamespacedName) {}),
				recorder: record.NewFakeRecorder(10), replan: func(*v1alpha1.Fleet) {},
			}
			get := func() *v1alpha1.Fleet { return readFleet(t, c, fleet) }
			look := func(f *v1alpha1.Fleet, previous source.Revision, changed int) *fleetRun {
				run := &fleetRun{fleetReconciler: r, name: name, fleet: f, status: *f.Status.DeepCopy(), next: view{revision: newer}}
				run.announce(t.Context(), &view{revision: previous}, changed)
				return run
			}
			save := func(run *fleetRun) {
				t.Helper()
				if err := run.record(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			read := get()
			if first := look(read, older, 1); is.saved {
				save(first)
			}
			if is.anew {
				if err := c.Delete(t.Context(), fleet); err != nil {
					t.Fatal(err)
				}
				read = &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
				if err := c.Create(t.Context(), read); err != nil {
					t.Fatal(err)
				}
			}
			second := look(read, newer, 0) // all is rendered by now
			second.status.LastHandledRequest = "again"
			save(second)
			if got := get().Status; got.ObservedRevision != newer.String() || got.LastHandledRequest != "again" {
				t.Errorf("observed %q, handled %q", got.ObservedRevision, got.LastHandledRequest)
			}
		})
	}
}
