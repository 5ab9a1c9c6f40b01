package charttest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func document(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "docs", "reference", name))
	must(t, err)
	return string(content)
}

// cells of the first table of a document.
func cells(t *testing.T, text string) [][]string {
	t.Helper()
	var rows [][]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			if len(rows) > 0 {
				break
			}
			continue
		}
		var row []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			row = append(row, strings.TrimSpace(cell))
		}
		rows = append(rows, row)
	}
	if len(rows) < 3 {
		t.Fatal("there is no table")
	}
	return rows[2:]
}

var quoted = regexp.MustCompile("`([^`]+)`")

func names(cell string) []string {
	var all []string
	for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
		all = append(all, m[1])
	}
	return all
}

// TestPermissionsReference compares the table of the reference with what is granted.
func TestPermissionsReference(t *testing.T) {
	var want, got []string
	for _, a := range atoms(t, render(t, "own", "")) {
		got = append(got, a.String())
	}
	var before []string
	for _, row := range cells(t, document(t, "permissions.md")) {
		groups, resources, name := names(row[1]), names(row[2]), ""
		switch row[1] {
		case "core":
			groups = []string{""}
		case "the same":
			groups = before
		}
		before = groups
		if row[2] == "all" {
			resources = []string{"*"}
		}
		if strings.Contains(row[2], " named ") {
			resources, name = resources[:1], resources[1]
		}
		namespace := map[string]string{"everywhere": "", "own namespace": "own"}[row[0]]
		if len(row) != 5 || row[4] == "" {
			t.Errorf("no reason is given in %q", row)
		}
		for _, group := range groups {
			for _, resource := range resources {
				for verb := range strings.SplitSeq(row[3], ", ") {
					want = append(want, atom{namespace, group, resource, verb, name}.String())
				}
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("docs/reference/permissions.md (-) and the chart (+):\n%s", d)
	}
}

// TestChartReference checks that the table of values has each value with its default, and
// that values.yaml and the schema know the same values.
func TestChartReference(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(chart(), "values.yaml"))
	must(t, err)
	var values map[string]any
	must(t, yaml.Unmarshal(content, &values))
	content, err = os.ReadFile(filepath.Join(chart(), "values.schema.json"))
	must(t, err)
	var schema map[string]any
	must(t, yaml.Unmarshal(content, &schema))

	documented := map[string]string{}
	for _, row := range cells(t, document(t, "chart.md")) {
		documented[names(row[0])[0]] = row[1]
	}
	defaults := map[string]string{}
	var walk func(path string, value any, schema map[string]any)
	walk = func(path string, value any, schema map[string]any) {
		properties, known := schema["properties"].(map[string]any)
		if m, ok := value.(map[string]any); ok && known {
			for name, v := range m {
				below, ok := properties[name].(map[string]any)
				if !ok {
					t.Errorf("values.schema.json does not know %s%s", path, name)
				}
				walk(path+name+".", v, below)
			}
			for name := range properties {
				if _, ok := m[name]; !ok && name != "global" && path+name != "resources.claims" {
					t.Errorf("values.yaml has no %s%s", path, name)
				}
			}
			return
		}
		text, err := yaml.Marshal(value)
		must(t, err)
		defaults[strings.TrimSuffix(path, ".")] = strings.TrimSpace(string(text))
	}
	walk("", values, schema)
	for path, value := range defaults {
		cell, ok := documented[path]
		if !ok {
			t.Errorf("docs/reference/chart.md does not name %s", path)
			continue
		}
		var want, got any
		must(t, yaml.Unmarshal([]byte(value), &want))
		must(t, yaml.Unmarshal([]byte(strings.Trim(cell, "`")), &got))
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("docs/reference/chart.md, default of %s (-values.yaml +table):\n%s", path, d)
		}
	}
	for path := range documented {
		if _, ok := defaults[path]; !ok {
			t.Errorf("docs/reference/chart.md names %s, which is no value", path)
		}
	}
}
