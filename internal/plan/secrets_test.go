package plan_test

import (
	"bytes"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
)

// Values of variables that come from Secrets can end up in any field of any kind.
func TestSecretsOfVariables(t *testing.T) {
	config := func(value string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "c"},
			"data": map[string]any{"url": "https://user:" + value + "@host"},
		}}
	}
	before, after := config("old-password"), config("new-password")
	p := plan.Plan{
		Changes: []plan.Change{
			{ID: object.IDOf(after), Action: plan.Update, Before: before, After: after},
			{ID: object.ID{Kind: "ConfigMap", Name: "d"}, Action: plan.Create, After: after, Note: "says new-password"},
		},
		Secrets: &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "stringData": map[string]any{"a": "new-password", "b": "old-password"},
		}},
	}
	var text, json bytes.Buffer
	if err := p.Text(&text, false); err != nil {
		t.Fatal(err)
	}
	if err := p.JSON(&json); err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{text.String(), json.String()} {
		if strings.Contains(shown, "password") || !strings.Contains(shown, "https://user:***@host") {
			t.Errorf("shown:\n%s", shown)
		}
	}
}
