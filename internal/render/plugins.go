package render

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/internal/tree"
)

// builtinPlugins are the builtin generators and transformers that are allowed, from
// api/internal/plugins/builtinhelpers/builtins.go: all but
// HelmChartInflationGenerator, which executes helm, and ValueAddTransformer, which
// no field of a kustomization leads to.
var builtinPlugins = []string{
	"AnnotationsTransformer", "ConfigMapGenerator", "HashTransformer", "IAMPolicyGenerator", "ImageTagTransformer",
	"LabelTransformer", "NamespaceTransformer", "PatchJson6902Transformer", "PatchStrategicMergeTransformer",
	"PatchTransformer", "PrefixSuffixTransformer", "PrefixTransformer", "ReplacementTransformer", "ReplicaCountTransformer",
	"SecretGenerator", "SuffixTransformer",
}

// pluginEntry checks an entry of generators, transformers or validators. A
// directory is refused: its kustomization could compute the configuration, so that
// what kustomize runs is not what was checked.
func (c *checker) pluginEntry(fieldName, entry string) error {
	inline, err := c.pathOrInline(fieldName, entry)
	if err != nil {
		return err
	}
	if inline {
		line := c.lineOf(fieldName, entry)
		return c.plugins(fieldName, []byte(entry), func(string, string) int { return line })
	}
	_, kind, err := c.resolve(fieldName, entry)
	if err != nil {
		return err
	}
	if kind == tree.Dir {
		return c.fail(fieldName, entry, fmt.Sprintf("%q is a directory; name the files with the configurations", entry))
	}
	if err := c.filePath(fieldName, entry, roleResource); err != nil {
		return err
	}
	clean, _ := join(c.dir, entry)
	text, err := c.fs.content(clean)
	if err != nil {
		return err
	}
	if err := factsOf.get(text).check(clean, c.fs.limits); err != nil {
		return err
	}
	in := &checker{fs: c.fs, file: clean, dir: c.dir, lineOf: func(_, value string) int {
		before, _, _ := strings.Cut(string(text), value)
		return 1 + strings.Count(before, "\n")
	}}
	return in.plugins(fieldName, text, in.lineOf)
}

// pluginFields are the path-carrying fields of all builtin configurations. They are
// decoded as kustomize does, so that spelling and case match alike.
type pluginFields struct {
	Path                string                      `json:"path,omitempty"`
	Paths               []types.PatchStrategicMerge `json:"paths,omitempty"`
	Replacements        []types.ReplacementField    `json:"replacements,omitempty"`
	Patch               string                      `json:"patch,omitempty"`
	JSONOp              string                      `json:"jsonOp,omitempty"`
	Patches             string                      `json:"patches,omitempty"`
	types.KvPairSources `json:",inline,omitempty"`
}

// plugins checks the configurations in a text that kustomize will read as plugins.
// Paths in it are relative to the kustomization that names it: plugins get its
// loader (KustTarget.configureExternalTransformers).
func (c *checker) plugins(fieldName string, text []byte, lineOf func(field, value string) int) error {
	nodes, err := kio.FromBytes(text)
	if err != nil {
		return &FileError{Path: c.file, Line: lineOf("", ""), Reason: fieldName + ": not valid YAML: " + yamlReason(err)}
	}
	in := &checker{fs: c.fs, file: c.file, dir: c.dir, lineOf: lineOf}
	for _, n := range nodes {
		if err := in.plugin(fieldName, n); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) plugin(fieldName string, n *kyaml.RNode) error {
	apiVersion, kind := n.GetApiVersion(), n.GetKind()
	switch {
	case n.IsNilOrEmpty():
		return nil
	case kind == "HelmChartInflationGenerator":
		return c.fail(fieldName, kind, kind+" is not allowed: "+helmReason)
	case apiVersion != "builtin" || !slices.Contains(builtinPlugins, kind):
		return c.fail(fieldName, kind, fmt.Sprintf("%s %s is not allowed: only kustomize's own plugins run (apiVersion: builtin), nothing is executed", apiVersion, kind))
	}
	text, err := n.String()
	if err != nil {
		return c.fail(fieldName, kind, "not valid YAML")
	}
	if kind == "LabelTransformer" || kind == "AnnotationsTransformer" || strings.HasSuffix(kind, "fixTransformer") ||
		kind == "NamespaceTransformer" || kind == "ImageTagTransformer" || kind == "ReplicaCountTransformer" ||
		kind == "HashTransformer" || kind == "IAMPolicyGenerator" {
		return nil // they name no files
	}
	var p pluginFields
	if err := yaml.Unmarshal([]byte(text), &p); err != nil {
		return c.fail(fieldName, kind, "the configuration of "+kind+" doesn't fit its fields")
	}
	return c.pluginPaths(fieldName, p)
}

func (c *checker) pluginPaths(fieldName string, p pluginFields) error {
	if p.Path != "" {
		if err := c.filePath(fieldName, p.Path, rolePatch); err != nil {
			return err
		}
	}
	for _, text := range []string{p.Patch, p.JSONOp, p.Patches} {
		if err := c.patch(fieldName, "", text); err != nil {
			return err
		}
	}
	for _, entry := range p.Paths {
		inline, err := c.pathOrInline(fieldName, string(entry))
		if err == nil && !inline {
			err = c.filePath(fieldName, string(entry), rolePatch)
		}
		if err != nil {
			return err
		}
	}
	for _, r := range p.Replacements {
		if r.Path != "" {
			if err := c.filePath(fieldName, r.Path, roleConfig); err != nil {
				return err
			}
		}
	}
	return c.kvSources(fieldName, p.KvPairSources)
}
