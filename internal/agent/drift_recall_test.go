package agent

import (
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/live"
)

// An approval on record outlasts that an object can't be examined, unless what was approved is
// over: an object that has come back since is another one, should it go again.
func TestRecall(t *testing.T) {
	findings := func(class v1alpha1.FindingClass) []v1alpha1.Finding { return []v1alpha1.Finding{{Class: class}} }
	missing, changed := findings(v1alpha1.FindingMissing), findings(v1alpha1.FindingChanged)
	was := func(f []v1alpha1.Finding) *v1alpha1.DriftedObject {
		return &v1alpha1.DriftedObject{Hash: "approved", Findings: f}
	}
	blind := examination{findings: missing}
	for name, test := range map[string]struct {
		d    drifted
		want string
	}{
		"missing still":          {drifted{examination: blind, obstacle: "Git", was: was(missing)}, "approved"},
		"changed still":          {drifted{examination: examination{findings: changed}, obstacle: "Git", was: was(changed)}, "approved"},
		"refused":                {drifted{examination: examination{findings: missing, refused: "no"}, was: was(missing)}, "approved"},
		"it was missing":         {drifted{examination: examination{findings: findings(v1alpha1.FindingRecreated)}, obstacle: "Git", was: was(missing)}, ""},
		"it was there":           {drifted{examination: blind, obstacle: "Git", was: was(changed)}, ""},
		"on its way out":         {drifted{examination: blind, obstacle: "Git", was: was(missing), seen: live.Seen{Deleting: true}}, ""},
		"nothing is in the way":  {drifted{examination: blind, was: was(missing)}, ""},
		"news":                   {drifted{examination: blind, obstacle: "Git"}, ""},
		"examined, and now else": {drifted{examination: examination{findings: missing, hash: "new"}, obstacle: "paused", was: was(missing)}, "new"},
	} {
		test.d.recall()
		if test.d.hash != test.want {
			t.Errorf("%s: %q, want %q", name, test.d.hash, test.want)
		}
	}
}
