package capi

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

var update = flag.Bool("update", false, "write what progress reports into testdata/progress")

// fixture is a state of an overlay and what is reported of it.
type fixture struct {
	name string
	path string
	ProgressInput
	archive *txtar.Archive
}

// fixtures are all that there are; a test may change them.
func fixtures(t testing.TB) []fixture {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "progress", "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	var out []fixture
	for _, path := range paths {
		out = append(out, fixtureNamed(t, strings.TrimSuffix(filepath.Base(path), ".txtar")))
	}
	return out
}

// read keeps what was read, as parsing takes most of the time.
var read sync.Map

func fixtureNamed(t testing.TB, name string) fixture {
	t.Helper()
	f, found := read.Load(name)
	if !found {
		f, _ = read.LoadOrStore(name, readFixture(t, filepath.Join("testdata", "progress", name+".txtar")))
	}
	return f.(fixture).clone()
}

func readFixture(t testing.TB, path string) fixture {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{name: strings.TrimSuffix(filepath.Base(path), ".txtar"), path: path, archive: archive}
	var input struct {
		Now      time.Time `json:"now"`
		Declared []struct {
			Group, Kind, Namespace, Name string
			UID                          types.UID
			Generation                   int64
			Leaving                      bool
		} `json:"declared"`
	}
	if err := yaml.UnmarshalStrict(f.file("input.yaml"), &input); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	f.Now = input.Now
	for _, d := range input.Declared {
		id := object.ID{Group: d.Group, Kind: d.Kind, Namespace: d.Namespace, Name: d.Name}
		f.Declared = append(f.Declared, Declared{ID: id, UID: d.UID, Generation: d.Generation, Leaving: d.Leaving})
	}
	f.Live = map[object.ID]*unstructured.Unstructured{}
	for _, u := range manifests(t, f.file("live.yaml")) {
		f.Live[object.IDOf(u)] = u
	}
	f.Made = manifests(t, f.file("made.yaml"))
	return f
}

func (f fixture) file(name string) []byte {
	for _, file := range f.archive.Files {
		if file.Name == name {
			return file.Data
		}
	}
	return nil
}

func manifests(t testing.TB, content []byte) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		asJSON, err := yaml.YAMLToJSON(document)
		if err != nil {
			t.Fatal(err)
		}
		if string(asJSON) == "null" {
			continue
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(asJSON); err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
}

// clone is a copy that a test may change.
func (f fixture) clone() fixture {
	f.Declared = slices.Clone(f.Declared)
	live := map[object.ID]*unstructured.Unstructured{}
	for id, u := range f.Live {
		live[id] = u.DeepCopy()
	}
	f.Live = live
	made := make([]*unstructured.Unstructured, len(f.Made))
	for i, u := range f.Made {
		made[i] = u.DeepCopy()
	}
	f.Made = made
	return f
}

func (f fixture) objects() []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, u := range f.Live {
		out = append(out, u)
	}
	object.Sort(out)
	return append(out, f.Made...)
}

// ofTopology tells whether what the Machines are made for isn't declared.
func (f fixture) ofTopology() bool { return strings.HasPrefix(f.name, "topology") }

// render writes a report as the fixtures have it.
func render(r Report) string {
	out := &strings.Builder{}
	fmt.Fprintf(out, "%s %s\n", r.Phase, counted(r.ControlPlane, r.Workers))
	fmt.Fprintf(out, "score %d\n", r.Score)
	if !r.Until.IsZero() {
		fmt.Fprintf(out, "until %s\n", r.Until.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(out, "%s\n\n", cmp.Or(r.Message, "(no message)"))
	for _, o := range r.Objects {
		fmt.Fprintf(out, "%s %s: %s\n", o.ID.Kind, o.ID.Name, join(" ", string(o.Phase), o.Message))
	}
	if len(r.Machines) > 0 {
		out.WriteString("\n")
	}
	for _, m := range r.Machines {
		var words []string
		for _, w := range []struct {
			is   bool
			word string
		}{{m.Done(), "done"}, {m.Ready, "ready"}, {m.UpToDate, "up to date"}, {m.Leaving, "leaving"}, {m.Blocked, "blocked"}} {
			if w.is {
				words = append(words, w.word)
			}
		}
		fmt.Fprintf(out, "%s %s %s of %s %s (%s)", m.Role, m.Name, m.Version, m.Owner.Kind, m.Owner.Name, strings.Join(words, ", "))
		fmt.Fprintf(out, "%s\n", strings.TrimSuffix(": "+m.Message, ": "))
	}
	return out.String()
}

func counted(controlPlane, workers v1alpha1.MachineCounts) string {
	one := func(c v1alpha1.MachineCounts) string {
		return fmt.Sprintf("%d/%d (existing %d, ready %d, up to date %d)", c.Done, c.Desired, c.Existing, c.Ready, c.UpToDate)
	}
	return "control plane " + one(controlPlane) + ", workers " + one(workers)
}

func TestProgress(t *testing.T) {
	for _, f := range fixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			got := render(Progress(f.ProgressInput))
			if *update {
				f.archive.Files = slices.DeleteFunc(f.archive.Files, func(file txtar.File) bool { return file.Name == "report.txt" })
				report := txtar.File{Name: "report.txt", Data: []byte(got)}
				f.archive.Files = slices.Insert(f.archive.Files, 0, report)
				if err := os.WriteFile(f.path, txtar.Format(f.archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := gocmp.Diff(string(f.file("report.txt")), got); diff != "" && !*update {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			if converged := strings.Contains(f.name, "converged"); converged != strings.HasPrefix(got, "Converged") {
				t.Errorf("a state called %s is %s", f.name, got)
			}
		})
	}
}

// The order in which objects are listed is no part of a state.
func TestProgressOfAnyOrder(t *testing.T) {
	random := rand.New(rand.NewSource(1)) //nolint:gosec // the same each time
	for _, f := range fixtures(t) {
		want := Progress(f.ProgressInput)
		for range 4 {
			random.Shuffle(len(f.Declared), func(i, j int) { f.Declared[i], f.Declared[j] = f.Declared[j], f.Declared[i] })
			random.Shuffle(len(f.Made), func(i, j int) { f.Made[i], f.Made[j] = f.Made[j], f.Made[i] })
			if diff := gocmp.Diff(want, Progress(f.ProgressInput)); diff != "" {
				t.Fatalf("%s: %s", f.name, diff)
			}
		}
	}
}

// What Trim drops is no part of a state either, and it changes nothing that it has trimmed.
func TestTrimKeepsProgress(t *testing.T) {
	for _, f := range fixtures(t) {
		want := Progress(f.ProgressInput)
		trimmed := f.clone()
		before, after := 0, 0
		for _, u := range trimmed.objects() {
			before += object.Weight(u)
			Trim(u)
			after += object.Weight(u)
			again := u.DeepCopy()
			Trim(again)
			if diff := gocmp.Diff(u, again); diff != "" {
				t.Errorf("%s: trimmed twice: %s", f.name, diff)
			}
		}
		if diff := gocmp.Diff(want, Progress(trimmed.ProgressInput)); diff != "" {
			t.Errorf("%s: %s", f.name, diff)
		}
		if after >= before {
			t.Errorf("%s: %d bytes before, %d after", f.name, before, after)
		}
		if content, err := json.Marshal(trimmed.objects()); err != nil || bytes.Contains(content, []byte("strategicPatches")) {
			t.Errorf("%s: a machine configuration is left, or %v", f.name, err)
		}
	}
}
