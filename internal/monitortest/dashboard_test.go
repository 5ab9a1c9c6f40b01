package monitortest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A panel is what a dashboard shows, or a row of them.
type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct{ X, Y, W, H int }
	Targets []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
}

type dashboard struct {
	SchemaVersion int     `json:"schemaVersion"`
	Panels        []panel `json:"panels"`
	Templating    struct {
		List []struct {
			Name  string          `json:"name"`
			Type  string          `json:"type"`
			Query json.RawMessage `json:"query"`
		} `json:"list"`
	} `json:"templating"`
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal(read(t, filepath.Join("charts", "capstan", "files", "dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// queries are the expressions of the dashboard by where they stand, as Grafana sends them if everything is chosen.
func (d dashboard) queries() map[string]string {
	chosen := strings.NewReplacer("$namespace", ".+", "$fleet", ".+", "$overlay", ".+", "$__rate_interval", "1m")
	out := map[string]string{}
	for _, p := range d.Panels {
		for i, target := range p.Targets {
			out[fmt.Sprintf("%s (%d), query %d", p.Title, p.ID, i+1)] = chosen.Replace(target.Expr)
		}
	}
	return out
}

// A recording is what the agent's /metrics said, by when. `make record-metrics` makes a new one.
type recording map[time.Time][]byte

func readRecording(t *testing.T) recording {
	t.Helper()
	sections := regexp.MustCompile(`(?m)^-- ([0-9.]+) --\n`)
	content := read(t, filepath.Join("internal", "monitortest", "testdata", "metrics.txtar"))
	heads := sections.FindAllSubmatchIndex(content, -1)
	out := recording{}
	for i, head := range heads {
		end := len(content)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		seconds, err := strconv.ParseFloat(string(content[head[2]:head[3]]), 64)
		if err != nil {
			t.Fatal(err)
		}
		out[time.UnixMilli(int64(seconds*1000))] = content[head[1]:end]
	}
	return out
}

func (r recording) times() []time.Time {
	return slices.SortedFunc(maps.Keys(r), time.Time.Compare)
}

// samples is the recording as Prometheus loads it.
func (r recording) samples() []byte {
	var out bytes.Buffer
	for _, at := range r.times() {
		for line := range bytes.Lines(r[at]) {
			fmt.Fprintf(&out, "%s %d.%03d\n", bytes.TrimSpace(line), at.Unix(), at.UnixMilli()%1000)
		}
	}
	out.WriteString("# EOF\n")
	return out.Bytes()
}

// names are the metrics in the recording; those of a histogram count as one.
func (r recording) names() map[string]bool {
	out := map[string]bool{}
	for _, text := range r {
		for line := range bytes.Lines(text) {
			name, _, _ := strings.Cut(strings.Fields(string(line))[0], "{")
			out[name] = true
		}
	}
	for name := range out {
		if family, ok := strings.CutSuffix(name, "_bucket"); ok {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				delete(out, family+suffix)
			}
			out[family] = true
		}
	}
	return out
}

// Every query of the dashboard has something to show of a recording of the agent, at some time of it.
func TestDashboard(t *testing.T) {
	t.Parallel()
	recorded := readRecording(t)
	s := Start(t, Options{Samples: recorded.samples()})
	queries := readDashboard(t).queries()
	if len(queries) == 0 {
		t.Fatal("the dashboard has no queries")
	}
	for where, expr := range queries {
		if !s.shows(t, expr, recorded.times()) {
			t.Errorf("%s shows nothing: %s", where, expr)
		}
	}
	if expr := "capstan_no_such_metric"; s.shows(t, expr, recorded.times()) {
		t.Errorf("%s shows something", expr)
	}
}

// shows reports whether an expression has a value at one of the times.
func (s *Server) shows(t *testing.T, expr string, times []time.Time) bool {
	t.Helper()
	for _, at := range times {
		samples, err := s.Query(t.Context(), expr, at)
		if err != nil {
			t.Error(err)
			return true
		}
		if slices.ContainsFunc(samples, func(s Sample) bool { return !math.IsNaN(s.Value) }) {
			return true
		}
	}
	return false
}

// Panels lie beside each other, and variables ask for metrics that there are.
func TestDashboardShape(t *testing.T) {
	d := readDashboard(t)
	if d.SchemaVersion < 39 {
		t.Errorf("schemaVersion %d", d.SchemaVersion)
	}
	ids := map[int]string{}
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		if other, ok := ids[p.ID]; ok {
			t.Errorf("%q and %q are both panel %d", other, p.Title, p.ID)
		}
		ids[p.ID] = p.Title
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%q asks for nothing", p.Title)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := taken[at]; ok {
					t.Fatalf("%q lies over %q at %v", p.Title, other, at)
				}
				taken[at] = p.Title
				if at[0] >= 24 {
					t.Fatalf("%q is not in the grid at %v", p.Title, at)
				}
			}
		}
	}
	var variables []string
	recorded := readRecording(t).names()
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		for _, name := range metricNames(string(v.Query)) {
			if !recorded[name] {
				t.Errorf("variable %s asks for %s, which the agent doesn't have", v.Name, name)
			}
		}
	}
	if want := []string{"datasource", "namespace", "fleet", "overlay"}; !slices.Equal(variables, want) {
		t.Errorf("variables %q and not %q", variables, want)
	}
}
