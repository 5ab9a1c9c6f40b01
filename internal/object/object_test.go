package object_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/internal/object"
)

func parse(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	content, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(content); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestID(t *testing.T) {
	cases := []struct{ manifest, want string }{
		{"{apiVersion: v1, kind: Namespace, metadata: {name: dev}}", "Namespace dev"},
		{"{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: a, namespace: dev}}", "Cluster.cluster.x-k8s.io dev/a"},
	}
	for _, c := range cases {
		u := parse(t, c.manifest)
		id := object.IDOf(u)
		if id.String() != c.want {
			t.Errorf("got %q, want %q", id, c.want)
		}
		if id.GroupKind() != u.GroupVersionKind().GroupKind() {
			t.Errorf("group and kind: %v", id.GroupKind())
		}
	}
	old := parse(t, "{apiVersion: cluster.x-k8s.io/v1beta1, kind: Cluster, metadata: {name: a, namespace: dev}}")
	if object.IDOf(old).String() != cases[1].want {
		t.Error("identity depends on the version")
	}
}

func TestSort(t *testing.T) {
	want := []string{
		"ConfigMap a/x", "ConfigMap b/w", "Namespace a", "Cluster.cluster.x-k8s.io a/x", "MachineDeployment.cluster.x-k8s.io a/a",
	}
	var objects []*unstructured.Unstructured
	for _, manifest := range []string{
		"{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineDeployment, metadata: {name: a, namespace: a}}",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: w, namespace: b}}",
		"{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: x, namespace: a}}",
		"{apiVersion: v1, kind: Namespace, metadata: {name: a}}",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: a}}",
	} {
		objects = append(objects, parse(t, manifest))
	}
	for range len(objects) {
		objects = append(objects[1:], objects[0])
		sorted := slices.Clone(objects)
		object.Sort(sorted)
		var got []string
		for _, u := range sorted {
			got = append(got, object.IDOf(u).String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestDigester(t *testing.T) {
	key := []byte("key")
	d := object.NewDigester(key)
	key[0] = 'K' // the digester has its own copy
	a := parse(t, "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {x: eA==, y: eQ==}}")
	b := parse(t, "{kind: Secret, data: {y: eQ==, x: eA==}, metadata: {name: a}, apiVersion: v1}")
	first, err := d.Object(a)
	if err != nil {
		t.Fatal(err)
	}
	if len(first) != 32 {
		t.Errorf("%d digits", len(first))
	}
	if again, _ := object.NewDigester([]byte("key")).Object(b); again != first {
		t.Error("digest depends on the order of fields")
	}
	if other, _ := object.NewDigester([]byte("other")).Object(a); other == first {
		t.Error("digest doesn't depend on the key")
	}
	b.SetName("b")
	if other, _ := d.Object(b); other == first {
		t.Error("digest doesn't depend on the content")
	}
	if d.Strings("ab", "c") == d.Strings("a", "bc") || d.Strings("a") == d.Strings("a", "") {
		t.Error("elements run into each other")
	}
	once, again := d.Bytes([]byte("a")), d.Bytes([]byte("a"))
	if once != again || strings.Contains(once, "a:") {
		t.Error("digest of bytes")
	}
}

// What counts is the order of magnitude, whatever the memory is spent on.
func TestWeight(t *testing.T) {
	text := strings.Repeat("x", 100_000)
	many := "[" + strings.Repeat("1,", 10_000) + "1]"
	for manifest, least := range map[string]int{
		"{kind: A}":                          1,
		"{kind: A, data: " + text + "}":      100_000,
		"kind: A\n? " + text + "\n: b":       100_000,
		"{kind: A, data: [" + text + "]}":    100_000,
		"{kind: A, data: " + many + "}":      100_000,
		"{kind: A, data: {a: " + many + "}}": 100_000,
	} {
		u := parse(t, manifest)
		got := object.Weight(u)
		if got < least || got > 10*least+1000 {
			t.Errorf("%.20s…: %d, want at least %d", manifest, got, least)
		}
		if twice := object.Weight(u, nil, u); twice != 2*got {
			t.Errorf("%.20s…: twice is %d, not %d", manifest, twice, 2*got)
		}
	}
}
