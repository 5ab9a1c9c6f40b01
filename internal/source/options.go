package source

import (
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
)

// Ref selects what is tracked. Exactly one field is set.
type Ref struct {
	// Branch is a branch's short name.
	Branch string
	// Tag is a tag's short name. An annotated tag stands for its commit.
	Tag string
	// SemVer is a range; the tag with the highest version in it is tracked. Tags
	// may begin with "v". Pre-releases count only if the range names one.
	SemVer string
	// Commit is a full hash. It is looked for on all branches if the server
	// doesn't hand it out by hash.
	Commit string
	// Name is the full name of any reference, such as refs/pull/7/head.
	Name string
}

// kind returns the name and value of the field that is set.
func (r Ref) kind() (name, value string, err error) {
	n := 0
	for _, f := range []struct{ name, value string }{
		{"branch", r.Branch}, {"tag", r.Tag}, {"semver", r.SemVer}, {"commit", r.Commit}, {"name", r.Name},
	} {
		if f.value != "" {
			name, value = f.name, f.value
			n++
		}
	}
	if n != 1 {
		return "", "", errorf(BadConfiguration, "exactly one of branch, tag, semver, commit and name must be set, not %d", n)
	}
	return name, value, nil
}

func (r Ref) validate() error {
	kind, value, err := r.kind()
	if err != nil {
		return err
	}
	full := value
	switch kind {
	case "semver":
		if _, err := semver.NewConstraint(value); err != nil {
			return errorf(BadConfiguration, "semver range %q: %v", value, err)
		}
		return nil
	case "commit":
		if !isHash(value) {
			return errorf(BadConfiguration, "commit %q must be a full hash of 40 lower-case hex digits", value)
		}
		return nil
	case "branch":
		full = "refs/heads/" + value
	case "tag":
		full = "refs/tags/" + value
	case "name":
		if value == "HEAD" {
			return nil
		}
		if len(value) <= len("refs/") || value[:len("refs/")] != "refs/" {
			return errorf(BadConfiguration, "reference name %q must be HEAD or begin with refs/", value)
		}
	}
	if err := plumbing.ReferenceName(full).Validate(); err != nil {
		return errorf(BadConfiguration, "%s %q is not a valid reference name", kind, value)
	}
	return nil
}

// Limits bound what a repository may cost. Zero fields get the default.
type Limits struct {
	// BlobBytes is the largest file that is read. Default 32 MiB.
	BlobBytes int64
	// PackBytes is the most that one fetch may transfer. Default 2 GiB.
	PackBytes int64
	// Entries is the most files and directories that a tree may have. Default 1,000,000.
	Entries int
	// CacheBytes is the memory for file contents that are kept. Default 64 MiB.
	CacheBytes int64
	// Packs is how many packs may pile up before the mirror is rebuilt. Default 50.
	Packs int
	// ProposalBytes is the largest pack that is taken for a pull request, and the
	// largest object in it. Unpacked it may have sixteen times that. Default 64 MiB.
	ProposalBytes int64
	// ProposalPaths is the most files and directories that a pull request may
	// change. Default 10,000.
	ProposalPaths int
}

const (
	mib = 1 << 20
	// maxDepth bounds how deep directories nest, against trees made to exhaust the stack.
	maxDepth = 256
	// maxAdvertisement bounds the list of references, in bytes. Repositories with
	// a hundred thousand of them need about 8 MiB.
	maxAdvertisement = 256 * mib
	// maxUnpacked is how many times its limit a pull request's pack may have
	// unpacked, against packs made to exhaust the memory and time of who reads them.
	maxUnpacked = 16
	// maxProposalObjects bounds the objects in a pull request's pack, for the same
	// reason.
	maxProposalObjects = 250_000
	// maxAncestors bounds the search for the commit where a pull request left the
	// target's history.
	maxAncestors = 200_000
	// maxMergeBases bounds how many merge bases are compared.
	maxMergeBases = 10
)

func (l *Limits) setDefaults() {
	l.BlobBytes = orDefault(l.BlobBytes, 32*mib)
	l.PackBytes = orDefault(l.PackBytes, 2048*mib)
	l.Entries = orDefault(l.Entries, 1_000_000)
	l.CacheBytes = orDefault(l.CacheBytes, 64*mib)
	l.Packs = orDefault(l.Packs, 50)
	l.ProposalBytes = orDefault(l.ProposalBytes, 64*mib)
	l.ProposalPaths = orDefault(l.ProposalPaths, 10_000)
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Options configures a [Mirror].
type Options struct {
	// Dir is the folder that holds mirrors, one subfolder for each URL and Ref.
	// It is only a cache. Two Mirrors of the same URL and Ref need different
	// folders. Not needed for a local repository.
	Dir string
	// URL is https://, http://, ssh://, git@host:path, or, with AllowLocal,
	// file:///path or /path. It must not hold a password.
	URL string
	// Ref is what is tracked.
	Ref Ref
	// Auth holds the credentials; zero for none.
	Auth Auth
	// AllowLocal permits to read repositories of the local file system. They are
	// opened in place, without a mirror.
	AllowLocal bool
	// Timeout is how long a server may stay silent. A whole remote operation may
	// take ten times that. Default 60 s.
	Timeout time.Duration
	// Limits bound what the repository may cost.
	Limits Limits
	// Clock dates [Stats.LastSync]. Default: the real one.
	Clock clock.PassiveClock
	// Log gets clones, rebuilds and the like. Default: none.
	Log logr.Logger
}

// hardTimeoutFactor makes the limit of a whole remote operation from the limit of
// silence, so that a large clone may take long but a trickle doesn't go on for ever.
const hardTimeoutFactor = 10

func (o *Options) setDefaults() {
	o.Timeout = orDefault(o.Timeout, 60*time.Second)
	o.Limits.setDefaults()
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Log.GetSink() == nil {
		o.Log = logr.Discard()
	}
}
