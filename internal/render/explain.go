package render

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// secretParts are places where errors of kustomize quote manifests, patches or
// generator literals, and which may therefore hold secret values.
var secretParts = []*regexp.Regexp{
	regexp.MustCompile("(?s)with config: `.*?`"),                        // target.configureBuiltinPlugin
	regexp.MustCompile(`(?s)invalid literal source .*?, expected`),      // kv.parseLiteralSource
	regexp.MustCompile(`(?s)literal sources \[.*?\]`),                   // kv.loader.Load
	regexp.MustCompile(`(?s)\*{4} Too many possible referral.*`),        // nameref.Filter.failureDetails
	regexp.MustCompile(`(?s)\[patch: ".*"\]`),                           // PatchTransformerPlugin.Config
	regexp.MustCompile(`(?s)JsonOp=.*|for patch .*|decoding .*?: json`), // PatchJson6902TransformerPlugin
	regexp.MustCompile(`(?s)Patch=.*|in object .*|found multiple objects .*|nodes unequal.*|has invalid utf8 bytes.*`),
	regexp.MustCompile(`(?s)expected 1 resource, found \d+ in .*`), // resource.Factory.FromBytes
	regexp.MustCompile("(?s)unmarshal(l?ing)? .*|`.*`"),
	regexp.MustCompile(`(?s)\n.*`),
}

var (
	registeredID = regexp.MustCompile(`may not add resource with an already registered id: (\S+)`)
	cycle        = regexp.MustCompile(`cycle detected: candidate root '([^']*)' contains visited root '([^']*)'`)
)

// explain words an error of kustomize for the author of the overlay, without the
// values that it may quote.
func (f *fileSystem) explain(path string, err error) error {
	text := err.Error()
	if m := cycle.FindStringSubmatch(text); m != nil {
		return &FileError{Path: path, Reason: fmt.Sprintf("the bases include each other: %s is reached again from %s; remove one of the two", strings.TrimPrefix(m[1], "/"), strings.TrimPrefix(m[2], "/"))}
	}
	if m := registeredID.FindStringSubmatch(text); m != nil {
		return f.explainTwice(path, m[1])
	}
	// Errors of components are quoted by KustTarget.accumulateComponents.
	for strings.Contains(text, `\"`) || strings.Contains(text, `\n`) {
		text = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(text)
	}
	for _, part := range secretParts {
		text = part.ReplaceAllString(text, "[...]")
	}
	if len(text) > 1000 {
		text = text[:1000] + "[...]"
	}
	return fmt.Errorf("overlay %s: %w", path, errors.New(text))
}

// explainTwice names the files of an object that is there twice. Kustomize prints
// resid.ResId as <kind>.<version>.<group>/<name>.<namespace>.
func (f *fileSystem) explainTwice(path, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var places []string
	kind, _, _ := strings.Cut(id, ".")
	for _, o := range f.objects {
		if o.kind == kind && o.name != "" && strings.Contains(id, o.name) {
			places = append(places, fmt.Sprintf("%s:%d", o.path, o.line))
		}
	}
	where := ""
	if len(places) > 0 {
		where = ", see " + strings.Join(places, " and ")
	}
	return fmt.Errorf("overlay %s: %s is there twice%s; keep one, or include its file once", path, id, where)
}
