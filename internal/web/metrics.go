package web

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// outcome is what became of a delivery, as a label.
type outcome string

// The outcomes; there are no others.
const (
	accepted  outcome = "accepted"
	unchanged outcome = "nothing_to_do"
	ignored   outcome = "ignored"
	refused   outcome = "refused"
	malformed outcome = "malformed"
	mediaType outcome = "media_type"
	tooLarge  outcome = "too_large"
	tooSlow   outcome = "too_slow"
	limited   outcome = "rate_limited"
	busy      outcome = "busy"
	notFound  outcome = "not_found"
	badMethod outcome = "method"
	failed    outcome = "failed"
	panicked  outcome = "panic"
)

// metrics are the package's series. The reference is docs/reference/metrics.md.
type metrics struct {
	deliveries *prometheus.CounterVec
	duration   prometheus.Histogram
	fleets     Fleets

	mu sync.Mutex
	// labelled are the Fleets with series of their own.
	labelled map[types.NamespacedName]bool
}

func newMetrics(registerer prometheus.Registerer, fleets Fleets) (*metrics, error) {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_webhook_deliveries_total", Help: "Webhook deliveries, by what became of them; namespace and fleet are empty if it is not known to be for a Fleet.",
		}, []string{"namespace", "fleet", "outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "capstan_webhook_duration_seconds", Help: "Time from the headers of a webhook delivery to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		fleets: fleets, labelled: map[types.NamespacedName]bool{},
	}
	if err := registerer.Register(m); err != nil {
		return nil, err
	}
	return m, nil
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	m.deliveries.Describe(to)
	m.duration.Describe(to)
}

// Collect implements [prometheus.Collector]. The series of Fleets that take no deliveries
// any more go first: nobody delivers what would tell of their end.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for fleet := range m.labelled {
		if _, why, err := m.fleets.Hook(context.Background(), fleet); err == nil && why != "" {
			delete(m.labelled, fleet)
			m.deliveries.DeletePartialMatch(prometheus.Labels{"namespace": fleet.Namespace, "fleet": fleet.Name})
		}
	}
	m.deliveries.Collect(to)
	m.duration.Collect(to)
}

// count counts a delivery for a Fleet that exists; the zero name stands for none.
func (m *metrics) count(fleet types.NamespacedName, o outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fleet.Name != "" {
		m.labelled[fleet] = true
	}
	m.deliveries.WithLabelValues(fleet.Namespace, fleet.Name, string(o)).Inc()
}
