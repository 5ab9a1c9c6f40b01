package apply_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/api/v1alpha1"
)

// What a Secret says in stringData is Git's like everything else: it goes when it leaves
// Git, and comes back when somebody edits it.
func TestStringData(t *testing.T) {
	b := newBed(t)
	secret := func(texts string) string {
		return `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}, stringData: {` + texts + `}, data: {c: ` + `Yw==` + `}}`
	}
	known := b.must(b.request(secret("a: a, b: b")))
	req := b.request(secret("a: a"))
	req.Known = known
	b.wantActions(b.run(req), "Secret s: Configured")
	if diff := cmp.Diff(map[string]any{"a": "YQ==", "c": "Yw=="}, field(b.live(secret("")), "data")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.as("kubectl-edit", true, `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}, data: {a: eA==, c: Yw==}}`)
	req.ReadAll = true
	b.wantActions(b.run(req), "Secret s: Configured")
	if diff := cmp.Diff(map[string]any{"a": "YQ==", "c": "Yw=="}, field(b.live(secret("")), "data")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	report := b.dryRun(b.request(secret("a: 1")))
	b.wantError(report, v1alpha1.InvalidReason, false)
}

// A known object whose labels a person has changed is still ours; one that another agent
// has applied is not.
func TestRelabelled(t *testing.T) {
	b := newBed(t)
	known := b.must(b.request(configMap))
	for _, label := range []string{v1alpha1.OverlayLabel, v1alpha1.FleetLabel} {
		b.as("kubectl-label", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS, labels: {`+label+`: other}}}`)
		req := b.request(configMap)
		req.Known, req.ReadAll = known, true
		b.wantActions(b.run(req), "ConfigMap c: Configured")
		if got := b.live(configMap).GetLabels()[v1alpha1.OverlayLabel]; got != b.owner.Overlay {
			t.Errorf("label %q", got)
		}
	}
	b.as("kubectl-label", true, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS, labels: {`+v1alpha1.OverlayLabel+`: other}}}`)
	b.wantActions(b.run(b.request(configMap)), "ConfigMap c: Refused") // not known to be ours
}
