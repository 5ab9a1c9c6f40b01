package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
)

// dying lets a number of writes through; then the connection to the API server is
// dead, as for a process that was killed. With answered the last of them is carried
// out and its answer is lost. What is let through is carried out before the agent has
// stopped: it would else be given up, and may come after the next agent has looked.
type dying struct {
	mu       sync.Mutex
	left     int
	answered bool
	dead     bool
}

var errKilled = errors.New("killed")

func (d *dying) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		write := r.Method != http.MethodGet && r.URL.Query().Get("dryRun") == "" && !strings.Contains(r.URL.Path, "/events")
		if write {
			r = r.WithContext(context.WithoutCancel(r.Context()))
		}
		d.mu.Lock()
		if write && !d.dead {
			if d.left--; d.left < 0 {
				d.dead = true
				d.mu.Unlock()
				if d.answered { // the server does it, and nobody hears
					if resp, err := next.RoundTrip(r); err == nil {
						_ = resp.Body.Close()
					}
				}
				return nil, errKilled
			}
		}
		dead := d.dead
		d.mu.Unlock()
		if dead {
			return nil, errKilled
		}
		return next.RoundTrip(r)
	})
}

func (d *dying) isDead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An agent that is killed at any write of a first sync, and finds another commit
// when it is back, leaves no orphan and deletes nothing that is guarded.
func TestKilledWhileApplying(t *testing.T) {
	// The Secret with the key, two ClusterOverlays, their statuses, the objects.
	const writes = 14
	for n := range writes {
		for _, answered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d,%t", n, answered), func(t *testing.T) {
				w := newWorld(t)
				w.secrets = []string{"orphaned-secret"}
				d := &dying{left: n, answered: answered}
				w.wire = d.wrap
				w.commit(merge(simple("z", "one"), overlayOf("clusters/a",
					namespaceOf("-a"), cluster("-a", "a"), machineTemplate("-a", "v1"), configMap("-a", "settings", "one"), secret("-a", "s", "orphaned-secret"))))
				w.fleet()
				r := w.start()
				w.untilDead(d)
				r.stop()
				w.wire = nil
				// Everything but the Namespace leaves Git while the agent is away.
				second := revision(w.commit(overlayOf("clusters/a", namespaceOf("-a"))))
				w.start()
				w.look()
				w.untilApplied(second, "clusters/a")
				unguarded := func() {
					w.untilGone("ConfigMap", "-a/settings")
					w.untilGone("ProxmoxMachineTemplate", "-a/v1")
				}
				if w.live("Cluster", "-a/a") == nil {
					unguarded() // at once; else when the Cluster is gone
				}
				guarded := 0
				for kind, name := range map[string]string{"Cluster": "-a/a", "Secret": "-a/s"} {
					if w.live(kind, name) != nil {
						guarded++
					}
				}
				w.until("clusters/a", "waits for an approval of what is left", func(o *v1alpha1.ClusterOverlay) bool {
					if p := o.Status.PendingDeletion; p != nil {
						return len(p.Objects) == guarded
					}
					return guarded == 0
				})
				w.check()
				if guarded > 0 {
					w.approve("clusters/a")
					w.untilGone("Secret", "-a/s")
					w.untilGone("Cluster", "-a/a")
				}
				unguarded()
				w.until("clusters/a", "owns the Namespace only", func(o *v1alpha1.ClusterOverlay) bool {
					return o.Status.Objects == 1 && o.Status.PendingDeletion == nil
				})
				w.check()
			})
		}
	}
}

// An agent that is killed at any write of a teardown goes on with it, deletes
// nothing twice and nothing else.
func TestKilledWhileDeleting(t *testing.T) {
	const writes = 9
	for n := range writes {
		for _, answered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d,%t", n, answered), func(t *testing.T) {
				w := newWorld(t)
				first := revision(w.commit(merge(simple("z", "one"), overlayOf("clusters/a",
					cluster("", "a"), machineTemplate("", "v1"), configMap("", "settings", "one"), secret("", "s", "s")))))
				d := &dying{left: 1000, answered: answered}
				w.wire = d.wrap
				w.fleet()
				r := w.start()
				w.untilApplied(first, "clusters/a", "clusters/z")
				w.remove("clusters/a")
				w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
				d.set(n)
				w.approve("clusters/a")
				w.eventually("the agent dies or is done", func() string {
					if d.isDead() || w.find("clusters/a") == nil {
						return ""
					}
					return "neither yet"
				})
				r.stop()
				w.wire = nil
				w.start()
				w.eventually("the ClusterOverlay goes", func() string {
					if o := w.find("clusters/a"); o != nil {
						return describe(o)
					}
					return ""
				})
				for kind, name := range map[string]string{"Cluster": "/a", "Secret": "/s", "ConfigMap": "/settings", "ProxmoxMachineTemplate": "/v1"} {
					w.untilGone(kind, name)
				}
				w.wantLive("ConfigMap", "-z/settings")
				w.check()
			})
		}
	}
}

// untilDead waits until the connection is dead.
func (w *world) untilDead(d *dying) {
	w.Helper()
	w.eventually("the agent dies", func() string {
		if d.isDead() {
			return ""
		}
		return "not yet"
	})
}

func (d *dying) set(left int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = left
}
