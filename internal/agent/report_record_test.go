package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
)

// A decision on a record that others have changed since doesn't replace theirs; what
// others say beside it doesn't matter.
func TestRecordOutdated(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	fleet := &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "fleet"}}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(fleet).WithStatusSubresource(fleet).Build()
	r := &reportReconciler{client: c, reader: c}
	get := func() *v1alpha1.Fleet {
		t.Helper()
		var f v1alpha1.Fleet
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(fleet), &f); err != nil {
			t.Fatal(err)
		}
		return &f
	}
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
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	fleet := &v1alpha1.Fleet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "fleet"},
		Spec: v1alpha1.FleetSpec{
			Git:   v1alpha1.GitSpec{Ref: v1alpha1.GitRef{Branch: "main"}},
			Forge: &v1alpha1.ForgeSpec{SecretRef: &v1alpha1.LocalReference{Name: "forge"}},
		},
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(fleet).WithStatusSubresource(fleet).Build()
	get := func() *v1alpha1.Fleet {
		t.Helper()
		var f v1alpha1.Fleet
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(fleet), &f); err != nil {
			t.Fatal(err)
		}
		return &f
	}
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

// What a Fleet's forge was owed is no more than the Fleet, though it was counted last when
// the Fleet had gone.
func TestNothingOwedAfterDeletion(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry, clocktesting.NewFakePassiveClock(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	r := &reportReconciler{client: fake.NewClientBuilder().WithScheme(scheme).Build(), metrics: m, pauses: &pauses{}, forges: &forges{}}
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
