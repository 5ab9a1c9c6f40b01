package agent_test

import (
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
)

// Other values of variables reach the objects of an overlay that the same commit
// changed last, though whether they may be applied is known only when its neighbours
// are rendered with them.
func TestOtherValuesAtTheSameCommit(t *testing.T) {
	w := newWorld(t)
	shared := `{apiVersion: v1, kind: Namespace, metadata: {name: NS-shared, labels: {colour: "${COLOUR}"}}}`
	first := revision(w.commit(merge(
		overlayOf("clusters/a", namespaceOf("-a"), shared, configMap("-a", "settings", "${COLOUR}")),
		overlayOf("clusters/b", namespaceOf("-b"), shared, configMap("-b", "settings", "${COLOUR}")),
	)))
	w.fleet(func(f *v1alpha1.Fleet) {
		f.Spec.Substitute = &v1alpha1.SubstituteSpec{Vars: map[string]string{"COLOUR": "red"}}
	})
	w.start()
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.patchFleet(func(f *v1alpha1.FleetSpec) { f.Substitute.Vars["COLOUR"] = "blue" })
	w.eventually("both have the other value", func() string {
		if w.data("-a/settings") == "blue" && w.data("-b/settings") == "blue" &&
			w.live("Namespace", "-shared").GetLabels()["colour"] == "blue" {
			return ""
		}
		return w.dump()
	})
	w.check()
}
