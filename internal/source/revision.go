package source

import (
	"fmt"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

const hashSeparator = "sha1:"

// Revision is a commit and the name it was found under.
type Revision struct {
	// Ref is the short name of the branch or tag, the full name of any other
	// reference, or "" for a pinned commit.
	Ref string
	// Hash is the commit, 40 hex digits.
	Hash string
}

// String returns the form kept in status: "main@sha1:<hash>", or "sha1:<hash>".
func (r Revision) String() string {
	switch {
	case r.Hash == "":
		return ""
	case r.Ref == "":
		return hashSeparator + r.Hash
	default:
		return r.Ref + "@" + hashSeparator + r.Hash
	}
}

// ParseRevision reads what [Revision.String] writes.
func ParseRevision(s string) (Revision, error) {
	i := strings.LastIndex(s, hashSeparator)
	if i < 0 || (i > 0 && s[i-1] != '@') || i == 1 {
		return Revision{}, fmt.Errorf("revision %q is not of the form name@sha1:<40 hex digits>", s)
	}
	hash := s[i+len(hashSeparator):]
	if !isHash(hash) {
		return Revision{}, fmt.Errorf("revision %q doesn't end in 40 hex digits", s)
	}
	return Revision{Ref: strings.TrimSuffix(s[:i], "@"), Hash: hash}, nil
}

func isHash(s string) bool { return plumbing.IsHash(s) && strings.ToLower(s) == s && len(s) == 40 }
