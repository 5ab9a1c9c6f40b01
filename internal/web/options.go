package web

import (
	"context"
	"errors"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/forge"
)

// Fleets says what a delivery for a Fleet is checked with. It answers from memory: a
// delivery that is not signed rightly costs no call to an API server or to Git.
type Fleets interface {
	// Hook returns what deliveries for a Fleet are checked with. If none can be accepted
	// because there is no such Fleet, or it has no forge or no webhook secret, why says so
	// for the log; the sender isn't told. An error means that this is not known now.
	Hook(ctx context.Context, fleet types.NamespacedName) (h Hook, why string, err error)
}

// Hook is what deliveries for a Fleet are checked with.
type Hook struct {
	// Secrets are those that a delivery may be signed with.
	Secrets [][]byte
	// Repository is the owner/name that events must be about, in any case; "" for any.
	Repository string
	// Ref is the full name of the tracked ref; "" if any push may matter.
	Ref string
	// Branch is the one that pull requests must be for; "" if none are looked at.
	Branch string
	// PullRequests says that pull requests are looked at.
	PullRequests bool
}

// Hints take what verified deliveries say. They don't block, and don't mind being told
// the same thing again. why says to a person why a hint was not taken.
type Hints interface {
	Push(ctx context.Context, fleet types.NamespacedName, e forge.Event) (taken bool, why string, err error)
	PullRequest(ctx context.Context, fleet types.NamespacedName, e forge.Event) (taken bool, why string, err error)
}

// Pages provides what the status page shows.
type Pages interface {
	// Fleet returns a Fleet and its overlays from memory, nil if there is no such Fleet.
	// The caller changes nothing of them.
	Fleet(ctx context.Context, fleet types.NamespacedName) (*v1alpha1.Fleet, []v1alpha1.ClusterOverlay, error)
	// State sums an overlay up in a word.
	State(overlay *v1alpha1.ClusterOverlay) string
}

// Options configure a [Handler].
type Options struct {
	// Fleets and Hints are behind the webhooks. Required.
	Fleets Fleets
	Hints  Hints
	// Pages is behind the status page; nil: there is none.
	Pages Pages
	// Registerer gets the metrics. Required.
	Registerer prometheus.Registerer
	// Log gets what became of deliveries, without their content.
	Log logr.Logger
	// Clock for rates and durations. Default: the real one.
	Clock clock.PassiveClock
	// BodyBytes is the largest delivery. Default 5 MiB: GitHub sends up to 25 MiB, but
	// what is that long lists thousands of files, and the next poll finds the push.
	BodyBytes int64
	// ReadTimeout is how long the body of a request may take. Default 10 s.
	ReadTimeout time.Duration
	// Concurrency is how many deliveries are handled at a time, half of them for one
	// Fleet. It bounds memory: each may hold BodyBytes. Default 32.
	Concurrency int
	// Wait is how long a delivery waits for its turn. Default 2 s.
	Wait time.Duration
	// PerFleet and Total are the deliveries a second that are read, for one Fleet's name
	// and for all, signed or not. Ten seconds' worth may come at once. Default 100 and 400.
	PerFleet, Total rate.Limit
	// PageRate is the status pages a second. Default 10.
	PageRate rate.Limit
}

func (o *Options) complete() error {
	if o.Fleets == nil || o.Hints == nil || o.Registerer == nil {
		return errors.New("web: Fleets, Hints and Registerer are required")
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	orDefault(&o.BodyBytes, 5<<20)
	orDefault(&o.ReadTimeout, 10*time.Second)
	orDefault(&o.Concurrency, 32)
	orDefault(&o.Wait, 2*time.Second)
	orDefault(&o.PerFleet, 100)
	orDefault(&o.Total, 400)
	orDefault(&o.PageRate, 10)
	return nil
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
