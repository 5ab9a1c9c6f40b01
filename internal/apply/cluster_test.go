package apply_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
)

const cluster = `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: k, namespace: NS},
 spec: {SPEC infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: k}}}`

func clusterRequest(b *bed, spec string) apply.Request {
	req := b.request(replace(cluster, "SPEC", spec) + "\n---\n" + configMap)
	id := object.ID{Group: "cluster.x-k8s.io", Kind: "Cluster", Namespace: b.ns, Name: "k"}
	req.Cluster = &id
	return req
}

// A cluster that others have paused is left alone, all objects of it, until that
// ends; a pause that Git asks for, or asked for, is no obstacle.
func TestPaused(t *testing.T) {
	b := newBed(t)
	known := b.must(clusterRequest(b, ""))
	b.as("clusterctl", true, `{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: k, namespace: NS}, spec: {paused: true}}`)
	req := clusterRequest(b, "")
	req.Known = known
	req.Objects = req.Objects[1:]
	req.Objects[0].Object["data"] = map[string]any{"a": "two"}
	mark := env.Mark(t)
	report := b.run(req)
	b.wantActions(report)
	b.wantError(report, v1alpha1.ClusterPausedReason, true, "paused")
	if diff := cmp.Diff([]string{"get clusters NS/k: 200"}, b.counted(mark)); diff != "" {
		t.Errorf("requests for a paused cluster:\n%s", diff)
	}
	report = b.dryRun(req)
	b.wantActions(report, "ConfigMap c: Configured")
	b.wantError(report, v1alpha1.ClusterPausedReason, true, "paused")

	req = clusterRequest(b, "paused: true,")
	req.Known, req.GitPaused = known, true
	b.must(req) // Git agrees now, so it is Git's
	req = clusterRequest(b, "")
	req.Known = known
	b.must(req)
	live := b.live(replace(cluster, "SPEC", ""))
	if got := field(live, "spec", "paused"); got != true {
		// clusterctl is still a co-owner of the value.
		t.Errorf("paused %v, managers %v", got, managers(live))
	}
}

// Git pauses a cluster and takes that back.
func TestPausedByGit(t *testing.T) {
	b := newBed(t)
	req := clusterRequest(b, "paused: true,")
	req.GitPaused = true
	known := b.must(req)
	req = clusterRequest(b, "")
	req.Known = known
	b.must(req)
	if got := field(b.live(replace(cluster, "SPEC", "")), "spec", "paused"); got == true {
		t.Error("still paused")
	}
}

// While a cluster is being deleted nothing is written.
func TestClusterDeleting(t *testing.T) {
	b := newBed(t)
	manifest := replace(cluster, "SPEC", "")
	b.as("someone", true, replace(manifest, "name: k,", "name: k, finalizers: [cluster.cluster.x-k8s.io],"))
	live := b.live(manifest)
	if err := env.Client().Delete(context.Background(), live); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.unlock(live) })
	report := b.run(clusterRequest(b, ""))
	b.wantActions(report)
	b.wantError(report, v1alpha1.ClusterDeletingReason, true, "being deleted")
	if b.live(configMap) != nil {
		t.Error("an object of the cluster was written")
	}
	b.unlock(live)
	b.wantActions(b.run(clusterRequest(b, "")), "ConfigMap c: Created", "Cluster k: Created")
}

// The look at the Cluster also serves its adoption.
func TestClusterReadOnce(t *testing.T) {
	b := newBed(t)
	mark := env.Mark(t)
	b.must(clusterRequest(b, ""))
	gets := 0
	for _, r := range env.Requests(t, b.user, mark) {
		if r.Verb == "get" && r.Resource == "clusters" {
			gets++
		}
	}
	if gets != 1 {
		t.Errorf("the Cluster was read %d times", gets)
	}
}

// What belonged to a Cluster that is gone, such as to another management cluster, is not
// made again without it.
func TestClusterGone(t *testing.T) {
	b := newBed(t)
	req := clusterRequest(b, "")
	req.Objects, req.ClusterMade, req.ReadAll = req.Objects[1:], true, true
	report := b.run(req)
	b.wantActions(report)
	b.wantError(report, v1alpha1.ClusterDeletingReason, true, "gone")

	req = clusterRequest(b, "") // with it, it is
	req.ClusterMade = true
	b.must(req)
}
