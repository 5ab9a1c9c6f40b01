// Package edits makes objects with every field of their Go type set, and one edit of each of these
// fields: what a table says about fields can be held against what the code does that reads them.
package edits

import (
	"fmt"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Edit is one change of an object.
type Edit struct {
	// Field is where it is, as in JSON, with dots.
	Field string
	// Removed: the field is taken away; else it has another value.
	Removed bool
}

// String names the edit in a test.
func (e Edit) String() string {
	if e.Removed {
		return "-" + e.Field
	}
	return e.Field
}

// Values gives fields a first and another value where not any will do, by how their paths end; nil for
// any other field.
type Values func(field string) (first, other any)

// Fill sets every field below a pointer.
func Fill(object any, values Values) {
	w := walker{values: values, fill: true}
	w.walk(reflect.ValueOf(object).Elem(), "", nil)
}

// All lists the edits of an object that is filled.
func All(object any, values Values) []Edit {
	w := walker{values: values}
	w.walk(reflect.ValueOf(object).Elem(), "", nil)
	var all []Edit
	for _, f := range w.found {
		if f.change != nil {
			all = append(all, Edit{Field: f.path})
		}
		all = append(all, Edit{Field: f.path, Removed: true})
	}
	return all
}

// Do makes an edit of an object that is filled.
func (e Edit) Do(object any, values Values) {
	w := walker{values: values}
	w.walk(reflect.ValueOf(object).Elem(), "", nil)
	for _, f := range w.found {
		if f.path == e.Field {
			if e.Removed {
				f.remove()
			} else {
				f.change()
			}
			return
		}
	}
	panic("no field " + e.Field)
}

type field struct {
	path           string
	change, remove func()
}

type walker struct {
	values Values
	fill   bool
	found  []field
}

// leaves are structs that are one value.
var leaves = map[reflect.Type][2]any{
	reflect.TypeFor[metav1.Time]():        {metav1.Unix(1000, 0), metav1.Unix(2000, 0)},
	reflect.TypeFor[metav1.Duration]():    {metav1.Duration{Duration: 10e9}, metav1.Duration{Duration: 20e9}},
	reflect.TypeFor[intstr.IntOrString](): {intstr.FromInt32(1), intstr.FromInt32(2)},
}

// walk visits a value. set puts it back where it can't be set in place, as in a map.
func (w *walker) walk(v reflect.Value, path string, set func(reflect.Value)) {
	if set == nil {
		set = v.Set
	}
	first, other := w.values(path)
	known, leaf := leaves[v.Type()]
	if leaf && first == nil {
		first, other = known[0], known[1]
	}
	if first == nil {
		switch v.Kind() {
		case reflect.String:
			first, other = "a", "b"
		case reflect.Bool:
			first, other = true, false
		case reflect.Int32, reflect.Int64, reflect.Int:
			first, other = 10, 20
		case reflect.Uint8:
			first, other = 'a', 'b'
		}
	}
	if first != nil && v.Kind() != reflect.Pointer {
		w.leaf(v, path, first, other, set)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if w.fill {
			v.Set(reflect.New(v.Type().Elem()))
		}
		w.container(v, path, set)
		w.walk(v.Elem(), path, nil)
	case reflect.Slice:
		if w.fill {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		w.container(v, path, set)
		w.walk(v.Index(0), path+"[0]", nil)
	case reflect.Map:
		key := reflect.ValueOf("key").Convert(v.Type().Key())
		if w.fill {
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(key, reflect.Zero(v.Type().Elem()))
		}
		w.container(v, path, set)
		w.walk(v.MapIndex(key), path+".key", func(value reflect.Value) { v.SetMapIndex(key, value) })
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case f.Anonymous && name == "":
				w.walk(v.Field(i), path, nil)
			case f.IsExported() && name != "-" && name != "":
				w.walk(v.Field(i), strings.TrimPrefix(path+"."+name, "."), nil)
			}
		}
	default:
		panic(fmt.Sprintf("%s: what is a %s?", path, v.Type()))
	}
}

func (w *walker) leaf(v reflect.Value, path string, first, other any, set func(reflect.Value)) {
	if w.fill {
		set(reflect.ValueOf(first).Convert(v.Type()))
		return
	}
	w.found = append(w.found, field{
		path:   path,
		change: func() { set(reflect.ValueOf(other).Convert(v.Type())) },
		remove: func() { set(reflect.Zero(v.Type())) },
	})
}

// container is what can be taken away as a whole. That of a pointer to a leaf has the leaf's path, and
// comes first.
func (w *walker) container(v reflect.Value, path string, set func(reflect.Value)) {
	if w.fill {
		return
	}
	name := path + "{}"
	w.found = append(w.found, field{path: name, remove: func() { set(reflect.Zero(v.Type())) }})
}
