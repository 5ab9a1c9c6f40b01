// Package chaos holds the faults that a person or a test has asked for. Everything that
// simulates asks it; nobody else decides to fail.
package chaos

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Knobs are the faults asked for. The zero value is a quiet day.
type Knobs struct {
	// NeverBoots makes virtual machines start and never get anywhere.
	NeverBoots Picks `json:"neverBoots,omitempty"`
	// NodeUnhealthy makes kubelets report Ready=False.
	NodeUnhealthy Picks `json:"nodeUnhealthy,omitempty"`
	// APIDelay is added to every answer of the management cluster's API server.
	APIDelay time.Duration `json:"apiDelay,omitempty"`
	// WebhookDown stops the admission and conversion webhooks of Cluster API and its providers.
	WebhookDown bool `json:"webhookDown,omitempty"`
}

// Picks chooses machines by name.
type Picks []Pick

// Pick chooses the first Count machines whose "<namespace>/<name>" matches Pattern.
type Pick struct {
	// Pattern is a shell pattern as in path.Match, over the namespace and the name of the Machine.
	Pattern string `json:"pattern"`
	// Count is how many machines fall to it, in the order in which they are asked about; 0 is all.
	// A machine that was chosen stays chosen, its replacement is another machine.
	Count int `json:"count"`
}

// Parse adds one setting in the form of the command line to k:
//
//	never-boots=<namespace>/<machine>[:<count>|:all]     default count 1
//	node-unhealthy=<namespace>/<machine>[:<count>|:all]
//	api-delay=<duration>
//	webhook-down[=true|false]
func (k *Knobs) Parse(setting string) error {
	name, value, hasValue := strings.Cut(setting, "=")
	switch name {
	case "never-boots", "node-unhealthy":
		pick, err := parsePick(value)
		if err != nil {
			return fmt.Errorf("chaos %s: %w", name, err)
		}
		if name == "never-boots" {
			k.NeverBoots = append(k.NeverBoots, pick)
		} else {
			k.NodeUnhealthy = append(k.NodeUnhealthy, pick)
		}
	case "api-delay":
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return fmt.Errorf("chaos api-delay: %q is not a duration such as 200ms", value)
		}
		k.APIDelay = d
	case "webhook-down":
		down := true
		if hasValue {
			var err error
			if down, err = strconv.ParseBool(value); err != nil {
				return fmt.Errorf("chaos webhook-down: %q is neither true nor false", value)
			}
		}
		k.WebhookDown = down
	default:
		return fmt.Errorf("chaos: unknown knob %q; there are never-boots, node-unhealthy, api-delay and webhook-down", name)
	}
	return nil
}

func parsePick(value string) (Pick, error) {
	pattern, count, hasCount := strings.Cut(value, ":")
	pick := Pick{Pattern: pattern, Count: 1}
	if strings.Count(pattern, "/") != 1 {
		return Pick{}, fmt.Errorf("%q is not of the form <namespace>/<machine>; patterns such as prod-talos/prod-workers-* are allowed", pattern)
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return Pick{}, fmt.Errorf("%q: %w", pattern, err)
	}
	if hasCount && count == "all" {
		pick.Count = 0
	} else if hasCount {
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 {
			return Pick{}, fmt.Errorf("%q after the colon is neither a number above 0 nor \"all\"", count)
		}
		pick.Count = n
	}
	return pick, nil
}

// String is k in the form that Parse reads, separated by spaces.
func (k Knobs) String() string {
	var out []string
	for name, picks := range map[string]Picks{"never-boots": k.NeverBoots, "node-unhealthy": k.NodeUnhealthy} {
		for _, p := range picks {
			count := ":all"
			if p.Count > 0 {
				count = ":" + strconv.Itoa(p.Count)
			}
			out = append(out, name+"="+p.Pattern+count)
		}
	}
	if k.APIDelay > 0 {
		out = append(out, "api-delay="+k.APIDelay.String())
	}
	if k.WebhookDown {
		out = append(out, "webhook-down")
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

// Monkey answers for the faults while everything runs. Its methods may be called from anywhere.
type Monkey struct {
	mu       sync.Mutex
	knobs    Knobs
	chosen   map[string]map[string]bool // knob and pattern → machines that fell to it
	onChange []func(Knobs)
}

// New returns a Monkey that does what knobs say.
func New(knobs Knobs) *Monkey {
	return &Monkey{knobs: knobs, chosen: map[string]map[string]bool{}}
}

// OnChange calls f with the knobs now and whenever they are set.
func (m *Monkey) OnChange(f func(Knobs)) {
	m.mu.Lock()
	m.onChange = append(m.onChange, f)
	knobs := m.knobs
	m.mu.Unlock()
	f(knobs)
}

// Set replaces the knobs. Machines chosen by a pick that is gone are well again.
func (m *Monkey) Set(knobs Knobs) {
	m.mu.Lock()
	m.knobs = knobs
	kept := map[string]map[string]bool{}
	for _, p := range knobs.NeverBoots {
		kept["never-boots="+p.Pattern] = m.chosen["never-boots="+p.Pattern]
	}
	for _, p := range knobs.NodeUnhealthy {
		kept["node-unhealthy="+p.Pattern] = m.chosen["node-unhealthy="+p.Pattern]
	}
	m.chosen = kept
	onChange := slices.Clone(m.onChange)
	m.mu.Unlock()
	// Without the lock: who is told may ask.
	for _, f := range onChange {
		f(knobs)
	}
}

// Knobs returns the knobs as they are.
func (m *Monkey) Knobs() Knobs {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.knobs
}

// NeverBoots tells whether the machine is one that never boots.
func (m *Monkey) NeverBoots(namespace, machine string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pick("never-boots", m.knobs.NeverBoots, namespace+"/"+machine)
}

// NodeUnhealthy tells whether the kubelet of the machine reports Ready=False.
func (m *Monkey) NodeUnhealthy(namespace, machine string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pick("node-unhealthy", m.knobs.NodeUnhealthy, namespace+"/"+machine)
}

func (m *Monkey) pick(knob string, picks Picks, machine string) bool {
	for _, p := range picks {
		if ok, _ := path.Match(p.Pattern, machine); !ok {
			continue
		}
		key := knob + "=" + p.Pattern
		if p.Count == 0 || m.chosen[key][machine] {
			return true
		}
		if len(m.chosen[key]) < p.Count {
			if m.chosen[key] == nil {
				m.chosen[key] = map[string]bool{}
			}
			m.chosen[key][machine] = true
			return true
		}
	}
	return false
}
