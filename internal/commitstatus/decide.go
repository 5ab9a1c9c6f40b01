// Package commitstatus decides which commit statuses a forge should have: a pure
// function of a Fleet, its overlays and what the forge has acknowledged. There is no
// queue to lose; after a restart, or an hour without a forge, the same decision is
// made again from the same objects.
package commitstatus

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"capstan.dev/capstan/api/v1alpha1"
)

// State is what a commit status says first. The values are those of the forges.
type State string

// The states.
const (
	// Pending: not there yet.
	Pending State = "pending"
	// Success: all that the commit asks for is there.
	Success State = "success"
	// Failure: something is wrong with the commit, or a later one has overtaken it.
	Failure State = "failure"
	// Error: something is wrong with the agent or its surroundings.
	Error State = "error"
)

const (
	// maxCommits are followed at a time, which is what a Fleet's status holds.
	maxCommits = 20
	// maxStatuses of one commit are recorded, which is what a Fleet's status holds.
	maxStatuses = 101
	// maxPosts of one context, on the average of a commit, may change nothing but the
	// text: GitHub keeps 1,000 statuses for a commit and context.
	maxPosts = 50
	// textPause is the least time between two posts that differ in their text only.
	textPause = 30 * time.Second
	// maxDoublings of textPause are made, to 16 minutes.
	maxDoublings = 5
)

// Input is all that the decision depends on.
type Input struct {
	// Fleet with the status that says what the forge has.
	Fleet *v1alpha1.Fleet
	// Host is the forge and repository to be told. What is on record of another one
	// doesn't count.
	Host string
	// Overlays of the Fleet, as recorded last.
	Overlays []v1alpha1.ClusterOverlay
	// Tip is the commit of the tracked ref that was observed last; "" if Git has not
	// been read since the start, and nothing is decided then.
	Tip string
	// Total is the number of overlays at the tip.
	Total int
	// Settled says that every overlay was rendered at the tip. Before, it isn't known
	// which ones it touches.
	Settled bool
	// Desired has, by name of the overlay, the commit that its render found to be its
	// newest change. It is ahead of what Overlays say, which is used for the others.
	Desired map[string]string
	// Problem says why the tip can't be looked at, "" if it can.
	Problem string
	Now     time.Time
	// URL returns the page of an overlay by its name, or that of the Fleet for ""; ""
	// if there is none.
	URL func(overlay string) string
}

// Post is one commit status to be posted.
type Post struct {
	Commit, Context string
	// Overlay is the name of the ClusterOverlay; empty for the Fleet's status.
	Overlay          string
	State            State
	Description, URL string
}

// digest stands for what is not State.
func (p Post) digest() string {
	sum := sha256.Sum256([]byte(p.Description + "\n" + p.URL))
	return hex.EncodeToString(sum[:8])
}

// Decision is what is to be posted now.
type Decision struct {
	// Posts in the order in which they should go out.
	Posts []Post
	// After is when to decide again although nothing has changed; 0 for never.
	After time.Duration

	record v1alpha1.ForgeStatus
	// closed are commits whose statuses say the last word once Posts are out.
	closed map[string]bool
}

// Decide compares what the forge should have with what it has.
func Decide(in Input) Decision {
	d := Decision{closed: map[string]bool{}}
	if had := in.Fleet.Status.Forge; had != nil && (had.Host == in.Host || had.Host == "") {
		d.record = *had.DeepCopy()
	}
	if in.Tip == "" {
		return d
	}
	d.follow(in.Tip)
	for i := range d.record.Commits {
		c := &commit{Input: in, entry: &d.record.Commits[i], tip: i == 0, tooMany: i >= maxCommits}
		c.decide()
		if c.final {
			d.closed[c.entry.Commit] = true
		}
		for _, p := range c.posts {
			d.want(p, c.entry)
		}
	}
	d.hold(in.Now)
	return d
}

// follow makes the tip the first of the commits that are followed.
func (d *Decision) follow(tip string) {
	d.record.Tip = tip
	entry := v1alpha1.ReportedCommit{Commit: tip}
	if i := slices.IndexFunc(d.record.Commits, func(c v1alpha1.ReportedCommit) bool { return c.Commit == tip }); i >= 0 {
		entry = d.record.Commits[i]
		d.record.Commits = slices.Delete(d.record.Commits, i, i+1)
	}
	d.record.Commits = slices.Insert(d.record.Commits, 0, entry)
	// While the forge is away, those that it has heard of come first.
	for i := len(d.record.Commits) - 1; i > 0 && len(d.record.Commits) > maxCommits; i-- {
		if unheard(d.record.Commits[i]) {
			d.record.Commits = slices.Delete(d.record.Commits, i, i+1)
		}
	}
}

// unheard reports whether the forge has acknowledged nothing of a commit.
func unheard(c v1alpha1.ReportedCommit) bool {
	return !slices.ContainsFunc(c.Statuses, func(s v1alpha1.ReportedStatus) bool { return !s.Time.IsZero() })
}

// want adds a post unless the forge has it.
func (d *Decision) want(p Post, entry *v1alpha1.ReportedCommit) {
	switch had := statusOf(entry, p.Context); {
	case had == nil && len(entry.Statuses)+d.fresh(entry) >= maxStatuses:
		return // a record that is too long would be refused, and again each time
	case had != nil && had.State == string(p.State) && (had.Digest == p.digest() || told(entry) >= maxPosts):
		return
	}
	d.Posts = append(d.Posts, p)
}

// fresh is how many contexts are about to be posted for the first time.
func (d *Decision) fresh(entry *v1alpha1.ReportedCommit) int {
	n := 0
	for _, p := range d.Posts {
		if p.Commit == entry.Commit && statusOf(entry, p.Context) == nil {
			n++
		}
	}
	return n
}

// hold takes out the posts that come too soon after the last one of their context: those
// that say nothing new but in their text, and those that take a failure back before it is
// over. A machine that fails, is replaced and fails again would be told of each time.
func (d *Decision) hold(now time.Time) {
	d.Posts = slices.DeleteFunc(d.Posts, func(p Post) bool {
		entry := d.entry(p.Commit)
		had := statusOf(entry, p.Context)
		takesBack := func() bool {
			return p.State == Pending && (had.State == string(Failure) || had.State == string(Error))
		}
		if had == nil || had.State != string(p.State) && !takesBack() {
			return false
		}
		wait := pauseOf(entry, p) - now.Sub(had.Time.Time)
		if wait <= 0 {
			return false
		}
		if d.After == 0 || wait < d.After {
			d.After = wait
		}
		return true
	})
}

// pauseOf is the least time between two texts of a context. Machines are on their way for
// minutes or hours, and forges count requests: whatever the number of overlays, a commit
// gets ten texts a minute at most, and ever fewer. Where all is said in one status the
// pause doubles each time: a commit that touches a thousand overlays is told of a few
// times, however long it takes.
func pauseOf(entry *v1alpha1.ReportedCommit, p Post) time.Duration {
	if len(entry.Statuses) <= 1 {
		return textPause << min(max(entry.Posts-1, 0), maxDoublings)
	}
	const freely, atOnce = 4, 4 // texts of a context, and contexts
	pause := textPause << min(told(entry)/freely, maxDoublings)
	if p.Overlay != "" {
		pause *= time.Duration((len(entry.Statuses) + atOnce - 1) / atOnce)
	}
	return pause
}

// told is how often each context of a commit was posted, on average.
func told(entry *v1alpha1.ReportedCommit) int { return int(entry.Posts) / max(len(entry.Statuses), 1) }

func (d *Decision) entry(hash string) *v1alpha1.ReportedCommit {
	i := slices.IndexFunc(d.record.Commits, func(c v1alpha1.ReportedCommit) bool { return c.Commit == hash })
	return &d.record.Commits[i]
}

func statusOf(entry *v1alpha1.ReportedCommit, context string) *v1alpha1.ReportedStatus {
	i := slices.IndexFunc(entry.Statuses, func(s v1alpha1.ReportedStatus) bool { return s.Context == context })
	if i < 0 {
		return nil
	}
	return &entry.Statuses[i]
}

// Intend notes which statuses are about to get a state that they don't have, and
// reports whether there are any. That is to be recorded before they are posted: who is
// killed in between must not take the forge to show what is on record, and must know,
// when a later commit has come meanwhile, what there is to close. The digest says what
// was meant.
func (d *Decision) Intend() bool {
	news := false
	for _, p := range d.Posts {
		entry := d.entry(p.Commit)
		switch had := statusOf(entry, p.Context); {
		case had == nil:
			entry.Statuses = append(entry.Statuses, v1alpha1.ReportedStatus{Context: p.Context, Overlay: p.Overlay, Digest: p.digest()})
			news = true
		case had.State == "" && had.Digest != p.digest(), had.State != "" && had.State != string(p.State):
			had.State, had.Digest = "", p.digest()
			news = true
		}
	}
	return news
}

// Acknowledge notes that the forge has a post.
func (d *Decision) Acknowledge(p Post, now time.Time) {
	entry := d.entry(p.Commit)
	entry.Posts++
	status := v1alpha1.ReportedStatus{
		Context: p.Context, Overlay: p.Overlay, State: string(p.State), Digest: p.digest(),
		Time: metav1.Time{Time: now}.Rfc3339Copy(),
	}
	if had := statusOf(entry, p.Context); had != nil {
		*had = status
	} else {
		entry.Statuses = append(entry.Statuses, status)
	}
	d.Posts = slices.DeleteFunc(d.Posts, func(o Post) bool { return o.Commit == p.Commit && o.Context == p.Context })
}

// Abandon stops following a commit that the forge doesn't have any more. The tip is
// never given up.
func (d *Decision) Abandon(hash string) {
	if hash == d.record.Tip {
		return
	}
	d.record.Commits = slices.DeleteFunc(d.record.Commits, func(c v1alpha1.ReportedCommit) bool { return c.Commit == hash })
	d.Posts = slices.DeleteFunc(d.Posts, func(p Post) bool { return p.Commit == hash })
}

// Record is what is to be kept of commits: what the forge has, without the commits
// of which everything is said.
func (d *Decision) Record() (tip string, commits []v1alpha1.ReportedCommit) {
	open := map[string]bool{}
	for _, p := range d.Posts {
		open[p.Commit] = true
	}
	for _, c := range d.record.Commits {
		if c.Commit == d.record.Tip || open[c.Commit] || !d.closed[c.Commit] && len(c.Statuses) > 0 {
			commits = append(commits, *c.DeepCopy())
		}
	}
	return d.record.Tip, commits[:min(len(commits), maxCommits)]
}

// desired is the commit that changed an overlay last.
func (in Input) desired(o *v1alpha1.ClusterOverlay) string {
	return cmp.Or(in.Desired[o.Name], Hash(o.Status.DesiredRevision))
}

// Hash is the commit of a revision such as main@sha1:<40 hex>.
func Hash(revision string) string { return revision[strings.LastIndexByte(revision, ':')+1:] }

// Contexts are the names of a Fleet's statuses.
func Contexts(fleet *v1alpha1.Fleet) (aggregate, plan string) {
	prefix := "capstan"
	if fleet.Spec.Forge != nil {
		prefix = cmp.Or(fleet.Spec.Forge.ContextPrefix, prefix)
	}
	aggregate = prefix + "/" + fleet.Name
	return aggregate, aggregate + "/plan"
}

// maxContext is how long a context is at most; forges index them.
const maxContext = 255

// contextOf is the name of an overlay's status: its directory, which people know,
// unless that is too long or would be taken for the plan's.
func contextOf(fleet *v1alpha1.Fleet, o *v1alpha1.ClusterOverlay) string {
	aggregate, plan := Contexts(fleet)
	if context := aggregate + "/" + o.Spec.Path; context != plan && len(context) <= maxContext {
		return context
	}
	return aggregate + "/" + o.Name
}

func maxContexts(fleet *v1alpha1.Fleet) int {
	const unset = 10
	if fleet.Spec.Forge == nil {
		return unset
	}
	return int(ptr.Deref(fleet.Spec.Forge.MaxContexts, unset))
}
