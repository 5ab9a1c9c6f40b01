package drift

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// writers tells who wrote the fields of a live object, as far as managedFields does.
type writers struct {
	version string
	all     []theirs
	// ours is what we have applied, nil if nothing is left of it.
	ours *entry
}

// theirs is what one other manager owns.
type theirs struct {
	*entry
	fields []owned
}

func newWriters(u *unstructured.Unstructured, entries []entry) writers {
	w := writers{version: u.GetAPIVersion(), ours: oursIn(entries, u.GetAPIVersion())}
	for i := range entries {
		if e := &entries[i]; e.writes() {
			w.all = append(w.all, theirs{entry: e, fields: resolve(e.fields, u)})
		}
	}
	return w
}

// of says who wrote a field: who owns it or what it is in, else who owns something in
// it. Nobody owns a field that was removed: then it is the newest writer that is no
// controller and came after us, if there is one.
func (w writers) of(pointer string) v1alpha1.Writer {
	for _, owns := range []func(theirs) bool{
		func(t theirs) bool {
			return t.owns(func(o owned) bool { return o.pointer == pointer || o.whole && within(pointer, o.pointer) })
		},
		func(t theirs) bool {
			return t.owns(func(o owned) bool { return within(o.pointer, pointer) })
		},
		// At another API version the field may be elsewhere, under the same name.
		func(t theirs) bool {
			return t.version != w.version && t.owns(func(o owned) bool { return !o.found && last(o.pointer) == last(pointer) })
		},
		func(t theirs) bool {
			return t.class() != capi.ManagerController && !capi.SpeaksForAll(t.manager) &&
				(w.ours == nil || !t.at().Before(w.ours.at()))
		},
	} {
		var candidates []*entry
		for _, t := range w.all {
			if owns(t) {
				candidates = append(candidates, t.entry)
			}
		}
		if len(candidates) > 0 {
			return slices.MinFunc(candidates, newestFirst).writer()
		}
	}
	return v1alpha1.Writer{}
}

// creator says who made the object: the first who wrote.
func (w writers) creator() v1alpha1.Writer {
	if len(w.all) == 0 {
		return v1alpha1.Writer{}
	}
	return slices.MaxFunc(w.all, func(a, b theirs) int { return newestFirst(a.entry, b.entry) }).writer()
}

func (t theirs) owns(match func(owned) bool) bool {
	return slices.ContainsFunc(t.fields, func(o owned) bool { return (o.whole || o.found) && match(o) })
}

func last(pointer string) string { return pointer[strings.LastIndexByte(pointer, '/')+1:] }

// newestFirst orders entries by time. Of the same second controllers come first, because
// nothing may be taken from them.
func newestFirst(a, b *entry) int {
	controller := func(e *entry) int {
		if e.class() == capi.ManagerController {
			return 0
		}
		return 1
	}
	return cmp.Or(b.at().Compare(a.at()), cmp.Compare(controller(a), controller(b)),
		cmp.Compare(a.manager, b.manager), cmp.Compare(a.operation, b.operation), cmp.Compare(a.subresource, b.subresource))
}
