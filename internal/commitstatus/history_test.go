package commitstatus_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
)

// model is a fleet whose overlays are changed, applied, broken and deleted at random,
// with a forge that fails at random and an agent that is killed between a post and its
// record.
type model struct {
	*testing.T
	random   *rand.Rand
	now      time.Time
	tip      string
	commits  int
	overlays []v1alpha1.ClusterOverlay
	recorded *v1alpha1.ForgeStatus
	// shown is what a person sees at the forge, by commit and context.
	shown map[string]commitstatus.State
	// unlucky are overlays that a commit wanted and that another changed before they
	// were applied, by commit.
	unlucky map[string]int
	posts   int
}

func (m *model) commit() {
	m.commits++
	m.tip = fmt.Sprintf("%040d", m.commits)
	for i := range m.overlays {
		if o := &m.overlays[i]; m.random.IntN(3) == 0 {
			if o.Status.AppliedRevision != o.Status.DesiredRevision {
				m.unlucky[commitstatus.Hash(o.Status.DesiredRevision)]++
			}
			name := strings.TrimPrefix(o.Name, "prod-")
			history := o.Status.History
			*o = overlay(name, m.tip)
			o.Status.History = history
		}
	}
}

func (m *model) step() {
	m.now = m.now.Add(time.Duration(m.random.IntN(40)) * time.Second)
	if len(m.overlays) > 0 {
		o := &m.overlays[m.random.IntN(len(m.overlays))]
		switch m.random.IntN(6) {
		case 0, 1:
			if o.Status.AppliedRevision != o.Status.DesiredRevision {
				applied(o)
				o.Status.History = o.Status.History[max(0, len(o.Status.History)-10):]
			}
		case 2:
			if o.Status.AppliedRevision != o.Status.DesiredRevision {
				failed(v1alpha1.InvalidReason, "no")(o)
			}
		case 3:
			m.commit()
		}
	}
	m.report(m.random.IntN(3) > 0)
}

// report is what the agent does. Not settled is a tip whose renders are under way.
func (m *model) report(settled bool) {
	d := commitstatus.Decide(commitstatus.Input{
		Fleet: fleet(m.recorded), Overlays: m.overlays, Tip: m.tip, Total: len(m.overlays), Settled: settled, Now: m.now,
	})
	if m.random.IntN(20) == 0 {
		return // killed before anything was recorded
	}
	if d.Intend() {
		m.record(&d)
	}
	killed := m.random.IntN(8) == 0
	for _, p := range append([]commitstatus.Post(nil), d.Posts...) {
		if m.random.IntN(6) == 0 {
			break // the forge is away
		}
		m.posts++
		m.honest(p, settled)
		m.shown[p.Commit+" "+p.Context] = p.State
		d.Acknowledge(p, m.now)
	}
	if !killed {
		m.record(&d)
	}
}

func (m *model) record(d *commitstatus.Decision) {
	tip, commits := d.Record()
	m.recorded = &v1alpha1.ForgeStatus{Tip: tip, Commits: commits}
}

// honest fails for a success that is none.
func (m *model) honest(p commitstatus.Post, settled bool) {
	if p.State != commitstatus.Success {
		return
	}
	for _, o := range m.overlays {
		if commitstatus.Hash(o.Status.DesiredRevision) == p.Commit && o.Status.AppliedRevision != o.Status.DesiredRevision && (p.Overlay == "" || p.Overlay == o.Name) {
			m.Fatalf("success %q for %s, and %s is not applied (settled: %v)", p.Description, p.Context, o.Name, settled)
		}
	}
	if p.Overlay == "" && m.unlucky[p.Commit] > 0 {
		m.Fatalf("success %q for commit %s, of which %d overlays were overtaken", p.Description, p.Commit, m.unlucky[p.Commit])
	}
}

// Whatever happens, no success is a lie, and once everything is applied and the forge
// is back no status that a person sees is left open.
func TestHistories(t *testing.T) {
	for seed := range uint64(400) {
		m := &model{T: t, random: rand.New(rand.NewPCG(seed, 1)), now: now, shown: map[string]commitstatus.State{}, unlucky: map[string]int{}}
		for i := range 1 + m.random.IntN(6) {
			m.overlays = append(m.overlays, overlay(fmt.Sprint(i), strings.Repeat("0", 40)))
		}
		m.commit()
		for range 60 {
			m.step()
		}
		for i := range m.overlays {
			if o := &m.overlays[i]; o.Status.AppliedRevision != o.Status.DesiredRevision {
				applied(o)
			}
		}
		m.settle()
		for what, state := range m.shown {
			if state == commitstatus.Pending || strings.HasPrefix(what, m.tip) && state != commitstatus.Success {
				t.Fatalf("seed %d: %s is left %s", seed, what, state)
			}
		}
		before := m.posts
		m.now = m.now.Add(time.Hour)
		m.report(true)
		if m.posts != before {
			t.Fatalf("seed %d: %d posts with nothing new", seed, m.posts-before)
		}
	}
}

// settle has everything told.
func (m *model) settle() {
	for range 100 {
		m.now = m.now.Add(time.Minute)
		d := commitstatus.Decide(commitstatus.Input{Fleet: fleet(m.recorded), Overlays: m.overlays, Tip: m.tip, Total: len(m.overlays), Settled: true, Now: m.now})
		if len(d.Posts) == 0 && d.After == 0 {
			m.record(&d)
			return
		}
		for _, p := range append([]commitstatus.Post(nil), d.Posts...) {
			m.honest(p, true)
			m.shown[p.Commit+" "+p.Context] = p.State
			d.Acknowledge(p, m.now)
		}
		m.record(&d)
	}
	m.Fatal("it never ends")
}
