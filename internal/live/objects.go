package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/utils/clock"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// Options configure the watches.
type Options struct {
	// Config reaches the management cluster. Required.
	Config *rest.Config
	// Mapper finds the resource of a kind. It must forget what it knows when it is reset:
	// versions come and go. Default: one that asks the API server for all kinds at once.
	Mapper meta.RESTMapper
	// Changed is told of an overlay whose objects may look different now. It must
	// return at once. Required.
	Changed func(overlay types.NamespacedName)
	// Sighted is told of an overlay once what Seen says of it is different, be it only that
	// its declaration is. It must return at once. Default: nobody.
	Sighted func(overlay types.NamespacedName)
	// Failed is told of each failure of a watch. Default: nobody.
	Failed func(schema.GroupKind)
	// Retry is how long to wait before a kind that is not served is looked for again.
	// Default 15 s.
	Retry time.Duration
	// Patience is how long a watch may fail before what it knows counts as unknown. Less
	// would take a restart of the API server for a loss of sight. Default 30 s.
	Patience time.Duration
	// Clock measures patience. Default: the real one.
	Clock clock.WithTicker
	// Log gets the failures of watches.
	Log logr.Logger
}

// Objects are the live objects of overlays. It is safe for concurrent use.
type Objects struct {
	Options
	client dynamic.Interface

	mu       sync.Mutex
	started  context.Context //nolint:containedctx // that of Start, which watches end with
	overlays map[types.NamespacedName]declaration
	// uses counts the objects that are declared of each kind.
	uses map[source]int
	// parts are the kinds that Machines have been seen to be made of.
	parts map[source]bool
	// owners are the overlays by what they declare, and by the Clusters among it.
	owners  map[object.ID][]types.NamespacedName
	watches map[source]*watch
}

// source is what one watch delivers: objects of a kind, either those that overlays
// declare, or those that controllers made for Clusters.
type source struct {
	kind schema.GroupVersionKind
	made bool
}

// made is the source of what controllers make. Its version is the API server's choice.
func made(kind schema.GroupKind) source {
	return source{kind: kind.WithVersion(""), made: true}
}

// progresses tells whether the objects matter to progress. Of others only sights are kept.
func (s source) progresses() bool { return s.made || capi.MakesProgress(s.kind.GroupKind()) }

// declaration is what an overlay declares.
type declaration struct {
	ids      map[object.ID]source
	clusters []types.NamespacedName
}

// New prepares the watches. None runs before Start.
func New(o Options) (*Objects, error) {
	if o.Config == nil || o.Changed == nil {
		return nil, errors.New("live: Config and Changed are required")
	}
	if o.Sighted == nil {
		o.Sighted = func(types.NamespacedName) {}
	}
	if o.Failed == nil {
		o.Failed = func(schema.GroupKind) {}
	}
	if o.Retry == 0 {
		o.Retry = 15 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	config := rest.CopyConfig(o.Config)
	config.QPS = -1 // the API server's own fairness is enough
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("set up the watches of live objects: %w", err)
	}
	if o.Mapper == nil {
		kinds, err := discovery.NewDiscoveryClientForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("set up the discovery of kinds: %w", err)
		}
		o.Mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kinds))
	}
	return &Objects{
		Options: o, client: client,
		overlays: map[types.NamespacedName]declaration{}, uses: map[source]int{}, parts: map[source]bool{},
		owners: map[object.ID][]types.NamespacedName{}, watches: map[source]*watch{},
	}, nil
}

// Start runs the watches until the context ends.
func (o *Objects) Start(ctx context.Context) error {
	o.mu.Lock()
	o.started = ctx
	for _, w := range o.watches {
		w.start(ctx)
	}
	o.mu.Unlock()
	<-ctx.Done()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.watches {
		w.stop()
	}
	return nil
}

// Declare says what an overlay declares; it replaces what was said before. Watches that
// this needs are started, those that nobody needs any more are ended.
func (o *Objects) Declare(overlay types.NamespacedName, refs []v1alpha1.ObjectReference) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next := declare(refs)
	if same(o.overlays[overlay].ids, next.ids) {
		return
	}
	o.drop(overlay)
	if len(next.ids) > 0 {
		o.overlays[overlay] = next
	}
	for id, s := range next.ids {
		o.owners[id] = append(o.owners[id], overlay)
		o.uses[s]++
	}
	o.adjust()
	o.Sighted(overlay)
}

// Forget drops an overlay that is no more.
func (o *Objects) Forget(overlay types.NamespacedName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(overlay)
	o.adjust()
}

func (o *Objects) drop(overlay types.NamespacedName) {
	for id, s := range o.overlays[overlay].ids {
		if o.uses[s]--; o.uses[s] == 0 {
			delete(o.uses, s)
		}
		o.owners[id] = slices.DeleteFunc(o.owners[id], func(n types.NamespacedName) bool { return n == overlay })
		if len(o.owners[id]) == 0 {
			delete(o.owners, id)
		}
	}
	delete(o.overlays, overlay)
}

func same(a, b map[object.ID]source) bool {
	if len(a) != len(b) {
		return false
	}
	for id, s := range a {
		if b[id] != s {
			return false
		}
	}
	return true
}

func declare(refs []v1alpha1.ObjectReference) declaration {
	d := declaration{ids: map[object.ID]source{}}
	for _, ref := range refs {
		gvk := schema.GroupVersionKind{Group: ref.Group, Version: ref.Version, Kind: ref.Kind}
		d.ids[object.ID{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}] = source{kind: gvk}
		if capi.IsCluster(gvk.GroupKind()) {
			d.clusters = append(d.clusters, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name})
		}
	}
	return d
}

// adjust starts the watches that are needed and ends the others. The kinds of
// infrastructure machines and bootstrap configurations are those that Machines name.
func (o *Objects) adjust() {
	needed := map[source]bool{}
	clusters := false
	for s := range o.uses {
		needed[s] = true
		clusters = clusters || capi.IsCluster(s.kind.GroupKind())
	}
	if clusters {
		for _, kind := range capi.MachineKinds() {
			needed[made(kind)] = true
		}
		for s := range o.parts {
			needed[s] = true
		}
	}
	for s, w := range o.watches {
		if !needed[s] {
			w.stop()
			delete(o.watches, s)
		}
	}
	for s := range needed {
		if o.watches[s] == nil {
			o.watches[s] = newWatch(o, s)
			if o.started != nil && o.started.Err() == nil {
				o.watches[s].start(o.started)
			}
		}
	}
}

// resource finds the resource of a kind; of one without a version, the version that the
// API server prefers.
func (o *Objects) resource(kind schema.GroupVersionKind) (schema.GroupVersionResource, error) {
	var versions []string
	if kind.Version != "" {
		versions = append(versions, kind.Version)
	}
	mapping, err := o.Mapper.RESTMapping(kind.GroupKind(), versions...)
	if err != nil {
		return schema.GroupVersionResource{}, fmt.Errorf("find the resource of %s: %w", kind.GroupKind(), err)
	}
	return mapping.Resource, nil
}

// told tells of a change to the overlays that an object belongs to.
func (o *Objects) told(s source, was, now *kept) {
	k := now
	if k == nil {
		k = was
	}
	id := object.ID{Group: s.kind.Group, Kind: s.kind.Kind, Namespace: k.key.Namespace, Name: k.key.Name}
	if s.made {
		id = capi.ClusterID(k.key.Namespace, k.cluster)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, overlay := range o.owners[id] {
		if !s.made && o.overlays[overlay].ids[id] != s {
			continue // it declares another version
		}
		if s.progresses() {
			o.Changed(overlay)
		}
		if !s.made && sighted(was, now) {
			o.Sighted(overlay)
		}
	}
	if s.made && len(o.owners[id]) > 0 && capi.IsMachine(s.kind.GroupKind()) {
		for _, kind := range capi.MadeOf(k.object()) {
			if !o.parts[made(kind)] {
				o.parts[made(kind)] = true
				o.adjust()
			}
		}
	}
}

// turned tells all overlays that depend on a watch that it has listed everything, fails,
// or does so no longer.
func (o *Objects) turned(s source) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for overlay, d := range o.overlays {
		if s.made {
			if len(d.clusters) > 0 {
				o.Changed(overlay)
			}
			continue
		}
		for _, other := range d.ids {
			if other != s {
				continue
			}
			if s.progresses() {
				o.Changed(overlay)
			}
			o.Sighted(overlay)
			break
		}
	}
}
