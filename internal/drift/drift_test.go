package drift_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/drift"
)

var update = flag.Bool("update", false, "write what is found into the files in testdata/recorded")

func recordedFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/recorded/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded files: %v", err)
	}
	return files
}

func nameOf(file string) string { return strings.TrimSuffix(filepath.Base(file), ".txtar") }

func readArchive(t testing.TB, file string) *txtar.Archive {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// recording is what became of an object, with its real managedFields.
type recording struct {
	// applied is the answer of the API server to our apply, live what the object is now,
	// nil if it is gone, and answer what a forced dry-run of the same manifest gives.
	applied, live, answer *unstructured.Unstructured
}

func recorded(t testing.TB, name string) recording {
	t.Helper()
	archive := readArchive(t, "testdata/recorded/"+name+".txtar")
	return recording{
		applied: parse(t, section(archive, "applied")), live: parse(t, section(archive, "live")), answer: parse(t, section(archive, "answer")),
	}
}

// parse reads an object, as from an API server; nil if the text is empty.
func parse(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	if strings.TrimSpace(text) == "" {
		return nil
	}
	content, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(content); err != nil {
		t.Fatal(err)
	}
	return u
}

func (r recording) uid() types.UID { return r.applied.GetUID() }

// TestRecorded checks what is found in what really happened; a new case is a new file.
func TestRecorded(t *testing.T) {
	for _, file := range recordedFiles(t) {
		t.Run(nameOf(file), func(t *testing.T) {
			archive := readArchive(t, file)
			r := recorded(t, nameOf(file))
			var b strings.Builder
			applied := drift.See(r.applied)
			fmt.Fprintf(&b, "applied: owned %t%s\n", applied.Owned != [32]byte{}, foreignText(applied))
			if r.live != nil {
				was := r.live.DeepCopy()
				live := drift.See(r.live)
				fmt.Fprintf(&b, "live: same %t%s\n", live.Owned == applied.Owned, foreignText(live))
				if diff := cmp.Diff(was, r.live); diff != "" {
					t.Errorf("See changes the object:\n%s", diff)
				}
				// Once it is applied again it is as it was.
				_, ignores := r.answer.GetAnnotations()[v1alpha1.IgnoreAnnotation]
				if again := drift.See(r.answer); again.Owned != applied.Owned && !ignores {
					t.Errorf("applied again it has another fingerprint")
				}
			}
			findings := drift.Compare(drift.Comparison{Before: r.live, After: r.answer, UID: r.uid()})
			for _, f := range findings {
				fmt.Fprintf(&b, "%s\n", findingText(f))
			}
			if r.live != nil && len(findings) > 0 && findings[0].Class != v1alpha1.FindingForeign {
				if live := drift.See(r.live); live.Owned == applied.Owned && r.live.GetUID() == r.uid() {
					t.Errorf("drift that the fingerprint does not show: %s", findingText(findings[0]))
				}
			}
			for _, secret := range []string{"aGFuZ", "Z2l0", "secret-of", "hand-made"} {
				if strings.Contains(b.String(), secret) {
					t.Errorf("shows secret material %q:\n%s", secret, b.String())
				}
			}
			if *update {
				setSection(archive, "want", b.String())
				if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(section(archive, "want"), b.String()); diff != "" {
				t.Errorf("run with -update if this is right (-want +got):\n%s", diff)
			}
		})
	}
}

func foreignText(s drift.Sight) string {
	var b strings.Builder
	for _, f := range s.Foreign {
		b.WriteString("\n  " + findingText(f))
	}
	if s.More > 0 {
		fmt.Fprintf(&b, "\n  and %d more", s.More)
	}
	return b.String()
}

func findingText(f v1alpha1.Finding) string {
	s := fmt.Sprintf("%s %s [%s -> %s]", f.Class, f.Field, f.From, f.To)
	if w := f.Writer; w.Manager != "" {
		s += fmt.Sprintf(" by %s (%s, %s", w.Manager, w.Class, w.Operation)
		if w.Subresource != "" {
			s += " of " + w.Subresource
		}
		if w.Time != nil {
			s += fmt.Sprintf(", second %d", w.Time.Second())
		}
		s += ")"
	}
	return s
}
