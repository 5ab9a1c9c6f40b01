package capi_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"capstan.dev/capstan/internal/capi"
)

func TestReplicasOf(t *testing.T) {
	cluster := parse(t, `
apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {name: c}
status:
  controlPlane: {desiredReplicas: 3, replicas: 4, readyReplicas: 2, availableReplicas: 1}
  workers: {desiredReplicas: 0, replicas: 0, readyReplicas: 0, availableReplicas: 0, upToDateReplicas: 0}
`)
	controlPlane, workers := capi.ReplicasOf(cluster)
	want := capi.Replicas{Desired: ptr.To[int64](3), Replicas: ptr.To[int64](4), Ready: ptr.To[int64](2), Available: ptr.To[int64](1)}
	if diff := cmp.Diff(want, controlPlane); diff != "" {
		t.Errorf("control plane (-want +got):\n%s", diff)
	}
	zero := ptr.To[int64](0)
	want = capi.Replicas{Desired: zero, Replicas: zero, Ready: zero, Available: zero, UpToDate: zero}
	if diff := cmp.Diff(want, workers); diff != "" {
		t.Errorf("workers (-want +got):\n%s", diff)
	}
}

func TestReplicasText(t *testing.T) {
	cases := map[string]struct{ status, want string }{
		"no status":                 {`{}`, "-"},
		"nothing reported":          {`{workers: {}}`, "-"},
		"not a number":              {`{workers: {desiredReplicas: "3"}}`, "-"},
		"all there":                 {`{workers: {desiredReplicas: 3, replicas: 3, readyReplicas: 3, upToDateReplicas: 3}}`, "3/3"},
		"up to date is unknown":     {`{workers: {desiredReplicas: 3, replicas: 3, readyReplicas: 3}}`, "3/3"},
		"none wanted":               {`{workers: {desiredReplicas: 0, replicas: 0, readyReplicas: 0, upToDateReplicas: 0}}`, "0/0"},
		"starting":                  {`{workers: {desiredReplicas: 3, replicas: 1, readyReplicas: 0, upToDateReplicas: 1}}`, "0/3"},
		"available without machine": {`{workers: {desiredReplicas: 3, replicas: 1, readyReplicas: 1, availableReplicas: 3}}`, "1/3"},
		"a surge":                   {`{workers: {desiredReplicas: 3, replicas: 4, readyReplicas: 3}}`, "3/3 +1"},
		"rolling, surging":          {`{workers: {desiredReplicas: 3, replicas: 4, readyReplicas: 3, upToDateReplicas: 1}}`, "3/3 +1 (1 up to date)"},
		"rolling, deleting first":   {`{workers: {desiredReplicas: 3, replicas: 3, readyReplicas: 2, upToDateReplicas: 1}}`, "2/3 (1 up to date)"},
		"scaling down":              {`{workers: {desiredReplicas: 1, replicas: 3, readyReplicas: 3, upToDateReplicas: 3}}`, "3/1 +2"},
		"leaving":                   {`{workers: {desiredReplicas: 3, replicas: 0, readyReplicas: 0, upToDateReplicas: 0}}`, "0/3"},
		"ready is unknown":          {`{workers: {desiredReplicas: 3, replicas: 3}}`, "?/3"},
		"wanted is unknown":         {`{workers: {replicas: 2, readyReplicas: 1, upToDateReplicas: 0}}`, "1/? (0 up to date)"},
		"there is unknown":          {`{workers: {desiredReplicas: 3, readyReplicas: 2, upToDateReplicas: 1}}`, "2/3"},
		"only control plane":        {`{controlPlane: {desiredReplicas: 3, readyReplicas: 2}}`, "-"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, workers := capi.ReplicasOf(parse(t, "{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, status: "+c.status+"}"))
			if got := workers.String(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}
