package capi

import (
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// condition is one of an object's, of either style.
type condition struct {
	kind, status, reason, message, severity string
	since                                   time.Time
	// generation that it was found for; 0 if it doesn't say.
	generation int64
}

// conditionOf reads a condition; nil if there is none. Where an object that is read as
// v1beta1 has conditions of both styles, those of v1beta2 are meant.
func conditionOf(u *unstructured.Unstructured, kind string) *condition {
	if c := conditionAt(u, kind, "status", "v1beta2", "conditions"); c != nil {
		return c
	}
	return oldCondition(u, kind)
}

// oldCondition reads a condition where objects of v1beta1 have those of the old style.
func oldCondition(u *unstructured.Unstructured, kind string) *condition {
	return conditionAt(u, kind, "status", "conditions")
}

func conditionAt(u *unstructured.Unstructured, kind string, path ...string) *condition {
	value, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	conditions, _ := value.([]any)
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && text(c, "type") == kind {
			since, _ := time.Parse(time.RFC3339, text(c, "lastTransitionTime"))
			generation, _ := c["observedGeneration"].(int64)
			return &condition{
				generation: generation,
				kind:       kind, status: text(c, "status"), reason: text(c, "reason"),
				message: text(c, "message"), severity: text(c, "severity"), since: since,
			}
		}
	}
	return nil
}

// newStyle tells whether an object has the conditions of v1beta2, wherever they are.
func newStyle(u *unstructured.Unstructured) bool {
	_, nestedIn, _ := unstructured.NestedFieldNoCopy(u.Object, "status", "v1beta2", "conditions")
	return nestedIn || u.GroupVersionKind().Version != "v1beta1"
}

// True tells whether the condition is there and True.
func (c *condition) True() bool { return c != nil && c.status == "True" }

// False tells whether the condition is there and False.
func (c *condition) False() bool { return c != nil && c.status == "False" }

// quote says what the condition says: "VirtualMachineProvisioned is WaitingForCloudInit:
// message".
func (c *condition) quote() string {
	reason := c.reason
	// Reasons that only repeat the type say less than the status.
	if reason == "" || reason == c.kind || reason == "Not"+c.kind {
		reason = c.status
	}
	return join(": ", c.kind+" is "+reason, plain(c.message))
}

// explain is the message, or the reason if there is none.
func (c *condition) explain() string {
	if c == nil {
		return ""
	}
	if message := plain(c.message); message != "" {
		return message
	}
	return c.reason
}

// join joins the texts that aren't empty.
func join(separator string, texts ...string) string {
	var parts []string
	for _, t := range texts {
		if t != "" {
			parts = append(parts, t)
		}
	}
	return strings.Join(parts, separator)
}

// Times and ages in messages: they would make a status change although nothing happens.
var (
	atTime = regexp.MustCompile(` ?(\((started )?at |\(since |,? at |,? since )?` +
		`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d))?( [A-Z]{3,4})?( m=\S+)?\)?`)
	forAge = regexp.MustCompile(` (since|for) more than \d+[smh]\b`)
	blanks = regexp.MustCompile(`\s+`)
)

// maxQuote limits what is quoted of one condition.
const maxQuote = 320

// plain makes one line of a message, without times, and not too long.
func plain(message string) string {
	// Some controllers list everything; the beginning is enough.
	message = cut(message, 4*maxQuote)
	message = forAge.ReplaceAllString(atTime.ReplaceAllString(message, ""), "")
	var lines []string
	for line := range strings.Lines(message) {
		if line = strings.TrimPrefix(strings.TrimSpace(line), "* "); line != "" {
			lines = append(lines, line)
		}
	}
	out := ""
	for i, line := range lines {
		switch {
		case i == 0:
			out = line
		case strings.HasSuffix(out, ":"):
			out += " " + line
		default:
			out += "; " + line
		}
	}
	return cut(blanks.ReplaceAllString(out, " "), maxQuote)
}

// cut shortens a text to so many bytes, at a rune.
func cut(text string, limit int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= limit {
		return text
	}
	const mark = "…"
	end := limit - len(mark)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}

// maxMessage is the limit of messages in a status.
const maxMessage = 1024

func clip1024(text string) string { return cut(text, maxMessage) }
