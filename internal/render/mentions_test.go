package render

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/tree"
)

// Changes of files that no closure mentions, and that concern no discovery, change
// nothing; and files that are read by nobody are not mentioned.
func TestMentionsProperty(t *testing.T) {
	t.Parallel()
	seen := map[bool]int{}
	for seed := range uint64(400) {
		random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // repeatable
		before := randomTree(random)
		after, changed := randomChange(random, before)
		search := DiscoverInput{Paths: []string{"clusters/*", "more/**"}, Exclude: []string{"clusters/x*"}}
		overlays, closures, ok := renderAll(t, search, before)
		if !ok {
			continue // an overlay that fails is looked at, whatever changes
		}
		concerned := slices.ContainsFunc(changed, func(p string) bool {
			return search.Concerns(p) || slices.ContainsFunc(closures, func(c Closure) bool { return c.Mentions(p) })
		})
		seen[concerned]++
		if concerned {
			continue
		}
		search.Tree = tree.FromMap(after)
		then, _, err := Discover(search)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(overlays, then); diff != "" {
			t.Errorf("seed %d: a change of %q concerns nobody, and the overlays are others:\n%s", seed, changed, diff)
		}
		for i, c := range closures {
			if same, err := c.Unchanged(tree.FromMap(after)); err != nil || !same {
				t.Errorf("seed %d: a change of %q changes the inputs of %s, which doesn't mention it (%v)", seed, changed, overlays[i].Path, err)
			}
		}
	}
	if seen[true] < 20 || seen[false] < 20 {
		t.Errorf("the changes are all alike: %v", seen)
	}
}

var places = []string{"clusters/a", "clusters/b", "clusters/xc", "more/d", "more/d/e", "base", "base/f", "docs"}

// randomTree has kustomizations that include some of the files beside them and some of
// the directories that come later, so that there are no cycles.
func randomTree(random *rand.Rand) map[string]string {
	files := map[string]string{"README.md": "x"}
	for i, dir := range places {
		if random.IntN(4) == 0 {
			files[dir+"/notes.txt"] = "x"
		}
		if random.IntN(5) == 0 {
			continue
		}
		var resources []string
		for n := range 2 {
			name := fmt.Sprintf("r%d.yaml", n)
			if random.IntN(2) == 0 {
				files[dir+"/"+name] = fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: c%d-%d}}", i, n)
				if random.IntN(3) > 0 {
					resources = append(resources, name)
				}
			}
		}
		for j := i + 1; j < len(places); j++ {
			if files[places[j]+"/kustomization.yaml"] != "" || random.IntN(6) > 0 {
				continue
			}
			resources = append(resources, strings.Repeat("../", strings.Count(dir, "/")+1)+places[j])
		}
		files[dir+"/kustomization.yaml"] = "resources: [" + strings.Join(resources, ", ") + "]\n"
	}
	return files
}

// randomChange changes a few files and lists them as a webhook does.
func randomChange(random *rand.Rand, before map[string]string) (after map[string]string, changed []string) {
	after = maps.Clone(before)
	all := slices.Sorted(maps.Keys(before))
	for range 1 + random.IntN(2) {
		p := all[random.IntN(len(all))]
		switch random.IntN(6) {
		case 0:
			delete(after, p)
		case 1:
			after[p] = before[p] + "\n# changed\n"
		case 2:
			p = places[random.IntN(len(places))] + "/new.txt"
			after[p] = "x"
		case 3:
			p = places[random.IntN(len(places))] + "/deeper/kustomization.yaml"
			after[p] = "resources: []\n"
		case 4:
			p = "docs/notes.txt"
			after[p] = "y"
		case 5: // a directory goes as a whole
			dir := places[random.IntN(len(places))]
			for _, q := range all {
				if strings.HasPrefix(q, dir+"/") {
					delete(after, q)
					changed = append(changed, q)
				}
			}
			continue
		}
		changed = append(changed, p)
	}
	return after, changed
}

func renderAll(t *testing.T, search DiscoverInput, files map[string]string) ([]Overlay, []Closure, bool) {
	t.Helper()
	search.Tree = tree.FromMap(files)
	overlays, _, err := Discover(search)
	if err != nil {
		t.Fatal(err)
	}
	var closures []Closure
	for _, o := range overlays {
		r, err := Render(t.Context(), Input{Tree: search.Tree, Path: o.Path})
		if err != nil {
			return nil, nil, false
		}
		closures = append(closures, r.Closure)
	}
	return overlays, closures, true
}

// What a change mentions, case by case.
func TestMentions(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"clusters/a/kustomization.yaml": "resources: [../../base, cm.yaml]\nconfigMapGenerator: [{name: g, files: [data.txt]}]\n",
		"clusters/a/cm.yaml":            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}",
		"clusters/a/data.txt":           "x",
		"clusters/a/notes.txt":          "x",
		"base/kustomization.yaml":       "resources: [cm.yaml]\n",
		"base/cm.yaml":                  "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}",
	}
	r, err := Render(t.Context(), Input{Tree: tree.FromMap(files), Path: "clusters/a"})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"clusters/a/cm.yaml": true, "clusters/a/data.txt": true, "base/cm.yaml": true, "base/kustomization.yaml": true,
		"base/kustomization.yml": true, "clusters/a/Kustomization": true, "base": true, "clusters/a": true, "base/cm.yaml/x": true,
		"": true, "..": true, "/base/cm.yaml": true,
		"clusters/a/notes.txt": false, "clusters/a/new/file": false, "base/new.yaml": false, "README.md": false,
		"clusters/b/cm.yaml": false, "bases/cm.yaml": false,
	} {
		if got := r.Closure.Mentions(path); got != want {
			t.Errorf("%q: mentioned %t, want %t", path, got, want)
		}
	}
}

// Which changes may make or unmake an overlay.
func TestDiscoverConcerns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		paths, exclude []string
		change         string
		want           bool
	}{
		{change: "clusters/new/kustomization.yaml", want: true},
		{change: "clusters/new/Kustomization", want: true},
		{change: "clusters/new/kustomization.yaml.orig"},
		{change: "clusters/new/cm.yaml"},
		{change: "clusters/new/deep/kustomization.yaml"},
		{change: "kustomization.yaml"},
		{paths: []string{"**"}, change: "any/where/kustomization.yml", want: true},
		{paths: []string{"."}, change: "any/where/kustomization.yml", want: true},
		{paths: []string{"c/**"}, exclude: []string{"c/old"}, change: "c/old/x/kustomization.yaml"},
		{paths: []string{"c/**"}, exclude: []string{"c/old"}, change: "c/older/kustomization.yaml", want: true},
		{paths: []string{"c/**"}, exclude: []string{"."}, change: "c/x/kustomization.yaml"},
		{change: "../x", want: true},
	} {
		if got := (DiscoverInput{Paths: test.paths, Exclude: test.exclude}).Concerns(test.change); got != test.want {
			t.Errorf("%q with %q without %q: %t, want %t", test.change, test.paths, test.exclude, got, test.want)
		}
	}
}
