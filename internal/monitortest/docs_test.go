package monitortest

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// foreign are metrics that are not Capstan's own: the alert on the leader needs client-go's.
var foreign = []string{"leader_election_master_status"}

var (
	metricName    = regexp.MustCompile(`\b(capstan|leader_election)_[a-z_]+`)
	documentedRow = regexp.MustCompile("(?m)^\\| `(capstan_[a-z_]+)` \\| (counter|gauge|gauge, 1|histogram) \\|")
	runbookHead   = regexp.MustCompile(`(?m)^## (.*)$`)
	alertRow      = regexp.MustCompile("(?m)^\\| \\[`(Capstan\\w+)`\\]\\(runbooks\\.md#([a-z]+)\\) \\| (\\w+) \\| (\\w+) \\|")
)

// metricNames are the metrics in a text; the parts of a histogram count as it.
func metricNames(text string) []string {
	var names []string
	for _, name := range metricName.FindAllString(text, -1) {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		names = append(names, name)
	}
	return names
}

// documented are the metrics of the reference.
func documented(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, match := range documentedRow.FindAllSubmatch(read(t, filepath.Join("docs", "reference", "metrics.md")), -1) {
		names = append(names, string(match[1]))
	}
	if len(names) == 0 {
		t.Fatal("docs/reference/metrics.md has no metrics")
	}
	return names
}

// What alerts and dashboard use, and what the agent says, is what the reference says.
func TestMetricsReference(t *testing.T) {
	known := slices.Concat(documented(t), foreign)
	for _, r := range readAlerts(t) {
		for _, name := range metricNames(r.Expr) {
			if !slices.Contains(known, name) {
				t.Errorf("%s asks for %s, which is not in docs/reference/metrics.md", r.Alert, name)
			}
		}
	}
	used := map[string]bool{}
	for where, expr := range readDashboard(t).queries() {
		for _, name := range metricNames(expr) {
			used[name] = true
			if !slices.Contains(known, name) {
				t.Errorf("%s asks for %s, which is not in docs/reference/metrics.md", where, name)
			}
		}
	}
	recorded := readRecording(t).names()
	for _, name := range known {
		if !recorded[name] {
			t.Errorf("%s is not in the recording", name)
		}
		if !used[name] {
			t.Errorf("%s is nowhere in the dashboard", name)
		}
	}
	for name := range recorded {
		if strings.HasPrefix(name, "capstan_") && !slices.Contains(known, name) {
			t.Errorf("the agent has %s, which is not in docs/reference/metrics.md", name)
		}
	}
}

// Every alert says what, where and what to do, and leads to a runbook; every runbook is an alert's.
func TestRunbooks(t *testing.T) {
	var runbooks []string
	for _, match := range runbookHead.FindAllSubmatch(read(t, filepath.Join("docs", "runbooks.md")), -1) {
		runbooks = append(runbooks, string(match[1]))
	}
	table := map[string]string{}
	for _, match := range alertRow.FindAllStringSubmatch(string(read(t, filepath.Join("docs", "monitoring.md"))), -1) {
		table[match[1]] = strings.Join(match[2:], " ")
	}
	var alerts []string
	for _, r := range readAlerts(t) {
		alerts = append(alerts, r.Alert)
		anchor := strings.ToLower(r.Alert)
		if want := "https://capstan.dev/docs/runbooks#" + anchor; r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url %q and not %q", r.Alert, r.Annotations["runbook_url"], want)
		}
		for _, annotation := range []string{"summary", "description"} {
			if r.Annotations[annotation] == "" {
				t.Errorf("%s has no %s", r.Alert, annotation)
			}
		}
		if strings.Contains(r.Expr, "fleet") && !strings.Contains(r.Annotations["description"], "{{ $labels.fleet }}") {
			t.Errorf("%s doesn't say for which Fleet", r.Alert)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
		}
		if want := strings.Join([]string{anchor, r.Labels["severity"], r.For}, " "); table[r.Alert] != want {
			t.Errorf("docs/monitoring.md says %q of %s and not %q", table[r.Alert], r.Alert, want)
		}
	}
	if !slices.Equal(runbooks, alerts) {
		t.Errorf("docs/runbooks.md is about %q, and the alerts are %q", runbooks, alerts)
	}
	if len(table) != len(alerts) {
		t.Errorf("docs/monitoring.md has %d alerts of %d", len(table), len(alerts))
	}
}

// The number of series that the documentation states is that of the recording.
func TestCardinality(t *testing.T) {
	overlay, fleet := 0, 0
	for _, text := range readRecording(t) {
		overlays, fleets := map[string]int{}, map[string]int{}
		label := func(line []byte, name string) string {
			_, value, _ := strings.Cut(string(line), name+`="`)
			value, _, _ = strings.Cut(value, `"`)
			return value
		}
		for line := range bytes.Lines(text) {
			if o := label(line, "overlay"); o != "" {
				overlays[o]++
			} else if f := label(line, "fleet"); f != "" && !bytes.HasPrefix(line, []byte("capstan_webhook_")) && !bytes.HasPrefix(line, []byte("capstan_fleet_syncs_")) {
				fleets[f]++
			}
		}
		for _, n := range overlays {
			overlay = max(overlay, n)
		}
		for _, n := range fleets {
			fleet = max(fleet, n)
		}
	}
	page := string(read(t, filepath.Join("docs", "monitoring.md")))
	for _, want := range []string{
		fmt.Sprintf("%d series for each overlay", overlay),
		fmt.Sprintf("%d,000 for 1,000 overlays", overlay),
		fmt.Sprintf("%d series for each Fleet", fleet),
	} {
		if !strings.Contains(page, want) {
			t.Errorf("docs/monitoring.md does not say %q", want)
		}
	}
}
