package monitortest

import (
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// A rule is one of the chart's alerts.
type rule struct {
	Alert         string            `json:"alert"`
	Expr          string            `json:"expr"`
	For           string            `json:"for"`
	KeepFiringFor string            `json:"keep_firing_for,omitempty"`
	Labels        map[string]string `json:"labels"`
	Annotations   map[string]string `json:"annotations"`
}

// alertsFile is relative to the root.
var alertsFile = filepath.Join("charts", "capstan", "files", "alerts.yaml")

// readAlerts reads the chart's alerts.
func readAlerts(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []rule `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.UnmarshalStrict(read(t, alertsFile), &file); err != nil {
		t.Fatal(err)
	}
	var rules []rule
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

// read reads a file of the repository.
func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(Root(t), path))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func testFile(alert string) string { return filepath.Join("testdata", "alerts", alert+".yaml") }

// Every alert does what its file in testdata/alerts says.
func TestAlerts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(Root(t), alertsFile)
	if out, err := exec.Command(tool(t, "promtool"), "check", "rules", "--lint=all", "--lint-fatal", path).CombinedOutput(); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, out)
	}
	files, err := filepath.Glob(testFile("*"))
	if err != nil {
		t.Fatal(err)
	}
	var tested []string
	for _, file := range files {
		tested = append(tested, strings.TrimSuffix(filepath.Base(file), ".yaml"))
		t.Run(tested[len(tested)-1], func(t *testing.T) {
			t.Parallel()
			if out, err := exec.Command(tool(t, "promtool"), "test", "rules", file).CombinedOutput(); err != nil {
				t.Errorf("promtool test rules %s: %v\n%s", file, err, out)
			}
		})
	}
	var alerts []string
	for _, r := range readAlerts(t) {
		alerts = append(alerts, r.Alert)
	}
	slices.Sort(alerts)
	if !slices.Equal(alerts, tested) {
		t.Errorf("the alerts are %q, and testdata/alerts is about %q", alerts, tested)
	}
}

// about are what the cases of every alert are about; those of the agent have no Fleet that could be suspended.
var about = []string{"fires", "resolves", "just below", "two replicas", "suspended"}

// Every alert has its case for everything that goes wrong with alerts.
func TestAlertCases(t *testing.T) {
	for _, r := range readAlerts(t) {
		var file struct {
			Tests []struct {
				Name string `json:"name"`
			} `json:"tests"`
		}
		if err := yaml.Unmarshal(read(t, filepath.Join("internal", "monitortest", testFile(r.Alert))), &file); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range file.Tests {
			names = append(names, c.Name)
		}
		for _, what := range about {
			ofFleet := strings.Contains(r.Expr, "fleet")
			if (ofFleet || what != "suspended") && !strings.Contains(strings.Join(names, "\n"), what) {
				t.Errorf("%s: no case about %q in %q", r.Alert, what, names)
			}
		}
	}
}

// The cases notice when an alert is changed: a mutation of the rule makes them fail.
func TestAlertMutations(t *testing.T) {
	t.Parallel()
	for _, r := range readAlerts(t) {
		t.Run(r.Alert, func(t *testing.T) {
			t.Parallel()
			mutants := mutations(r)
			delete(mutants, equivalent[r.Alert])
			const none = "no mutation"
			mutants[none] = r
			for what, failed := range failing(t, mutants) {
				if failed == (what == none) {
					t.Errorf("with %s, a case failed: %t", what, failed)
				}
			}
		})
	}
}

// equivalent are mutations that change nothing: a lease has one holder or none.
var equivalent = map[string]string{"CapstanNoLeader": sums}

const sums = "sums instead of the maximum"

var (
	unless    = regexp.MustCompile(`(?s)\s+unless .*?( or |\n *\)|\n *or |\n *unless |$)`)
	threshold = regexp.MustCompile(`([<>]) ([0-9.]+)$|([<>]) ([0-9.]+)\n`)
)

// mutations are rules that are wrong, by what is wrong with them.
func mutations(r rule) map[string]rule {
	out := map[string]rule{}
	add := func(what string, mutate func(*rule)) {
		mutant := r
		mutate(&mutant)
		if mutant.Expr != r.Expr || mutant.For != r.For || mutant.KeepFiringFor != r.KeepFiringFor {
			out[what] = mutant
		}
	}
	add("no time to wait", func(m *rule) { m.For = "" })
	add("twice the time to wait", func(m *rule) { m.For = double(m.For) })
	if r.KeepFiringFor != "" {
		add("another end", func(m *rule) { m.KeepFiringFor = "20m" })
	}
	add(sums, func(m *rule) { m.Expr = strings.ReplaceAll(m.Expr, "max by", "sum by") })
	for i, at := range unless.FindAllStringSubmatchIndex(r.Expr, -1) {
		add(fmt.Sprintf("exception %d left out", i+1), func(m *rule) { m.Expr = m.Expr[:at[0]] + m.Expr[at[2]:] })
	}
	for i, at := range threshold.FindAllStringSubmatchIndex(r.Expr, -1) {
		sign, number := 2, 4
		if at[sign] < 0 {
			sign, number = 6, 8
		}
		add(fmt.Sprintf("limit %d ten times as far", i+1), func(m *rule) {
			m.Expr = m.Expr[:at[number]] + "10 * (" + m.Expr[at[number]:at[number+1]] + " + 1)" + m.Expr[at[number+1]:]
			if r.Expr[at[sign]] == '<' {
				m.Expr = r.Expr[:at[number]] + "0.1 * " + r.Expr[at[number]:]
			}
		})
		add(fmt.Sprintf("limit %d included", i+1), func(m *rule) {
			m.Expr = m.Expr[:at[sign]+1] + "=" + m.Expr[at[sign]+1:]
		})
	}
	return out
}

func double(duration string) string {
	var n int
	var unit string
	if _, err := fmt.Sscanf(duration, "%d%s", &n, &unit); err != nil {
		return duration
	}
	return fmt.Sprintf("%d%s", 2*n, unit)
}

// failing runs the cases of an alert with each of these rules alone, and tells with which a case fails.
func failing(t *testing.T, rules map[string]rule) map[string]bool {
	t.Helper()
	dir := t.TempDir()
	report := filepath.Join(dir, "report.xml")
	args := []string{"test", "rules", "--junit=" + report}
	names := map[string]string{}
	for what, r := range rules {
		content, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "g", "rules": []any{r}}}})
		if err != nil {
			t.Fatal(err)
		}
		name := strconv.Itoa(len(names))
		write(t, filepath.Join(dir, name+".rules.yaml"), content)
		cases := read(t, filepath.Join("internal", "monitortest", testFile(r.Alert)))
		path := filepath.Join(dir, name+".yaml")
		write(t, path, ruleFiles.ReplaceAll(cases, []byte("rule_files: ["+name+".rules.yaml]")))
		names[path] = what
		args = append(args, path)
	}
	// It fails if a case does, as most should.
	out, _ := exec.Command(tool(t, "promtool"), args...).CombinedOutput()
	content, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("promtool test rules: %v\n%s", err, out)
	}
	var suites struct {
		Suites []struct {
			Name     string `xml:"name,attr"`
			Tests    int    `xml:"tests,attr"`
			Failures int    `xml:"failures,attr"`
			Errors   int    `xml:"errors,attr"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(content, &suites); err != nil {
		t.Fatal(err)
	}
	failed := map[string]bool{}
	for _, s := range suites.Suites {
		if s.Tests == 0 || s.Errors > 0 {
			t.Fatalf("promtool did not run the cases with %s:\n%s", names[s.Name], out)
		}
		failed[names[s.Name]] = s.Failures > 0
	}
	if len(failed) != len(rules) {
		t.Fatalf("promtool ran %d of %d:\n%s", len(failed), len(rules), out)
	}
	return failed
}

var ruleFiles = regexp.MustCompile(`(?m)^rule_files: .*$`)
