package object_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"capstan.dev/capstan/internal/object"
)

func TestScrub(t *testing.T) {
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n"
	talos := "apiVersion: bootstrap.cluster.x-k8s.io/v1alpha3\nkind: TalosConfigTemplate\nmetadata: {name: a}\n"
	patch := "machine:\n  network:\n    hostname: \"node-1\"\n  token: abcdef.0123456789\n"
	cases := []struct{ name, manifest, text, want string }{
		{"value", secret + "stringData: {a: s3cret}", `stringData.a: Invalid value: "s3cret": bad`, `stringData.a: Invalid value: "***": bad`},
		{"decoded", secret + "data: {a: " + base64.StdEncoding.EncodeToString([]byte("s3cret")) + "}", "got s3cret and czNjcmV0", "got *** and ***"},
		{"encoded", secret + "stringData: {a: s3cret}", "got czNjcmV0", "got ***"},
		{"line", secret + `stringData: {a: "first line\nsecond line\n"}`, "at second line: no", "at ***: no"},
		{"quoted whole", secret + `stringData: {a: "say \"friend\"\nand enter"}`, fmt.Sprintf("got %q.", "say \"friend\"\nand enter"), `got "***".`},
		{"number", secret + "stringData: {a: 12345678}", "expected string, got Value:12345678 or 1.2345678e+07", "expected string, got Value:*** or ***"},
		{"malformed", secret + "data: s3cret", `json: cannot unmarshal "s3cret"`, `json: cannot unmarshal "***"`},
		{"short values stay", secret + "stringData: {a: abc}", "abc is not allowed", "abc is not allowed"},
		{"other objects", "{apiVersion: v1, kind: ConfigMap, data: {a: s3cret}}", "got s3cret", "got s3cret"},
		{"patch, value of a key", talos + "spec: {template: {spec: {strategicPatches: [" + fmt.Sprintf("%q", patch) + "]}}}",
			"token abcdef.0123456789 of machine: is bad", "token *** of machine: is bad"},
		{"structured patch", talos + "spec: {template: {spec: {configPatches: [{op: add, path: /x, value: {token: abcdef.0123456789}}]}}}",
			`Invalid value: map[string]interface{}{"token":"abcdef.0123456789"}`, `Invalid value: map[string]interface{}{"token":"***"}`},
		{"nothing to do", secret, "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := object.Scrub(c.text, parse(t, c.manifest)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	if got := object.Scrub("text", nil); got != "text" {
		t.Errorf("no object: %q", got)
	}
}

// FuzzScrub: no form of the secret survives, whatever it is.
func FuzzScrub(f *testing.F) {
	f.Add("s3cret")
	f.Add("two\nlines of it")
	f.Add(`a "quoted" \ one`)
	f.Add("ключ\tот квартиры")
	f.Fuzz(func(t *testing.T, value string) {
		if len(strings.TrimSpace(value)) < 4 || strings.Contains("a: Invalid value: ***", strings.TrimSpace(value)) {
			return
		}
		u := parse(t, "{apiVersion: v1, kind: Secret, metadata: {name: a}}")
		u.Object["stringData"] = map[string]any{"a": value}
		text := fmt.Sprintf("a: Invalid value: %q %s %s", value, value, base64.StdEncoding.EncodeToString([]byte(value)))
		if got := object.Scrub(text, u); strings.Contains(got, strings.TrimSpace(value)) {
			t.Errorf("%q is still in %q", value, got)
		}
	})
}
