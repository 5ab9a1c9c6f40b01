package monitortest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Options say what a Prometheus does.
type Options struct {
	// Targets are addresses, as host:port, whose /metrics are scraped. Their own labels win, as with the chart's
	// ServiceMonitor.
	Targets []string
	// Interval is the time between two scrapes and between two evaluations of the rules, a second by default.
	Interval time.Duration
	// Rules is a rule file.
	Rules []byte
	// Samples are there from the beginning: OpenMetrics text with a timestamp on every line.
	Samples []byte
}

// Server is a running Prometheus.
type Server struct {
	// URL is its address, on loopback.
	URL string
}

// script starts a program, and ends it when its own input ends: so also if this process is killed and nobody cleans up.
const script = `"$@" & cat >/dev/null; kill -TERM $!; wait $!`

// Start runs a Prometheus until the test ends.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if opts.Samples != nil {
		load(t, dir, data, opts.Samples)
	}
	cmd := exec.Command("/bin/sh", "-c", script, "sh", tool(t, "prometheus"),
		"--config.file="+configure(t, dir, opts), "--storage.tsdb.path="+data, "--storage.tsdb.retention.time=100y",
		"--web.listen-address=127.0.0.1:0", "--log.level=info")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C ends this process, and then it
	log := &listening{address: make(chan string, 1)}
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", log)
		}
	})
	select {
	case address := <-log.address:
		s := &Server{URL: "http://" + address}
		s.awaitReady(t)
		return s
	case <-time.After(time.Minute):
		t.Fatal("Prometheus does not listen after a minute")
		return nil
	}
}

// configure writes the configuration, in the part of YAML that is JSON, and returns its path.
func configure(t testing.TB, dir string, opts Options) string {
	t.Helper()
	interval := opts.Interval
	if interval == 0 {
		interval = time.Second
	}
	config := map[string]any{"global": map[string]any{
		"scrape_interval": interval.String(), "scrape_timeout": interval.String(), "evaluation_interval": interval.String(),
	}}
	if opts.Targets != nil {
		config["scrape_configs"] = []any{map[string]any{
			"job_name": "capstan", "honor_labels": true, "static_configs": []any{map[string]any{"targets": opts.Targets}},
		}}
	}
	if opts.Rules != nil {
		rules := filepath.Join(dir, "rules.yaml")
		write(t, rules, opts.Rules)
		config["rule_files"] = []any{rules}
	}
	content, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "prometheus.yaml")
	write(t, path, content)
	return path
}

// load makes blocks of samples.
func load(t testing.TB, dir, data string, samples []byte) {
	t.Helper()
	path := filepath.Join(dir, "samples")
	write(t, path, samples)
	out, err := exec.Command(tool(t, "promtool"), "tsdb", "create-blocks-from", "openmetrics", path, data).CombinedOutput()
	if err != nil {
		t.Fatalf("promtool tsdb create-blocks-from: %v\n%s", err, out)
	}
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// listening keeps a log and finds the address in it.
type listening struct {
	mu      sync.Mutex
	log     bytes.Buffer
	found   bool
	address chan string
}

var listeningLine = regexp.MustCompile(`msg="Listening on"[^\n]*address=(127\.0\.0\.1:\d+)`)

// Write implements [io.Writer].
func (l *listening) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.log.Write(p)
	if match := listeningLine.FindSubmatch(l.log.Bytes()); match != nil && !l.found {
		l.found = true
		l.address <- string(match[1])
	}
	return n, err
}

func (l *listening) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.String()
}

// awaitReady waits until queries are answered; before, they are refused with 503.
func (s *Server) awaitReady(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.get(ctx, "/-/ready", nil, nil)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("Prometheus is not ready after a minute: %v", err)
		case <-tick.C:
		}
	}
}

// A Sample is one element of an instant vector, or a scalar without labels.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query evaluates an expression at a time, or now at the zero time.
func (s *Server) Query(ctx context.Context, expr string, at time.Time) ([]Sample, error) {
	values := url.Values{"query": {expr}}
	if !at.IsZero() {
		values.Set("time", at.UTC().Format(time.RFC3339Nano))
	}
	var answer struct {
		Data struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := s.get(ctx, "/api/v1/query", values, &answer); err != nil {
		return nil, fmt.Errorf("query %s: %w", expr, err)
	}
	if answer.Data.ResultType != "vector" {
		return nil, fmt.Errorf("query %s: the answer is a %s and not a vector", expr, answer.Data.ResultType)
	}
	var vector []struct {
		Metric map[string]string
		Value  [2]any
	}
	if err := json.Unmarshal(answer.Data.Result, &vector); err != nil {
		return nil, fmt.Errorf("query %s: %w", expr, err)
	}
	samples := make([]Sample, 0, len(vector))
	for _, v := range vector {
		text, _ := v.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("query %s: %w", expr, err)
		}
		samples = append(samples, Sample{Labels: v.Metric, Value: value})
	}
	return samples, nil
}

// An Alert is one that is pending or firing.
type Alert struct {
	Labels, Annotations map[string]string
	// State is "pending" or "firing".
	State string
}

// Alerts returns the alerts that are pending or firing.
func (s *Server) Alerts(ctx context.Context) ([]Alert, error) {
	var answer struct{ Data struct{ Alerts []Alert } }
	err := s.get(ctx, "/api/v1/alerts", nil, &answer)
	return answer.Data.Alerts, err
}

// get decodes the answer to a request into the value that out points to, if it is not nil.
func (s *Server) get(ctx context.Context, path string, values url.Values, out any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path+"?"+values.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var text bytes.Buffer
		_, _ = text.ReadFrom(response.Body)
		return fmt.Errorf("prometheus answers %s: %s", response.Status, text.String())
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(out)
}
