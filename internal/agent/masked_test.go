package agent

import "testing"

// A stranger's guess at the value of a Secret stands as it is, right or wrong: to mask it
// would be to confirm it.
func TestMasked(t *testing.T) {
	placeholders := map[string]string{"capstan-0123": "hunter22"}
	const want = "***/hunter22.yaml: no such file"
	if got := masked("capstan-0123/hunter22.yaml: no such file", placeholders); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
