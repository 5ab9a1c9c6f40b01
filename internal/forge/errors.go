package forge

import (
	"errors"
	"time"
)

// ErrorKind is what a caller does different things for.
type ErrorKind string

// The kinds of errors.
const (
	// Unauthorized: the forge does not know the token.
	Unauthorized ErrorKind = "Unauthorized"
	// Forbidden: the token may not do this.
	Forbidden ErrorKind = "Forbidden"
	// NotFound: there is no such repository, commit, pull request or comment, or the token
	// may not see it.
	NotFound ErrorKind = "NotFound"
	// Invalid: the forge does not accept what was sent.
	Invalid ErrorKind = "Invalid"
	// RateLimited: there were too many requests.
	RateLimited ErrorKind = "RateLimited"
	// CertificateInvalid: the forge's certificate is not trusted.
	CertificateInvalid ErrorKind = "CertificateInvalid"
	// Unavailable: the forge can't be reached, or what answers is not in order.
	Unavailable ErrorKind = "Unavailable"
)

// Error is a failed operation of a Forge. Its text says what failed, where and what to do;
// it has no secrets.
type Error struct {
	Kind ErrorKind
	// RetryAfter is for RateLimited: how long the forge says to wait; 0 if it doesn't.
	RetryAfter time.Duration

	text  string
	cause error
	// status is what the forge answered with, if it did.
	status int
}

func (e *Error) Error() string { return e.text }

// Unwrap returns what the network or the caller's context said, if that was the reason.
func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the kind of an error of a Forge, and "" for others and nil.
func KindOf(err error) ErrorKind {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Kind
	}
	return ""
}
