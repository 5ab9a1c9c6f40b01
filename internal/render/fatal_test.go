package render

import (
	"bytes"
	"log"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// TestSurviveFatal calls a function of kustomize that ends the process. Without
// the writer this test binary would exit.
func TestSurviveFatal(t *testing.T) {
	var out bytes.Buffer
	before := log.Writer()
	log.SetOutput(SurviveFatal(&out))
	defer log.SetOutput(before)

	func() {
		defer func() {
			if _, ok := recover().(fatalError); !ok {
				t.Error("no panic instead of log.Fatal")
			}
		}()
		(*yaml.RNode)(nil).SetDataMap(map[string]string{"a": "b"})
	}()
	if out.Len() > 0 {
		t.Errorf("logged %q", out.String())
	}
	log.Print("still works")
	if !bytes.Contains(out.Bytes(), []byte("still works")) {
		t.Errorf("logged %q", out.String())
	}
}
