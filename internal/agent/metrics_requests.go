package agent

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// CountRequests returns what wraps a client's transport so that its requests to the API
// server are counted by verb. The series is capstan_api_requests_total.
func CountRequests(registerer prometheus.Registerer) (func(http.RoundTripper) http.RoundTripper, error) {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "capstan_api_requests_total", Help: "Requests to the API server by verb, and the class of the answer's code; none if there was no answer.",
	}, []string{"verb", "code"})
	if err := registerer.Register(counter); err != nil {
		return nil, fmt.Errorf("register the count of API requests: %w", err)
	}
	return func(next http.RoundTripper) http.RoundTripper { return &countedRequests{next, counter} }, nil
}

type countedRequests struct {
	next    http.RoundTripper
	counter *prometheus.CounterVec
}

// RoundTrip implements [http.RoundTripper].
func (c *countedRequests) RoundTrip(req *http.Request) (*http.Response, error) {
	answer, err := c.next.RoundTrip(req)
	code := "none"
	if err == nil {
		code = fmt.Sprintf("%dxx", answer.StatusCode/100)
	}
	c.counter.WithLabelValues(verbOf(req), code).Inc()
	return answer, err
}

// verbOf is the verb that the API server would authorise a request as (kubernetes
// staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go).
func verbOf(req *http.Request) string {
	switch req.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		if strings.Contains(req.Header.Get("Content-Type"), "apply-patch") {
			return "apply"
		}
		return "patch"
	case http.MethodDelete:
		return "delete"
	default:
		return "other"
	}
	if watch := req.URL.Query().Get("watch"); watch == "1" || watch == "true" {
		return "watch"
	}
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	switch { // api/v1/…, apis/GROUP/VERSION/…
	case parts[0] == "api" && len(parts) > 2:
		parts = parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		parts = parts[3:]
	default:
		return "discovery"
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	if len(parts) == 1 {
		return "list"
	}
	return "get"
}
