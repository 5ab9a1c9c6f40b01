package apply_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
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
