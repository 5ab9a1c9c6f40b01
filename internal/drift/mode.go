package drift

import (
	"fmt"
	"strings"

	"capstan.dev/capstan/api/v1alpha1"
)

// ModeOf says what is done about drift of an object: what its annotation says, else its
// overlay, else its Fleet, else Correct. An annotation that says something else is a
// problem, and the object is left alone: who wrote it wanted something.
func ModeOf(fleet v1alpha1.DriftSpec, overlay v1alpha1.OverlayDriftSpec, annotations map[string]string) (mode v1alpha1.DriftMode, problem string) {
	if value, set := annotations[v1alpha1.DriftAnnotation]; set {
		for _, mode := range []v1alpha1.DriftMode{v1alpha1.DriftCorrect, v1alpha1.DriftReport} {
			if strings.EqualFold(strings.TrimSpace(value), string(mode)) {
				return mode, ""
			}
		}
		return v1alpha1.DriftReport, fmt.Sprintf("annotation %s is %q: say %s or %s", v1alpha1.DriftAnnotation,
			cut(value, 64), v1alpha1.DriftCorrect, v1alpha1.DriftReport)
	}
	for _, mode := range []v1alpha1.DriftMode{overlay.Mode, fleet.Mode} {
		if mode != "" {
			return mode, ""
		}
	}
	return v1alpha1.DriftCorrect, ""
}
