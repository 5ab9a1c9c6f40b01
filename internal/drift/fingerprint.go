package drift

import (
	"crypto/sha256"
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/capi"
)

// fingerprint stands for the values at the fields of a set, where the object has them
// now. Elements of lists count by their keys, not by their place: others may put theirs
// between. Left out are fields that belong to others in spite of the set, and those
// whose value depends on the API version that was written last. Zero if nothing is left.
func fingerprint(u *unstructured.Unstructured, declared set, entries []entry, ownership capi.Ownership) [sha256.Size]byte {
	p := printer{entries: entries, ownership: ownership, text: make([]byte, 0, 4096), pointer: make([]byte, 0, 256)}
	p.set(declared, u.Object, true)
	if len(p.text) == 0 {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(p.text)
}

// printer writes the canonical text that a fingerprint is the hash of.
type printer struct {
	entries   []entry
	ownership capi.Ownership
	text      []byte
	// path and pointer are where it is.
	path    []string
	pointer []byte
	// keys holds the sorted keys of all nodes from the root to where it is.
	keys []string
}

func (p *printer) set(s set, value any, found bool) {
	if len(s) == 0 {
		if len(p.path) > 0 {
			p.field(value, found)
		}
		return
	}
	start := len(p.keys)
	p.keys = sortedKeys(p.keys, s)
	for i := start; i < len(p.keys); i++ {
		key := p.keys[i]
		part, ok := s[key].(map[string]any)
		switch {
		case !ok:
		case key == itself:
			p.text = append(p.text, '.')
			p.text = strconv.AppendBool(p.text, found)
		default:
			p.part(part, key, value)
		}
	}
	p.keys = p.keys[:start]
}

// part writes what is below a key; nothing if nothing of it counts.
func (p *printer) part(s set, key string, value any) {
	child, name, found := step(value, key)
	text, pointer := len(p.text), len(p.pointer)
	p.pointer = append(append(p.pointer, '/'), escape(name)...)
	p.path = append(p.path, key)
	p.string(key)
	p.text = append(p.text, '(')
	begin := len(p.text)
	p.set(s, child, found)
	if len(p.text) == begin {
		p.text = p.text[:text]
	} else {
		p.text = append(p.text, ')')
	}
	p.pointer, p.path = p.pointer[:pointer], p.path[:len(p.path)-1]
}

// field writes a field that is owned with all that is in it.
func (p *printer) field(value any, found bool) {
	if p.leftOut() {
		return
	}
	if !found {
		p.text = append(p.text, '-')
		return
	}
	var others []set
	if m, ok := value.(map[string]any); ok && len(m) > 0 {
		others = p.others()
	}
	p.value(p.ownership.Stable(string(p.pointer), value), others)
}

// leftOut tells whether the field that the printer is at doesn't count.
func (p *printer) leftOut() bool {
	pointer := string(p.pointer)
	if p.ownership.Unstable(pointer) {
		return true
	}
	_, yielded := p.ownership.Yielded(pointer)
	return yielded
}

// others returns what others own of the field that the printer is at: an object that was
// applied empty is theirs to fill.
func (p *printer) others() []set {
	var others []set
	for _, e := range p.entries {
		if part, owns := lookup(e.fields, p.path); owns && len(part) > 0 && !e.ours() {
			others = append(others, part)
		}
	}
	return others
}

// value writes a value without what others own of it.
func (p *printer) value(value any, others []set) {
	switch v := value.(type) {
	case nil:
		p.text = append(p.text, '0')
	case string:
		p.string(v)
	case bool:
		p.text = strconv.AppendBool(p.text, v)
	case int64:
		p.text = strconv.AppendInt(append(p.text, '#'), v, 10)
	case float64:
		p.text = append(p.text, '#')
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			p.text = strconv.AppendInt(p.text, int64(v), 10)
		} else {
			p.text = strconv.AppendFloat(p.text, v, 'g', -1, 64)
		}
	case []any:
		p.text = append(p.text, '[')
		for _, element := range v {
			p.value(element, nil)
			p.text = append(p.text, ',')
		}
		p.text = append(p.text, ']')
	case map[string]any:
		p.text = append(p.text, '{')
		p.members(v, others)
		p.text = append(p.text, '}')
	default: // nothing that comes from an API server
		content, err := json.Marshal(v)
		if err == nil {
			p.string(string(content))
		}
	}
}

func (p *printer) members(m map[string]any, others []set) {
	start := len(p.keys)
	p.keys = sortedKeys(p.keys, m)
	for i := start; i < len(p.keys); i++ {
		key := p.keys[i]
		var theirs []set
		whole := false
		for _, other := range others {
			if part, owns := other["f:"+key].(map[string]any); owns {
				theirs = append(theirs, part)
				whole = whole || len(part) == 0
			}
		}
		if whole {
			continue
		}
		pointer := len(p.pointer)
		p.pointer = append(append(p.pointer, '/'), escape(key)...)
		if !p.leftOut() {
			p.string(key)
			p.value(m[key], theirs)
		}
		p.pointer = p.pointer[:pointer]
	}
	p.keys = p.keys[:start]
}

// string writes a string so that it can't run into what follows.
func (p *printer) string(s string) {
	p.text = strconv.AppendInt(p.text, int64(len(s)), 10)
	p.text = append(p.text, ':')
	p.text = append(p.text, s...)
}

// sortedKeys appends the keys of a map to a list, sorted among themselves.
func sortedKeys(keys []string, m map[string]any) []string {
	start := len(keys)
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys[start:])
	return keys
}
