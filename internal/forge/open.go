package forge

import (
	"fmt"
	"time"

	"k8s.io/utils/clock"
)

// defaultTimeout is the longest that one request may take.
const defaultTimeout = 30 * time.Second

// Open checks the options and returns the repository; it makes no request. What it returns
// keeps connections open for a while and is meant to be kept.
func Open(o Options) (Forge, error) {
	if err := checkName("owner", o.Owner); err != nil {
		return nil, err
	}
	if err := checkName("repository", o.Repository); err != nil {
		return nil, err
	}
	if err := o.Credentials.check(o.Kind); err != nil {
		return nil, err
	}
	switch {
	case o.Timeout < 0:
		return nil, fmt.Errorf("the timeout %s is negative", o.Timeout)
	case o.Timeout == 0:
		o.Timeout = defaultTimeout
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	switch o.Kind {
	case Gitea, Forgejo:
		return openGitea(o)
	case GitHub:
		return openGitHub(o)
	default:
		return nil, fmt.Errorf("there is no forge of kind %q: it is %s, %s or %s", o.Kind, Gitea, Forgejo, GitHub)
	}
}
