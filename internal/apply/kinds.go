package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
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

	asking singleflight.Group

	mu sync.Mutex // not held during requests: what is known is found at once
	// wanted counts the times that discovery was asked for, known is the count of
	// the last answer's: it says nothing of what happened later.
	wanted, known uint64
	asked         time.Time
	catalog
}

// catalog is what one discovery has found.
type catalog struct {
	served  map[schema.GroupVersionKind]kind
	version map[schema.GroupKind][]string // by preference
	failed  map[schema.GroupVersion]error
}

// kind is a served kind at one version.
type kind struct {
	schema.GroupVersionKind
	resource   string
	namespaced bool
	// scanned is true if objects of the kind can be applied and listed.
	scanned bool
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
	if found, err := k.lookup(gvk); err == nil {
		return found, nil
	}
	if err := k.refresh(); err != nil {
		return kind{}, err
	}
	return k.lookup(gvk)
}

// refresh asks discovery if that was not just done. Callers share one request; the
// answer is to one sent after the last call of forget that a caller can know of.
func (k *kinds) refresh() error {
	k.mu.Lock()
	wanted := k.wanted
	k.mu.Unlock()
	for {
		_, err, _ := k.asking.Do("", func() (any, error) { return nil, k.askIfDue() })
		if err != nil {
			return err
		}
		k.mu.Lock()
		known := k.known
		k.mu.Unlock()
		if known >= wanted {
			return nil
		}
	}
}

func (k *kinds) askIfDue() error {
	k.mu.Lock()
	wanted := k.wanted
	due := k.served == nil || k.known < wanted || k.clock.Since(k.asked) >= missInterval
	k.mu.Unlock()
	if !due {
		return nil
	}
	found, err := ask(k.discovery)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.catalog, k.known, k.asked = found, wanted, k.clock.Now()
	return nil
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
	k.wanted++
}

// drop forgets a kind that turned out not to be served any more.
func (k *kinds) drop(gvk schema.GroupVersionKind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.served, gvk)
	k.wanted++
}

// all lists the served kinds that match, at their preferred versions. It fails if
// it can't be told what a group of Cluster API or of a provider serves. The API
// servers behind other groups come and go.
func (k *kinds) all(match func(schema.GroupKind) bool) ([]kind, error) {
	if err := k.refresh(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failure(func(gv schema.GroupVersion) bool { return capi.IsFamily(schema.GroupKind{Group: gv.Group}) }); err != nil {
		return nil, err
	}
	var found []kind
	for gk, versions := range k.version {
		if known, ok := k.served[gk.WithVersion(versions[0])]; ok && match(gk) {
			found = append(found, known)
		}
	}
	slices.SortFunc(found, func(a, b kind) int { return strings.Compare(a.String(), b.String()) })
	return found, nil
}

// lookup finds a kind among those known, or says why it is not there.
func (k *kinds) lookup(gvk schema.GroupVersionKind) (kind, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	versions := k.version[gvk.GroupKind()]
	at := gvk
	if gvk.Version == "" && len(versions) > 0 {
		at.Version = versions[0]
	}
	if found, ok := k.served[at]; ok {
		return found, nil
	}
	err := k.failure(func(gv schema.GroupVersion) bool {
		return gv.Group == gvk.Group && (gvk.Version == "" || gv.Version == gvk.Version)
	})
	if err != nil {
		return kind{}, err
	}
	return kind{}, &noKindError{gvk: gvk, other: slices.Clone(versions)}
}

// failure says why groups that match could not be listed; nil if all were.
func (c *catalog) failure(match func(schema.GroupVersion) bool) error {
	var first error
	var at string
	for gv, err := range c.failed {
		if match(gv) && (first == nil || gv.String() < at) {
			first, at = err, gv.String()
		}
	}
	if first == nil {
		return nil
	}
	return &discoveryError{fmt.Errorf("%s: %w", at, first)}
}

// ask lists all kinds. A group that can't be listed is remembered as such; its
// kinds are then neither served nor absent.
func ask(client discovery.DiscoveryInterface) (catalog, error) {
	groups, lists, err := client.ServerGroupsAndResources()
	failed, partly := discovery.GroupDiscoveryFailedErrorGroups(err)
	if apierrors.IsNotFound(err) {
		return catalog{}, &discoveryError{errors.New(err.Error())} // about a path: says of no object that it is absent
	}
	if err != nil && !partly {
		return catalog{}, &discoveryError{err}
	}
	if err := complete(lists); err != nil {
		return catalog{}, &discoveryError{err}
	}
	k := catalog{failed: failed, served: map[schema.GroupVersionKind]kind{}, version: map[schema.GroupKind][]string{}}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return catalog{}, &discoveryError{err}
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue // a subresource
			}
			found := kind{
				GroupVersionKind: schema.GroupVersionKind{Group: orDefault(r.Group, gv.Group), Version: orDefault(r.Version, gv.Version), Kind: r.Kind},
				resource:         r.Name, namespaced: r.Namespaced, scanned: slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "patch"),
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
	return k, nil
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
