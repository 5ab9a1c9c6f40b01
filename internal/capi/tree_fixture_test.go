package capi

import (
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/api/v1alpha1"
)

// TestTreeOfFixtures makes trees of what real controllers report: nothing of a report is
// lost or there twice, and as long as the Cluster is there everything but pools is below
// it, where it belongs.
func TestTreeOfFixtures(t *testing.T) {
	for _, f := range fixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			r := Progress(f.ProgressInput)
			want, got := map[string]int{}, map[string]int{}
			for _, o := range r.Objects {
				want[o.ID.Kind+" "+o.ID.Name]++
			}
			for _, m := range r.Machines {
				want["Machine "+m.Name]++
			}
			var walk func(nodes []Node, above string)
			walk = func(nodes []Node, above string) {
				for _, n := range nodes {
					for _, name := range n.Names {
						got[n.Kind+" "+name]++
					}
					switch {
					case n.Kind == "Machine" && !strings.HasSuffix(above, "ControlPlane") && above != "MachineDeployment" &&
						!(f.ofTopology() && (above == "Cluster" || above == string(PartWorkers))):
						t.Errorf("Machines %s are below %q", n.Names, above)
					case strings.HasSuffix(n.Kind, "ControlPlane") && (above != "Cluster" || n.Part != PartControlPlane),
						n.Kind == "ProxmoxCluster" && (above != "Cluster" || n.Part != PartInfrastructure),
						n.Kind == "MachineDeployment" && above != string(PartWorkers):
						t.Errorf("%s %s is the %q of %q", n.Kind, n.Names, n.Part, above)
					case n.Kind != "" && n.Ready == nil:
						t.Errorf("it isn't known whether %s %s is ready", n.Kind, n.Names)
					}
					if n.Kind == "" {
						walk(n.Children, string(n.Part))
					} else {
						walk(n.Children, n.Kind)
					}
				}
			}
			tree := Tree(f.ProgressInput, r, nil)
			walk(tree, "")
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("in the tree (-want +got):\n%s", diff)
			}
			if r.Phase == v1alpha1.PhaseConverged {
				for _, n := range tree {
					allReady(t, n)
				}
			}
		})
	}
}

// allReady wants a tree in which nothing is waited for, and so Machines folded.
func allReady(t *testing.T, n Node) {
	t.Helper()
	if n.Kind != "" && !*n.Ready || n.Outdated || n.Leaving || n.Blocked || n.Message != "" {
		t.Errorf("converged, but: %+v", n)
	}
	machines := 0
	for _, child := range n.Children {
		if child.Kind == "Machine" {
			machines++
		}
		allReady(t, child)
	}
	if machines > 1 {
		t.Errorf("%s %s has %d nodes of Machines that are in the same way", n.Kind, n.Names, machines)
	}
}
