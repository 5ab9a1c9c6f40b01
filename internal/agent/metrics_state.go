package agent

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// stateCollector tells what is recorded in Fleets and ClusterOverlays, as it is when it
// is asked. So a series ends with its object, and nothing has to be kept in step.
type stateCollector struct {
	// reader is a cache: a scrape sends no request.
	reader client.Reader
	// leading is closed once this replica leads. Another one must not tell the same again.
	leading <-chan struct{}
	clock   clock.PassiveClock
	// most is the number of overlays with series of their own.
	most int
}

var (
	fleetLabels   = []string{"namespace", "fleet"}
	overlayLabels = []string{"namespace", "fleet", "overlay"}

	fleetOverlays = prometheus.NewDesc("capstan_fleet_overlays", "Overlays of a Fleet by state.", append(slices.Clone(fleetLabels), "state"), nil)
	fleetState    = prometheus.NewDesc("capstan_fleet_condition", "Conditions of a Fleet: 1 for True, 0 for False, -1 for Unknown.",
		append(slices.Clone(fleetLabels), "condition"), nil)
	fleetSuspended = prometheus.NewDesc("capstan_fleet_suspended", "1 if the Fleet is suspended, else 0.", fleetLabels, nil)
	fleetInterval  = prometheus.NewDesc("capstan_fleet_interval_seconds", "Time between two looks at a Fleet's remote.", fleetLabels, nil)

	overlayState = prometheus.NewDesc("capstan_overlay_state", "The state of a ClusterOverlay, always 1.",
		append(slices.Clone(overlayLabels), "state"), nil)
	overlayCondition = prometheus.NewDesc("capstan_overlay_condition", "Conditions of a ClusterOverlay: 1 for True, 0 for False, -1 for Unknown.",
		append(slices.Clone(overlayLabels), "condition"), nil)
	overlayObjects = prometheus.NewDesc("capstan_overlay_objects", "Objects in the inventory of a ClusterOverlay.", overlayLabels, nil)
	overlayBehind  = prometheus.NewDesc("capstan_overlay_behind_seconds",
		"Age of the newest change in Git that the machines of a ClusterOverlay have not reached; 0 if they have.", overlayLabels, nil)
	overlayMachines = prometheus.NewDesc("capstan_overlay_machines", "Machines of a ClusterOverlay by role, counted by what they are.",
		append(slices.Clone(overlayLabels), "role", "count"), nil)
	overlayPending = prometheus.NewDesc("capstan_overlay_pending_deletion_objects",
		"Objects whose deletion waits for an approval or is under way.", overlayLabels, nil)
	overlayHeld = prometheus.NewDesc("capstan_overlay_held_prunes",
		"Objects that have left Git and are kept, beside those of a pending deletion.", overlayLabels, nil)
	overlayDrifted = prometheus.NewDesc("capstan_overlay_drifted_objects",
		"Live objects of a ClusterOverlay that don't say what was applied, by their most urgent class; of those that its status lists.",
		append(slices.Clone(overlayLabels), "class"), nil)
	overlayDriftAge = prometheus.NewDesc("capstan_overlay_drift_age_seconds",
		"Time since the oldest drift of a ClusterOverlay was detected; 0 if there is none.", overlayLabels, nil)
	overlayDriftHeld = prometheus.NewDesc("capstan_overlay_drift_held",
		"Drifted objects whose correction waits for an approval.", overlayLabels, nil)
	overlayDriftFights = prometheus.NewDesc("capstan_overlay_drift_fights",
		"Drifted objects that were corrected and changed again, and whose next correction waits.", overlayLabels, nil)

	withoutSeries = prometheus.NewDesc("capstan_overlays_without_series", "ClusterOverlays without series of their own, because there are too many.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (c *stateCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		fleetOverlays, fleetState, fleetSuspended, fleetInterval, overlayState, overlayCondition, overlayObjects,
		overlayBehind, overlayMachines, overlayPending, overlayHeld,
		overlayDrifted, overlayDriftAge, overlayDriftHeld, overlayDriftFights, withoutSeries,
	} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *stateCollector) Collect(to chan<- prometheus.Metric) {
	select {
	case <-c.leading:
	default:
		return
	}
	// The caches answer from memory, or not at all: before they are filled nothing is known.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var fleets v1alpha1.FleetList
	var overlays v1alpha1.ClusterOverlayList
	if c.reader.List(ctx, &fleets, client.UnsafeDisableDeepCopy) != nil || c.reader.List(ctx, &overlays, client.UnsafeDisableDeepCopy) != nil {
		return
	}
	counts := map[types.NamespacedName]map[State]int{}
	for i := range overlays.Items {
		o := &overlays.Items[i]
		name := types.NamespacedName{Namespace: o.Namespace, Name: o.Spec.FleetRef.Name}
		if counts[name] == nil {
			counts[name] = map[State]int{}
		}
		counts[name][StateOf(o)]++
	}
	for i := range fleets.Items {
		f := &fleets.Items[i]
		c.fleet(to, f, counts[client.ObjectKeyFromObject(f)])
	}
	told := c.pick(overlays.Items)
	for _, o := range told {
		c.overlay(to, o)
	}
	gauge(to, withoutSeries, len(overlays.Items)-len(told))
}

// pick chooses the overlays that get series of their own: all, or if they are too many
// those that need attention before those that have converged without drift.
func (c *stateCollector) pick(overlays []v1alpha1.ClusterOverlay) []*v1alpha1.ClusterOverlay {
	picked := make([]*v1alpha1.ClusterOverlay, 0, len(overlays))
	for i := range overlays {
		picked = append(picked, &overlays[i])
	}
	if len(picked) <= c.most {
		return picked
	}
	rank := func(o *v1alpha1.ClusterOverlay) int {
		switch StateOf(o) {
		case StateSuspended:
			return 1
		case StateConverged:
			if len(o.Status.Drift) == 0 {
				return 1
			}
		}
		return 0
	}
	slices.SortFunc(picked, func(a, b *v1alpha1.ClusterOverlay) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return picked[:c.most]
}

func (c *stateCollector) fleet(to chan<- prometheus.Metric, f *v1alpha1.Fleet, counts map[State]int) {
	for _, state := range States {
		gauge(to, fleetOverlays, counts[state], f.Namespace, f.Name, string(state))
	}
	conditions(to, fleetState, f.Status.Conditions,
		[]string{v1alpha1.FetchedCondition, v1alpha1.DiscoveredCondition, v1alpha1.ReportedCondition, v1alpha1.ReadyCondition}, f.Namespace, f.Name)
	suspended := 0
	if f.Spec.Suspend {
		suspended = 1
	}
	gauge(to, fleetSuspended, suspended, f.Namespace, f.Name)
	gauge(to, fleetInterval, f.Spec.Git.Interval.Seconds(), f.Namespace, f.Name)
}

func (c *stateCollector) overlay(to chan<- prometheus.Metric, o *v1alpha1.ClusterOverlay) {
	labels := []string{o.Namespace, o.Spec.FleetRef.Name, o.Name}
	gauge(to, overlayState, 1, append(slices.Clone(labels), string(StateOf(o)))...)
	conditions(to, overlayCondition, o.Status.Conditions, []string{
		v1alpha1.RenderedCondition, v1alpha1.AppliedCondition, v1alpha1.ConvergedCondition, v1alpha1.InSyncCondition,
		v1alpha1.PendingDeletionCondition, v1alpha1.ReadyCondition,
	}, labels...)
	gauge(to, overlayObjects, len(o.Status.Inventory), labels...)
	gauge(to, overlayBehind, behind(o, c.clock.Now()).Seconds(), labels...)
	pending, held := 0, 0
	if o.Status.PendingDeletion != nil {
		pending = len(o.Status.PendingDeletion.Objects)
	}
	for _, e := range o.Status.Inventory {
		if e.State == v1alpha1.EntryRetained || e.State == v1alpha1.EntryLeaving {
			held++
		}
	}
	gauge(to, overlayPending, pending, labels...)
	gauge(to, overlayHeld, max(held-pending, 0), labels...)
	c.drift(to, o.Status.Drift, labels)
	if p := o.Status.Progress; p != nil {
		for role, n := range map[string]v1alpha1.MachineCounts{"control_plane": p.ControlPlane, "workers": p.Workers} {
			for count, value := range map[string]int32{
				"desired": n.Desired, "existing": n.Existing, "ready": n.Ready, "up_to_date": n.UpToDate, "done": n.Done,
			} {
				gauge(to, overlayMachines, value, append(slices.Clone(labels), role, count)...)
			}
		}
	}
}

func (c *stateCollector) drift(to chan<- prometheus.Metric, drifted []v1alpha1.DriftedObject, labels []string) {
	now, age, held, fights, classes := c.clock.Now(), time.Duration(0), 0, 0, map[string]int{}
	for _, d := range drifted {
		class, _ := mostUrgent(d.Findings)
		classes[class]++
		age = max(age, now.Sub(d.DetectedTime.Time))
		switch {
		case d.Action == v1alpha1.DriftHeld && !d.Approved:
			held++
		case d.Action == v1alpha1.DriftFight:
			fights++
		}
	}
	for _, class := range driftClasses {
		gauge(to, overlayDrifted, classes[class.word], append(slices.Clone(labels), class.word)...)
	}
	gauge(to, overlayDriftAge, age.Seconds(), labels...)
	gauge(to, overlayDriftHeld, held, labels...)
	gauge(to, overlayDriftFights, fights, labels...)
}

// behind is the age of the newest change that an overlay's machines have not reached.
func behind(o *v1alpha1.ClusterOverlay, now time.Time) time.Duration {
	if o.Status.DesiredRevision == o.Status.ConvergedRevision || o.Status.DesiredSince == nil {
		return 0
	}
	return max(now.Sub(o.Status.DesiredSince.Time), 0)
}

func conditions(to chan<- prometheus.Metric, desc *prometheus.Desc, all []metav1.Condition, kinds []string, labels ...string) {
	for _, kind := range kinds {
		c := meta.FindStatusCondition(all, kind)
		if c == nil {
			continue
		}
		value := map[metav1.ConditionStatus]int{metav1.ConditionTrue: 1, metav1.ConditionFalse: 0, metav1.ConditionUnknown: -1}[c.Status]
		gauge(to, desc, value, append(slices.Clone(labels), kind)...)
	}
}

func gauge[T int | int32 | float64](to chan<- prometheus.Metric, desc *prometheus.Desc, value T, labels ...string) {
	to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
}
