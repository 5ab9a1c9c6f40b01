package apply

import (
	"encoding/json"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// foresee lists the managers that an apply which isn't forced would be in conflict with, if
// all of them give way: then the attempt can be left out. It goes by the managed fields of
// the object that was read, and holds for that version only. Whoever doesn't give way must
// for sure hold nothing of what changes, and nothing that others hold may be left to them;
// where that can't be told there are none, and the answer to the attempt tells.
func (r *run) foresee(it *item) (yielding []string) {
	if it.live == nil || it.version != it.live.GetResourceVersion() || it.takeover || r.maybeLeft(it) {
		return nil
	}
	sent := it.sent()
	for _, e := range it.live.GetManagedFields() {
		if e.Manager == r.manager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" {
			continue // these are no conflict
		}
		var held fields
		if e.FieldsV1 == nil || json.Unmarshal(e.FieldsV1.GetRawBytes(), &held) != nil {
			return nil
		}
		here := e.APIVersion == sent.GetAPIVersion()
		switch yields := r.yields(e.Manager); {
		case yields && here && changes(sent, it.live, held):
			yielding = append(yielding, e.Manager)
		case !yields && (!here || changes(sent, it.live, held)):
			return nil
		}
	}
	slices.Sort(yielding)
	return slices.Compact(yielding)
}

// maybeLeft tells whether any field that others hold is one that may be left to them.
func (r *run) maybeLeft(it *item) bool {
	view, left := r.viewOf(it), false
	if view == nil {
		return false // or its managed fields can't be read, which foresee sees as well
	}
	view.eachField(func(f declared) (below bool) {
		held, _ := view.holders(f)
		left = left || len(held) > 0 && r.isLeft(it, view, f, held, false)
		return !left
	})
	return left
}

// changes tells whether what is sent has another value than the live object for any of
// the fields that somebody holds.
func changes(sent, live *unstructured.Unstructured, held fields) bool {
	return changed(sent.Object, live.Object, held)
}

func changed(sent, live any, held fields) bool {
	switch sent.(type) {
	case map[string]any, []any:
		if held.whole() || reflect.TypeOf(sent) != reflect.TypeOf(live) {
			return !reflect.DeepEqual(sent, live)
		}
	default:
		return !reflect.DeepEqual(sent, live)
	}
	for key, below := range held {
		part, found := element(sent, key)
		if !found {
			continue
		}
		if was, _ := element(live, key); changed(part, was, below) {
			return true
		}
	}
	return false
}
