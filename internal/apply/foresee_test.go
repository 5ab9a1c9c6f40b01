package apply_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
)

// What people have changed is taken back without an attempt that isn't forced only where
// nobody who doesn't give way loses anything by that. What others hold and is not changed
// by the apply is no reason for an attempt.
func TestForeseen(t *testing.T) {
	const two = `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: one, b: one}}`
	const service = `{apiVersion: v1, kind: Service, metadata: {name: c, namespace: NS}, spec: {selector: {app: x, tier: front},
 ports: [{name: web, port: 80, protocol: TCP, targetPort: 8080}, {name: tls, port: 443, protocol: TCP, targetPort: 8443}]}}`
	merge := func(manager, kind, fields string) func(*bed) {
		version, name := "v1", "c"
		if kind == "MachineDeployment" {
			version, name = "cluster.x-k8s.io/v1beta2", "md"
		}
		return func(b *bed) {
			b.merge(manager, `{apiVersion: `+version+`, kind: `+kind+`, metadata: {name: `+name+`, namespace: NS}, `+fields+`}`)
		}
	}
	ports := func(manager, ports string) func(*bed) {
		return func(b *bed) {
			b.as(manager, false, `{apiVersion: v1, kind: Service, metadata: {name: c, namespace: NS}, spec: {ports: [`+ports+`]}}`)
		}
	}
	md := deploymentOf("", "3", "v1.35.0")
	for name, test := range map[string]struct {
		manifest string
		happens  []func(*bed)
		attempts bool   // an apply that isn't forced is tried first
		conflict string // the manager that keeps what it has
	}{
		"a person": {manifest: two, happens: []func(*bed){merge("kubectl-edit", "ConfigMap", `data: {a: theirs}`)}},
		"nobody":   {manifest: two, attempts: true, happens: []func(*bed){merge("kubectl-edit", "ConfigMap", `data: {a: null}`)}},
		"a controller with another field": {manifest: two, happens: []func(*bed){
			merge("kubectl-edit", "ConfigMap", `data: {a: theirs}`), merge("manager", "ConfigMap", `metadata: {name: c, namespace: NS, labels: {team: blue}}, data: {c: one}`),
		}},
		"a controller with the same value": {manifest: two, happens: []func(*bed){
			merge("kubectl-edit", "ConfigMap", `data: {a: theirs}`),
			func(b *bed) { b.as("manager", false, replace(two, "a: one, ", "")) },
		}},
		"a controller": {manifest: two, attempts: true, conflict: "manager", happens: []func(*bed){
			merge("kubectl-edit", "ConfigMap", `data: {a: theirs}`), merge("manager", "ConfigMap", `data: {b: a controller's}`),
		}},
		"somebody unknown": {manifest: two, attempts: true, conflict: "mystery", happens: []func(*bed){
			merge("kubectl-edit", "ConfigMap", `data: {a: theirs}`), merge("mystery", "ConfigMap", `data: {b: theirs}`),
		}},
		"a controller with a value owned as one": {manifest: service, attempts: true, conflict: "manager", happens: []func(*bed){
			merge("kubectl-edit", "Service", `metadata: {name: c, namespace: NS, labels: {capstan.dev/overlay: theirs}}`),
			merge("manager", "Service", `spec: {selector: {app: z}}`),
		}},
		"a controller with an element of a list": {manifest: service, attempts: true, conflict: "manager", happens: []func(*bed){
			ports("kubectl", `{port: 80, protocol: TCP, targetPort: 1}`), ports("manager", `{port: 443, protocol: TCP, targetPort: 2}`),
		}},
		"a controller with an element of its own": {manifest: service, happens: []func(*bed){
			ports("kubectl", `{port: 80, protocol: TCP, targetPort: 1}`), ports("manager", `{name: more, port: 9, protocol: TCP, targetPort: 2}`),
		}},
		"an autoscaler": {manifest: md, attempts: true, conflict: "cluster-autoscaler", happens: []func(*bed){
			merge("kubectl-edit", "MachineDeployment", `spec: {clusterName: theirs}`),
			func(b *bed) { b.scale("cluster-autoscaler", 7) },
		}},
		"a controller, another version": {manifest: md, attempts: true, conflict: "manager", happens: []func(*bed){
			merge("kubectl-edit", "MachineDeployment", `spec: {clusterName: theirs}`),
			func(b *bed) {
				b.merge("manager", `{apiVersion: cluster.x-k8s.io/v1beta1, kind: MachineDeployment, metadata: {name: md, namespace: NS}, spec: {replicas: 7}}`)
			},
		}},
		"a controller with something of another version": {manifest: md, attempts: true, happens: []func(*bed){
			merge("kubectl-edit", "MachineDeployment", `spec: {clusterName: theirs}`),
			func(b *bed) {
				b.merge("manager", `{apiVersion: cluster.x-k8s.io/v1beta1, kind: MachineDeployment, metadata: {name: md, namespace: NS}, spec: {paused: true}}`)
			},
		}},
		"left to others": {manifest: replace(two, "namespace: NS}", "namespace: NS, annotations: {capstan.dev/ignore: /data/b}}"), attempts: true, happens: []func(*bed){
			merge("kubectl-edit", "ConfigMap", `data: {a: theirs}`), merge("manager", "ConfigMap", `data: {b: a controller's}`),
		}},
		"a status": {manifest: md, happens: []func(*bed){
			merge("kubectl-edit", "MachineDeployment", `spec: {clusterName: theirs}`),
			func(b *bed) {
				u := b.parse(`{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: md, namespace: NS}}`)[0]
				patch := client.RawPatch("application/merge-patch+json", []byte(`{"status":{"phase":"Running"}}`))
				if err := env.Client().Status().Patch(context.Background(), u, patch, client.FieldOwner("manager")); err != nil {
					b.Fatal(err)
				}
			},
		}},
	} {
		for _, mode := range []string{"read", "seen"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				b := newBed(t)
				req := b.request(test.manifest)
				req.Known = b.must(req)
				for _, happens := range test.happens {
					happens(b)
				}
				before := b.live(test.manifest)
				if mode == "seen" {
					req = seen(req, b.dryRun(examination(req)).Outcomes[0].Before)
				}
				mark := env.Mark(t)
				report := b.run(req)
				requests := b.counted(mark)
				first := slices.IndexFunc(requests, func(r string) bool { return strings.HasPrefix(r, "patch") })
				if attempts := !strings.Contains(requests[first], "(force)"); attempts != test.attempts {
					t.Errorf("attempt first: %t; requests %q", attempts, requests)
				}
				live := b.live(test.manifest)
				if test.conflict != "" {
					b.wantError(report, v1alpha1.ConflictReason, false, test.conflict)
					for _, part := range []string{"data", "spec"} {
						if diff := cmp.Diff(field(before, part), field(live, part)); diff != "" {
							t.Errorf("written in spite of the conflict:\n%s", diff)
						}
					}
					return
				}
				if err := report.Err(); err != nil {
					t.Fatal(err)
				}
				if dataOf(live) == "theirs" || field(live, "spec", "clusterName") == "theirs" {
					t.Errorf("not taken back: %v", live.Object)
				}
			})
		}
	}
}

// What was examined is written as long as it is as it was found, but for a status. What
// somebody did since is looked at first.
func TestSeen(t *testing.T) {
	remove := func(b *bed) {
		if err := env.Client().Delete(context.Background(), b.live(configMap)); err != nil {
			b.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		before, meanwhile func(*bed)
		same              bool // the caller's answer about what there is
		action            apply.Action
		a                 any
	}{
		"nothing": {same: true, action: apply.ActionConfigured, a: "one"},
		"something else": {
			meanwhile: func(b *bed) {
				b.merge("manager", replace(configMap, "data: {a: one}", "metadata: {name: c, namespace: NS, annotations: {team: blue}}"))
			},
			same: true, action: apply.ActionConfigured, a: "one",
		},
		"a change":                    {meanwhile: func(b *bed) { b.merge("kubectl-edit", replace(configMap, "one", "again")) }, action: apply.ActionRefused, a: "again"},
		"a controller":                {meanwhile: func(b *bed) { b.merge("manager", replace(configMap, "one", "again")) }, same: true, action: apply.ActionFailed, a: "again"},
		"deleted":                     {meanwhile: remove, action: apply.ActionRefused},
		"deleted, and it may be made": {meanwhile: remove, same: true, action: apply.ActionCreated, a: "one"},
		"another one": {
			meanwhile: func(b *bed) { remove(b); b.as("kubectl-create", true, replace(configMap, "one", "again")) },
			action:    apply.ActionRefused, a: "again",
		},
		"another one before": {
			before: func(b *bed) { remove(b); b.as("kubectl-create", true, replace(configMap, "one", "another")) },
			same:   true, action: apply.ActionConfigured, a: "one",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			req := b.request(configMap)
			req.Known = b.must(req)
			b.merge("kubectl-edit", replace(configMap, "one", "theirs"))
			if test.before != nil {
				test.before(b)
			}
			found := b.dryRun(examination(req)).Outcomes[0].Before
			if test.meanwhile != nil {
				test.meanwhile(b)
			}
			req.Same = func(_ object.ID, live *unstructured.Unstructured) bool {
				return test.same || live != nil && live.GetResourceVersion() == found.GetResourceVersion()
			}
			report := b.run(seen(req, found))
			b.wantActions(report, "ConfigMap c: "+string(test.action))
			if got := dataOf(b.live(configMap)); got != test.a {
				t.Errorf("a is %v, want %v: %v", got, test.a, report.Err())
			}
		})
	}
}

// Objects that were all examined are written without another dry-run; as soon as one
// wasn't, all are looked at anew.
func TestSeenSeveral(t *testing.T) {
	for name, all := range map[string]bool{"all": true, "not all": false} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			req := b.request(configMap + "\n---\n" + replace(configMap, "name: c", "name: d"))
			req.Known = b.must(req)
			b.merge("kubectl-edit", replace(configMap, "one", "theirs"))
			b.merge("kubectl-edit", replace(replace(configMap, "name: c", "name: d"), "one", "theirs"))
			found := b.dryRun(examination(req)).Outcomes
			req = seen(req, found[0].Before, found[1].Before)
			want := 2
			if !all {
				delete(req.Seen, found[0].ID)
				want = 6
			}
			req.ReadAll = true
			mark := env.Mark(t)
			b.wantActions(b.run(req), "ConfigMap c: Configured", "ConfigMap d: Configured")
			if got := b.counted(mark); len(got) != want {
				t.Errorf("requests %q, want %d", got, want)
			}
		})
	}
}

// Nothing is forced on a controller that comes between the examination and the write.
func TestSeenRace(t *testing.T) {
	b := newBed(t)
	req := b.request(configMap)
	req.Known = b.must(req)
	b.merge("kubectl-edit", replace(configMap, "one", "theirs"))
	found := b.dryRun(examination(req)).Outcomes[0].Before
	b.before(func(r *http.Request) bool { return r.Method == http.MethodPatch }, func() {
		b.merge("manager", replace(configMap, "one", "a controller's"))
	})
	b.wantError(b.run(seen(req, found)), v1alpha1.ConflictReason, false, ".data.a", "manager")
	if got := dataOf(b.live(configMap)); got != "a controller's" {
		t.Errorf("a is %v", got)
	}
}

// Nothing is forced on a controller that comes between the read and the dry-run, and
// nothing at all is written then.
func TestForeseenRace(t *testing.T) {
	b := newBed(t)
	const other = "\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: NS-other}}"
	req := b.request(configMap)
	known := b.must(req)
	b.merge("kubectl-edit", replace(configMap, "one", "theirs"))
	b.before(func(r *http.Request) bool { return r.URL.Query().Get("force") == "true" }, func() {
		b.merge("manager", replace(configMap, "one", "a controller's"))
	})
	req = b.request(configMap + other)
	req.Known, req.ReadAll = known, true
	b.wantError(b.run(req), v1alpha1.ConflictReason, false, ".data.a", "manager")
	if got := dataOf(b.live(configMap)); got != "a controller's" {
		t.Errorf("a is %v", got)
	}
	if b.live(`{apiVersion: v1, kind: Namespace, metadata: {name: NS-other}}`) != nil {
		t.Error("another object was written")
	}
}
