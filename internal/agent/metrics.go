package agent

import (
	"cmp"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/source"
)

// metrics count what the agent does. What is recorded in Fleets and ClusterOverlays is
// counted by [stateCollector]. The reference is docs/reference/metrics.md.
type metrics struct {
	clock clock.PassiveClock

	syncs       *prometheus.CounterVec
	fetches     *prometheus.GaugeVec
	lsRemotes   *prometheus.GaugeVec
	lastSync    *prometheus.GaugeVec
	revision    *prometheus.GaugeVec
	renders     *prometheus.HistogramVec
	applies     *prometheus.HistogramVec
	plans       *prometheus.HistogramVec
	objects     *prometheus.CounterVec
	deletes     *prometheus.CounterVec
	requests    *prometheus.CounterVec
	remaining   prometheus.Gauge
	queue       *prometheus.GaugeVec
	applied     prometheus.Histogram
	converged   prometheus.Histogram
	watchErrors *prometheus.CounterVec
	drift       driftMetrics
}

// The buckets of durations: of what a computer does, and of what machines do.
var (
	workBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30}
	planBuckets = []float64{.1, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
	lagBuckets  = []float64{1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400}
)

func newMetrics(registerer prometheus.Registerer, c clock.PassiveClock) (*metrics, error) {
	fleet := []string{"namespace", "fleet"}
	m := &metrics{
		clock: c,
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_fleet_syncs_total", Help: "Looks at a Fleet's remote, by outcome: success, or the reason of the failure.",
		}, append(fleet, "result")),
		fetches: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_fleet_fetches", Help: "Fetches from a Fleet's remote since its mirror was opened.",
		}, fleet),
		lsRemotes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_fleet_ls_remotes", Help: "Listings of a Fleet's remote refs since its mirror was opened.",
		}, fleet),
		lastSync: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_fleet_last_sync_timestamp_seconds", Help: "Time of the last successful look at a Fleet's remote.",
		}, fleet),
		revision: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_fleet_revision_info", Help: "The newest commit of the tracked ref, always 1.",
		}, append(fleet, "revision")),
		renders: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "capstan_render_duration_seconds", Help: "Time to render one overlay, by outcome: success or failure.", Buckets: workBuckets,
		}, []string{"result"}),
		applies: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "capstan_apply_duration_seconds", Help: "Time to apply what changed in one overlay, by outcome: success or failure.", Buckets: workBuckets,
		}, []string{"result"}),
		plans: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "capstan_plan_duration_seconds", Help: "Time to plan one pull request, by outcome: success or failure.", Buckets: planBuckets,
		}, []string{"result"}),
		objects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_applied_objects_total", Help: "Objects sent to the API server, by what became of them.",
		}, []string{"action"}),
		deletes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_deleted_objects_total", Help: "Objects deleted because they left Git, by kind.",
		}, []string{"kind"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_forge_requests_total", Help: "Operations asked of forges, by outcome: success, or the reason of the failure.",
		}, []string{"operation", "result"}),
		remaining: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "capstan_forge_rate_limit_remaining", Help: "Requests that the forge asked last allows until its limit is reset; -1 if it doesn't say.",
		}),
		queue: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_forge_queue", Help: "Commit statuses that the forge has not taken yet.",
		}, fleet),
		applied: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "capstan_apply_lag_seconds", Help: "Time from when a change can have come into Git until an overlay had applied it.", Buckets: lagBuckets,
		}),
		converged: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "capstan_convergence_lag_seconds", Help: "Time from when a change can have come into Git until an overlay's machines had reached it.", Buckets: lagBuckets,
		}),
		watchErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_watch_failures_total", Help: "Failures to list or watch live objects of a kind.",
		}, []string{"group", "kind"}),
		drift: newDriftMetrics(),
	}
	m.remaining.Set(-1)
	// What has not happened yet is 0, and a rate knows of the first time.
	for _, durations := range []*prometheus.HistogramVec{m.renders, m.applies, m.plans} {
		durations.WithLabelValues("success")
		durations.WithLabelValues("failure")
	}
	for _, kind := range capi.MachineKinds() {
		m.watchErrors.WithLabelValues(kind.Group, kind.Kind)
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.syncs, m.fetches, m.lsRemotes, m.lastSync, m.revision, m.renders, m.applies, m.plans, m.objects, m.deletes,
		m.requests, m.remaining, m.queue, m.applied, m.converged, m.watchErrors,
		m.drift.detections, m.drift.corrections, m.drift.fights,
	} {
		errs = append(errs, registerer.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) synced(fleet types.NamespacedName, stats source.Stats, err error) {
	result := "success"
	if err != nil {
		result = fetchReason(err)
	} else {
		m.lastSync.WithLabelValues(fleet.Namespace, fleet.Name).Set(float64(m.clock.Now().UnixMilli()) / 1000)
	}
	m.syncs.WithLabelValues(fleet.Namespace, fleet.Name, result).Inc()
	m.fetches.WithLabelValues(fleet.Namespace, fleet.Name).Set(float64(stats.Fetches))
	m.lsRemotes.WithLabelValues(fleet.Namespace, fleet.Name).Set(float64(stats.LsRemotes))
}

// asked counts an operation asked of a forge.
func (m *metrics) asked(operation string, outcome forge.ErrorKind, remaining int) {
	m.requests.WithLabelValues(operation, cmp.Or(string(outcome), "success")).Inc()
	m.remaining.Set(float64(remaining))
}

// owed counts the commit statuses that a Fleet's forge has not taken yet.
func (m *metrics) owed(fleet types.NamespacedName, statuses int) {
	m.queue.WithLabelValues(fleet.Namespace, fleet.Name).Set(float64(statuses))
}

// owesNothing drops the count of a Fleet whose forge is told nothing any more.
func (m *metrics) owesNothing(fleet types.NamespacedName) {
	m.queue.DeleteLabelValues(fleet.Namespace, fleet.Name)
}

func (m *metrics) observed(fleet types.NamespacedName, revision string) {
	m.revision.DeletePartialMatch(prometheus.Labels{"namespace": fleet.Namespace, "fleet": fleet.Name})
	m.revision.WithLabelValues(fleet.Namespace, fleet.Name, revision).Set(1)
}

// rendering, applying and planning start the clock of what their names say; what they
// return stops it.
func (m *metrics) rendering() func(error) { return m.time(m.renders) }
func (m *metrics) applying() func(error)  { return m.time(m.applies) }
func (m *metrics) planning() func(error)  { return m.time(m.plans) }

func (m *metrics) time(durations *prometheus.HistogramVec) func(error) {
	start := m.clock.Now()
	return func(err error) {
		result := "success"
		if err != nil {
			result = "failure"
		}
		durations.WithLabelValues(result).Observe(m.clock.Since(start).Seconds())
	}
}

func (m *metrics) applyLag(lag time.Duration)       { m.applied.Observe(lag.Seconds()) }
func (m *metrics) convergenceLag(lag time.Duration) { m.converged.Observe(lag.Seconds()) }

func (m *metrics) sent(report apply.Report) {
	for _, o := range report.Outcomes {
		m.objects.WithLabelValues(string(o.Action)).Inc()
	}
}

func (m *metrics) deleted(kind string) { m.deletes.WithLabelValues(kind).Inc() }

func (m *metrics) unwatched(kind schema.GroupKind) {
	m.watchErrors.WithLabelValues(kind.Group, kind.Kind).Inc()
}

func (m *metrics) forgetFleet(fleet types.NamespacedName) {
	labels := prometheus.Labels{"namespace": fleet.Namespace, "fleet": fleet.Name}
	for _, v := range []interface{ DeletePartialMatch(prometheus.Labels) int }{m.syncs, m.fetches, m.lsRemotes, m.lastSync, m.revision, m.queue} {
		v.DeletePartialMatch(labels)
	}
}
