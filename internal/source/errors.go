package source

import (
	"errors"
	"fmt"
	"strings"
)

// Reason names the kind of a failure, in the form of a condition's reason. The
// values are stable.
type Reason string

// The reasons of this package's errors.
const (
	// BadConfiguration: the options or credentials can't work; nothing was sent.
	BadConfiguration Reason = "BadConfiguration"
	// LocalNotAllowed: the URL is a path, and reading local repositories is off.
	LocalNotAllowed Reason = "LocalNotAllowed"
	// AuthenticationFailed: the server refused the credentials, or wants some.
	AuthenticationFailed Reason = "AuthenticationFailed"
	// HostKeyUnknown: known_hosts doesn't name the SSH server.
	HostKeyUnknown Reason = "HostKeyUnknown"
	// HostKeyMismatch: the SSH server's key isn't the one in known_hosts.
	HostKeyMismatch Reason = "HostKeyMismatch"
	// CertificateInvalid: the server's TLS certificate isn't trusted.
	CertificateInvalid Reason = "CertificateInvalid"
	// RepositoryNotFound: the server doesn't know the repository.
	RepositoryNotFound Reason = "RepositoryNotFound"
	// RepositoryUnreadable: a local repository has no permission for us, or a format
	// that can't be read (SHA-256, reftable).
	RepositoryUnreadable Reason = "RepositoryUnreadable"
	// EmptyRepository: the repository has no commit yet.
	EmptyRepository Reason = "EmptyRepository"
	// RefNotFound: the branch, tag, commit or reference doesn't exist (any more).
	RefNotFound Reason = "RefNotFound"
	// ServerUnavailable: the server can't be reached, broke off, or doesn't speak Git.
	ServerUnavailable Reason = "ServerUnavailable"
	// Timeout: the server was silent for too long.
	Timeout Reason = "Timeout"
	// MirrorCorrupt: an object is missing or damaged. Nothing follows about what
	// the commit holds. The next Sync rebuilds the mirror.
	MirrorCorrupt Reason = "MirrorCorrupt"
	// MirrorLocked: another process, or another Mirror, uses the folder.
	MirrorLocked Reason = "MirrorLocked"
	// MirrorUnusable: the disk refuses the mirror (full, read-only, no permission).
	MirrorUnusable Reason = "MirrorUnusable"
	// TooLarge: a limit of [Limits] is exceeded.
	TooLarge Reason = "TooLarge"
	// TreeInvalid: the commit's tree holds names that no checkout could hold.
	TreeInvalid Reason = "TreeInvalid"
	// Unrelated: a pull request has no commit in common with its target.
	Unrelated Reason = "Unrelated"
	// ProposalLost: an object that a pull request needs isn't in the mirror, or not
	// any more. The mirror is sound; asking for the Proposal again fetches anew.
	ProposalLost Reason = "ProposalLost"
)

// Error is a failure with a reason. Its text names the repository without
// credentials and says what to do; it never holds a secret, and it never wraps
// [io/fs.ErrNotExist].
type Error struct {
	// Reason is the kind of failure.
	Reason Reason
	// URL is the repository, without credentials; "" where none is concerned.
	URL string

	text  string // what happened and what to do
	cause error  // may be nil
}

// Error implements error.
func (e *Error) Error() string {
	if e.URL == "" {
		return e.text
	}
	return e.URL + ": " + e.text
}

// Unwrap returns the cause, if there is one that callers may see.
func (e *Error) Unwrap() error { return e.cause }

// ReasonOf returns the reason of an error of this package, "" for other errors.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

func errorf(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, text: fmt.Sprintf(format, args...)}
}

// corruptf doesn't wrap its arguments: a pack file that vanished is reported by
// the operating system as "not exist", and a caller must not take that for the
// absence of a path in the commit.
func corruptf(format string, args ...any) *Error { return errorf(MirrorCorrupt, format, args...) }

// errClosed is what a closed Mirror answers.
var errClosed = errors.New("the mirror is closed")

// scrubber removes secret values from the texts of errors, which libraries and
// servers compose from what they were given.
type scrubber struct{ replacer *strings.Replacer }

func newScrubber(secrets ...string) scrubber {
	var pairs []string
	for _, s := range secrets {
		if s != "" {
			pairs = append(pairs, s, "***")
		}
	}
	return scrubber{replacer: strings.NewReplacer(pairs...)}
}

// clean returns the text of an error on one line, without secrets, cut to a
// length that fits a condition.
func (s scrubber) clean(err error) string {
	text := strings.Join(strings.Fields(s.replacer.Replace(err.Error())), " ")
	const limit = 300
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}
