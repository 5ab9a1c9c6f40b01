package commitstatus_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
)

// model is a fleet whose overlays are changed, applied, broken, converge, degrade and are
// deleted at random, with a forge that fails at random and an agent that is killed between
// a post and its record.
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
	// touched has, by commit, the overlays that it changes, and whether they have got
	// there: with the present values of variables, or by being deleted.
	touched map[string]map[string]bool
	// again are the commits, and those with overlays, that got other values.
	again map[string]bool
	posts int
}

// change has the tip touch an overlay.
func (m *model) change(o *v1alpha1.ClusterOverlay) {
	fresh := overlay(strings.TrimPrefix(o.Name, "prod-"), m.tip)
	fresh.Status.History, fresh.Status.AppliedRevision = o.Status.History, o.Status.AppliedRevision
	fresh.Status.ConvergedRevision = o.Status.ConvergedRevision
	*o = fresh
	m.touched[m.tip][o.Name] = false
}

func (m *model) commit() {
	m.commits++
	m.tip = fmt.Sprintf("%040d", m.commits)
	m.touched[m.tip] = map[string]bool{}
	for i := range m.overlays {
		if m.random.IntN(3) == 0 {
			m.change(&m.overlays[i])
		}
	}
}

// leave is a commit that deletes an overlay, until it is gone.
func (m *model) leave(o *v1alpha1.ClusterOverlay) {
	m.commit()
	m.change(o)
	pendingDeletion(v1alpha1.PathRemovedReason, false)(o)
}

func (m *model) apply(o *v1alpha1.ClusterOverlay) {
	if len(o.Status.History) > 0 && o.Status.History[0].Outcome != v1alpha1.OutcomeConverged {
		o.Status.History[0].Outcome = v1alpha1.OutcomeSuperseded
	}
	o.Status.History = o.Status.History[:min(len(o.Status.History), 9)]
	o.Status.Conditions = nil
	applied(o)
}

// reach has the machines be where what is applied asks them to be, which may not be
// what is desired any more.
func (m *model) reach(o *v1alpha1.ClusterOverlay) {
	o.Status.History[0].Outcome = v1alpha1.OutcomeConverged
	o.Status.ConvergedRevision = o.Status.AppliedRevision
	if o.Status.AppliedRevision == o.Status.DesiredRevision {
		o.Status.Conditions = nil
		phase(metav1.ConditionTrue, v1alpha1.ConvergedReason, "")(o)
	}
	m.touched[commitstatus.Hash(o.Status.AppliedRevision)][o.Name] = true
}

// revalue applies other values of variables at the same commit.
func (m *model) revalue(o *v1alpha1.ClusterOverlay) {
	m.apply(o)
	again(o)
	o.Status.History = slices.Delete(o.Status.History, 1, 2) // what apply has added
	hash := commitstatus.Hash(o.Status.DesiredRevision)
	m.touched[hash][o.Name] = false
	m.again[hash], m.again[hash+" "+o.Name] = true, true
}

// trouble is what a status may say of machines without telling whether they ever got there.
func (m *model) trouble(o *v1alpha1.ClusterOverlay) {
	done := m.random.Int32N(4)
	machines(done, 3, 0, 0)(o)
	reason := []string{v1alpha1.ProgressingReason, v1alpha1.WaitingReason, v1alpha1.StalledReason, v1alpha1.NotWatchedReason}[m.random.IntN(4)]
	if o.Status.ConvergedRevision == o.Status.DesiredRevision {
		reason = v1alpha1.DegradedReason
	}
	o.Status.Conditions = nil
	phase(metav1.ConditionFalse, reason, "trouble")(o)
}

func (m *model) step() {
	m.now = m.now.Add(time.Duration(m.random.IntN(40)) * time.Second)
	o := &m.overlays[m.random.IntN(len(m.overlays))]
	leaving, there := o.Status.PendingDeletion != nil, o.Status.AppliedRevision == o.Status.DesiredRevision
	switch m.random.IntN(11) {
	case 0, 1, 2:
		if !there && !leaving {
			m.apply(o)
		}
	case 3, 4:
		if len(o.Status.History) > 0 {
			m.reach(o)
		}
	case 5:
		if !leaving {
			failed(v1alpha1.InvalidReason, "no")(o)
		}
	case 6:
		m.commit()
	case 7:
		if there {
			m.trouble(o)
		}
	case 8:
		if there && m.random.IntN(4) == 0 {
			m.revalue(o)
		}
	case 9:
		o.Spec.Suspend = m.random.IntN(3) == 0
	case 10:
		if leaving && len(m.overlays) > 1 {
			m.touched[commitstatus.Hash(o.Status.DesiredRevision)][o.Name] = true
			m.overlays = slices.DeleteFunc(m.overlays, func(other v1alpha1.ClusterOverlay) bool { return other.Name == o.Name })
		} else if m.random.IntN(3) == 0 {
			m.leave(o)
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
		m.show(p)
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

// show has a person see a post, and fails for a success that is none or that is taken
// back without a cause.
func (m *model) show(p commitstatus.Post) {
	of := p.Commit + " " + p.Context
	if p.State == commitstatus.Success {
		for name, there := range m.touched[p.Commit] {
			// One that got other values and left before anybody was told stays a success.
			left := m.again[p.Commit+" "+name] && m.shown[p.Commit+" capstan/prod/clusters/"+strings.TrimPrefix(name, "prod-")] == commitstatus.Success
			if !there && !(left && p.Overlay == "") && (p.Overlay == "" || p.Overlay == name) {
				m.Fatalf("success %q for %s of %s, where %s has not converged", p.Description, p.Context, p.Commit, name)
			}
		}
	}
	caused := m.again[strings.TrimSuffix(p.Commit+" "+p.Overlay, " ")]
	if m.shown[of] == commitstatus.Success && p.State != commitstatus.Success && !caused {
		m.Fatalf("%s %q for %s of %s, after a success", p.State, p.Description, p.Context, p.Commit)
	}
	m.shown[of] = p.State
	m.posts++
}

// Whatever happens, no success is a lie or is taken back, and once everything has
// converged and the forge is back no status that a person sees is left open.
func TestHistories(t *testing.T) {
	for seed := range uint64(1000) {
		m := &model{
			T: t, random: rand.New(rand.NewPCG(seed, 1)), now: now, shown: map[string]commitstatus.State{},
			touched: map[string]map[string]bool{strings.Repeat("0", 40): {}}, again: map[string]bool{},
		}
		for i := range 1 + m.random.IntN(6) {
			m.overlays = append(m.overlays, overlay(fmt.Sprint(i), strings.Repeat("0", 40)))
		}
		m.commit()
		for range 60 {
			m.step()
		}
		for i := range m.overlays {
			o := &m.overlays[i]
			o.Spec.Suspend, o.Status.PendingDeletion = false, nil
			if o.Status.AppliedRevision != o.Status.DesiredRevision {
				m.apply(o)
			}
			m.reach(o)
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
			m.show(p)
			d.Acknowledge(p, m.now)
		}
		m.record(&d)
	}
	m.Fatal("it never ends")
}
