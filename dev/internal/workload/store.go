package workload

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// historyLimit is how many changes a cluster remembers for those who watch; who lags behind
// further gets 410 Gone and lists again.
const historyLimit = 1000

// store keeps the objects of one cluster. A stored object never changes: a change stores
// another one, so that readers may keep what they got, and must not write to it.
type store struct {
	kinds *catalogue

	mu      sync.RWMutex
	version uint64
	objects map[schema.GroupResource]map[types.NamespacedName]*unstructured.Unstructured
	custom  map[schema.GroupResource]*resource // by the CustomResourceDefinitions stored
	history []change
	oldest  uint64        // the last version that history has forgotten
	changed chan struct{} // closed with the next change
}

// change is one step from a version to the next.
type change struct {
	version  uint64
	kind     watch.EventType
	resource schema.GroupResource
	object   *unstructured.Unstructured
	previous *unstructured.Unstructured // nil if added
}

func newStore(kinds *catalogue) *store {
	return &store{
		kinds:   kinds,
		objects: map[schema.GroupResource]map[types.NamespacedName]*unstructured.Unstructured{},
		custom:  map[schema.GroupResource]*resource{},
		changed: make(chan struct{}),
		version: 1,
		oldest:  1,
	}
}

// resource finds a kind by its name in URLs.
func (s *store) resource(gr schema.GroupResource) *resource {
	if r := s.kinds.builtin[gr]; r != nil {
		return r
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.custom[gr]
}

// resources are all kinds, built in and custom, in a stable order.
func (s *store) resources() []*resource {
	s.mu.RLock()
	all := slices.Concat(slices.Collect(maps.Values(s.kinds.builtin)), slices.Collect(maps.Values(s.custom)))
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b *resource) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource))
	})
	return all
}

// selection is which objects a list or watch is about.
type selection struct {
	resource  *resource
	namespace string // all if empty
	labels    labels.Selector
	fields    fields.Selector
}

func (s selection) matches(object *unstructured.Unstructured) bool {
	if s.namespace != "" && object.GetNamespace() != s.namespace {
		return false
	}
	if s.labels != nil && !s.labels.Empty() && !s.labels.Matches(labels.Set(object.GetLabels())) {
		return false
	}
	return s.fields == nil || s.fields.Empty() || s.fields.Matches(fieldsOf{object})
}

// fieldsOf lets a field selector ask for any path of an object; the real API server knows
// some paths of each kind only.
type fieldsOf struct{ object *unstructured.Unstructured }

func (f fieldsOf) Has(path string) bool { return f.Get(path) != "" }

func (f fieldsOf) Get(path string) string {
	value, found, err := unstructured.NestedFieldNoCopy(f.object.Object, splitPath(path)...)
	if err != nil || !found || value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

func (s *store) get(r *resource, key types.NamespacedName) (*unstructured.Unstructured, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.getLocked(r, key)
}

func (s *store) getLocked(r *resource, key types.NamespacedName) (*unstructured.Unstructured, error) {
	if object := s.objects[r.GroupResource][key]; object != nil {
		return object, nil
	}
	return nil, apierrors.NewNotFound(r.GroupResource, key.Name)
}

// list returns the objects selected, by namespace and name, and the version it is true for.
func (s *store) list(sel selection) ([]*unstructured.Unstructured, uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.listLocked(sel), s.version
}

func (s *store) listLocked(sel selection) []*unstructured.Unstructured {
	found := []*unstructured.Unstructured{}
	for _, object := range s.objects[sel.resource.GroupResource] {
		if sel.matches(object) {
			found = append(found, object)
		}
	}
	slices.SortFunc(found, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return found
}

// event is a change as somebody sees it who watches a selection.
type event struct {
	kind   watch.EventType
	object *unstructured.Unstructured
}

// since returns what happened to the selected objects after a version, the version that this
// covers, and a channel that closes when there is more.
func (s *store) since(sel selection, after uint64) ([]event, uint64, <-chan struct{}, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if after < s.oldest || after > s.version {
		return nil, 0, nil, apierrors.NewResourceExpired(
			fmt.Sprintf("too old resource version: %d (%d)", after, s.oldest))
	}
	var events []event
	first := sort.Search(len(s.history), func(i int) bool { return s.history[i].version > after })
	for _, c := range s.history[first:] {
		if c.resource != sel.resource.GroupResource {
			continue
		}
		now := c.kind != watch.Deleted && sel.matches(c.object)
		before := c.previous != nil && sel.matches(c.previous)
		switch {
		case now && before:
			events = append(events, event{watch.Modified, c.object})
		case now:
			events = append(events, event{watch.Added, c.object})
		case before: // gone, or it left the selection
			gone := c.previous.DeepCopy()
			gone.SetResourceVersion(c.object.GetResourceVersion())
			events = append(events, event{watch.Deleted, gone})
		}
	}
	return events, s.version, s.changed, nil
}

// put stores an object that becomes the property of the store, under a new version.
func (s *store) put(r *resource, object *unstructured.Unstructured) *unstructured.Unstructured {
	key := types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
	if s.objects[r.GroupResource] == nil {
		s.objects[r.GroupResource] = map[types.NamespacedName]*unstructured.Unstructured{}
	}
	previous := s.objects[r.GroupResource][key]
	kind := watch.Modified
	if previous == nil {
		kind = watch.Added
	}
	s.version++
	object.SetResourceVersion(strconv.FormatUint(s.version, 10))
	s.objects[r.GroupResource][key] = object
	s.record(change{version: s.version, kind: kind, resource: r.GroupResource, object: object, previous: previous})
	s.afterPut(r, object)
	return object
}

// remove forgets an object for good.
func (s *store) remove(r *resource, object *unstructured.Unstructured) {
	delete(s.objects[r.GroupResource], types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()})
	s.version++
	last := object.DeepCopy()
	last.SetResourceVersion(strconv.FormatUint(s.version, 10))
	s.record(change{version: s.version, kind: watch.Deleted, resource: r.GroupResource, object: last, previous: object})
	s.afterRemove(r, last)
}

func (s *store) record(c change) {
	if len(s.history) >= 2*historyLimit { // in bulk, so that most changes cost an append only
		cut := len(s.history) - historyLimit
		s.oldest = s.history[cut-1].version
		s.history = slices.Clone(s.history[cut:])
	}
	s.history = append(s.history, c)
	close(s.changed)
	s.changed = make(chan struct{})
}

// writeOptions say how a change is to be made.
type writeOptions struct {
	dryRun  bool
	strict  bool   // fields that the kind does not have are an error
	manager string // field manager
	force   bool   // apply takes fields from other managers
	status  bool   // the status subresource
}

func (s *store) create(r *resource, object *unstructured.Unstructured, opts writeOptions,
) (*unstructured.Unstructured, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.createLocked(r, object, opts)
}

func (s *store) createLocked(r *resource, object *unstructured.Unstructured, opts writeOptions,
) (*unstructured.Unstructured, error) {
	object, err := s.kinds.normalize(r, object, opts.strict)
	if err != nil {
		return nil, err
	}
	if err := prepareCreate(r, object); err != nil {
		return nil, err
	}
	key := types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
	if err := s.namespaceAccepts(r, key); err != nil {
		return nil, err
	}
	if s.objects[r.GroupResource][key] != nil {
		return nil, apierrors.NewAlreadyExists(r.GroupResource, key.Name)
	}
	if opts.dryRun {
		return object, nil
	}
	return s.put(r, object), nil
}

// update stores what next makes of the live object, which next must not change.
func (s *store) update(r *resource, key types.NamespacedName, opts writeOptions,
	next func(live *unstructured.Unstructured) (*unstructured.Unstructured, error),
) (*unstructured.Unstructured, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	live, err := s.getLocked(r, key)
	if err != nil {
		return nil, err
	}
	object, err := next(live)
	if err != nil {
		return nil, err
	}
	return s.updateLocked(r, live, object, opts)
}

func (s *store) updateLocked(r *resource, live, object *unstructured.Unstructured, opts writeOptions,
) (*unstructured.Unstructured, error) {
	object, err := s.kinds.normalize(r, object, opts.strict)
	if err != nil {
		return nil, err
	}
	if err := prepareUpdate(r, live, object, opts.status); err != nil {
		return nil, err
	}
	object = s.kinds.track(r, live, object, opts)
	if sameContent(live, object) {
		return live, nil
	}
	bumpGeneration(r, live, object)
	if opts.dryRun {
		return object, nil
	}
	if object.GetDeletionTimestamp() != nil && len(object.GetFinalizers()) == 0 && !s.holdsNamespace(r, object) {
		s.remove(r, object)
		return object, nil
	}
	return s.put(r, object), nil
}

// sameContent tells whether a write changes nothing; the stored version of the API does not
// count, and neither does how a client came to it.
func sameContent(live, object *unstructured.Unstructured) bool {
	a, b := maps.Clone(live.Object), maps.Clone(object.Object)
	delete(a, "apiVersion")
	delete(b, "apiVersion")
	return equality.Semantic.DeepEqual(a, b)
}

// delete removes the object, or marks it as long as something holds it. It returns the last
// state, and whether the object is gone.
func (s *store) delete(r *resource, key types.NamespacedName, opts *metav1.DeleteOptions,
) (*unstructured.Unstructured, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	live, err := s.getLocked(r, key)
	if err != nil {
		return nil, false, err
	}
	if err := checkPreconditions(r, live, opts.Preconditions); err != nil {
		return nil, false, err
	}
	if len(opts.DryRun) > 0 {
		return live, true, nil
	}
	s.deleteLocked(r, live)
	left := s.objects[r.GroupResource][key]
	if left == nil {
		return live, true, nil
	}
	return left, false, nil
}

func (s *store) deleteLocked(r *resource, live *unstructured.Unstructured) {
	held := len(live.GetFinalizers()) > 0 || s.holdsNamespace(r, live)
	if !held {
		s.remove(r, live)
		return
	}
	if live.GetDeletionTimestamp() == nil {
		s.put(r, markDeleted(r, live))
	}
	if isNamespace(r) {
		s.empty(live.GetName()) // and with the last object the namespace goes
	}
}
