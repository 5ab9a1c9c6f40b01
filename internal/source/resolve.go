package source

import (
	"sort"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/go-git/go-git/v5/plumbing"
)

// advertised is what a repository says it has.
type advertised struct {
	refs   map[string]plumbing.Hash // full name → object
	peeled map[string]plumbing.Hash // full name of an annotated tag → commit
	head   plumbing.Hash            // zero if HEAD names no commit
}

// target is what a Ref stands for at present.
type target struct {
	ref    string        // Revision.Ref
	want   plumbing.Hash // the object to ask the server for: a commit or a tag
	commit plumbing.Hash // the commit it stands for, as far as the server says
	// listed is false for a pinned commit that no reference points at, which a
	// server may refuse to hand out.
	listed bool
}

func (t target) revision() Revision { return Revision{Ref: t.ref, Hash: t.commit.String()} }

// resolve finds what ref stands for. It is a pure function.
func resolve(ref Ref, adv advertised) (target, error) {
	kind, value, err := ref.kind()
	if err != nil {
		return target{}, err
	}
	switch kind {
	case "branch":
		return adv.named("refs/heads/"+value, value, "branch "+value)
	case "tag":
		return adv.named("refs/tags/"+value, value, "tag "+value)
	case "semver":
		return adv.highest(value)
	case "commit":
		h := plumbing.NewHash(value)
		t := target{want: h, commit: h}
		for _, have := range adv.refs {
			t.listed = t.listed || have == h
		}
		return t, nil
	default:
		if value == "HEAD" {
			if adv.head.IsZero() {
				return target{}, errorf(RefNotFound, "HEAD names no commit")
			}
			return target{ref: value, want: adv.head, commit: adv.head, listed: true}, nil
		}
		return adv.named(value, value, "reference "+value)
	}
}

func (a advertised) named(full, short, what string) (target, error) {
	h, ok := a.refs[full]
	if !ok {
		return target{}, errorf(RefNotFound, "%s not found%s", what, a.suggestion(full))
	}
	t := target{ref: short, want: h, commit: h, listed: true}
	if c, ok := a.peeled[full]; ok {
		t.commit = c
	}
	return t, nil
}

// suggestion names what there is instead.
func (a advertised) suggestion(full string) string {
	i := strings.LastIndex(full, "/")
	for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
		if strings.HasPrefix(full, prefix) {
			i = len(prefix) - 1
		}
	}
	var names []string
	for name := range a.refs {
		if short, ok := strings.CutPrefix(name, full[:i+1]); ok {
			names = append(names, short)
		}
	}
	if len(names) == 0 {
		return "; the repository has none of this kind"
	}
	sort.Strings(names)
	const shown = 5
	more := ""
	if len(names) > shown {
		names, more = names[:shown], ", …"
	}
	return "; there are: " + strings.Join(names, ", ") + more
}

func (a advertised) highest(rng string) (target, error) {
	c, err := semver.NewConstraint(rng)
	if err != nil {
		return target{}, errorf(BadConfiguration, "semver range %q: %v", rng, err)
	}
	var best *semver.Version
	tag := ""
	for full := range a.refs {
		short, ok := strings.CutPrefix(full, "refs/tags/")
		if !ok {
			continue
		}
		v, err := semver.NewVersion(short)
		if err != nil || !c.Check(v) {
			continue
		}
		// Versions that differ only in spelling or build metadata are equal by the
		// rules; the name decides then, so that the choice doesn't flap.
		if best == nil || v.GreaterThan(best) || (v.Equal(best) && short > tag) {
			best, tag = v, short
		}
	}
	if best == nil {
		return target{}, errorf(RefNotFound, "no tag is a version in the range %q", rng)
	}
	return a.named("refs/tags/"+tag, tag, "tag "+tag)
}
