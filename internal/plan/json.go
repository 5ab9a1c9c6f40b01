package plan

import (
	"encoding/json"
	"io"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/object"
)

// document is the JSON form of a plan.
type document struct {
	Overlay  string         `json:"overlay,omitempty"`
	Path     string         `json:"path"`
	Revision string         `json:"revision,omitempty"`
	Changed  bool           `json:"changed"`
	Summary  map[Action]int `json:"summary"`
	Changes  []entry        `json:"changes"`
}

// entry is the JSON form of a change. The whole object is given only for a
// creation.
type entry struct {
	Group     string         `json:"group,omitempty"`
	Kind      string         `json:"kind"`
	Namespace string         `json:"namespace,omitempty"`
	Name      string         `json:"name"`
	Action    Action         `json:"action"`
	Error     string         `json:"error,omitempty"`
	Note      string         `json:"note,omitempty"`
	Fields    []FieldChange  `json:"fields,omitempty"`
	Object    map[string]any `json:"object,omitempty"`
}

// JSON writes the plan for programs, unchanged objects included. Secret material
// is masked.
func (p Plan) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(p)
}

// MarshalJSON gives the masked form, so that no encoder shows more.
func (p Plan) MarshalJSON() ([]byte, error) {
	d := document{
		Overlay: p.Overlay, Path: p.Path, Revision: p.Revision,
		Changed: p.HasChanges(), Summary: map[Action]int{}, Changes: []entry{},
	}
	for _, a := range actions {
		if n := p.Count(a.action); n > 0 || a.always {
			d.Summary[a.action] = n
		}
	}
	for _, c := range p.sorted() {
		d.Changes = append(d.Changes, c.entry().without(p.Secrets))
	}
	return json.Marshal(d)
}

// without takes secret values out of an entry: out of values only, since a secret
// may read like a key.
func (e entry) without(secrets *unstructured.Unstructured) entry {
	if secrets == nil {
		return e
	}
	e.Error, e.Note = object.Scrub(e.Error, secrets), object.Scrub(e.Note, secrets)
	fields := make([]FieldChange, 0, len(e.Fields))
	for _, f := range e.Fields {
		f.From, f.To = scrubValue(f.From, secrets), scrubValue(f.To, secrets)
		fields = append(fields, f)
	}
	e.Fields = fields
	if e.Object != nil {
		e.Object, _ = scrubValue(e.Object, secrets).(map[string]any)
	}
	return e
}

func scrubValue(value any, secrets *unstructured.Unstructured) any {
	return object.MapTexts(value, func(text string) any { return object.Scrub(text, secrets) })
}

// MarshalJSON gives the masked form, so that no encoder shows more.
func (c Change) MarshalJSON() ([]byte, error) { return json.Marshal(c.entry()) }

func (c Change) entry() entry {
	e := entry{
		Group: c.ID.Group, Kind: c.ID.Kind, Namespace: c.ID.Namespace, Name: c.ID.Name,
		Action: c.Action, Error: c.message(), Note: c.scrub(c.Note),
	}
	e.Fields = c.Fields()
	if u := c.created(); u != nil {
		e.Object = u.Object
	}
	return e
}
