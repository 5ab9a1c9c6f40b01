package render

import (
	"fmt"
	"math"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// toUnstructured converts a node of kustomize's result without the detour through
// JSON. Numbers get the types that apimachinery's JSON decoder gives them.
func toUnstructured(n *yaml.Node) (*unstructured.Unstructured, error) {
	v, err := toValue(n)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nodeName(n), err)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s is not an object", nodeName(n))
	}
	return &unstructured.Unstructured{Object: m}, nil
}

// nodeName is how messages name an object that isn't converted yet.
func nodeName(n *yaml.Node) string {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	meta := field(n, "metadata")
	name := scalarField(meta, "name")
	if ns := scalarField(meta, "namespace"); ns != "" {
		name = ns + "/" + name
	}
	return scalarField(n, "kind") + " " + name
}

func toValue(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.DocumentNode:
		if len(n.Content) != 1 {
			return nil, fmt.Errorf("a document without content")
		}
		return toValue(n.Content[0])
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if _, twice := m[key]; twice {
				return nil, fmt.Errorf("the key %s is set twice", key)
			}
			v, err := toValue(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[key] = v
		}
		return m, nil
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := toValue(c)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.ScalarNode:
		return toScalar(n)
	}
	return nil, fmt.Errorf("an alias is left in the result")
}

func toScalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!str", "!!timestamp": // an unquoted date is the text that was written
		return n.Value, nil
	case "!!null":
		return nil, nil
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, fmt.Errorf("a value doesn't fit its tag %s", n.ShortTag())
	}
	switch v := v.(type) {
	case int:
		return int64(v), nil
	case uint64:
		return float64(v), nil
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, fmt.Errorf("a number can't be written as JSON")
		}
		return v, nil
	case int64, bool, string, nil:
		return v, nil
	}
	return nil, fmt.Errorf("a value has the unknown tag %s", n.ShortTag())
}
