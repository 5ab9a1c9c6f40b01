package object

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// scrubbed replaces a secret value inside a text.
const scrubbed = "***"

// minSecret is the length below which a value is not looked for: it would be
// found by accident everywhere and is no secret worth the name.
const minSecret = 4

// minPart is the same for a part of a line, such as "true" in "enabled: true".
const minPart = 8

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
	for _, annotation := range copies {
		collect(u.GetAnnotations()[annotation], found)
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
	if len(path) == 0 || scalar(state) {
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

// collect adds every value below a secret one. Keys of maps are not secret.
func collect(value any, found map[string]bool) {
	switch v := value.(type) {
	case string:
		addSecret(v, found)
		if decoded, err := base64.StdEncoding.DecodeString(v); err == nil {
			addSecret(string(decoded), found)
		}
	case int64: // a password of digits without quotes
		addForm(strconv.FormatInt(v, 10), minSecret, found)
		addForm(fmt.Sprint(float64(v)), minSecret, found)
	case float64:
		addForm(strconv.FormatFloat(v, 'f', -1, 64), minSecret, found)
		addForm(fmt.Sprint(v), minSecret, found)
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

// addSecret adds a text as a whole, each of its lines, and what stands in a line
// after the key of a YAML or environment file.
func addSecret(value string, found map[string]bool) {
	addForm(value, minSecret, found)
	for line := range strings.SplitSeq(value, "\n") {
		line = strings.TrimPrefix(strings.TrimSpace(line), "- ")
		if strings.HasSuffix(line, ":") && !strings.ContainsAny(line, " \"'") {
			continue // the key alone
		}
		addForm(line, minSecret, found)
		for _, separator := range []string{": ", "="} {
			if _, after, ok := strings.Cut(line, separator); ok {
				addForm(strings.Trim(strings.TrimSpace(after), `"'`), minPart, found)
			}
		}
	}
}

// addForm adds a text in every form in which a message may quote it.
func addForm(text string, least int, found map[string]bool) {
	text = strings.TrimSpace(text)
	if len(text) < least {
		return
	}
	quoted := strconv.Quote(text)
	found[text] = true
	found[quoted[1:len(quoted)-1]] = true
	found[base64.StdEncoding.EncodeToString([]byte(text))] = true
	if encoded, err := json.Marshal(text); err == nil {
		found[string(encoded[1:len(encoded)-1])] = true
	}
}
