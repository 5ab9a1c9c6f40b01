package dev

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The judge of the tests of convergence is judged by histories that are known to be right or wrong.
func TestConvergenceJudge(t *testing.T) {
	t.Parallel()
	object := func(kind, name, manifest string) *unstructured.Unstructured {
		u := parse(t, manifest)[0]
		u.SetKind(kind)
		u.SetName(name)
		return u
	}
	cluster := object("Cluster", "c", `{spec: {}, metadata: {generation: 1}}`)
	deployment := object("MachineDeployment", "md", `{metadata: {generation: 1}, spec: {replicas: 1, template: {spec: {version: v1,
  infrastructureRef: {name: i1}, bootstrap: {configRef: {name: b1}}}}}}`)
	infra := object("ProxmoxMachine", "m", `{metadata: {annotations: {cluster.x-k8s.io/cloned-from-name: i1}}}`)
	config := object("TalosConfig", "m", `{metadata: {annotations: {cluster.x-k8s.io/cloned-from-name: b1}}}`)
	machine := func(from, to string) *unstructured.Unstructured {
		return object("Machine", "m", strings.Replace(`{metadata: {labels: {cluster.x-k8s.io/deployment-name: md}}, spec: {version: v1,
  infrastructureRef: {kind: ProxmoxMachine, name: m}, bootstrap: {configRef: {kind: TalosConfig, name: m}}},
  status: {phase: Running, nodeRef: {name: node}, conditions: [{type: Ready, status: "True"}, {type: Available, status: "True"},
  {type: UpToDate, status: "True"}]}}`, from, to, 1))
	}
	says := func(phase, applied, converged, ready string) *unstructured.Unstructured {
		is := map[bool]string{true: "True", false: "False"}[phase == "Converged"]
		return object("ClusterOverlay", "o", `{status: {desiredRevision: r2, appliedRevision: `+applied+`, convergedRevision: "`+converged+`",
  progress: {phase: `+phase+`, message: why}, conditions: [{type: Converged, status: "`+is+`"}, {type: Ready, status: "`+ready+`"}]}}`)
	}
	good, progressing := machine("", ""), says("Progressing", "r2", "r1", "Unknown")
	for name, c := range map[string]struct {
		history []*unstructured.Unstructured
		want    string // part of the one complaint
	}{
		"right":      {[]*unstructured.Unstructured{good, progressing, says("Converged", "r2", "r2", "True"), machine("Running", "Failed"), says("Degraded", "r2", "r2", "False")}, ""},
		"no machine": {[]*unstructured.Unstructured{says("Converged", "r2", "r2", "Unknown")}, "md has 0 machines of 1"},
		"not ready":  {[]*unstructured.Unstructured{good, progressing, machine(`Ready, status: "True"`, `Ready, status: "False"`), says("Converged", "r2", "r2", "Unknown")}, "m is not ready"},
		"version":    {[]*unstructured.Unstructured{good, progressing, machine("version: v1", "version: v0"), says("Converged", "r2", "r2", "Unknown")}, "has version v0 instead of v1"},
		"no node":    {[]*unstructured.Unstructured{good, progressing, machine("nodeRef", "noRef"), says("Converged", "r2", "r2", "Unknown")}, "m has no node"},
		"taken back": {[]*unstructured.Unstructured{good, says("Converged", "r2", "r2", "True"), says("Progressing", "r2", "r1", "Unknown")}, "goes back from r2"},
		"again":      {[]*unstructured.Unstructured{good, says("Converged", "r2", "r2", "True"), says("Progressing", "r2", "r2", "Unknown")}, "it is Progressing again"},
		"ready":      {[]*unstructured.Unstructured{good, says("Progressing", "r2", "r1", "True")}, "Ready is True"},
		"declared":   {[]*unstructured.Unstructured{good, says("Converged", "r3", "r3", "Unknown")}, "spec.replicas is not as declared"},
	} {
		t.Run(name, func(t *testing.T) {
			declared := deployment.DeepCopy()
			declared.SetAPIVersion("cluster.x-k8s.io/v1beta2")
			set(t, declared, int64(2), "spec", "replicas")
			start := time.Now()
			var history []event
			for i, u := range append([]*unstructured.Unstructured{cluster, deployment, infra, config}, c.history...) {
				history = append(history, event{rv: uint64(i), at: start.Add(time.Duration(i) * time.Minute), kind: u.GetKind(), u: u})
			}
			v := judge(history, []string{"r1", "r2", "r3"}, map[string][]*unstructured.Unstructured{"r3": {declared}})
			switch {
			case c.want == "" && len(v.complaints) == 0:
			case c.want == "" || len(v.complaints) == 0 || !strings.Contains(v.complaints[0], c.want):
				t.Errorf("complaints %s: %q", strconv.Itoa(len(v.complaints)), v.complaints)
			}
		})
	}
}
