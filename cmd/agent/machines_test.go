package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// TestStatusWithoutClusters watches the status where Clusters can't be read: all
// else is shown, and it is said once that machines are not.
func TestStatusWithoutClusters(t *testing.T) {
	w := newWorld(t)
	w.fleet("home")
	hash := w.commit(settings("one"))
	w.agent()
	w.untilApplied("clusters/dev", hash)

	onlyOurs := meta.NewDefaultRESTMapper(nil)
	for kind, resource := range map[string]string{"Fleet": "fleets", "ClusterOverlay": "clusteroverlays"} {
		r := v1alpha1.GroupVersion.WithResource(resource)
		onlyOurs.AddSpecific(v1alpha1.GroupVersion.WithKind(kind), r, r, meta.RESTScopeNamespace)
	}
	for name, c := range map[string]struct {
		rule   rbacv1.PolicyRule
		mapper meta.RESTMapper
		want   string
	}{
		"forbidden": {
			rule: rbacv1.PolicyRule{APIGroups: []string{"capstan.dev"}, Resources: []string{"*"}, Verbs: []string{"list"}},
			want: "clusters.cluster.x-k8s.io is forbidden",
		},
		"not installed": {
			rule:   rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"list"}},
			mapper: onlyOurs,
			want:   `no matches for kind "Cluster"`,
		},
	} {
		user := strings.ReplaceAll(name, " ", "-") + "-in-" + w.ns
		reader, err := client.New(env.Restricted(t, user, w.ns, c.rule), client.Options{Scheme: newScheme(), Mapper: c.mapper})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var out, errOut screen
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			a := &app{out: &out, err: &errOut}
			ended <- a.watchStatus(ctx, reader, w.ns, statusOptions{output: "table", interval: 10 * time.Millisecond})
		}()
		w.eventually(name+": it shows the overlay and has looked often", func() string {
			lists := len(env.Requests(w.T, user, 0))
			if text := out.String(); !strings.Contains(text, "clusters/dev") || lists < 30 {
				return fmt.Sprintf("%d requests\n%s", lists, text)
			}
			return ""
		})
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if text := errOut.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, c.want) {
			t.Errorf("%s: stderr %q, want one line with %q", name, text, c.want)
		}
	}
}
