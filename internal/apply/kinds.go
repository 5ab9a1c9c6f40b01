package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/utils/clock"

	"capstan.dev/capstan/internal/capi"
)

// missInterval is how often discovery is asked again because of a kind that it
// did not list. A kind that is listed once is never asked for again.
const missInterval = 2 * time.Second

// kinds knows which kinds the API server serves. One discovery, of two requests,
// lists them all.
type kinds struct {
	discovery discovery.DiscoveryInterface
	clock     clock.PassiveClock

	mu      sync.Mutex
	asked   time.Time
	served  map[schema.GroupVersionKind]kind
	version map[schema.GroupKind][]string // by preference
	failed  map[schema.GroupVersion]error
}

// kind is a served kind at one version.
type kind struct {
	schema.GroupVersionKind
	resource   string
	namespaced bool
	listable   bool
}

// noKindError says that the API server does not serve a kind. It is only
// returned when discovery was complete for the kind's group.
type noKindError struct {
	gvk   schema.GroupVersionKind
	other []string // versions at which the kind is served
}

func (e *noKindError) Error() string {
	if len(e.other) > 0 {
		return fmt.Sprintf("kind %s is not served at version %s, only at %s",
			e.gvk.GroupKind(), e.gvk.Version, strings.Join(e.other, ", "))
	}
	return fmt.Sprintf("kind %s is not installed: install the provider or definition that brings it", e.gvk.GroupKind())
}

// find looks a kind up at a version, or at its preferred version if that is
// empty. It returns a *noKindError if the API server does not serve it.
func (k *kinds) find(gvk schema.GroupVersionKind) (kind, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if found, ok := k.lookup(gvk); ok {
		return found, nil
	}
	if k.served == nil || k.clock.Since(k.asked) >= missInterval {
		if err := k.ask(); err != nil {
			return kind{}, err
		}
	}
	if found, ok := k.lookup(gvk); ok {
		return found, nil
	}
	return kind{}, k.missing(gvk)
}

// findFresh is find for a caller that acts on a kind's absence: discovery is
// asked even if that was just done.
func (k *kinds) findFresh(gvk schema.GroupVersionKind) (kind, error) {
	k.forget()
	return k.find(gvk)
}

// forget makes the next miss ask discovery.
func (k *kinds) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = time.Time{}
}

// drop forgets a kind that turned out not to be served any more.
func (k *kinds) drop(gvk schema.GroupVersionKind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.served, gvk)
	k.asked = time.Time{}
}

// all lists the served kinds of Cluster API and its providers that match, at their preferred versions. It fails if
// it can't be told what a group serves.
func (k *kinds) all(match func(schema.GroupKind) bool) ([]kind, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.served == nil || k.clock.Since(k.asked) >= missInterval {
		if err := k.ask(); err != nil {
			return nil, err
		}
	}
	for gv, err := range k.failed {
		if capi.IsFamily(schema.GroupKind{Group: gv.Group}) {
			return nil, &discoveryError{fmt.Errorf("%s: %w", gv, err)}
		}
	}
	var found []kind
	for gk, versions := range k.version {
		if match(gk) {
			found = append(found, k.served[gk.WithVersion(versions[0])])
		}
	}
	slices.SortFunc(found, func(a, b kind) int { return strings.Compare(a.String(), b.String()) })
	return found, nil
}

func (k *kinds) lookup(gvk schema.GroupVersionKind) (kind, bool) {
	if gvk.Version == "" {
		versions := k.version[gvk.GroupKind()]
		if len(versions) == 0 {
			return kind{}, false
		}
		gvk.Version = versions[0]
	}
	found, ok := k.served[gvk]
	return found, ok
}

// missing says why a kind is not listed.
func (k *kinds) missing(gvk schema.GroupVersionKind) error {
	for gv, err := range k.failed {
		if gv.Group == gvk.Group && (gvk.Version == "" || gv.Version == gvk.Version) {
			return &discoveryError{fmt.Errorf("%s: %w", gv, err)}
		}
	}
	return &noKindError{gvk: gvk, other: k.version[gvk.GroupKind()]}
}

// ask lists all kinds. A group that can't be listed is remembered as such; its
// kinds are then neither served nor absent.
func (k *kinds) ask() error {
	groups, lists, err := k.discovery.ServerGroupsAndResources()
	failed, partly := discovery.GroupDiscoveryFailedErrorGroups(err)
	if apierrors.IsNotFound(err) {
		return &discoveryError{errors.New(err.Error())} // about a path: says of no object that it is absent
	}
	if err != nil && !partly {
		return &discoveryError{err}
	}
	if err := complete(lists); err != nil {
		return &discoveryError{err}
	}
	k.asked, k.failed = k.clock.Now(), failed
	k.served = map[schema.GroupVersionKind]kind{}
	k.version = map[schema.GroupKind][]string{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return &discoveryError{err}
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue // a subresource
			}
			found := kind{
				GroupVersionKind: schema.GroupVersionKind{Group: orDefault(r.Group, gv.Group), Version: orDefault(r.Version, gv.Version), Kind: r.Kind},
				resource:         r.Name, namespaced: r.Namespaced, listable: slices.Contains(r.Verbs, "list"),
			}
			if _, seen := k.served[found.GroupVersionKind]; !seen {
				k.served[found.GroupVersionKind] = found
				gk := found.GroupKind()
				k.version[gk] = append(k.version[gk], found.Version)
			}
		}
	}
	for _, group := range groups {
		for gk, versions := range k.version {
			if gk.Group == group.Name {
				moveFirst(versions, group.PreferredVersion.Version)
			}
		}
	}
	return nil
}

// complete refuses an answer without kinds that every API server has: the client
// takes a 404 or 403 for an API server without any.
func complete(lists []*metav1.APIResourceList) error {
	for _, want := range []string{"v1", "apiextensions.k8s.io/v1"} {
		if !slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool { return l.GroupVersion == want && len(l.APIResources) > 0 }) {
			return fmt.Errorf("%s is missing in the answer", want)
		}
	}
	return nil
}

// discoveryError is a failure to tell what is served.
type discoveryError struct{ cause error }

func (e *discoveryError) Error() string { return "discovery: " + e.cause.Error() }
func (e *discoveryError) Unwrap() error { return e.cause }

// moveFirst brings a value to the front, if it is there, and keeps the rest in
// order.
func moveFirst(values []string, first string) {
	if i := slices.Index(values, first); i > 0 {
		copy(values[1:i+1], values[:i])
		values[0] = first
	}
}
