package capi

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

const ownershipPage = "../../docs/reference/ownership.md"

// The page's tables are the rules and the managers themselves:
// go test ./internal/capi -run TestOwnershipPage -update
func TestOwnershipPage(t *testing.T) {
	raw, err := os.ReadFile(ownershipPage)
	if err != nil {
		t.Fatal(err)
	}
	page, want := string(raw), string(raw)
	for name, table := range map[string]string{"rules": rulesTable(t), "managers": managersTable()} {
		begin, end := "<!-- "+name+": written by a test -->\n", "<!-- end of "+name+" -->"
		before, rest, ok := strings.Cut(want, begin)
		_, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no place for the %s", ownershipPage, name)
		}
		want = before + begin + table + end + after
	}
	if *update {
		if err := os.WriteFile(ownershipPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := gocmp.Diff(want, page); d != "" {
		t.Errorf("%s, -rules +page:\n%s", ownershipPage, d)
	}
}

// rulesTable has a part for each effect, and in it one row for each rule.
func rulesTable(t *testing.T) string {
	var b strings.Builder
	for _, part := range []struct {
		effect effect
		title  string
	}{
		{yields, "Left to others, declared or not"},
		{leaves, "Left to others where Git doesn't declare them"},
		{unstable, "No difference"},
	} {
		fmt.Fprintf(&b, "\n### %s\n\n| kinds | fields | why | source |\n|---|---|---|---|\n", part.title)
		for _, r := range ownershipRules {
			if r.effect != part.effect {
				continue
			}
			fields := "`" + strings.Join(r.fields, "`<br>`") + "`"
			if r.when != nil {
				fields += "<br>if " + r.when.name
			}
			if r.empty {
				fields += "<br>or declares it with nothing in it"
			}
			var values []string
			for _, v := range r.values {
				text, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				values = append(values, "`"+string(text)+"`")
			}
			if values != nil {
				fields += "<br>only " + strings.Join(values, " or ")
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.kinds.name, fields, r.why, r.source)
		}
	}
	b.WriteString("\n")
	return b.String()
}

func managersTable() string {
	names := map[ManagerClass][]string{}
	for _, name := range slices.Sorted(maps.Keys(managers)) {
		names[managers[name]] = append(names[managers[name]], "`"+name+"`")
	}
	for _, m := range managerPrefixes {
		names[m.class] = append(names[m.class], "`"+m.prefix+"…`")
	}
	var b strings.Builder
	b.WriteString("\n| class | field managers |\n|---|---|\n")
	for _, class := range []ManagerClass{ManagerPerson, ManagerFormerOwner, ManagerController} {
		fmt.Fprintf(&b, "| %s | %s |\n", class, strings.Join(names[class], ", "))
	}
	fmt.Fprintf(&b, "| %s | all others |\n", ManagerUnknown)
	var all []string
	for _, name := range slices.Sorted(maps.Keys(speakers)) {
		all = append(all, "`"+name+"`")
	}
	fmt.Fprintf(&b, "\nSpeak for whole objects: %s.\n\n", strings.Join(all, ", "))
	return b.String()
}
