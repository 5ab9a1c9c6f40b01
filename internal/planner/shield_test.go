package planner

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// A stranger's guess may be written around placeholders of empty and short values.
func TestGuesses(t *testing.T) {
	s := newShield(Input{Placeholders: map[string]string{
		"@none@": "", "@r@": "r", "@half@": "hunt", "@whole@": "hunter2", "@more@": "a hunter2 more", "@twice@": "abab", "@long@": strings.Repeat("x", 5000),
	}})
	for text, want := range map[string]bool{
		"": false, "hunter": true, "hun": false, "@whole@": false, "a @whole@ b": false, "@more@": false, "@whole@@whole@": false,
		"@none@@whole@@none@": false, "@none@@r@@none@": false, "@long@@long@": true, // it overlaps: rather too many
		"hunter2": true, "a hunter2 b": true, "@whole@ hunter2": true, "@half@": false, "hunt": true,
		"hunt@none@er2": true, "hunte@r@2": true, "@half@er2": true, "@none@hunter2": true, "@half@@none@e@r@2": true, "h@none@unt": true,
		"@twice@ab": true, "ab@none@ab": true, "@twice@": false,
	} {
		if got := s.guesses(text); got != want {
			t.Errorf("%q: %t, want %t", text, got, want)
		}
	}
}

// A stranger can write few bytes that stand for many.
func TestRestoredSize(t *testing.T) {
	s := newShield(Input{Placeholders: map[string]string{"@long@": strings.Repeat("x", 5000)}})
	texts := make([]string, 900)
	for i := range texts {
		texts[i] = "@long@"
	}
	if s.tooLong(texts[:800]...) || !s.tooLong(texts...) || !s.tooLong(strings.Join(texts, "")) || s.tooLong() {
		t.Error("wrong")
	}
	live := &unstructured.Unstructured{Object: map[string]any{"a": "b", "c": strings.Repeat("x", 5000)}}
	after := &unstructured.Unstructured{Object: map[string]any{"a": strings.Join(texts, ""), "c": "@long@"}}
	if diff := cmp.Diff(map[string]any{"a": "b", "c": "@long@"}, s.live(live, after).Object); diff != "" {
		t.Error(diff)
	}
}
