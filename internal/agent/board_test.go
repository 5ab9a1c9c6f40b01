package agent

import (
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

var testFleet = types.NamespacedName{Namespace: "ns", Name: "fleet"}

// boardBed is a board with a record of whom it has asked to look again.
type boardBed struct {
	*testing.T
	*board
	mu    sync.Mutex
	asked []string
}

func newBoardBed(t *testing.T) *boardBed {
	b := &boardBed{T: t}
	b.board = newBoard(func(o types.NamespacedName) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.asked = append(b.asked, o.Name)
	})
	return b
}

// viewOf is a view of a commit with these files; overlays are clusters/a and so on.
func viewOf(hash string, files map[string]string, names ...string) *view {
	all := map[string]string{}
	v := &view{revision: source.Revision{Ref: "main", Hash: hash}, paths: map[string]bool{}, maxClusters: 3}
	for _, name := range names {
		path := "clusters/" + name
		v.paths[path] = true
		all[path+"/kustomization.yaml"] = "resources: [all.yaml]\n"
		all[path+"/all.yaml"] = files[name]
	}
	v.tree = tree.FromMap(all)
	return v
}

func (b *boardBed) publish(v *view) []string {
	b.Helper()
	concerned, err := b.board.publish(testFleet, v, object.Digester{})
	if err != nil {
		b.Fatal(err)
	}
	return concerned
}

// render renders an overlay at a view; the result is not on the board yet.
func (b *boardBed) render(name string, v *view) *rendering {
	b.Helper()
	built, err := planner.Build(b.Context(), planner.BuildInput{Tree: v.tree, Owner: apply.Owner{Path: "clusters/" + name}})
	r := &rendering{sequence: v.sequence, closure: built.Closure, err: err, claims: claimsOf(built)}
	r.inputs = inputsDigest(object.Digester{}, r.closure, nil, v)
	return r
}

func (b *boardBed) store(name string, r *rendering) []string {
	b.asked = nil
	b.rendered(testFleet, "clusters/"+name, r, object.Digester{})
	slices.Sort(b.asked)
	return b.asked
}

func (b *boardBed) settled() bool {
	b.board.mu.Lock()
	defer b.board.mu.Unlock()
	_, unsettled := b.fleets[testFleet].unsettled()
	return len(unsettled) == 0
}

const (
	one = `{apiVersion: v1, kind: ConfigMap, metadata: {name: one, namespace: x}}`
	two = `{apiVersion: v1, kind: ConfigMap, metadata: {name: two, namespace: x}}`
)

// A commit and its revert, both seen while a render is under way: the render of the
// commit in between must not be the last word.
func TestBoardRevertDuringRender(t *testing.T) {
	b := newBoardBed(t)
	first := viewOf("1", map[string]string{"a": one}, "a")
	b.publish(first)
	b.store("a", b.render("a", first))
	second := viewOf("2", map[string]string{"a": two}, "a")
	if got := b.publish(second); len(got) != 1 {
		t.Fatalf("concerned by the change: %q", got)
	}
	slow := b.render("a", second) // its worker is slow
	third := viewOf("3", map[string]string{"a": one}, "a")
	if got := b.publish(third); len(got) != 1 {
		t.Errorf("concerned by the revert: %q", got)
	}
	if got := b.store("a", slow); len(got) != 1 {
		t.Errorf("asked after an outdated render: %q", got)
	}
	if b.settled() {
		t.Error("an outdated render counts")
	}
}

// A view that concerns nobody, published during a render, leaves nobody unsettled.
func TestBoardUnrelatedViewDuringRender(t *testing.T) {
	b := newBoardBed(t)
	first := viewOf("1", map[string]string{"a": one}, "a")
	b.publish(first)
	slow := b.render("a", first)
	second := viewOf("2", map[string]string{"a": one}, "a")
	b.publish(second)
	b.store("a", slow)
	if !b.settled() {
		t.Error("a render that holds for the new view doesn't count")
	}
	// A poll that finds nothing keeps everything as it is.
	third := viewOf("2", map[string]string{"a": one}, "a")
	if got := b.publish(third); len(got) > 0 || third.sequence != second.sequence {
		t.Errorf("a poll concerns %q", got)
	}
}

// Who waits for all overlays is asked when the last one is rendered, or gone.
func TestBoardWaiting(t *testing.T) {
	b := newBoardBed(t)
	files := map[string]string{"a": one, "b": two}
	first := viewOf("1", files, "a", "b")
	b.publish(first)
	b.store("a", b.render("a", first))
	if settled, _ := b.settle(testFleet, "clusters/a"); settled {
		t.Fatal("settled although b isn't rendered")
	}
	if got := b.store("b", b.render("b", first)); len(got) != 1 || got[0] != planner.OverlayName("fleet", "clusters/a") {
		t.Errorf("asked: %q", got)
	}
	second := viewOf("2", map[string]string{"a": one, "b": "{kind: ["}, "a", "b")
	b.publish(second)
	b.store("b", b.render("b", second))
	if settled, failing := b.settle(testFleet, "clusters/a"); !settled || len(failing) != 1 {
		t.Errorf("settled %t, failing %q", settled, failing)
	}
	if got := b.publish(viewOf("3", files, "a")); !slices.Contains(got, "clusters/a") {
		t.Errorf("concerned when the failing overlay is gone: %q", got)
	}
}

// A collision with a render of an earlier commit is undecided; it concerns the
// other when it goes away, by a change or with its directory.
func TestBoardClash(t *testing.T) {
	b := newBoardBed(t)
	first := viewOf("1", map[string]string{"a": one, "b": two}, "a", "b")
	b.publish(first)
	b.store("a", b.render("a", first))
	b.store("b", b.render("b", first))
	moved := viewOf("2", map[string]string{"a": two, "b": two + "\n---\n" + one}, "a", "b")
	b.publish(moved)
	b.store("b", b.render("b", moved))
	if clashes, undecided := b.clashes(testFleet, "clusters/b"); len(clashes) > 0 || !undecided {
		t.Errorf("%q, undecided %t", clashes, undecided)
	}
	if got := b.store("a", b.render("a", moved)); !slices.Contains(got, planner.OverlayName("fleet", "clusters/b")) {
		t.Errorf("asked: %q", got)
	}
	if clashes, undecided := b.clashes(testFleet, "clusters/b"); len(clashes) != 1 || undecided {
		t.Errorf("%q, undecided %t", clashes, undecided)
	}
	if got := b.publish(viewOf("3", map[string]string{"b": two + "\n---\n" + one}, "b")); !slices.Contains(got, "clusters/b") {
		t.Errorf("concerned when the other is gone: %q", got)
	}
}

// A Fleet that is deleted and made anew has nothing in common with its former life.
func TestBoardForget(t *testing.T) {
	b := newBoardBed(t)
	first := viewOf("1", map[string]string{"a": one}, "a")
	b.publish(first)
	slow := b.render("a", first)
	b.forget(testFleet)
	b.store("a", slow)
	second := viewOf("2", map[string]string{"a": two}, "a")
	b.publish(second)
	b.store("a", slow)
	if b.settled() {
		t.Error("a render of the former Fleet counts")
	}
}

// The board forgets what it knows of overlays whose directories are gone.
func TestBoardEvicts(t *testing.T) {
	b := newBoardBed(t)
	files := map[string]string{"a": one, "b": two}
	b.publish(viewOf("1", files, "a", "b"))
	for _, path := range []string{"clusters/a", "clusters/b"} {
		b.cover(testFleet, path, types.UID(path))
		b.own(testFleet, path, []object.ID{{Kind: "ConfigMap", Namespace: "x", Name: "one"}})
	}
	second := viewOf("2", files, "a")
	b.uncover(testFleet, second.paths)
	b.publish(second)
	b.own(testFleet, "clusters/b", []object.ID{{Kind: "ConfigMap"}}) // its last reconciliation is slow
	b.publish(viewOf("3", files, "a"))
	if !b.covered(testFleet, "clusters/a", "clusters/a") || b.covered(testFleet, "clusters/b", "clusters/b") {
		t.Error("the wrong overlays are covered")
	}
	if f := b.fleets[testFleet]; len(f.created) != 1 || len(f.owned) != 1 {
		t.Errorf("created %v, owned %v", f.created, f.owned)
	}
}

// Who is held because too much is about to go is asked again once less is, be it because
// one that has lost its directory is approved to go.
func TestBoardLeavesLess(t *testing.T) {
	b := newBoardBed(t)
	owns := func(name string) []object.ID {
		return []object.ID{{Kind: "ConfigMap", Namespace: "x", Name: name}}
	}
	v := viewOf("1", map[string]string{"a": "", "b": "", "c": ""}, "a", "b", "c")
	v.leaving = map[string][]object.ID{"clusters/gone": owns("gone")}
	b.publish(v)
	for _, name := range []string{"a", "b", "c"} {
		b.own(testFleet, "clusters/"+name, owns(name))
		b.store(name, b.render(name, v))
	}
	// a asks whether there are more than most.
	want := func(what string, most, leaving int, asked ...string) {
		t.Helper()
		if !slices.Equal(b.asked, asked) {
			t.Errorf("%s: asked %q, want %q", what, b.asked, asked)
		}
		b.asked = nil
		if got := b.tooMany(testFleet, "clusters/a", most); got != leaving {
			t.Errorf("%s: %d lose everything, want %d", what, got, leaving)
		}
	}
	name := planner.OverlayName("fleet", "clusters/a")
	want("all empty", 3, 4)
	b.own(testFleet, "clusters/b", owns("other"))
	want("b owns something else", 3, 4)
	b.own(testFleet, "clusters/b", nil)
	want("b has nothing to lose", 2, 3, name)
	b.own(testFleet, "clusters/gone", nil)
	want("one without a directory is approved to go", 2, 0, name)
	b.own(testFleet, "clusters/c", nil)
	want("nobody is held", 0, 1)
	// The cache says what the overlay said before.
	next := viewOf("2", map[string]string{"a": "", "b": "", "c": ""}, "a", "b", "c")
	next.leaving = v.leaving
	b.publish(next)
	for _, name := range []string{"a", "b", "c"} {
		b.store(name, b.render(name, next))
	}
	b.asked = nil
	want("the cache lags", 0, 1)
}

// What an overlay owned when its directory went counts, though the cache doesn't know of
// it yet.
func TestBoardLeavesLately(t *testing.T) {
	b := newBoardBed(t)
	v := viewOf("1", map[string]string{"a": one, "b": two}, "a", "b")
	b.publish(v)
	b.own(testFleet, "clusters/a", []object.ID{{Kind: "ConfigMap", Namespace: "x", Name: "one"}})
	b.store("a", b.render("a", v))
	next := viewOf("2", nil)
	next.leaving = map[string][]object.ID{"clusters/a": nil}
	b.publish(next)
	if got := b.tooMany(testFleet, "clusters/a", 0); got != 1 {
		t.Errorf("%d lose everything, want 1", got)
	}
}

// Who can't tell yet whether it looks after a shared Namespace is asked when that is known.
func TestBoardTends(t *testing.T) {
	b := newBoardBed(t)
	const shared = `{apiVersion: v1, kind: Namespace, metadata: {name: x}}`
	v := viewOf("1", map[string]string{"a": shared, "b": shared, "c": ""}, "a", "b", "c")
	b.publish(v)
	b.store("a", b.render("a", v))
	b.store("b", b.render("b", v))
	id := object.ID{Kind: "Namespace", Name: "x"}
	digest := b.fleets[testFleet].renderings["clusters/b"].claims[id].digest
	if _, known := b.tends(testFleet, "clusters/b", id, digest); known {
		t.Error("known before all are rendered")
	}
	if got := b.store("c", b.render("c", v)); !slices.Equal(got, []string{planner.OverlayName("fleet", "clusters/b")}) {
		t.Errorf("asked: %q", got)
	}
	for path, want := range map[string]bool{"clusters/a": true, "clusters/b": false} {
		if got, known := b.tends(testFleet, path, id, digest); got != want || !known {
			t.Errorf("%s tends it: %t, known %t", path, got, known)
		}
	}
	if got, known := b.tends(testFleet, "clusters/a", id, "another"); got || !known {
		t.Errorf("with something else on record: %t, known %t", got, known)
	}
}

// Who waits for an overlay that fails, and renders each time, doesn't wake itself by that.
func TestBoardSameAgain(t *testing.T) {
	b := newBoardBed(t)
	v := viewOf("1", map[string]string{"a": one, "b": "{kind: ["}, "a", "b")
	b.publish(v)
	b.store("b", b.render("b", v))
	b.store("a", b.render("a", v))
	if _, failing := b.settle(testFleet, "clusters/a"); len(failing) != 1 {
		t.Fatalf("failing: %q", failing)
	}
	if got := b.store("a", b.render("a", v)); len(got) > 0 {
		t.Errorf("the same again: asked %q", got)
	}
	if got := b.store("b", b.render("a", v)); !slices.Contains(got, planner.OverlayName("fleet", "clusters/a")) {
		t.Errorf("b is mended: asked %q", got)
	}
}

// Who waits for another overlay to take objects over is asked when that one is rendered
// again: it may render them no more.
func TestBoardHanded(t *testing.T) {
	b := newBoardBed(t)
	v := viewOf("1", map[string]string{"a": "", "b": one}, "a", "b")
	b.publish(v)
	b.store("a", b.render("a", v))
	b.store("b", b.render("b", v))
	id := object.ID{Kind: "ConfigMap", Namespace: "x", Name: "one"}
	if got := b.handed(testFleet, "clusters/a", []object.ID{id}); got[id] != "clusters/b" {
		t.Fatalf("handed: %v", got)
	}
	next := viewOf("2", map[string]string{"a": "", "b": two}, "a", "b")
	b.publish(next)
	if got := b.store("b", b.render("b", next)); !slices.Equal(got, []string{planner.OverlayName("fleet", "clusters/a")}) {
		t.Errorf("asked: %q", got)
	}
	if got := b.handed(testFleet, "clusters/a", []object.ID{id}); len(got) > 0 {
		t.Errorf("handed: %v", got)
	}
	if got := b.store("b", b.render("b", next)); len(got) > 0 {
		t.Errorf("asked although nothing is handed over: %q", got)
	}
}

// How long an overlay waits counts from its first look until all are rendered.
func TestBoardWaits(t *testing.T) {
	b := newBoardBed(t)
	v := viewOf("1", map[string]string{"a": one, "b": two}, "a", "b")
	b.publish(v)
	b.store("a", b.render("a", v))
	start := time.Unix(1000, 0)
	for _, want := range []time.Duration{0, time.Second, time.Minute} {
		b.settle(testFleet, "clusters/a")
		if got, unrendered := b.waits(testFleet, "clusters/a", start.Add(want)); got != want || len(unrendered) != 1 || unrendered[0] != "clusters/b" {
			t.Errorf("waited %s, want %s, for %q", got, want, unrendered)
		}
	}
	b.store("b", b.render("b", v))
	if got, unrendered := b.waits(testFleet, "clusters/a", start.Add(time.Hour)); got != 0 || len(unrendered) != 0 || len(b.fleets[testFleet].since) != 0 {
		t.Errorf("waited %s for %q", got, unrendered)
	}
}
