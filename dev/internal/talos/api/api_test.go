package api

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/cluster-api/util/deprecated/v1beta1/conditions"
	"sigs.k8s.io/yaml"
)

var (
	_ conditions.Setter = &TalosConfig{}
	_ conditions.Setter = &TalosControlPlane{}
)

func TestAddToScheme(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for _, gvk := range []schema.GroupVersionKind{
		BootstrapGroupVersion.WithKind(TalosConfigKind),
		BootstrapGroupVersion.WithKind(TalosConfigKind + "List"),
		BootstrapGroupVersion.WithKind(TalosConfigTemplateKind),
		BootstrapGroupVersion.WithKind(TalosConfigTemplateKind + "List"),
		ControlPlaneGroupVersion.WithKind(TalosControlPlaneKind),
		ControlPlaneGroupVersion.WithKind(TalosControlPlaneKind + "List"),
	} {
		if !scheme.Recognizes(gvk) {
			t.Errorf("the scheme lacks %s", gvk)
		}
	}
}

// The types have exactly the fields of the CRDs, so that writing a typed object neither loses a field nor sends one
// that the API server drops.
func TestFieldsAreTheCRDs(t *testing.T) {
	for file, object := range map[string]any{
		"bootstrap.cluster.x-k8s.io_talosconfigs.yaml":          TalosConfig{},
		"bootstrap.cluster.x-k8s.io_talosconfigtemplates.yaml":  TalosConfigTemplate{},
		"controlplane.cluster.x-k8s.io_taloscontrolplanes.yaml": TalosControlPlane{},
	} {
		t.Run(file, func(t *testing.T) {
			content, err := os.ReadFile("../../../crds/" + file)
			if err != nil {
				t.Fatal(err)
			}
			var crd apiextensionsv1.CustomResourceDefinition
			if err := yaml.UnmarshalStrict(content, &crd); err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
				return v.Name == "v1alpha3"
			})
			if i < 0 {
				t.Fatal("no v1alpha3")
			}
			want := schemaFields("", *crd.Spec.Versions[i].Schema.OpenAPIV3Schema)
			if len(want) < 10 {
				t.Fatalf("only the fields %v in the CRD", want)
			}
			got := typeFields("", reflect.TypeOf(object))
			slices.Sort(want)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("fields (-CRD +type):\n%s", diff)
			}
		})
	}
}

// schemaFields lists the paths of all fields in a schema.
func schemaFields(path string, s apiextensionsv1.JSONSchemaProps) []string {
	if s.Items != nil {
		return schemaFields(path+"[]", *s.Items.Schema)
	}
	if len(s.Properties) == 0 {
		return []string{path}
	}
	var fields []string
	for name, property := range s.Properties {
		fields = append(fields, schemaFields(path+"."+name, property)...)
	}
	return fields
}

// typeFields lists the paths of all JSON fields in a type.
func typeFields(path string, typ reflect.Type) []string {
	switch typ {
	case reflect.TypeFor[metav1.ObjectMeta](), reflect.TypeFor[metav1.Time](),
		reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[apiextensionsv1.JSON]():
		return []string{path}
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return typeFields(path, typ.Elem())
	case reflect.Slice:
		return typeFields(path+"[]", typ.Elem())
	case reflect.Struct:
		var fields []string
		for i := range typ.NumField() {
			field := typ.Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name != "" {
				name = "." + name
			}
			fields = append(fields, typeFields(path+name, field.Type)...)
		}
		return fields
	}
	return []string{path}
}

// Decoding keeps what encoding drops: the reason why a TalosControlPlane with an explicit empty list replaces its
// machines for ever.
func TestEmptyListsDoNotSurvive(t *testing.T) {
	for name, tc := range map[string]struct {
		spec  string
		equal bool
	}{
		"absent": {`{"generateType":"controlplane"}`, true},
		"null":   {`{"generateType":"controlplane","configPatches":null,"strategicPatches":null}`, true},
		"filled": {`{"generateType":"controlplane","strategicPatches":["a: b"],"hostname":{"source":"MachineName"}}`,
			true},
		"JSON patch": {`{"generateType":"controlplane","configPatches":[{"op":"add","path":"/a","value":{"b":[1]}}]}`,
			true},
		"JSON patch, no value":   {`{"generateType":"controlplane","configPatches":[{"op":"remove","path":"/a"}]}`, true},
		"empty configPatches":    {`{"generateType":"controlplane","configPatches":[]}`, false},
		"empty strategicPatches": {`{"generateType":"controlplane","strategicPatches":[]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			var wanted, cloned TalosConfigSpec
			if err := json.Unmarshal([]byte(tc.spec), &wanted); err != nil {
				t.Fatal(err)
			}
			written, err := json.Marshal(wanted)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(written, &cloned); err != nil {
				t.Fatal(err)
			}
			if got := reflect.DeepEqual(*wanted.DeepCopy(), cloned); got != tc.equal {
				t.Errorf("DeepEqual is %v for %s", got, written)
			}
		})
	}
}

// A false in the status is written: others wait for ready and initialized to appear.
func TestFalseIsWritten(t *testing.T) {
	got, err := json.Marshal(TalosControlPlaneStatus{})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"initialized":false,"ready":false}`; string(got) != want {
		t.Errorf("status %s, want %s", got, want)
	}
}
