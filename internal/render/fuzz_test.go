package render

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"capstan.dev/capstan/internal/tree"
	"sigs.k8s.io/kustomize/api/types"
)

// FuzzKustomization: no kustomization crashes the process, none leads to something
// outside the tree, and what kustomize reads says what the file said.
func FuzzKustomization(f *testing.F) {
	files, err := filepath.Glob("testdata/render/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		a := readArchive(f, file)
		f.Add(a.files["overlay/kustomization.yaml"], a.files["overlay/a.yaml"])
	}
	f.Fuzz(func(t *testing.T, text, manifest string) {
		if strings.HasPrefix(text, tree.LinkPrefix) || strings.HasPrefix(manifest, tree.LinkPrefix) {
			return
		}
		k := parseKustomization(text)
		if (k.spec == nil) == (k.problem == nil) {
			t.Fatalf("neither parsed nor refused: %+v", k)
		}
		if k.spec != nil {
			var again types.Kustomization
			if err := again.Unmarshal(k.content); err != nil {
				t.Fatalf("what was parsed once can't be parsed again: %v", err)
			}
		}
		tr := tree.FromMap(map[string]string{"overlay/kustomization.yaml": text, "overlay/a.yaml": manifest, "base/kustomization.yaml": "namePrefix: x"})
		limits := Limits{MaxFiles: 50, MaxObjects: 50, MaxBytes: 1 << 20, Timeout: 20 * time.Second}
		r, err := Render(context.Background(), Input{Tree: tr, Path: "overlay", Limits: limits})
		if r == nil {
			t.Fatal("no result")
		}
		for _, p := range r.Closure.Paths() {
			if clean, ok := tree.Clean(p); !ok || clean != p {
				t.Errorf("the closure holds %q", p)
			}
		}
		if err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Error("an empty error")
		}
	})
}

// FuzzSubstitute: texts without ${ stay, values are not expanded again, and reports
// never hold values.
func FuzzSubstitute(f *testing.F) {
	for _, s := range []string{"", "a", "${A}", "$${A}", "${A:=x}", "${A", "${}", "${A:=${B}}", "x${A}y${B=z}", "$$$${A}", "${A:-}", "}${"} {
		f.Add(s)
	}
	const secret = "\x00secret ${A}\x00"
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "\x00") {
			return
		}
		s := newSubstituter(&Substitution{Values: map[string]string{"A": secret}})
		out, whole := s.expand(text, func(reason string) {
			if strings.Contains(reason, secret) {
				t.Errorf("%q: the report holds a value: %q", text, reason)
			}
		})
		if !strings.Contains(text, "${") && out != text {
			t.Errorf("%q became %q", text, out)
		}
		if n := strings.Count(out, "\x00"); n != 2*strings.Count(out, secret) {
			t.Errorf("%q: a value was expanded again: %q", text, out)
		}
		if whole && !(strings.HasPrefix(text, "${") && strings.HasSuffix(text, "}")) {
			t.Errorf("%q is not one expression", text)
		}
	})
}
