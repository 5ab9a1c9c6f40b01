package apply_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
)

// examination is how an object that seems to have drifted is looked at: a dry-run
// that reads it, and that no manager is in the way of.
func examination(req apply.Request) apply.Request {
	req.ReadAll = true
	req.Override = func(string) bool { return true }
	return req
}

// An examination shows each object as it is and as Git wants it, whatever has
// happened to it, and writes nothing.
func TestExamine(t *testing.T) {
	edit := func(manager, fields string) func(*bed) {
		return func(b *bed) {
			b.merge(manager, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, `+fields+`}`)
		}
	}
	remove := func(b *bed) {
		if err := env.Client().Delete(context.Background(), b.parse(configMap)[0]); err != nil {
			b.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		happens       func(*bed)
		action        apply.Action
		before, after any // data.a
		reason        string
		check         func(*bed, apply.Outcome)
	}{
		"nothing":         {happens: func(*bed) {}, action: apply.ActionUnchanged, before: "one", after: "one"},
		"a person":        {happens: edit("kubectl-edit", `data: {a: theirs}`), action: apply.ActionConfigured, before: "theirs", after: "one"},
		"a controller":    {happens: edit("manager", `data: {a: theirs}`), action: apply.ActionConfigured, before: "theirs", after: "one"},
		"several":         {happens: func(b *bed) { edit("manager", `data: {a: x}`)(b); edit("mystery", `data: {a: theirs}`)(b) }, action: apply.ActionConfigured, before: "theirs", after: "one"},
		"a field removed": {happens: edit("manager", `data: {a: null}`), action: apply.ActionConfigured, after: "one"},
		"a field beside":  {happens: edit("manager", `data: {b: theirs}`), action: apply.ActionUnchanged, before: "one", after: "one"},
		"deleted":         {happens: remove, action: apply.ActionCreated, after: "one", check: wantAbsent},
		"another made":    {happens: func(b *bed) { remove(b); b.as("manager", true, replace(configMap, "one", "theirs")) }, action: apply.ActionConfigured, before: "theirs", after: "one", check: wantOther},
		"another made, kubectl": {happens: func(b *bed) {
			remove(b)
			env.Kubectl(b.T, "person-"+b.ns).Run(b.T, b.text(replace(configMap, "a: one", "a: theirs, b: theirs")), "apply", "-f", "-")
		}, action: apply.ActionConfigured, before: "theirs", after: "one", check: func(b *bed, o apply.Outcome) {
			wantOther(b, o)
			if got := field(o.After, "data", "b"); got != nil {
				b.Errorf("b is %v: what a whole manifest said is Git's to remove", got)
			}
		}},
		"labels removed": {happens: edit("kubectl-label", `metadata: {name: c, namespace: NS, labels: {capstan.dev/overlay: null, capstan.dev/fleet: null}}`), action: apply.ActionConfigured, before: "one", after: "one", check: func(b *bed, o apply.Outcome) {
			if len(o.Before.GetLabels()) != 0 || o.After.GetLabels()[v1alpha1.OverlayLabel] != b.owner.Overlay {
				b.Errorf("labels %v, then %v", o.Before.GetLabels(), o.After.GetLabels())
			}
		}},
		"being deleted": {happens: func(b *bed) {
			edit("manager", `metadata: {name: c, namespace: NS, finalizers: [example.com/wait]}`)(b)
			remove(b)
			b.Cleanup(func() { b.unlock(b.parse(configMap)[0]) })
		}, action: apply.ActionRefused, before: "one", reason: v1alpha1.TransientReason, check: func(b *bed, o apply.Outcome) {
			if o.Before.GetDeletionTimestamp() == nil || !o.Err.Transient {
				b.Errorf("deleted at %v, error %v", o.Before.GetDeletionTimestamp(), o.Err)
			}
		}},
		"another overlay's": {happens: edit(v1alpha1.FieldManager, `metadata: {name: c, namespace: NS, labels: {capstan.dev/overlay: other}}`), action: apply.ActionRefused, before: "one", reason: v1alpha1.OwnedByOtherReason},
		"left alone":        {happens: edit("kubectl-annotate", `metadata: {name: c, namespace: NS, annotations: {capstan.dev/reconcile: disabled}}, data: {a: theirs}`), action: apply.ActionSkipped, before: "theirs"},
		"left to others":    {happens: edit("kubectl-edit", `metadata: {name: c, namespace: NS, annotations: {capstan.dev/ignore: /data/a}}, data: {a: theirs}`), action: apply.ActionUnchanged, before: "theirs", after: "theirs"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			req := b.request(configMap)
			req.Known = b.must(req)
			test.happens(b)
			stored := b.live(configMap)

			mark := env.Mark(t)
			report := b.dryRun(examination(req))
			for _, r := range env.Requests(t, b.user, mark) {
				if r.Verb != "get" && !r.DryRun {
					t.Errorf("written: %s", r)
				}
			}
			if diff := cmp.Diff(stored, b.live(configMap)); diff != "" {
				t.Errorf("changed:\n%s", diff)
			}
			b.wantActions(report, "ConfigMap c: "+string(test.action))
			o := report.Outcomes[0]
			if test.reason == "" && o.Err != nil || test.reason != "" && (o.Err == nil || o.Err.Reason != test.reason) {
				t.Errorf("error %v, want reason %q", o.Err, test.reason)
			}
			if got := dataOf(o.Before); got != test.before {
				t.Errorf("before: a is %v, want %v", got, test.before)
			}
			if got := dataOf(o.After); test.action != apply.ActionSkipped && got != test.after {
				t.Errorf("after: a is %v, want %v", got, test.after)
			}
			if test.check != nil {
				test.check(b, o)
			}
		})
	}
}

func dataOf(u *unstructured.Unstructured) any {
	if u == nil {
		return nil
	}
	return field(u, "data", "a")
}

func wantAbsent(b *bed, o apply.Outcome) {
	b.Helper()
	if o.Before != nil || o.Ref.UID != "" {
		b.Errorf("there was something: %v, UID %q", o.Before, o.Ref.UID)
	}
}

func wantOther(b *bed, o apply.Outcome) {
	b.Helper()
	if o.Ref.UID != o.Before.GetUID() || o.Before.GetLabels()[v1alpha1.OverlayLabel] != "" || o.After.GetLabels()[v1alpha1.OverlayLabel] == "" {
		b.Errorf("UID %q; labels %v, then %v", o.Ref.UID, o.Before.GetLabels(), o.After.GetLabels())
	}
}

// A paused cluster is examined all the same; the report says that it is paused.
func TestExaminePaused(t *testing.T) {
	b := newBed(t)
	known := b.must(clusterRequest(b, ""))
	b.merge("clusterctl", `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: k, namespace: NS}, spec: {paused: true}}`)
	b.merge("kubectl-edit", replace(configMap, "one", "theirs"))
	req := clusterRequest(b, "")
	req.Known = known
	report := b.dryRun(examination(req))
	b.wantActions(report, "ConfigMap c: Configured", "Cluster k: Unchanged")
	b.wantError(report, v1alpha1.ClusterPausedReason, true, "paused")
	if o := report.Outcomes[0]; dataOf(o.Before) != "theirs" || dataOf(o.After) != "one" {
		t.Errorf("before %v, after %v", dataOf(o.Before), dataOf(o.After))
	}
	if o := report.Outcomes[1]; field(o.Before, "spec", "paused") != true || field(o.After, "spec", "paused") != true {
		t.Errorf("paused %v, then %v", field(o.Before, "spec", "paused"), field(o.After, "spec", "paused"))
	}
}

// What the examination and the correction of one object cost. The Cluster is read
// once where the request names it, also if it is the object itself.
func TestExamineRequests(t *testing.T) {
	b := newBed(t)
	known := b.must(clusterRequest(b, ""))
	get, cluster := "get configmaps NS/c: 200", "get clusters NS/k: 200"
	examined, forced := "patch (dry-run) (force) configmaps NS/c: 200", "patch (force) configmaps NS/c: 200"
	var found *unstructured.Unstructured
	for _, step := range []struct {
		name    string
		happens func()
		request func() (apply.Request, bool) // true: apply
		want    []string
	}{
		{"examine a changed one", func() { b.merge("kubectl-edit", replace(configMap, "one", "theirs")) },
			func() (apply.Request, bool) { return examination(b.one(known, 0, false)), false }, []string{get, examined}},
		{"examine it with its Cluster", func() {},
			func() (apply.Request, bool) { return examination(b.one(known, 0, true)), false }, []string{cluster, get, examined}},
		{"correct it", func() {},
			func() (apply.Request, bool) { return b.one(known, 0, true), true },
			[]string{cluster, get, forced}},
		{"examine what has changed again", func() { b.merge("kubectl-edit", replace(configMap, "one", "theirs")) },
			func() (apply.Request, bool) { return examination(b.one(known, 0, false)), false }, []string{get, examined}},
		{"correct it as it was found", func() {},
			func() (apply.Request, bool) { return seen(b.one(known, 0, true), found), true }, []string{cluster, forced}},
		{"examine it once more", func() {},
			func() (apply.Request, bool) { return examination(b.one(known, 0, false)), false }, []string{get, "patch (dry-run) configmaps NS/c: 200"}},
		{"correct a field removed", func() { b.merge("kubectl-edit", replace(configMap, "one", "null")) },
			func() (apply.Request, bool) { return b.one(known, 0, true), true }, []string{cluster, get, "patch configmaps NS/c: 200"}},
		{"correct the Cluster", func() {},
			func() (apply.Request, bool) { return b.one(known, 1, true), true }, []string{cluster, "patch clusters NS/k: 200"}},
	} {
		step.happens()
		found = b.live(configMap)
		req, write := step.request()
		mark := env.Mark(t)
		var report apply.Report
		if write {
			report = b.run(req)
		} else {
			report = b.dryRun(req)
		}
		if err := report.Err(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if diff := cmp.Diff(step.want, b.counted(mark)); diff != "" {
			t.Errorf("%s: requests (-want +got):\n%s", step.name, diff)
		}
	}
}

// seen asks for what was read a moment ago.
func seen(req apply.Request, live ...*unstructured.Unstructured) apply.Request {
	req.Seen = map[object.ID]*unstructured.Unstructured{}
	for _, u := range live {
		req.Seen[object.IDOf(u)] = u
	}
	return req
}

// one is a request for one of the objects of a Cluster with a ConfigMap: the
// ConfigMap, or the Cluster.
func (b *bed) one(known map[object.ID]types.UID, i int, cluster bool) apply.Request {
	b.Helper()
	req := clusterRequest(b, "")
	req.Known, req.All = known, req.Objects
	req.Objects = req.Objects[1-i : 2-i]
	if !cluster {
		req.Cluster = nil
	}
	return req
}

// Managers that a request names give way in an apply, controllers never; what is
// taken is what was looked at.
func TestOverride(t *testing.T) {
	everybody := func(string) bool { return true }
	nobody := func(string) bool { return false }
	for name, test := range map[string]struct {
		manager  string
		override func(string) bool
		taken    bool
	}{
		"unknown, named":         {"mystery", func(m string) bool { return m == "mystery" }, true},
		"unknown, another named": {"mystery", func(m string) bool { return m == "other" }, false},
		"unknown, none named":    {"mystery", nobody, false},
		"controller":             {"manager", everybody, false},
		"autoscaler":             {"cluster-autoscaler", everybody, false},
		"person":                 {"kubectl-edit", nobody, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			req := b.request(configMap)
			req.Known = b.must(req)
			b.merge(test.manager, replace(configMap, "one", "theirs"))
			req.Override = test.override
			report := b.run(req)
			if !test.taken {
				b.wantError(report, v1alpha1.ConflictReason, false, ".data.a", test.manager)
				if got := dataOf(b.live(configMap)); got != "theirs" {
					t.Errorf("a is %v: taken from a manager that doesn't give way", got)
				}
				return
			}
			if err := report.Err(); err != nil {
				t.Fatal(err)
			}
			if got := dataOf(b.live(configMap)); got != "one" {
				t.Errorf("a is %v", got)
			}
		})
	}
}

// What is taken by force is what was looked at: another that has come in between
// keeps what it has, and the answer says so.
func TestOverrideLooksAgain(t *testing.T) {
	b := newBed(t)
	req := b.request(configMap)
	req.Known = b.must(req)
	b.merge("mystery", replace(configMap, "one", "theirs"))
	b.before(func(r *http.Request) bool {
		return r.URL.Query().Get("force") == "true" && r.URL.Query().Get("dryRun") == ""
	}, func() {
		b.merge("manager", replace(configMap, "one", "a controller's"))
	})
	req.Override = func(m string) bool { return m == "mystery" }
	b.wantError(b.run(req), v1alpha1.ConflictReason, false, ".data.a", "manager")
	if got := dataOf(b.live(configMap)); got != "a controller's" {
		t.Errorf("a is %v", got)
	}
}
