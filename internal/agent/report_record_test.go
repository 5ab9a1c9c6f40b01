package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/source"
)

// A decision on a record that others have changed since doesn't replace theirs; what
// others say beside it doesn't matter.
func TestRecordOutdated(t *testing.T) {
	fleet := &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "fleet"}}
	c := fakeClient(t, fleet)
	r := &reportReconciler{client: c, reader: c}
	get := func() *v1alpha1.Fleet { return readFleet(t, c, fleet) }
	decide := func(f *v1alpha1.Fleet, tip string) *commitstatus.Decision {
		d := commitstatus.Decide(commitstatus.Input{Fleet: f, Tip: tip})
		d.Intend()
		return &d
	}
	behind, known := get(), get()
	if err := r.record(t.Context(), known, decide(known, "one")); err != nil {
		t.Fatal(err)
	}
	if err := r.record(t.Context(), behind, decide(behind, "two")); !errors.Is(err, errOutdated) {
		t.Errorf("error: %v", err)
	}
	other := get()
	other.Status.ObservedRevision = "main@sha1:one"
	if err := c.Status().Update(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if err := r.record(t.Context(), known, decide(known, "two")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range get().Status.Forge.Commits {
		got = append(got, c.Commit)
	}
	if diff := cmp.Diff([]string{"two", "one"}, got); diff != "" {
		t.Error(diff)
	}
}

// What was said on a pull request is not put on record again after the forge was taken
// away, and its record with it.
func TestPullRequestToldTooLate(t *testing.T) {
	fleet := &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "fleet"},
		Spec: v1alpha1.FleetSpec{
			Git:   v1alpha1.GitSpec{Ref: v1alpha1.GitRef{Branch: "main"}},
			Forge: &v1alpha1.ForgeSpec{SecretRef: &v1alpha1.LocalReference{Name: "forge"}},
		},
	}
	c := fakeClient(t, fleet)
	get := func() *v1alpha1.Fleet { return readFleet(t, c, fleet) }
	remember := func(known *v1alpha1.Fleet, number int64) {
		t.Helper()
		run := &pullRun{pullReconciler: &pullReconciler{client: c, reader: c}, fleet: known}
		if err := run.remember(t.Context(), v1alpha1.ReportedPullRequest{Number: number}); err != nil {
			t.Fatal(err)
		}
	}
	remember(get(), 1)
	if pulls := pullsOf(get()); len(pulls) != 1 {
		t.Fatalf("on record: %+v", pulls)
	}
	known, without := get(), get()
	without.Spec.Forge = nil
	if err := c.Update(t.Context(), without); err != nil {
		t.Fatal(err)
	}
	if err := (&reportReconciler{client: c, reader: c}).silent(t.Context(), get()); err != nil {
		t.Fatal(err)
	}
	remember(known, 2)
	if got := get().Status.Forge; got != nil {
		t.Errorf("on record of a forge that isn't there: %+v", got)
	}
}

type nowhere struct{}

func (nowhere) URL(types.NamespacedName, string) string { return "" }

// mute is a forge to which nothing may be said.
type mute struct {
	forge.Forge // nil
	t           *testing.T
}

func (mute) Limits() forge.Limits { return forge.Limits{} }

func (m mute) SetStatus(_ context.Context, s forge.Status) error {
	m.t.Errorf("said again: %+v", s)
	return errors.New("said again")
}

// What was said on a pull request a moment ago is not said again, though the cache doesn't
// have it yet.
func TestPullRequestToldOnce(t *testing.T) {
	behind := &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: testFleet.Namespace, Name: testFleet.Name},
		Spec: v1alpha1.FleetSpec{
			Git:   v1alpha1.GitSpec{Ref: v1alpha1.GitRef{Branch: "main"}},
			Forge: &v1alpha1.ForgeSpec{SecretRef: &v1alpha1.LocalReference{Name: "forge"}},
		},
	}
	run := &pullRun{
		pullReconciler: &pullReconciler{checked: newCheckedPulls(), pages: nowhere{}},
		name:           pullRequest{Fleet: testFleet, Number: 7}, fleet: behind, forge: mute{t: t},
		digest: object.NewDigester([]byte("key")), pull: forge.PullRequest{Number: 7, Head: "head"},
		view:    &view{revision: source.Revision{Ref: "main", Hash: "0123456789"}},
		verdict: &verdict{state: forge.Success, description: "no cluster affected"},
	}
	live := behind.DeepCopy()
	live.Status.Forge = &v1alpha1.ForgeStatus{PullRequests: []v1alpha1.ReportedPullRequest{{
		Number: 7, Head: "head", Digest: run.digest.Strings(string(forge.Success), "no cluster affected", run.comment(""))[:16],
	}}}
	run.reader = fakeClient(t, live)
	if err := tellPullStep(t.Context(), run); err != nil {
		t.Error(err)
	}
	if !run.checked.is(run.name, "head") {
		t.Error("it isn't noted as looked at")
	}
}

// What a Fleet's forge was owed is no more than the Fleet, though it was counted last when
// the Fleet had gone.
func TestNothingOwedAfterDeletion(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry, clocktesting.NewFakePassiveClock(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	r := &reportReconciler{client: fakeClient(t), metrics: m, pauses: &pauses{}, forges: &forges{}}
	m.owed(testFleet, 3)
	if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: testFleet}); err != nil {
		t.Fatal(err)
	}
	for name := range series(t, registry) {
		if strings.HasPrefix(name, "capstan_forge_queue") {
			t.Errorf("still there: %s", name)
		}
	}
}
