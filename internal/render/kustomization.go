package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// kustomization is a parsed kustomization file. It is shared between renders and
// must not be changed.
type kustomization struct {
	spec *types.Kustomization
	// content is what kustomize reads in place of the file: the fields that were
	// checked, as JSON, plus the virtual configuration. Kustomize's own parser
	// produced the fields, so there is no second reading that could differ, and
	// lines of the user's file are found by lineOf.
	content []byte
	problem *problem
	text    string
}

// referencesPath is where kustomize finds the name reference rules. Absolute, so no
// path of a user's file resolves to it.
const referencesPath = "/.capstan-references.yaml"

func parseKustomization(text string) *kustomization {
	k := &kustomization{text: text}
	if f := gatherFacts(text); f.problem != nil {
		k.problem = f.problem
		return k
	} else if f.aliases > 200 || f.nodes > 200_000 || f.depth > 100 {
		k.problem = &problem{line: 1, reason: "this kustomization has too many aliases or nests too deep"}
		return k
	}
	spec := &types.Kustomization{}
	if err := spec.Unmarshal([]byte(text)); err != nil {
		k.problem = &problem{line: k.errorLine(err), reason: unmarshalReason(err)}
		return k
	}
	spec.FixKustomization()
	if err := spec.CheckEmpty(); err != nil {
		k.problem = &problem{line: 1, reason: "the kustomization is empty; list the files under resources"}
		return k
	}
	if errs := spec.EnforceFields(); len(errs) > 0 {
		k.problem = &problem{line: k.lineOf("apiVersion", ""), reason: strings.Join(errs, "; ")}
		return k
	}
	if k.problem = k.refusedField(spec); k.problem != nil {
		return k
	}
	k.spec = spec
	virtual := *spec
	virtual.Configurations = append(slices.Clone(spec.Configurations), referencesPath)
	content, err := json.Marshal(virtual)
	if err != nil {
		k.problem = &problem{line: 1, reason: "the kustomization can't be written as JSON"}
	}
	k.content = content
	return k
}

// refusedField finds a field that is never allowed, whatever its value.
func (k *kustomization) refusedField(spec *types.Kustomization) *problem {
	for _, f := range []struct {
		name   string
		used   bool
		reason string
	}{
		// krusty.Run and KustTarget.accumulateDirectory keep the schema in a variable
		// of the process (kyaml/openapi/openapi.go, SetSchema).
		{"openapi", spec.OpenAPI != nil, "it changes the schema of all later renders of the process; remove it and use JSON 6902 patches for lists"},
		// loadCrdIntoConfig (api/internal/accumulator/loadconfigfromcrds.go) follows
		// references between definitions without end, which can't be recovered from.
		{"crds", spec.Crds != nil, "use configurations with nameReference rules; those of Cluster API are built in"},
		{"helmCharts", spec.HelmCharts != nil, helmReason},
		{"helmGlobals", spec.HelmGlobals != nil, helmReason},
		{"helmChartInflationGenerator", spec.HelmChartInflationGenerator != nil, helmReason},
	} {
		if f.used {
			return &problem{line: k.lineOf(f.name, ""), reason: fmt.Sprintf("%s is not allowed: %s", f.name, f.reason)}
		}
	}
	return nil
}

const helmReason = "charts are never inflated; commit the output of helm template"

// unmarshalReason words the error of Kustomization.Unmarshal, which may quote a
// part of the file.
func unmarshalReason(err error) string {
	text := err.Error()
	if _, field, ok := strings.Cut(text, "unknown field "); ok {
		return "unknown field " + field + "; kustomize knows no such field"
	}
	var typeErr *json.UnmarshalTypeError
	if errors.As(err, &typeErr) {
		return fmt.Sprintf("the field %s can't hold a %s; quote it if it is a text", typeErr.Field, strings.Fields(typeErr.Value)[0])
	}
	return "this is not a valid kustomization: " + yamlReason(err)
}

var quoted = regexp.MustCompile(`"([^"]+)"`)

func (k *kustomization) errorLine(err error) int {
	if strings.Contains(err.Error(), "unknown field ") {
		if m := quoted.FindStringSubmatch(err.Error()); m != nil {
			return k.lineOfKey(m[1])
		}
	}
	var typeErr *json.UnmarshalTypeError
	if errors.As(err, &typeErr) {
		first, _, _ := strings.Cut(typeErr.Field, ".")
		return k.lineOf(first, "")
	}
	return errorLine(err)
}

// lineOf returns the line of a value in a top-level field, or of the field when the
// value isn't found or "", or 1. Kustomize matches field names without regard to
// case, being encoding/json.
func (k *kustomization) lineOf(field, value string) int {
	root := k.root()
	if root == nil {
		return 1
	}
	names := []string{field}
	switch field {
	case "resources": // types.Kustomization.FixKustomization moves these fields
		names = append(names, "bases")
	case "helmCharts", "helmGlobals":
		names = append(names, "helmChartInflationGenerator")
	}
	fallback := 1
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, key.Value) }) {
			continue
		}
		fallback = key.Line
		if value == "" {
			continue
		}
		if n := find(root.Content[i+1], func(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Value == value }); n != nil {
			return n.Line
		}
	}
	return fallback
}

func (k *kustomization) lineOfKey(key string) int {
	n := find(k.root(), func(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Value == key })
	if n == nil {
		return 1
	}
	return n.Line
}

func (k *kustomization) root() *yaml.Node {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(k.text), &doc); err != nil || len(doc.Content) == 0 {
		return nil
	}
	return doc.Content[0]
}

func find(n *yaml.Node, match func(*yaml.Node) bool) *yaml.Node {
	if n == nil || match(n) {
		return n
	}
	for _, c := range n.Content {
		if hit := find(c, match); hit != nil {
			return hit
		}
	}
	return nil
}

// fileOfSource returns the path in an entry of a generator's files, "key=path" or
// "path", as api/internal/generators/utils.go (ParseFileSource) reads it.
func fileOfSource(source string) string {
	if _, file, ok := strings.Cut(source, "="); ok {
		return file
	}
	return source
}

// dirOf returns the directory of a file, "" for the root.
func dirOf(file string) string {
	if dir := path.Dir(file); dir != "." {
		return dir
	}
	return ""
}
