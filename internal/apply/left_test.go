package apply_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
)

// deployment is a MachineDeployment; ANNOTATIONS, REPLICAS and VERSION vary.
const deployment = `{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: md, namespace: NS, annotations: {ANNOTATIONS}},
 spec: {clusterName: k, REPLICAS selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {clusterName: k, version: VERSION,
  bootstrap: {dataSecretName: x}, infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: t}}}}}`

const (
	autoscaled = `cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size: "1", cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size: "9"`
	ignored    = `capstan.dev/ignore: /spec/replicas`
)

func deploymentOf(annotations, replicas, version string) string {
	if replicas != "" {
		replicas = "replicas: " + replicas + ","
	}
	return strings.NewReplacer("ANNOTATIONS", annotations, "REPLICAS", replicas, "VERSION", version).Replace(deployment)
}

// scale sets the replicas through the scale subresource, as an autoscaler does.
func (b *bed) scale(manager string, replicas int32) {
	b.Helper()
	u := b.parse(deploymentOf("", "", "v1"))[0]
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas))
	err := env.Client().SubResource("scale").Patch(context.Background(), u, patch, client.FieldOwner(manager))
	if err != nil {
		b.Fatal(err)
	}
}

// Replicas that an autoscaler or, where that is ignored, a person has set stay
// through what Git says later, in a dry-run as in an apply, whether the object is
// read first or not, alone or with others. Without the annotation they don't.
func TestLeftReplicas(t *testing.T) {
	kubectl := func(b *bed) {
		env.Kubectl(b.T, "person-"+b.ns).Run(b.T, "", "scale", "--replicas=7", "-n", b.ns, "machinedeployments.v1beta2.cluster.x-k8s.io/md")
	}
	autoscaler := func(b *bed) { b.scale("cluster-autoscaler", 7) }
	for name, test := range map[string]struct {
		before, after string // annotations in Git
		live          string // annotation that a person sets
		scale         func(*bed)
		taken         bool   // Git takes the replicas back
		conflict      string // the manager that doesn't give way
	}{
		"autoscaler":                       {before: autoscaled, after: autoscaled, scale: autoscaler},
		"person, autoscaled":               {before: autoscaled, after: autoscaled, scale: kubectl},
		"person, ignored":                  {before: ignored, after: ignored, scale: kubectl},
		"person, ignored live":             {live: ignored, scale: kubectl},
		"person, ignored from now on":      {after: ignored, scale: kubectl},
		"person, ignored no longer":        {before: ignored, scale: kubectl, taken: true},
		"person":                           {scale: kubectl, taken: true},
		"autoscaler without its limits":    {scale: autoscaler, conflict: "cluster-autoscaler"},
		"autoscaler, autoscaled no longer": {before: autoscaled, scale: autoscaler, conflict: "cluster-autoscaler"},
		"another field is ignored":         {before: "capstan.dev/ignore: /spec/paused", after: "capstan.dev/ignore: /spec/paused", scale: kubectl, taken: true},
		"unknown manager, ignored":         {before: ignored, after: ignored, scale: func(b *bed) { b.scale("mystery", 7) }},
		"autoscaler from the first moment": {before: autoscaled, after: autoscaled, scale: func(b *bed) {
			b.scale("cluster-autoscaler", 7)
			b.scale("cluster-autoscaler", 3)
			b.scale("cluster-autoscaler", 7)
		}},
	} {
		for _, mode := range []string{"known", "read", "alone", "forgotten"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				b := newBed(t)
				known := b.must(b.request(deploymentOf(test.before, "3", "v1.35.0") + "\n---\n" + configMap))
				if test.live != "" {
					b.as("kubectl-annotate", true, replace(`{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: md, namespace: NS, annotations: {X}}}`, "X", test.live))
				}
				test.scale(b)

				req := b.request(deploymentOf(test.after, "5", "v1.35.1") + "\n---\n" + replace(configMap, "one", "two"))
				switch mode {
				case "known":
					req.Known = known
				case "read":
					req.Known, req.ReadAll = known, true
				case "alone":
					req.Known, req.Objects = known, req.Objects[:1]
				}
				dry, report := b.dryRun(req), b.run(req)
				live := b.live(deploymentOf("", "", "v1"))
				if test.conflict != "" {
					b.wantError(dry, v1alpha1.ConflictReason, false, ".spec.replicas", test.conflict)
					b.wantError(report, v1alpha1.ConflictReason, false, ".spec.replicas", test.conflict)
					return
				}
				want, left := int64(7), []string{"/spec/replicas"}
				if test.taken {
					want, left = 5, nil
				}
				for what, report := range map[string]apply.Report{"dry-run": dry, "apply": report} {
					if err := report.Err(); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					o := report.Outcomes[slices.IndexFunc(report.Outcomes, func(o apply.Outcome) bool { return o.ID.Kind == "MachineDeployment" })]
					if got := field(o.After, "spec", "replicas"); got != want {
						t.Errorf("%s: replicas %v, want %d", what, got, want)
					}
					if diff := cmp.Diff(left, o.Left); diff != "" {
						t.Errorf("%s: left (-want +got):\n%s", what, diff)
					}
				}
				if got := field(live, "spec", "replicas"); got != want {
					t.Errorf("replicas %v, want %d; managers %v", got, want, managers(live))
				}
				if got := field(live, "spec", "template", "spec", "version"); got != "v1.35.1" {
					t.Errorf("version %v: what Git says beside was not applied", got)
				}
			})
		}
	}
}

// An autoscaler that comes back to what Git says shares the field with Git for a
// while. It is the autoscaler's all the same, whatever Git says next, and nothing
// removes it: its default would be one machine.
func TestLeftShared(t *testing.T) {
	b := newBed(t)
	known := b.must(b.request(deploymentOf(autoscaled, "3", "v1.35.0")))
	b.scale("cluster-autoscaler", 7)
	b.scale("cluster-autoscaler", 3)
	b.as("capstan", false, deploymentOf(autoscaled, "3", "v1.35.0")) // as an earlier version would
	if n := len(owners(b, "f:replicas")); n != 2 {
		t.Fatalf("%d managers own the replicas, want 2", n)
	}
	for _, replicas := range []string{"5", ""} {
		req := b.request(deploymentOf(autoscaled, replicas, "v1.35.1"))
		req.Known = known
		b.must(req)
		live := b.live(deploymentOf("", "", "v1"))
		if got := field(live, "spec", "replicas"); got != int64(3) {
			t.Errorf("replicas %v, want 3; managers %v", got, managers(live))
		}
	}
}

// owners lists the managers of a field of the MachineDeployment's spec.
func owners(b *bed, key string) []string {
	var names []string
	for _, e := range b.live(deploymentOf("", "", "v1")).GetManagedFields() {
		if strings.Contains(e.FieldsV1.GetRawString(), `"`+key+`":{}`) {
			names = append(names, e.Manager)
		}
	}
	return names
}

// A first apply over what others have made leaves fields to them too.
func TestLeftAdopted(t *testing.T) {
	b := newBed(t)
	env.Kubectl(t, "person-"+b.ns).Run(t, b.text(deploymentOf(autoscaled, "3", "v1.35.0")), "apply", "-f", "-")
	req := b.request(deploymentOf(autoscaled, "4", "v1.35.0"))
	b.wantReplicas(b.dryRun(req), 4) // nobody but a former owner has set them
	b.scale("cluster-autoscaler", 7)
	b.wantReplicas(b.dryRun(req), 7, "/spec/replicas")
	b.wantReplicas(b.run(req), 7, "/spec/replicas")
	if got := field(b.live(deploymentOf("", "", "v1")), "spec", "replicas"); got != int64(7) {
		t.Errorf("replicas %v, want 7", got)
	}
}

func (b *bed) text(manifest string) string { return replace(manifest, "NS", b.ns) }

func (b *bed) wantReplicas(report apply.Report, want int64, left ...string) {
	b.Helper()
	if err := report.Err(); err != nil {
		b.Fatal(err)
	}
	o := report.Outcomes[0]
	if got := field(o.After, "spec", "replicas"); got != want {
		b.Errorf("replicas %v, want %d", got, want)
	}
	if diff := cmp.Diff(left, o.Left); diff != "" {
		b.Errorf("left (-want +got):\n%s", diff)
	}
}

// What is left to others of maps, of lists by keys, of sets and of values that are
// owned as one; CHANGE is a merge by somebody's tool.
func TestLeftFields(t *testing.T) {
	const pod = `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: NS, annotations: {capstan.dev/ignore: "IGNORE", a.example/x: VALUE, b: VALUE}, labels: {l: VALUE}},
 spec: {clusterIP: None, selector: {app: VALUE}, ports: [{name: one, port: 80, targetPort: VALUE}, {name: two, port: 443, targetPort: VALUE}]}}`
	const theirs = `{metadata: {annotations: {a.example/x: THEIRS, b: THEIRS}, labels: {l: THEIRS}}, spec: {selector: {app: THEIRS}, ports: [{name: one, port: 80, targetPort: THEIRS}, {name: two, port: 443, targetPort: THEIRS}]}}`
	for name, test := range map[string]struct {
		ignore string
		left   []string
	}{
		"a map's field with dots":   {ignore: "/metadata/annotations/a.example~1x", left: []string{"/metadata/annotations/a.example~1x"}},
		"all of a map but ours":     {ignore: "/metadata/annotations /metadata/labels", left: []string{"/metadata/annotations/a.example~1x", "/metadata/annotations/b", "/metadata/labels/l"}},
		"one field of each in list": {ignore: "/spec/ports/*/targetPort", left: []string{"/spec/ports/0/targetPort", "/spec/ports/1/targetPort"}},
		"one element's":             {ignore: "/spec/ports/1/targetPort", left: []string{"/spec/ports/1/targetPort"}},
		"owned as one":              {ignore: "/spec/selector", left: []string{"/spec/selector"}},
		"part of what is one":       {ignore: "/spec/selector/app", left: []string{"/spec/selector"}},
		"nothing that was changed":  {ignore: "/spec/clusterIP"},
	} {
		for _, mode := range []string{"known", "read"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				b := newBed(t)
				manifest := func(value string) string {
					return strings.NewReplacer("IGNORE", test.ignore, "VALUE", value).Replace(pod)
				}
				known := b.must(b.request(manifest("v1") + "\n---\n" + configMap))
				b.strategic("kubectl-edit", manifest("v1"), replace(theirs, "THEIRS", "v2"))
				req := b.request(manifest("v3") + "\n---\n" + configMap)
				req.Known, req.ReadAll = known, mode == "read"
				dry := b.dryRun(req)
				report := b.run(req)
				for what, report := range map[string]apply.Report{"dry-run": dry, "apply": report} {
					if err := report.Err(); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					if diff := cmp.Diff(test.left, report.Outcomes[1].Left); diff != "" {
						t.Errorf("%s: left (-want +got):\n%s", what, diff)
					}
				}
				live := b.live(manifest("v1"))
				got := map[string]any{
					"/metadata/annotations/a.example~1x": live.GetAnnotations()["a.example/x"], "/metadata/annotations/b": live.GetAnnotations()["b"],
					"/metadata/labels/l": live.GetLabels()["l"], "/spec/selector": field(live, "spec", "selector", "app"),
				}
				ports, _ := field(live, "spec", "ports").([]any)
				for i, pointer := range []string{"/spec/ports/0/targetPort", "/spec/ports/1/targetPort"} {
					got[pointer] = ports[i].(map[string]any)["targetPort"]
				}
				for pointer, value := range got {
					want := "v3"
					if slices.Contains(test.left, pointer) {
						want = "v2"
					}
					if value != want {
						t.Errorf("%s is %v, want %s", pointer, value, want)
					}
				}
			})
		}
	}
}

// strategic patches an object as a person's tool does.
func (b *bed) strategic(manager, manifest, patch string) {
	b.Helper()
	body := b.parse(patch)[0]
	raw, err := body.MarshalJSON()
	if err != nil {
		b.Fatal(err)
	}
	if err := env.Client().Patch(context.Background(), b.parse(manifest)[0], client.RawPatch(types.StrategicMergePatchType, raw), client.FieldOwner(manager)); err != nil {
		b.Fatal(err)
	}
}

// What somebody has removed stays away if it is left to others; what was never
// applied before, too, once the object is Git's. Our own labels always come back.
func TestLeftRemoved(t *testing.T) {
	for _, mode := range []string{"known", "read", "alone"} {
		t.Run(mode, func(t *testing.T) {
			const manifest = `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS, labels: {l: x}, annotations: {capstan.dev/ignore: "/data/a,/metadata/labels"}}, data: {a: one, b: one}}`
			b := newBed(t)
			known := b.must(b.request(manifest + "\n---\n" + replace(configMap, "name: c", "name: other")))
			if got := field(b.live(configMap), "data", "a"); got != "one" {
				t.Fatalf("a is %v: a first apply sends everything", got)
			}
			b.merge("kubectl-edit", `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS, labels: {l: null, capstan.dev/overlay: null}}, data: {a: null, b: null}}`)
			req := b.request(manifest + "\n---\n" + replace(configMap, "name: c", "name: other"))
			req.Known, req.ReadAll = known, mode == "read"
			if mode == "alone" {
				req.Objects = req.Objects[:1]
			}
			report := b.run(req)
			if err := report.Err(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"/data/a", "/metadata/labels/l"}, report.Outcomes[0].Left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			live := b.live(configMap)
			if diff := cmp.Diff(map[string]any{"b": "one"}, field(live, "data")); diff != "" {
				t.Error(diff)
			}
			if live.GetLabels()[v1alpha1.OverlayLabel] != b.owner.Overlay || live.GetLabels()["l"] != "" {
				t.Errorf("labels %v", live.GetLabels())
			}
		})
	}
}

func (b *bed) merge(manager, manifest string) {
	b.Helper()
	u := b.parse(manifest)[0]
	raw, err := u.MarshalJSON()
	if err != nil {
		b.Fatal(err)
	}
	if err := env.Client().Patch(context.Background(), u, client.RawPatch(types.MergePatchType, raw), client.FieldOwner(manager)); err != nil {
		b.Fatal(err)
	}
}

// A request leaves fields to the managers that it names, and to no others.
func TestLeftByRequest(t *testing.T) {
	for manager, left := range map[string][]string{"mystery": {"/data/a"}, "kubectl-edit": nil} {
		t.Run(manager, func(t *testing.T) {
			b := newBed(t)
			known := b.must(b.request(configMap))
			b.as(manager, true, replace(configMap, "one", "theirs"))
			req := b.request(replace(configMap, "a: one", "a: two, b: two"))
			req.Known = known
			var asked []string
			req.Left = func(id object.ID, pointer, by string) bool {
				if by != "" {
					asked = append(asked, pointer+" "+by)
				}
				return id.Kind == "ConfigMap" && pointer == "/data/a" && by == "mystery"
			}
			report := b.run(req)
			b.wantActions(report, "ConfigMap c: Configured")
			if diff := cmp.Diff(left, report.Outcomes[0].Left); diff != "" {
				t.Errorf("left (-want +got):\n%s\nasked: %v", diff, asked)
			}
			want := "two"
			if left != nil {
				want = "theirs"
			}
			if got := field(b.live(configMap), "data", "a"); got != want {
				t.Errorf("a is %v, want %s", got, want)
			}
		})
	}
}

// The fields that are left to others are those of the moment of the write: who
// scales between dry-run and write keeps that as well.
func TestLeftMeanwhile(t *testing.T) {
	b := newBed(t)
	known := b.must(b.request(deploymentOf(autoscaled, "3", "v1.35.0") + "\n---\n" + configMap))
	b.before(func(r *http.Request) bool {
		return r.Method == http.MethodPatch && r.URL.Query().Get("dryRun") == "" && contains(r.URL.Path, "machinedeployments")
	}, func() { b.scale("cluster-autoscaler", 7) })
	req := b.request(deploymentOf(autoscaled, "5", "v1.35.1") + "\n---\n" + replace(configMap, "one", "two"))
	req.Known = known
	b.must(req)
	if got := field(b.live(deploymentOf("", "", "v1")), "spec", "replicas"); got != int64(7) {
		t.Errorf("replicas %v, want 7", got)
	}
}

// What it costs that a known object may leave fields to others: one read, and a
// second dry-run if somebody has taken them.
func TestLeftRequests(t *testing.T) {
	b := newBed(t)
	known := b.must(b.request(deploymentOf(autoscaled, "3", "v1.35.0") + "\n---\n" + configMap))
	const get, patch = "get machinedeployments NS/md: 200", "patch machinedeployments NS/md: 200"
	const dry, conflict = "patch (dry-run) machinedeployments NS/md: 200", "patch (dry-run) machinedeployments NS/md: 409"
	step := func(version string, want ...string) {
		t.Helper()
		req := b.request(deploymentOf(autoscaled, "3", version) + "\n---\n" + configMap)
		req.Known = known
		mark := env.Mark(t)
		b.must(req)
		got := slices.DeleteFunc(b.counted(mark), func(r string) bool { return contains(r, "configmaps") })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	}
	step("v1.35.1", dry, get, patch)
	b.scale("cluster-autoscaler", 7)
	step("v1.35.2", conflict, get, dry, patch)
	step("v1.35.3", conflict, get, dry, patch)
}

// In a list by keys, such as the worker groups of a topology, only what was taken
// of its elements is left, and an element that is not there comes whole.
func TestLeftInTopology(t *testing.T) {
	const topology = `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: k, namespace: NS, annotations: {capstan.dev/ignore: "/spec/topology/workers/machineDeployments/*/replicas"}},
 spec: {topology: {classRef: {name: c}, version: VERSION, workers: {machineDeployments: [{class: w, name: a, replicas: COUNT}, {class: w, name: b, replicas: COUNT}, {class: w, name: c, replicas: COUNT}]}}}}`
	manifest := func(version, count string) string {
		return strings.NewReplacer("VERSION", version, "COUNT", count).Replace(topology)
	}
	for _, mode := range []string{"known", "read"} {
		t.Run(mode, func(t *testing.T) {
			b := newBed(t)
			known := b.must(b.request(manifest("v1.35.0", "3") + "\n---\n" + configMap))
			b.merge("kubectl-edit", `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: k, namespace: NS},
 spec: {topology: {workers: {machineDeployments: [{class: w, name: c, replicas: 3}, {class: w, name: b, replicas: 7}]}}}}`)
			req := b.request(manifest("v1.35.1", "5") + "\n---\n" + configMap)
			req.Known, req.ReadAll = known, mode == "read"
			report := b.run(req)
			if err := report.Err(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"/spec/topology/workers/machineDeployments/1/replicas"}, report.Outcomes[1].Left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			got := map[string]any{}
			list, _ := field(b.live(manifest("v1", "1")), "spec", "topology", "workers", "machineDeployments").([]any)
			for _, e := range list {
				group := e.(map[string]any)
				got[group["name"].(string)] = group["replicas"]
			}
			if diff := cmp.Diff(map[string]any{"a": int64(5), "b": int64(7), "c": int64(5)}, got); diff != "" {
				t.Errorf("replicas (-want +got):\n%s", diff)
			}
		})
	}
}

// A manifest that moves to another API version leaves what was taken all the same,
// and lets go of nothing that is on record at the old one: the default would be one
// machine.
func TestLeftAcrossVersions(t *testing.T) {
	older := func(manifest string) string {
		manifest = replace(manifest, "cluster.x-k8s.io/v1beta2", "cluster.x-k8s.io/v1beta1")
		return replace(manifest, "apiGroup: infrastructure.cluster.x-k8s.io", "apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1")
	}
	same := func(manifest string) string { return manifest }
	for name, versions := range map[string]struct{ before, after func(string) string }{
		"v1beta1":            {older, older},
		"v1beta1 to v1beta2": {older, same},
		"v1beta2 to v1beta1": {same, older},
	} {
		for _, mode := range []string{"known", "read", "alone"} {
			for _, scaled := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/scaled %t", name, mode, scaled), func(t *testing.T) {
					b := newBed(t)
					known := b.must(b.request(versions.before(deploymentOf(autoscaled, "3", "v1.35.0")) + "\n---\n" + configMap))
					want := int64(5) // nobody has taken it: Git's
					if scaled {
						b.scale("cluster-autoscaler", 7)
						want = 7
					}
					req := b.request(versions.after(deploymentOf(autoscaled, "5", "v1.35.1")) + "\n---\n" + configMap)
					req.Known, req.ReadAll = known, mode == "read"
					if mode == "alone" {
						req.Objects = req.Objects[:1]
					}
					b.must(req)
					live := b.live(deploymentOf("", "", "v1"))
					if got := field(live, "spec", "replicas"); got != want {
						t.Errorf("replicas %v, want %d; managers %v", got, want, managers(live))
					}
				})
			}
		}
	}
}
