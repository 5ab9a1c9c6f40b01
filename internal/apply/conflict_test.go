package apply_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/api/v1alpha1"
)

// A field that a person has changed is Git's again; a field of a controller, or of
// somebody unknown, is left to it, and the error says whose it is.
func TestConflict(t *testing.T) {
	for name, test := range map[string]struct {
		managers []string
		yields   bool
	}{
		"person":                  {managers: []string{"kubectl-edit"}, yields: true},
		"former owner":            {managers: []string{"helm"}, yields: true},
		"person and former owner": {managers: []string{"kubectl-patch", "kustomize-controller"}, yields: true},
		"controller":              {managers: []string{"manager"}},
		"unknown":                 {managers: []string{"mystery"}},
		"person and controller":   {managers: []string{"kubectl-edit", "cluster-autoscaler"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			known := b.must(b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {f0: git, f1: git}}`))
			for i, manager := range test.managers {
				f := string(rune('0' + i))
				b.as(manager, true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {f`+f+`: theirs}}`)
			}
			before := b.live(configMap)
			mark := env.Mark(t)
			req := b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {f0: git2, f1: git2}}`)
			req.Known = known
			report := b.run(req)
			if test.yields {
				b.wantActions(report, "ConfigMap c: Configured")
				if diff := cmp.Diff(map[string]any{"f0": "git2", "f1": "git2"}, field(b.live(configMap), "data")); diff != "" {
					t.Error(diff)
				}
				return
			}
			last := len(test.managers) - 1
			b.wantActions(report, "ConfigMap c: Failed")
			b.wantError(report, v1alpha1.ConflictReason, false, `.data.f`+string(rune('0'+last)), `"`+test.managers[last]+`"`)
			if diff := cmp.Diff(before, b.live(configMap)); diff != "" {
				t.Errorf("written in spite of the conflict:\n%s", diff)
			}
			for _, r := range env.Requests(t, b.user, mark) {
				if r.Force {
					t.Errorf("forced: %s", r)
				}
			}
		})
	}
}

// A controller's conflict in one object stops all, and is found in the dry-run.
func TestConflictStopsAll(t *testing.T) {
	b := newBed(t)
	known := b.must(b.request(two))
	b.as("manager", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: theirs}}`)
	req := b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: git}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}}`)
	req.Known = known
	b.wantActions(b.run(req), "ConfigMap c: Failed", "Secret s: NotReached")
}
