package apply_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
)

// A webhook that does not answer is no verdict about the objects.
func TestWebhookUnavailable(t *testing.T) {
	b := newBed(t)
	brokenWebhook(t, b.ns, "configmaps")
	report := b.run(b.request(two))
	b.wantActions(report, "ConfigMap c: Failed", "Secret s: NotReached")
	b.wantError(report, v1alpha1.TransientReason, true, "broken.example.com")
}

// A policy's refusal is a verdict, although its code is that of missing rights.
func TestDenied(t *testing.T) {
	b := newBed(t)
	deny(t, b.ns, "secrets", true)
	report := b.run(b.request(two))
	b.wantActions(report, "ConfigMap c: NotReached", "Secret s: Failed")
	b.wantError(report, v1alpha1.InvalidReason, false, "not here")
}

// Under a ServiceAccount its rights count, and an error says whose rights and
// what was tried.
func TestImpersonation(t *testing.T) {
	b := newBed(t)
	account := "system:serviceaccount:" + b.ns + ":fleet"
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: b.ns, Name: "fleet"}
	env.Grant(t, subject, b.ns, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "create", "patch"}})
	as, err := b.apply.As(account)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.apply.As(account); err != nil || again != as {
		t.Error("a second Applier for the same account")
	}
	b.apply = as
	eventually(t, func() bool { return b.dryRun(b.request(configMap)).Err() == nil })

	mark := env.Mark(t)
	report := b.run(b.request(two))
	b.wantActions(report, "ConfigMap c: NotReached", "Secret s: Failed")
	b.wantError(report, v1alpha1.ForbiddenReason, false, account+" may not read it", "secrets")
	for _, r := range env.Requests(t, b.user, mark) {
		if r.Resource != "" && r.As != account {
			t.Errorf("not sent as the account: %s", r)
		}
	}
	b.wantActions(b.run(b.request(configMap)), "ConfigMap c: Created")
}

// Whatever the API server quotes, no secret value is in an error.
func TestErrorsHoldNoSecrets(t *testing.T) {
	b := newBed(t)
	report := b.run(b.request(`{apiVersion: v1, kind: Secret, metadata: {name: number, namespace: NS}, stringData: {password: 4815162342}}
---
{apiVersion: v1, kind: Secret, metadata: {name: type, namespace: NS}, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: "hunter2 hunter2"}}
---
{apiVersion: controlplane.cluster.x-k8s.io/v1alpha3, kind: TalosControlPlane, metadata: {name: cp, namespace: NS}, spec: {version: v1.30.0, infrastructureTemplate: {kind: ProxmoxMachineTemplate, name: x},
 controlPlaneConfig: {controlplane: {generateType: controlplane, strategicPatches: {token: hunter2 hunter2}, data: [hunter2 hunter2]}}}}`))
	if len(report.Errors()) != 3 {
		t.Errorf("%d errors: %v", len(report.Errors()), report.Err())
	}
	for _, secret := range []string{"4815162342", "4.815162342e+09", "hunter2"} {
		if text := report.Err().Error(); contains(text, secret) {
			t.Errorf("%s in:\n%s", secret, text)
		}
	}
}

// faulty fails requests that a test picks, as a broken connection does.
type faulty struct {
	next http.RoundTripper
	fail atomic.Pointer[func(*http.Request) bool]
}

var errBroken = errors.New("connection broken by the test")

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	if fail := f.fail.Load(); fail != nil && (*fail)(r) {
		return nil, errBroken
	}
	return f.next.RoundTrip(r)
}

func (b *bed) faulty() *faulty {
	f := &faulty{}
	config := env.Config(b.user)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		f.next = next
		return f
	})
	b.apply = newApplier(b.T, config)
	return f
}

// Whichever request is cut off: the report never claims more than what is live,
// no object counts as absent that is not, and the same request again completes
// the work.
func TestCutOff(t *testing.T) {
	manifests := `{apiVersion: v1, kind: Namespace, metadata: {name: NS-cut}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS-cut}, data: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: old, namespace: NS}, data: {a: new}}
---
{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineHealthCheck, metadata: {name: m, namespace: NS}, spec: {clusterName: x, selector: {matchLabels: {a: b}}}}`
	for cut := 0; ; cut++ {
		done := false
		t.Run(fmt.Sprint("after ", cut), func(t *testing.T) {
			b := newBed(t)
			b.as("helm", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: old, namespace: NS}, data: {a: old, b: old}}`)
			f := b.faulty()
			if _, err := b.apply.Get(context.Background(), v1alpha1.ObjectReference{Version: "v1", Kind: "Namespace", Name: b.ns}); err != nil {
				t.Fatal(err) // discovery is done
			}
			var sent atomic.Int64
			fail := func(*http.Request) bool { return sent.Add(1) > int64(cut) }
			f.fail.Store(&fail)
			report := b.run(b.request(manifests))
			f.fail.Store(nil)
			for _, err := range report.Errors() {
				b.checkError(err, v1alpha1.TransientReason, true, "no answer")
			}
			for _, o := range report.Outcomes {
				live := b.live(fmt.Sprintf(`{apiVersion: %s, kind: %s, metadata: {name: %s, namespace: "%s"}}`,
					strings.TrimPrefix(o.Ref.Group+"/"+o.Ref.Version, "/"), o.ID.Kind, o.ID.Name, o.ID.Namespace))
				if written := o.Action == apply.ActionCreated || o.Action == apply.ActionConfigured; written && (live == nil || live.GetUID() != o.Ref.UID) {
					t.Errorf("%s: %s, but live: %v", o.ID, o.Action, live != nil)
				}
			}
			done = len(report.Errors()) == 0
			if report = b.run(b.request(manifests)); report.Err() != nil {
				t.Errorf("again: %v", report.Err())
			}
			if got := field(b.live(`{apiVersion: v1, kind: ConfigMap, metadata: {name: old, namespace: NS}}`), "data"); len(got.(map[string]any)) != 1 {
				t.Errorf("what helm had and Git does not say is still there: %v", got)
			}
		})
		if done || t.Failed() {
			break
		}
	}
}

// With the API server gone every error is transient and nothing counts as absent.
func TestAPIServerStopped(t *testing.T) {
	ctx := context.Background()
	b := newBed(t)
	known := b.must(b.request(two))
	template := v1alpha1.ObjectReference{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Kind: "ProxmoxMachineTemplate", Namespace: b.ns, Name: "x"}
	if _, err := b.apply.TemplateUsers(ctx, template); err != nil {
		t.Fatal(err)
	}
	fresh := newApplier(t, env.Config(b.user))
	env.StopAPIServer(t)
	for name, a := range map[string]*apply.Applier{"": b.apply, " before any discovery": fresh} {
		req := b.request(two)
		cluster := object.ID{Group: "cluster.x-k8s.io", Kind: "Cluster", Namespace: b.ns, Name: "k"}
		for _, with := range []bool{false, true} {
			if with {
				req.Known = known
			}
			report, err := a.Apply(ctx, req)
			if err != nil || len(report.Errors()) != 2 {
				t.Fatalf("%v, %v", report.Err(), err)
			}
			for _, err := range report.Errors() {
				b.checkError(err, v1alpha1.TransientReason, true)
			}
		}
		req.Cluster = &cluster
		report, err := a.Apply(ctx, req)
		if err != nil || report.Halted == nil || !report.Halted.Transient || report.Halted.Reason != v1alpha1.TransientReason {
			t.Errorf("cluster%s: %v, %v", name, report.Halted, err)
		}
		ref := v1alpha1.ObjectReference{Version: "v1", Kind: "ConfigMap", Namespace: b.ns, Name: "absent"}
		if _, err := a.Get(ctx, ref); err == nil || apply.IsNotFound(err) {
			t.Errorf("get%s: %v", name, err)
		}
		if outcome, err := a.Delete(ctx, ref, b.owner); err == nil {
			t.Errorf("delete%s: %s", name, outcome)
		}
		ref = v1alpha1.ObjectReference{Group: "example.com", Version: "v1", Kind: "Widget", Namespace: b.ns, Name: "absent"}
		if outcome, err := a.Delete(ctx, ref, b.owner); err == nil {
			t.Errorf("delete of a kind%s: %s", name, outcome)
		}
		if users, err := a.TemplateUsers(ctx, template); err == nil {
			t.Errorf("template%s: %v", name, users)
		}
		if owned, err := a.Owned(ctx, b.owner, nil); err == nil {
			t.Errorf("owned%s: %v", name, owned)
		}
	}
	env.StartAPIServer(t)
	req := b.request(two)
	req.Known = known
	b.wantActions(b.run(req), "ConfigMap c: Unchanged", "Secret s: Unchanged")
}

// An API server that takes requests and does not answer costs the time allowed
// and no more, and a context that ends stops the wait for it.
func TestAPIServerHangs(t *testing.T) {
	b := newBed(t)
	known := b.must(b.request(two))
	a, err := apply.New(apply.Options{Config: env.Config(b.user), RequestTimeout: time.Second, Concurrency: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Apply(context.Background(), b.request(two)); err != nil {
		t.Fatal(err)
	}
	resume := env.PauseAPIServer(t)
	req := b.request(two)
	req.Known = known
	report, err := a.Apply(context.Background(), req)
	if err != nil || len(report.Errors()) != 2 {
		t.Fatalf("%v, %v", report.Err(), err)
	}
	for _, err := range report.Errors() {
		b.checkError(err, v1alpha1.TransientReason, true)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	report, _ = b.apply.Apply(ctx, req)
	for _, err := range report.Errors() {
		b.checkError(err, v1alpha1.TransientReason, true)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("not the context's error: %v", err)
		}
	}
	resume()
}

// What is not an API server is not believed when it says 404.
func TestNotAnAPIServer(t *testing.T) {
	b := newBed(t)
	config := env.Config(b.user)
	var astray atomic.Bool
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if astray.Load() {
				r = r.Clone(r.Context())
				r.URL.Path = "/astray" + r.URL.Path
			}
			return next.RoundTrip(r)
		})
	})
	b.apply = newApplier(t, config)
	known := b.must(b.request(two))
	astray.Store(true)
	ref := v1alpha1.ObjectReference{Version: "v1", Kind: "ConfigMap", Namespace: b.ns, Name: "c"}
	if _, err := b.apply.Get(context.Background(), ref); err == nil || apply.IsNotFound(err) {
		t.Errorf("get: %v", err)
	}
	if outcome, err := b.apply.Delete(context.Background(), ref, b.owner); err == nil {
		t.Errorf("delete: %s", outcome)
	}
	req := b.request(two)
	req.Known = known
	for _, err := range b.run(req).Errors() {
		b.checkError(err, v1alpha1.TransientReason, true)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
