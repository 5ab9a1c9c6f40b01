package render

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestVersion: another kustomize may render otherwise, so it is part of the version.
func TestVersion(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "sigs.k8s.io/kustomize/api "+kustomizeVersion+"\n") {
		t.Errorf("go.mod doesn't require kustomize/api %s; set kustomizeVersion", kustomizeVersion)
	}
}

// TestExplain: errors in the forms in which kustomize quotes manifests.
func TestExplain(t *testing.T) {
	t.Parallel()
	f := newFileSystem(t.Context(), Input{})
	for _, text := range []string{
		"found multiple possible referrals: a, b\n\n**** Too many possible referral targets to referrer:\nhunter2",
		"trouble configuring builtin SecretGenerator with config: `\nhunter2\n`: bad",
		"accumulateDirectory: \"trouble with config: `\\nhunter2\\n`: bad\"",
		`NewResMapFromSecretArgs: literal sources [a=hunter2 b]: invalid literal source hunter2, expected key=value`,
		`unable to parse SM or JSON patch from [patch: "hunter2"]`,
		`empty item at x in object hunter2`,
		`expected 1 resource, found 2 in hunter2`,
		`json: cannot unmarshal hunter2`,
		"yaml: line 2: cannot unmarshal !!str `hunter2` into int",
		`id matches found multiple objects hunter2 that could accept merge`,
		strings.Repeat("x", 5000),
	} {
		got := f.explain("overlay", errors.New(text)).Error()
		if strings.Contains(got, "hunter2") || len(got) > 1100 {
			t.Errorf("%q became %q", text, got)
		}
		if !strings.HasPrefix(got, "overlay overlay: ") {
			t.Errorf("%q doesn't say which overlay", got)
		}
	}
}
