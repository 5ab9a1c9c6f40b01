package workload

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

// column is one column of a Table.
type column struct {
	name string
	wide bool // kubectl shows it with -o wide only
	cell func(object *unstructured.Unstructured) any
}

// columns of a kind, as kubectl shows them for the real API server.
func columns(r *resource) []column {
	name := column{name: "Name", cell: func(o *unstructured.Unstructured) any { return o.GetName() }}
	age := column{name: "Age", cell: func(o *unstructured.Unstructured) any {
		return duration.HumanDuration(time.Since(o.GetCreationTimestamp().Time))
	}}
	switch r.GroupResource {
	case schema.GroupResource{Resource: "nodes"}:
		return []column{
			name,
			{name: "Status", cell: nodeStatus},
			{name: "Roles", cell: nodeRoles},
			age,
			{name: "Version", cell: text("status", "nodeInfo", "kubeletVersion")},
			{name: "Internal-IP", wide: true, cell: nodeAddress("InternalIP")},
			{name: "External-IP", wide: true, cell: nodeAddress("ExternalIP")},
			{name: "OS-Image", wide: true, cell: text("status", "nodeInfo", "osImage")},
			{name: "Kernel-Version", wide: true, cell: text("status", "nodeInfo", "kernelVersion")},
			{name: "Container-Runtime", wide: true, cell: text("status", "nodeInfo", "containerRuntimeVersion")},
		}
	case namespaces:
		return []column{name, {name: "Status", cell: text("status", "phase")}, age}
	case pods:
		return []column{
			name,
			{name: "Ready", cell: podReady},
			{name: "Status", cell: podStatus},
			{name: "Restarts", cell: podRestarts},
			age,
			{name: "IP", wide: true, cell: text("status", "podIP")},
			{name: "Node", wide: true, cell: text("spec", "nodeName")},
		}
	}
	return []column{name, age}
}

func tableOf(q request, objects []*unstructured.Unstructured, resourceVersion string) map[string]any {
	columns := columns(q.resource)
	definitions := []any{}
	for _, c := range columns {
		definition := map[string]any{"name": c.name, "type": "string", "format": "", "description": "", "priority": 0}
		if c.name == "Name" {
			definition["format"] = "name"
		}
		if c.wide {
			definition["priority"] = 1
		}
		definitions = append(definitions, definition)
	}
	rows := []any{}
	for _, object := range objects {
		cells := []any{}
		for _, c := range columns {
			cells = append(cells, c.cell(object))
		}
		row := map[string]any{"cells": cells}
		switch q.URL.Query().Get("includeObject") {
		case "None":
		case "Object":
			row["object"] = as(object, q.gvk()).Object
		default:
			row["object"] = partial(object)
		}
		rows = append(rows, row)
	}
	return map[string]any{
		"apiVersion": metav1.SchemeGroupVersion.String(), "kind": "Table",
		"metadata":          map[string]any{"resourceVersion": resourceVersion},
		"columnDefinitions": definitions, "rows": rows,
	}
}

// text is a field of the object, or <none>.
func text(path ...string) func(*unstructured.Unstructured) any {
	return func(object *unstructured.Unstructured) any {
		return orNone(stringAt(object.Object, path...))
	}
}

func orNone(value string) string {
	if value == "" {
		return "<none>"
	}
	return value
}

func stringAt(content map[string]any, path ...string) string {
	value, _, _ := unstructured.NestedString(content, path...)
	return value
}

// mapsAt are the maps in a list of an object.
func mapsAt(object *unstructured.Unstructured, path ...string) []map[string]any {
	list, _, _ := unstructured.NestedFieldNoCopy(object.Object, path...)
	items, _ := list.([]any)
	var found []map[string]any
	for _, item := range items {
		if item, ok := item.(map[string]any); ok {
			found = append(found, item)
		}
	}
	return found
}

func nodeStatus(node *unstructured.Unstructured) any {
	status := "Unknown"
	for _, condition := range mapsAt(node, "status", "conditions") {
		if condition["type"] == "Ready" {
			status = "NotReady"
			if condition["status"] == "True" {
				status = "Ready"
			}
		}
	}
	if off, _, _ := unstructured.NestedBool(node.Object, "spec", "unschedulable"); off {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(node *unstructured.Unstructured) any {
	var roles []string
	for label := range node.GetLabels() {
		if role, ok := strings.CutPrefix(label, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	return orNone(strings.Join(roles, ","))
}

func nodeAddress(kind string) func(*unstructured.Unstructured) any {
	return func(node *unstructured.Unstructured) any {
		for _, address := range mapsAt(node, "status", "addresses") {
			if address["type"] == kind {
				return address["address"]
			}
		}
		return "<none>"
	}
}

func podReady(pod *unstructured.Unstructured) any {
	ready := 0
	for _, container := range mapsAt(pod, "status", "containerStatuses") {
		if container["ready"] == true {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, len(mapsAt(pod, "spec", "containers")))
}

func podStatus(pod *unstructured.Unstructured) any {
	if pod.GetDeletionTimestamp() != nil {
		return "Terminating"
	}
	return stringAt(pod.Object, "status", "phase")
}

func podRestarts(pod *unstructured.Unstructured) any {
	restarts := int64(0)
	for _, container := range mapsAt(pod, "status", "containerStatuses") {
		if count, ok := container["restartCount"].(int64); ok {
			restarts += count
		}
	}
	return fmt.Sprint(restarts)
}
