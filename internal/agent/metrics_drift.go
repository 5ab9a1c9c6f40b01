package agent

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// driftMetrics count what is found to have drifted, and what is done about it. What has
// drifted now is told by [stateCollector].
type driftMetrics struct {
	detections  *prometheus.CounterVec
	corrections *prometheus.CounterVec
	fights      *prometheus.CounterVec
}

// driftClasses are the words for classes in metrics, the most urgent first. An object
// counts once, as the first of what is found in it.
var driftClasses = []struct {
	class v1alpha1.FindingClass
	word  string
}{
	{v1alpha1.FindingMissing, "missing"},
	{v1alpha1.FindingRecreated, "recreated"},
	{v1alpha1.FindingChanged, "changed"},
	{v1alpha1.FindingOwnershipLost, "ownership_lost"},
	{v1alpha1.FindingForeign, "foreign"},
}

// noManager stands for a writer that the object doesn't tell, as after a deletion.
const noManager = "none"

// managerClasses are the words for writers in metrics.
var managerClasses = []string{
	managerWord(string(capi.ManagerPerson)), managerWord(string(capi.ManagerFormerOwner)),
	managerWord(string(capi.ManagerController)), managerWord(string(capi.ManagerUnknown)), noManager,
}

func newDriftMetrics() driftMetrics {
	m := driftMetrics{
		detections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_drift_detections_total", Help: "Objects found to have drifted, by the most urgent class and the class of who wrote it.",
		}, []string{"class", "manager_class"}),
		corrections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_drift_corrections_total", Help: "Objects applied again because they had drifted, by the class of who wrote it and outcome: success or failure.",
		}, []string{"manager_class", "result"}),
		fights: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "capstan_drift_fights_total", Help: "Times a corrected object was changed again, and its next correction had to wait.",
		}, []string{"manager_class"}),
	}
	for _, manager := range managerClasses {
		for _, c := range driftClasses {
			if c.class != v1alpha1.FindingMissing || manager == noManager {
				m.detections.WithLabelValues(c.word, manager)
			}
		}
		m.corrections.WithLabelValues(manager, "success")
		m.corrections.WithLabelValues(manager, "failure")
		m.fights.WithLabelValues(manager)
	}
	return m
}

// drifted counts an object in which findings are new.
func (m *metrics) drifted(findings []v1alpha1.Finding) {
	if class, manager := mostUrgent(findings); class != "" {
		m.drift.detections.WithLabelValues(class, manager).Inc()
	}
}

// corrected counts an object that was applied again because of findings.
func (m *metrics) corrected(findings []v1alpha1.Finding, err error) {
	result := "success"
	if err != nil {
		result = "failure"
	}
	_, manager := mostUrgent(findings)
	m.drift.corrections.WithLabelValues(manager, result).Inc()
}

// fought counts an object that was corrected, and changed again.
func (m *metrics) fought(findings []v1alpha1.Finding) {
	_, manager := mostUrgent(findings)
	m.drift.fights.WithLabelValues(manager).Inc()
}

// mostUrgent are the words for the most urgent of an object's findings, and for who wrote
// that; class is empty if there are none.
func mostUrgent(findings []v1alpha1.Finding) (class, manager string) {
	for _, c := range driftClasses {
		i := slices.IndexFunc(findings, func(f v1alpha1.Finding) bool { return f.Class == c.class })
		if i >= 0 {
			return c.word, managerWord(findings[i].Writer.Class)
		}
	}
	return "", noManager
}

// managerWord is a [capi.ManagerClass] as a label's value.
func managerWord(class string) string {
	if class == "" {
		return noManager
	}
	return strings.ReplaceAll(class, " ", "_")
}
