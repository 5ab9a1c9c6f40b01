package agent_test

import (
	"context"
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/internal/agent"
)

// narrow is a cache of one namespace: of others it knows nothing but to complain.
type narrow struct{ client.Reader }

func (narrow) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errors.New("unknown namespace for the cache")
}

// A namespace that isn't watched has no Fleets; what can't be read is an error.
func TestOverviewOfNamespace(t *testing.T) {
	for _, test := range []struct {
		watched, asked string
		fails          bool
	}{{"team", "other", false}, {"team", "team", true}, {"", "other", true}} {
		fleet, _, err := agent.Overview{Reader: narrow{}, Namespace: test.watched}.Fleet(t.Context(), types.NamespacedName{Namespace: test.asked, Name: "fleet"})
		if fleet != nil || (err != nil) != test.fails {
			t.Errorf("watching %q, asked for %q: %v, %v", test.watched, test.asked, fleet, err)
		}
	}
}
