package agent_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// What the API server says to Fleets.
func TestFleetValidation(t *testing.T) {
	t.Parallel()
	ns := env.Namespace(t)
	for name, test := range map[string]struct {
		name, spec string
		want       string // "" if it is accepted
	}{
		"least":              {spec: `{git: {url: "https://example.com/fleet.git"}}`},
		"ssh":                {spec: `{git: {url: "ssh://git@example.com/fleet.git", ref: {tag: v1}}}`},
		"scp":                {spec: `{git: {url: "git@example.com:fleet.git", ref: {semver: ">=1"}}}`},
		"path":               {spec: `{git: {url: /srv/fleet.git, ref: {name: refs/pull/7/head}}}`},
		"all":                {spec: `{git: {url: "http://h/r", interval: 5s, timeout: 2s, secretRef: {name: s}}, overlays: {paths: ["a/**"], exclude: [b]}, substitute: {vars: {A_1: x}, from: [{kind: Secret, name: s, optional: true}]}, deletion: {maxClusters: 0}, serviceAccountName: sa, suspend: true}`},
		"no git":             {spec: `{}`, want: "spec.git"},
		"no url":             {spec: `{git: {}}`, want: "url"},
		"other scheme":       {spec: `{git: {url: "ftp://example.com/x"}}`, want: "url must start with"},
		"password":           {spec: `{git: {url: "https://me:secret@example.com/x"}}`, want: "must not hold a password"},
		"two refs":           {spec: `{git: {url: "https://h/r", ref: {branch: a, tag: b}}}`, want: "exactly one of"},
		"no ref":             {spec: `{git: {url: "https://h/r", ref: {}}}`, want: "exactly one of"},
		"short commit":       {spec: `{git: {url: "https://h/r", ref: {commit: abc}}}`, want: "commit"},
		"relative ref":       {spec: `{git: {url: "https://h/r", ref: {name: pull/7}}}`, want: "refs/"},
		"short interval":     {spec: `{git: {url: "https://h/r", interval: 10ms}}`, want: "interval must be at least 1s"},
		"no interval":        {spec: `{git: {url: "https://h/r", interval: soon}}`, want: "interval"},
		"short timeout":      {spec: `{git: {url: "https://h/r", timeout: 1ms}}`, want: "timeout must be at least 1s"},
		"no paths":           {spec: `{git: {url: "https://h/r"}, overlays: {paths: []}}`, want: "paths"},
		"empty path":         {spec: `{git: {url: "https://h/r"}, overlays: {paths: [""]}}`, want: "paths"},
		"variable's name":    {spec: `{git: {url: "https://h/r"}, substitute: {vars: {"1A": x}}}`, want: "a variable's name"},
		"source of variable": {spec: `{git: {url: "https://h/r"}, substitute: {from: [{kind: Pod, name: s}]}}`, want: "kind"},
		"negative limit":     {spec: `{git: {url: "https://h/r"}, deletion: {maxClusters: -1}}`, want: "maxClusters"},
		"long name":          {name: strings.Repeat("a", 41), spec: `{git: {url: "https://h/r"}}`, want: "at most 40 characters"},
		"dotted name":        {name: "a.b", spec: `{git: {url: "https://h/r"}}`, want: "DNS label"},
	} {
		t.Run(name, func(t *testing.T) {
			u := &unstructured.Unstructured{Object: map[string]any{"spec": parse(test.spec)}}
			u.SetAPIVersion(v1alpha1.GroupVersion.String())
			u.SetKind("Fleet")
			u.SetNamespace(ns)
			u.SetName(test.name)
			if test.name == "" {
				u.SetGenerateName("f-")
			}
			err := env.Client().Create(t.Context(), u, client.DryRunAll)
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
		})
	}
}

// What the API server says to ClusterOverlays, and to changes of them.
func TestOverlayValidation(t *testing.T) {
	t.Parallel()
	ns := env.Namespace(t)
	make := func(path string) *v1alpha1.ClusterOverlay {
		return &v1alpha1.ClusterOverlay{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "o-"},
			Spec:       v1alpha1.ClusterOverlaySpec{FleetRef: v1alpha1.LocalReference{Name: "fleet"}, Path: path},
		}
	}
	for path, ok := range map[string]bool{
		"clusters/a": true, "a": true, "deep/er/path with spaces/ü": true,
		"": false, "/a": false, "a/": false, "a//b": false, "../a": false, "a/../b": false, "a/./b": false,
	} {
		if err := env.Client().Create(t.Context(), make(path), client.DryRunAll); (err == nil) != ok {
			t.Errorf("path %q: %v", path, err)
		}
	}
	o := make("clusters/a")
	if err := env.Client().Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for patch, ok := range map[string]bool{
		`{"spec":{"suspend":true}}`:              true,
		`{"spec":{"path":"clusters/b"}}`:         false,
		`{"spec":{"fleetRef":{"name":"other"}}}`: false,
	} {
		err := env.Client().Patch(t.Context(), o.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(patch)))
		if (err == nil) != ok {
			t.Errorf("%s: %v", patch, err)
		}
		if err != nil && !strings.Contains(err.Error(), "can't be changed") {
			t.Errorf("%s: %v", patch, err)
		}
	}
}
