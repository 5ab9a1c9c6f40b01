package agent

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/source"
)

// metrics are the agent's own series. The reference is docs/reference/metrics.md.
type metrics struct {
	clock clock.PassiveClock

	syncs      *prometheus.CounterVec
	fetches    *prometheus.GaugeVec
	lsRemotes  *prometheus.GaugeVec
	revision   *prometheus.GaugeVec
	renders    *prometheus.HistogramVec
	objects    *prometheus.CounterVec
	deletes    *prometheus.CounterVec
	conditions *prometheus.GaugeVec
	owned      *prometheus.GaugeVec
	requests   *prometheus.CounterVec
	remaining  prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer, c clock.PassiveClock) (*metrics, error) {
	m := &metrics{
		clock: c,
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_fleet_syncs_total", Help: "Looks at a Fleet's remote, by outcome: success, or the reason of the failure.",
		}, []string{"namespace", "fleet", "result"}),
		fetches: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_fleet_fetches", Help: "Fetches from a Fleet's remote since its mirror was opened.",
		}, []string{"namespace", "fleet"}),
		lsRemotes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_fleet_ls_remotes", Help: "Listings of a Fleet's remote refs since its mirror was opened.",
		}, []string{"namespace", "fleet"}),
		revision: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_fleet_revision_info", Help: "The newest commit of the tracked ref, always 1.",
		}, []string{"namespace", "fleet", "revision"}),
		renders: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "capstan_render_duration_seconds", Help: "Time to render one overlay, by outcome: success or failure.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"result"}),
		objects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_applied_objects_total", Help: "Objects sent to the API server, by what became of them.",
		}, []string{"action"}),
		deletes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_deleted_objects_total", Help: "Objects deleted because they left Git, by kind.",
		}, []string{"kind"}),
		conditions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_overlay_condition", Help: "Conditions of a ClusterOverlay: 1 for True, 0 for False, -1 for Unknown.",
		}, []string{"namespace", "fleet", "overlay", "condition"}),
		owned: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "capstan_overlay_objects", Help: "Objects in the inventory of a ClusterOverlay.",
		}, []string{"namespace", "fleet", "overlay"}),
	}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "capstan_forge_requests_total", Help: "Operations asked of forges, by outcome: success, or the reason of the failure.",
	}, []string{"operation", "result"})
	m.remaining = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "capstan_forge_rate_limit_remaining", Help: "Requests that the forge asked last allows until its limit is reset; -1 if it doesn't say.",
	})
	m.remaining.Set(-1)
	for _, c := range []prometheus.Collector{m.syncs, m.fetches, m.lsRemotes, m.revision, m.renders, m.objects, m.deletes, m.conditions, m.owned, m.requests, m.remaining} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) synced(fleet types.NamespacedName, stats source.Stats, err error) {
	result := "success"
	if err != nil {
		result = fetchReason(err)
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

func (m *metrics) observed(fleet types.NamespacedName, revision string) {
	m.revision.DeletePartialMatch(prometheus.Labels{"namespace": fleet.Namespace, "fleet": fleet.Name})
	m.revision.WithLabelValues(fleet.Namespace, fleet.Name, revision).Set(1)
}

// rendering starts the clock of a render.
func (m *metrics) rendering() func(error) {
	start := m.clock.Now()
	return func(err error) {
		result := "success"
		if err != nil {
			result = "failure"
		}
		m.renders.WithLabelValues(result).Observe(float64(m.clock.Since(start)) / float64(time.Second))
	}
}

func (m *metrics) applied(report apply.Report) {
	for _, o := range report.Outcomes {
		m.objects.WithLabelValues(string(o.Action)).Inc()
	}
}

func (m *metrics) deleted(kind string) { m.deletes.WithLabelValues(kind).Inc() }

func (m *metrics) recorded(fleet types.NamespacedName, o *v1alpha1.ClusterOverlay) {
	m.owned.WithLabelValues(o.Namespace, fleet.Name, o.Name).Set(float64(len(o.Status.Inventory)))
	for _, kind := range []string{v1alpha1.RenderedCondition, v1alpha1.AppliedCondition, v1alpha1.PendingDeletionCondition, v1alpha1.ReadyCondition} {
		value := -1.0
		if c := meta.FindStatusCondition(o.Status.Conditions, kind); c != nil {
			switch c.Status {
			case metav1.ConditionTrue:
				value = 1
			case metav1.ConditionFalse:
				value = 0
			}
		}
		m.conditions.WithLabelValues(o.Namespace, fleet.Name, o.Name, kind).Set(value)
	}
}

func (m *metrics) forgetFleet(fleet types.NamespacedName) {
	labels := prometheus.Labels{"namespace": fleet.Namespace, "fleet": fleet.Name}
	for _, v := range []interface{ DeletePartialMatch(prometheus.Labels) int }{m.syncs, m.fetches, m.lsRemotes, m.revision} {
		v.DeletePartialMatch(labels)
	}
}

func (m *metrics) forgetOverlay(overlay types.NamespacedName) {
	labels := prometheus.Labels{"namespace": overlay.Namespace, "overlay": overlay.Name}
	m.conditions.DeletePartialMatch(labels)
	m.owned.DeletePartialMatch(labels)
}
