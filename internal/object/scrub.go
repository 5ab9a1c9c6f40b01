package object

import (
	"cmp"
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// scrubbed replaces a secret value inside a text.
const scrubbed = "***"

// minSecret is the length below which a value is not looked for: it would be
// found by accident everywhere and is no secret worth the name.
const minSecret = 4

// Scrub takes the secret values of an object out of a text that may quote them,
// such as an API server's answer to that object. Looked for are the values of the
// fields that [MaskPair] masks, whole, decoded from or encoded to base64, and line
// by line, as they are and as Go quotes them.
func Scrub(text string, u *unstructured.Unstructured) string {
	if text == "" || u == nil {
		return text
	}
	found := map[string]bool{}
	for _, field := range secretFields[u.GroupVersionKind().GroupKind()] {
		for _, value := range valuesAt(u.Object, strings.Split(field, ".")) {
			collect(value, found)
		}
	}
	if applied := u.GetAnnotations()[lastApplied]; applied != "" {
		addSecret(applied, found)
	}
	// Long ones first: a secret may be part of another.
	secrets := slices.SortedFunc(maps.Keys(found), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, secret, scrubbed)
	}
	return text
}

// valuesAt returns what is at a path, in which "*" stands for any key or index.
func valuesAt(state any, path []string) []any {
	if len(path) == 0 {
		return []any{state}
	}
	var values []any
	for _, key := range keys(state, nil, path[0]) {
		if value := child(state, key); value != nil {
			values = append(values, valuesAt(value, path[1:])...)
		}
	}
	return values
}

// collect adds every string below a secret value. Keys of maps are not secret.
func collect(value any, found map[string]bool) {
	switch v := value.(type) {
	case string:
		addSecret(v, found)
		if decoded, err := base64.StdEncoding.DecodeString(v); err == nil {
			addSecret(string(decoded), found)
		}
	case []any:
		for _, element := range v {
			collect(element, found)
		}
	case map[string]any:
		for _, element := range v {
			collect(element, found)
		}
	}
}

// addSecret adds a value in every form in which a text may quote it.
func addSecret(value string, found map[string]bool) {
	for _, part := range append(strings.Split(value, "\n"), value) {
		part = strings.TrimSpace(part)
		forms := []string{part, base64.StdEncoding.EncodeToString([]byte(part)), quoted(part)}
		// "key: value" of a YAML or environment file: the value alone, too.
		if _, after, ok := strings.Cut(part, ": "); ok {
			forms = append(forms, unquoted(after))
		}
		if _, after, ok := strings.Cut(part, "="); ok {
			forms = append(forms, unquoted(after))
		}
		for _, form := range forms {
			if len(form) >= minSecret {
				found[form] = true
			}
		}
	}
	if encoded := base64.StdEncoding.EncodeToString([]byte(value)); len(value) >= minSecret {
		found[encoded] = true
	}
}

// quoted is a value as it stands between the quotes of a Go or JSON string.
func quoted(value string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(value)
}

func unquoted(value string) string { return strings.Trim(strings.TrimSpace(value), `"'`) }
