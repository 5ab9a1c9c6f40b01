package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
)

// Owner is the overlay that objects belong to.
type Owner struct {
	// FleetNamespace and FleetName name the Fleet.
	FleetNamespace, FleetName string
	// Overlay is the name of the ClusterOverlay, which lives beside the Fleet.
	Overlay string
	// Path is the directory of the overlay.
	Path string
}

// FleetLabelValue is the value of v1alpha1.FleetLabel for a Fleet.
func FleetLabelValue(namespace, name string) string {
	sum := sha256.Sum256([]byte(namespace + "/" + name))
	return hex.EncodeToString(sum[:4])
}

// labels are the labels that say whose an object is.
func (o Owner) labels() map[string]string {
	return map[string]string{
		v1alpha1.FleetLabel:   FleetLabelValue(o.FleetNamespace, o.FleetName),
		v1alpha1.OverlayLabel: o.Overlay,
	}
}

// owns tells whether an object's labels name this owner.
func (o Owner) owns(u *unstructured.Unstructured) bool {
	labels := u.GetLabels()
	for key, value := range o.labels() {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// Label says on each object whose it is: labels to select by and annotations to
// read. They go on the object itself, never into a template, where they would
// replace machines.
func Label(o Owner, objects []*unstructured.Unstructured) {
	annotations := map[string]string{
		v1alpha1.FleetAnnotation: o.FleetNamespace + "/" + o.FleetName,
		v1alpha1.PathAnnotation:  o.Path,
	}
	for _, u := range objects {
		u.SetLabels(merged(u.GetLabels(), o.labels()))
		u.SetAnnotations(merged(u.GetAnnotations(), annotations))
	}
}

func merged(base, over map[string]string) map[string]string {
	all := make(map[string]string, len(base)+len(over))
	maps.Copy(all, base)
	maps.Copy(all, over)
	return all
}
