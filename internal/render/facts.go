package render

import (
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// facts are what a YAML text says about itself, whoever reads it and why. They
// are found before kustomize sees the text, and kept by content (see cache.go).
type facts struct {
	// objects are the Kubernetes objects of the text; items of lists are counted
	// as objects.
	objects []objectFact
	// kinds are the distinct values of keys called "kind", at any depth.
	kinds []string
	// problem is the first reason to refuse the text at all.
	problem *problem
	// depth, aliases and nodes measure the text: deepest nesting, number of
	// aliases, number of nodes when aliases are expanded.
	depth, aliases, nodes int
}

type objectFact struct {
	line                              int
	apiVersion, kind, namespace, name string
	generateName                      bool
}

type problem struct {
	line   int
	reason string
}

// documentSeparator is how kio.ByteReader in kustomize's kyaml splits a text. It
// does so even inside a block scalar, so our own reading must do the same.
var documentSeparator = regexp.MustCompile(`\n---.*\n`)

// gatherFacts reads a YAML text as kustomize will: split by lines, and the first
// document of each part.
func gatherFacts(text string) *facts {
	f := &factsWalker{facts: &facts{}, kinds: map[string]bool{}, sizes: map[*yaml.Node]int{}}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	line := 0
	start := 0
	for _, loc := range append(documentSeparator.FindAllStringIndex(text, -1), []int{len(text), len(text)}) {
		f.document(text[start:loc[0]], line)
		if f.problem != nil {
			break
		}
		line += strings.Count(text[start:loc[1]], "\n")
		start = loc[1]
	}
	return f.facts
}

type factsWalker struct {
	*facts
	kinds map[string]bool
	// sizes holds the expanded number of nodes below a node; -1 while it is being
	// counted, so that an alias to one of its own parents is noticed.
	sizes  map[*yaml.Node]int
	offset int
}

func (f *factsWalker) document(text string, offset int) {
	f.offset = offset
	var doc yaml.Node
	if err := yaml.NewDecoder(strings.NewReader(text)).Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			f.refuse(errorLine(err), "this is not valid YAML: "+yamlReason(err))
		}
		return
	}
	f.nodes += f.walk(&doc, 0)
	if f.problem != nil || len(doc.Content) == 0 {
		return
	}
	root := doc.Content[0]
	// What can't be decoded now makes kustomize fail late, or even end the process:
	// Resource.MustYaml (api/resource/resource.go) calls log.Fatal.
	var value any
	if err := root.Decode(&value); err != nil {
		f.refuse(errorLine(err), "this is not valid in a manifest: "+yamlReason(err))
		return
	}
	f.jsonPatch(root)
	f.object(root)
}

// jsonPatch refuses operations that would make an empty key, which mapping refuses
// where it is written out.
func (f *factsWalker) jsonPatch(root *yaml.Node) {
	if root.Kind != yaml.SequenceNode {
		return
	}
	for _, op := range root.Content {
		p := deref(field(deref(op), "path"))
		if p != nil && (strings.HasSuffix(p.Value, "/") || strings.Contains(p.Value, "//")) {
			f.refuse(p.Line, "the path of a JSON patch has an empty element; a key is empty there, give it a name")
		}
	}
}

// fieldPaths refuses targets of replacements that would make an empty key.
func (f *factsWalker) fieldPaths(list *yaml.Node) {
	for _, p := range deref(list).Content {
		p = deref(p)
		if p.Kind == yaml.ScalarNode && slices.Contains(strings.Split(p.Value, "."), "") {
			f.refuse(p.Line, "a field path has an empty element; name the field")
		}
	}
}

func (f *factsWalker) refuse(line int, reason string) {
	if f.problem == nil {
		f.problem = &problem{line: f.offset + line, reason: reason}
	}
}

// walk checks a node and all below it, and returns how many nodes there are once
// aliases are expanded.
func (f *factsWalker) walk(n *yaml.Node, depth int) int {
	if f.problem != nil {
		return 0
	}
	switch size := f.sizes[n]; {
	case size < 0:
		f.refuse(n.Line, "this YAML anchor contains an alias of itself; write the value out")
		return 0
	case size > 0:
		return size
	}
	f.sizes[n] = -1
	f.depth = max(f.depth, depth)
	size := 1
	switch n.Kind {
	case yaml.AliasNode:
		f.aliases++
		size += f.walk(n.Alias, depth)
	case yaml.MappingNode:
		f.mapping(n)
	case yaml.ScalarNode:
		if tag := n.ShortTag(); tag == "!!float" {
			if v, err := strconv.ParseFloat(n.Value, 64); err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
				f.refuse(n.Line, "this number can't be written as JSON; quote it if it is a text")
			}
		}
	}
	for _, c := range n.Content {
		size = min(size+f.walk(c, depth+1), math.MaxInt32)
	}
	f.sizes[n] = size
	return size
}

func (f *factsWalker) mapping(n *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			f.refuse(key.Line, "the key of a mapping must be a text")
		case key.ShortTag() == "!!merge":
		case key.ShortTag() != "!!str":
			f.refuse(key.Line, fmt.Sprintf("the key %s is not a text; quote it", key.Value))
		case key.Value == "":
			// A generator that merges into such a map ends the process:
			// RNode.SetDataMap (kyaml/yaml/rnode.go) calls log.Fatal.
			f.refuse(key.Line, "a key is empty; give it a name")
		case key.Value == "config.kubernetes.io/function" || key.Value == "config.k8s.io/function":
			f.refuse(key.Line, "KRM functions are never executed; remove the annotation "+key.Value+" and commit what the function would produce")
		case strings.EqualFold(key.Value, "fieldPaths"):
			f.fieldPaths(value)
		case key.Value == "kind" && value.Kind == yaml.ScalarNode && !f.kinds[value.Value]:
			f.kinds[value.Value] = true
			f.facts.kinds = append(f.facts.kinds, value.Value)
		}
	}
}

// object notes an object, or the items of a list as
// resource.Factory.inlineAnyEmbeddedLists does.
func (f *factsWalker) object(n *yaml.Node) {
	n = deref(n)
	if n.Kind != yaml.MappingNode {
		return
	}
	kind := scalarField(n, "kind")
	if strings.HasSuffix(kind, "List") || kind == "ResourceList" {
		if items := deref(field(n, "items")); items != nil {
			for _, item := range items.Content {
				f.object(item)
			}
			return
		}
	}
	meta := deref(field(n, "metadata"))
	if configFn := field(meta, "configFn"); configFn != nil {
		f.refuse(configFn.Line, "KRM functions are never executed; remove metadata.configFn and commit what the function would produce")
	}
	f.objects = append(f.objects, objectFact{
		line:         f.offset + n.Line,
		apiVersion:   scalarField(n, "apiVersion"),
		kind:         kind,
		namespace:    scalarField(meta, "namespace"),
		name:         scalarField(meta, "name"),
		generateName: field(meta, "generateName") != nil,
	})
}

func deref(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func field(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalarField(n *yaml.Node, name string) string {
	if v := deref(field(n, name)); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

var lineInError = regexp.MustCompile(`line (\d+)`)

// errorLine finds the line in an error of the YAML library, 1 if it names none.
func errorLine(err error) int {
	if m := lineInError.FindStringSubmatch(err.Error()); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n
		}
	}
	return 1
}

// yamlReason words an error of the YAML library without the values that it may
// quote.
func yamlReason(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "already defined"):
		return "a key is set twice in one mapping"
	case strings.Contains(text, "cannot decode"), strings.Contains(text, "cannot unmarshal"):
		return "a value doesn't fit its tag"
	case strings.Contains(text, "excessive aliasing"):
		return "its aliases expand too far, write the values out"
	case strings.Contains(text, "unknown anchor"):
		return "an alias has no anchor"
	}
	text = strings.TrimPrefix(text, "yaml: ")
	if _, after, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(text, "line ") {
		text = after
	}
	if i := strings.IndexAny(text, "\n`"); i >= 0 {
		text = text[:i]
	}
	return text
}

// check compares facts with the limits of one render.
func (f *facts) check(path string, l Limits) error {
	switch {
	case f.problem != nil:
		return &FileError{Path: path, Line: f.problem.line, Reason: f.problem.reason}
	case f.depth > l.MaxDepth:
		return &FileError{Path: path, Reason: fmt.Sprintf("this YAML is nested deeper than %d levels", l.MaxDepth)}
	case f.aliases > l.MaxAliases:
		return &FileError{Path: path, Reason: fmt.Sprintf("this YAML has %d aliases, more than %d; write the values out", f.aliases, l.MaxAliases)}
	case f.nodes > l.MaxNodes:
		return &FileError{Path: path, Reason: fmt.Sprintf("this YAML expands to more than %d nodes; use fewer aliases or a smaller file", l.MaxNodes)}
	}
	return nil
}
