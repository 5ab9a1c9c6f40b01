package inventory_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
)

func ref(kind, name string) v1alpha1.ObjectReference {
	for _, r := range universe {
		if r.Kind == kind {
			r.Name = name
			return r
		}
	}
	panic("unknown kind " + kind)
}

func entry(r v1alpha1.ObjectReference, uid types.UID, digest string, state v1alpha1.EntryState) v1alpha1.InventoryEntry {
	r.UID = uid
	return v1alpha1.InventoryEntry{ObjectReference: r, Digest: digest, State: state}
}

func desired(r v1alpha1.ObjectReference, digest string) inventory.Desired {
	return inventory.Desired{Ref: r, Digest: digest}
}

func TestWriteAhead(t *testing.T) {
	a, b, ns := ref("ConfigMap", "a"), ref("ConfigMap", "b"), ref("Namespace", "dev")
	newer := b
	newer.Version = "v2"
	withMessage := entry(a, "1", "d", v1alpha1.EntryRetained)
	withMessage.Message = "in use"
	type entries = []v1alpha1.InventoryEntry
	cases := []struct {
		name     string
		previous entries
		desired  []inventory.Desired
		want     entries
		changed  bool
	}{
		{"first", nil, []inventory.Desired{desired(b, "x"), desired(a, "y")},
			entries{entry(a, "", "", v1alpha1.EntryIntent), entry(b, "", "", v1alpha1.EntryIntent)}, true},
		{"an edit changes nothing yet", entries{entry(a, "1", "d", v1alpha1.EntryApplied)}, []inventory.Desired{desired(a, "e")},
			entries{entry(a, "1", "d", v1alpha1.EntryApplied)}, false},
		{"a new version is no new identity", entries{entry(b, "1", "d", v1alpha1.EntryApplied)}, []inventory.Desired{desired(newer, "d")},
			entries{entry(newer, "1", "d", v1alpha1.EntryApplied)}, false},
		{"still about to be applied", entries{entry(a, "", "", v1alpha1.EntryIntent)}, []inventory.Desired{desired(a, "d")},
			entries{entry(a, "", "", v1alpha1.EntryIntent)}, false},
		{"leaves", entries{entry(a, "1", "d", v1alpha1.EntryApplied)}, nil,
			entries{entry(a, "1", "d", v1alpha1.EntryLeaving)}, true},
		{"leaves before it was applied", entries{entry(a, "", "", v1alpha1.EntryIntent)}, nil,
			entries{entry(a, "", "", v1alpha1.EntryLeaving)}, true},
		{"left before", entries{withMessage}, nil, entries{withMessage}, false},
		{"comes back", entries{withMessage}, []inventory.Desired{desired(a, "d")},
			entries{entry(a, "", "", v1alpha1.EntryIntent)}, true},
		{"shared from the start", nil, []inventory.Desired{{Ref: ns, Digest: "d", Shared: true}},
			entries{entry(ns, "", "", v1alpha1.EntryShared)}, true},
		{"becomes shared", entries{entry(ns, "1", "d", v1alpha1.EntryApplied)}, []inventory.Desired{{Ref: ns, Digest: "d", Shared: true}},
			entries{entry(ns, "1", "d", v1alpha1.EntryShared)}, false},
		{"is shared no more", entries{entry(ns, "1", "d", v1alpha1.EntryShared)}, []inventory.Desired{desired(ns, "d")},
			entries{entry(ns, "1", "d", v1alpha1.EntryApplied)}, false},
		{"written twice", entries{entry(a, "1", "d", v1alpha1.EntryApplied), entry(a, "2", "d", v1alpha1.EntryApplied)}, []inventory.Desired{desired(a, "d")},
			entries{entry(a, "1", "d", v1alpha1.EntryApplied)}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, changed := inventory.WriteAhead(c.previous, c.desired)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if changed != c.changed {
				t.Errorf("changed: %v", changed)
			}
			again, changed := inventory.WriteAhead(got, c.desired)
			if diff := cmp.Diff(got, again); diff != "" || changed {
				t.Errorf("a second time: changed %v\n%s", changed, diff)
			}
		})
	}
}

func TestChanged(t *testing.T) {
	applied := ref("ConfigMap", "applied")
	previous := []v1alpha1.InventoryEntry{
		entry(applied, "1", "d", v1alpha1.EntryApplied),
		entry(ref("ConfigMap", "edited"), "2", "d", v1alpha1.EntryApplied),
		entry(ref("ConfigMap", "intent"), "3", "d", v1alpha1.EntryIntent),
		entry(ref("ConfigMap", "leaving"), "4", "d", v1alpha1.EntryLeaving),
		entry(ref("ConfigMap", "retained"), "5", "d", v1alpha1.EntryRetained),
		entry(ref("ConfigMap", "shared"), "6", "d", v1alpha1.EntryShared),
		entry(ref("ConfigMap", "sharing"), "", "", v1alpha1.EntryShared),
		entry(ref("ConfigMap", "gone"), "7", "d", v1alpha1.EntryApplied),
	}
	var wanted []inventory.Desired
	for _, name := range []string{"new", "sharing", "shared", "retained", "leaving", "intent", "applied"} {
		wanted = append(wanted, desired(ref("ConfigMap", name), "d"))
	}
	wanted = append(wanted, desired(ref("ConfigMap", "edited"), "e"))
	var want []object.ID
	for _, name := range []string{"edited", "intent", "leaving", "new", "retained", "sharing"} {
		want = append(want, inventory.IDOf(ref("ConfigMap", name)))
	}
	if diff := cmp.Diff(want, inventory.Changed(previous, wanted)); diff != "" {
		t.Error(diff)
	}
	next, _ := inventory.WriteAhead(previous, wanted)
	if diff := cmp.Diff(want, inventory.Changed(next, wanted)); diff != "" {
		t.Errorf("after WriteAhead: %s", diff)
	}
	if inventory.Settled(next) || !inventory.Settled(previous[:2]) {
		t.Error("settled")
	}
}

func TestLeaving(t *testing.T) {
	previous := []v1alpha1.InventoryEntry{
		entry(ref("ConfigMap", "c"), "3", "d", v1alpha1.EntryRetained),
		entry(ref("ConfigMap", "b"), "2", "d", v1alpha1.EntryApplied),
		entry(ref("ConfigMap", "a"), "1", "d", v1alpha1.EntryApplied),
	}
	want := []v1alpha1.InventoryEntry{
		entry(ref("ConfigMap", "b"), "2", "d", v1alpha1.EntryLeaving),
		entry(ref("ConfigMap", "c"), "3", "d", v1alpha1.EntryRetained),
	}
	if diff := cmp.Diff(want, inventory.Leaving(previous, []inventory.Desired{desired(ref("ConfigMap", "a"), "x")})); diff != "" {
		t.Error(diff)
	}
}

// What is approved to go doesn't count as owned. An approval of everything covers what is
// kept as well, one of a part that part only.
func TestUnapproved(t *testing.T) {
	ref := func(name string) v1alpha1.ObjectReference {
		return v1alpha1.ObjectReference{Version: "v1", Kind: "ConfigMap", Namespace: "x", Name: name}
	}
	entries := []v1alpha1.InventoryEntry{{ObjectReference: ref("a")}, {ObjectReference: ref("b")}}
	pending := func(reason string, approved bool) *v1alpha1.PendingDeletion {
		return &v1alpha1.PendingDeletion{Reason: reason, Approved: approved, Objects: []v1alpha1.ObjectReference{ref("a")}}
	}
	for name, test := range map[string]struct {
		pending *v1alpha1.PendingDeletion
		want    string
	}{
		"nothing pending":     {nil, "a b"},
		"not approved":        {pending(v1alpha1.PathRemovedReason, false), "a b"},
		"a part approved":     {pending(v1alpha1.ObjectsRemovedReason, true), "b"},
		"everything approved": {pending(v1alpha1.PathRemovedReason, true), ""},
		"an empty render":     {pending(v1alpha1.EmptyRenderReason, true), ""},
	} {
		var got []string
		for _, id := range inventory.Unapproved(entries, test.pending) {
			got = append(got, id.Name)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestRecord(t *testing.T) {
	with := func(r v1alpha1.ObjectReference, uid types.UID) v1alpha1.ObjectReference {
		r.UID = uid
		return r
	}
	a, b, c, ns := ref("ConfigMap", "a"), ref("ConfigMap", "b"), ref("ConfigMap", "c"), ref("Namespace", "dev")
	current := []v1alpha1.InventoryEntry{
		entry(a, "", "", v1alpha1.EntryIntent),
		entry(b, "2", "d", v1alpha1.EntryApplied),
		entry(c, "3", "d", v1alpha1.EntryApplied),
		entry(ns, "", "", v1alpha1.EntryShared),
	}
	live := func(e v1alpha1.InventoryEntry, generation int64, resourceVersion, stateDigest string) v1alpha1.InventoryEntry {
		e.Generation, e.ResourceVersion, e.StateDigest = generation, resourceVersion, stateDigest
		return e
	}
	current[1] = live(current[1], 7, "70", "s7")
	current[2] = live(current[2], 8, "80", "s8")
	current[3] = live(current[3], 9, "90", "s9")
	got := inventory.Record(current, []inventory.Outcome{
		{Ref: with(a, "1"), Digest: "x", Applied: true, Generation: 1, ResourceVersion: "10", StateDigest: "s1"},
		{Ref: b, Digest: "y"},
		{Ref: with(ns, "4"), Digest: "z", Applied: true},
	})
	want := []v1alpha1.InventoryEntry{
		live(entry(a, "1", "x", v1alpha1.EntryApplied), 1, "10", "s1"),
		live(entry(b, "2", "d", v1alpha1.EntryIntent), 7, "70", ""), // may have been written: sent again, also if Git goes back
		live(entry(c, "3", "d", v1alpha1.EntryApplied), 8, "80", "s8"),
		entry(ns, "4", "z", v1alpha1.EntryShared),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if current[0].UID != "" {
		t.Error("the inventory given was changed")
	}
}

func TestHash(t *testing.T) {
	a, b := ref("ConfigMap", "a"), ref("Secret", "b")
	a.UID, b.UID = "1", "2"
	h := inventory.Hash("o", []v1alpha1.ObjectReference{a, b})
	if len(h) != 32 {
		t.Errorf("%d digits", len(h))
	}
	if inventory.Hash("o", []v1alpha1.ObjectReference{b, a, a}) != h {
		t.Error("depends on the order")
	}
	newer := a
	newer.Version = "v2"
	if inventory.Hash("o", []v1alpha1.ObjectReference{newer, b}) != h {
		t.Error("depends on the version")
	}
	for name, change := range map[string]func(r *v1alpha1.ObjectReference){
		"group":     func(r *v1alpha1.ObjectReference) { r.Group = "x" },
		"kind":      func(r *v1alpha1.ObjectReference) { r.Kind = "x" },
		"namespace": func(r *v1alpha1.ObjectReference) { r.Namespace = "x" },
		"name":      func(r *v1alpha1.ObjectReference) { r.Name = "x" },
		"uid":       func(r *v1alpha1.ObjectReference) { r.UID = "x" },
	} {
		other := a
		change(&other)
		if inventory.Hash("o", []v1alpha1.ObjectReference{other, b}) == h {
			t.Errorf("doesn't depend on the %s", name)
		}
	}
	if inventory.Hash("p", []v1alpha1.ObjectReference{a, b}) == h || inventory.Hash("o", []v1alpha1.ObjectReference{a}) == h {
		t.Error("doesn't depend on overlay or set")
	}
}
