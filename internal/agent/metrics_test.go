package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/capi"
)

// listed is what a cache lists.
type listed struct {
	client.Reader
	fleets   []v1alpha1.Fleet
	overlays []v1alpha1.ClusterOverlay
}

func (l *listed) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	switch list := list.(type) {
	case *v1alpha1.FleetList:
		list.Items = l.fleets
	case *v1alpha1.ClusterOverlayList:
		list.Items = l.overlays
	}
	return nil
}

// drift is of every class, the most urgent of which is not the first.
func driftsOf(now time.Time) []v1alpha1.DriftedObject {
	drifted := func(action v1alpha1.DriftAction, age time.Duration, classes ...v1alpha1.FindingClass) v1alpha1.DriftedObject {
		d := v1alpha1.DriftedObject{Action: action, DetectedTime: metav1.NewTime(now.Add(-age))}
		for _, class := range classes {
			d.Findings = append(d.Findings, v1alpha1.Finding{Class: class})
		}
		return d
	}
	approved := drifted(v1alpha1.DriftHeld, time.Minute, v1alpha1.FindingMissing)
	approved.Approved = true
	return []v1alpha1.DriftedObject{
		drifted(v1alpha1.DriftHeld, time.Minute, v1alpha1.FindingForeign, v1alpha1.FindingChanged),
		approved,
		drifted(v1alpha1.DriftFight, time.Hour, v1alpha1.FindingOwnershipLost, v1alpha1.FindingChanged),
		drifted(v1alpha1.DriftBlocked, time.Second, v1alpha1.FindingOwnershipLost),
		drifted(v1alpha1.DriftCorrecting, time.Second, v1alpha1.FindingChanged, v1alpha1.FindingRecreated),
		drifted(v1alpha1.DriftReported, -time.Second, v1alpha1.FindingForeign),
	}
}

// collector tells of a Fleet with n overlays, every tenth of which is stalled, and another tenth has drifted.
func collector(t *testing.T, n, most int, leads bool) *prometheus.Registry {
	t.Helper()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	fleet := v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: "capstan", Name: "fleet"}}
	fleet.Spec.Git.Interval.Duration = time.Minute
	for _, kind := range []string{v1alpha1.FetchedCondition, v1alpha1.DiscoveredCondition, v1alpha1.ReportedCondition, v1alpha1.ReadyCondition} {
		setCondition(&fleet.Status.Conditions, 1, kind, metav1.ConditionTrue, v1alpha1.SucceededReason, "")
	}
	cache := &listed{fleets: []v1alpha1.Fleet{fleet}}
	for i := range n {
		o := v1alpha1.ClusterOverlay{ObjectMeta: metav1.ObjectMeta{Namespace: "capstan", Name: fmt.Sprintf("fleet-c%04d", i)}}
		o.Spec.FleetRef.Name, o.Spec.Path = "fleet", fmt.Sprintf("clusters/c%04d", i)
		since := metav1.Time{Time: now.Add(-time.Hour)}
		o.Status = v1alpha1.ClusterOverlayStatus{
			DesiredRevision: "2", AppliedRevision: "2", ConvergedRevision: "2", DesiredSince: &since,
			Progress: &v1alpha1.Progress{Phase: v1alpha1.PhaseConverged, Workers: v1alpha1.MachineCounts{Desired: 3, Existing: 3, Ready: 3, UpToDate: 3, Done: 3}},
			Inventory: []v1alpha1.InventoryEntry{
				{State: v1alpha1.EntryApplied}, {State: v1alpha1.EntryRetained}, {State: v1alpha1.EntryLeaving},
			},
			PendingDeletion: &v1alpha1.PendingDeletion{Reason: v1alpha1.ObjectsRemovedReason, Objects: make([]v1alpha1.ObjectReference, 1)},
		}
		if i%10 == 9 {
			o.Status.Progress.Phase, o.Status.ConvergedRevision = v1alpha1.PhaseStalled, "1"
		}
		if i%10 == 5 {
			o.Status.Drift, o.Status.DriftedObjects = driftsOf(now), 6
		}
		for _, kind := range []string{v1alpha1.RenderedCondition, v1alpha1.AppliedCondition, v1alpha1.PendingDeletionCondition} {
			setCondition(&o.Status.Conditions, 1, kind, metav1.ConditionTrue, v1alpha1.SucceededReason, "")
		}
		summarise(&o.Status, 1, false)
		setCondition(&o.Status.Conditions, 1, v1alpha1.InSyncCondition, metav1.ConditionTrue, v1alpha1.SucceededReason, "")
		cache.overlays = append(cache.overlays, o)
	}
	leading := make(chan struct{})
	if leads {
		close(leading)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(&stateCollector{reader: cache, leading: leading, clock: clocktesting.NewFakePassiveClock(now), most: most})
	return registry
}

// series are the values by name and labels.
func series(t *testing.T, registry prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			values[strings.TrimSuffix(f.GetName()+" "+strings.Join(labels, " "), " ")] = value
		}
	}
	return values
}

// What is recorded is told as it is.
func TestStateMetrics(t *testing.T) {
	got := series(t, collector(t, 10, 100, true))
	well, stuck := " fleet=fleet namespace=capstan overlay=fleet-c0000", " fleet=fleet namespace=capstan overlay=fleet-c0009"
	const drifted = " fleet=fleet namespace=capstan overlay=fleet-c0005"
	for name, want := range map[string]float64{
		"capstan_fleet_overlays fleet=fleet namespace=capstan state=Converged":  9,
		"capstan_fleet_overlays fleet=fleet namespace=capstan state=Stalled":    1,
		"capstan_fleet_overlays fleet=fleet namespace=capstan state=Failed":     0,
		"capstan_fleet_interval_seconds fleet=fleet namespace=capstan":          60,
		"capstan_fleet_suspended fleet=fleet namespace=capstan":                 0,
		"capstan_overlay_state" + well + " state=Converged":                     1,
		"capstan_overlay_state" + stuck + " state=Stalled":                      1,
		"capstan_overlay_condition condition=Ready" + stuck:                     0,
		"capstan_overlay_condition condition=Converged" + well:                  1,
		"capstan_overlay_behind_seconds" + well:                                 0,
		"capstan_overlay_behind_seconds" + stuck:                                3600,
		"capstan_overlay_machines count=done" + well + " role=workers":          3,
		"capstan_overlay_machines count=desired" + well + " role=control_plane": 0,
		"capstan_overlay_objects" + well:                                        3,
		"capstan_overlay_pending_deletion_objects" + well:                       1,
		"capstan_overlay_held_prunes" + well:                                    1,
		"capstan_overlays_without_series":                                       0,
		"capstan_overlay_condition condition=InSync" + well:                     1,
		"capstan_overlay_drifted_objects class=changed" + well:                  0,
		"capstan_overlay_drifted_objects class=changed" + drifted:               2,
		"capstan_overlay_drifted_objects class=missing" + drifted:               1,
		"capstan_overlay_drifted_objects class=recreated" + drifted:             1,
		"capstan_overlay_drifted_objects class=ownership_lost" + drifted:        1,
		"capstan_overlay_drifted_objects class=foreign" + drifted:               1,
		"capstan_overlay_drift_age_seconds" + well:                              0,
		"capstan_overlay_drift_age_seconds" + drifted:                           3600,
		"capstan_overlay_drift_held" + drifted:                                  1,
		"capstan_overlay_drift_fights" + drifted:                                1,
	} {
		if value, there := got[name]; !there || value != want {
			t.Errorf("%s: %g (%t), want %g", name, value, there, want)
		}
	}
	if n := len(series(t, collector(t, 10, 100, false))); n != 0 {
		t.Errorf("a replica that doesn't lead tells %d series", n)
	}
}

// The number of series is bounded, and those that need attention stay.
func TestCardinality(t *testing.T) {
	got := series(t, collector(t, 1000, 1000, true))
	const perFleet, perOverlay = 15, 29
	if n := len(got); n != perFleet+1+1000*perOverlay {
		t.Errorf("1,000 overlays have %d series, docs/monitoring.md says %d for each, and %d for a Fleet", n, perOverlay, perFleet)
	}
	got = series(t, collector(t, 1000, 250, true))
	if n := len(got); n != perFleet+1+250*perOverlay || got["capstan_overlays_without_series"] != 750 {
		t.Errorf("at most 250 overlays: %d series, %g left out", n, got["capstan_overlays_without_series"])
	}
	for i := 9; i < 1000; i += 10 {
		if name := fmt.Sprintf("capstan_overlay_state fleet=fleet namespace=capstan overlay=fleet-c%04d state=Stalled", i); got[name] != 1 {
			t.Errorf("left out: %s", name)
		}
		if name := fmt.Sprintf("capstan_overlay_drift_held fleet=fleet namespace=capstan overlay=fleet-c%04d", i-4); got[name] != 1 {
			t.Errorf("left out: %s", name)
		}
	}
}

// A forge that is told nothing any more is owed nothing, and an apply that was refused in
// part has not succeeded.
func TestOutcomes(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry, clocktesting.NewFakePassiveClock(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	m.owed(testFleet, 3)
	m.owesNothing(testFleet)
	for name := range series(t, registry) {
		if strings.HasPrefix(name, "capstan_forge_queue") {
			t.Errorf("still there: %s", name)
		}
	}
	report := apply.Report{Outcomes: []apply.Outcome{{Action: apply.ActionFailed, Err: &apply.Error{}}}}
	if refused(report, nil) == nil || refused(apply.Report{Halted: &apply.Error{}}, nil) == nil || refused(apply.Report{}, nil) != nil {
		t.Error("what is refused counts as done")
	}
}

// Requests are counted by the verbs that rights are given for.
func TestCountRequests(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "absent") {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	registry := prometheus.NewRegistry()
	wrap, err := CountRequests(registry)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: wrap(http.DefaultTransport)}
	for _, r := range []struct{ method, path, content string }{
		{"GET", "/apis/cluster.x-k8s.io/v1beta2/namespaces/a/clusters/b", ""},
		{"GET", "/apis/cluster.x-k8s.io/v1beta2/namespaces/a/clusters/absent", ""},
		{"GET", "/api/v1/namespaces/a", ""},
		{"GET", "/api/v1/namespaces", ""},
		{"GET", "/apis/cluster.x-k8s.io/v1beta2/clusters", ""},
		{"GET", "/apis/cluster.x-k8s.io/v1beta2/clusters?watch=true", ""},
		{"GET", "/apis/cluster.x-k8s.io/v1beta2", ""},
		{"POST", "/api/v1/namespaces/a/events", ""},
		{"PATCH", "/api/v1/namespaces/a", "application/apply-patch+yaml"},
		{"PATCH", "/api/v1/namespaces/a/x/y/status", "application/merge-patch+json"},
		{"PUT", "/api/v1/namespaces/a/leases/x", ""},
		{"DELETE", "/api/v1/namespaces/a/leases/x", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), r.method, server.URL+r.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", r.content)
		answer, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
	}
	server.Close()
	if answer, err := c.Get(server.URL + "/api/v1/namespaces/a"); err == nil {
		_ = answer.Body.Close()
		t.Error("the server is stopped, and answers")
	}
	got := series(t, registry)
	want := map[string]float64{
		"2xx get": 2, "4xx get": 1, "none get": 1, "2xx list": 2, "2xx watch": 1, "2xx discovery": 1, "2xx create": 1,
		"2xx apply": 1, "2xx patch": 1, "2xx update": 1, "2xx delete": 1,
	}
	if len(got) != len(want) {
		t.Errorf("series: %v", got)
	}
	for name, n := range want {
		code, verb, _ := strings.Cut(name, " ")
		if got["capstan_api_requests_total code="+code+" verb="+verb] != n {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// An object counts once, as the most urgent of what is found in it, and under who wrote
// that. What has not happened yet is 0.
func TestDriftCounters(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m, err := newMetrics(registry, clocktesting.NewFakePassiveClock(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	finding := func(class v1alpha1.FindingClass, manager capi.ManagerClass) v1alpha1.Finding {
		return v1alpha1.Finding{Class: class, Writer: v1alpha1.Writer{Manager: "somebody", Class: string(manager)}}
	}
	changed := []v1alpha1.Finding{
		finding(v1alpha1.FindingForeign, capi.ManagerPerson), finding(v1alpha1.FindingChanged, capi.ManagerFormerOwner),
		finding(v1alpha1.FindingOwnershipLost, capi.ManagerUnknown),
	}
	missing := []v1alpha1.Finding{finding(v1alpha1.FindingMissing, "")}
	m.drifted(changed)
	m.drifted(changed[:1])
	m.drifted(changed[2:])
	m.drifted(missing)
	m.drifted(nil)
	m.corrected(changed, nil)
	m.corrected(missing, errors.New("no"))
	m.fought(changed[2:])

	got := map[string]float64{}
	for name, value := range series(t, registry) {
		if rest, of := strings.CutPrefix(name, "capstan_drift_"); of {
			got[rest] = value
		}
	}
	want := map[string]float64{}
	for _, manager := range []string{"person", "former_owner", "controller", "unknown", "none"} {
		for _, class := range []string{"changed", "foreign", "ownership_lost", "recreated"} {
			want["detections_total class="+class+" manager_class="+manager] = 0
		}
		want["corrections_total manager_class="+manager+" result=success"] = 0
		want["corrections_total manager_class="+manager+" result=failure"] = 0
		want["fights_total manager_class="+manager] = 0
	}
	for _, name := range []string{
		"detections_total class=changed manager_class=former_owner", "detections_total class=foreign manager_class=person",
		"detections_total class=ownership_lost manager_class=unknown", "detections_total class=missing manager_class=none",
		"corrections_total manager_class=former_owner result=success", "corrections_total manager_class=none result=failure",
		"fights_total manager_class=unknown",
	} {
		want[name] = 1
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}
