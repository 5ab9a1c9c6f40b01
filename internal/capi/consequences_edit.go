package capi

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// change is a field that two versions of an object differ in: a scalar, a list of
// another length, or a key of a map that one of them doesn't have.
type change struct {
	// field is the JSON pointer; an index is that of the object that has the element.
	field string
	// from and to are the values; nil if there is none.
	from, to any
	// element is the MachineDeployment or pool of a topology that the field is of.
	element map[string]any
}

// changesOf lists what differs in the labels, the annotations, and in all but
// metadata and status. An empty map is no different from none: Cluster API's types
// omit it. An empty list is.
func changesOf(before, after *unstructured.Unstructured) []change {
	d := differ{}
	for _, key := range keysOf(before.Object, after.Object) {
		switch key {
		case "apiVersion", "kind", "metadata", "status":
		default:
			d.compare("/"+escape(key), before.Object[key], after.Object[key], nil)
		}
	}
	for _, key := range []string{"annotations", "labels"} {
		from, _, _ := unstructured.NestedFieldNoCopy(before.Object, "metadata", key)
		to, _, _ := unstructured.NestedFieldNoCopy(after.Object, "metadata", key)
		d.compare("/metadata/"+key, from, to, nil)
	}
	slices.SortStableFunc(d.changes, func(a, b change) int { return strings.Compare(a.field, b.field) })
	return d.changes
}

type differ struct{ changes []change }

func (d *differ) compare(field string, from, to any, element map[string]any) {
	fromMap, fromIsMap := from.(map[string]any)
	toMap, toIsMap := to.(map[string]any)
	if fromIsMap && (toIsMap || to == nil) || toIsMap && from == nil {
		for _, key := range keysOf(fromMap, toMap) {
			d.compare(field+"/"+escape(key), fromMap[key], toMap[key], element)
		}
		return
	}
	fromList, fromIsList := from.([]any)
	toList, toIsList := to.([]any)
	if (fromIsList || toIsList) && element == nil && slices.Contains(namedLists, field) {
		d.compareNamed(field, fromList, toList)
		return
	}
	if fromIsList && toIsList && len(fromList) == len(toList) {
		for i := range fromList {
			d.compare(field+"/"+strconv.Itoa(i), fromList[i], toList[i], element)
		}
		return
	}
	if !reflect.DeepEqual(plainNumber(from), plainNumber(to)) {
		d.changes = append(d.changes, change{field: field, from: from, to: to, element: element})
	}
}

// topologyWorkers is where a topology has its workers.
const topologyWorkers = "/spec/topology/workers/"

// namedLists are the lists whose order means nothing, and whose elements have names.
var namedLists = []string{topologyWorkers + "machineDeployments", topologyWorkers + "machinePools"}

// compareNamed compares elements of the same name. One that was added or taken away
// is one change.
func (d *differ) compareNamed(field string, from, to []any) {
	named := func(list []any, name string) map[string]any {
		for _, item := range list {
			if m, _ := item.(map[string]any); m != nil && text(m, "name") == name {
				return m
			}
		}
		return nil
	}
	for i, item := range to {
		m, _ := item.(map[string]any)
		at := field + "/" + strconv.Itoa(i)
		if old := named(from, text(m, "name")); old != nil {
			d.compare(at, old, m, old)
		} else {
			d.changes = append(d.changes, change{field: at, to: item, element: m})
		}
	}
	for i, item := range from {
		if m, _ := item.(map[string]any); named(to, text(m, "name")) == nil {
			d.changes = append(d.changes, change{field: field + "/" + strconv.Itoa(i), from: item, element: m})
		}
	}
}

// keysOf returns the keys of two maps in their order.
func keysOf(a, b map[string]any) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

// plainNumber makes numbers comparable, of which decoders make either type.
func plainNumber(value any) any {
	if f, ok := value.(float64); ok && f == float64(int64(f)) {
		return int64(f)
	}
	return value
}

// at returns what an object has at a JSON pointer, nil if it has nothing there.
func at(u *unstructured.Unstructured, pointer string) any {
	var value any = u.Object
	for pointer != "" {
		var key string
		key, pointer = firstElement(pointer)
		key = strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~")
		switch v := value.(type) {
		case map[string]any:
			value = v[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(v) {
				return nil
			}
			value = v[i]
		default:
			return nil
		}
	}
	return value
}

// firstAt returns the first of several fields that an object has.
func firstAt(u *unstructured.Unstructured, pointers ...string) any {
	for _, pointer := range pointers {
		if value := at(u, pointer); value != nil {
			return value
		}
	}
	return nil
}

// dotted writes a JSON pointer as people do: spec.files[2].content.
func dotted(pointer string) string {
	var b strings.Builder
	for pointer != "" {
		var key string
		key, pointer = firstElement(pointer)
		key = strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~")
		_, err := strconv.Atoi(key)
		switch {
		case err == nil, strings.ContainsAny(key, "./"):
			b.WriteString("[" + clip(key) + "]")
		case b.Len() > 0:
			b.WriteString("." + clip(key))
		default:
			b.WriteString(clip(key))
		}
	}
	return b.String()
}
