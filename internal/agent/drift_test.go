package agent_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/plan"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/tree"
)

// reports makes a Fleet report drift and leave it.
func reports(f *v1alpha1.Fleet) { f.Spec.Drift.Mode = v1alpha1.DriftReport }

// untilInSync waits until every object of an overlay was looked at and says what was
// applied.
func (w *world) untilInSync(paths ...string) {
	w.Helper()
	for _, path := range paths {
		w.untilCondition(path, v1alpha1.InSyncCondition, v1alpha1.SucceededReason)
	}
}

// untilDrift waits until an overlay has these drifted objects: "Kind name action class
// field" for each finding, sorted.
func (w *world) untilDrift(path string, want ...string) *v1alpha1.ClusterOverlay {
	w.Helper()
	slices.Sort(want)
	w.eventually(fmt.Sprintf("%s has drifted as %q", path, want), func() string {
		if got := driftOf(w.overlay(path)); !slices.Equal(got, want) {
			return fmt.Sprintf("%q", got)
		}
		return ""
	})
	return w.overlay(path)
}

func driftOf(o *v1alpha1.ClusterOverlay) []string {
	var all []string
	for _, d := range o.Status.Drift {
		for _, f := range d.Findings {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s", d.Kind, d.Name, d.Action, f.Class, f.Field)))
		}
	}
	slices.Sort(all)
	return all
}

// corrections are those of an object: "Class field from to manager" for each finding.
func corrections(o *v1alpha1.ClusterOverlay, kind, name string) (all []string, count int32) {
	for _, c := range o.Status.Corrections {
		if c.Kind != kind || c.Name != name {
			continue
		}
		count = c.Count
		for _, f := range c.Findings {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s", f.Class, f.Field, f.From, f.To, f.Writer.Manager)))
		}
	}
	return all, count
}

// Whatever a person does with kubectl to what Git declares is undone, only there, and it
// is said who lost what.
func TestDriftCorrected(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	kubectl := env.Kubectl(t, "person")
	ns := w.ns + "-a"
	for _, c := range []struct {
		name, kind, object string
		do                 func()
		want               []string // of the corrections
	}{
		{"edit", "ConfigMap", "settings", func() { kubectl.Edit(t, "s/one$/two/", "configmap", "-n", ns, "settings") },
			[]string{`Changed /data/v "one" "two" kubectl-edit`}},
		{"patch", "ConfigMap", "settings", func() {
			kubectl.Run(t, "", "patch", "configmap", "-n", ns, "settings", "-p", `{"data":{"v":"patched"}}`)
		}, []string{`Changed /data/v "one" "patched" kubectl-patch`}},
		{"a field removed", "ConfigMap", "settings", func() {
			kubectl.Run(t, "", "patch", "configmap", "-n", ns, "settings", "--type=json", "-p", `[{"op":"remove","path":"/data/v"}]`)
		}, nil},
		{"apply --force-conflicts", "MachineDeployment", "workers", func() {
			kubectl.Run(t, `{"apiVersion":"cluster.x-k8s.io/v1beta2","kind":"MachineDeployment","metadata":{"name":"workers","namespace":"`+ns+`"},`+
				`"spec":{"clusterName":"a","template":{"spec":{"clusterName":"a","version":"v1.30.0"}},"replicas":1}}`,
				"apply", "--server-side", "--force-conflicts", "--validate=false", "-f", "-")
		}, []string{`Changed /spec/replicas 2 1 kubectl`}},
		{"a label of ours", "MachineDeployment", "workers", func() {
			kubectl.Run(t, "", "label", "machinedeployments.cluster.x-k8s.io", "-n", ns, "workers", "--overwrite", v1alpha1.OverlayLabel+"=other")
		}, nil},
		{"the label that it is watched by", "ConfigMap", "settings", func() {
			kubectl.Run(t, "", "label", "configmap", "-n", ns, "settings", v1alpha1.OverlayLabel+"-")
		}, nil},
		{"delete", "Secret", "credentials", func() { kubectl.Run(t, "", "delete", "secret", "-n", ns, "credentials") },
			[]string{`Missing`}},
		{"delete and recreate", "ConfigMap", "settings", func() {
			kubectl.Run(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings","namespace":"`+ns+`"},"data":{"v":"theirs"}}`,
				"replace", "--force", "-f", "-")
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := w.live(c.kind, "-a/"+c.object)
			_, was := corrections(w.overlay("clusters/a"), c.kind, c.object)
			c.do()
			o := w.until("clusters/a", "is corrected", func(o *v1alpha1.ClusterOverlay) bool {
				_, count := corrections(o, c.kind, c.object)
				return count > was && len(o.Status.Drift) == 0
			})
			got, _ := corrections(o, c.kind, c.object)
			for _, want := range c.want {
				if !slices.Contains(got, want) {
					t.Errorf("corrections are %q, want %q among them", got, want)
				}
			}
			if after := w.live(c.kind, "-a/"+c.object); after == nil || !sameDeclared(before, after) {
				t.Errorf("now %s\nbefore %s", toJSON(after), toJSON(before))
			}
		})
	}
	w.untilEvent("Corrected", `data.v "one" -> "two" by kubectl-edit`)
	w.untilInSync("clusters/a")
	w.check()
}

// sameDeclared compares what Git declares of two states.
func sameDeclared(a, b *unstructured.Unstructured) bool {
	pick := func(u *unstructured.Unstructured) string {
		labels := map[string]string{}
		for _, key := range []string{v1alpha1.FleetLabel, v1alpha1.OverlayLabel} {
			labels[key] = u.GetLabels()[key]
		}
		replicas, _, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "replicas")
		return toJSON([]any{labels, u.Object["data"], replicas})
	}
	return pick(a) == pick(b)
}

// At rest nothing is sent, nor when somebody's change concerns nothing that Git declares
// or a controller writes what is its own.
func TestDriftAtRest(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	mark := w.mark()
	w.patch("MachineDeployment", "-a/workers", "manager", `{"metadata":{"annotations":{"machinedeployment.clusters.x-k8s.io/revision":"1"},"labels":{"cluster.x-k8s.io/cluster-name":"a"}}}`)
	w.patch("Cluster", "-a/a", "manager", `{"spec":{"controlPlaneEndpoint":{"host":"10.0.0.1","port":6443}}}`)
	w.patch("Cluster", "-a/a", "kubectl-annotate", `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}}}`)
	// A foreign field is found from what the watch says, and shows that the rest was seen.
	w.patch("Secret", "-a/credentials", "kubectl-label", `{"metadata":{"labels":{"team":"blue"}}}`)
	w.patch("MachineDeployment", "-a/workers", "kubectl-label", `{"metadata":{"labels":{"team":"blue"}}}`)
	w.patch("Cluster", "-a/a", "kubectl-label", `{"metadata":{"labels":{"team":"blue"}}}`)
	w.untilDrift("clusters/a", "Secret credentials Reported Foreign /metadata/labels/team",
		"MachineDeployment workers Reported Foreign /metadata/labels/team", "Cluster a Reported Foreign /metadata/labels/team")
	for _, request := range w.sent(mark) {
		if !strings.Contains(request, statusOf("clusters/a")) && !strings.Contains(request, "fleets/status") {
			t.Errorf("sent: %s", request)
		}
	}
	if got := w.live("Cluster", "-a/a").GetLabels()["team"]; got != "blue" {
		t.Errorf("a field that Git doesn't declare was changed: %q", got)
	}
	w.patch("Cluster", "-a/a", "kubectl-label", `{"metadata":{"labels":{"team":null}}}`)
	w.patch("Secret", "-a/credentials", "kubectl-label", `{"metadata":{"labels":{"team":null}}}`)
	w.patch("MachineDeployment", "-a/workers", "kubectl-label", `{"metadata":{"labels":{"team":null}}}`)
	w.untilInSync("clusters/a")
	w.check()
}

// A Fleet, an overlay and an object can each ask for a report only.
func TestDriftReported(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(clusterOf("a", "one"), simple("b", "one"))))
	w.fleet(reports)
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.untilInSync("clusters/a", "clusters/b")
	mark := w.mark()
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	o := w.untilDrift("clusters/a", "ConfigMap settings Reported Changed /data/v")
	f := o.Status.Drift[0].Findings[0]
	if f.From != `"one"` || f.To != `"edited"` || f.Writer.Manager != "kubectl-edit" || f.Writer.Class != "person" || f.Writer.Operation != "Update" || f.Writer.Time == nil {
		t.Errorf("finding: %s", toJSON(f))
	}
	w.delete("MachineDeployment", "-a/workers")
	w.untilDrift("clusters/a", "ConfigMap settings Reported Changed /data/v", "MachineDeployment workers Reported Missing")
	if got := w.written(mark); count(got, "NS-a/") > 0 {
		t.Errorf("written: %q", got)
	}
	// The object asks for a correction.
	w.patch("ConfigMap", "-a/settings", "kubectl-annotate", `{"metadata":{"annotations":{"`+v1alpha1.DriftAnnotation+`":"correct"}}}`)
	w.untilDrift("clusters/a", "MachineDeployment workers Reported Missing")
	// Then the overlay.
	ov := w.overlay("clusters/a")
	base := ov.DeepCopy()
	ov.Spec.Drift.Mode = v1alpha1.DriftCorrect
	w.must(env.Client().Patch(w.Context(), ov, client.MergeFrom(base)))
	w.untilInSync("clusters/a")
	w.wantLive("MachineDeployment", "-a/workers")
	// Then the Fleet, also for what had drifted before.
	w.patch("ConfigMap", "-b/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.untilDrift("clusters/b", "ConfigMap settings Reported Changed /data/v")
	w.patchFleet(func(s *v1alpha1.FleetSpec) { s.Drift.Mode = v1alpha1.DriftCorrect })
	w.untilInSync("clusters/b")
	w.check()
}

// What was done while the agent was down is found from the recorded digests when it is
// back, with one look at what is suspect and none at the rest.
func TestDriftWhileDown(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(clusterOf("a", "one"), clusterOf("b", "one"))))
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.untilInSync("clusters/a", "clusters/b")
	r.stop()
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.delete("Secret", "-a/credentials")
	mark := w.mark()
	w.start()
	w.until("clusters/a", "is corrected", func(o *v1alpha1.ClusterOverlay) bool {
		return len(o.Status.Corrections) == 2 && len(o.Status.Drift) == 0
	})
	for _, request := range w.sent(mark) {
		if strings.Contains(request, "NS-b/") || strings.Contains(request, statusOf("clusters/b")) || strings.Contains(request, "machinedeployments") {
			t.Errorf("what has not drifted costs a request: %s", request)
		}
	}
	w.wantLive("Secret", "-a/credentials")
	w.check()
}

// A correction that would take machines away waits for an approval of exactly that.
func TestDriftHeld(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	env.Kubectl(t, "person").Run(t, "", "scale", "machinedeployments.cluster.x-k8s.io", "-n", w.ns+"-a", "workers", "--replicas=5")
	o := w.untilDrift("clusters/a", "MachineDeployment workers Held Changed /spec/replicas")
	w.untilCondition("clusters/a", v1alpha1.InSyncCondition, v1alpha1.CorrectionHeldReason, "workers", o.Status.Drift[0].Hash)
	if f := o.Status.Drift[0].Findings[0]; f.From != "2" || f.To != "5" || f.Writer.Subresource != "scale" {
		t.Errorf("finding: %s", toJSON(f))
	}
	// Another field of the same object is edited: that is another correction.
	w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"spec":{"replicas":6}}`)
	next := w.until("clusters/a", "has another hash", func(n *v1alpha1.ClusterOverlay) bool {
		return len(n.Status.Drift) == 1 && n.Status.Drift[0].Hash != o.Status.Drift[0].Hash && n.Status.Drift[0].Action == v1alpha1.DriftHeld
	})
	w.annotate(next, v1alpha1.ApproveCorrectionAnnotation, o.Status.Drift[0].Hash)
	w.until("clusters/a", "has refused the approval", func(o *v1alpha1.ClusterOverlay) bool {
		return o.Annotations[v1alpha1.ApproveCorrectionAnnotation] == ""
	})
	if got, _, _ := unstructured.NestedInt64(w.live("MachineDeployment", "-a/workers").Object, "spec", "replicas"); got != 6 {
		t.Errorf("%d replicas: corrected by an approval of something else", got)
	}
	w.annotate(next, v1alpha1.ApproveCorrectionAnnotation, next.Status.Drift[0].Hash)
	o = w.until("clusters/a", "is corrected", func(o *v1alpha1.ClusterOverlay) bool {
		return len(o.Status.Drift) == 0 && o.Annotations[v1alpha1.ApproveCorrectionAnnotation] == ""
	})
	if got, _, _ := unstructured.NestedInt64(w.live("MachineDeployment", "-a/workers").Object, "spec", "replicas"); got != 2 {
		t.Errorf("%d replicas", got)
	}
	if got, _ := corrections(o, "MachineDeployment", "workers"); len(got) != 1 {
		t.Errorf("corrections: %q", got)
	}
	w.check()
}

// A Cluster that somebody deleted, or moved to another management cluster, is not built
// anew unasked, and nothing of it either.
func TestDriftClusterMissing(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	mark := w.mark()
	w.delete("Cluster", "-a/a")
	w.delete("MachineDeployment", "-a/workers")
	o := w.untilDrift("clusters/a", "Cluster a Held Missing", "MachineDeployment workers Blocked Missing")
	if got := w.written(mark); count(got, "NS-a/") > 0 {
		t.Errorf("written: %q", got)
	}
	var hashes []string
	for _, d := range o.Status.Drift {
		hashes = append(hashes, d.Hash)
	}
	w.annotate(o, v1alpha1.ApproveCorrectionAnnotation, strings.Trim(strings.Join(hashes, ","), ","))
	w.untilInSync("clusters/a")
	w.wantLive("Cluster", "-a/a")
	w.wantLive("MachineDeployment", "-a/workers")
	w.check()
}

// Someone unknown is corrected once. One who writes it back is named, and the agent
// waits.
func TestDriftFight(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(simple("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.patch("ConfigMap", "-a/settings", "acme-operator", `{"data":{"v":"theirs"}}`)
	w.until("clusters/a", "is corrected", func(o *v1alpha1.ClusterOverlay) bool {
		return len(o.Status.Corrections) == 1 && len(o.Status.Drift) == 0
	})
	if got := w.data("-a/settings"); got != "one" {
		t.Errorf("settings: %q", got)
	}
	mark := w.mark()
	w.patch("ConfigMap", "-a/settings", "acme-operator", `{"data":{"v":"theirs again"}}`)
	o := w.untilDrift("clusters/a", "ConfigMap settings Fight Changed /data/v")
	if d := o.Status.Drift[0]; !strings.Contains(d.Message, "acme-operator") || d.NextTime == nil {
		t.Errorf("fight: %s", toJSON(d))
	}
	w.patch("ConfigMap", "-a/settings", "acme-operator", `{"data":{"v":"and again"}}`)
	w.until("clusters/a", "sees the last change", func(o *v1alpha1.ClusterOverlay) bool {
		return len(o.Status.Drift) == 1 && o.Status.Drift[0].Findings[0].To == `"and again"`
	})
	if got := w.written(mark); count(got, "NS-a/") > 0 {
		t.Errorf("written in a fight: %q", got)
	}
	w.untilEvent(v1alpha1.FightReason, "acme-operator")
	w.check()
}

// What a controller writes is never taken back.
func TestDriftOfController(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	mark := w.mark()
	w.patch("MachineDeployment", "-a/workers", "manager", `{"spec":{"replicas":3}}`)
	o := w.untilDrift("clusters/a", "MachineDeployment workers Blocked Changed /spec/replicas")
	if m := o.Status.Drift[0].Message; !strings.Contains(m, `"manager"`) {
		t.Errorf("message: %s", m)
	}
	if got := w.written(mark); count(got, "NS-a/") > 0 {
		t.Errorf("written: %q", got)
	}
	w.check()
}

// Fields that are left to others, by the object, by the Fleet, or because an autoscaler
// has them, are neither reported nor taken back, not even by the next commit.
func TestDriftIgnored(t *testing.T) {
	w := newWorld(t)
	files := func(version string) map[string]string {
		md := strings.Replace(machines("-a", "workers", "a", "workers-v1", 2), "namespace: NS-a}", `namespace: NS-a, labels: {v: `+version+`}, annotations: {
 cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size: "1", cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size: "9"}}`, 1)
		cm := strings.Replace(configMap("-a", "settings", "one"), "namespace: NS-a", `namespace: NS-a, labels: {v: `+version+`}, annotations: {capstan.dev/ignore: "/data/v"}`, 1)
		other := strings.Replace(configMap("-a", "other", "one"), "namespace: NS-a", `namespace: NS-a, labels: {v: `+version+`}`, 1)
		return overlayOf("clusters/a", namespaceOf("-a"), cluster("-a", "a"), machineTemplate("-a", "workers-v1"), md, cm, other)
	}
	first := revision(w.commit(files("x")))
	w.fleet(func(f *v1alpha1.Fleet) {
		f.Spec.Drift.Ignore = []v1alpha1.DriftIgnore{{Kinds: []string{"ConfigMap"}, Paths: []string{"/data"}, Managers: []string{"acme"}}}
	})
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.patch("MachineDeployment", "-a/workers", "cluster-autoscaler", `{"spec":{"replicas":7}}`)
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"mine"}}`)
	w.patch("ConfigMap", "-a/other", "acme", `{"data":{"v":"acme's"}}`)
	w.patch("Cluster", "-a/a", "kubectl-label", `{"metadata":{"labels":{"team":"blue"}}}`) // so that something is to be seen
	w.untilDrift("clusters/a", "Cluster a Reported Foreign /metadata/labels/team")
	second := w.push(files("y"))
	w.untilApplied(second, "clusters/a")
	w.patch("Cluster", "-a/a", "kubectl-label", `{"metadata":{"labels":{"team":null}}}`)
	w.untilInSync("clusters/a")
	if got, _, _ := unstructured.NestedInt64(w.live("MachineDeployment", "-a/workers").Object, "spec", "replicas"); got != 7 {
		t.Errorf("%d replicas: the autoscaler's were taken back", got)
	}
	for name, want := range map[string]string{"-a/settings": "mine", "-a/other": "acme's"} {
		if got := w.data(name); got != want || w.live("ConfigMap", name).GetLabels()["v"] != "y" {
			t.Errorf("%s: %q, want %q with the new label", name, got, want)
		}
	}
	w.check()
}

// A newer commit that doesn't render, or can't be applied, doesn't leave the clusters
// undefended.
func TestDriftWithBrokenTip(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet()
	r := w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	broken := clusterOf("a", "two")
	broken["clusters/a/kustomization.yaml"] = "resources: [missing.yaml]\n"
	w.push(broken)
	w.untilCondition("clusters/a", v1alpha1.RenderedCondition, v1alpha1.RenderFailedReason)
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.until("clusters/a", "is corrected", func(o *v1alpha1.ClusterOverlay) bool {
		return len(o.Status.Corrections) == 1 && len(o.Status.Drift) == 0
	})
	if got := w.data("-a/settings"); got != "one" {
		t.Errorf("settings: %q, want those of the applied revision", got)
	}
	// Nor does a restart.
	r.stop()
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.start()
	w.eventually("it is corrected", func() string {
		if got := w.data("-a/settings"); got != "one" {
			return got
		}
		return ""
	})
	w.check()
}

// A correction that the API server refuses is said, and tried again.
func TestDriftRefused(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(simple("a", "one")))
	refuse := make(chan struct{})
	w.wire = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "configmaps/settings") && !strings.Contains(r.URL.RawQuery, "dryRun") {
				select {
				case <-refuse:
				default:
					return nil, fmt.Errorf("no way to %s", r.URL.Host)
				}
			}
			return next.RoundTrip(r)
		})
	}
	close(refuse)
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	refuse = make(chan struct{})
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.untilDrift("clusters/a", "ConfigMap settings Blocked Changed /data/v")
	close(refuse)
	w.untilInSync("clusters/a")
	if got := w.data("-a/settings"); got != "one" {
		t.Errorf("settings: %q", got)
	}
	w.check()
}

// The drift of an overlay whose directory goes is not the agent's any more.
func TestDriftOfRemoved(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(merge(simple("a", "one"), simple("b", "one"))))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	w.remove("clusters/a")
	w.untilCondition("clusters/a", v1alpha1.PendingDeletionCondition, v1alpha1.AwaitingApprovalReason)
	mark := w.mark()
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.patch("ConfigMap", "-b/settings", "kubectl-edit", `{"data":{"v":"edited"}}`)
	w.until("clusters/b", "is corrected", func(o *v1alpha1.ClusterOverlay) bool { return len(o.Status.Corrections) == 1 })
	if got := w.written(mark); count(got, "NS-a/") > 0 {
		t.Errorf("written: %q", got)
	}
	w.untilCondition("clusters/a", v1alpha1.InSyncCondition, v1alpha1.PathRemovedReason)
	w.check()
}

// What status.drift says of Git's fields is what capstan diff would change.
func TestDriftAgreesWithDiff(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "one")))
	w.fleet(reports)
	w.start()
	w.untilApplied(first, "clusters/a")
	w.untilInSync("clusters/a")
	w.patch("ConfigMap", "-a/settings", "kubectl-edit", `{"data":{"v":"edited","w":"foreign"}}`)
	w.patch("MachineDeployment", "-a/workers", "kubectl-edit", `{"spec":{"replicas":7,"template":{"metadata":{"labels":{"more":"x"}},"spec":{"version":"v1.31.0"}}},"metadata":{"annotations":{"`+v1alpha1.PathAnnotation+`":"x"}}}`)
	w.patch("Secret", "-a/credentials", "kubectl-edit", `{"data":{"password":"ZWRpdGVk"}}`)
	w.delete("ProxmoxMachineTemplate", "-a/workers-v1")
	clone := filepath.Join(t.TempDir(), "clone")
	w.repo.Git("clone", "--quiet", w.repo.Path(), clone)
	var want []string
	w.eventually("the plan and the status agree", func() string {
		applier, err := apply.New(apply.Options{Config: env.Config("differ")})
		w.must(err)
		overlay := w.overlay("clusters/a")
		result, err := planner.Plan(w.Context(), applier, planner.Input{
			Tree: tree.FromDir(clone), Fleet: w.getFleet(), Overlay: overlay,
			Owner: apply.Owner{FleetNamespace: w.ns, FleetName: "fleet", Overlay: overlay.Name, Path: "clusters/a"},
		})
		w.must(err)
		var got []string
		want = nil
		bare := strings.NewReplacer("/", ".", "~1", ".", "[", ".", "]", "", `"`, "")
		for _, c := range result.Plan.Changes {
			if c.Action == plan.Create {
				want = append(want, c.ID.Kind+" missing")
			}
			if c.Error != "" {
				t.Fatalf("%s: %s", c.ID, c.Error)
			}
			for _, f := range c.Fields() {
				if c.Action == plan.Update && !strings.HasPrefix(f.Path, "metadata.managedFields") {
					want = append(want, c.ID.Kind+" ."+bare.Replace(f.Path))
				}
			}
		}
		for _, d := range overlay.Status.Drift {
			for _, f := range d.Findings {
				switch f.Class {
				case v1alpha1.FindingMissing:
					got = append(got, d.Kind+" missing")
				case v1alpha1.FindingChanged:
					got = append(got, d.Kind+" "+bare.Replace(f.Field))
				case v1alpha1.FindingForeign, v1alpha1.FindingRecreated, v1alpha1.FindingOwnershipLost:
				}
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		return cmp.Diff(want, got)
	})
	if len(want) < 5 {
		t.Errorf("too little to compare: %q", want)
	}
	for _, d := range w.overlay("clusters/a").Status.Drift {
		if strings.Contains(toJSON(d), "ZWRpdGVk") || strings.Contains(toJSON(d), "pass-of") {
			t.Errorf("a secret is shown: %s", toJSON(d))
		}
	}
	w.check()
}
