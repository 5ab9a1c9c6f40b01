package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"capstan.dev/capstan/internal/forge"
)

// delivery is one request to /webhooks/.
type delivery struct {
	*handler
	w   http.ResponseWriter
	r   *http.Request
	log logr.Logger
	// fleet is what the path names. It counts under its name once it is known to exist.
	fleet, counted types.NamespacedName
	event          forge.Event
}

// webhook answers, counts and logs a delivery.
func (h *handler) webhook(w http.ResponseWriter, r *http.Request, path []string) {
	start := h.Clock.Now()
	d := &delivery{handler: h, w: w, r: r, log: h.Log.WithValues("delivery", deliveryID(r.Header))}
	a := survive(r.Context(), d.log, func(ctx context.Context) answer { return d.handle(ctx, path) })
	h.metrics.count(d.counted, a.outcome)
	h.metrics.duration.Observe(h.Clock.Since(start).Seconds())
	log := d.log.WithValues("fleet", d.counted.String(), "code", a.code, "outcome", string(a.outcome), "event", string(d.event.Kind))
	switch a.outcome {
	case accepted:
		log.Info("webhook delivery")
	default:
		log.V(1).Info("webhook delivery", "answer", a.text)
	}
	a.write(w)
}

// handle takes a delivery step by step; what costs more comes later.
func (d *delivery) handle(ctx context.Context, path []string) answer {
	if d.r.Method != http.MethodPost {
		return notAllowed(http.MethodPost)
	}
	var ok bool
	if len(path) == 2 {
		d.fleet, ok = fleetNamed(path)
	}
	if !ok {
		return answer{
			code: http.StatusNotFound, outcome: notFound, hangUp: true,
			text: "not found: deliveries are received at /webhooks/NAMESPACE/FLEET, with the namespace and name of a Fleet",
		}
	}
	if !d.gates.allow(d.fleet.String()) {
		return answer{
			code: http.StatusTooManyRequests, outcome: limited, header: [2]string{"Retry-After", "1"}, hangUp: true,
			text: "too many deliveries; this one was not read. Nothing is lost: the next delivery or poll finds every push",
		}
	}
	leave := d.gates.enter(d.fleet.String(), ctx.Done())
	if leave == nil {
		return answer{
			code: http.StatusServiceUnavailable, outcome: busy, header: [2]string{"Retry-After", "5"}, hangUp: true,
			text: "too many deliveries at a time; this one was not read. Nothing is lost: the next delivery or poll finds every push",
		}
	}
	defer leave()
	if name := repeated(d.r.Header); name != "" {
		return answer{code: http.StatusBadRequest, outcome: malformed, text: "the header " + name + " is there more than once", hangUp: true}
	}
	body, bad := d.read()
	if bad != nil {
		return *bad
	}
	hook, bad := d.authenticate(ctx, body)
	if bad != nil {
		return *bad
	}
	if bad := d.parse(body); bad != nil {
		return *bad
	}
	if why := irrelevant(d.event, hook); why != "" {
		return answer{code: http.StatusOK, outcome: ignored, text: "ignored: " + why}
	}
	return d.hint(ctx)
}

// single are the headers that mean nothing if there are two of them: another reader on
// the way may have gone by the other one.
var single = []string{
	"Content-Type", "Content-Encoding", "X-Hub-Signature-256", "X-Gitea-Signature", "X-Forgejo-Signature", "X-Gogs-Signature",
	"X-GitHub-Event", "X-Gitea-Event", "X-Gitea-Event-Type", "X-Forgejo-Event", "X-Forgejo-Event-Type", "X-GitHub-Delivery", "X-Gitea-Delivery",
}

func repeated(header http.Header) string {
	for _, name := range single {
		if len(header.Values(name)) > 1 {
			return name
		}
	}
	return ""
}

// read reads the body, bounded in size and time.
func (d *delivery) read() ([]byte, *answer) {
	oversized := &answer{
		code: http.StatusRequestEntityTooLarge, outcome: tooLarge, hangUp: true,
		text: fmt.Sprintf("the delivery is larger than %d bytes and was not read. Nothing is lost: the next delivery or poll finds every push", d.BodyBytes),
	}
	if d.r.ContentLength > d.BodyBytes {
		return nil, oversized
	}
	// The deadline is the connection's, so it is in real time. A recorder has none.
	connection := http.NewResponseController(d.w)
	_ = connection.SetReadDeadline(clock.RealClock{}.Now().Add(d.ReadTimeout))
	var body bytes.Buffer // grows with what comes, and not with what a stranger announces
	_, err := io.Copy(&body, http.MaxBytesReader(d.w, d.r.Body, d.BodyBytes))
	var tooMuch *http.MaxBytesError
	switch {
	case err == nil:
		_ = connection.SetReadDeadline(time.Time{})
		return body.Bytes(), nil
	// Else the deadline stays: when all is answered, net/http reads on for the rest of the
	// body, and would do so for as long as the sender keeps the connection.
	case errors.As(err, &tooMuch):
		return nil, oversized
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &answer{
			code: http.StatusRequestTimeout, outcome: tooSlow, hangUp: true,
			text: fmt.Sprintf("the body did not arrive within %s; send the delivery again", d.ReadTimeout),
		}
	default:
		return nil, &answer{code: http.StatusBadRequest, outcome: malformed, hangUp: true, text: "the body is incomplete; send the delivery again"}
	}
}

// authenticate checks the signature. Whether there is such a Fleet shows neither in the
// answer nor in the work.
func (d *delivery) authenticate(ctx context.Context, body []byte) (Hook, *answer) {
	hook, why, err := d.Fleets.Hook(ctx, d.fleet)
	if err != nil {
		d.log.Error(err, "a webhook delivery can't be checked", "fleet", d.fleet.String())
		return Hook{}, &answer{
			code: http.StatusServiceUnavailable, outcome: failed, header: [2]string{"Retry-After", "5"},
			text: "the delivery can't be checked now; the agent's log says why. Send it again",
		}
	}
	var secrets [][]byte
	for _, s := range hook.Secrets {
		if len(s) > 0 && why == "" {
			secrets = append(secrets, s)
		}
	}
	if why == "" && len(secrets) == 0 {
		why = "it has no webhook secret"
	}
	if why == "" {
		d.counted = d.fleet
	}
	secrets = append(secrets, d.decoys[min(len(secrets), len(d.decoys)):]...)
	err = forge.Verify(d.r.Header, body, secrets)
	if err == nil && why == "" {
		return hook, nil
	}
	if why == "" {
		why = err.Error()
	}
	if d.refusals.AllowN(d.Clock.Now(), 1) {
		d.log.Info("webhook delivery refused", "fleet", d.fleet.String(), "reason", why)
	}
	return Hook{}, &answer{
		code: http.StatusUnauthorized, outcome: refused,
		text: "refused: the signature is missing or wrong. Check that the URL ends in the namespace and name of the Fleet, that the Fleet's " +
			"spec.forge.webhookSecretRef names a Secret, and that its key \"secret\" is the secret of the webhook on the forge",
	}
}

// parse reads the event of a delivery that is signed rightly.
func (d *delivery) parse(body []byte) *answer {
	if encoding := d.r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return &answer{code: http.StatusUnsupportedMediaType, outcome: mediaType, text: "the body must not be compressed"}
	}
	if kind, _, err := mime.ParseMediaType(d.r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &answer{code: http.StatusUnsupportedMediaType, outcome: mediaType, text: "set the webhook's content type to application/json"}
	}
	var err error
	if d.event, err = forge.Parse(d.r.Header, body); err != nil {
		return &answer{code: http.StatusBadRequest, outcome: malformed, text: "the delivery can't be understood: " + oneLine(err.Error())}
	}
	return nil
}

// irrelevant says why an event doesn't matter to a Fleet, "" if it may. It needs no
// call to anybody.
func irrelevant(e forge.Event, h Hook) string {
	if e.Kind == forge.PingEvent {
		return "" // it is answered
	}
	if e.Kind != forge.PushEvent && e.Kind != forge.PullRequestEvent {
		return oneLine(e.Reason)
	}
	if h.Repository != "" && !strings.EqualFold(h.Repository, e.Repository) {
		return fmt.Sprintf("it is about the repository %s, and the Fleet's is %s", oneLine(e.Repository), h.Repository)
	}
	switch {
	case e.Kind == forge.PushEvent && h.Ref != "" && e.Ref != h.Ref:
		return fmt.Sprintf("%s is not what the Fleet tracks, which is %s", oneLine(e.Ref), h.Ref)
	case e.Kind == forge.PullRequestEvent && (!h.PullRequests || h.Branch == ""):
		return "the Fleet doesn't look at pull requests"
	case e.Kind == forge.PullRequestEvent && e.Base != h.Branch:
		return fmt.Sprintf("the pull request is for %s, and the Fleet tracks %s", oneLine(e.Base), h.Branch)
	}
	return ""
}

// hint passes the event on.
func (d *delivery) hint(ctx context.Context) answer {
	var taken bool
	var why string
	var err error
	ctx = context.WithoutCancel(ctx) // it is taken even if the forge doesn't wait for the answer
	switch d.event.Kind {
	case forge.PushEvent:
		taken, why, err = d.Hints.Push(ctx, d.fleet, d.event)
	case forge.PullRequestEvent:
		taken, why, err = d.Hints.PullRequest(ctx, d.fleet, d.event)
	default:
		return answer{code: http.StatusOK, outcome: unchanged, text: "deliveries for Fleet " + d.fleet.String() + " arrive and are signed rightly"}
	}
	switch {
	case err != nil:
		d.log.Error(err, "a webhook delivery can't be passed on", "fleet", d.fleet.String())
		return answer{
			code: http.StatusServiceUnavailable, outcome: failed, header: [2]string{"Retry-After", "5"},
			text: "the delivery can't be passed on now; the agent's log says why. Send it again, or wait for the next poll",
		}
	case taken:
		return answer{code: http.StatusAccepted, outcome: accepted, text: "accepted"}
	default:
		return answer{code: http.StatusOK, outcome: unchanged, text: "nothing to do: " + oneLine(why)}
	}
}

// deliveryID is how the forge's log calls the delivery. It is not signed: it serves to
// find lines of the log, and nothing else.
func deliveryID(header http.Header) string {
	const most = 64
	for _, name := range []string{"X-Gitea-Delivery", "X-Forgejo-Delivery", "X-GitHub-Delivery"} {
		id := header.Get(name)
		if id == "" {
			continue
		}
		return strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
				return r
			}
			return '?'
		}, id[:min(len(id), most)])
	}
	return ""
}

// oneLine is a text as it may stand in an answer: one line, bounded, without what a
// terminal or a log would obey.
func oneLine(text string) string {
	const most = 300
	var b strings.Builder
	for _, r := range text {
		if b.Len() >= most {
			b.WriteString(" …")
			break
		}
		if !printable(r) {
			r = '·'
		}
		b.WriteRune(r)
	}
	return b.String()
}
