package planner

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
)

const (
	// minValue is the length below which a value is not looked for inside of texts: it
	// would be found everywhere.
	minValue = 4
	// minQuoted is the same for what a live object holds, secret or not.
	minQuoted = 8
	// maxRestored is the most that an object may have, in bytes, once placeholders are
	// replaced. An API server takes less.
	maxRestored = 4 << 20
)

// shield keeps the values of Secrets, and what else is live, from a stranger. A
// stranger's manifests hold placeholders instead of the values, so a value in them
// is the stranger's guess: it is left as it is, and only what comes from the cluster
// is cleaned. To mask the guess would be to confirm it.
type shield struct {
	// values maps placeholders to the values that they stand for.
	values map[string]string
	// restorer puts values in place of placeholders; cleaner does the opposite, in
	// texts that come from the cluster, and leaves short values.
	restorer, cleaner *strings.Replacer
	// placeholder matches a placeholder.
	placeholder *regexp.Regexp
	// same maps placeholders to the first that stands for the same value.
	same *strings.Replacer
	// secrets are the values in the form of a Secret.
	secrets *unstructured.Unstructured
}

func newShield(in Input) *shield {
	s := &shield{values: in.Placeholders, secrets: in.Secrets}
	// Long values first: one may be part of another.
	names := slices.SortedFunc(maps.Keys(in.Placeholders), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(in.Placeholders[b]), len(in.Placeholders[a])), cmp.Compare(a, b))
	})
	var patterns []string
	first := map[string]string{}
	var restore, clean, same []string
	for _, name := range names {
		value := in.Placeholders[name]
		restore = append(restore, name, value)
		patterns = append(patterns, regexp.QuoteMeta(name))
		if first[value] == "" {
			first[value] = name
			if len(value) >= minValue {
				clean = append(clean, value, name)
			}
		}
		same = append(same, name, first[value])
	}
	s.restorer, s.cleaner, s.same = strings.NewReplacer(restore...), strings.NewReplacer(clean...), strings.NewReplacer(same...)
	s.placeholder = regexp.MustCompile(strings.Join(patterns, "|"))
	return s
}

// placeholders are what is masked in a plan.
func (s *shield) placeholders() *unstructured.Unstructured {
	names := map[string]any{}
	for name := range s.values {
		names[name] = name
	}
	return secretOf(names)
}

func secretOf(values map[string]any) *unstructured.Unstructured {
	if len(values) == 0 {
		return nil
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "stringData": values}}
}

// restore returns an object as it is applied after a merge.
func (s *shield) restore(u *unstructured.Unstructured) *unstructured.Unstructured {
	if len(s.values) == 0 {
		return u
	}
	content, _ := mapTexts(u.Object, s.restorer.Replace).(map[string]any)
	return &unstructured.Unstructured{Object: content}
}

// digests are what the object may be recorded with. An expression that is a whole
// value takes the type of what it stands for, unless it was in quotes: that can't be
// seen any more.
func (s *shield) digests(digester object.Digester, u *unstructured.Unstructured) ([]string, error) {
	variants := []*unstructured.Unstructured{s.restore(u)}
	if s.holdsTyped(u) {
		content, _ := object.MapTexts(u.Object, func(text string) any {
			if typed, ok := typed(s.values[text]); ok {
				return typed
			}
			return s.restorer.Replace(text)
		}).(map[string]any)
		variants = append(variants, &unstructured.Unstructured{Object: content})
	}
	var digests []string
	for _, v := range variants {
		digest, err := digester.Object(anonymous(v))
		if err != nil {
			return nil, err
		}
		digests = append(digests, digest)
	}
	return digests, nil
}

// holdsTyped reports whether a manifest has a placeholder where a number or a boolean
// may belong.
func (s *shield) holdsTyped(u *unstructured.Unstructured) bool {
	return slices.ContainsFunc(leaves(u.Object, false), func(leaf string) bool {
		_, ok := typed(s.values[leaf])
		return ok
	})
}

// typed reads an integer or a boolean, as the renderer does.
func typed(value string) (any, bool) {
	if i, err := strconv.ParseInt(value, 10, 64); err == nil {
		return i, true
	}
	return value == "true", value == "true" || value == "false"
}

// desired names objects as they are recorded.
func (s *shield) desired(desired []inventory.Desired) []inventory.Desired {
	restored := slices.Clone(desired)
	for i := range restored {
		ref := &restored[i].Ref
		if !s.tooLong(ref.Namespace, ref.Name) { // else there is no such object
			ref.Namespace, ref.Name = s.restorer.Replace(ref.Namespace), s.restorer.Replace(ref.Name)
		}
	}
	return restored
}

// holdsValue reports whether a stranger's manifest spells out a secret value.
func (s *shield) holdsValue(v any) bool { return slices.ContainsFunc(leaves(v, true), s.guesses) }

// guesses reports whether a stranger's text spells out a secret value, or would once
// its placeholders are replaced: a value can be written around one that is empty or
// short. A value that comes from one placeholder as a whole is no guess.
func (s *shield) guesses(text string) bool {
	whole := text
	var own [][2]int // where values of placeholders are, sorted
	if s.holdsPlaceholder(text) {
		var restored strings.Builder
		done := 0
		for _, at := range s.placeholder.FindAllStringIndex(text, -1) {
			restored.WriteString(text[done:at[0]])
			value := s.values[text[at[0]:at[1]]]
			own = append(own, [2]int{restored.Len(), restored.Len() + len(value)})
			restored.WriteString(value)
			done = at[1]
		}
		restored.WriteString(text[done:])
		whole = restored.String()
	}
	isOwn := func(from, to int) bool {
		i, _ := slices.BinarySearchFunc(own, from+1, func(o [2]int, from int) int { return cmp.Compare(o[0], from) })
		return i > 0 && to <= own[i-1][1]
	}
	for _, value := range s.values {
		for from := 0; len(value) >= minValue; from++ {
			i := strings.Index(whole[from:], value)
			if i < 0 {
				break
			}
			if from += i; !isOwn(from, from+len(value)) {
				return true
			}
		}
	}
	return false
}

// tooLong reports whether texts get longer than any object can be when their
// placeholders are replaced: a few bytes of a stranger's stand for a whole certificate.
func (s *shield) tooLong(texts ...string) bool {
	left := room(maxRestored)
	for _, text := range texts {
		if _, err := s.restorer.WriteString(&left, text); err != nil {
			return true
		}
	}
	return false
}

// room counts what is written, and fails when it is full.
type room int

func (r *room) Write(text []byte) (int, error) {
	if *r -= room(len(text)); *r < 0 {
		return 0, io.ErrShortWrite
	}
	return len(text), nil
}

// clean takes secret values out of a text that comes from the cluster.
func (s *shield) clean(text string) string {
	if s.holdsPlaceholder(text) {
		return text
	}
	return object.Scrub(s.cleaner.Replace(text), s.secrets)
}

func (s *shield) holdsPlaceholder(text string) bool {
	for name := range s.values {
		if strings.Contains(text, name) {
			return true
		}
	}
	return false
}

// texts masks placeholders.
func (s *shield) texts(texts []string) []string {
	masked := make([]string, 0, len(texts))
	for _, text := range texts {
		masked = append(masked, object.Scrub(text, s.placeholders()))
	}
	return masked
}

// answer returns what a dry-run has answered as it may be shown: what the manifest
// doesn't say comes from the cluster.
func (s *shield) answer(answer, manifest *unstructured.Unstructured) *unstructured.Unstructured {
	content, _ := s.cleanOther(answer.Object, manifest.Object).(map[string]any)
	return &unstructured.Unstructured{Object: content}
}

// cleanOther cleans a value, but for the parts that another says too.
func (s *shield) cleanOther(v, said any) any {
	if reflect.DeepEqual(v, said) {
		return mapTexts(v, s.same.Replace)
	}
	switch v := v.(type) {
	case string:
		return s.clean(s.same.Replace(v))
	case map[string]any:
		m, _ := said.(map[string]any)
		cleaned := make(map[string]any, len(v))
		for key, child := range v {
			if _, theirs := m[key]; !theirs {
				key = s.clean(key)
			}
			cleaned[key] = s.cleanOther(child, m[key])
		}
		return cleaned
	case []any:
		list, _ := said.([]any)
		counterpart := counterparts(list)
		cleaned := make([]any, 0, len(v))
		for i, child := range v {
			cleaned = append(cleaned, s.cleanOther(child, counterpart(i, child)))
		}
		return cleaned
	}
	if fmt.Sprint(v) == fmt.Sprint(said) { // whatever type of number it came as
		return v
	}
	return s.number(v)
}

// live returns a live object as it may be shown beside what it becomes, after.
func (s *shield) live(live, after *unstructured.Unstructured) *unstructured.Unstructured {
	if live == nil {
		return nil
	}
	content, _ := s.cleanLive(live.Object, after.Object).(map[string]any)
	return &unstructured.Unstructured{Object: content}
}

// cleanLive cleans a value. Where it is what a placeholder in its counterpart stands
// for it becomes that, so that the two don't differ.
func (s *shield) cleanLive(v, after any) any {
	if text, ok := after.(string); ok && s.holdsPlaceholder(text) && !s.tooLong(text) && !s.guesses(text) && s.restorer.Replace(text) == fmt.Sprint(v) {
		return text
	}
	switch v := v.(type) {
	case string:
		return s.clean(v)
	case map[string]any:
		m, _ := after.(map[string]any)
		cleaned := make(map[string]any, len(v))
		for key, child := range v {
			cleaned[s.clean(key)] = s.cleanLive(child, m[key])
		}
		return cleaned
	case []any:
		list, _ := after.([]any)
		counterpart := counterparts(list)
		cleaned := make([]any, 0, len(v))
		for i, child := range v {
			cleaned = append(cleaned, s.cleanLive(child, counterpart(i, child)))
		}
		return cleaned
	}
	return s.number(v)
}

// number hides a number or a boolean that is a secret value.
func (s *shield) number(v any) any {
	if text := fmt.Sprint(v); v != nil && s.clean(text) != text {
		return s.clean(text)
	}
	return v
}

// counterparts finds elements of a list that stand for those of another: by name, or
// at the same place.
func counterparts(list []any) func(i int, element any) any {
	named := map[string]any{}
	for _, element := range slices.Backward(list) { // of several the first counts
		m, _ := element.(map[string]any)
		if name, _ := m["name"].(string); name != "" {
			named[name] = element
		}
	}
	return func(i int, element any) any {
		m, _ := element.(map[string]any)
		if name, _ := m["name"].(string); name != "" {
			return named[name]
		}
		if i < len(list) {
			return list[i]
		}
		return nil
	}
}

// quoting takes out of a text what it can have only from the live object: secret
// values and all others that the manifest doesn't say.
func (s *shield) quoting(text string, manifest, live *unstructured.Unstructured) string {
	said := map[string]bool{}
	if manifest != nil {
		for _, leaf := range leaves(manifest.Object, true) {
			said[leaf] = true
		}
	}
	whole := strings.Join(slices.Collect(maps.Keys(said)), "\n")
	quoted := map[string]any{}
	for _, value := range s.values {
		if len(value) >= minValue && !strings.Contains(whole, value) {
			quoted[fmt.Sprint(len(quoted))] = value
		}
	}
	if live != nil {
		content := maps.Clone(live.Object)
		if metadata, ok := content["metadata"].(map[string]any); ok {
			metadata = maps.Clone(metadata)
			delete(metadata, "managedFields") // field paths, which errors name
			content["metadata"] = metadata
		}
		for _, leaf := range leaves(content, false) {
			if len(leaf) >= minQuoted && !said[leaf] {
				quoted[fmt.Sprint(len(quoted))] = leaf
			}
		}
	}
	return object.Scrub(text, secretOf(quoted))
}

// problem is an error of the API server about a manifest as it may be shown.
func (s *shield) problem(err error, manifest *unstructured.Unstructured) *apply.Error {
	problem := &apply.Error{}
	if !errors.As(err, &problem) {
		problem = &apply.Error{ID: object.IDOf(manifest), Reason: v1alpha1.TransientReason, Message: err.Error(), Transient: true}
	}
	return &apply.Error{
		ID: problem.ID, Reason: problem.Reason, Message: s.quoting(problem.Message, manifest, nil), Transient: problem.Transient,
	}
}

// err is an error about what is recorded.
func (s *shield) err(err error) error {
	problem := &apply.Error{}
	if !errors.As(err, &problem) {
		return err
	}
	id := problem.ID
	id.Namespace, id.Name = s.clean(id.Namespace), s.clean(id.Name)
	return &apply.Error{ID: id, Reason: problem.Reason, Message: s.clean(problem.Message), Transient: problem.Transient}
}

// leaving shows of objects that leave Git what is decided, not what they hold.
func (s *shield) leaving(changes []plan.Change) []plan.Change {
	for i := range changes {
		c := &changes[i]
		c.ID.Namespace, c.ID.Name = s.clean(c.ID.Namespace), s.clean(c.ID.Name)
		c.Before, c.Note = nil, s.clean(c.Note)
	}
	return changes
}

// names masks placeholders in the names of objects.
func (s *shield) names(changes []plan.Change) {
	for i := range changes {
		id := &changes[i].ID
		id.Namespace, id.Name = object.Scrub(id.Namespace, s.placeholders()), object.Scrub(id.Name, s.placeholders())
	}
}

// mapTexts returns a copy of a value with all texts replaced that are no keys.
func mapTexts(v any, replace func(string) string) any {
	return object.MapTexts(v, func(text string) any { return replace(text) })
}

// leaves lists the values below one that hold no others, and the keys if wanted, as
// texts.
func leaves(v any, keys bool) []string {
	switch v := v.(type) {
	case map[string]any:
		var all []string
		for key, child := range v {
			if keys {
				all = append(all, key)
			}
			all = append(all, leaves(child, keys)...)
		}
		return all
	case []any:
		var all []string
		for _, child := range v {
			all = append(all, leaves(child, keys)...)
		}
		return all
	case nil:
		return nil
	}
	return []string{fmt.Sprint(v)}
}
