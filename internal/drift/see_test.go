package drift_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/drift"
	"capstan.dev/capstan/internal/object"
)

// kinds are recordings with an object of each kind as it was applied.
var kinds = map[string]string{
	"MachineDeployment": "scale", "Cluster": "cluster", "TalosControlPlane": "talos", "Secret": "secret", "ConfigMap": "configmap",
}

// TestEveryEdit changes every single leaf that Git declares, in every way, and
// expects another fingerprint; unless the map leaves the field to others.
func TestEveryEdit(t *testing.T) {
	for kind, name := range kinds {
		t.Run(kind, func(t *testing.T) {
			applied := recorded(t, name).applied
			was := drift.See(applied)
			ownership := capi.OwnershipOf(applied)
			edits := 0
			for _, pointer := range leaves(t, applied) {
				_, yielded := ownership.Yielded(pointer)
				same := yielded || ownership.Unstable(pointer)
				for way, edit := range map[string]func(*unstructured.Unstructured){
					"changed": func(u *unstructured.Unstructured) { change(u, pointer, "hand") },
					"taken":   func(u *unstructured.Unstructured) { change(u, pointer, "hand"); disown(u, pointer) },
					"removed": func(u *unstructured.Unstructured) { remove(u, pointer); disown(u, pointer) },
				} {
					edited := applied.DeepCopy()
					edit(edited)
					edits++
					got := drift.See(edited)
					if equal := got.Owned == was.Owned; equal != same && !(yielded && way != "changed") {
						t.Errorf("%s %s: same fingerprint %t, want %t", pointer, way, equal, same)
					}
				}
			}
			if edits < 6 {
				t.Fatalf("only %d edits: the test tests nothing", edits)
			}
		})
	}
}

// TestControllersAreSilent writes what controllers write, and expects nothing.
func TestControllersAreSilent(t *testing.T) {
	for kind, name := range kinds {
		t.Run(kind, func(t *testing.T) {
			applied := recorded(t, name).applied
			was := drift.See(applied)
			for i, write := range []struct {
				subresource, fields string
				do                  func(u *unstructured.Unstructured)
			}{
				{"status", `{"f:status":{".":{},"f:replicas":{},"f:conditions":{".":{},"k:{\"type\":\"Ready\"}":{".":{},"f:status":{}}}}}`,
					func(u *unstructured.Unstructured) {
						u.Object["status"] = map[string]any{
							"replicas":   int64(7),
							"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
						}
					}},
				{"", `{"f:metadata":{"f:finalizers":{".":{},"v:\"x.cluster.x-k8s.io\"":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"u\"}":{}}}}`,
					func(u *unstructured.Unstructured) {
						u.SetFinalizers([]string{"x.cluster.x-k8s.io"})
						u.Object["metadata"].(map[string]any)["ownerReferences"] = []any{map[string]any{"uid": "u", "kind": "Cluster"}} //nolint:forcetypeassert // it has metadata
					}},
				{"", `{"f:metadata":{"f:annotations":{"f:by-a-controller":{}},"f:labels":{"f:by-a-controller":{}}},"f:spec":{"f:byAController":{}}}`,
					func(u *unstructured.Unstructured) {
						for _, path := range [][]string{{"metadata", "annotations"}, {"metadata", "labels"}, {"spec"}} {
							if err := unstructured.SetNestedField(u.Object, "x", append(path, "by-a-controller")...); err != nil {
								t.Fatal(err)
							}
						}
						change(u, "/spec/byAController", "x")
					}},
				{"", `{}`, func(u *unstructured.Unstructured) {
					u.SetResourceVersion("4711")
					u.SetGeneration(99)
				}},
			} {
				written := applied.DeepCopy()
				write.do(written)
				addEntry(t, written, "manager", "Update", write.subresource, written.GetAPIVersion(), write.fields)
				if got := drift.See(written); got.Owned != was.Owned || len(got.Foreign) > 0 {
					t.Errorf("write %d: same fingerprint %t%s", i, got.Owned == was.Owned, foreignText(got))
				}
			}
		})
	}
}

// TestOrderOfOthers shuffles the elements of lists with keys, and puts others between.
func TestOrderOfOthers(t *testing.T) {
	applied := recorded(t, "element").applied
	was := drift.See(applied)
	shuffled := applied.DeepCopy()
	taints, _, err := unstructured.NestedSlice(shuffled.Object, "spec", "template", "spec", "taints")
	if err != nil || len(taints) != 2 {
		t.Fatalf("%d taints: %v", len(taints), err)
	}
	taints = []any{map[string]any{"key": "z", "effect": "NoExecute"}, taints[1], map[string]any{"key": "y", "effect": "NoExecute"}, taints[0]}
	if err := unstructured.SetNestedSlice(shuffled.Object, taints, "spec", "template", "spec", "taints"); err != nil {
		t.Fatal(err)
	}
	if drift.See(shuffled).Owned != was.Owned {
		t.Error("the place of an element changes the fingerprint")
	}
	if got := drift.Compare(drift.Comparison{Before: shuffled, After: applied, UID: applied.GetUID()}); len(got) > 0 {
		t.Errorf("the place of an element is a finding: %+v", got)
	}
}

func TestForeignIsBounded(t *testing.T) {
	u := recorded(t, "configmap").applied
	fields := `{"f:data":{`
	for i := range 50 {
		key := fmt.Sprintf("k%02d", i)
		if err := unstructured.SetNestedField(u.Object, strings.Repeat("ä", 300), "data", key); err != nil {
			t.Fatal(err)
		}
		fields += fmt.Sprintf(`"f:%s":{},`, key)
	}
	addEntry(t, u, "kubectl-patch", "Update", "", "v1", strings.TrimSuffix(fields, ",")+"}}")
	s := drift.See(u)
	if len(s.Foreign) != 20 || s.More != 30 {
		t.Fatalf("%d foreign fields and %d more", len(s.Foreign), s.More)
	}
	for i, f := range s.Foreign {
		if want := fmt.Sprintf("/data/k%02d", i); f.Field != want {
			t.Errorf("field %d is %s, want %s", i, f.Field, want)
		}
		if len(f.To) > 256 || !strings.HasSuffix(f.To, "ä…") {
			t.Errorf("cut to %q", f.To)
		}
	}
}

// TestForeignNot lists what is never foreign.
func TestForeignNot(t *testing.T) {
	for name, test := range map[string]struct{ manager, operation, subresource, version, fields string }{
		"status":                 {"kubectl-edit", "Update", "status", "v1", `{"f:data":{"f:x":{}}}`},
		"status of the object":   {"kubectl-edit", "Update", "", "v1", `{"f:status":{"f:x":{}}}`},
		"controller":             {"manager", "Update", "", "v1", `{"f:data":{"f:x":{}}}`},
		"everything before":      {"before-first-apply", "Update", "", "v1", `{"f:data":{"f:x":{}}}`},
		"ourselves":              {v1alpha1.FieldManager, "Update", "", "v1", `{"f:data":{"f:x":{}}}`},
		"declared":               {"kubectl-edit", "Update", "", "v1", `{"f:data":{"f:one":{}}}`},
		"gone":                   {"kubectl-edit", "Update", "", "v1", `{"f:data":{"f:gone":{}}}`},
		"of another API version": {"kubectl-edit", "Update", "", "v2", `{"f:spec":{"f:renamed":{}}}`},
		"bookkeeping":            {"kubectl-create", "Update", "", "v1", `{"f:metadata":{"f:generateName":{}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			u := recorded(t, "configmap").applied
			change(u, "/data/x", "hand")
			change(u, "/status/x", "hand")
			change(u, "/metadata/generateName", "hand")
			was := drift.See(u)
			addEntry(t, u, test.manager, test.operation, test.subresource, test.version, test.fields)
			got := drift.See(u)
			if got.Owned != was.Owned || len(got.Foreign) > 0 {
				t.Errorf("same fingerprint %t%s", got.Owned == was.Owned, foreignText(got))
			}
		})
	}
}

// TestForeignShared checks that a field that a controller needs as well is left to it, and
// that of several people the last is named.
func TestForeignShared(t *testing.T) {
	u := recorded(t, "configmap").applied
	change(u, "/data/x", "hand")
	change(u, "/data/y", "hand")
	addEntry(t, u, "kubectl-edit", "Update", "", "v1", `{"f:data":{"f:x":{},"f:y":{}}}`)
	addEntry(t, u, "mystery", "Apply", "", "v1", `{"f:data":{"f:x":{}}}`)
	addEntry(t, u, "capi-topology", "Apply", "", "v1", `{"f:data":{"f:y":{}}}`)
	want := "\n  Foreign /data/x [ -> \"hand\"] by mystery (unknown, Apply, second 41)"
	if diff := cmp.Diff(want, foreignText(drift.See(u))); diff != "" {
		t.Error(diff)
	}
}

func TestForeignIgnored(t *testing.T) {
	s := drift.See(recorded(t, "added-map").live)
	gk := schema.GroupKind{Group: "cluster.x-k8s.io", Kind: "MachineDeployment"}
	deletion := "/spec/template/spec/deletion"
	for name, test := range map[string]struct {
		ignore v1alpha1.DriftIgnore
		left   bool
	}{
		"path":             {v1alpha1.DriftIgnore{Paths: []string{deletion}}, true},
		"path above":       {v1alpha1.DriftIgnore{Paths: []string{"/spec"}}, true},
		"any":              {v1alpha1.DriftIgnore{Paths: []string{"/spec/*/spec/deletion"}}, true},
		"all that is in":   {v1alpha1.DriftIgnore{Paths: []string{deletion + "/nodeDrainTimeoutSeconds", deletion + "/nodeDeletionTimeoutSeconds"}}, true},
		"a part":           {v1alpha1.DriftIgnore{Paths: []string{deletion + "/nodeDrainTimeoutSeconds"}}, false},
		"other path":       {v1alpha1.DriftIgnore{Paths: []string{"/spec/template/spec/delet"}}, false},
		"kind":             {v1alpha1.DriftIgnore{Paths: []string{deletion}, Kinds: []string{"MachineDeployment"}}, true},
		"kind and group":   {v1alpha1.DriftIgnore{Paths: []string{deletion}, Kinds: []string{"MachineDeployment.cluster.x-k8s.io"}}, true},
		"other group":      {v1alpha1.DriftIgnore{Paths: []string{deletion}, Kinds: []string{"MachineDeployment.example.com"}}, false},
		"other kind":       {v1alpha1.DriftIgnore{Paths: []string{deletion}, Kinds: []string{"Cluster"}}, false},
		"one of the kinds": {v1alpha1.DriftIgnore{Paths: []string{deletion}, Kinds: []string{"Cluster", "MachineDeployment"}}, true},
		"manager":          {v1alpha1.DriftIgnore{Paths: []string{deletion}, Managers: []string{"kubectl-patch"}}, true},
		"other manager":    {v1alpha1.DriftIgnore{Paths: []string{deletion}, Managers: []string{"kubectl"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := drift.Foreign(gk, s, []v1alpha1.DriftIgnore{test.ignore}); (len(got) == 0) != test.left {
				t.Errorf("left %t, want %t", len(got) == 0, test.left)
			}
		})
	}
}

func TestDigest(t *testing.T) {
	r := recorded(t, "scale")
	one, other := object.NewDigester([]byte("one")), object.NewDigester([]byte("other"))
	applied, live := drift.See(r.applied), drift.See(r.live)
	switch {
	case applied.Digest(one) == "" || applied.Digest(one) != drift.See(r.answer).Digest(one):
		t.Error("no digest, or it is not steady")
	case applied.Digest(one) == live.Digest(one), applied.Digest(one) == applied.Digest(other):
		t.Error("the digest does not depend on the values, or not on the key")
	}
	if got := drift.See(recorded(t, "recreate").live).Digest(one); got != "" {
		t.Errorf("digest %q of an object that we own nothing of", got)
	}
}

// FuzzSee looks at objects whose managedFields are damaged.
func FuzzSee(f *testing.F) {
	for _, file := range recordedFiles(f) {
		r := recorded(f, nameOf(file))
		if r.live == nil {
			continue
		}
		content, err := json.Marshal(r.live.Object)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content, uint64(1))
	}
	f.Fuzz(func(t *testing.T, content []byte, seed uint64) {
		u := &unstructured.Unstructured{}
		if json.Unmarshal(content, &u.Object) != nil || u.Object == nil {
			return
		}
		damage(u, rand.New(rand.NewPCG(seed, 0)))
		was := u.DeepCopy()
		s := drift.See(u)
		if again := drift.See(u); !cmp.Equal(s, again) {
			t.Errorf("not the same twice:\n%s", cmp.Diff(s, again))
		}
		if diff := cmp.Diff(was.Object, u.Object); diff != "" {
			t.Errorf("changed:\n%s", diff)
		}
		if len(s.Foreign) > 20 {
			t.Errorf("%d foreign fields", len(s.Foreign))
		}
		for _, finding := range s.Foreign {
			if len(finding.Field) > 512 || len(finding.To) > 256 || len(finding.Writer.Manager) > 128 {
				t.Errorf("too long: %+v", finding)
			}
		}
		drift.Compare(drift.Comparison{Before: u, After: was, UID: "other"})
		drift.Hash(object.NewDigester(nil), "", v1alpha1.ObjectReference{}, u, was)
	})
}

// TestDamaged does what the fuzzer does, a little.
func TestDamaged(t *testing.T) {
	for _, file := range recordedFiles(t) {
		r := recorded(t, nameOf(file))
		if r.live == nil {
			continue
		}
		for seed := range uint64(200) {
			u := r.live.DeepCopy()
			damage(u, rand.New(rand.NewPCG(seed, 1)))
			drift.See(u)
			drift.Compare(drift.Comparison{Before: u, After: r.answer, UID: r.uid()})
			drift.Compare(drift.Comparison{Before: r.live, After: u, UID: r.uid()})
		}
	}
}

// damage puts things where they don't belong, in managedFields and in the object.
func damage(u *unstructured.Unstructured, random *rand.Rand) {
	junk := []any{
		nil, "text", int64(1), 1.5, true, []any{}, []any{"x", nil}, map[string]any{}, map[string]any{"f:x": nil},
		map[string]any{".": "x", "k:{": map[string]any{}, `k:{"a":1}`: map[string]any{".": map[string]any{}}},
		map[string]any{"v:": map[string]any{}, "i:x": map[string]any{}, "i:-1": map[string]any{}, "i:99999999999999999999": map[string]any{}},
		map[string]any{"": map[string]any{}, "f:": map[string]any{}, "z": map[string]any{}, "f:~/": map[string]any{}},
	}
	var walk func(value any, depth int)
	walk = func(value any, depth int) {
		switch v := value.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				if random.IntN(40) == 0 {
					v[key] = runtime.DeepCopyJSONValue(junk[random.IntN(len(junk))])
				} else {
					walk(v[key], depth+1)
				}
			}
		case []any:
			for i := range v {
				if random.IntN(40) == 0 {
					v[i] = runtime.DeepCopyJSONValue(junk[random.IntN(len(junk))])
				} else {
					walk(v[i], depth+1)
				}
			}
		}
	}
	metadata, _ := u.Object["metadata"].(map[string]any)
	walk(metadata["managedFields"], 0)
	if random.IntN(4) == 0 {
		walk(u.Object, 0)
	}
}

func BenchmarkSee(b *testing.B) {
	for _, name := range []string{"controllers", "scale", "added-map", "talos", "secret"} {
		u := recorded(b, name).live
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				drift.See(u)
			}
		})
	}
}

// leaves lists the JSON pointers of the single values below what we have applied.
func leaves(t *testing.T, u *unstructured.Unstructured) []string {
	t.Helper()
	var all []string
	var walk func(value any, pointer string)
	walk = func(value any, pointer string) {
		switch v := value.(type) {
		case map[string]any:
			for key, child := range v {
				walk(child, pointer+"/"+strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1"))
			}
		case []any:
			for i, child := range v {
				walk(child, pointer+"/"+strconv.Itoa(i))
			}
		default:
			all = append(all, pointer)
		}
	}
	for _, fields := range ownSets(t, u) {
		within(fields, u.Object, "", walk)
	}
	slices.Sort(all)
	// The key of an element is what it is found by: with another it is another element.
	return slices.Compact(all)
}

func ownSets(t *testing.T, u *unstructured.Unstructured) []map[string]any {
	t.Helper()
	list, _, _ := unstructured.NestedSlice(u.Object, "metadata", "managedFields")
	var sets []map[string]any
	for _, e := range list {
		e, _ := e.(map[string]any)
		if fields, ok := e["fieldsV1"].(map[string]any); ok && e["manager"] == v1alpha1.FieldManager {
			sets = append(sets, fields)
		}
	}
	if len(sets) == 0 {
		t.Fatal("nothing of it is ours")
	}
	return sets
}

// within calls do for every whole field of a set that is not an element of a list.
func within(set map[string]any, value any, pointer string, do func(value any, pointer string)) {
	if len(set) == 0 {
		do(value, pointer)
		return
	}
	for key, part := range set {
		sub, _ := part.(map[string]any)
		if name, isField := strings.CutPrefix(key, "f:"); isField {
			m, _ := value.(map[string]any)
			within(sub, m[name], pointer+"/"+strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1"), do)
			continue
		}
		list, isList := value.([]any)
		if keys, isElement := strings.CutPrefix(key, "k:"); isElement && isList {
			var want map[string]any
			_ = json.Unmarshal([]byte(keys), &want)
			for i, element := range list {
				m, _ := element.(map[string]any)
				if !slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(k string) bool { return m[k] != want[k] }) {
					within(sub, element, pointer+"/"+strconv.Itoa(i), do)
				}
			}
		}
	}
}

// parent returns what holds the value at a JSON pointer, and its name there; objects on
// the way are made.
func parent(u *unstructured.Unstructured, pointer string) (holder any, name string) {
	parts := strings.Split(pointer, "/")[1:]
	for i := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(parts[i], "~1", "/"), "~0", "~")
	}
	holder = u.Object
	for _, part := range parts[:len(parts)-1] {
		switch v := holder.(type) {
		case map[string]any:
			if v[part] == nil {
				v[part] = map[string]any{}
			}
			holder = v[part]
		case []any:
			i, _ := strconv.Atoi(part)
			holder = v[i]
		}
	}
	return holder, parts[len(parts)-1]
}

func change(u *unstructured.Unstructured, pointer string, to any) {
	holder, name := parent(u, pointer)
	switch v := holder.(type) {
	case map[string]any:
		v[name] = to
	case []any:
		i, _ := strconv.Atoi(name)
		v[i] = to
	}
}

func remove(u *unstructured.Unstructured, pointer string) {
	holder, name := parent(u, pointer)
	switch v := holder.(type) {
	case map[string]any:
		delete(v, name)
	case []any:
		i, _ := strconv.Atoi(name)
		v[i] = nil
	}
}

// disown takes a field, or the one that it is in, from us, as the API server does when
// somebody else writes it.
func disown(u *unstructured.Unstructured, pointer string) {
	list, _ := u.Object["metadata"].(map[string]any)["managedFields"].([]any) //nolint:forcetypeassert // it has metadata
	for _, e := range list {
		e, _ := e.(map[string]any)
		if set, ok := e["fieldsV1"].(map[string]any); ok && e["manager"] == v1alpha1.FieldManager {
			disownIn(set, strings.Split(pointer, "/")[1:])
		}
	}
}

func disownIn(set map[string]any, parts []string) {
	name := strings.ReplaceAll(strings.ReplaceAll(parts[0], "~1", "/"), "~0", "~")
	part, ok := set["f:"+name].(map[string]any)
	switch {
	case !ok:
	case len(part) == 0 || len(parts) == 1:
		delete(set, "f:"+name)
	default:
		disownIn(part, parts[1:])
	}
}

// addEntry adds an entry to managedFields that is newer than all others.
func addEntry(t *testing.T, u *unstructured.Unstructured, manager, operation, subresource, version, fields string) {
	t.Helper()
	var set map[string]any
	if err := json.Unmarshal([]byte(fields), &set); err != nil {
		t.Fatal(err)
	}
	metadata, _ := u.Object["metadata"].(map[string]any)
	list, _ := metadata["managedFields"].([]any)
	metadata["managedFields"] = append(list, map[string]any{
		"manager": manager, "operation": operation, "subresource": subresource, "apiVersion": version,
		"time": fmt.Sprintf("2026-01-01T00:00:%02dZ", 39+len(list)), "fieldsType": "FieldsV1", "fieldsV1": set,
	})
}
