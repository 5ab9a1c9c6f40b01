package apply_test

import (
	"context"
	"fmt"
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
)

// A name is never a way to something else: to another kind, to a subresource, or
// through the API server to a pod. Nothing is sent for such an object.
func TestNamesThatArePaths(t *testing.T) {
	b := newBed(t)
	b.must(b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: there, namespace: NS}, data: {a: x}}`))
	for i, name := range []string{"../configmaps/there", "../secrets/there", "there/status", "there/proxy/x", "..", ".", "a%2fb"} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			inside := *b
			inside.T = t
			mark := env.Mark(t)
			for _, manifest := range []string{
				fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %q, namespace: NS}, data: {a: z}}`, name),
				fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %q}}`, name),
				fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: there, namespace: %q}, data: {a: z}}`, name),
			} {
				req := inside.request(manifest)
				for _, do := range []func(context.Context, apply.Request) (apply.Report, error){b.apply.DryRun, b.apply.Apply} {
					report, err := do(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					inside.wantError(report, v1alpha1.InvalidReason, false, "can't be part of a path")
				}
			}
			cluster := inside.request(fmt.Sprintf(`{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: %q, namespace: NS}}`, name))
			req := cluster
			req.Cluster = &b.dryRun(cluster).Outcomes[0].ID
			if halted := b.dryRun(req).Halted; halted == nil || halted.Reason != v1alpha1.InvalidReason {
				t.Errorf("halted: %v", halted)
			}
			if sent := inside.counted(mark); len(sent) > 0 {
				t.Errorf("sent: %q", sent)
			}
		})
	}
}
