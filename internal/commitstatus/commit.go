package commitstatus

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/utils/ptr"

	"capstan.dev/capstan/api/v1alpha1"
)

// commit is one commit that is followed.
type commit struct {
	Input
	entry   *v1alpha1.ReportedCommit
	tip     bool
	tooMany bool

	touched []*v1alpha1.ClusterOverlay // those whose newest change it is, by path
	posts   []Post
	final   bool
}

// decide finds the statuses that the commit should have.
func (c *commit) decide() {
	for i := range c.Overlays {
		if o := &c.Overlays[i]; c.desired(o) == c.entry.Commit {
			c.touched = append(c.touched, o)
		}
	}
	slices.SortFunc(c.touched, func(a, b *v1alpha1.ClusterOverlay) int { return strings.Compare(a.Spec.Path, b.Spec.Path) })
	switch {
	case c.tooMany:
		c.giveUp()
	case c.tip && !c.Settled && c.entry.Overlays == nil:
		c.look()
	default:
		c.follow()
	}
}

// giveUp closes what is open of a commit when too many are.
func (c *commit) giveUp() {
	for _, s := range c.entry.Statuses {
		if s.State == string(Pending) || s.State == "" {
			c.post(s.Context, s.Overlay, Error, fmt.Sprintf("not followed any more: %d newer commits are not done either", maxCommits))
		}
	}
	c.final = true
}

// look is for a tip of which it isn't known yet what it touches.
func (c *commit) look() {
	aggregate, _ := Contexts(c.Fleet)
	if c.Problem != "" {
		c.post(aggregate, "", Error, c.Problem)
		return
	}
	c.post(aggregate, "", Pending, "looking at "+overlays(c.Total))
}

// follow is for a commit whose overlays are known, or that is overtaken.
func (c *commit) follow() {
	if c.tip && c.Settled {
		n := max(len(c.touched), int(ptr.Deref(c.entry.Overlays, 0)))
		c.entry.Overlays = ptr.To(int32(n)) //nolint:gosec // overlays fit in memory
	}
	t := c.count()
	aggregate, _ := Contexts(c.Fleet)
	if t.unknown > 0 && len(t.failed) == 0 && len(t.waiting) == 0 {
		c.overlays()
		return // what the forge has stands until it is known
	}
	state, text := t.sum(c)
	c.final = !c.tip && len(t.failed) == 0 && len(t.waiting) == 0
	if state == Pending {
		c.post(aggregate, "", state, text)
		c.overlays()
		return
	}
	c.overlays()
	c.post(aggregate, "", state, text) // last: it says that all the others are said
}

// overlays adds the statuses of single overlays.
func (c *commit) overlays() {
	few := c.entry.Overlays != nil && int(*c.entry.Overlays) <= maxContexts(c.Fleet)
	for _, o := range c.touched {
		context := contextOf(c.Fleet, o)
		if few || statusOf(c.entry, context) != nil {
			state, text := c.stateOf(o)
			c.post(context, o.Name, state, text)
		}
	}
	for _, s := range c.entry.Statuses {
		if s.Overlay != "" && s.State != string(Success) && !slices.ContainsFunc(c.touched, func(o *v1alpha1.ClusterOverlay) bool { return o.Name == s.Overlay }) {
			if state, text := c.overtaken(s); state != "" {
				c.post(s.Context, s.Overlay, state, text)
			}
		}
	}
}

// Texts that are known again when they are on record. They must differ from all others.
const (
	converged = "converged"
	gone      = "gone: deleted with approval, or let go"
	deleting  = "deleting all of it, as approved"
)

func deletionWaits(overlay string) string {
	return "the deletion of all of it waits: capstan approve " + overlay
}

// overtaken is the last word on an overlay that the commit touched, by the status it
// has, and that another has changed since or that is gone; "" if that isn't known yet.
func (c *commit) overtaken(had v1alpha1.ReportedStatus) (State, string) {
	i := slices.IndexFunc(c.Overlays, func(o v1alpha1.ClusterOverlay) bool { return o.Name == had.Overlay })
	switch {
	case i < 0 && !c.Settled:
		return "", "" // a person may have deleted it, and it is about to be made again
	case i < 0 && c.has(had, Success, converged): // the agent was stopped when it was about to say so
		return Success, converged
	case i < 0 && (c.tip || c.has(had, Success, gone) || c.has(had, Pending, deletionWaits(had.Overlay)) || c.has(had, Pending, deleting)):
		return Success, gone
	case i < 0:
		// Nothing says that it was this commit that asked for its end.
		return Failure, "superseded by a later commit before it had converged"
	case convergedAt(&c.Overlays[i], c.entry.Commit):
		return Success, converged
	default:
		return Failure, "superseded by " + short(c.desired(&c.Overlays[i])) + " before it had converged"
	}
}

// has reports whether a status has, or was about to get, a state with this text.
func (c *commit) has(had v1alpha1.ReportedStatus, state State, text string) bool {
	return (had.State == "" || had.State == string(state)) && had.Digest == c.made(had.Context, had.Overlay, state, text).digest()
}

// convergedAt reports whether an overlay had converged at a commit. If the commit was
// applied more than once, with other values of variables, the last time counts.
func convergedAt(o *v1alpha1.ClusterOverlay, hash string) bool {
	i := slices.IndexFunc(o.Status.History, func(h v1alpha1.HistoryEntry) bool { return Hash(h.Revision) == hash })
	return i >= 0 && o.Status.History[i].Outcome == v1alpha1.OutcomeConverged
}

func (c *commit) post(context, overlay string, state State, text string) {
	c.posts = append(c.posts, c.made(context, overlay, state, text))
}

func (c *commit) made(context, overlay string, state State, text string) Post {
	p := Post{Commit: c.entry.Commit, Context: context, Overlay: overlay, State: state, Description: cut(text, maxDescription)}
	if c.URL != nil {
		p.URL = c.URL(overlay)
	}
	return p
}

// tally counts the overlays of a commit by what has become of them.
type tally struct {
	failed, waiting, done []*v1alpha1.ClusterOverlay
	// superseded is the number that later commits changed before they had converged.
	superseded int
	// unknown is the number of which it will be known once the tip has settled what has
	// become of them.
	unknown int
	// total is the number that the commit touched.
	total int
}

func (c *commit) count() tally {
	var t tally
	for _, o := range c.touched {
		switch state, _ := c.stateOf(o); state {
		case Success:
			t.done = append(t.done, o)
		case Pending:
			t.waiting = append(t.waiting, o)
		default:
			t.failed = append(t.failed, o)
		}
	}
	if c.entry.Overlays == nil { // overtaken before it was known what it touches
		t.total, t.superseded = len(c.touched)+1, 1
		return t
	}
	t.total = max(int(*c.entry.Overlays), len(c.touched))
	if c.tip {
		// Nothing overtakes the tip: who is missing is gone. But a newer commit may be
		// looked at already, before it is known as the tip.
		if !c.Settled {
			t.unknown = t.total - len(c.touched)
		}
		return t
	}
	single := false
	for _, s := range c.entry.Statuses {
		if s.Overlay == "" || slices.ContainsFunc(c.touched, func(o *v1alpha1.ClusterOverlay) bool { return o.Name == s.Overlay }) {
			continue
		}
		single = true
		switch state, _ := c.overtaken(s); {
		case s.State == string(Success):
		case state == "":
			t.unknown++
		case state == Failure:
			t.superseded++
		}
	}
	if single {
		return t
	}
	// Overlays have no statuses of their own. Who is missing and had not converged is
	// taken for overtaken: too dark is better than a success that is none.
	t.superseded = t.total - len(c.touched)
	for i := range c.Overlays {
		if o := &c.Overlays[i]; t.superseded > 0 && c.desired(o) != c.entry.Commit && convergedAt(o, c.entry.Commit) {
			t.superseded--
		}
	}
	return t
}
