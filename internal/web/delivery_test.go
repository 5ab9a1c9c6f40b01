package web

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/onsi/gomega"
	"golang.org/x/time/rate"
	clocktesting "k8s.io/utils/clock/testing"

	"capstan.dev/capstan/internal/forge"
)

// What becomes of deliveries: the code, a part of the answer, and how it is counted.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	push := pushBody("refs/heads/main")
	for _, test := range []struct {
		name                      string
		path, event, body, secret string
		change                    func(*http.Request)
		code                      int
		text, counted             string
		hints                     int
	}{
		{name: "a push", code: 202, text: "accepted", counted: "ns/a accepted", hints: 1},
		{name: "a push signed with the former secret", secret: former, code: 202, text: "accepted", counted: "ns/a accepted", hints: 1},
		{name: "only GitHub's headers", code: 202, counted: "ns/a accepted", hints: 1, change: func(r *http.Request) {
			for _, h := range []string{"X-Gitea-Event", "X-Gitea-Event-Type", "X-GitHub-Event-Type", "X-Gitea-Signature", "X-Gogs-Event"} {
				r.Header.Del(h)
			}
		}},
		{name: "a pull request", event: "pull_request", body: pullBody("opened", "main"), code: 202, counted: "ns/a accepted", hints: 1},
		{name: "a pull request for another branch", event: "pull_request", body: pullBody("opened", "other"), code: 200,
			text: "ignored: the pull request is for other, and the Fleet tracks main", counted: "ns/a ignored"},
		{name: "a label on a pull request", event: "pull_request", body: pullBody("labeled", "main"), code: 200, text: "ignored: action labeled", counted: "ns/a ignored"},
		{name: "another branch", body: pushBody("refs/heads/other"), code: 200, text: "ignored: refs/heads/other is not what the Fleet tracks", counted: "ns/a ignored"},
		{name: "another repository", body: strings.Replace(push, "owner/name", "some/fork", 1), code: 200, text: "about the repository some/fork", counted: "ns/a ignored"},
		{name: "a comment", event: "issue_comment", body: "{}", code: 200, text: "ignored: event issue_comment", counted: "ns/a ignored"},
		{name: "a ping", event: "ping", body: `{"zen":"x"}`, code: 200, text: "arrive and are signed rightly", counted: "ns/a nothing_to_do"},

		{name: "a wrong signature", secret: "guessed", code: 401, text: "refused: the signature is missing or wrong", counted: "ns/a refused"},
		{name: "no signature", code: 401, counted: "ns/a refused", change: unsigned},
		{name: "SHA-1 only", code: 401, counted: "ns/a refused", change: func(r *http.Request) {
			unsigned(r)
			r.Header.Set("X-Hub-Signature", "sha1=0123456789012345678901234567890123456789")
		}},
		{name: "one wrong signature of two", code: 401, counted: "ns/a refused", change: func(r *http.Request) {
			r.Header.Set("X-Gitea-Signature", signature("guessed", push))
		}},
		{name: "an unknown Fleet", path: "/webhooks/ns/unknown", code: 401, counted: "/ refused"},
		{name: "an empty secret", path: "/webhooks/ns/unknown", secret: "", code: 401, counted: "/ refused"},

		{name: "not JSON", body: "x=y", code: 400, text: "can't be understood", counted: "ns/a malformed"},
		{name: "no event", code: 400, text: "names no event", counted: "ns/a malformed", change: func(r *http.Request) {
			for _, h := range []string{"X-Gitea-Event", "X-GitHub-Event", "X-Gogs-Event"} {
				r.Header.Del(h)
			}
		}},
		{name: "a signature twice", code: 400, text: "X-Gitea-Signature is there more than once", counted: "/ malformed", change: func(r *http.Request) {
			r.Header.Add("X-Gitea-Signature", r.Header.Get("X-Gitea-Signature"))
		}},
		{name: "an event twice", code: 400, text: "X-GitHub-Event", counted: "/ malformed", change: func(r *http.Request) { r.Header.Add("X-GitHub-Event", "ping") }},
		{name: "a form", code: 415, text: "application/json", counted: "ns/a media_type", change: func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}},
		{name: "compressed", body: zipped(push), code: 415, text: "compressed", counted: "ns/a media_type", change: func(r *http.Request) {
			r.Header.Set("Content-Encoding", "gzip")
		}},
		{name: "too large", body: strings.Repeat(" ", 9000), code: 413, text: "larger than 8192 bytes", counted: "/ too_large"},
		{name: "too large, of unknown length", body: strings.Repeat(" ", 9000), code: 413, text: "larger than 8192 bytes", counted: "/ too_large",
			change: func(r *http.Request) { r.ContentLength = -1 }},
		{name: "as large as it may be", body: push + strings.Repeat(" ", 8192-len(push)), code: 202, counted: "ns/a accepted", hints: 1},

		{name: "GET", code: 405, counted: "/ method", change: func(r *http.Request) { r.Method = http.MethodGet }},
		{name: "a name that is none", path: "/webhooks/ns/A", code: 404, text: "/webhooks/NAMESPACE/FLEET", counted: "/ not_found"},
		{name: "an escaped name", path: "/webhooks/ns/%61", code: 404, counted: "/ not_found"},
		{name: "a path with dots", path: "/webhooks/../a", code: 404, counted: "/ not_found"},
		{name: "too long a path", path: "/webhooks/ns/a/", code: 404, counted: "/ not_found"},
		{name: "too short a path", path: "/webhooks", code: 404, counted: "/ not_found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, func(o *Options) { o.BodyBytes = 8192 })
			path, event, body, secret := or(test.path, "/webhooks/ns/a"), or(test.event, "push"), or(test.body, push), or(test.secret, current)
			if test.name == "an empty secret" {
				secret = ""
			}
			r := b.request(path, event, body, secret)
			if test.change != nil {
				test.change(r)
			}
			code, text, header := b.send(r)
			if code != test.code || !strings.Contains(text, test.text) || strings.Count(text, "\n") > 0 || text == "" {
				t.Errorf("%d %q, want %d %q", code, text, test.code, test.text)
			}
			if code == http.StatusMethodNotAllowed && header.Get("Allow") != http.MethodPost {
				t.Errorf("Allow: %q", header.Get("Allow"))
			}
			if diff := cmp.Diff(map[string]int{test.counted: 1}, b.deliveries()); diff != "" {
				t.Errorf("counted:\n%s", diff)
			}
			if b.hinted() != test.hints {
				t.Errorf("%d hints, want %d", b.hinted(), test.hints)
			}
			for _, secret := range []string{current, former, signature(current, body), signature(former, body), "clusters/a/x.yaml"} {
				if strings.Contains(b.log(), secret) || strings.Contains(text, secret) {
					t.Errorf("the log or the answer shows %q", secret)
				}
			}
		})
	}
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

func unsigned(r *http.Request) {
	r.Header.Del("X-Gitea-Signature")
	r.Header.Del("X-Hub-Signature-256")
}

func zipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
}

// Nothing in the answer tells a Fleet that there is from one that there is not.
func TestUnknownFleetLooksAlike(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var answers []string
	for _, path := range []string{"/webhooks/ns/a", "/webhooks/ns/unknown", "/webhooks/other/a"} {
		for _, change := range []func(*http.Request){func(*http.Request) {}, unsigned} {
			r := b.request(path, "push", pushBody("refs/heads/main"), "guessed")
			change(r)
			code, text, header := b.send(r)
			header.Del("Date")
			answers = append(answers, fmt.Sprint(code, text, header))
		}
	}
	for _, answer := range answers[1:] {
		if diff := cmp.Diff(answers[0], answer); diff != "" {
			t.Errorf("answers differ:\n%s", diff)
		}
	}
}

// What the hints say is passed on to the person, and what they lack is an error of
// ours. A replay is as harmless as what it repeats.
func TestHintAnswers(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	send := func() (int, string) {
		code, text, _ := b.send(b.request("/webhooks/ns/a", "push", pushBody("refs/heads/main"), current))
		return code, text
	}
	b.answer = func(forge.Event) (bool, string, error) { return false, "the commit is known", nil }
	for range 3 {
		if code, text := send(); code != 200 || text != "nothing to do: the commit is known" {
			t.Errorf("%d %q", code, text)
		}
	}
	b.answer = func(forge.Event) (bool, string, error) { return false, "", errBroken }
	if code, text := send(); code != 503 || strings.Contains(text, "broken") {
		t.Errorf("%d %q", code, text)
	}
	b.answer = func(forge.Event) (bool, string, error) { panic("a value that " + current + " is in") }
	if code, _ := send(); code != 500 {
		t.Errorf("%d after a panic", code)
	}
	b.answer = func(forge.Event) (bool, string, error) { return true, "", nil }
	if code, _ := send(); code != 202 {
		t.Errorf("%d after a panic and a good delivery", code)
	}
	b.err = errBroken
	if code, text := send(); code != 503 || strings.Contains(text, "broken") {
		t.Errorf("%d %q", code, text)
	}
	want := map[string]int{"ns/a nothing_to_do": 3, "ns/a failed": 1, "ns/a panic": 1, "ns/a accepted": 1, "/ failed": 1}
	if diff := cmp.Diff(want, b.deliveries()); diff != "" {
		t.Errorf("counted:\n%s", diff)
	}
	if strings.Contains(b.log(), current) {
		t.Errorf("the log shows the value of a panic:\n%s", b.log())
	}
}

// A Fleet's series go when it takes no deliveries any more.
func TestSeriesGo(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.send(b.request("/webhooks/ns/a", "push", pushBody("refs/heads/main"), current))
	b.send(b.request("/webhooks/ns/b", "push", pushBody("refs/heads/main"), current))
	b.mu.Lock()
	delete(b.hooks, fleetA)
	b.mu.Unlock()
	if diff := cmp.Diff(map[string]int{"ns/b accepted": 1}, b.deliveries()); diff != "" {
		t.Errorf("counted:\n%s", diff)
	}
	b.send(b.request("/webhooks/ns/a", "push", pushBody("refs/heads/main"), current))
	if diff := cmp.Diff(map[string]int{"/ refused": 1, "ns/b accepted": 1}, b.deliveries()); diff != "" {
		t.Errorf("counted:\n%s", diff)
	}
}

// The id of a delivery finds it in the log, and can't forge lines of it.
func TestDeliveryID(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.send(b.request("/webhooks/ns/a", "push", pushBody("refs/heads/main"), current))
	if !strings.Contains(b.log(), "0e7b1c9e-0000-4000-8000-000000000001") {
		t.Errorf("the log doesn't name the delivery:\n%s", b.log())
	}
	for given, want := range map[string]string{
		"": "", "abc-1": "abc-1", "a\nb\x1b[2J": "a?b??2J", strings.Repeat("x", 500): strings.Repeat("x", 64), "é": "?",
	} {
		if got := deliveryID(http.Header{"X-Github-Delivery": {given}}); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}

// 500 signed pushes pass at once. A flood of forged ones for a Fleet is turned away,
// and hits no other Fleet.
func TestRates(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	b := newBed(t, func(o *Options) { o.Clock = clock; o.Wait = time.Minute })
	counts := func(path, secret string, n int) map[int]int {
		codes := make(chan int)
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				for range n / 50 {
					code, _, _ := b.send(b.request(path, "push", pushBody("refs/heads/main"), secret))
					codes <- code
				}
			})
		}
		go func() { group.Wait(); close(codes) }()
		all := map[int]int{}
		for code := range codes {
			all[code]++
		}
		return all
	}
	if diff := cmp.Diff(map[int]int{202: 500}, counts("/webhooks/ns/b", current, 500)); diff != "" {
		t.Errorf("500 signed pushes:\n%s", diff)
	}
	if diff := cmp.Diff(map[int]int{401: 1000, 429: 1500}, counts("/webhooks/ns/a", "guessed", 2500)); diff != "" {
		t.Errorf("a flood:\n%s", diff)
	}
	if diff := cmp.Diff(map[int]int{202: 50}, counts("/webhooks/ns/b", current, 50)); diff != "" {
		t.Errorf("another Fleet during the flood:\n%s", diff)
	}
	clock.SetTime(clock.Now().Add(time.Second))
	if diff := cmp.Diff(map[int]int{202: 100, 429: 50}, counts("/webhooks/ns/a", current, 150)); diff != "" {
		t.Errorf("a second after the flood:\n%s", diff)
	}
}

// Names that senders make up cost a bounded amount of memory.
func TestGatesBounded(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	o := Options{Clock: clock, Concurrency: 2, PerFleet: 1, Total: rate.Inf}
	g := newGates(o)
	for i := range 3 * maxGates {
		g.allow(fmt.Sprint("name-", i))
	}
	if n := len(g.byName); n > maxGates {
		t.Errorf("%d gates", n)
	}
	if g.of("late") != g.crowd {
		t.Error("there is a gate of its own for one too many")
	}
	clock.SetTime(clock.Now().Add(time.Minute))
	if g.of("later") == g.crowd || len(g.byName) != 1 {
		t.Errorf("%d gates are kept that nobody uses", len(g.byName)-1)
	}
}

// raw opens a connection to the server.
func (b *bed) raw() net.Conn {
	b.Helper()
	c, err := net.Dial("tcp", b.server.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		b.Fatal(err)
	}
	return c
}

// status reads the code of an answer, 0 if the connection was closed without one.
func status(c net.Conn) int {
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

// Who sends slowly holds nobody else up for long, and is told.
func TestSlow(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(o *Options) { o.ReadTimeout = 300 * time.Millisecond; o.Concurrency = 2; o.Wait = time.Minute })
	slow := b.raw()
	fmt.Fprintf(slow, "POST /webhooks/ns/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	if code, _, _ := b.send(b.request("/webhooks/ns/b", "push", pushBody("refs/heads/main"), current)); code != 202 {
		t.Errorf("%d while another sends slowly", code)
	}
	if code, _, _ := b.send(b.request("/webhooks/ns/a", "push", pushBody("refs/heads/main"), current)); code != 202 {
		t.Errorf("%d after another has sent slowly", code)
	}
	if code := status(slow); code != 408 {
		t.Errorf("%d, want 408", code)
	}
	if n := b.deliveries()["/ too_slow"]; n != 1 {
		t.Errorf("counted: %v", b.deliveries())
	}
}

// Who was told that the body is too slow or too large is let go: a connection on which
// nothing more comes is closed, and takes no other's place.
func TestLetGo(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(o *Options) { o.ReadTimeout = 100 * time.Millisecond; o.BodyBytes = 50 })
	for want, rest := range map[int]string{
		http.StatusRequestTimeout:        "Content-Length: 40\r\n\r\n{",
		http.StatusRequestEntityTooLarge: "Transfer-Encoding: chunked\r\n\r\n50\r\n{" + strings.Repeat(" ", 70),
	} {
		c := b.raw()
		fmt.Fprintf(c, "POST /webhooks/ns/a HTTP/1.1\r\nHost: x\r\n%s", rest)
		all, err := io.ReadAll(c)
		if answer := string(all); err != nil || !strings.HasPrefix(answer, fmt.Sprint("HTTP/1.1 ", want)) {
			t.Errorf("%q and %v, want %d and the end of the connection", answer, err, want)
		}
	}
}

// One Fleet's slow senders leave room for another's, and for nobody more than there is.
func TestBusy(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(o *Options) { o.Concurrency = 2; o.Wait = time.Millisecond; o.ReadTimeout = time.Hour })
	gomega.NewWithT(t).Eventually(func() int {
		// Another one each time: it is turned away itself if it comes while the next is there.
		fmt.Fprintf(b.raw(), "POST /webhooks/ns/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
		code, _, _ := b.send(b.request("/webhooks/ns/a", "push", pushBody("refs/heads/main"), current))
		return code
	}, time.Minute, 10*time.Millisecond).Should(gomega.Equal(503))
	if code, _, header := b.send(b.request("/webhooks/ns/a", "push", pushBody("refs/heads/main"), current)); code != 503 || header.Get("Retry-After") == "" {
		t.Errorf("%d, Retry-After %q", code, header.Get("Retry-After"))
	}
	if code, _, _ := b.send(b.request("/webhooks/ns/b", "push", pushBody("refs/heads/main"), current)); code != 202 {
		t.Errorf("%d for another Fleet", code)
	}
}

// Where there is room nobody is turned away, though the time to wait is over at once.
func TestRoomBeforeTime(t *testing.T) {
	t.Parallel()
	g := newGates(Options{Clock: clocktesting.NewFakePassiveClock(time.Unix(1000, 0)), Concurrency: 1, PerFleet: 1, Total: 1})
	over := make(chan struct{})
	close(over)
	for range 100 {
		leave := g.enter("name", over)
		if leave == nil {
			t.Fatal("turned away")
		}
		if g.enter("name", over) != nil {
			t.Fatal("let in where there is no room")
		}
		leave()
	}
}

// A body that ends early is not taken, whatever it is signed with; one that never ends
// is cut off, and so are headers without end.
func TestTruncated(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(o *Options) { o.BodyBytes = 1000 })
	c := b.raw()
	fmt.Fprintf(c, "POST /webhooks/ns/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if code := status(c); code != 400 {
		t.Errorf("truncated: %d, want 400", code)
	}
	endless := func(c net.Conn, part string) {
		for {
			if _, err := io.WriteString(c, part); err != nil {
				return
			}
		}
	}
	c = b.raw()
	fmt.Fprintf(c, "POST /webhooks/ns/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	go endless(c, "a\r\n0123456789\r\n")
	if code := status(c); code != 413 {
		t.Errorf("endless: %d, want 413", code)
	}
	c = b.raw()
	fmt.Fprintf(c, "POST /webhooks/ns/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
	if code := status(c); code != 400 {
		t.Errorf("bad chunks: %d, want 400", code)
	}
	c = b.raw()
	fmt.Fprintf(c, "POST /webhooks/ns/a HTTP/1.1\r\nHost: x\r\n")
	go endless(c, "X-Endless: "+strings.Repeat("x", 1000)+"\r\n")
	if code := status(c); code != 431 && code != 0 {
		t.Errorf("huge headers: %d, want 431 or the end of the connection", code)
	}
	c = b.raw()
	fmt.Fprintf(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	if code := status(c); code >= 200 && code < 300 {
		t.Errorf("HTTP/2 without TLS: %d", code)
	}
	if b.hinted() > 0 {
		t.Errorf("%d hints", b.hinted())
	}
}

// A server serves where it says, on every replica, and ends with its context.
func TestServer(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	s, err := Listen("127.0.0.1:0", b.server.Config.Handler, testLogger(b), 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }()
	r := b.request("/webhooks/ns/a", "push", pushBody("refs/heads/main"), current)
	r.URL.Host = s.Addr()
	if code, _, _ := b.send(r); code != 202 {
		t.Errorf("%d", code)
	}
	if s.NeedLeaderElection() {
		t.Error("only the replica that leads would receive")
	}
	if _, err := Listen(s.Addr(), nil, testLogger(b), time.Second); err == nil {
		t.Error("an address was taken twice")
	}
	idle, err := net.Dial("tcp", s.Addr()) // doesn't keep it from ending
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", s.Addr()); err == nil {
		c.Close()
		t.Error("it still accepts")
	}
}

// A handler says what it lacks.
func TestIncompleteOptions(t *testing.T) {
	t.Parallel()
	if _, err := Handler(Options{}); err == nil {
		t.Error("no error")
	}
}
