package live

import (
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/drift"
	"capstan.dev/capstan/internal/object"
)

// Seen is what is known of one declared object.
type Seen struct {
	// Known says that the rest says how the object is. It isn't known before everything of
	// its kind has been listed, nor (Why says so) if that can't be watched for longer than
	// Options.Patience.
	Known bool
	// Present says that there is such an object with the label that it is watched by. One
	// that lost the label is not.
	Present bool
	// Deleting says that its deletion has begun.
	Deleting bool
	UID      types.UID
	// ResourceVersion is the object's. If it isn't present, that is what the watch has
	// delivered: an object that was written later may not have been delivered yet.
	ResourceVersion string
	// Annotations has capstan.dev/drift, if the object has it.
	Annotations map[string]string
	// Sight is what comparison needs. Nothing of it may be changed.
	Sight drift.Sight
	// Why says why it isn't known, if that has lasted too long.
	Why string
}

// Seen returns what is known of each object that an overlay declares.
func (o *Objects) Seen(overlay types.NamespacedName) map[object.ID]Seen {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.Clock.Now()
	ids := o.overlays[overlay].ids
	seen := make(map[object.ID]Seen, len(ids))
	for id, s := range ids {
		w := o.watches[s]
		if why := w.failing(now, o.Patience); why != "" {
			seen[id] = Seen{Why: why}
			continue
		}
		k, complete, version := w.get(keyOf(id))
		switch {
		case !complete:
			seen[id] = Seen{}
		case k == nil:
			seen[id] = Seen{Known: true, ResourceVersion: version}
		default:
			seen[id] = k.seen()
		}
	}
	return seen
}

func (k *kept) seen() Seen {
	s := Seen{Known: true, Present: true, Deleting: k.deleting, UID: k.uid, ResourceVersion: k.version, Sight: *k.sight}
	if k.mode != nil {
		s.Annotations = map[string]string{v1alpha1.DriftAnnotation: *k.mode}
	}
	return s
}

// sighted tells whether Seen says something else now, but for the version.
func sighted(was, now *kept) bool {
	if was == nil || now == nil {
		return was != now
	}
	return was.uid != now.uid || was.deleting != now.deleting || !equality.Semantic.DeepEqual(was.mode, now.mode) ||
		!equality.Semantic.DeepEqual(was.sight, now.sight)
}

// keyOf is an object's name within its kind.
func keyOf(id object.ID) types.NamespacedName {
	return types.NamespacedName{Namespace: id.Namespace, Name: id.Name}
}
