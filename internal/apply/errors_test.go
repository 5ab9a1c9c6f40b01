package apply

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

// The same failure has the same text at every try: each new text is a status to
// write.
func TestErrorsAreStable(t *testing.T) {
	for name, failures := range map[string][]string{
		"read tcp: connection reset by peer": {
			"read tcp 127.0.0.1:41234->127.0.0.1:6443: connection reset by peer",
			"read tcp 127.0.0.1:50001->127.0.0.1:6443: connection reset by peer",
			"read tcp [fe80::1%eth0]:50001->[fd00::1]:6443: connection reset by peer",
		},
		"dial tcp: connect: connection refused": {"dial tcp 10.0.0.1:6443: connect: connection refused", "dial tcp [::1]:6443: connect: connection refused"},
		"lookup api.example.com: read udp: i/o timeout": {
			"lookup api.example.com: read udp 10.1.1.1:1->10.96.0.10:53: i/o timeout", "lookup api.example.com: read udp 10.1.1.1:2->10.96.0.10:53: i/o timeout",
		},
		"ErrCode=NO_ERROR": {
			`http2: server sent GOAWAY and closed the connection; LastStreamID=7, ErrCode=NO_ERROR, debug=""`,
			`http2: server sent GOAWAY and closed the connection; LastStreamID=1999, ErrCode=NO_ERROR, debug=""`,
		},
		"certificate has expired or is not yet valid": {
			"x509: certificate has expired or is not yet valid: current time 2026-01-02T03:04:05Z is after 2026-01-01T00:00:00Z",
			"x509: certificate has expired or is not yet valid: current time 2026-01-02T03:05:05Z is after 2026-01-01T00:00:00Z",
		},
	} {
		for _, failure := range failures {
			err := &url.Error{Op: "Get", URL: "https://127.0.0.1:6443/api", Err: errors.New(failure)}
			if got := plain(err, nil); !strings.Contains(got, name) || got != plain(errors.New(failures[0]), nil) {
				t.Errorf("%s\nbecomes %s", failure, got)
			}
		}
	}
	// An address that is no connection's, and a message of the API server.
	for text, want := range map[string]string{
		"spec.host: Invalid value: 10.0.0.1:6443":                                        "spec.host: Invalid value: 10.0.0.1:6443",
		`calling webhook "w": Post "https://w.svc:443/": dial tcp 10.9.8.7:443: refused`: `calling webhook "w": Post "https://w.svc:443/": dial tcp: refused`,
	} {
		if got := plain(errors.New(text), nil); got != want {
			t.Errorf("%s\nbecomes %s", text, got)
		}
	}
}
