package drift

import (
	"crypto/sha256"
	"encoding/json"
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/capi"
)

// others stands for the values of the fields that people, former owners and unknown
// managers have and we have not; zero if there are none. A field that Git declares and
// somebody has taken is among them: what it says next shows here and nowhere else.
func others(u *unstructured.Unstructured, declared set, entries []entry, ownership capi.Ownership) (sum [sha256.Size]byte) {
	var text []byte
	for i := range entries {
		e := &entries[i]
		if !e.writes() || e.class() == capi.ManagerController || capi.SpeaksForAll(e.manager) {
			continue
		}
		for _, f := range resolve(e.fields, u) {
			if !f.whole || len(f.path) > 1 && bookkeeping(f.path[:1], f.path[1]) || bookkeeping(nil, f.path[0]) {
				continue
			}
			if _, yielded := ownership.Yielded(f.pointer); yielded {
				continue
			}
			if _, ours := lookup(declared, f.path); ours {
				continue
			}
			value, err := json.Marshal(f.value)
			if err != nil {
				continue // it came as JSON
			}
			text = append(append(append(append(text, f.pointer...), '='), value...), '\n')
		}
	}
	if text == nil {
		return sum
	}
	return sha256.Sum256(text)
}

// whole stands for an object without its status and the bookkeeping of the API server.
func whole(u *unstructured.Unstructured) (sum [sha256.Size]byte) {
	content := maps.Clone(u.Object)
	delete(content, "status")
	content["metadata"] = map[string]any{"labels": u.GetLabels(), "annotations": u.GetAnnotations()}
	text, err := json.Marshal(content)
	if err != nil {
		return sum // it came as JSON
	}
	return sha256.Sum256(text)
}
