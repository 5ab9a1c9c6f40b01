package apply

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// Error is a failure that concerns one object. Its text holds no secret values.
type Error struct {
	// ID is the object.
	ID object.ID
	// Reason is a condition reason of v1alpha1: Invalid, Conflict, OwnedByOther,
	// Forbidden, Transient, ClusterPaused, ClusterDeleting.
	Reason string
	// Message says what is wrong, without the object.
	Message string
	// Transient is true if the same request may succeed later, with no change in
	// Git.
	Transient bool

	cause error
}

// Error names the object and says what is wrong.
func (e *Error) Error() string { return e.ID.String() + ": " + e.Message }

// Unwrap returns what the client returned, for errors.Is and errors.As. Its text
// may hold secret values: don't print it.
func (e *Error) Unwrap() error { return e.cause }

// IsNotFound tells whether an error of Get is the API server's word that there is
// no such object.
func IsNotFound(err error) bool { return apierrors.IsNotFound(err) }

// notServedError is a 404 that is about the path and not about an object: the
// kind has gone, or something else than the API server has answered.
type notServedError struct{}

func (e *notServedError) Error() string {
	return "the API server does not serve the kind at this moment"
}

// nameError says that an object has a name that no object can have.
type nameError struct{}

func (e *nameError) Error() string {
	return "its name or namespace can't be part of a path: it is empty, . or .., or holds a slash or a percent sign"
}

// refuse makes an Error that no request returned.
func refuse(id object.ID, reason, format string, args ...any) *Error {
	return &Error{ID: id, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// classify turns what a request returned into an Error; verb is what was tried.
// Secret values of the objects sent or read are taken out of its text. The order
// of the cases matters: the API server's codes are not always what the failure
// is.
func (a *Applier) classify(id object.ID, verb string, err error, objects ...*unstructured.Unstructured) *Error {
	e := &Error{ID: id, Message: plain(err, objects), cause: err}
	status := statusOf(err)
	switch {
	case errors.As(err, new(*noKindError)), errors.As(err, new(*nameError)):
		e.Reason = v1alpha1.InvalidReason
	case errors.As(err, new(*notServedError)):
		e.Reason, e.Transient = v1alpha1.TransientReason, true
	case status == nil: // the network, the connection, a deadline
		e.Reason, e.Transient = v1alpha1.TransientReason, true
		e.Message = "no answer from the API server: " + e.Message
	case isTypedPatchError(status):
		e.Reason = v1alpha1.InvalidReason // sent with code 500
	case hasCause(status, corev1.NamespaceTerminatingCause):
		e.Reason, e.Transient = v1alpha1.TransientReason, true
		e.Message = "its namespace is being deleted"
	case status.Code == http.StatusForbidden && !deniedByAdmission(status):
		e.Reason = v1alpha1.ForbiddenReason
		e.Message = fmt.Sprintf("%s may not %s it: %s", a.who(), verb, e.Message)
	case status.Code == http.StatusUnauthorized:
		e.Reason = v1alpha1.ForbiddenReason
		e.Message = "the API server does not accept our credentials: " + e.Message
	case status.Code >= http.StatusInternalServerError, status.Code == http.StatusTooManyRequests,
		status.Code == http.StatusRequestTimeout, status.Code == http.StatusConflict:
		// A conflict with field managers does not come here.
		e.Reason, e.Transient = v1alpha1.TransientReason, true
	default:
		e.Reason = v1alpha1.InvalidReason
	}
	return e
}

// who is the identity that requests are sent as.
func (a *Applier) who() string {
	if a.account != "" {
		return a.account
	}
	return "Capstan"
}

// statusOf returns the API server's answer in an error, nil if there was none.
func statusOf(err error) *metav1.Status {
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		return nil
	}
	status := s.Status()
	return &status
}

// plain is the text of an error in one line, without the secret values of the
// objects and without the address of the request.
func plain(err error, objects []*unstructured.Unstructured) string {
	text := err.Error()
	var at *url.Error
	if errors.As(err, &at) {
		text = at.Err.Error()
	}
	for _, u := range objects {
		text = object.Scrub(text, u)
	}
	text = changing.ReplaceAllString(text, "$1")
	return strings.Join(strings.Fields(text), " ")
}

// changing matches what makes the text of one and the same failure a new one at
// every try: the addresses of a connection, the number of a request, the time.
var changing = regexp.MustCompile(`\b((?:tcp|udp)[46]?)(?: ` + address + `)?(?:->| )` + address +
	`|[;,] LastStreamID=[0-9]+|: current time [^ ]+ is (?:before|after) [^ ]+`)

const address = `(?:\[[0-9A-Fa-f:.]+(?:%[^ \]]+)?\]|[0-9]+(?:\.[0-9]+){3}):[0-9]+`

// isTypedPatchError recognises a manifest that does not fit the schema. The API
// server answers 500 for some of these (apiserver v0.36 pkg/endpoints/handlers:
// an error without a status of its own).
func isTypedPatchError(status *metav1.Status) bool {
	return strings.Contains(status.Message, "failed to create typed patch object") ||
		strings.Contains(status.Message, "failed to convert new object") // bad base64 in a Secret, for example
}

// deniedByAdmission tells a refusal by a webhook or a policy, which is about the
// object's content, from missing rights; both have code 403 (apiserver v0.36
// pkg/admission/plugin/webhook/errors/statuserror.go,
// pkg/admission/plugin/policy/validating).
func deniedByAdmission(status *metav1.Status) bool {
	return strings.Contains(status.Message, "admission webhook") || strings.Contains(status.Message, "ValidatingAdmissionPolicy")
}

func hasCause(status *metav1.Status, cause metav1.CauseType) bool {
	if status.Details == nil {
		return false
	}
	for _, c := range status.Details.Causes {
		if c.Type == cause {
			return true
		}
	}
	return false
}
