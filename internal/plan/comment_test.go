package plan_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
)

const marker = "<!-- capstan: fleet home -->"

// hostile has everything that a forge might take for something else.
const hostile = "@admin #1 GH-1 user/repo#2 [a](http://evil) ![i](http://evil/i.png) <img src=x onerror=a()> </details> " +
	"```\n``` | a | b |\n~~~\n<!-- capstan: fleet other --> \u202etxet\u202c \u200b\u3164\x1b[31m\xff **b** $`x`$ &amp; \u2028 :tada: https://evil"

func configMap(name string, data map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "namespace": "dev"}, "data": data,
	}}
}

func created(objects ...*unstructured.Unstructured) plan.Plan {
	var p plan.Plan
	for _, u := range objects {
		p.Changes = append(p.Changes, plan.Change{ID: object.IDOf(u), Action: plan.Create, After: u})
	}
	return p
}

// TestMarkdown shows the cases of TestGolden as Markdown.
func TestMarkdown(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range cases {
		name := strings.TrimSuffix(path, ".in.yaml")
		t.Run(filepath.Base(name), func(t *testing.T) {
			var b bytes.Buffer
			if err := load(t, path).Markdown(&b); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".md", b.Bytes())
			if strings.Contains(b.String(), "hunter2") || strings.Contains(b.String(), "aHVudGVyMg") {
				t.Error("secret shown")
			}
		})
	}
}

// TestComment compares whole comments.
func TestComment(t *testing.T) {
	mixed := load(t, "testdata/mixed.in.yaml")
	cases := map[string]plan.CommentInput{
		"comment": {Overlays: []plan.OverlayPlan{
			{Path: "clusters/same", Plan: plan.Plan{Changes: []plan.Change{{Action: plan.Unchanged}}}},
			{Path: "clusters/dev", Plan: mixed},
			{Path: "clusters/new", Plan: created(configMap("a", nil))},
			{Path: "clusters/broken", Err: "clusters/broken/kustomization.yaml:3: no such file\nsee above"},
		}, Notes: []string{"the overlay clusters/new is new"}},
		"comment-machines": {Overlays: []plan.OverlayPlan{
			{Path: "clusters/new", Plan: created(configMap("a", nil)), Consequences: []string{"3 machines are replaced", "1 is added"}},
			{Path: "clusters/other"},
		}},
		"comment-none":    {},
		"comment-hostile": {Overlays: []plan.OverlayPlan{hostileOverlay(hostile)}, Notes: []string{hostile}},
		"comment-short": {Limit: 2600, Overlays: []plan.OverlayPlan{
			{Path: "clusters/dev", Plan: mixed}, {Path: "clusters/dev2", Plan: mixed}, {Path: "clusters/dev3", Plan: mixed},
			{Path: "clusters/new", Plan: created(configMap("a", nil))},
		}},
		"comment-shorter": {Limit: 1000, Overlays: many(40)},
	}
	for name, in := range cases {
		t.Run(name, func(t *testing.T) {
			in.Marker, in.Fleet, in.Target, in.Head = marker, "home", "main@0a1b2c3", "4d5e6f7"
			text := plan.Comment(in)
			check(t, text, in)
			golden(t, "testdata/"+name+".md", []byte(text))
		})
	}
}

func many(n int) []plan.OverlayPlan {
	var overlays []plan.OverlayPlan
	for i := range n {
		overlays = append(overlays, plan.OverlayPlan{
			Path: fmt.Sprintf("clusters/c%03d", i), Plan: created(configMap("a", map[string]any{"text": strings.Repeat("line of text\n", 50)})),
		})
	}
	return overlays
}

// hostileOverlay has a text wherever there may be one.
func hostileOverlay(text string) plan.OverlayPlan {
	u := configMap(text, map[string]any{text: text, "lines": text + "\n" + text, "block": "a\n" + text + "\n   ```\n```\n"})
	live := configMap(text, map[string]any{text: "x", "lines": "y\nz"})
	p := created(u)
	p.Changes = append(p.Changes,
		plan.Change{ID: object.IDOf(u), Action: plan.Update, Before: live, After: u, Note: text},
		plan.Change{ID: object.IDOf(u), Action: plan.Invalid, After: u, Error: text + "\n```\n" + text})
	return plan.OverlayPlan{Path: text, Plan: p, Consequences: []string{text, text}}
}

// TestCommentLimits: whatever the limit is, nothing breaks, and more room never
// loses the marker.
func TestCommentLimits(t *testing.T) {
	inputs := []plan.CommentInput{
		{Overlays: many(60), Notes: []string{"one", "two"}},
		{Overlays: append(many(5), hostileOverlay(hostile), plan.OverlayPlan{Path: "b", Err: strings.Repeat("error\n", 300)})},
	}
	for i, in := range inputs {
		in.Marker = marker
		whole := len(plan.Comment(in))
		if whole > plan.DefaultLimit {
			t.Errorf("%d: %d bytes", i, whole)
		}
		for in.Limit = 1; in.Limit < 12000; in.Limit += 1 + in.Limit/20 {
			check(t, plan.Comment(in), in)
		}
	}
}

// TestCommentSaysWhatIsMissing: of overlays without room for their diffs.
func TestCommentSaysWhatIsMissing(t *testing.T) {
	in := plan.CommentInput{Marker: marker, Overlays: many(1000)}
	text := plan.Comment(in)
	check(t, text, in)
	shown := strings.Count(text, "<details>")
	for _, want := range []string{
		fmt.Sprintf("The diffs of %d overlays are left out", 1000-shown), fmt.Sprintf("`capstan diff clusters/c%03d`", shown), "1000 overlays: 1000 to create",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	rows := strings.Count(text, "\n| `")
	if want := fmt.Sprintf("| and %d more |", 1000-rows); rows == 0 || shown == 0 || !strings.Contains(text, want) {
		t.Errorf("%d rows, %d diffs, no %q", rows, shown, want)
	}
	if len(text) < plan.DefaultLimit*3/4 {
		t.Errorf("%d bytes only", len(text))
	}
}

// TestCommentSecrets: values of variables don't show, even those that sanitizing
// changes.
func TestCommentSecrets(t *testing.T) {
	const secret = "pass\u200bword\x07-hunter2"
	p := created(configMap("a", map[string]any{"url": "https://user:" + secret + "@host", "text": "a\n" + secret + "\n"}))
	p.Changes = append(p.Changes, plan.Change{ID: object.ID{Kind: "ConfigMap", Name: secret}, Action: plan.Invalid, Error: "bad " + secret, Note: secret})
	p.Secrets = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "stringData": map[string]any{"a": secret}}}
	overlays := []plan.OverlayPlan{
		{Path: "a", Plan: p, Consequences: []string{"machine " + secret}},
		{Path: "b", Plan: plan.Plan{Secrets: p.Secrets}, Err: "no " + secret},
	}
	_, description := plan.Verdict(overlays)
	for _, text := range []string{plan.Comment(plan.CommentInput{Marker: marker, Overlays: overlays}), description} {
		if strings.Contains(text, "hunter2") || !strings.Contains(text, "***") {
			t.Error(text)
		}
	}
}

func TestVerdict(t *testing.T) {
	invalid := plan.Plan{Changes: []plan.Change{{ID: object.ID{Kind: "ConfigMap", Namespace: "n", Name: "c"}, Action: plan.Invalid, Error: "is\nbad"}}}
	changes := created(configMap("a", nil), configMap("b", nil))
	changes.Changes = append(changes.Changes, plan.Change{Action: plan.Update}, plan.Change{Action: plan.PendingDeletion})
	cases := []struct {
		name     string
		overlays []plan.OverlayPlan
		ok       bool
		want     string
	}{
		{"none", nil, true, "no cluster affected"},
		{"one", []plan.OverlayPlan{{Path: "a", Plan: created(configMap("a", nil))}}, true, "1 overlay: 1 to create, 0 to update, 0 to delete"},
		{"two", []plan.OverlayPlan{{Path: "a", Plan: changes}, {Path: "b"}}, true,
			"2 overlays: 2 to create, 1 to update, 0 to delete, 1 to delete after approval"},
		{"error of an object", []plan.OverlayPlan{{Path: "clusters/a", Plan: changes}, {Path: "clusters/b", Plan: invalid}}, false, "clusters/b: ConfigMap n/c: is bad"},
		{"error of a render", []plan.OverlayPlan{{Path: "clusters/b", Plan: invalid}, {Path: "clusters/a", Err: "no\nfile"}}, false, "clusters/a: no file"},
		{"hostile", []plan.OverlayPlan{{Path: "a", Err: "\u202ex\x1b<!-- " + strings.Repeat("ü", 200)}}, false, "a: ·x·<! -- " + strings.Repeat("ü", 61) + "…"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ok, got := plan.Verdict(c.overlays)
			if ok != c.ok || got != c.want || len(got) > 140 {
				t.Errorf("%t, %d bytes: %q, want %q", ok, len(got), got, c.want)
			}
		})
	}
}

// FuzzComment: no text of a stranger is anything but code, and the limit holds.
func FuzzComment(f *testing.F) {
	f.Add(hostile, 0)
	f.Add("`", 900)
	f.Add("``` `` `", 3000)
	f.Add("\\|\\", 2000)
	f.Add(strings.Repeat("`", 3000), 5000)
	f.Add(" ", 100)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		if len(text) > 5000 {
			return
		}
		in := plan.CommentInput{
			Marker: marker, Fleet: text, Target: text, Head: text, Notes: []string{text, "x"}, Limit: limit,
			Overlays: append(many(3), hostileOverlay(text), plan.OverlayPlan{Path: "b", Err: text}, plan.OverlayPlan{Path: text}),
		}
		comment := plan.Comment(in)
		check(t, comment, in)
		if again := plan.Comment(in); again != comment {
			t.Error("another comment for the same input")
		}
	})
}

// skeleton is what a line of a comment may be, apart from blocks of code, with C for
// a span of code.
var skeleton = regexp.MustCompile(`^(|### Capstan: what this would change in fleet C|` +
	`With C merged into C: (no cluster affected|[0-9]+ overlays?: [a-z0-9,; ]+)\.|` +
	`- C|- and [0-9]+ more|` +
	`(\| ([A-Za-z0-9? ]*|-+:?|C|C and [0-9]+ more) ){6,7}\||` +
	`<details><summary>C: [a-z0-9, ]+</summary>|</details>|` +
	`[0-9]+ lines? left out: C|The diffs of [0-9]+ overlays? are left out\.( To see them:)?|` +
	`Nothing was applied\. C in a working copy shows the whole diff of an overlay\. Secret values are masked\.)$`)

var htmlSpan = regexp.MustCompile(`<code>[^<>"']*</code>`)

// check reads a comment as a forge does.
func check(t *testing.T, comment string, in plan.CommentInput) {
	t.Helper()
	limit := in.Limit
	if limit <= 0 {
		limit = plan.DefaultLimit
	}
	switch {
	case len(comment) > limit:
		t.Fatalf("%d bytes, limit %d", len(comment), limit)
	case limit < len(in.Marker) && comment == "":
		return
	case !strings.HasPrefix(comment, in.Marker) || strings.Count(comment, "<!--") != 1:
		t.Fatalf("limit %d, markers:\n%s", limit, comment)
	case !utf8.ValidString(comment):
		t.Fatal("no UTF-8")
	}
	for _, r := range comment {
		if r != '\n' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			t.Fatalf("%U:\n%s", r, comment)
		}
	}
	fence, open := 0, 0
	for _, line := range strings.Split(comment, "\n")[1:] {
		indented := strings.TrimLeft(line, " ")
		ticks := len(indented) - len(strings.TrimLeft(indented, "`"))
		if fence > 0 {
			if ticks >= fence && strings.Trim(indented, "` ") == "" && len(line)-len(indented) < 4 {
				if line != strings.Repeat("`", fence) {
					t.Fatalf("%q ends a block:\n%s", line, comment)
				}
				fence = 0
			}
			continue
		}
		if ticks >= 3 && (indented[ticks:] == "diff" || indented[ticks:] == "") {
			fence = ticks
			continue
		}
		bare := withoutSpans(htmlSpan.ReplaceAllString(line, "C"))
		open += strings.Count(bare, "<details>") - strings.Count(bare, "</details>")
		if !skeleton.MatchString(bare) {
			t.Fatalf("%q (%q) is not ours:\n%s", line, bare, comment)
		}
	}
	if fence != 0 || open != 0 {
		t.Fatalf("something is left open:\n%s", comment)
	}
}

// withoutSpans puts C in place of spans of code, by the rules of CommonMark.
func withoutSpans(line string) string {
	var b strings.Builder
	for line != "" {
		if line[0] != '`' {
			b.WriteByte(line[0])
			line = line[1:]
			continue
		}
		n := len(line) - len(strings.TrimLeft(line, "`"))
		rest := line[n:]
		end := -1
		for i := 0; i < len(rest); {
			if rest[i] != '`' {
				i++
				continue
			}
			run := len(rest[i:]) - len(strings.TrimLeft(rest[i:], "`"))
			if run == n {
				end = i + run
				break
			}
			i += run
		}
		if end < 0 || strings.Contains(rest[:end], "|") {
			return b.String() + line // not closed, or cut by the table
		}
		b.WriteByte('C')
		line = rest[end:]
	}
	return b.String()
}
