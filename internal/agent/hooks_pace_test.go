package agent

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/web"
)

// The first hint is followed at once, those within a second after it together at its
// end, and none is lost: what is asked for begins after the hint.
func TestPace(t *testing.T) {
	var p pace
	start := time.Unix(1000, 0)
	for _, test := range []struct{ at, want time.Duration }{
		{0, 0},
		{0, time.Second},
		{400 * time.Millisecond, 600 * time.Millisecond},
		{999 * time.Millisecond, time.Millisecond},
		{1000 * time.Millisecond, time.Second}, // that of before has begun
		{1500 * time.Millisecond, 500 * time.Millisecond},
		{2100 * time.Millisecond, 900 * time.Millisecond},
		{time.Minute, 0},
		{time.Minute + 1, time.Second - 1},
	} {
		if got := p.next(start.Add(test.at)); got != test.want {
			t.Errorf("at %s: wait %s, want %s", test.at, got, test.want)
		}
	}
	// However many come in ten seconds, they begin at most once a second.
	p = pace{}
	begins := map[time.Time]bool{}
	for i := range 500 {
		now := start.Add(time.Duration(i) * 20 * time.Millisecond)
		begins[now.Add(p.next(now))] = true
	}
	if len(begins) > 11 {
		t.Errorf("%d looks in ten seconds", len(begins))
	}
}

// When in doubt, a change concerns somebody.
func TestConcerns(t *testing.T) {
	b := newBoardBed(t)
	notes := []string{"clusters/a/notes.txt", "README.md"}
	if !b.concerns(testFleet, nil, notes) {
		t.Error("nothing is known, and yet it concerns nobody")
	}
	first := viewOf("1", map[string]string{"a": one, "b": two}, "a", "b")
	b.publish(first)
	b.store("a", b.render("a", first))
	if !b.concerns(testFleet, first, notes) {
		t.Error("b is not rendered, and yet it concerns nobody")
	}
	b.store("b", b.render("b", first))
	for path, want := range map[string]bool{
		"clusters/a/notes.txt": false, "README.md": false, "clusters/b/all.yaml": true, "clusters/a/kustomization.yml": true,
		"clusters/c/kustomization.yaml": true, "clusters/c/all.yaml": false,
		`"clusters/b/\303\244.yaml"`: true, "clusters/c/\ufffd.yaml": true, `back\slash`: true,
	} {
		if got := b.concerns(testFleet, first, []string{"README.md", path}); got != want {
			t.Errorf("%q: concerns %t, want %t", path, got, want)
		}
	}
	if !b.concerns(testFleet, first, make([]string, maxPaths+1)) {
		t.Error("more files than are looked up concern nobody")
	}
	second := viewOf("2", map[string]string{"a": one, "b": "{kind: ["}, "a", "b")
	if !b.concerns(testFleet, second, notes) {
		t.Error("of another view it is known that it concerns nobody")
	}
	b.publish(second)
	b.store("b", b.render("b", second))
	if !b.concerns(testFleet, second, notes) {
		t.Error("b fails, and yet it concerns nobody")
	}
	third := viewOf("3", map[string]string{"a": one}, "a")
	third.unfollowed = true
	b.publish(third)
	if !b.concerns(testFleet, third, notes) {
		t.Error("an overlay is not followed, and yet it concerns nobody")
	}
	third.unfollowed, third.search = false, render.DiscoverInput{Paths: []string{"elsewhere/*"}}
	if b.concerns(testFleet, third, []string{"clusters/c/kustomization.yaml"}) || !b.concerns(testFleet, third, []string{"elsewhere/c/kustomization.yaml"}) {
		t.Error("the Fleet's own paths don't count")
	}
}

// Which pushes are not worth a look. What is held is a measure only as long as nobody
// looks: a look that asked before the push may bring back what was there before.
func TestPointless(t *testing.T) {
	b := newBoardBed(t)
	v := viewOf("1", map[string]string{"a": one}, "a")
	b.publish(v)
	b.store("a", b.render("a", v))
	b.observed(testFleet, v.revision, "")
	elected := make(chan struct{})
	close(elected)
	looks := 0
	k := &hooked{hook: web.Hook{Ref: "refs/heads/main"}, ref: v1alpha1.GitRef{Branch: "main"}}
	h := &Hooks{
		board: b.board, elected: elected, clock: clocktesting.NewFakePassiveClock(time.Unix(1000, 0)),
		sync:   func(types.NamespacedName, time.Duration) { looks++ },
		fleets: map[types.NamespacedName]*hooked{testFleet: k}, running: map[types.NamespacedName]bool{},
	}
	push := func(ref, before, after string, paths ...string) bool {
		t.Helper()
		n := looks
		taken, why, err := h.Push(t.Context(), testFleet, forge.Event{
			Kind: forge.PushEvent, Ref: ref, Before: before, After: after, Paths: paths, PathsComplete: len(paths) > 0,
		})
		if err != nil || taken == (why != "") || taken != (looks > n) {
			t.Errorf("taken %t, %q, %v, %d looks", taken, why, err, looks-n)
		}
		return taken
	}
	const main = "refs/heads/main"
	for _, test := range []struct {
		name, before, after string
		paths               []string
		running, want       bool
	}{
		{"the commit that is held", "0", "1", nil, false, false},
		{"the same during a look", "0", "1", nil, true, true},
		{"another commit", "1", "2", nil, false, true},
		{"a file that nobody reads", "1", "2", []string{"README.md"}, false, false},
		{"the same during a look", "1", "2", []string{"README.md"}, true, true},
		{"another after that", "2", "3", []string{"README.md"}, false, false},
		{"a file that is read", "3", "4", []string{"clusters/a/all.yaml"}, false, true},
		{"a file that nobody reads, after pushes that were not heard of", "9", "10", []string{"README.md"}, false, true},
	} {
		h.running[testFleet] = test.running
		if got := push(main, test.before, test.after, test.paths...); got != test.want {
			t.Errorf("%s: taken %t, want %t", test.name, got, test.want)
		}
	}
	h.running[testFleet] = false
	b.observed(testFleet, source.Revision{Hash: "5"}, "it can't be looked at")
	if !push(main, "5", "1") || !push(main, "1", "6", "README.md") {
		t.Error("the branch is back at the commit that is held, and nobody takes note")
	}
	b.observed(testFleet, v.revision, "")
	k.hook.Ref, k.ref = "", v1alpha1.GitRef{SemVer: ">=1"}
	if push(main, "1", "2") || !push("refs/tags/v2", "0", "1") {
		t.Error("to a range of versions, tags matter and nothing else")
	}
	k.ref = v1alpha1.GitRef{Commit: "1"}
	if push(main, "1", "2") {
		t.Error("nothing can be new to a Fleet that has the commit it is pinned to")
	}
	k.ref.Commit = "7"
	if !push(main, "6", "7") {
		t.Error("the commit may be there now")
	}
	k.suspended = true
	if push(main, "6", "7") {
		t.Error("a suspended Fleet looks")
	}
	delete(h.fleets, testFleet)
	if push(main, "6", "7") {
		t.Error("a Fleet that is gone looks")
	}
}

// A pull request is looked at when its commit is another one than was looked at last,
// or it is closed. What is delivered again costs nothing.
func TestPullHint(t *testing.T) {
	elected := make(chan struct{})
	close(elected)
	looks := 0
	name := pullRequest{Fleet: testFleet, Number: 7}
	h := &Hooks{
		elected: elected, checked: newCheckedPulls(), pull: func(types.NamespacedName, int) { looks++ },
		fleets: map[types.NamespacedName]*hooked{testFleet: {}},
	}
	for _, test := range []struct {
		name, action, head string
		before             func()
		want               bool
	}{
		{"opened", "opened", "1", nil, true},
		{"before it was looked at", "synchronize", "1", nil, true},
		{"delivered again", "opened", "1", func() { h.checked.done(name, "1") }, false},
		{"another title", "edited", "1", nil, false},
		{"another commit", "synchronize", "2", nil, true},
		{"closed", "closed", "2", func() { h.checked.done(name, "2") }, true},
		{"opened again", "reopened", "2", func() { h.checked.drop(name) }, true},
		{"the branch has moved", "synchronize", "2", func() { h.checked.done(name, "2"); h.checked.forget(testFleet) }, true},
	} {
		if test.before != nil {
			test.before()
		}
		before := looks
		taken, why, err := h.PullRequest(t.Context(), testFleet, forge.Event{Kind: forge.PullRequestEvent, Number: 7, Action: test.action, Head: test.head})
		if err != nil || taken != test.want || taken == (why != "") || taken != (looks > before) {
			t.Errorf("%s: taken %t, %q, %v, %d looks; want %t", test.name, taken, why, err, looks-before, test.want)
		}
	}
}

// What deliveries of a Fleet are checked with.
func TestHookOf(t *testing.T) {
	token := &v1alpha1.LocalReference{Name: "token"}
	for _, test := range []struct {
		name  string
		git   v1alpha1.GitSpec
		forge v1alpha1.ForgeSpec
		want  web.Hook
	}{
		{"a branch", v1alpha1.GitSpec{URL: "https://git.example.com/team/fleet.git", Ref: v1alpha1.GitRef{Branch: "main"}}, v1alpha1.ForgeSpec{SecretRef: token},
			web.Hook{Repository: "team/fleet", Ref: "refs/heads/main", Branch: "main", PullRequests: true}},
		{"no token", v1alpha1.GitSpec{URL: "git@git.example.com:team/fleet.git", Ref: v1alpha1.GitRef{Branch: "main"}}, v1alpha1.ForgeSpec{},
			web.Hook{Repository: "team/fleet", Ref: "refs/heads/main", Branch: "main"}},
		{"no pull requests", v1alpha1.GitSpec{Ref: v1alpha1.GitRef{Branch: "main"}},
			v1alpha1.ForgeSpec{Repository: "other/name", SecretRef: token, PullRequests: v1alpha1.PullRequestsSpec{Mode: v1alpha1.PullRequestsIgnore}},
			web.Hook{Repository: "other/name", Ref: "refs/heads/main", Branch: "main"}},
		{"a tag", v1alpha1.GitSpec{URL: "/srv/fleet", Ref: v1alpha1.GitRef{Tag: "v1"}}, v1alpha1.ForgeSpec{SecretRef: token}, web.Hook{Ref: "refs/tags/v1"}},
		{"a ref", v1alpha1.GitSpec{URL: "/srv/fleet", Ref: v1alpha1.GitRef{Name: "refs/pull/7/head"}}, v1alpha1.ForgeSpec{}, web.Hook{Ref: "refs/pull/7/head"}},
		{"versions", v1alpha1.GitSpec{URL: "/srv/fleet", Ref: v1alpha1.GitRef{SemVer: ">=1"}}, v1alpha1.ForgeSpec{SecretRef: token}, web.Hook{}},
	} {
		f := &v1alpha1.Fleet{Spec: v1alpha1.FleetSpec{Git: test.git, Forge: &test.forge}}
		got := hookOf(f)
		if got.Repository != test.want.Repository || got.Ref != test.want.Ref || got.Branch != test.want.Branch || got.PullRequests != test.want.PullRequests {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}
