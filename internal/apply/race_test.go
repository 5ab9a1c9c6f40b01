package apply_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
)

// before makes the bed's Applier let something happen before the first request
// that a test picks is sent.
func (b *bed) before(picked func(*http.Request) bool, happens func()) {
	b.Helper()
	var once sync.Once
	config := env.Config(b.user)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if picked(r) {
				once.Do(happens)
			}
			return next.RoundTrip(r)
		})
	})
	b.apply = newApplier(b.T, config)
}

// An object that is deleted and made anew between our look and our delete stays.
func TestDeleteRace(t *testing.T) {
	ctx := context.Background()
	b := newBed(t)
	ref := b.run(b.request(configMap)).Outcomes[0].Ref
	b.before(func(r *http.Request) bool { return r.Method == http.MethodDelete }, func() {
		live := b.live(configMap)
		if err := env.Client().Delete(ctx, live); err != nil {
			t.Error(err)
		}
		if err := env.Client().Create(ctx, b.request(configMap).Objects[0]); err != nil {
			t.Error(err)
		}
	})
	if outcome, err := b.apply.Delete(ctx, ref, b.owner); err != nil || outcome != apply.DeleteUIDChanged {
		t.Errorf("%s, %v", outcome, err)
	}
	if b.live(configMap) == nil {
		t.Error("the new object was deleted")
	}
}

// A controller that sets a field between our decision to overrule a person and
// the write is not overruled.
func TestForceRace(t *testing.T) {
	for name, single := range map[string]bool{"single": true, "several": false} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			known := b.must(b.request(two))
			b.as("kubectl-edit", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: person}}`)
			forced := func(r *http.Request) bool {
				return r.URL.Query().Get("force") == "true" && r.URL.Query().Get("dryRun") == ""
			}
			b.before(forced, func() {
				b.as("manager", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: controller}}`)
			})
			req := b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: git}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}}`)
			req.Known = known
			if single {
				req.Objects = req.Objects[:1]
			}
			b.wantError(b.run(req), v1alpha1.ConflictReason, false, `"manager"`)
			if got := field(b.live(configMap), "data", "a"); got != "controller" {
				t.Errorf("a is %v", got)
			}
		})
	}
}

// An object that appears between our look and our apply is not written over if
// it says something else, whoever made it.
func TestCreateRace(t *testing.T) {
	b := newBed(t)
	b.before(func(r *http.Request) bool { return r.Method == http.MethodPatch }, func() {
		b.as("some-controller", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: theirs}}`)
	})
	b.wantError(b.run(b.request(configMap)), v1alpha1.ConflictReason, false, `"some-controller"`)
}

// An object that another Fleet or a person makes between our look and our write
// is looked at before it is written over: other labels are not taken off, and a
// person's fields are taken over as they are with any adoption.
func TestCreateRaceLooksAgain(t *testing.T) {
	const theirs = `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS, labels: {capstan.dev/fleet: other, capstan.dev/overlay: other-a}}, data: {a: VALUE}}`
	const secret = "\n---\n{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}}"
	for name, test := range map[string]struct {
		manager, value string
		update, single bool
	}{
		"kubectl, one object":         {manager: "kubectl-create", update: true, value: "theirs", single: true},
		"kubectl, several":            {manager: "kubectl-create", update: true, value: "theirs"},
		"another Fleet, several":      {manager: v1alpha1.FieldManager, value: "theirs"},
		"another Fleet, same content": {manager: v1alpha1.FieldManager, value: "one"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.before(func(r *http.Request) bool { return r.Method == http.MethodPatch }, func() {
				b.as(test.manager, test.update, replace(theirs, "VALUE", test.value))
			})
			manifests := configMap
			if !test.single {
				manifests += secret
			}
			b.wantError(b.run(b.request(manifests)), v1alpha1.OwnedByOtherReason, false, "other-a")
			live := b.live(configMap)
			if field(live, "data", "a") != test.value || live.GetLabels()[v1alpha1.FleetLabel] != "other" {
				t.Errorf("written over: %v", live.Object)
			}
		})
	}
	t.Run("nobody's", func(t *testing.T) {
		b := newBed(t)
		made := false
		b.before(func(r *http.Request) bool {
			return r.Method == http.MethodPatch && r.URL.Query().Get("dryRun") == ""
		}, func() {
			b.as("kubectl-client-side-apply", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: theirs, b: theirs}}`)
			made = true
		})
		b.wantActions(b.run(b.request(configMap+secret)), "ConfigMap c: Configured", "Secret s: Created")
		if diff := cmp.Diff(map[string]any{"a": "one"}, field(b.live(configMap), "data")); diff != "" || !made {
			t.Error(diff)
		}
	})
}

// Objects that turn out to be others than those known are looked at side by side,
// the Cluster among them.
func TestOthersThanKnown(t *testing.T) {
	b := newBed(t)
	manifests := `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: k, namespace: NS}, spec: {controlPlaneEndpoint: {host: 10.0.0.1, port: 6443}}}`
	for i := range 8 {
		manifests += "\n---\n" + replace(configMap, "name: c", fmt.Sprint("name: c", i))
	}
	req := b.request(manifests)
	req.Known = b.must(req)
	for id := range req.Known {
		if id.Name == "k" || id.Name < "c4" {
			req.Known[id] = "00000000-0000-0000-0000-000000000000"
		} else {
			delete(req.Known, id)
		}
	}
	req.Cluster = &object.ID{Group: "cluster.x-k8s.io", Kind: "Cluster", Namespace: b.ns, Name: "k"}
	report := b.run(req)
	if report.Err() != nil || report.Count(apply.ActionUnchanged) != len(req.Objects) {
		t.Errorf("%+v", report)
	}
}

// Requests of one overlay that hang leave room for another's.
func TestFair(t *testing.T) {
	b := newBed(t)
	slow, resume := env.Namespace(t), make(chan struct{})
	var hanging atomic.Int64
	config := env.Config(b.user)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if contains(r.URL.Path, "/namespaces/"+slow+"/") {
				hanging.Add(1)
				<-resume
			}
			return next.RoundTrip(r)
		})
	})
	b.apply = newApplier(t, config)
	manifests := configMap
	for i := range 20 {
		manifests += "\n---\n" + replace(configMap, "name: c", fmt.Sprint("name: c", i))
	}
	stuck := &bed{T: t, apply: b.apply, ns: slow, user: b.user, owner: b.owner}
	req := stuck.request(manifests)
	var overlays sync.WaitGroup
	overlays.Go(func() { stuck.must(req) })
	eventually(t, func() bool { return hanging.Load() == 4 })
	done := make(chan struct{})
	overlays.Go(func() {
		b.must(b.request(two))
		close(done)
	})
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("an overlay waits for another's requests")
	}
	close(resume)
	overlays.Wait()
}

// While discovery hangs for a kind that nobody knows, known kinds are found; and
// all that wait for discovery share one.
func TestDiscoveryHangs(t *testing.T) {
	b := newBed(t)
	var hang atomic.Bool
	var discoveries atomic.Int64
	resume := make(chan struct{})
	config := env.Config(b.user)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/api" && hang.Load() {
				discoveries.Add(1)
				<-resume
			}
			return next.RoundTrip(r)
		})
	})
	b.apply = newApplier(t, config)
	b.must(b.request(configMap))
	hang.Store(true)
	var waiting sync.WaitGroup
	for range 10 {
		waiting.Go(func() {
			ref := v1alpha1.ObjectReference{Group: "example.com", Version: "v1", Kind: "Absent", Namespace: b.ns, Name: "x"}
			if _, err := b.apply.Get(context.Background(), ref); !apply.IsNotFound(err) {
				t.Error(err)
			}
		})
	}
	eventually(t, func() bool { return discoveries.Load() == 1 })
	done := make(chan struct{})
	waiting.Go(func() {
		b.must(b.request(two))
		close(done)
	})
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("known kinds wait for discovery")
	}
	if n := discoveries.Load(); n != 1 {
		t.Errorf("%d discoveries while the first hangs", n)
	}
	close(resume)
	waiting.Wait()
	// Each caller asks twice before a kind counts as absent. How many of the looks
	// after the first are shared is the scheduler's choice.
	if n := discoveries.Load(); n >= 20 {
		t.Errorf("%d discoveries, none was shared", n)
	}
}

// The wait for a kind that is never served asks less and less often.
func TestAwaitKindsBacksOff(t *testing.T) {
	b := newBed(t)
	var discoveries atomic.Int64
	config := env.Config(b.user)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/apis" {
				discoveries.Add(1)
			}
			return next.RoundTrip(r)
		})
	})
	var err error
	b.apply, err = apply.New(apply.Options{Config: config, DefinitionTimeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	manifests := replace(definition("size: {type: integer}"), "served: true, storage: true", "served: false, storage: true")
	b.run(b.request(manifests + "\n---\n" + widget))
	if n := discoveries.Load(); n < 3 || n > 12 {
		t.Errorf("%d discoveries in 3 s", n)
	}
}

// All identities and overlays together have no more requests in flight than
// allowed, and the kinds are asked for once.
func TestConcurrency(t *testing.T) {
	b := newBed(t)
	var now, most, discoveries atomic.Int64
	config := env.Config(b.user)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/api" || r.URL.Path == "/apis" {
				discoveries.Add(1)
				return next.RoundTrip(r)
			}
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			return next.RoundTrip(r)
		})
	})
	a, err := apply.New(apply.Options{Config: config, Concurrency: 3})
	if err != nil {
		t.Fatal(err)
	}
	var overlays sync.WaitGroup
	for range 10 {
		overlays.Go(func() {
			bed := &bed{T: t, apply: a, ns: env.Namespace(t), user: b.user, owner: b.owner}
			bed.must(bed.request(two))
		})
	}
	overlays.Wait()
	if most.Load() > 3 {
		t.Errorf("%d requests in flight", most.Load())
	}
	if discoveries.Load() != 2 {
		t.Errorf("%d discovery requests, want 2", discoveries.Load())
	}
}

// A group whose own API server is down is neither served nor absent; the others
// are not affected.
func TestGroupUnavailable(t *testing.T) {
	ctx := context.Background()
	b := newBed(t)
	group := b.ns + ".broken.example.com"
	service := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": "v1." + group},
		"spec": map[string]any{
			"group": group, "version": "v1", "groupPriorityMinimum": int64(1000), "versionPriority": int64(10),
			"service": map[string]any{"namespace": b.ns, "name": "nowhere"},
		},
	}}
	service.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"})
	if err := env.Client().Create(ctx, service); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = env.Client().Delete(ctx, service, &client.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
	})

	ref := v1alpha1.ObjectReference{Group: group, Version: "v1", Kind: "Thing", Namespace: b.ns, Name: "x"}
	eventually(t, func() bool {
		_, err := newApplier(t, env.Config(b.user)).Get(ctx, ref)
		return err != nil && !apply.IsNotFound(err)
	})
	b.apply = newApplier(t, env.Config(b.user))
	if outcome, err := b.apply.Delete(ctx, ref, b.owner); err == nil {
		t.Errorf("delete: %s", outcome)
	}
	report := b.run(b.request(configMap + "\n---\n" + `{apiVersion: ` + group + `/v1, kind: Thing, metadata: {name: x, namespace: NS}}`))
	b.wantError(report, v1alpha1.TransientReason, true, "discovery")
	b.wantActions(b.run(b.request(configMap)), "ConfigMap c: Created")
	if _, err := b.apply.Owned(ctx, b.owner, nil); err != nil {
		t.Errorf("owned: %v", err)
	}
}
