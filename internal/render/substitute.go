package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// Substitution is what a Fleet declares for ${VAR} expressions.
type Substitution struct {
	// Values are the values by name. They may be secret: no error holds them.
	Values map[string]string
}

// optOut on an object leaves its ${...} expressions as they are.
const optOut = "capstan.dev/substitute"

// substituter replaces ${VAR} in scalar values after the build, so that what an
// expression stands for can't change the structure of a manifest:
//
//   - ${VAR} is the value; a name without a value is an error.
//   - ${VAR:=default} and ${VAR:-default} are the default if VAR is unset or empty,
//     ${VAR=default} if it is unset. Defaults are not expanded.
//   - $${VAR} is the text ${VAR}.
//   - Any other ${...} is an error: other tools give it meanings that this one hasn't.
//
// Keys are never touched, and values are not expanded again. In the data of a
// ConfigMap or Secret, what can't be resolved is left alone with a warning, since
// scripts and other tools' templates legitimately live there.
//
// A scalar that is one expression and was written without quotes takes the type of
// its value if that is an integer or a boolean, so "replicas: ${N}" becomes a
// number. Quoted scalars, labels, annotations, and the fields in textFields stay texts.
type substituter struct {
	values    map[string]string
	problems  []string
	warnings  []string
	variables map[string]bool
}

func newSubstituter(s *Substitution) *substituter {
	out := &substituter{variables: map[string]bool{}}
	if s != nil {
		out.values = s.Values
	}
	return out
}

func (s *substituter) warningList() []string {
	slices.Sort(s.warnings)
	return s.warnings
}

func (s *substituter) variableList() []string { return slices.Sorted(maps.Keys(s.variables)) }

// err lists everything that could not be substituted.
func (s *substituter) err() error {
	if len(s.problems) == 0 {
		return nil
	}
	slices.Sort(s.problems)
	return fmt.Errorf("substitution: %s", strings.Join(s.problems, "; "))
}

// object substitutes in one object.
func (s *substituter) object(root *yaml.Node) {
	if root.Kind == yaml.DocumentNode && len(root.Content) > 0 {
		root = root.Content[0]
	}
	if scalarField(field(field(root, "metadata"), "annotations"), optOut) == "disabled" {
		return
	}
	w := &substitution{substituter: s, name: nodeName(root)}
	kind, apiVersion := scalarField(root, "kind"), scalarField(root, "apiVersion")
	isData := apiVersion == "v1" && (kind == "ConfigMap" || kind == "Secret")
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i].Value
		w.lenient = isData && (key == "data" || key == "stringData" || key == "binaryData")
		w.walk(root.Content[i+1], []string{key}, w.lenient)
	}
}

// substitution is the walk through one object.
type substitution struct {
	*substituter
	name    string
	lenient bool
}

// textMaps hold texts only, whatever their keys are.
var textMaps = map[string]bool{
	"labels": true, "annotations": true, "matchLabels": true, "nodeSelector": true, "matchExpressions": true,
	"args": true, "command": true, "env": true,
}

// textFields are texts in every API that manifests of clusters use. They matter for
// objects that a JSON 6902 patch changed: kustomize loses their quotes.
var textFields = map[string]bool{
	"apiVersion": true, "kind": true, "name": true, "namespace": true, "clusterName": true,
	"version": true, "kubernetesVersion": true, "talosVersion": true, "host": true, "failureDomain": true,
}

// walk substitutes below a node; text says that values must stay texts.
func (w *substitution) walk(n *yaml.Node, path []string, text bool) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			w.walk(n.Content[i+1], append(path, key), text || textMaps[key] || textFields[key] && n.Content[i+1].Kind == yaml.ScalarNode)
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			w.walk(c, append(path, fmt.Sprint(i)), text)
		}
	case yaml.ScalarNode:
		w.scalar(n, path, text)
	}
}

func (w *substitution) scalar(n *yaml.Node, path []string, text bool) {
	if !strings.Contains(n.Value, "${") || n.ShortTag() != "!!str" {
		return
	}
	value, whole := w.expand(n.Value, func(reason string) {
		finding := fmt.Sprintf("%s %s: %s", w.name, strings.Join(path, "."), reason)
		if w.lenient {
			w.warnings = append(w.warnings, finding+"; left as it is")
		} else {
			w.problems = append(w.problems, finding)
		}
	})
	if value == n.Value && !whole {
		return
	}
	plain := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) == 0
	n.Value = value
	if whole && plain && !text {
		resolved := yaml.Node{Kind: yaml.ScalarNode, Value: value}
		if tag := resolved.ShortTag(); tag == "!!int" || tag == "!!bool" {
			n.Tag = tag
			return
		}
	}
	n.Tag = "!!str"
}

// expand replaces the expressions in a text. whole says that the text is nothing
// but one resolved expression. What can't be resolved stays, and is reported.
func (s *substituter) expand(text string, report func(reason string)) (out string, whole bool) {
	var b strings.Builder
	rest := text
	for {
		i := strings.Index(rest, "${")
		if i < 0 {
			b.WriteString(rest)
			return b.String(), whole
		}
		end := strings.IndexByte(rest[i:], '}')
		if i > 0 && rest[i-1] == '$' { // $${ stands for ${
			b.WriteString(rest[:i-1])
			b.WriteString("${")
			rest = rest[i+2:]
			continue
		}
		b.WriteString(rest[:i])
		if end < 0 {
			report("a ${ has no closing }; write $${ for the text ${")
			b.WriteString(rest[i:])
			return b.String(), false
		}
		expression := rest[i : i+end+1]
		value, reason := s.resolve(expression)
		if reason != "" {
			report(reason)
			value = expression
		}
		whole = reason == "" && expression == text
		b.WriteString(value)
		rest = rest[i+end+1:]
	}
}

// resolve returns the value of one expression, or why it has none.
func (s *substituter) resolve(expression string) (value, reason string) {
	body := expression[2 : len(expression)-1]
	name := body
	if i := strings.IndexFunc(body, func(r rune) bool { return !isNameRune(r) }); i >= 0 {
		name = body[:i]
	}
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		return "", "this form of ${...} is not known; use ${NAME} or ${NAME:=default}, or write $${ for the text ${"
	}
	operator := body[len(name):]
	set, isSet := s.values[name]
	var fallback string
	switch {
	case operator == "":
		s.variables[name] = true
		if !isSet {
			return "", "${" + name + "} has no value"
		}
		return set, ""
	case strings.HasPrefix(operator, ":=") || strings.HasPrefix(operator, ":-"):
		fallback, isSet = operator[2:], isSet && set != ""
	case strings.HasPrefix(operator, "="):
		fallback = operator[1:]
	default:
		return "", "this form of ${" + name + "...} is not known; use ${" + name + "} or ${" + name + ":=default}, or write $${ for the text ${"
	}
	if strings.Contains(fallback, "${") {
		return "", "the default of ${" + name + "} holds another ${; defaults are plain texts"
	}
	s.variables[name] = true
	if isSet {
		return set, ""
	}
	return fallback, ""
}

func isNameRune(r rune) bool {
	return r == '_' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
}
