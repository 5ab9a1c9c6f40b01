package agent

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// doubtFor is how long what has converged counts as such although controllers say otherwise,
// as long as they do so of no machine. Some have no patience: one that can't reach a workload
// cluster for a second says that nothing of its control plane is ready (the provider of
// Talos, v0.5). Of Machines that is said only after minutes.
const doubtFor = 30 * time.Second

// doubtful tells whether a report says that something isn't as declared although every
// machine is.
func doubtful(r capi.Report) bool {
	if r.Phase != v1alpha1.PhaseProgressing || r.Partial {
		return false
	}
	for _, c := range []v1alpha1.MachineCounts{r.ControlPlane, r.Workers} {
		if c.Done != c.Desired || c.Existing != c.Desired {
			return false
		}
	}
	return true
}

// doubts remembers since when there are doubts about overlays. A restart forgets it.
type doubts struct {
	mu    sync.Mutex
	since map[types.NamespacedName]time.Time
}

// left is how much longer a doubt about an overlay doesn't count; 0 if there is none, or if
// it does.
func (d *doubts) left(name types.NamespacedName, doubtful bool, now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !doubtful {
		delete(d.since, name)
		return 0
	}
	if _, known := d.since[name]; !known {
		d.since[name] = now
	}
	return max(0, d.since[name].Add(doubtFor).Sub(now))
}
