package drift

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/object"
)

// maxForeign is how many foreign fields a Sight lists.
const maxForeign = 20

// Sight is what of a live object matters for drift.
type Sight struct {
	// Owned stands for the values at the fields that we have applied and still own;
	// zero if we own nothing.
	Owned [sha256.Size]byte
	// Others stands for the values of the fields that others than controllers own and we
	// don't, declared in Git or not; zero if there are none.
	Others [sha256.Size]byte
	// Said stands for what the object itself says about whose its fields are, see
	// [capi.Ownership.Said]; zero if that is nothing.
	Said [sha256.Size]byte
	// Foreign are the fields that somebody set and that are not ours; More counts
	// those that it has no room for.
	Foreign []v1alpha1.Finding
	More    int
}

// See looks at a live object as it came from the API server. It changes nothing of it,
// and is cheap enough for every event of every object. What managedFields says that
// makes no sense is left out.
func See(u *unstructured.Unstructured) Sight {
	entries := entriesOf(u)
	if len(entries) == 0 {
		return Sight{Others: whole(u)} // whose anything is can't be told any more
	}
	ownership := capi.OwnershipOf(u)
	var s Sight
	if said := ownership.Said(); said != "" {
		s.Said = sha256.Sum256([]byte(said))
	}
	var declared set
	if ours := oursIn(entries, u.GetAPIVersion()); ours != nil {
		declared = ours.fields
		s.Owned = fingerprint(u, declared, entries, ownership)
	}
	s.Others = others(u, declared, entries, ownership)
	s.Foreign, s.More = foreign(u, declared, entries, ownership, maxForeign)
	return s
}

// Digest is what is recorded of a Sight: it tells nothing of what could be guessed, such
// as a password. Empty if we own nothing.
func (s Sight) Digest(d object.Digester) string {
	if s.Owned == [sha256.Size]byte{} {
		return ""
	}
	return d.Bytes(s.Owned[:])
}

// Record is the digest to record of an object after an apply. If fields that Git declares
// were left to others it holds also what left them: they are Git's again when that changes.
func (s Sight) Record(d object.Digester, gk schema.GroupKind, ignore []v1alpha1.DriftIgnore, left bool) string {
	digest := s.Digest(d)
	if digest == "" || !left {
		return digest
	}
	rules, err := json.Marshal(rulesFor(gk, ignore))
	if err != nil {
		return digest // it holds nothing but texts
	}
	return digest + leftBy + d.Strings(string(s.Said[:]), string(rules))
}

// leftBy comes between the digest of an object and that of what left its fields to others.
const leftBy = "+"

// Is tells whether a Sight is the one that was recorded.
func (s Sight) Is(recorded string, d object.Digester, gk schema.GroupKind, ignore []v1alpha1.DriftIgnore) bool {
	return recorded == s.Record(d, gk, ignore, strings.Contains(recorded, leftBy))
}

// Foreign returns the foreign fields of a Sight without those that a Fleet ignores.
func Foreign(gk schema.GroupKind, s Sight, ignore []v1alpha1.DriftIgnore) []v1alpha1.Finding {
	rules := rulesFor(gk, ignore)
	var kept []v1alpha1.Finding
	for _, f := range s.Foreign {
		if !rules.ignoreFinding(f) {
			kept = append(kept, f)
		}
	}
	return kept
}

// found is a foreign field.
type found struct {
	pointer string
	by      *entry
}

// search looks for foreign fields in the entry of one manager.
type search struct {
	by        *entry
	entries   []entry
	ownership capi.Ownership
	found     []found
}

// foreign lists the fields that people, former owners and unknown managers have set
// and that are not declared: limit of them, and how many there are beyond that.
func foreign(u *unstructured.Unstructured, declared set, entries []entry, ownership capi.Ownership, limit int) ([]v1alpha1.Finding, int) {
	var all []found
	for i := range entries {
		e := &entries[i]
		if !e.writes() || e.class() == capi.ManagerController || capi.SpeaksForAll(e.manager) {
			continue
		}
		s := search{by: e, entries: entries, ownership: ownership}
		s.fields(e.fields, declared, u.Object, nil, "")
		all = append(all, s.found...)
	}
	if len(all) == 0 {
		return nil, 0
	}
	// Where several own a field, the newest counts.
	slices.SortStableFunc(all, func(a, b found) int {
		if a.pointer != b.pointer {
			return comparePointers(a.pointer, b.pointer)
		}
		return newestFirst(a.by, b.by)
	})
	all = slices.CompactFunc(all, func(a, b found) bool { return a.pointer == b.pointer })
	more := max(0, len(all)-limit)
	masked := object.Mask(u)
	findings := make([]v1alpha1.Finding, 0, len(all)-more)
	for _, f := range all[:len(all)-more] {
		pointer, value := at(masked.Object, f.pointer)
		findings = append(findings, v1alpha1.Finding{
			Class: v1alpha1.FindingForeign, Field: cutPointer(pointer), To: text(value), Writer: f.by.writer(),
		})
	}
	return findings, more
}

// fields searches a part of the entry's set; declared is what is ours of it, nil if
// nothing is. It tells whether all of it is foreign.
func (s *search) fields(part, declared set, value any, path []string, pointer string) (all bool) {
	if len(path) > 0 && (len(part) == 0 || len(part) == 1 && part[itself] != nil) {
		return s.field(declared, value, path, pointer)
	}
	all = true
	start := len(s.found)
	for _, key := range slices.Sorted(maps.Keys(part)) {
		sub, ok := part[key].(map[string]any)
		if key == itself || !ok || len(path) < 2 && bookkeeping(path, key) {
			continue
		}
		child, name, there := step(value, key)
		if !there {
			// Of another API version, where the field has another name: whether it is
			// declared can't be told.
			all = false
			continue
		}
		all = s.fields(sub, below(declared, key), child, append(path, key), pointer+"/"+escape(name)) && all
	}
	// What one manager has added as a whole is said once; labels and annotations are not
	// one thing.
	count := len(s.found) - start
	if part[itself] == nil || len(path) == 0 || path[0] == "f:metadata" || !all || declared != nil || count == 0 || s.shared(path) {
		return all
	}
	if element := path[len(path)-1][0] == 'k'; element || count > 1 {
		s.found = append(s.found[:start], found{pointer: pointer, by: s.by})
	}
	return all
}

// field judges one field.
func (s *search) field(declared set, value any, path []string, pointer string) bool {
	if declared != nil || s.controlled(path) {
		return false
	}
	if _, left := s.ownership.Left(pointer, value); left {
		return false
	}
	s.found = append(s.found, found{pointer: pointer, by: s.by})
	return true
}

// controlled tells whether a controller owns a field as well.
func (s *search) controlled(path []string) bool {
	return slices.ContainsFunc(s.entries, func(e entry) bool {
		if e.manager == s.by.manager || e.class() != capi.ManagerController {
			return false
		}
		_, owns := lookup(e.fields, path)
		return owns
	})
}

// shared tells whether somebody else owns a field or something in it.
func (s *search) shared(path []string) bool {
	return slices.ContainsFunc(s.entries, func(e entry) bool {
		if e.manager == s.by.manager && e.operation == s.by.operation && e.subresource == s.by.subresource && e.version == s.by.version {
			return false
		}
		_, owns := lookup(e.fields, path)
		return owns
	})
}

// bookkeeping tells whether a key at the top of a set, or in its metadata, is for the
// API server and controllers alone.
func bookkeeping(path []string, key string) bool {
	if len(path) == 0 {
		return key == "f:status" || key == "f:apiVersion" || key == "f:kind"
	}
	if path[0] != "f:metadata" {
		return false
	}
	switch key {
	case "f:labels", "f:annotations", "f:finalizers", "f:ownerReferences":
		return false
	}
	return true
}
