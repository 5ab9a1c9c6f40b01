package main

import (
	"fmt"
	"strings"

	"capstan.dev/capstan/internal/capi"
)

// branches are what a tree is drawn with: before a child and below it, and the same for
// the last one.
type branches struct{ child, below, last, belowLast string }

var (
	plainBranches = branches{"|- ", "|  ", "`- ", "   "}
	drawnBranches = branches{"├─ ", "│  ", "└─ ", "   "}
)

// treeTable lays a tree out.
func treeTable(nodes []capi.Node, s style) *table {
	t := &table{header: []string{"OBJECT", "READY", "VERSION", "WAITS FOR"}}
	b := drawnBranches
	if s.plain {
		b = plainBranches
	}
	for _, n := range nodes {
		t.node(n, "", "", b)
	}
	return t
}

func (t *table) node(n capi.Node, first, rest string, b branches) {
	ready, paint := "", noColor
	switch {
	case n.Kind == "": // a heading
	case n.Ready == nil:
		ready, paint = "?", yellow
	case *n.Ready:
		ready = "yes"
	default:
		ready = "no"
	}
	var notes []string
	for _, note := range []struct {
		is   bool
		text string
	}{{n.Blocked, "stuck"}, {n.Leaving, "leaving"}, {n.Outdated, "outdated"}} {
		if note.is && !strings.HasPrefix(n.Message, note.text) { // which says why
			notes = append(notes, note.text)
		}
	}
	if n.Blocked {
		paint = red
	} else if n.Leaving || n.Outdated {
		paint = yellow
	}
	message := strings.Join(notes, ", ")
	if n.Message != "" {
		message = strings.TrimPrefix(message+": "+n.Message, ": ")
	}
	t.rows = append(t.rows, []cell{{text: first + nodeName(n)}, {ready, paint}, {text: n.Version}, {message, paint}})
	for i, child := range n.Children {
		if i == len(n.Children)-1 {
			t.node(child, rest+b.last, rest+b.belowLast, b)
		} else {
			t.node(child, rest+b.child, rest+b.below, b)
		}
	}
}

// nodeName is what a node is called: "Cluster dev", "3 Machines dev-a, dev-b, …".
func nodeName(n capi.Node) string {
	const listed = 3
	if n.Kind == "" {
		return string(n.Part)
	}
	text := n.Kind + " " + strings.Join(n.Names, ", ")
	if count := len(n.Names); count > 1 {
		names := n.Names
		more := ""
		if count > listed {
			names, more = names[:listed-1], ", …"
		}
		text = fmt.Sprintf("%d %ss %s%s", count, n.Kind, strings.Join(names, ", "), more)
	}
	if n.Part != "" {
		text = string(n.Part) + ": " + text
	}
	return text
}
