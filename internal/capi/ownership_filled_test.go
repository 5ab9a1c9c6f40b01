package capi

import "testing"

// What Git has empty is left to others only where the map says that this is how one says so.
func TestFilled(t *testing.T) {
	endpoint := map[string]any{"host": "", "port": int64(0)}
	for name, test := range map[string]struct {
		kind, pointer string
		value         any
		want          bool
	}{
		"all of it":       {"Cluster", "/spec/controlPlaneEndpoint", endpoint, true},
		"a part":          {"Cluster", "/spec/controlPlaneEndpoint/host", "", true},
		"a number":        {"Cluster", "/spec/controlPlaneEndpoint/port", float64(0), true},
		"filled in":       {"Cluster", "/spec/controlPlaneEndpoint", map[string]any{"host": "a", "port": int64(0)}, false},
		"no replicas":     {"MachineDeployment", "/spec/replicas", int64(0), false},
		"an empty label":  {"Cluster", "/metadata/labels/x", "", false},
		"another's field": {"MachineDeployment", "/spec/controlPlaneEndpoint", endpoint, false},
	} {
		t.Run(name, func(t *testing.T) {
			u := liveObject(t, "cluster.x-k8s.io/v1beta2 "+test.kind, "{}")
			if got := OwnershipOf(u).Filled(test.pointer, test.value); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}
